//! Client for requests of this program: each is sent once, on a connection of its own.

use std::time::Duration;

use reqwest::blocking::{Client, ClientBuilder};
use reqwest::redirect::Policy;

/// Client without proxies, redirects and kept connections. `verifies` rejects a certificate that is not valid.
pub fn client(timeout: Duration, verifies: bool) -> ClientBuilder {
    let client =
        Client::builder().no_proxy().redirect(Policy::none()).timeout(timeout).pool_max_idle_per_host(0);
    accept_certificates(client, !verifies)
}

/// Client for a service outside, by the proxy of the environment.
pub fn outside_client(timeout: Duration) -> ClientBuilder {
    #[cfg(feature = "tls")]
    choose_cryptography();
    Client::builder().redirect(Policy::none()).timeout(timeout)
}

/// The error and its causes.
pub fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &dyn std::error::Error), |cause| cause.source())
}

/// Innermost cause, which reqwest's own text leaves out.
pub fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(feature = "tls")]
fn accept_certificates(client: ClientBuilder, all: bool) -> ClientBuilder {
    choose_cryptography();
    client.tls_danger_accept_invalid_certs(all)
}

#[cfg(not(feature = "tls"))]
fn accept_certificates(client: ClientBuilder, _all: bool) -> ClientBuilder {
    client
}

/// Selects ring for all later clients. rustls keeps the first selection of a process, so a second call changes nothing.
#[cfg(feature = "tls")]
pub fn choose_cryptography() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
