//! Which cryptography HTTPS is asked with.

/// Has every client that is made from here on use ring. rustls keeps the first choice of a process, so that a second call
/// changes nothing.
pub fn choose_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
