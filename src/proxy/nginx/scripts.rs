//! Scripts that run in nginx's container: POSIX sh, with the programs of both Debian's and Alpine's images.

use super::{KEEPALIVE_FILE, KEEPALIVE_MIN_TIMEOUT};
use crate::proxy::file_reload::PRINT_CLOCK;
use crate::proxy::kit::hosts;
use crate::proxy::kit::hosts::switch::Program;
use crate::proxy::kit::sockets;
use crate::proxy::{FileReload, ProxyContainer, ProxyFiles, ReadBy};
use crate::shell;

pub const PROGRAM: Program = Program {
    reload: |hosts, _| vec![hosts.place.sh(reload()).into()],
    watcher: || WATCHER.into(),
    reads_files: false,
};

/// Functions of the watcher's script.
const WATCHER: &str = r#"# Finds the master process, and the start of the oldest worker that takes new requests.
processes() {
  master= oldest=
  for p in /proc/[0-9]*; do
    title=; read -r title < "$p/cmdline"
    case $title in
      "nginx: master process"*) master=${p#/proc/} ;;
      "nginx: worker process")
        read -r stat < "$p/stat" || continue
        set -- ${stat##*) }
        [ -n "$oldest" ] && [ "${20}" -ge "$oldest" ] || oldest=${20} ;;
    esac
  done 2>/dev/null
}

is_loaded() { processes; [ -n "$oldest" ] && [ "$oldest" -gt "$1" ]; }

send_reload() { [ -z "$master" ] || kill -HUP "$master"; }

each_second() { :; }"#;

/// Part of a script that finds the master process, and nginx's program and flags in its title: `$master`, `$nginx` and
/// `$flags`. `read` skips the NUL at the end of a title.
const FIND_MASTER: &str = r#"master= found=
for p in /proc/[0-9]*; do
  title=; read -r title < $p/cmdline
  case $title in "nginx: master process "*) master=${p#/proc/} found=${title#nginx: master process }; break ;; esac
done 2>/dev/null
set -- $found
nginx=${1:-nginx} flags=
command -v "$nginx" >/dev/null || nginx=nginx
while [ $# -gt 1 ]; do
  case $1 in -c | -p | -e) flags="$flags $1 $2"; shift ;; esac
  shift
done"#;

/// Script that prints what the adapter has to know, and the configuration. A configuration that nginx refuses is printed
/// from the files.
pub fn introduction() -> String {
    format!(
        "{FIND_MASTER}
{}
$nginx -v 2>&1 | sed 's/^/@version /'
main=$($nginx -V 2>&1 | tr ' ' '\\n' | sed -n 's/^--conf-path=//p')
if dump=$($nginx $flags -T 2>/dev/null); then echo @config
else
  $nginx $flags -t 2>&1 | sed 's/^/@error /'
  set -- $flags
  while [ $# -gt 1 ]; do [ \"$1\" != -c ] || main=$2; shift 2; done
  echo @config
  main=${{main:-/etc/nginx/nginx.conf}}
  dump=$(for f in $main $(find \"${{main%/*}}\" -type f -name '*.conf' ! -path \"$main\" 2>/dev/null); do
    echo \"# configuration file $f:\"; cat \"$f\"; echo; done)
fi
printf '%s\\n' \"$dump\"
printf '%s\\n' \"$dump\" | sed -n 's|^[[:space:]]*include[[:space:]][[:space:]]*\\(/.*\\)/\\*\\.conf;.*|\\1|p' | sort -u |
  while read -r folder; do [ ! -w \"$folder\" ] || echo \"@writable $folder\"; done",
        hosts::INTRODUCTION
    )
}

/// Script that reloads nginx, unless nginx refuses its configuration.
pub fn reload() -> String {
    format!(
        "# reload
{FIND_MASTER}
[ -n \"$master\" ] || {{ echo 'nginx has no master process' >&2; exit 1; }}
{CHECK}
kill -HUP $master"
    )
}

/// Part of a script that ends it with nginx's own words if nginx refuses its configuration.
const CHECK: &str = r#"output=$($nginx $flags -t 2>&1) || { printf '%s\n' "$output" >&2; exit 1; }"#;

/// Commands by which nginx reads its files again. Each reload starts new workers.
pub fn file_reload(place: &ProxyContainer) -> FileReload {
    let state = format!(
        "# read the age of the configuration
for p in /proc/[0-9]*; do
  title=; read -r title < $p/cmdline
  case $title in
    *'worker process is shutting down'*) ;;
    'nginx: worker process'*) read -r s < $p/stat || continue; set -- ${{s##*) }}; echo \"@process ${{20}}\" ;;
  esac
done 2>/dev/null
{PRINT_CLOCK}"
    );
    FileReload {
        state: place.sh(state),
        check: place.sh(format!("# check the configuration\n{FIND_MASTER}\n{CHECK}")),
        apply: place.sh(reload()),
    }
}

/// Files of nginx, and those of the official image's entrypoint, which only the start of the container reads.
pub fn files(place: &ProxyContainer) -> ProxyFiles {
    let start = ["/etc/nginx/templates", "/docker-entrypoint.d", "/docker-entrypoint.sh"];
    let reload = ["/etc/nginx", "/etc/letsencrypt", "/etc/ssl"];
    let paths = start.map(|path| (path.to_string(), ReadBy::Start)).into_iter();
    ProxyFiles {
        paths: paths.chain(reload.map(|path| (path.to_string(), ReadBy::Reload))).collect(),
        others: ReadBy::Reload,
        reload: Some(file_reload(place)),
    }
}

/// Script that prints the result of nginx's own test of its configuration.
pub fn test() -> String {
    format!("{FIND_MASTER}\n$nginx $flags -t 2>&1 | tail -n 4")
}

/// Script that makes idle clients survive a reload, by a file in a folder that nginx includes.
pub fn keepalive(folder: &str) -> String {
    format!(
        "# keep idle clients through a reload
{FIND_MASTER}
file={file}
echo 'keepalive_min_timeout {seconds}s;' > \"$file\" || exit 1
if output=$($nginx $flags -t 2>&1); then kill -HUP $master
else rm -f \"$file\"; printf '%s\\n' \"$output\" >&2; exit 1; fi",
        file = shell::file(&format!("{folder}/{KEEPALIVE_FILE}")),
        seconds = KEEPALIVE_MIN_TIMEOUT.as_secs(),
    )
}

/// Script that prints the state of nginx:
/// - its workers, each with its start in ticks since boot,
/// - the watchers of pins,
/// - the moment, in the same ticks, and the pins,
/// - the connections to our instances that may carry a request.
pub fn state(remotes: &[String]) -> String {
    format!(
        "# read the proxy's state
for p in /proc/[0-9]*; do
  title=; read -r title < $p/cmdline
  case $title in
    \"nginx: worker process\"*) read -r s < $p/stat || continue; set -- ${{s##*) }}; echo \"@worker ${{20}} $title\" ;;
    *\"# compose-zd \"*\" watcher\"*) echo \"@watcher ${{title##*# }}\" ;;
  esac
done 2>/dev/null
read -r up rest < /proc/uptime; echo \"@now ${{up%.*}}${{up#*.}}\"
{PRINT_CLOCK}
sed -n '/ # compose-zd /s/^/@pin /p' /etc/hosts
{}
echo @end",
        sockets::listing(remotes)
    )
}
