//! Queries of Traefik from inside its container: the pins that are in force, and the API.

use super::static_config::{EntryPoint, TraefikStaticConfig};

/// An address inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlAddress {
    pub tls: bool,
    /// Host as in a URL.
    pub host: String,
    pub port: u16,
}

/// The query for the token of the newest pin that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionCheck {
    /// Query by a route of the pin itself.
    Route { entry_point: String, address: ControlAddress },
    /// Query of the API about that route.
    Api { entry_point: String },
}

/// The API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    pub address: ControlAddress,
    /// Path before `/api`.
    pub path: String,
}

impl ControlAddress {
    /// Parses a listening address: `:80`, `0.0.0.0:80` or `[::1]:80`.
    fn parse(address: &str, tls: bool) -> Option<ControlAddress> {
        let (host, port) = address.rsplit_once(':')?;
        let host = match host {
            "" | "0.0.0.0" | "[::]" => "127.0.0.1",
            host => host,
        };
        Some(ControlAddress { tls, host: host.into(), port: port.parse().ok()? })
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }
}

impl VersionCheck {
    /// The first entry point without a redirection or a password before its routes. An entry point without TLS
    /// comes first, then the API, then one with TLS, which not every tool supports.
    pub fn find(config: &TraefikStaticConfig) -> Option<VersionCheck> {
        let entry_points = config.entry_points();
        let route = |tls: bool| {
            let mut unguarded = entry_points.iter().filter(|e| !e.guarded && e.tls == tls);
            unguarded.find_map(|e| {
                Some(VersionCheck::Route {
                    entry_point: e.name.clone(),
                    address: ControlAddress::parse(&e.address, tls)?,
                })
            })
        };
        let by_api = |e: &EntryPoint| VersionCheck::Api { entry_point: e.name.clone() };
        let api = || Api::without_password(config).and(entry_points.first().map(by_api));
        route(false).or_else(api).or_else(|| route(true))
    }

    pub fn entry_point(&self) -> &str {
        match self {
            VersionCheck::Route { entry_point, .. } | VersionCheck::Api { entry_point } => entry_point,
        }
    }

    pub fn address(&self) -> Option<&ControlAddress> {
        match self {
            VersionCheck::Route { address, .. } => Some(address),
            VersionCheck::Api { .. } => None,
        }
    }
}

impl Api {
    /// The API, where it needs no password.
    pub fn without_password(config: &TraefikStaticConfig) -> Option<Api> {
        let (address, path) = config.insecure_api()?;
        Some(Api { address: ControlAddress::parse(&address, false)?, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::inspect::Container;

    fn config(flags: &str) -> TraefikStaticConfig {
        let mut container = Container::default();
        container.args = flags.split_whitespace().map(String::from).collect();
        TraefikStaticConfig::read(&container, None)
    }

    fn check(flags: &str) -> Option<String> {
        let check = VersionCheck::find(&config(flags))?;
        let url = check.address().map_or("api".into(), ControlAddress::url);
        Some(format!("{} {url}", check.entry_point()))
    }

    #[test]
    fn the_simplest_entry_point_is_used() {
        let redirected = "--entrypoints.web.address=:80 --entrypoints.web.http.redirections.entrypoint.to=s \
                          --entrypoints.s.address=:443";
        assert_eq!(check("--ping").unwrap(), "http http://127.0.0.1:80");
        assert_eq!(check("--entrypoints.w.address=10.0.0.1:81").unwrap(), "w http://10.0.0.1:81");
        assert_eq!(check(redirected).unwrap(), "s http://127.0.0.1:443");
        let tls = format!("{redirected} --entrypoints.s.http.tls=true");
        assert_eq!(check(&tls).unwrap(), "s https://127.0.0.1:443");
        assert_eq!(check(&format!("{tls} --api.insecure")).unwrap(), "web api");
        assert_eq!(check(&format!("{tls} --entrypoints.s.http.middlewares=a@file")), None);
    }

    #[test]
    fn the_insecure_api_has_its_own_entry_point() {
        let insecure = Api::without_password(&config("--api.insecure=true --api.basepath=/t")).unwrap();
        assert_eq!((insecure.address.url(), insecure.path), ("http://127.0.0.1:8080".into(), "/t".into()));
        assert_eq!(Api::without_password(&config("--api=true")), None);
    }
}
