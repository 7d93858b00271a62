//! Scripts that run in Traefik's container and in pins: POSIX sh, with the programs of busybox.

use super::route_copy::CHECK_URL;
use super::version_check::{Api, VersionCheck};
use crate::shell::{self, RUNS_FUNCTION};

/// Script that prints the first existing file of these, and the HTTP client for queries of Traefik.
pub fn config_script(files: &[String]) -> String {
    let files: Vec<String> = files.iter().map(|f| shell::file(f)).collect();
    format!(
        "# read the configuration
for t in wget curl nc bash; do
  command -v $t >/dev/null && {{ echo \"@tool $t\"; break; }}
done
for f in {}; do
  [ -f \"$f\" ] && {{ echo \"@file $f\"; cat \"$f\"; break; }}
done
exit 0",
        files.join(" ")
    )
}

/// Script of a pin, which ends when none of the ports is listened to any more, or the network of the instance is gone.
/// An instance that does not listen yet is waited for.
pub fn pin_script(ports: &[u16], lifetime: u64) -> String {
    let ports: Vec<String> = ports.iter().map(|port| format!("{port:04X}")).collect();
    format!(
        "# carry a route while the instance listens
n=0 heard= silent=0
while [ $n -lt {} ] && [ $silent -lt 3 ]; do
  if grep -qE ':({}) [0-9A-F]+:0000 0A ' /proc/net/tcp /proc/net/tcp6 2>/dev/null; then heard=1 silent=0
  elif [ $heard ] || ! grep -qvE '[|]|^ *lo:' /proc/net/dev; then silent=$((silent + 1))
  fi
  sleep 0.5 || sleep 1
  n=$((n + 1))
done",
        2 * lifetime,
        ports.join("|")
    )
}

/// Shell function that prints the whole answer to a request. wget and curl support TLS, nc and bash do not. The `timeout` of
/// busybox leaves a process that ends as the child of process 1, and Traefik does not reap it.
const FETCH: &str = r#"unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY
within=; case $(timeout --version 2>&1) in *oreutils*) within='timeout 20' ;; esac
fetch() { # URL HOST
  a=${1#*://}; p=/${a#*/}; a=${a%%/*}
  r="GET $p HTTP/1.0\r\nHost: $2\r\n\r\n"
  for t in wget curl nc bash; do
    command -v $t >/dev/null || continue
    by_$t "$@"; code=$?
    runs $code && return $code
  done 2>&1
}
by_wget() {
  case $1 in https:*) k=--no-check-certificate ;; *) k= ;; esac
  $within wget $k -T 20 -S -q -O - --header "Host: $2" "$1"
}
by_curl() { curl -m 20 -k -s -i -H "Host: $2" "$1"; }
by_nc() { printf "$r" | $within nc -w 20 "${a%:*}" "${a##*:}"; }
by_bash() { $within bash -c 'exec 3<>/dev/tcp/$0/$1; printf "$2" >&3; cat <&3' "${a%:*}" "${a##*:}" "$r"; }
"#;

/// Command that fetches a URL with a `Host` header.
fn fetch_command(url: &str, host: &str) -> String {
    format!("fetch {} {}", shell::word(url), shell::word(host))
}

/// Script that prints the references to services of labels in these files and folders of routes.
pub fn references_script(paths: &[String]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| shell::file(path)).collect();
    let pattern = "(service|name|fallback)[\"']?[[:space:]]*[:=][[:space:]]*[\"']?[A-Za-z0-9_.-]+@docker";
    format!(
        "# look for routes to services of labels\ngrep -HroE {} {} 2>/dev/null\nexit 0",
        shell::word(pattern),
        paths.join(" ")
    )
}

/// Commands that print the token of the newest pin in force, or the API's list of version checks.
fn served_command(check: &VersionCheck, api: Option<&Api>, host: &str) -> String {
    let pattern = CHECK_URL.trim_end_matches('/').trim_start_matches("http://");
    match (check, api) {
        (VersionCheck::Route { address, .. }, _) => format!(
            "echo \"@served $({} | sed -n '/{pattern}.[0-9a-f]/{{s|.*{pattern}/\\([0-9a-f]*\\).*|\\1|p;q}}')\"",
            fetch_command(&format!("{}/", address.url()), host)
        ),
        (VersionCheck::Api { .. }, Some(Api { address, path })) => {
            let list =
                format!("{}{path}/api/http/routers?search={host}&status=enabled&per_page=100", address.url());
            format!("echo @routers\n{} | grep '^\\['", fetch_command(&list, "localhost"))
        }
        (VersionCheck::Api { .. }, None) => ":".into(),
    }
}

/// Script that prints the version in force.
pub fn state_script(check: Option<&VersionCheck>, api: Option<&Api>, host: &str) -> String {
    let served = check.map_or(":".into(), |check| served_command(check, api, host));
    format!(
        "# read the proxy's state
{RUNS_FUNCTION}{FETCH}read -r up _ </proc/uptime
echo \"@now $up $(date +%s)\"
{served}
echo @end"
    )
}

/// Script that prints Traefik's answer, and the errors of its routes.
pub fn diagnosis_script(check: Option<&VersionCheck>, api: Option<&Api>) -> String {
    let answer = check
        .and_then(VersionCheck::address)
        .map(|a| format!("{} | head -n 2\n", fetch_command(&format!("{}/", a.url()), "localhost")))
        .unwrap_or_default();
    let routes = api.map(|Api { address, path }| {
        let list = fetch_command(&format!("{}{path}/api/http/routers", address.url()), "localhost");
        format!("{list} | grep -o '\"error\":[^]]*]' | sort -u\n")
    });
    format!("# find the errors\n{RUNS_FUNCTION}{FETCH}{answer}{}exit 0", routes.unwrap_or_default())
}
