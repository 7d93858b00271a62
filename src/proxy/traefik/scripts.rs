//! Scripts that run in Traefik's container: POSIX sh, with the programs of busybox.

use super::override_file::check_host;
use super::version_check::{Api, VersionCheck};
use crate::shell::{self, RUNS_FUNCTION};

/// The name of our override file, and the directory that Traefik reads it from.
pub struct OverrideFile<'a> {
    pub directory: &'a str,
    pub name: &'a str,
}

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

/// Script that checks whether files can be added to the directory.
pub fn directory_script(directory: &str) -> String {
    format!(
        "# check whether a file can be added
d=$(cd -P {} && pwd) || exit 1
n=0
while read -r _ _ _ _ m o _; do
  case $d/ in \"${{m%/}}\"/*) [ ${{#m}} -ge $n ] && n=${{#m}} && r=$o ;; esac
done </proc/self/mountinfo
case ,$r, in *,ro,*) echo @readonly ;; *) [ -w \"$d\" ] || echo @readonly ;; esac",
        shell::file(directory)
    )
}

/// Shell function that prints the whole answer to a request. wget and curl support TLS, nc and bash do not.
const FETCH: &str = r#"unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY
within=; timeout 1 true 2>/dev/null && within='timeout 20'
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
  $within wget $k -S -q -O - --header "Host: $2" "$1"
}
by_curl() { curl -m 20 -k -s -i -H "Host: $2" "$1"; }
by_nc() { printf "$r" | $within nc "${a%:*}" "${a##*:}"; }
by_bash() { $within bash -c 'exec 3<>/dev/tcp/$0/$1; printf "$2" >&3; cat <&3' "${a%:*}" "${a##*:}" "$r"; }
"#;

/// Command that fetches a URL with a `Host` header.
fn fetch_command(url: &str, host: &str) -> String {
    format!("fetch {} {}", shell::word(url), shell::word(host))
}

/// Pattern for a reference to a service of labels in a file of routes.
const REFERS: &str =
    "refers=\"(service|name|fallback)[\\\"']?[[:space:]]*[:=][[:space:]]*[\\\"']?[A-Za-z0-9_.-]+@docker\"\n";

/// Shell variables: the path of our file, and a folder for files that are not routes. The folder is beside the
/// directory if both are on the same file system: Traefik reads the directory at every change in it, and then
/// not again for two seconds.
fn path_variables(file: &OverrideFile) -> String {
    format!(
        "d=$(cd -P {} && pwd) || exit 1
n={}; f=$d/$n.yml; s=${{d%/*}}/
while read -r _ _ _ _ m _; do [ \"$m\" = \"$d\" ] && s=$d/; done </proc/self/mountinfo
[ -w \"$s\" ] || s=$d/
s=$s.compose-zd
",
        shell::file(file.directory),
        shell::word(file.name)
    )
}

/// Shell function that prints the connections that may carry a request: established, opening, or closed by the
/// instance only. A busy proxy has thousands of closed ones, so a search for plain words comes before the
/// pattern.
fn connections_function(remotes: &[String]) -> String {
    let words: String = remotes.iter().map(|r| format!(" -e ' {r}:' -e 'FFFF0000{r}:'")).collect();
    let listing = match remotes {
        [] => ":".into(),
        _ => format!(
            "grep -hF{words} /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -E '^ *[0-9]+: [^ ]+ [^ ]+ 0[1238] '"
        ),
    };
    format!("connections() {{ {listing}; }}\n")
}

/// Shell function that prints the version of our file that is in force.
fn served_function(check: &VersionCheck, api: Option<&Api>, name: &str) -> String {
    let host = check_host(name);
    let fetch = |base: String, host: &str, path: &str| fetch_command(&format!("{base}{path}"), host);
    let answer = match (check, api) {
        (VersionCheck::Route { address, .. }, _) => fetch(address.url(), &host, "/"),
        (VersionCheck::Api { .. }, Some(Api { address, path })) => {
            let object = |kind, n| {
                fetch(address.url(), "localhost", &format!("{path}/api/http/{kind}/{name}.{n}@file"))
            };
            let enabled = format!("{} | grep -q '\"status\":\"enabled\"'", object("routers", "check"));
            format!("{enabled} && {}", object("middlewares", "token"))
        }
        (VersionCheck::Api { .. }, None) => ":".into(),
    };
    format!(
        "served() {{ {{ {answer}; }} | sed -n '/127.0.0.1:1.[0-9a-f]/{{s|.*127.0.0.1:1/\\([0-9a-f]*\\).*|\\1|p;q}}'; }}\n"
    )
}

/// Script that prints these services as the API describes them.
pub fn services_script(api: Option<(&Api, &str)>, services: &[String]) -> String {
    let Some((Api { address, path }, host)) = api else {
        return String::new();
    };
    let base = format!("{}{path}/api", address.url());
    let query = |service: &String| {
        let fetch = fetch_command(&format!("{base}/http/services/{service}@docker"), host);
        format!("echo {}\n{fetch} | grep '^{{'\n", shell::word(&format!("@service {service}")))
    };
    let queries: String = services.iter().map(query).collect();
    let version = fetch_command(&format!("{base}/version"), host);
    format!("{version} | grep -q '^{{' && echo @api\n{queries}")
}

/// Script that prints the version in force, our file, and the connections. While our file is not in force yet,
/// the script also stores the connections from before.
pub fn state_script(
    file: &OverrideFile,
    check: &VersionCheck,
    api: Option<&Api>,
    remotes: &[String],
    services: &str,
) -> String {
    format!(
        "# read the proxy's state
{RUNS_FUNCTION}{FETCH}{REFERS}{}{}{}served=$(served)
if [ -z \"$served\" ] && [ -e \"$f\" ]; then
  before=$(connections)
  served=$(served)
  read -r up _ </proc/uptime
  [ -n \"$served\" ] || echo \"$up
$before\" >\"$s/$n.before\"
fi
read -r up _ </proc/uptime
echo \"@served $served\"
echo \"@now $up\"
for k in before left; do
  [ -e \"$s/$n.$k\" ] && {{ echo \"@$k\"; cat \"$s/$n.$k\"; }}
done
if [ -e \"$f\" ]; then echo @file; cat \"$f\"
else echo @references; grep -roE \"$refers\" \"$d\" | grep -v '/compose-zd[.]'; fi
echo @connections
connections
{services}echo @end",
        path_variables(file),
        connections_function(remotes),
        served_function(check, api, file.name),
    )
}

/// The same script for Traefik without a directory of routes.
pub fn discovery_script(remotes: &[String], services: &str) -> String {
    format!(
        "# read the proxy's state\n{RUNS_FUNCTION}{FETCH}{}echo @connections\nconnections\n{services}echo @end",
        connections_function(remotes)
    )
}

/// Script that installs our file, from stdin, atomically.
pub fn write_script(file: &OverrideFile, remotes: &[String]) -> String {
    format!(
        "# set the route
set -e
{}{}mkdir -p \"$s\"
read -r up _ </proc/uptime
[ -e \"$f\" ] || {{ echo $up; connections || :; }} >\"$s/$n.before\"
rm -f \"$s/$n.left\"
cat >\"$s/$n.new\"
mv -f \"$s/$n.new\" \"$f\"",
        path_variables(file),
        connections_function(remotes)
    )
}

/// Script that stores the start of the wait for Traefik's own discovery.
pub fn mark_script(file: &OverrideFile) -> String {
    format!(
        "# wait for Traefik's discovery\n{}mkdir -p \"$s\" && cut -d' ' -f1 /proc/uptime >\"$s/$n.left\"",
        path_variables(file)
    )
}

pub fn remove_script(file: &OverrideFile) -> String {
    format!("# hand the route back\n{}rm -f \"$f\"", path_variables(file))
}

/// Script that removes the remaining files once Traefik no longer reads the directory because of our file.
/// Traefik reports a file that disappears while it reads as an error.
pub fn remove_leftovers(file: &OverrideFile) -> String {
    format!(
        "# remove the leftovers
{}rm -f \"$s/$n.before\" \"$s/$n.left\" \"$s/$n.new\"
rmdir \"$s\" 2>/dev/null
exit 0",
        path_variables(file)
    )
}

/// Script that prints the files that Traefik reads, its answer, and the errors of its routes.
pub fn diagnosis_script(directory: Option<&str>, check: Option<&VersionCheck>, api: Option<&Api>) -> String {
    let files = directory.map(|d| format!("ls -l {}\n", shell::file(d))).unwrap_or_default();
    let address = check.and_then(VersionCheck::address).filter(|_| directory.is_some());
    let answer = address
        .map(|a| format!("{} | head -n 2\n", fetch_command(&format!("{}/", a.url()), "localhost")))
        .unwrap_or_default();
    let routes = api.map(|Api { address, path }| {
        let list = fetch_command(&format!("{}{path}/api/http/routers", address.url()), "localhost");
        format!("{list} | grep -o '\"error\":[^]]*]' | sort -u\n")
    });
    format!("# find the errors\n{RUNS_FUNCTION}{FETCH}{files}{answer}{}exit 0", routes.unwrap_or_default())
}
