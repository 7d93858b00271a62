//! The Python script that runs in the container, which has Python (2.7 in the original image) and few other
//! programs.

/// Script with three arguments: the action (`state`, `send`, `freeze`, `resume`, `release` or `render`), the
/// project, and commands for HAProxy.
///
/// `state` prints HAProxy's answer and the state of the manager (`T` is stopped). While an HAProxy runs that a
/// reload retired, `state` also prints the time since then.
///
/// `freeze` has further arguments: the names of the running instances. An instance that has ended may still be
/// in the configuration. Its address may go to the next instance, which would get requests before it is ready.
/// So the manager gets up to three seconds to drop the ended instance, and a render request after one second.
///
/// Ten minutes after the last `freeze`, a background process resumes the manager, in case compose-zd was
/// killed.
///
/// The mark names the project whose rollout has frozen the manager. Meanwhile `freeze` of another project does
/// nothing, and no other project resumes the manager. `resume` keeps the mark, for a manager that will be
/// frozen again; `release` removes the mark.
pub const AGENT_SCRIPT: &str = r#"import os,select,signal,socket,sys,time
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
  output=b""
  for d in iter(lambda:s.recv(65536),b""): output+=d
  return output.decode("ascii","replace")
def signal_managers(number):
  for pid,state in managers: os.kill(pid,number)
def resume_later(mark):
  if os.fork(): return
  os.setsid()
  null=os.open("/dev/null",os.O_RDWR)
  for fd in (0,1,2): os.dup2(null,fd)
  seconds=600
  while seconds>0:
    select.select([],[],[],seconds)
    seconds=os.path.getmtime(MARK)+600-time.time() if os.path.exists(MARK) else 0
  if cat(MARK)==mark:
    os.remove(MARK)
    signal_managers(signal.SIGCONT)
  os._exit(0)
def owner():
  try: valid=os.path.getmtime(MARK)+600>time.time()
  except OSError: valid=False
  return (cat(MARK).split()+[""])[0] if valid else ""
def write(path,mark):
  with open(path,"w") as f: f.write(mark)
def acquire(mark):
  own=MARK+str(os.getpid())
  if os.path.exists(MARK) and not owner(): os.remove(MARK)
  write(own,mark)
  try: os.link(own,MARK)
  except OSError: pass
  os.remove(own)
  return owner()==project
def servers():
  names,backend={},""
  for words in map(str.split,cat("/haproxy.cfg").splitlines()):
    if words[1:] and words[0] in ("backend","listen"): backend=words[1]
    if words[1:] and words[0]=="server": names.setdefault(backend,set()).add(words[1])
  for words in map(str.split,haproxy("show servers state").splitlines()):
    if words[3:] and words[0].isdigit(): names.setdefault(words[1],set()).add(words[3])
  return names.values()
def wait_for_manager(running):
  for n in range(30):
    if not any(names & running and names-running for names in servers()): return
    if n==10: signal_managers(signal.SIGUSR1)
    select.select([],[],[],0.1)
action,project,commands=sys.argv[1:4]
if action=="freeze":
  stopped=any(state=="T" for pid,state in managers)
  mark="%s %d"%(project,os.getpid())
  is_owner=owner()==project
  if not acquire(mark): sys.exit(0)
  if sys.argv[4:] and not stopped: wait_for_manager(set(sys.argv[4:]))
  signal_managers(signal.SIGSTOP)
  if stopped and is_owner: os.utime(MARK,None)
  else:
    write(MARK,mark)
    resume_later(mark)
if action in ("resume","release") and owner() in ("",project):
  if action=="release" and os.path.exists(MARK): os.remove(MARK)
  signal_managers(signal.SIGCONT)
if action=="render": signal_managers(signal.SIGUSR1)
if action=="state":
  sys.stdout.write(haproxy("show servers state; show stat -1 4 -1"))
  for pid,state in managers: print("@manager "+state)
  print("@frozen "+owner())
  haproxies.sort()
  uptime=float(cat("/proc/uptime").split()[0])
  if haproxies[1:]: print("@retired %f"%(uptime-haproxies[-1][0]/100.0))
elif commands:
  output=haproxy(commands).strip()
  if output: sys.exit(output)
"#;
