//! HTTP as it is asked in a container, with whatever its image has: curl, wget, or bash.

use std::time::Duration;

use crate::docker::{Done, Exec};

/// Exit code of the script where there is nothing to ask with.
const NO_TOOL: i32 = 97;

/// Exit codes of `docker exec` where there is no `sh`: it cannot be run, or is not found.
const NO_SHELL: [i32; 2] = [126, 127];

/// A request, in the words of the script.
pub struct Request<'a> {
    pub url: &'a str,
    pub host: &'a str,
    /// Of the instance, without brackets.
    pub address: &'a str,
    pub port: u16,
    pub path: &'a str,
    pub timeout: Duration,
}

/// Its arguments: URL, Host, address, port, path, seconds. The first line that it prints says where the code is: in a
/// last line of its own after the body, or in the head. What follows a redirect is not wanted, and has its code behind
/// the first.
const SCRIPT: &str = r#"# ask from inside
if command -v curl >/dev/null; then
  echo @last
  exec curl -gksS -m "$6" -H "Host: $2" -A compose-zd -w '\n@code %{http_code}\n' "$1"
elif command -v wget >/dev/null; then
  echo @head
  exec wget -q -S -T "$6" --no-check-certificate --header "Host: $2" -U compose-zd -O - "$1" 2>&1
elif command -v bash >/dev/null && command -v timeout >/dev/null; then
  case $1 in https:*) echo 'bash alone cannot ask over https' >&2; exit 97 ;; esac
  echo @head
  exec timeout "$6" bash -c 'exec 3<>"/dev/tcp/$3/$4" || exit
    printf "GET %s HTTP/1.0\r\nHost: %s\r\nUser-Agent: compose-zd\r\nConnection: close\r\n\r\n" "$5" "$2" >&3
    exec cat <&3' "$0" "$@"
fi
exit 97
"#;

/// The question, in a container.
pub fn question(container: &str, request: &Request) -> Exec {
    let seconds = request.timeout.as_secs_f64().ceil().to_string();
    let port = request.port.to_string();
    let arguments =
        ["sh", request.url, request.host, request.address, &port, request.path, &seconds].map(String::from);
    let mut exec = Exec::sh(container, SCRIPT);
    exec.argv.extend(arguments);
    exec
}

/// Whether the container has nothing to ask with, so that it never will.
pub fn cannot(done: &Done) -> bool {
    done.code.is_some_and(|code| code == NO_TOOL || NO_SHELL.contains(&code))
}

/// Code and body; none where nothing answered.
pub fn read(stdout: &str) -> Option<(u16, &str)> {
    let (form, told) = stdout.split_once('\n')?;
    let code: u16 = match form {
        "@last" => told.lines().rfind(|l| l.starts_with("@code "))?["@code ".len()..].trim().parse().ok()?,
        // wget puts words of its own before it.
        "@head" => {
            let mut lines = told.lines().filter_map(|l| l.split_once("HTTP/"));
            lines.find_map(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok())?
        }
        _ => return None,
    };
    (code >= 100).then_some((code, told))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::docker::run_program;

    #[test]
    fn the_code_is_in_a_line_of_its_own_or_in_the_first_head() {
        assert_eq!(read("@last\nhello\n@code 200\n"), Some((200, "hello\n@code 200\n")));
        assert_eq!(read("@last\n\n@code 000\n"), None);
        assert_eq!(read("@head\n  HTTP/1.1 302 Found\n  Location: /x\n  HTTP/1.1 200 OK\n").unwrap().0, 302);
        let busybox = "@head\nwget: server returned error: HTTP/1.1 503 Service Unavailable\n";
        assert_eq!(read(busybox).unwrap().0, 503);
        assert_eq!(read("@head\nHTTP/1.0 204 No Content\r\n\r\n").unwrap().0, 204);
        assert_eq!(read("@head\nwget: can't connect to remote host: Connection refused\n"), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn a_container_without_a_shell_or_a_tool_cannot_ask_and_one_that_does_not_run_may_later() {
        let ended = |code| cannot(&Done { code, ..Done::default() });
        assert!(ended(Some(97)) && ended(Some(126)) && ended(Some(127)));
        assert!(!ended(Some(1)) && !ended(Some(7)) && !ended(None));
    }

    /// What the script asks a server of this machine, where these are all programs there are; and what is read of it.
    fn asked_with(tools: &[&str]) -> Option<(String, Option<u16>)> {
        let bin = tempfile::tempdir().unwrap();
        for tool in tools {
            symlink(which::which(tool).ok()?, bin.path().join(tool)).unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut part = [0; 4096];
                let length = stream.read(&mut part).unwrap();
                head.extend(&part[..length]);
            }
            write!(stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
                .unwrap();
            String::from_utf8_lossy(&head).into_owned()
        });
        let url = format!("http://127.0.0.1:{port}/up?a='b'");
        let timeout = Duration::from_secs(5);
        let request = Request {
            url: &url,
            host: "app.example",
            address: "127.0.0.1",
            port,
            path: "/up?a='b'",
            timeout,
        };
        let argv = question("c", &request).argv;
        let words: Vec<&str> = ["/bin/sh"].into_iter().chain(argv[1..].iter().map(String::as_str)).collect();
        let path = Some(bin.path().as_os_str().to_owned());
        let done = run_program(&words, Path::new("/"), &[("PATH", path)]).unwrap();
        Some((server.join().unwrap(), read(&done.stdout).map(|(code, _)| code)))
    }

    #[test]
    fn each_tool_asks_the_same() {
        for tools in [&["curl"][..], &["wget"], &["bash", "timeout", "cat"]] {
            // Not every machine has all of them.
            let Some((head, code)) = asked_with(tools) else { continue };
            let lower = head.to_lowercase();
            assert!(head.starts_with("GET /up?a='b' HTTP/1."), "{tools:?}: {head}");
            assert!(lower.contains("\r\nhost: app.example\r\n"), "{tools:?}: {head}");
            assert!(lower.contains("\r\nuser-agent: compose-zd\r\n"), "{tools:?}: {head}");
            assert_eq!(code, Some(404), "{tools:?}");
        }
    }

    #[test]
    fn where_there_is_no_tool_the_script_says_so_by_its_exit_code() {
        let bin = tempfile::tempdir().unwrap();
        let path = Some(bin.path().as_os_str().to_owned());
        let done = run_program(&["/bin/sh", "-c", SCRIPT], Path::new("/"), &[("PATH", path)]).unwrap();
        assert_eq!(done.code, Some(NO_TOOL));
    }
}
