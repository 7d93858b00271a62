//! Access to the runtime API from inside the container.

use crate::shell;

/// Script that sends commands to the runtime API by a program of the image: socat since late 2025, perl in
/// Debian's, or python. Each program has a timeout, for an HAProxy that hangs.
///
/// The script quotes the commands and the socket as one shell word each: commands contain the options of a
/// user's `server` line.
pub fn script(socket: &str, commands: &str) -> String {
    let (is_unix, address) = parse_address(socket);
    let (socat, perl, python) = if is_unix {
        (
            "UNIX-CONNECT:$p",
            "IO::Socket::UNIX->new(Peer=>$ARGV[1])",
            "s=socket.socket(socket.AF_UNIX);s.settimeout(20);s.connect(sys.argv[2])",
        )
    } else {
        (
            "TCP:127.0.0.1:$p",
            "IO::Socket::INET->new(\"127.0.0.1:$ARGV[1]\")",
            "s=socket.create_connection((\"127.0.0.1\",int(sys.argv[2])),20)",
        )
    };
    let netcat = if is_unix {
        ""
    } else {
        "elif command -v nc >/dev/null; then printf '%s\\n' \"$c\" | nc -w 20 127.0.0.1 \"$p\"\n  "
    };
    let first = commands.lines().next().unwrap_or_default();
    format!(
        "# haproxy: {first}
c={commands}
p={address}
send() {{
  if command -v socat >/dev/null; then printf '%s\\n' \"$c\" | socat -t 5 -T 20 stdio \"{socat}\"
  elif command -v perl >/dev/null; then
    perl -MIO::Socket -e 'alarm 20; $s={perl} or die \"$ARGV[1]: $!\\n\"; print $s \"$ARGV[0]\\n\"; print while <$s>' \"$c\" \"$p\"
  elif command -v python3 >/dev/null; then
    python3 -c 'import socket,sys
{python};s.sendall((sys.argv[1]+\"\\n\").encode())
for d in iter(lambda:s.recv(65536),b\"\"):sys.stdout.write(d.decode())' \"$c\" \"$p\"
  {netcat}else echo 'the container has neither socat, perl nor python3' >&2; return 1
  fi
}}
send
",
        commands = shell::word(commands),
        address = shell::word(address)
    )
}

/// Parses the address of a `stats socket`: whether it is a Unix socket, and its path or port.
pub fn parse_address(socket: &str) -> (bool, &str) {
    let bare = socket.split('@').next_back().unwrap_or(socket);
    let is_unix = bare.starts_with('/');
    (is_unix, if is_unix { bare } else { bare.rsplit(':').next().unwrap_or(bare) })
}
