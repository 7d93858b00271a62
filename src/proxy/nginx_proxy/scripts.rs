//! Scripts that run in the proxy's containers: POSIX sh, with the programs of both Debian's and Alpine's
//! images.

use std::net::SocketAddr;

use super::template::MARKERS;
use super::{KEEPALIVE_FILE, KEEPALIVE_MIN_TIMEOUT};
use crate::proxy::kit::sockets;
use crate::shell;

/// File for docker-gen's output that nothing reads.
const SCRATCH: &str = "/tmp/compose-zd.scratch";

/// Script that installs the template on stdin if it renders the same text as the installed one. A template that
/// does not parse would make docker-gen crash again and again. A container that starts, stops or crashes
/// between the two renders makes a difference too, so the script retries.
///
/// docker-gen may render at this moment, for an event of any container. From half a template it would write a
/// configuration that listens on no port. So the script replaces the file atomically. A bind-mounted file
/// cannot be replaced: the script suspends docker-gen while it writes that file.
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

/// Loop that sends a signal to every docker-gen of the container.
fn signal_docker_gen(signal: &str) -> String {
    format!(
        "for f in /proc/[0-9]*/comm; do
  read -r c < $f || continue
  [ \"$c\" = docker-gen ] || continue
  p=${{f#/proc/}}; kill -{signal} ${{p%/comm}}
done 2>/dev/null"
    )
}

pub fn keepalive_script() -> String {
    format!(
        "# keep idle clients through a reload
set -e
echo 'keepalive_min_timeout {}s;' > {KEEPALIVE_FILE}
if output=$(nginx -t 2>&1); then nginx -s reload; else rm -f {KEEPALIVE_FILE}; echo \"$output\" >&2; exit 1; fi",
        KEEPALIVE_MIN_TIMEOUT.as_secs()
    )
}

/// Script that sets the markers and makes docker-gen render at once.
///
/// docker-gen may be rendering at this moment, for an event of any container, and checks one marker after the
/// other. If the last marker outside were set before docker-gen checked those inside, it would write an
/// upstream without servers. So the script removes the markers of those inside first, and then waits longer
/// than a render needs between two checks.
/// docker-gen may also still use a list of containers from before those inside were there: listing takes long
/// on a busy engine. So the script waits twice as long as docker-gen takes now to list and render; both renders
/// are thrown away.
///
/// A render within the pause costs a reload of its own. Where a reload closes idle client connections (no
/// `keepalive_min_timeout`), the script first lets docker-gen finish with the start of those inside: docker-gen
/// waits 0.5 s at most before it renders.
pub fn route_script(template: &str, marked: &[String], unmarked: &[String]) -> String {
    let mark = match &shell::words(marked)[..] {
        "" => String::new(),
        marked => format!("touch {marked}\n"),
    };
    let unmark = match &shell::words(unmarked)[..] {
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
{unmark}{mark}{render}",
        template = shell::file(template),
        render = signal_docker_gen("HUP")
    )
}

/// Script that admits these instances at once, because the instances that get requests fail. Where nginx runs
/// in the same container, the script changes its configuration directly: on a busy engine docker-gen takes long
/// to list the containers. docker-gen's next render replaces that configuration.
pub fn urgent_route_script(
    unmarked: &[String],
    config: Option<&str>,
    replacements: &[(SocketAddr, SocketAddr)],
) -> String {
    let direct = config
        .filter(|_| !replacements.is_empty())
        .map(|config| replace_servers(config, replacements))
        .unwrap_or_default();
    format!(
        "# admit the new instances\nrm -f {}\n{direct}{}",
        shell::words(unmarked),
        signal_docker_gen("HUP")
    )
}

/// Script that replaces servers in nginx's configuration and reloads it.
pub fn replace_servers(config: &str, replacements: &[(SocketAddr, SocketAddr)]) -> String {
    let escaped = |address: &SocketAddr| {
        let special = |c: char| if ".[]".contains(c) { format!("\\{c}") } else { c.to_string() };
        address.to_string().chars().map(special).collect::<String>()
    };
    let patterns = replacements.iter().map(|(from, _)| format!(" -e 'server {}[; ]'", escaped(from)));
    let edits = replacements
        .iter()
        .map(|(from, to)| format!(" -e 's/server {}\\([; ]\\)/server {to}\\1/'", escaped(from)));
    format!(
        "config={config}
if grep -q{} \"$config\" && sed{} \"$config\" > \"$config.zd\" && mv -f \"$config.zd\" \"$config\"; then nginx -s reload; fi 2>/dev/null
rm -f \"$config.zd\"
",
        patterns.collect::<String>(),
        edits.collect::<String>(),
        config = shell::file(config)
    )
}

/// Script that prints the state of nginx:
/// - the servers of its configuration,
/// - two clocks at the same moment,
/// - the time at which the configuration was written,
/// - nginx's workers,
/// - the connections to our instances that may carry a request: established, opening, or closed by the instance
///   only.
///
/// compose-zd polls with this script, so it starts as few programs as possible. `read` skips the NUL at the end
/// of a process title.
pub fn state_script(config: &str, remotes: &[String]) -> String {
    format!(
        "# read the proxy's state
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
{connections}
echo @end",
        config = shell::file(config),
        connections = sockets::listing(remotes)
    )
}

/// Script that removes our markers and those of containers that no longer exist. Markers of other rollouts
/// stay.
pub fn hand_back_script(own: &[&str], existing: &[String]) -> String {
    let others: Vec<&str> = existing.iter().map(String::as_str).filter(|id| !own.contains(id)).collect();
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
