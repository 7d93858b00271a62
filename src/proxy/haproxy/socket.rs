//! How the runtime API is reached from inside of the container.

use crate::shell;

/// Sends commands to the runtime API by whatever is in the image: socat since late 2025, perl in Debian's, python. None of
/// them waits for an HAProxy that hangs.
///
/// Neither the commands, with the options of a user's `server` line, nor the socket stand in a script but as one word.
pub fn script(socket: &str, commands: &str) -> String {
    let (unix, place) = place(socket);
    let (socat, perl, python) = match unix {
        true => (
            "UNIX-CONNECT:$p",
            "IO::Socket::UNIX->new(Peer=>$ARGV[1])",
            "s=socket.socket(socket.AF_UNIX);s.settimeout(20);s.connect(sys.argv[2])",
        ),
        false => (
            "TCP:127.0.0.1:$p",
            "IO::Socket::INET->new(\"127.0.0.1:$ARGV[1]\")",
            "s=socket.create_connection((\"127.0.0.1\",int(sys.argv[2])),20)",
        ),
    };
    let netcat = match unix {
        true => "",
        false => "elif command -v nc >/dev/null; then printf '%s\\n' \"$c\" | nc -w 20 127.0.0.1 \"$p\"\n  ",
    };
    let first = commands.lines().next().unwrap_or_default();
    format!(
        "# haproxy: {first}
c={commands}
p={place}
ask() {{
  if command -v socat >/dev/null; then printf '%s\\n' \"$c\" | socat -t 5 -T 20 stdio \"{socat}\"
  elif command -v perl >/dev/null; then
    perl -MIO::Socket -e 'alarm 20; $s={perl} or die \"$ARGV[1]: $!\\n\"; print $s \"$ARGV[0]\\n\"; print while <$s>' \"$c\" \"$p\"
  elif command -v python3 >/dev/null; then
    python3 -c 'import socket,sys
{python};s.sendall((sys.argv[1]+\"\\n\").encode())
for d in iter(lambda:s.recv(65536),b\"\"):sys.stdout.write(d.decode())' \"$c\" \"$p\"
  {netcat}else echo 'there is neither socat, perl nor python in it' >&2; return 1
  fi
}}
ask
",
        commands = shell::word(commands),
        place = shell::word(place)
    )
}

/// Where a `stats socket` is: a path, or a port.
pub fn place(socket: &str) -> (bool, &str) {
    let bare = socket.split('@').next_back().unwrap_or(socket);
    match bare.starts_with('/') {
        true => (true, bare),
        false => (false, bare.rsplit(':').next().unwrap_or(bare)),
    }
}
