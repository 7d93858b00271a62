//! Scripts that run in Caddy's container: POSIX sh, with the programs of its official images of any age.

use super::config::{CaddyFeatures, FOLDER};
use crate::shell::{self, RUNS_FUNCTION};

/// Shell function `call_api`: `call_api PATH` reads from the admin API, `call_api PATH FILE` posts to it.
/// Official images have curl since 2.11, and only busybox's wget before; bash is for custom images. A Unix
/// socket needs curl. The `timeout` of busybox leaves a process that Caddy as process 1 does not reap.
const CALL_API: &str = r#"unset http_proxy HTTP_PROXY all_proxy ALL_PROXY
over_bash='exec 3<>/dev/tcp/${0%:*}/${0##*:} || exit 1
verb=GET; length=0; [ -z "$2" ] || { verb=POST; length=$(wc -c < "$2"); }
printf "$verb $1 HTTP/1.0\r\nHost: $0\r\nContent-Type: application/json\r\nContent-Length: $length\r\n\r\n" >&3
[ -z "$2" ] || cat "$2" >&3
sed "1,/^\r*\$/d" <&3'
type=Content-Type:application/json
within=; case $(timeout --version 2>&1) in *oreutils*) within='timeout 20' ;; esac
by_curl() { curl -sS -m 20 $by ${2:+-H $type --data-binary @$2} "$at$1"; }
by_wget() { $within wget -T 20 -q -O - ${2:+--header $type --post-file $2} "$at$1"; }
by_bash() { $within bash -c "$over_bash" "$api" "$@"; }
call_api() {
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
    curl) echo 'the admin API on a socket needs curl, which the container does not have' >&2 ;;
    *) echo 'the container has neither curl, wget nor bash' >&2 ;;
  esac
  return 1
}
"#;

fn api_script(api: &str) -> String {
    format!("api={}\n{RUNS_FUNCTION}{CALL_API}", shell::word(api))
}

/// Script that finds the admin API by the configuration file, the environment or Caddy's default, and prints
/// the running configuration. Without an admin API it prints the file.
pub fn config_script(file: &str) -> String {
    format!(
        r#"# find the admin API
{call_api}for d in /dev/shm /tmp; do [ -w $d ] && echo "@folder $d" && break; done
echo "@version $(caddy version 2>/dev/null)"
in_file=$(sed -n 's/^[[:space:]]*admin[[:space:]]\{{1,\}}\([^[:space:]{{]\{{1,\}}\).*/\1/p' {file} 2>/dev/null | head -n 1)
for api in "$in_file" "$CADDY_ADMIN" 127.0.0.1:2019; do
  api=${{api#tcp/}}
  case $api in
    '' | off) continue ;;
    unix/*) api=${{api%%|*}} ;;
    :* | localhost:* | 0.0.0.0:* | '[::]:'*) api=127.0.0.1:${{api##*:}} ;;
  esac
  config=$(call_api /config/ 2>&1) && case $config in
    '{{"error"'*) ;;
    *) echo "@api $api"; printf '@config\n%s\n' "$config"; exit ;;
  esac
  error=${{error:-$config}}
done
printf '@error %s\n@file\n' "$error"
cat {file}"#,
        call_api = api_script(""),
        file = shell::file(file)
    )
}

/// Script that prints the switches with their ages and banks, Caddy's counters, and its configuration. The
/// counters come after the switches, so that they include every request from before a switch was turned.
pub fn state_script(api: &str, features: &CaddyFeatures) -> String {
    format!(
        r#"# read the proxy's state
{call_api}age() {{ echo $(( $(date +%s) - $(stat -c %Y "$1") )); }}
cd {folder}/{FOLDER} 2>/dev/null && for k in *; do
  [ -e "$k/on" ] && echo "@on $k $(age "./$k/on")"
  [ -e "$k/switched" ] && echo "@switched $k $(age "./$k/switched")"
  [ -e "$k/once" ] && echo "@once $k"
  for b in a b; do [ -e "$k/$b.set" ] && echo "@bank $k/$b $(cat "./$k/$b.set")"; done
done
echo @upstreams; call_api /reverse_proxy/upstreams || exit 1
echo; echo @config; call_api /config/ || exit 1"#,
        call_api = api_script(api),
        folder = shell::word(&features.folder)
    )
}

/// Script that fills an idle bank. A request may use any of its slots, so all of them get a name.
pub fn fill_bank(folder: &str, bank: &str, names: &[String], features: &CaddyFeatures) -> String {
    let folder = shell::word(folder);
    let fill_slot = if features.reads_files {
        format!("printf %s \"$n\" > {folder}/{bank}/$i")
    } else {
        format!("mkdir {folder}/{bank}/$i; : > {folder}/{bank}/$i/\"$n\"")
    };
    format!(
        "rm -rf {folder}/{bank}; mkdir -p {folder}/{bank}; i=0
for n in {slots}; do i=$((i+1)); {fill_slot}; done
echo {names} > {folder}/{bank}.set
",
        slots = shell::words(names.iter().cycle().take(features.slots())),
        names = shell::word(&names.join(" "))
    )
}

/// Script that loads the second line of stdin as configuration, if Caddy's configuration still equals the first
/// line. So it never undoes a change by another program, which the next query will show. Prints Caddy's reason if
/// Caddy refuses the configuration.
pub fn load_script(api: &str, features: &CaddyFeatures) -> String {
    format!(
        r#"{call_api}umask 077
f={folder}/.{FOLDER}-$$
trap 'rm -f $f $f.json' EXIT
cat > $f
[ "$(sed -n 1p $f)" = "$(call_api /config/)" ] || exit 0
sed -n 2p $f > $f.json
output=$(call_api /load $f.json 2>&1) && case $output in *'"error":'*) ;; *) exit 0 ;; esac
case $output in *'"error":'*) ;; *) output=$(caddy validate --config $f.json 2>&1 | tail -n 1) ;; esac
printf '%s\n' "$output" >&2
exit 1"#,
        call_api = api_script(api),
        folder = shell::word(&features.folder)
    )
}

/// Script that prints the files of the switches, without the configuration, which may hold secrets.
pub fn diagnosis_script(features: &CaddyFeatures) -> String {
    format!(
        "cd {}/{FOLDER} 2>/dev/null && ls */on */switched 2>/dev/null; grep . */*.set",
        shell::word(&features.folder)
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;
    use crate::process::run_program;

    #[test]
    fn a_tool_that_crashes_is_followed_by_the_next() {
        let bin = tempfile::tempdir().unwrap();
        symlink("/bin/sh", bin.path().join("sh")).unwrap();
        for (tool, script) in
            [("curl", "kill -SEGV $$"), ("wget", "echo by wget; exit 8"), ("bash", "echo no")]
        {
            let path = bin.path().join(tool);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let call_api = |api: &str| {
            let script = format!("{}call_api /config/", api_script(api));
            let path = Some(bin.path().as_os_str().to_owned());
            run_program(&["/bin/sh", "-c", &script], Path::new("/"), &[("PATH", path)]).unwrap()
        };
        let by_wget = call_api("127.0.0.1:2019");
        assert_eq!((by_wget.code, by_wget.stdout.as_str()), (Some(8), "by wget\n"));
        let by_socket = call_api("unix//run/caddy.sock");
        assert!(by_socket.stderr.contains("a socket needs curl"), "{}", by_socket.stderr);
    }
}
