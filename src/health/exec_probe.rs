//! HTTP probe inside a container, with any tool that its image has: curl, wget, or bash.

use std::time::Duration;

use crate::docker::{CommandResult, Exec};
use crate::shell::RUNS_FUNCTION;

/// Exit code of the script if the container has no tool.
const NO_TOOL: i32 = 97;

/// Exit codes of `docker exec` if `sh` cannot run or does not exist.
const NO_SHELL: [i32; 2] = [126, 127];

/// Values of a request for the script.
pub struct ExecRequest<'a> {
    pub url: &'a str,
    pub host: &'a str,
    /// Address of the instance, without brackets.
    pub address: &'a str,
    pub port: u16,
    pub path: &'a str,
    pub timeout: Duration,
    /// Most bytes of the response that are read.
    pub bytes: u64,
}

/// Script that sends the request and prints the response with its head. Arguments: URL, Host, address, port, path,
/// seconds, bytes, seconds for a tool without a limit of its own. The limits are those of a probe from outside.
/// Busybox's wget always follows a redirect, but its first response counts. If a tool does not run, the script
/// tries the next. The `timeout` of busybox is not used with a tool that has a limit of its own, because it leaves a process
/// that many apps as process 1 do not reap.
const SCRIPT: &str = r#"# probe from inside
unset http_proxy HTTP_PROXY https_proxy HTTPS_PROXY all_proxy ALL_PROXY
within() { case $(timeout --version 2>&1) in *oreutils*) timeout "$limit" "$@" ;; *) "$@" ;; esac; }
limit=$8
by_curl() { within curl -qgkisSN -m "$6" -H "Host: $2" -A compose-zd "$1"; }
by_wget() {
  once=; wget --help 2>&1 | grep -q max-redirect && once=--max-redirect=0
  within wget -q -S $once -T "$6" --no-check-certificate --header "Host: $2" -U compose-zd -O - "$1" 2>&1
}
by_bash() {
  command -v timeout >/dev/null || return 127
  case $1 in https:*) echo 'bash alone cannot use https' >&2; return 127 ;; esac
  timeout "$6" bash -c 'exec 3<>"/dev/tcp/$3/$4" || exit
    printf "GET %s HTTP/1.0\r\nHost: %s\r\nUser-Agent: compose-zd\r\nConnection: close\r\n\r\n" "$5" "$2" >&3
    exec cat <&3' "$0" "$@"
}
for tool in curl wget bash; do
  command -v $tool >/dev/null || continue
  code=$({ { by_$tool "$@" 3>&-; echo $? >&3; } | head -c "$7" >&4; } 3>&1) 4>&1
  runs "$code" && exit "$code"
  echo "$tool does not run (exit code $code)" >&2
done
exit 97
"#;

/// Command that sends the request from a container.
pub fn probe_command(container: &str, request: &ExecRequest) -> Exec {
    let seconds = request.timeout.as_secs_f64().ceil();
    let (limit, longer) = (seconds.to_string(), (seconds + 1.0).to_string());
    let (port, bytes) = (request.port.to_string(), request.bytes.to_string());
    let arguments =
        ["sh", request.url, request.host, request.address, &port, request.path, &limit, &bytes, &longer];
    let arguments = arguments.map(String::from);
    let mut exec = Exec::sh(container, format!("{RUNS_FUNCTION}{SCRIPT}"));
    exec.argv.extend(arguments);
    exec
}

/// True if the container has no tool for a probe, and never will.
pub fn has_no_tool(result: &CommandResult) -> bool {
    result.code.is_some_and(|code| code == NO_TOOL || NO_SHELL.contains(&code))
}

/// Reason why no tool could send the request.
pub fn missing_tool(result: &CommandResult) -> String {
    match result.stderr.lines().last().filter(|_| result.code == Some(NO_TOOL)) {
        Some(line) => line.trim().into(),
        None => "there is neither curl, wget nor bash".into(),
    }
}

/// Status code and body of the first final response. Wget indents the head. Busybox's wget reports an error in a
/// form of its own.
pub fn parse_response(stdout: &str) -> Option<(u16, &str)> {
    let mut rest = stdout;
    while !rest.is_empty() {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        if let Some(status_line) = line.strip_prefix("wget: server returned error: ") {
            return Some((status(status_line)?, after));
        }
        if let Some(code) = status(line).filter(|code| *code >= 200) {
            return Some((code, without_head(after, line.starts_with(' '))?));
        }
        rest = after;
    }
    None
}

/// Status code in a line such as `HTTP/1.1 200 OK`.
fn status(line: &str) -> Option<u16> {
    let (version, rest) = line.trim().split_once(' ')?;
    let code = rest.trim_start().get(..3)?.parse().ok()?;
    (version.starts_with("HTTP/") && (100..=599).contains(&code)).then_some(code)
}

/// Body after the head; `None` if the head has no end.
fn without_head(text: &str, indented: bool) -> Option<&str> {
    let mut rest = text;
    while let Some((line, after)) = rest.split_once('\n') {
        if indented && !line.starts_with("  ") {
            return Some(rest);
        }
        rest = after;
        if line.trim().is_empty() {
            return Some(rest);
        }
    }
    indented.then_some(rest)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;
    use crate::process::run_program;

    #[test]
    fn the_first_final_response_counts() {
        let by_curl = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nServer: x\r\n\r\nHTTP/1.1 500 no\n";
        assert_eq!(parse_response(by_curl), Some((200, "HTTP/1.1 500 no\n")));
        let by_wget = "  HTTP/1.1 302 Found\n  Location: /in\n  HTTP/1.1 200 OK\n  Server: x\nhello";
        assert_eq!(parse_response(by_wget), Some((302, "hello")));
        assert_eq!(parse_response("  HTTP/1.1 204 No Content\n  Server: x\n"), Some((204, "")));
        assert_eq!(parse_response("HTTP/1.0 204 No Content\r\n\r\n"), Some((204, "")));
        let busybox = "wget: server returned error: HTTP/1.1 503 Service Unavailable\n";
        assert_eq!(parse_response(busybox), Some((503, "")));
        for nothing in [
            "HTTP/1.1 200 OK\r\nX: cut off",
            "HTTP/1.1 200 OK\r\n",
            "",
            "hello\n",
            "HTTP/1.1 2\n",
            "HTTP/1.1 999 x\n",
            "HTTP/1.1 20é",
            "a\n@code 200\nb",
            "curl: (7) no",
            "wget: can't connect to remote host: Connection refused\n",
        ] {
            assert_eq!(parse_response(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn no_part_of_a_request_is_run_as_a_script() {
        for text in crate::shell::tests::HOSTILE {
            let url = format!("http://127.0.0.1:80/{text}");
            let timeout = Duration::from_secs(1);
            let request = ExecRequest {
                url: &url,
                host: text,
                address: "127.0.0.1",
                port: 80,
                path: text,
                timeout,
                bytes: 9999,
            };
            let argv = probe_command("c", &request).argv;
            let fake = "curl() { for w in \"$@\"; do printf '<%s>' \"$w\"; done; }; timeout() { false; }\n";
            let script = format!("{fake}{}", argv[2]);
            let words: Vec<&str> =
                ["/bin/sh", "-c", &script].into_iter().chain(argv[3..].iter().map(String::as_str)).collect();
            let output = run_program(&words, Path::new("/"), &[]).unwrap().stdout;
            assert_eq!(output, format!("<-qgkisSN><-m><1><-H><Host: {text}><-A><compose-zd><{url}>"));
        }
    }

    #[test]
    fn a_container_without_a_shell_or_a_tool_differs_from_one_that_does_not_run() {
        let has_no_tool_with = |code| has_no_tool(&CommandResult { code, ..CommandResult::default() });
        assert!(has_no_tool_with(Some(97)) && has_no_tool_with(Some(126)) && has_no_tool_with(Some(127)));
        assert!(!has_no_tool_with(Some(1)) && !has_no_tool_with(Some(7)) && !has_no_tool_with(None));
    }

    /// Request that the script sends to a server of this machine with only these programs, and the status code read
    /// back.
    fn request_with(tools: &[&str], crashes: &[&str]) -> Option<(String, Option<u16>)> {
        let bin = tempfile::tempdir().unwrap();
        for tool in tools {
            symlink(which::which(tool).ok()?, bin.path().join(tool)).unwrap();
        }
        for tool in crashes {
            let path = bin.path().join(tool);
            fs::write(&path, "#!/bin/sh\nkill -SEGV $$\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut chunk = [0; 4096];
                let length = stream.read(&mut chunk).unwrap();
                head.extend(&chunk[..length]);
            }
            write!(stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
                .unwrap();
            String::from_utf8_lossy(&head).into_owned()
        });
        let url = format!("http://127.0.0.1:{port}/up?a='b'");
        let timeout = Duration::from_secs(5);
        let request = ExecRequest {
            url: &url,
            host: "app.example",
            address: "127.0.0.1",
            port,
            path: "/up?a='b'",
            timeout,
            bytes: 64 << 10,
        };
        let argv = probe_command("c", &request).argv;
        let words: Vec<&str> = ["/bin/sh"].into_iter().chain(argv[1..].iter().map(String::as_str)).collect();
        let path = Some(bin.path().as_os_str().to_owned());
        let result = run_program(&words, Path::new("/"), &[("PATH", path)]).unwrap();
        Some((server.join().unwrap(), parse_response(&result.stdout).map(|(code, _)| code)))
    }

    #[test]
    fn each_tool_sends_the_same_request() {
        for tools in [&["curl", "head"][..], &["wget", "head"], &["bash", "timeout", "cat", "head"]] {
            // Not every machine has all of them.
            let Some((head, code)) = request_with(tools, &[]) else { continue };
            let lower = head.to_lowercase();
            assert!(head.starts_with("GET /up?a='b' HTTP/1."), "{tools:?}: {head}");
            assert!(lower.contains("\r\nhost: app.example\r\n"), "{tools:?}: {head}");
            assert!(lower.contains("\r\nuser-agent: compose-zd\r\n"), "{tools:?}: {head}");
            assert_eq!(code, Some(404), "{tools:?}");
        }
    }

    #[test]
    fn a_tool_that_crashes_is_followed_by_the_next() {
        let Some((_, code)) = request_with(&["bash", "timeout", "cat", "head"], &["curl", "wget"]) else {
            return;
        };
        assert_eq!(code, Some(404));
    }

    #[test]
    fn the_last_tool_is_named_if_every_tool_crashes() {
        let crashed = CommandResult {
            code: Some(97),
            stderr: "x\nwget does not run (exit code 139)\n".into(),
            ..CommandResult::default()
        };
        assert!(has_no_tool(&crashed));
        assert_eq!(missing_tool(&crashed), "wget does not run (exit code 139)");
        let no_shell = CommandResult {
            code: Some(127),
            stderr: "OCI runtime exec failed".into(),
            ..CommandResult::default()
        };
        assert_eq!(missing_tool(&no_shell), "there is neither curl, wget nor bash");
    }

    #[test]
    fn a_script_without_a_tool_has_its_own_exit_code() {
        let bin = tempfile::tempdir().unwrap();
        let path = Some(bin.path().as_os_str().to_owned());
        let result = run_program(&["/bin/sh", "-c", SCRIPT], Path::new("/"), &[("PATH", path)]).unwrap();
        assert_eq!(result.code, Some(NO_TOOL));
    }
}
