//! Scripts that run in Apache's container: POSIX sh, with the programs of both Debian's and Alpine's images.

use crate::proxy::file_reload::PRINT_CLOCK;
use crate::proxy::kit::hosts::switch::{HostsSwitch, Program};
use crate::proxy::kit::hosts::{self, PinnedService};
use crate::proxy::{Change, FileReload, ProxyContainer, ProxyFiles, ReadBy};
use crate::shell;

pub const PROGRAM: Program = Program { reload, watcher, reads_files: true };

/// Functions of a script: `processes` finds the master process and its children, and `apache` runs the program with the
/// flags and the environment of its master.
const FUNCTIONS: &str = include_str!("functions.sh");

/// Functions of the watcher's script.
const WATCHER: &str = include_str!("watcher.sh");

fn watcher() -> String {
    format!("{FUNCTIONS}{WATCHER}")
}

/// Script that prints what the adapter has to know, and the configuration. `mod_info` prints it as it is in force. Without
/// `mod_info`, or if Apache refuses its configuration, the files are printed.
pub fn introduction() -> String {
    format!(
        r##"{FUNCTIONS}
processes
{}
apache -V 2>/dev/null | sed -n 's|^Server version: Apache/\([0-9.]*\).*|@version \1|p; s|^Server MPM: *|@mpm |p'
modules=$(sed -n 's|.* \(/.*\)/mod_[a-z0-9_]*\.so$|\1|p' "/proc/$master/maps" 2>/dev/null | head -n 1)
root=$(apache -V 2>/dev/null | sed -n 's|.* HTTPD_ROOT="\(.*\)"|\1|p')
main=$(apache -V 2>/dev/null | sed -n 's|.* SERVER_CONFIG_FILE="\(.*\)"|\1|p')
output=$(apache -t 2>&1) || printf '%s\n' "$output" | sed 's/^/@error /'
echo @config
dump=$(apache -t -D DUMP_CONFIG -c "LoadModule info_module ${{modules:-modules}}/mod_info.so" 2>/dev/null) || dump=
case $dump in
  *[!\ ]*) echo '# configuration file mod_info:'; printf '%s\n' "$dump" ;;
  *)
    case $main in /*) ;; *) main=$root/$main ;; esac
    files=$(apache -t -D DUMP_INCLUDES 2>/dev/null | sed -n 's/^ *([^)]*) //p')
    [ -n "$files" ] || files="$main $(find -L "$root" -type f -name '*.conf' ! -path "$main" 2>/dev/null)"
    for file in $files; do echo "# configuration file $file:"; cat "$file"; echo; done ;;
esac
exit 0"##,
        hosts::INTRODUCTION
    )
}

/// Script that fails if Apache would refuse its configuration: a restart would end it.
pub fn test() -> String {
    format!(
        r##"# test the configuration
{FUNCTIONS}
processes
[ -n "$master" ] || {{ echo 'Apache has no master process' >&2; exit 1; }}
output=$(apache -t 2>&1) || {{ printf '%s\n' "$output" >&2; exit 1; }}"##
    )
}

/// Files of Apache, and the commands by which it reads them again. The master writes its number at each restart, after it
/// has read them.
pub fn files(place: &ProxyContainer) -> ProxyFiles {
    let state = format!(
        r##"# read the age of the configuration
{FUNCTIONS}
processes
file=$(apache -t -D DUMP_RUN_CFG 2>/dev/null | sed -n 's/^PidFile: "\(.*\)"/\1/p')
for file in "$file" /usr/local/apache2/logs/httpd.pid /run/apache2/apache2.pid; do
  [ -f "$file" ] || continue
  echo "@mark $(TZ=UTC0 stat -c %y "$file")"
  break
done
{PRINT_CLOCK}"##
    );
    let apply = format!("# restart for changed files\n{}\nkill -USR1 \"$master\"", test());
    let reload = FileReload { state: place.sh(state), check: place.sh(test()), apply: place.sh(apply) };
    let folders =
        ["/usr/local/apache2/conf", "/etc/apache2", "/etc/httpd", "/opt/bitnami/apache/conf", "/vhosts"];
    let folders = folders.into_iter().chain(["/etc/letsencrypt", "/etc/ssl"]);
    ProxyFiles {
        paths: folders.map(|path| (path.to_string(), ReadBy::Reload)).collect(),
        // Files of a site are read for each request.
        others: ReadBy::Watch,
        reload: Some(reload),
    }
}

/// Changes that restart Apache gracefully. The second one may write the hosts file.
fn reload(hosts: &HostsSwitch, services: &[PinnedService]) -> Vec<Change> {
    vec![hosts.place.sh(test()).into(), hosts.write(restart(services))]
}

/// Script that restarts Apache gracefully, and marks the pins once it has new children. The master tells its old
/// children to take no new connections before it starts new ones. Several addresses change places meanwhile and for a
/// second more.
pub fn restart(services: &[PinnedService]) -> String {
    let pattern = |s: &PinnedService| format!(" -e {}", shell::word(&format!("^[^#].*{}", s.pattern())));
    let patterns: String = services.iter().map(pattern).collect();
    let mark = |s: &PinnedService| {
        format!("\necho {} >> /etc/hosts", shell::word(&format!("# reloaded # {}", s.mark())))
    };
    let marks: String = services.iter().map(mark).collect();
    format!(
        r##"# restart gracefully
{FUNCTIONS}
own_lines() {{ grep{patterns} /etc/hosts; }}
other_lines() {{ grep -v{patterns} /etc/hosts; }}
processes
ticks
moment=$now
[ -n "$master" ] && kill -USR1 "$master" || {{ echo 'Apache cannot be restarted' >&2; exit 1; }}
{{ flock -x 9 2>/dev/null
  several= started= until=$((moment + 1500))
  read_lines && several=1
  while :; do
    [ -z "$several" ] || rotate
    ticks
    if [ -z "$started" ]; then
      ! has_new_child "$moment" || started=$now
    fi
    [ -z "$started" ] || {{ [ -n "$several" ] && [ "$now" -lt $((started + 100)) ]; }} || break
    [ "$now" -lt $until ] || {{ echo 'Apache has started no process since its restart' >&2; exit 1; }}
    sleep 0.002 2>/dev/null || sleep 1
  done
}} 9>> /etc/hosts{marks}"##
    )
}

/// Script that prints the state of Apache:
/// - its children, each with its start in ticks since boot,
/// - the watchers of pins,
/// - the moment, in the same ticks, and the pins.
pub fn state() -> String {
    format!(
        r##"# read the proxy's state
{FUNCTIONS}
processes
for child in $children; do echo "@child ${{child#*:}}"; done
for p in /proc/[0-9]*; do
  title=; read -r title < "$p/cmdline"
  case $title in *"# compose-zd "*" watcher"*) echo "@watcher ${{title##*# }}" ;; esac
done 2>/dev/null
ticks; echo "@now $now"
{PRINT_CLOCK}
sed -n '/ # compose-zd /s/^/@pin /p' /etc/hosts
echo @end"##
    )
}
