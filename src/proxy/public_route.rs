//! By which way clients come to a service, as far as a proxy's own configuration tells.

use std::net::{IpAddr, SocketAddr};

use reqwest::Url;

use crate::docker::inspect::Container;

/// A way by which clients come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicRoute {
    /// Of the proxy's container.
    pub port: u16,
    pub tls: bool,
    /// None where any host does.
    pub host: Option<String>,
    /// Begins with a slash.
    pub path: String,
}

/// A URL, and how it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessUrl {
    pub url: Url,
    /// The `Host` header; that of the URL where there is none.
    pub host: Option<String>,
    /// Where to connect to, whatever the name of the URL means.
    pub connect: Option<IpAddr>,
}

impl PublicRoute {
    /// An entrance at the root of any host.
    pub fn at(port: u16, tls: bool) -> PublicRoute {
        PublicRoute { port, tls, host: None, path: "/".into() }
    }

    /// Where this machine finds it, as the engine publishes the proxy's port. `host` and `path` go before what the proxy
    /// tells.
    pub fn place(&self, proxy: &Container, host: Option<&str>, path: Option<&str>) -> Option<WitnessUrl> {
        self.place_at(proxy.published_address(self.port)?, host, path)
    }

    /// As [`Entrance::place`], where the port is published at this address.
    pub fn place_at(
        &self,
        address: SocketAddr,
        host: Option<&str>,
        path: Option<&str>,
    ) -> Option<WitnessUrl> {
        let scheme = if self.tls { "https" } else { "http" };
        let host = host.or(self.host.as_deref());
        let name = host.map_or_else(|| bracketed(address.ip()), String::from);
        let bare = name.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
        let name = bare.map_or(&*name, |(name, _)| name);
        let text = format!("{scheme}://{name}:{}{}", address.port(), path.unwrap_or(&self.path));
        let url = Url::parse(&text).ok().filter(Url::has_host)?;
        Some(WitnessUrl { url, host: host.map(String::from), connect: host.map(|_| address.ip()) })
    }
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// A name that a request can have: neither a wildcard nor a pattern.
pub fn is_plain(host: &str) -> bool {
    !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "._-:[]".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(ports: &str) -> Container {
        serde_json::from_str(&format!(r#"{{"NetworkSettings": {{"Ports": {ports}}}}}"#)).unwrap()
    }

    fn place(ports: &str, entrance: &PublicRoute) -> Option<String> {
        let place = entrance.place(&proxy(ports), None, None)?;
        let connect = place.connect.map(|ip| format!(" at {ip}")).unwrap_or_default();
        Some(format!("{}{connect}", place.url))
    }

    const OPEN: &str =
        r#"{"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8000"}, {"HostIp": "::", "HostPort": "8000"}]}"#;

    #[test]
    fn a_proxy_is_asked_where_it_is_published_under_the_name_it_routes_by() {
        let named = PublicRoute {
            host: Some("app.example".into()),
            path: "/shop".into(),
            ..PublicRoute::at(80, false)
        };
        assert_eq!(place(OPEN, &named).unwrap(), "http://app.example:8000/shop at 127.0.0.1");
        assert_eq!(place(OPEN, &PublicRoute::at(80, false)).unwrap(), "http://127.0.0.1:8000/");
        assert_eq!(place(OPEN, &PublicRoute::at(81, false)), None);
        let usual = r#"{"443/tcp": [{"HostIp": "10.0.0.9", "HostPort": "443"}]}"#;
        let secure = PublicRoute { tls: true, port: 443, ..named };
        assert_eq!(place(usual, &secure).unwrap(), "https://app.example/shop at 10.0.0.9");
        let six = r#"{"80/tcp": [{"HostIp": "::", "HostPort": "8000"}]}"#;
        assert_eq!(place(six, &PublicRoute::at(80, false)).unwrap(), "http://[::1]:8000/");
    }

    #[test]
    fn what_is_not_published_has_no_place() {
        for ports in
            [r#"{"80/tcp": null}"#, "{}", "null", r#"{"80/udp": [{"HostIp": "", "HostPort": "80"}]}"#]
        {
            assert_eq!(place(ports, &PublicRoute::at(80, false)), None, "{ports}");
        }
        let no_number =
            r#"{"80/tcp": [{"HostIp": "x", "HostPort": "80"}, {"HostIp": null, "HostPort": ""}]}"#;
        assert_eq!(place(no_number, &PublicRoute::at(80, false)), None);
        let own: Container =
            serde_json::from_str(r#"{"NetworkSettings": {"Networks": {"host": {}}}}"#).unwrap();
        let place = PublicRoute::at(80, false).place(&own, None, None).unwrap();
        assert_eq!(place.url.as_str(), "http://127.0.0.1/");
    }

    #[test]
    fn a_setting_goes_before_what_the_proxy_tells() {
        let named = PublicRoute { host: Some("app.example".into()), ..PublicRoute::at(80, false) };
        let place = named.place(&proxy(OPEN), Some("b.example"), Some("/up?x=1")).unwrap();
        assert_eq!(place.url.as_str(), "http://b.example:8000/up?x=1");
        assert_eq!(place.host.as_deref(), Some("b.example"));
        assert_eq!(named.place(&proxy(OPEN), Some("a b"), None), None);
    }
}
