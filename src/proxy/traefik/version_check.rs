//! Where Traefik is asked from inside of its container: for the version of our file that is in force, and its API.

use super::static_config::{EntryPoint, TraefikStaticConfig};

/// An address that is reached from inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlAddress {
    pub tls: bool,
    /// As a URL has it.
    pub host: String,
    pub port: u16,
}

/// How the version of our file that is in force is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionCheck {
    /// By a route of the file itself.
    Route { entry_point: String, place: ControlAddress },
    /// By what the API says of that route.
    Api { entry_point: String },
}

/// The API, and the path before `/api`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    pub place: ControlAddress,
    pub path: String,
}

impl ControlAddress {
    /// Reads `:80`, `0.0.0.0:80` or `[::1]:80`, where it listens.
    fn read(address: &str, tls: bool) -> Option<ControlAddress> {
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
    /// The first entry point where nothing comes before a route: neither a redirection nor a password. One without TLS
    /// before the API, and that before TLS, which not every tool speaks.
    pub fn find(settings: &TraefikStaticConfig) -> Option<VersionCheck> {
        let all = settings.entry_points();
        let route = |tls: bool| {
            let mut open = all.iter().filter(|e| !e.guarded && e.tls == tls);
            open.find_map(|e| {
                Some(VersionCheck::Route {
                    entry_point: e.name.clone(),
                    place: ControlAddress::read(&e.address, tls)?,
                })
            })
        };
        let any = |e: &EntryPoint| VersionCheck::Api { entry_point: e.name.clone() };
        let api = || Api::open(settings).and(all.first().map(any));
        route(false).or_else(api).or_else(|| route(true))
    }

    pub fn entry_point(&self) -> &str {
        match self {
            VersionCheck::Route { entry_point, .. } | VersionCheck::Api { entry_point } => entry_point,
        }
    }

    pub fn place(&self) -> Option<&ControlAddress> {
        match self {
            VersionCheck::Route { place, .. } => Some(place),
            VersionCheck::Api { .. } => None,
        }
    }
}

impl Api {
    /// The one that needs no password.
    pub fn open(settings: &TraefikStaticConfig) -> Option<Api> {
        let (address, path) = settings.open_api()?;
        Some(Api { place: ControlAddress::read(&address, false)?, path })
    }

    /// The one that our file opens for as long as it is there.
    pub fn through(settings: &TraefikStaticConfig, door: &VersionCheck) -> Option<Api> {
        let closed = settings.has("api") && settings.open_api().is_none();
        let place = door.place().filter(|_| closed)?;
        Some(Api { place: place.clone(), path: settings.api_path() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::inspect::Container;

    fn settings(flags: &str) -> TraefikStaticConfig {
        let mut container = Container::default();
        container.args = flags.split_whitespace().map(String::from).collect();
        TraefikStaticConfig::read(&container, None)
    }

    fn door(flags: &str) -> Option<String> {
        let found = VersionCheck::find(&settings(flags))?;
        let url = found.place().map_or("api".into(), ControlAddress::url);
        Some(format!("{} {url}", found.entry_point()))
    }

    #[test]
    fn the_plainest_way_in_is_taken() {
        let redirected = "--entrypoints.web.address=:80 --entrypoints.web.http.redirections.entrypoint.to=s \
                          --entrypoints.s.address=:443";
        assert_eq!(door("--ping").unwrap(), "http http://127.0.0.1:80");
        assert_eq!(door("--entrypoints.w.address=10.0.0.1:81").unwrap(), "w http://10.0.0.1:81");
        assert_eq!(door(redirected).unwrap(), "s http://127.0.0.1:443");
        let tls = format!("{redirected} --entrypoints.s.http.tls=true");
        assert_eq!(door(&tls).unwrap(), "s https://127.0.0.1:443");
        assert_eq!(door(&format!("{tls} --api.insecure")).unwrap(), "web api");
        assert_eq!(door(&format!("{tls} --entrypoints.s.http.middlewares=a@file")), None);
    }

    #[test]
    fn the_api_is_its_own_or_comes_through_the_door() {
        let open = Api::open(&settings("--api.insecure=true --api.basepath=/t")).unwrap();
        assert_eq!((open.place.url(), open.path), ("http://127.0.0.1:8080".into(), "/t".into()));
        let secured = settings("--api=true");
        let door = VersionCheck::find(&secured).unwrap();
        assert_eq!(Api::open(&secured), None);
        assert_eq!(Api::through(&secured, &door).unwrap().place.url(), "http://127.0.0.1:80");
        assert_eq!(Api::through(&settings("--ping"), &door), None);
        assert_eq!(Api::through(&settings("--api.insecure"), &door), None);
    }
}
