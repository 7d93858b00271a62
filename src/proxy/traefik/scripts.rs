//! The scripts that run in Traefik's container: POSIX sh, with what busybox has.

use super::override_file::host;
use super::version_check::{Api, VersionCheck};
use crate::shell::{self, RUNS_FUNCTION};

/// A file of ours, and the directory that Traefik reads it from.
pub struct OverrideFile<'a> {
    pub directory: &'a str,
    pub name: &'a str,
}

/// Prints the first file of these that there is, and what there is to ask Traefik with.
pub fn introduction(files: &[String]) -> String {
    let files: Vec<String> = files.iter().map(|f| shell::file(f)).collect();
    format!(
        "# what is its configuration
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

/// Whether files can be added to the directory.
pub fn inspection(directory: &str) -> String {
    format!(
        "# can a file be added
d=$(cd -P {} && pwd) || exit 1
n=0
while read -r _ _ _ _ m o _; do
  case $d/ in \"${{m%/}}\"/*) [ ${{#m}} -ge $n ] && n=${{#m}} && r=$o ;; esac
done </proc/self/mountinfo
case ,$r, in *,ro,*) echo @readonly ;; *) [ -w \"$d\" ] || echo @readonly ;; esac",
        shell::file(directory)
    )
}

/// Prints a whole answer to a request: wget and curl speak TLS, nc and bash do not.
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

/// Asks for a URL, by a host.
fn fetch(url: &str, host: &str) -> String {
    format!("fetch {} {}", shell::word(url), shell::word(host))
}

/// What in a file of routes names a service of labels.
const REFERS: &str =
    "refers=\"(service|name|fallback)[\\\"']?[[:space:]]*[:=][[:space:]]*[\\\"']?[A-Za-z0-9_.-]+@docker\"\n";

/// Where our file is, and where what is not yet, or never, a file of routes: beside the directory if that is the same
/// file system, because Traefik looks at every change in it, and then not again for two seconds.
fn places(file: &OverrideFile) -> String {
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

/// Prints the connections that may carry a request: established, opening, or closed by the instance only. A busy proxy
/// has thousands that were closed, so plain words come before the pattern.
fn connections(remotes: &[String]) -> String {
    let words: String = remotes.iter().map(|r| format!(" -e ' {r}:' -e 'FFFF0000{r}:'")).collect();
    let listed = match remotes.is_empty() {
        true => ":".into(),
        false => format!(
            "grep -hF{words} /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -E '^ *[0-9]+: [^ ]+ [^ ]+ 0[1238] '"
        ),
    };
    format!("connections() {{ {listed}; }}\n")
}

/// Prints the version of our file that is in force.
fn served(door: &VersionCheck, api: Option<&Api>, name: &str) -> String {
    let host = host(name);
    let of = |place: String, host: &str, path: &str| fetch(&format!("{place}{path}"), host);
    let answer = match (door, api) {
        (VersionCheck::Route { place, .. }, _) => of(place.url(), &host, "/"),
        (VersionCheck::Api { .. }, Some(Api { place, path })) => {
            let object =
                |kind, n| of(place.url(), "localhost", &format!("{path}/api/http/{kind}/{name}.{n}@file"));
            let enabled = format!("{} | grep -q '\"status\":\"enabled\"'", object("routers", "check"));
            format!("{enabled} && {}", object("middlewares", "token"))
        }
        (VersionCheck::Api { .. }, None) => ":".into(),
    };
    format!(
        "served() {{ {{ {answer}; }} | sed -n '/127.0.0.1:1.[0-9a-f]/{{s|.*127.0.0.1:1/\\([0-9a-f]*\\).*|\\1|p;q}}'; }}\n"
    )
}

/// Prints what the API says of these services.
pub fn services(api: Option<(&Api, &str)>, services: &[String]) -> String {
    let Some((Api { place, path }, host)) = api else {
        return String::new();
    };
    let base = format!("{}{path}/api", place.url());
    let one = |service: &String| {
        let asked = fetch(&format!("{base}/http/services/{service}@docker"), host);
        format!("echo {}\n{asked} | grep '^{{'\n", shell::word(&format!("@service {service}")))
    };
    let all: String = services.iter().map(one).collect();
    let version = fetch(&format!("{base}/version"), host);
    format!("{version} | grep -q '^{{' && echo @api\n{all}")
}

/// What is in force, what our file says, and which connections there are; those from before our file was in force are
/// written down for as long as it is not.
pub fn question(
    file: &OverrideFile,
    door: &VersionCheck,
    api: Option<&Api>,
    remotes: &[String],
    services: &str,
) -> String {
    format!(
        "# what does it route to
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
        places(file),
        connections(remotes),
        served(door, api, file.name),
    )
}

/// The same where there is only the API.
pub fn watching(remotes: &[String], services: &str) -> String {
    format!(
        "# what does it route to\n{RUNS_FUNCTION}{FETCH}{}echo @connections\nconnections\n{services}echo @end",
        connections(remotes)
    )
}

/// Writes our file, which comes on stdin, at once.
pub fn write(file: &OverrideFile, remotes: &[String]) -> String {
    format!(
        "# set the route
set -e
{}{}mkdir -p \"$s\"
read -r up _ </proc/uptime
[ -e \"$f\" ] || {{ echo $up; connections || :; }} >\"$s/$n.before\"
rm -f \"$s/$n.left\"
cat >\"$s/$n.new\"
mv -f \"$s/$n.new\" \"$f\"",
        places(file),
        connections(remotes)
    )
}

/// Notes since when there is nothing left to do but to wait for Traefik's own discovery.
pub fn mark(file: &OverrideFile) -> String {
    format!(
        "# wait for its discovery\n{}mkdir -p \"$s\" && cut -d' ' -f1 /proc/uptime >\"$s/$n.left\"",
        places(file)
    )
}

pub fn remove(file: &OverrideFile) -> String {
    format!("# give the route back\n{}rm -f \"$f\"", places(file))
}

/// Removes the rest, once Traefik does not read the directory for the file any more: what goes while it reads is an
/// error to it.
pub fn remove_leftovers(file: &OverrideFile) -> String {
    format!(
        "# leave nothing
{}rm -f \"$s/$n.before\" \"$s/$n.left\" \"$s/$n.new\"
rmdir \"$s\" 2>/dev/null
exit 0",
        places(file)
    )
}

/// Shows what Traefik reads, whether it answers, and what it says is wrong with its routes.
pub fn diagnosis(directory: Option<&str>, door: Option<&VersionCheck>, api: Option<&Api>) -> String {
    let files = directory.map(|d| format!("ls -l {}\n", shell::file(d))).unwrap_or_default();
    let place = door.and_then(VersionCheck::place).filter(|_| directory.is_some());
    let answer = place
        .map(|p| format!("{} | head -n 2\n", fetch(&format!("{}/", p.url()), "localhost")))
        .unwrap_or_default();
    let routes = api.map(|Api { place, path }| {
        let list = fetch(&format!("{}{path}/api/http/routers", place.url()), "localhost");
        format!("{list} | grep -o '\"error\":[^]]*]' | sort -u\n")
    });
    format!("# what is wrong\n{RUNS_FUNCTION}{FETCH}{files}{answer}{}exit 0", routes.unwrap_or_default())
}
