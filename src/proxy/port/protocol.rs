//! Protocol of a port, by its answer to one request.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Limit for the connection, and for the answer.
const LIMIT: Duration = Duration::from_secs(1);

/// Protocol of a port, the likeliest one for a readiness probe over HTTP first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Http,
    /// The port accepts a connection, and answers too late.
    Unknown,
    /// Another one, such as ssh or TLS.
    Other,
    /// Nothing accepts a connection.
    Closed,
}

impl Protocol {
    /// Protocol of a port that this machine reaches.
    pub fn at(address: SocketAddr) -> Protocol {
        match TcpStream::connect_timeout(&address, LIMIT) {
            Ok(stream) => Protocol::by_answer(stream, address),
            Err(_) => Protocol::Closed,
        }
    }

    fn by_answer(mut stream: TcpStream, address: SocketAddr) -> Protocol {
        const HTTP: &[u8] = b"HTTP/";
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {address}\r\nUser-Agent: compose-zd\r\nConnection: close\r\n\r\n"
        );
        let mut start = [0; HTTP.len()];
        let mut exchange = || {
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all(request.as_bytes())?;
            stream.read_exact(&mut start)
        };
        match exchange() {
            Ok(()) if start == HTTP => Protocol::Http,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Protocol::Unknown
            }
            Ok(()) | Err(_) => Protocol::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Protocol of a port that answers a request with these bytes, and then closes.
    fn of_answer(bytes: &'static [u8]) -> Protocol {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert_ne!(stream.read(&mut [0; 512]).unwrap(), 0);
            stream.write_all(bytes).unwrap();
        });
        let protocol = Protocol::at(address);
        server.join().unwrap();
        protocol
    }

    #[test]
    fn the_first_bytes_of_the_answer_are_those_of_http_or_of_another_protocol() {
        assert_eq!(of_answer(b"HTTP/1.1 404 Not Found\r\n\r\n"), Protocol::Http);
        for other in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"-ERR\r\n", b""] {
            assert_eq!(of_answer(other), Protocol::Other, "{other:?}");
        }
    }

    #[test]
    fn a_port_that_answers_too_late_or_not_at_all_may_be_http() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(Protocol::at(address), Protocol::Unknown);
        drop(listener);
        assert_eq!(Protocol::at(address), Protocol::Closed);
    }
}
