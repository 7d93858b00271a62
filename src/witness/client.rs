//! Asks a URL once, on a connection of its own, and tells exactly what became of it.

use std::io::{Read, sink};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use reqwest::blocking::{Client, Response};
use reqwest::header::{CONNECTION, HOST, LOCATION, USER_AGENT};
use reqwest::redirect::Policy;

use super::sample::ProbeOutcome;
use crate::model::WitnessSettings;
use crate::proxy::public_route::WitnessUrl;

/// How much of an answer is read, in bytes; what is longer counts as whole.
const BODY_LIMIT: u64 = 4 << 20;

/// The longest name of a version that is kept, in characters.
const VERSION: usize = 40;

/// Asks one place.
pub struct WitnessClient {
    client: Client,
    pub place: WitnessUrl,
    timeout: Duration,
    version_header: String,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOutcome {
    pub outcome: ProbeOutcome,
    pub version: Option<String>,
    /// It only sends clients on to the same by TLS.
    pub goes_to_tls: bool,
}

impl WitnessClient {
    /// All ways to ask a place. That of a proxy is asked whether or not others accept its certificate, which is not the
    /// question. A URL that the user names is what clients ask: its certificate counts, unless it is not accepted before.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn all(place: &WitnessUrl, settings: &WitnessSettings) -> Result<Vec<WitnessClient>> {
        let is_named = place.connect.is_none() && place.url.scheme() == "https";
        // Without any authority that this machine trusts there is no such client.
        let strict = is_named.then(|| WitnessClient::new(place, settings, true).ok()).flatten();
        Ok(strict.into_iter().chain([WitnessClient::new(place, settings, false)?]).collect())
    }

    fn new(place: &WitnessUrl, settings: &WitnessSettings, verifies: bool) -> Result<WitnessClient> {
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
        #[cfg(feature = "tls")]
        let builder = builder.tls_danger_accept_invalid_certs(!verifies);
        #[cfg(not(feature = "tls"))]
        let _ = verifies;
        Ok(WitnessClient {
            client: builder.build()?,
            place: place.clone(),
            timeout: settings.timeout,
            version_header: settings.version_header.clone(),
        })
    }

    pub fn get(&self) -> HttpOutcome {
        // The limit is the request's, so that it is for all of it: that of the client begins anew with every piece of a body.
        let request = self.client.get(self.place.url.clone()).timeout(self.timeout);
        let mut request = request.header(USER_AGENT, "compose-zd").header(CONNECTION, "close");
        if let Some(host) = &self.place.host {
            request = request.header(HOST, host);
        }
        match request.send() {
            Ok(response) => self.read(response),
            Err(error) if error.is_timeout() => HttpOutcome::lost(ProbeOutcome::TimedOut),
            Err(error) if is_untrusted(&error) => HttpOutcome::lost(ProbeOutcome::Untrusted),
            Err(error) if error.is_connect() => HttpOutcome::lost(ProbeOutcome::Refused),
            Err(_) => HttpOutcome::lost(ProbeOutcome::Cut),
        }
    }

    fn read(&self, response: Response) -> HttpOutcome {
        let header =
            |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_string);
        let location = header(LOCATION.as_str()).unwrap_or_default();
        let status = response.status();
        let goes_to_tls = self.place.url.scheme() == "http"
            && status.is_redirection()
            && location.to_lowercase().starts_with("https:");
        let version = header(&self.version_header).map(|v| v.chars().take(VERSION).collect());
        match std::io::copy(&mut response.take(BODY_LIMIT), &mut sink()) {
            Ok(_) => HttpOutcome { outcome: ProbeOutcome::Status(status.as_u16()), version, goes_to_tls },
            Err(error) if is_timeout(&error) => HttpOutcome::lost(ProbeOutcome::TimedOut),
            Err(_) => HttpOutcome::lost(ProbeOutcome::Cut),
        }
    }
}

/// By its causes, of which one is rustls's own error.
fn is_untrusted(error: &reqwest::Error) -> bool {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |cause| cause.source());
    causes.any(|cause| cause.to_string().starts_with("invalid peer certificate"))
}

fn is_timeout(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<reqwest::Error>());
    error.kind() == std::io::ErrorKind::TimedOut || inner.is_some_and(reqwest::Error::is_timeout)
}

impl HttpOutcome {
    fn lost(outcome: ProbeOutcome) -> HttpOutcome {
        HttpOutcome { outcome, version: None, goes_to_tls: false }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    /// Asks a server on this machine that answers a connection with this, and tells what was asked.
    fn ask(answer: &'static str, host: Option<&str>) -> (HttpOutcome, String) {
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
        let place = WitnessUrl {
            url: format!("http://{name}:{port}/up").parse().unwrap(),
            host: host.map(String::from),
            connect: host.map(|_| "127.0.0.1".parse().unwrap()),
        };
        let settings = WitnessSettings { timeout: Duration::from_millis(300), ..WitnessSettings::default() };
        let said = WitnessClient::new(&place, &settings, false).unwrap().get();
        (said, server.join().unwrap())
    }

    #[test]
    fn an_answer_tells_status_and_version_and_is_asked_for_by_name() {
        let (said, asked) =
            ask("HTTP/1.1 404 No\r\nX-Version: 7\r\nContent-Length: 2\r\n\r\nno", Some("app.invalid"));
        assert_eq!(
            said,
            HttpOutcome { outcome: ProbeOutcome::Status(404), version: Some("7".into()), goes_to_tls: false }
        );
        assert!(asked.starts_with("get /up ") && asked.contains("\r\nhost: app.invalid\r\n"), "{asked}");
        assert!(asked.contains("\r\nconnection: close\r\n"), "{asked}");
    }

    #[test]
    fn a_redirect_is_an_answer_and_not_followed() {
        let (said, _) =
            ask("HTTP/1.1 301 M\r\nLocation: https://app.invalid/\r\nContent-Length: 0\r\n\r\n", None);
        assert_eq!((said.outcome, said.goes_to_tls), (ProbeOutcome::Status(301), true));
        let (said, _) = ask("HTTP/1.1 302 M\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", None);
        assert_eq!((said.outcome, said.goes_to_tls), (ProbeOutcome::Status(302), false));
    }

    #[test]
    fn what_got_no_whole_answer_is_told_apart() {
        let outcome = |answer| ask(answer, None).0.outcome;
        assert_eq!(outcome("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), ProbeOutcome::Cut);
        assert_eq!(outcome("nonsense"), ProbeOutcome::Cut);
        assert_eq!(outcome(""), ProbeOutcome::TimedOut);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        drop(listener);
        let place = WitnessUrl { url, host: None, connect: None };
        assert_eq!(
            WitnessClient::new(&place, &WitnessSettings::default(), false).unwrap().get().outcome,
            ProbeOutcome::Refused
        );
    }

    /// A certificate of nobody's for `localhost`, and its key.
    #[cfg(feature = "tls")]
    const IDENTITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBmDCCAT6gAwIBAgIUdhEOfyOsJKYhkwGZzgd/uyprZUIwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyOTIwMjI0OVoYDzIxMjYxMTA1
MjAyMjQ5WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASbR1mdGgF0pSF2OJbfAFY711shqf+12uCj5FaLKAAwllKiKTxsYahe
QoGUN5cxjhptWuz3MulJtUDl8GJUAcjLo2wwajAdBgNVHQ4EFgQUCB8mkGWGTL93
jMHyReWIQl3+EpkwHwYDVR0jBBgwFoAUCB8mkGWGTL93jMHyReWIQl3+EpkwGgYD
VR0RBBMwEYIJbG9jYWxob3N0hwR/AAABMAwGA1UdEwEB/wQCMAAwCgYIKoZIzj0E
AwIDSAAwRQIgPqhkOBnH5SrOzKjOWKsPRwvSm+YtLRSINRkBnw0AZooCIQC+L+Mv
C+OFRQe3QgbORo06OQXyQQ+ZCAO1ZNzxaZrJlw==
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgxL3ywlKpUIT2OIce
EWAqmG74A+jvdq09qqcVhlqgQS6hRANCAASbR1mdGgF0pSF2OJbfAFY711shqf+1
2uCj5FaLKAAwllKiKTxsYaheQoGUN5cxjhptWuz3MulJtUDl8GJUAcjL
-----END PRIVATE KEY-----
";

    /// A server that answers by TLS with that certificate.
    #[cfg(feature = "tls")]
    fn by_tls() -> reqwest::Url {
        use std::sync::Arc;

        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        crate::tls::choose_provider();
        let certificate = CertificateDer::from_pem_slice(IDENTITY.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(IDENTITY.as_bytes()).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![certificate], key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = rustls::StreamOwned::new(connection, stream);
                // A client that does not accept the certificate says so and goes.
                if stream.read(&mut [0; 4096]).is_ok() {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                }
            }
        });
        url.parse().unwrap()
    }

    #[test]
    #[cfg(feature = "tls")]
    fn the_certificate_of_a_url_that_the_user_names_counts_and_that_of_a_proxy_does_not() {
        let place = WitnessUrl { url: by_tls(), host: None, connect: None };
        let outcomes = |place: &WitnessUrl| {
            let askers = WitnessClient::all(place, &WitnessSettings::default()).unwrap();
            askers.iter().map(|asker| asker.get().outcome).collect::<Vec<_>>()
        };
        // One that is not accepted before the switch, either, is asked all the same.
        assert_eq!(outcomes(&place), [ProbeOutcome::Untrusted, ProbeOutcome::Status(200)]);
        let of_proxy =
            WitnessUrl { host: Some("localhost".into()), connect: "127.0.0.1".parse().ok(), ..place };
        assert_eq!(outcomes(&of_proxy), [ProbeOutcome::Status(200)]);
    }
}
