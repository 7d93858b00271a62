//! Files of Caddy. `caddy reload` gives the running Caddy its configuration file again, without a new process: so a mark
//! in the container has the time of the last reload.

use super::Caddy;
use crate::proxy::file_reload::PRINT_CLOCK;
use crate::proxy::{FileReload, ProxyFiles, ReadBy};
use crate::shell;

/// Name of the mark.
const MARK: &str = ".compose-zd-reload";

pub fn files(caddy: &Caddy) -> ProxyFiles {
    let args = &caddy.place.container.args;
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    // Its configuration comes from labels, or from what the API got last.
    if caddy.by_labels || has("--resume") {
        return ProxyFiles::default();
    }
    let file = caddy.config_file();
    let read_by = if has("--watch") || has("-w") { ReadBy::Watch } else { ReadBy::Reload };
    let paths = [(file.to_string(), read_by), ("/etc/caddy".into(), ReadBy::Reload)];
    ProxyFiles { paths: paths.into(), others: ReadBy::Reload, reload: Some(reload(caddy, file)) }
}

fn reload(caddy: &Caddy, file: &str) -> FileReload {
    let folder = Some(caddy.features().folder.as_str()).filter(|folder| !folder.is_empty()).unwrap_or("/tmp");
    let mark = shell::word(&format!("{folder}/{MARK}"));
    let named = format!("--config {}{}", shell::file(file), adapter(&caddy.place.container.args));
    let address = caddy.settings.api_address.as_ref();
    let obstacle = if address.is_some() {
        String::new()
    } else {
        "echo '@obstacle the admin API of Caddy does not answer, so Caddy cannot be reloaded'\n".into()
    };
    let address = address.map_or(String::new(), |address| format!(" --address {}", shell::word(address)));
    let state = format!(
        "# read the age of the configuration
{obstacle}[ ! -e {mark} ] || echo \"@mark $(TZ=UTC0 stat -c %y {mark})\"
{PRINT_CLOCK}"
    );
    let apply = format!(
        "# reload
mark={mark}
: > \"$mark.new\" || exit 1
output=$(caddy reload {named}{address} 2>&1) || {{ rm -f \"$mark.new\"; printf '%s\\n' \"$output\" | tail -n 4 >&2; exit 1; }}
mv -f \"$mark.new\" \"$mark\""
    );
    let check = format!(
        "# check the configuration
output=$(caddy validate {named} 2>&1) || {{ printf '%s\\n' \"$output\" | tail -n 4 >&2; exit 1; }}"
    );
    let sh = |script| caddy.place.sh(script);
    FileReload { state: sh(state), check: sh(check), apply: sh(apply) }
}

/// The `--adapter` of the running Caddy, as words.
fn adapter(args: &[String]) -> String {
    let separate =
        args.windows(2).find(|w| ["--adapter", "-a"].contains(&w[0].as_str())).map(|w| w[1].as_str());
    let name = separate.or_else(|| args.iter().find_map(|arg| arg.strip_prefix("--adapter=")));
    name.map_or(String::new(), |name| format!(" --adapter {}", shell::word(name)))
}
