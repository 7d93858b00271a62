//! The scripts that run in Caddy's container: POSIX sh, with what is in its official images of any age.

use super::config::{CaddyFeatures, OURS};
use crate::shell::{self, RUNS_FUNCTION};

/// `ask PATH` reads from the admin API, `ask PATH FILE` posts to it. Official images have curl since 2.11, and only
/// busybox's wget before; bash is for images of one's own. A socket's path needs curl.
const ASK: &str = r#"unset http_proxy HTTP_PROXY all_proxy ALL_PROXY
over_bash='exec 3<>/dev/tcp/${0%:*}/${0##*:} || exit 1
verb=GET; length=0; [ -z "$2" ] || { verb=POST; length=$(wc -c < "$2"); }
printf "$verb $1 HTTP/1.0\r\nHost: $0\r\nContent-Type: application/json\r\nContent-Length: $length\r\n\r\n" >&3
[ -z "$2" ] || cat "$2" >&3
sed "1,/^\r*\$/d" <&3'
type=Content-Type:application/json
within=; timeout 1 true 2>/dev/null && within='timeout 20'
by_curl() { curl -sS -m 20 $by ${2:+-H $type --data-binary @$2} "$at$1"; }
by_wget() { $within wget -q -O - ${2:+--header $type --post-file $2} "$at$1"; }
by_bash() { $within bash -c "$over_bash" "$api" "$@"; }
ask() {
  tools='curl wget bash'
  case $api in
    unix/*) at=http://caddy; by="--unix-socket ${api#unix/} -H Host;"; tools=curl ;;
    *) at=http://$api; by= ;;
  esac
  for tool in $tools; do
    command -v $tool >/dev/null || continue
    by_$tool "$@"; code=$?
    runs $code && return $code
  done
  case $tools in
    curl) echo 'a socket is reached by curl, which is not in it' >&2 ;;
    *) echo 'there is neither curl, wget nor bash in it' >&2 ;;
  esac
  return 1
}
"#;

fn asking(api: &str) -> String {
    format!("api={}\n{RUNS_FUNCTION}{ASK}", shell::word(api))
}

/// Finds the admin API where the configuration file, the environment or Caddy's default says it is, and reads the
/// running configuration; where there is none, prints the file.
pub fn introduction(file: &str) -> String {
    format!(
        r#"# find the admin API
{ask}for d in /dev/shm /tmp; do [ -w $d ] && echo "@folder $d" && break; done
echo "@version $(caddy version 2>/dev/null)"
said=$(sed -n 's/^[[:space:]]*admin[[:space:]]\{{1,\}}\([^[:space:]{{]\{{1,\}}\).*/\1/p' {file} 2>/dev/null | head -n 1)
for api in "$said" "$CADDY_ADMIN" 127.0.0.1:2019; do
  api=${{api#tcp/}}
  case $api in
    '' | off) continue ;;
    unix/*) api=${{api%%|*}} ;;
    :* | localhost:* | 0.0.0.0:* | '[::]:'*) api=127.0.0.1:${{api##*:}} ;;
  esac
  config=$(ask /config/ 2>&1) && case $config in
    '{{"error"'*) ;;
    *) echo "@api $api"; printf '@config\n%s\n' "$config"; exit ;;
  esac
  why=${{why:-$config}}
done
printf '@said %s\n@file\n' "$why"
cat {file}"#,
        ask = asking(""),
        file = shell::file(file)
    )
}

/// Prints how the switches are set and since when, what is in their banks, Caddy's counts, and its configuration: the
/// counts after the switches, so that what was begun before is among them.
pub fn question(api: &str, means: &CaddyFeatures) -> String {
    format!(
        r#"# what does it route to
{ask}age() {{ echo $(( $(date +%s) - $(stat -c %Y "$1") )); }}
cd {folder}/{OURS} 2>/dev/null && for k in *; do
  [ -e "$k/on" ] && echo "@on $k $(age "./$k/on")"
  [ -e "$k/switched" ] && echo "@switched $k $(age "./$k/switched")"
  [ -e "$k/once" ] && echo "@once $k"
  for b in a b; do [ -e "$k/$b.set" ] && echo "@bank $k/$b $(cat "./$k/$b.set")"; done
done
echo @upstreams; ask /reverse_proxy/upstreams || exit 1
echo; echo @config; ask /config/ || exit 1"#,
        ask = asking(api),
        folder = shell::word(&means.folder)
    )
}

/// Fills a bank that gets no request now. A request may find any of its slots, so all of them have a name.
pub fn fill(place: &str, bank: &str, names: &[String], means: &CaddyFeatures) -> String {
    let place = shell::word(place);
    let put = match means.reads_files {
        true => format!("printf %s \"$n\" > {place}/{bank}/$i"),
        false => format!("mkdir {place}/{bank}/$i; : > {place}/{bank}/$i/\"$n\""),
    };
    format!(
        "rm -rf {place}/{bank}; mkdir -p {place}/{bank}; i=0
for n in {slots}; do i=$((i+1)); {put}; done
echo {names} > {place}/{bank}.set
",
        slots = shell::words(names.iter().cycle().take(means.slots())),
        names = shell::word(&names.join(" "))
    )
}

/// Loads the second line of what it reads, if what Caddy has is still the first one: what somebody else has changed in
/// between is not undone, and seen by the next look. What Caddy says of a configuration that it refuses is told.
pub fn load(api: &str, means: &CaddyFeatures) -> String {
    format!(
        r#"{ask}umask 077
f={folder}/.{OURS}-$$
trap 'rm -f $f $f.json' EXIT
cat > $f
[ "$(sed -n 1p $f)" = "$(ask /config/)" ] || exit 0
sed -n 2p $f > $f.json
said=$(ask /load $f.json 2>&1) && case $said in *'"error":'*) ;; *) exit 0 ;; esac
case $said in *'"error":'*) ;; *) said=$(caddy validate --config $f.json 2>&1 | tail -n 1) ;; esac
printf '%s\n' "$said" >&2
exit 1"#,
        ask = asking(api),
        folder = shell::word(&means.folder)
    )
}

/// How the switches are set; the configuration itself may hold secrets.
pub fn diagnosis(means: &CaddyFeatures) -> String {
    format!(
        "cd {}/{OURS} 2>/dev/null && ls */on */switched 2>/dev/null; grep . */*.set",
        shell::word(&means.folder)
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;
    use crate::docker::run_program;

    #[test]
    fn a_tool_that_crashes_is_followed_by_the_next() {
        let bin = tempfile::tempdir().unwrap();
        symlink("/bin/sh", bin.path().join("sh")).unwrap();
        for (tool, does) in [("curl", "kill -SEGV $$"), ("wget", "echo by wget; exit 8"), ("bash", "echo no")]
        {
            let path = bin.path().join(tool);
            fs::write(&path, format!("#!/bin/sh\n{does}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let ask = |api: &str| {
            let script = format!("{}ask /config/", asking(api));
            let path = Some(bin.path().as_os_str().to_owned());
            run_program(&["/bin/sh", "-c", &script], Path::new("/"), &[("PATH", path)]).unwrap()
        };
        let done = ask("127.0.0.1:2019");
        assert_eq!((done.code, done.stdout.as_str()), (Some(8), "by wget\n"));
        let by_socket = ask("unix//run/caddy.sock");
        assert!(by_socket.stderr.contains("a socket is reached by curl"), "{}", by_socket.stderr);
    }
}
