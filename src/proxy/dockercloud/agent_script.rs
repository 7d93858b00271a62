//! What runs in the container: there is a Python (2.7 in the original) and little else.

/// `ask`, `tell`, `freeze`, `resume`, `release` or `render`, the project, and the commands for HAProxy that follow. `ask` prints HAProxy's answer, the
/// state of the manager (`T` is stopped), and while an HAProxy lives that a reload retired, how long ago that was and
/// every connection from here. Whose they are cannot be read: the processes run as another user.
///
/// `freeze` takes the names of the instances that run. One that has ended may still be in the configuration: its address
/// goes to the next instance, which would get requests before it is ready. So the manager gets up to three seconds to
/// drop it before it is frozen, and is asked to after one.
///
/// A frozen manager is let go, ten minutes after it was last told to freeze, by a process that stays behind: were we
/// killed, nobody else would.
///
/// The mark names the project whose rollout has the manager frozen. `freeze` of another project does nothing meanwhile, and
/// no other project lets it go. `resume` keeps the mark, for a manager that is to be frozen again; `release` removes it.
pub const PROGRAM: &str = r#"import os,select,signal,socket,sys,time
MARK="/tmp/compose-zd-frozen"
def cat(path):
  try:
    with open(path) as f: return f.read()
  except (IOError,OSError): return ""
managers,haproxies=[],[]
for pid in filter(str.isdigit,os.listdir("/proc")):
  words=cat("/proc/%s/cmdline"%pid).split("\0")
  names=[os.path.basename(w) for w in words[:2]]
  fields=cat("/proc/%s/stat"%pid).rpartition(")")[2].split()
  if not fields or fields[0]=="Z": continue
  if "dockercloud-haproxy" in names: managers.append((int(pid),fields[0]))
  if names[0]=="haproxy" and "-c" not in words: haproxies.append((int(fields[19]),pid))
def haproxy(commands):
  s=socket.socket(socket.AF_UNIX)
  s.settimeout(20)
  s.connect("/var/run/haproxy.stats")
  s.sendall((commands+"\n").encode("ascii"))
  said=b""
  for d in iter(lambda:s.recv(65536),b""): said+=d
  return said.decode("ascii","replace")
def signal_managers(number):
  for pid,state in managers: os.kill(pid,number)
def let_go_later(mark):
  if os.fork(): return
  os.setsid()
  null=os.open("/dev/null",os.O_RDWR)
  for fd in (0,1,2): os.dup2(null,fd)
  left=600
  while left>0:
    select.select([],[],[],left)
    left=os.path.getmtime(MARK)+600-time.time() if os.path.exists(MARK) else 0
  if cat(MARK)==mark:
    os.remove(MARK)
    signal_managers(signal.SIGCONT)
  os._exit(0)
def holder():
  try: young=os.path.getmtime(MARK)+600>time.time()
  except OSError: young=False
  return (cat(MARK).split()+[""])[0] if young else ""
def write(path,mark):
  with open(path,"w") as f: f.write(mark)
def take(mark):
  mine=MARK+str(os.getpid())
  if os.path.exists(MARK) and not holder(): os.remove(MARK)
  write(mine,mark)
  try: os.link(mine,MARK)
  except OSError: pass
  os.remove(mine)
  return holder()==project
def servers():
  found,backend={},""
  for words in map(str.split,cat("/haproxy.cfg").splitlines()):
    if words[1:] and words[0] in ("backend","listen"): backend=words[1]
    if words[1:] and words[0]=="server": found.setdefault(backend,set()).add(words[1])
  for words in map(str.split,haproxy("show servers state").splitlines()):
    if words[3:] and words[0].isdigit(): found.setdefault(words[1],set()).add(words[3])
  return found.values()
def wait_for_manager(running):
  for n in range(30):
    if not any(names & running and names-running for names in servers()): return
    if n==10: signal_managers(signal.SIGUSR1)
    select.select([],[],[],0.1)
action,project,commands=sys.argv[1:4]
if action=="freeze":
  stopped=any(state=="T" for pid,state in managers)
  mark="%s %d"%(project,os.getpid())
  known=holder()==project
  if not take(mark): sys.exit(0)
  if sys.argv[4:] and not stopped: wait_for_manager(set(sys.argv[4:]))
  signal_managers(signal.SIGSTOP)
  if stopped and known: os.utime(MARK,None)
  else:
    write(MARK,mark)
    let_go_later(mark)
if action in ("resume","release") and holder() in ("",project):
  if action=="release" and os.path.exists(MARK): os.remove(MARK)
  signal_managers(signal.SIGCONT)
if action=="render": signal_managers(signal.SIGUSR1)
if action=="ask":
  sys.stdout.write(haproxy("show servers state; show stat -1 4 -1"))
  for pid,state in managers: print("@manager "+state)
  print("@frozen "+holder())
  haproxies.sort()
  uptime=float(cat("/proc/uptime").split()[0])
  if haproxies[1:]: print("@retired %f"%(uptime-haproxies[-1][0]/100.0))
  tables=cat("/proc/net/tcp")+cat("/proc/net/tcp6") if haproxies[1:] else ""
  for cells in map(str.split,tables.splitlines()):
    if cells[3:] and cells[3] in ("01","02","03","08"): print("@connection "+cells[2].split(":")[0])
elif commands:
  said=haproxy(commands).strip()
  if said: sys.exit(said)
"#;
