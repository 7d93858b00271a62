//! The scripts that run in the proxy's containers: POSIX sh, with what both Debian's and Alpine's images have.

use std::net::SocketAddr;

use super::template::MARKERS;
use super::{KEEPALIVE, KEEPALIVE_FILE};
use crate::shell;

/// Where docker-gen renders for nobody.
const SCRATCH: &str = "/tmp/compose-zd.scratch";

/// Installs the template on stdin if it renders the same text as the one that is there: a template that does not parse
/// would end docker-gen, over and over. A container that starts or stops between the two (one that crashes, over and over)
/// makes a difference too, so it is tried some times.
///
/// docker-gen may render at this moment, for an event of any container: out of half a template it would make a configuration
/// in which nobody listens. So the file is replaced at once; a bind mount, which takes no other file, is written while
/// docker-gen stands still.
pub fn install_script(template: &str) -> String {
    format!(
        "# install the marker test
set -e
template={template}
new=/tmp/compose-zd.tmpl
cat > $new
RESOLVERS=x; export RESOLVERS
rm -rf {MARKERS}
for n in 1 2 3 4 5 6 7 8 9; do
  docker-gen \"$template\" $new.before >/dev/null 2>$new.log || {{ cat $new.log >&2; exit 1; }}
  docker-gen $new $new.after >/dev/null 2>$new.log || {{ cat $new.log >&2; exit 1; }}
  cmp -s $new.before $new.after && break
  sleep 0.3
done
cmp $new.before $new.after >&2
to_docker_gen() {{
{each}
}}
beside=$template.compose-zd
if ! {{ cp -p \"$template\" \"$beside\" && cat $new > \"$beside\" && mv -f \"$beside\" \"$template\"; }} 2>/dev/null; then
  rm -f \"$beside\"
  to_docker_gen STOP
  cat $new > \"$template\" || {{ to_docker_gen CONT; exit 1; }}
  to_docker_gen CONT
fi
rm -f $new $new.before $new.after $new.log",
        template = shell::file(template),
        each = signal_docker_gen("$1")
    )
}

/// A loop that sends a signal to every docker-gen of the container.
fn signal_docker_gen(signal: &str) -> String {
    format!(
        "for f in /proc/[0-9]*/comm; do
  read -r c < $f || continue
  [ \"$c\" = docker-gen ] || continue
  p=${{f#/proc/}}; kill -{signal} ${{p%/comm}}
done 2>/dev/null"
    )
}

pub fn keep_alive_script() -> String {
    format!(
        "# keep idle clients through a reload
set -e
echo 'keepalive_min_timeout {}s;' > {KEEPALIVE_FILE}
if said=$(nginx -t 2>&1); then nginx -s reload; else rm -f {KEEPALIVE_FILE}; echo \"$said\" >&2; exit 1; fi",
        KEEPALIVE.as_secs()
    )
}

/// Sets the markers and has docker-gen render at once.
///
/// docker-gen may be rendering at this moment, for an event of any container, and looks at one marker after the other.
/// Were the last marker of those outside set before it has looked at those inside, it would find nobody and write an
/// upstream without servers. So those inside come first, and the pause is longer than a render takes between two. Nor may
/// it still be at a list of containers from before those inside were there: listing takes long on a busy engine. So it is
/// waited for twice as long as docker-gen takes now to list and render, both thrown away.
///
/// A render within the pause costs a reload of its own. Where a reload cuts idle clients (no `keepalive_min_timeout`),
/// docker-gen first gets the time to be done with the start of those inside: it waits 0.5 s at most before it renders.
pub fn route_script(template: &str, marked: &[String], unmarked: &[String]) -> String {
    let hide = match &shell::words(marked)[..] {
        "" => String::new(),
        marked => format!("touch {marked}\n"),
    };
    let show = match &shell::words(unmarked)[..] {
        "" => String::new(),
        unmarked => format!(
            "for m in {unmarked}; do [ -e \"$m\" ] && shown=yes; done
[ -z \"$shown\" ] || grep -qs keepalive_min_timeout /etc/nginx/conf.d/* || sleep 0.6
rm -f {unmarked}
[ -z \"$shown\" ] || {{ for n in 1 2; do docker-gen \"$template\" {SCRATCH} >/dev/null 2>&1 || sleep 0.1; done; rm -f {SCRATCH}; }}
"
        ),
    };
    format!(
        "# set the markers
set -e
template={template}
grep -q {MARKERS} \"$template\" || {{ echo \"the marker test is gone from $template\" >&2; exit 1; }}
mkdir -p {MARKERS}
shown=
{show}{hide}{render}",
        template = shell::file(template),
        render = signal_docker_gen("HUP")
    )
}

/// Lets these in, and has docker-gen render at once: those that it sends requests to fail. Where nginx is beside it, its
/// configuration is changed at once: on a busy engine docker-gen takes long to list the containers. What it renders then
/// takes the place of it.
pub fn hurried_script(
    unmarked: &[String],
    config: Option<&str>,
    exchanged: &[(SocketAddr, SocketAddr)],
) -> String {
    let now = config
        .filter(|_| !exchanged.is_empty())
        .map(|config| exchange(config, exchanged))
        .unwrap_or_default();
    format!("# let them in\nrm -f {}\n{now}{}", shell::words(unmarked), signal_docker_gen("HUP"))
}

/// Has nginx send requests to other servers than its configuration says.
pub fn exchange(config: &str, exchanged: &[(SocketAddr, SocketAddr)]) -> String {
    let escaped = |address: &SocketAddr| {
        let special = |c: char| if ".[]".contains(c) { format!("\\{c}") } else { c.to_string() };
        address.to_string().chars().map(special).collect::<String>()
    };
    let found = exchanged.iter().map(|(from, _)| format!(" -e 'server {}[; ]'", escaped(from)));
    let edits = exchanged
        .iter()
        .map(|(from, to)| format!(" -e 's/server {}\\([; ]\\)/server {to}\\1/'", escaped(from)));
    format!(
        "config={config}
if grep -q{} \"$config\" && sed{} \"$config\" > \"$config.zd\" && mv -f \"$config.zd\" \"$config\"; then nginx -s reload; fi 2>/dev/null
rm -f \"$config.zd\"
",
        found.collect::<String>(),
        edits.collect::<String>(),
        config = shell::file(config)
    )
}

/// Prints what the configuration routes to, two clocks of the same moment, when it was written, nginx's workers, and the
/// connections to our instances that may carry a request (established, opening, or closed by the instance only). It is
/// asked over and over, so it starts as few programs as it can: `read` passes over the NUL that ends a title.
pub fn question_script(config: &str, remotes: &[String]) -> String {
    let connections = match remotes.is_empty() {
        true => String::new(),
        false => format!(
            "grep -hoE ' (0000000000000000FFFF0000)?({}):[0-9A-F]{{4}} 0[1238] ' /proc/net/tcp /proc/net/tcp6 2>/dev/null\n",
            remotes.join("|")
        ),
    };
    format!(
        "# what does it route to
config={config}
sed -n '/^upstream /,/^}}/{{/^ *server /p;}}' \"$config\"
t=/tmp/.compose-zd-clock; : > $t; read -r up rest < /proc/uptime
set -- $(stat -c %y $t \"$config\"); rm -f $t
echo \"@clock $up $1 $2 $3\"
echo \"@written $4 $5 $6\"
for p in /proc/[0-9]*; do
  read -r c < $p/comm || continue
  [ \"$c\" = nginx ] || continue
  read -r s < $p/stat || continue
  set -- ${{s##*) }}
  title=; read -r title < $p/cmdline
  echo \"@worker ${{20}} $title\"
done 2>/dev/null
{connections}echo @end",
        config = shell::file(config)
    )
}

/// Removes our markers and those of containers that are gone. Markers of other rollouts' containers stay.
pub fn release_script(ours: &[&str], existing: &[String]) -> String {
    let others: Vec<&str> = existing.iter().map(String::as_str).filter(|id| !ours.contains(id)).collect();
    format!(
        "# remove our markers
cd {MARKERS} 2>/dev/null || exit 0
for m in *; do
  case {} in *\" $m \"*) ;; *) rm -f \"$m\" ;; esac
done
cd / && rmdir {MARKERS} 2>/dev/null
exit 0",
        shell::word(&format!(" {} ", others.join(" ")))
    )
}
