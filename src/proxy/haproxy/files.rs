//! Files of HAProxy. A reload starts a new worker beside the old one and hands it the listening sockets, if HAProxy runs
//! with a master process (`-W`, as in its official image).

use super::Haproxy;
use super::retired::PROCESS_SCRIPT;
use crate::proxy::file_reload::PRINT_CLOCK;
use crate::proxy::{FileReload, ProxyFiles, ReadBy};
use crate::shell;

/// Shell code that sets `$master` and the start of the newest worker, `$newest`, from [`PROCESS_SCRIPT`]'s lines.
const FIND_MASTER: &str = r#"newest=0 master=
while read -r mark pid parent start; do
  [ "$mark" = @process ] || continue
  case $all in *" $parent "*) master=$parent; [ "$start" -le "$newest" ] || newest=$start ;; esac
done <<EOF
$processes
EOF"#;

fn find_master() -> String {
    format!(
        "processes=$({PROCESS_SCRIPT})
all=\" $(printf '%s\\n' \"$processes\" | sed -n 's/^@process \\([0-9]*\\) .*/\\1/p' | tr '\\n' ' ')\"
{FIND_MASTER}"
    )
}

pub fn files(haproxy: &Haproxy) -> ProxyFiles {
    let files = haproxy.files();
    let folder = |file: &String| file.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.into());
    let folders = files.iter().map(folder).filter(|folder| folder.matches('/').count() > 1);
    let paths = files.iter().cloned().chain(folders).chain(["/etc/haproxy", "/etc/ssl"].map(String::from));
    ProxyFiles {
        paths: paths.map(|path| (path, ReadBy::Reload)).collect(),
        others: ReadBy::Reload,
        reload: Some(reload(haproxy, &files)),
    }
}

fn reload(haproxy: &Haproxy, files: &[String]) -> FileReload {
    let named: String = files.iter().map(|file| format!(" -f {}", shell::file(file))).collect();
    let obstacle = "HAProxy runs without a master process (`-W`), so it cannot be reloaded";
    let state = format!(
        "# read the age of the configuration
{}
if [ -n \"$master\" ]; then echo \"@process $newest\"; else echo '@obstacle {obstacle}'; fi
{PRINT_CLOCK}",
        find_master()
    );
    let apply = format!(
        "# reload
{}
[ -n \"$master\" ] || {{ echo '{obstacle}' >&2; exit 1; }}
kill -USR2 $master",
        find_master()
    );
    FileReload {
        state: haproxy.place.sh(state),
        check: haproxy.place.sh(format!("# check the configuration\nhaproxy -c{named} 2>&1")),
        apply: haproxy.place.sh(apply),
    }
}
