//! Asks a URL once, on a connection of its own, and tells exactly what became of it.

use std::io::{Read, sink};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use reqwest::blocking::{Client, Response};
use reqwest::header::{CONNECTION, HOST, LOCATION, USER_AGENT};
use reqwest::redirect::Policy;

use super::sample::Outcome;
use crate::model::Witnessing;
use crate::proxy::entrance::Place;

/// How much of an answer is read, in bytes; what is longer counts as whole.
const BODY_LIMIT: u64 = 4 << 20;

/// The longest name of a version that is kept, in characters.
const VERSION: usize = 40;

/// Asks one place.
pub struct Asker {
    client: Client,
    pub place: Place,
    timeout: Duration,
    version_header: String,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub outcome: Outcome,
    pub version: Option<String>,
    /// It only sends clients on to the same by TLS.
    pub goes_to_tls: bool,
}

impl Asker {
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(place: &Place, settings: &Witnessing) -> Result<Asker> {
        let mut builder = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .timeout(settings.timeout)
            .pool_max_idle_per_host(0);
        if let (Some(ip), Some(host)) = (place.connect, place.url.host_str()) {
            builder = builder.resolve(host, SocketAddr::new(ip, 0));
        }
        #[cfg(feature = "tls")]
        crate::tls::choose_provider();
        // The proxy of this engine is asked; whether others believe its certificate is not the question.
        #[cfg(feature = "tls")]
        let builder = builder.tls_danger_accept_invalid_certs(true);
        Ok(Asker {
            client: builder.build()?,
            place: place.clone(),
            timeout: settings.timeout,
            version_header: settings.version_header.clone(),
        })
    }

    pub fn ask(&self) -> Said {
        // The limit is the request's, so that it is for all of it: that of the client begins anew with every piece of a body.
        let request = self.client.get(self.place.url.clone()).timeout(self.timeout);
        let mut request = request.header(USER_AGENT, "compose-zd").header(CONNECTION, "close");
        if let Some(host) = &self.place.host {
            request = request.header(HOST, host);
        }
        match request.send() {
            Ok(response) => self.read(response),
            Err(error) if error.is_timeout() => Said::lost(Outcome::TimedOut),
            Err(error) if error.is_connect() => Said::lost(Outcome::Refused),
            Err(_) => Said::lost(Outcome::Cut),
        }
    }

    fn read(&self, response: Response) -> Said {
        let header =
            |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_string);
        let location = header(LOCATION.as_str()).unwrap_or_default();
        let status = response.status();
        let goes_to_tls = self.place.url.scheme() == "http"
            && status.is_redirection()
            && location.to_lowercase().starts_with("https:");
        let version = header(&self.version_header).map(|v| v.chars().take(VERSION).collect());
        match std::io::copy(&mut response.take(BODY_LIMIT), &mut sink()) {
            Ok(_) => Said { outcome: Outcome::Status(status.as_u16()), version, goes_to_tls },
            Err(error) if is_timeout(&error) => Said::lost(Outcome::TimedOut),
            Err(_) => Said::lost(Outcome::Cut),
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<reqwest::Error>());
    error.kind() == std::io::ErrorKind::TimedOut || inner.is_some_and(reqwest::Error::is_timeout)
}

impl Said {
    fn lost(outcome: Outcome) -> Said {
        Said { outcome, version: None, goes_to_tls: false }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    /// Asks a server on this machine that answers a connection with this, and tells what was asked.
    fn ask(answer: &'static str, host: Option<&str>) -> (Said, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 4096];
            let length = stream.read(&mut asked).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            if answer.is_empty() {
                // Goes on to be silent until the other side has had enough.
                let _ = stream.read(&mut [0; 1]);
            }
            String::from_utf8_lossy(&asked[..length]).to_lowercase()
        });
        let name = host.unwrap_or("127.0.0.1");
        let place = Place {
            url: format!("http://{name}:{port}/up").parse().unwrap(),
            host: host.map(String::from),
            connect: host.map(|_| "127.0.0.1".parse().unwrap()),
        };
        let settings = Witnessing { timeout: Duration::from_millis(300), ..Witnessing::default() };
        let said = Asker::new(&place, &settings).unwrap().ask();
        (said, server.join().unwrap())
    }

    #[test]
    fn an_answer_tells_status_and_version_and_is_asked_for_by_name() {
        let (said, asked) =
            ask("HTTP/1.1 404 No\r\nX-Version: 7\r\nContent-Length: 2\r\n\r\nno", Some("app.invalid"));
        assert_eq!(
            said,
            Said { outcome: Outcome::Status(404), version: Some("7".into()), goes_to_tls: false }
        );
        assert!(asked.starts_with("get /up ") && asked.contains("\r\nhost: app.invalid\r\n"), "{asked}");
        assert!(asked.contains("\r\nconnection: close\r\n"), "{asked}");
    }

    #[test]
    fn a_redirect_is_an_answer_and_not_followed() {
        let (said, _) =
            ask("HTTP/1.1 301 M\r\nLocation: https://app.invalid/\r\nContent-Length: 0\r\n\r\n", None);
        assert_eq!((said.outcome, said.goes_to_tls), (Outcome::Status(301), true));
        let (said, _) = ask("HTTP/1.1 302 M\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", None);
        assert_eq!((said.outcome, said.goes_to_tls), (Outcome::Status(302), false));
    }

    #[test]
    fn what_got_no_whole_answer_is_told_apart() {
        let outcome = |answer| ask(answer, None).0.outcome;
        assert_eq!(outcome("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), Outcome::Cut);
        assert_eq!(outcome("nonsense"), Outcome::Cut);
        assert_eq!(outcome(""), Outcome::TimedOut);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        drop(listener);
        let place = Place { url, host: None, connect: None };
        assert_eq!(Asker::new(&place, &Witnessing::default()).unwrap().ask().outcome, Outcome::Refused);
    }
}
