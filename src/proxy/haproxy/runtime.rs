//! How the runtime API is reached from inside of the container.

/// Sends commands to the runtime API by whatever is in the image: socat since late 2025, perl in Debian's, python.
pub fn script(socket: &str, commands: &str) -> String {
    let (unix, place) = place(socket);
    let (socat, perl, python) = match unix {
        true => (
            format!("UNIX-CONNECT:{place}"),
            format!("IO::Socket::UNIX->new(Peer=>\"{place}\")"),
            format!("s=socket.socket(socket.AF_UNIX);s.connect(\"{place}\")"),
        ),
        false => (
            format!("TCP:127.0.0.1:{place}"),
            format!("IO::Socket::INET->new(\"127.0.0.1:{place}\")"),
            format!("s=socket.create_connection((\"127.0.0.1\",{place}))"),
        ),
    };
    let netcat = match unix {
        true => String::new(),
        false => format!("elif command -v nc >/dev/null; then echo \"$c\" | nc 127.0.0.1 {place}\n  "),
    };
    // An option of a `server` line may have quotes of its own.
    let quoted = commands.replace('\'', r"'\''");
    format!(
        "# haproxy: {commands}
c='{quoted}'
ask() {{
  if command -v socat >/dev/null; then echo \"$c\" | socat -t 5 stdio {socat}
  elif command -v perl >/dev/null; then
    perl -MIO::Socket -e '$s={perl} or die \"{place}: $!\\n\"; print $s \"$ARGV[0]\\n\"; print while <$s>' \"$c\"
  elif command -v python3 >/dev/null; then
    python3 -c 'import socket,sys
{python};s.sendall((sys.argv[1]+\"\\n\").encode())
for d in iter(lambda:s.recv(65536),b\"\"):sys.stdout.write(d.decode())' \"$c\"
  {netcat}else echo 'there is neither socat, perl nor python in it' >&2; return 1
  fi
}}
ask
"
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
