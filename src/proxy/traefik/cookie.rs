//! The default name of a sticky cookie. Traefik derives the name from the name of the service, which differs in
//! our file. Without the original name every client would get another instance.

use sha1::{Digest, Sha1};

/// Cookie name as Traefik derives it. Source: traefik `pkg/server/cookie/cookie.go`.
pub fn default_name(service: &str) -> String {
    let hash = Sha1::digest(format!("_TRAEFIK_BACKEND_{service}"));
    let hex: String = hash.iter().take(3).map(|byte| format!("{byte:02x}")).collect();
    format!("_{}", &hex[..5])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_named_as_traefik_names_it() {
        assert_eq!(default_name("app@file"), "_fb0b0", "as observed with Traefik 3.7.15");
        assert_eq!(default_name("app@docker"), "_a9f6e");
    }
}
