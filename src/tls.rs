//! Cryptography for HTTPS.

/// Selects ring for all later clients. rustls keeps the first selection of a process, so a second call changes nothing.
pub fn choose_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
