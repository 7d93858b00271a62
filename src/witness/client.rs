//! Sends one request to a URL, on a connection of its own, and reports the exact outcome.

use std::io::{Read, sink};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use reqwest::blocking::{Client, Response};
use reqwest::header::{CONNECTION, HOST, LOCATION, USER_AGENT};

use crate::http;
use crate::model::WitnessSettings;
use crate::proxy::public_route::WitnessUrl;
use crate::report::probes::ProbeOutcome;

/// Most bytes of a body that are read; a longer body counts as complete.
const BODY_LIMIT: u64 = 4 << 20;

/// Longest version name that is kept, in characters.
const MAX_VERSION: usize = 40;

/// HTTP client for one address of a URL.
#[derive(Clone)]
pub struct WitnessClient {
    client: Client,
    pub target: WitnessUrl,
    timeout: Duration,
    version_header: String,
}

/// Outcome of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOutcome {
    pub outcome: ProbeOutcome,
    pub version: Option<String>,
    /// True for a redirect to `https:`.
    pub redirects_to_tls: bool,
}

impl WitnessClient {
    /// Clients for an address, in order of preference. The certificate of a proxy is never verified, that of a URL set
    /// by the user is. A second client accepts any certificate, in case the first fails before the switch.
    pub fn clients_for(target: &WitnessUrl, settings: &WitnessSettings) -> Result<Vec<WitnessClient>> {
        let is_users_https = target.connect.is_none() && target.url.scheme() == "https";
        // This client does not exist on a machine without any trusted authority.
        let strict = is_users_https.then(|| WitnessClient::new(target, settings, true).ok()).flatten();
        Ok(strict.into_iter().chain([WitnessClient::new(target, settings, false)?]).collect())
    }

    fn new(target: &WitnessUrl, settings: &WitnessSettings, verifies: bool) -> Result<WitnessClient> {
        let mut builder = http::client(settings.timeout, verifies);
        if let (Some(ip), Some(host)) = (target.connect, target.url.host_str()) {
            builder = builder.resolve(host, SocketAddr::new(ip, 0));
        }
        Ok(WitnessClient {
            client: builder.build()?,
            target: target.clone(),
            timeout: settings.timeout,
            version_header: settings.version_header.clone(),
        })
    }

    pub fn get(&self) -> HttpOutcome {
        // The limit is set on the request, because a limit on the client restarts with every chunk of a body.
        let request = self.client.get(self.target.url.clone()).timeout(self.timeout);
        let mut request = request.header(USER_AGENT, "compose-zd").header(CONNECTION, "close");
        if let Some(host) = &self.target.host {
            request = request.header(HOST, host);
        }
        match request.send() {
            Ok(response) => self.read(response),
            Err(error) if error.is_timeout() => HttpOutcome::lost(ProbeOutcome::TimedOut),
            Err(error) if is_untrusted(&error) => HttpOutcome::lost(ProbeOutcome::Untrusted),
            Err(error) if error.is_connect() => HttpOutcome::lost(ProbeOutcome::Refused),
            Err(_) => HttpOutcome::lost(ProbeOutcome::CutOff),
        }
    }

    fn read(&self, response: Response) -> HttpOutcome {
        let header =
            |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_string);
        let location = header(LOCATION.as_str()).unwrap_or_default();
        let status = response.status();
        let goes_to_tls = self.target.url.scheme() == "http"
            && status.is_redirection()
            && location.to_lowercase().starts_with("https:");
        let version = header(&self.version_header).map(|v| v.chars().take(MAX_VERSION).collect());
        match std::io::copy(&mut response.take(BODY_LIMIT), &mut sink()) {
            Ok(_) => HttpOutcome {
                outcome: ProbeOutcome::Status(status.as_u16()),
                version,
                redirects_to_tls: goes_to_tls,
            },
            Err(error) if is_timeout(&error) => HttpOutcome::lost(ProbeOutcome::TimedOut),
            Err(_) => HttpOutcome::lost(ProbeOutcome::CutOff),
        }
    }
}

/// Looks for rustls's own error among the causes.
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
        HttpOutcome { outcome, version: None, redirects_to_tls: false }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    /// Outcome of a request to a server on this machine that sends this answer, and the request in lower case.
    fn send(answer: &'static str, host: Option<&str>) -> (HttpOutcome, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            if answer.is_empty() {
                // Stays silent until the client gives up.
                let _ = stream.read(&mut [0; 1]);
            }
            String::from_utf8_lossy(&request[..length]).to_lowercase()
        });
        let name = host.unwrap_or("127.0.0.1");
        let target = WitnessUrl {
            url: format!("http://{name}:{port}/up").parse().unwrap(),
            host: host.map(String::from),
            connect: host.map(|_| "127.0.0.1".parse().unwrap()),
        };
        let settings = WitnessSettings { timeout: Duration::from_millis(300), ..WitnessSettings::default() };
        let response = WitnessClient::new(&target, &settings, false).unwrap().get();
        (response, server.join().unwrap())
    }

    #[test]
    fn a_response_has_status_and_version_and_the_request_has_the_host() {
        let (response, request) =
            send("HTTP/1.1 404 No\r\nX-Version: 7\r\nContent-Length: 2\r\n\r\nno", Some("app.invalid"));
        assert_eq!(
            response,
            HttpOutcome {
                outcome: ProbeOutcome::Status(404),
                version: Some("7".into()),
                redirects_to_tls: false
            }
        );
        assert!(
            request.starts_with("get /up ") && request.contains("\r\nhost: app.invalid\r\n"),
            "{request}"
        );
        assert!(request.contains("\r\nconnection: close\r\n"), "{request}");
    }

    #[test]
    fn a_redirect_is_an_answer_and_is_not_followed() {
        let (response, _) =
            send("HTTP/1.1 301 M\r\nLocation: https://app.invalid/\r\nContent-Length: 0\r\n\r\n", None);
        assert_eq!((response.outcome, response.redirects_to_tls), (ProbeOutcome::Status(301), true));
        let (response, _) = send("HTTP/1.1 302 M\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", None);
        assert_eq!((response.outcome, response.redirects_to_tls), (ProbeOutcome::Status(302), false));
    }

    #[test]
    fn incomplete_answers_have_different_outcomes() {
        let outcome = |answer| send(answer, None).0.outcome;
        assert_eq!(outcome("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), ProbeOutcome::CutOff);
        assert_eq!(outcome("nonsense"), ProbeOutcome::CutOff);
        assert_eq!(outcome(""), ProbeOutcome::TimedOut);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        drop(listener);
        let target = WitnessUrl { url, host: None, connect: None };
        assert_eq!(
            WitnessClient::new(&target, &WitnessSettings::default(), false).unwrap().get().outcome,
            ProbeOutcome::Refused
        );
    }

    /// A self-signed certificate for `localhost`, and its key.
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

    /// A server with TLS and that certificate.
    #[cfg(feature = "tls")]
    fn by_tls() -> reqwest::Url {
        use std::sync::Arc;

        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        http::choose_cryptography();
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
                // A client that rejects the certificate closes the connection.
                if stream.read(&mut [0; 4096]).is_ok() {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                }
            }
        });
        url.parse().unwrap()
    }

    #[test]
    #[cfg(feature = "tls")]
    fn the_certificate_of_the_users_url_counts_and_that_of_a_proxy_does_not() {
        let target = WitnessUrl { url: by_tls(), host: None, connect: None };
        let outcomes = |target: &WitnessUrl| {
            let clients = WitnessClient::clients_for(target, &WitnessSettings::default()).unwrap();
            clients.iter().map(|client| client.get().outcome).collect::<Vec<_>>()
        };
        // The second client accepts a certificate that is already not accepted before the switch.
        assert_eq!(outcomes(&target), [ProbeOutcome::Untrusted, ProbeOutcome::Status(200)]);
        let proxy_target =
            WitnessUrl { host: Some("localhost".into()), connect: "127.0.0.1".parse().ok(), ..target };
        assert_eq!(outcomes(&proxy_target), [ProbeOutcome::Status(200)]);
    }
}
