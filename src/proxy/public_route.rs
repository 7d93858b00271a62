//! The public routes by which clients reach a service, as far as a proxy's own configuration tells.

use std::net::{IpAddr, SocketAddr};

use reqwest::Url;

/// A route from clients to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicRoute {
    /// Port of the proxy's container.
    pub port: u16,
    pub tls: bool,
    /// None where any host matches.
    pub host: Option<String>,
    /// Begins with a slash.
    pub path: String,
}

/// A URL of the witness, with the host and address of its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessUrl {
    pub url: Url,
    /// `Host` header; by default the host of the URL.
    pub host: Option<String>,
    /// Address to connect to, instead of the address of the URL's host.
    pub connect: Option<IpAddr>,
}

impl PublicRoute {
    /// Route at path `/`, for any host.
    pub fn at(port: u16, tls: bool) -> PublicRoute {
        PublicRoute { port, tls, host: None, path: "/".into() }
    }

    /// URL of the route for a port that is published at this address. `host` and `path` take precedence over those of
    /// the route.
    pub fn witness_url(
        &self,
        address: SocketAddr,
        host: Option<&str>,
        path: Option<&str>,
    ) -> Option<WitnessUrl> {
        let scheme = if self.tls { "https" } else { "http" };
        let host = host.or(self.host.as_deref());
        let name = host.map_or_else(|| bracketed(address.ip()), String::from);
        let without_port = name.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
        let name = without_port.map_or(&*name, |(name, _)| name);
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

/// A host name that a request can have: neither a wildcard nor a pattern.
pub fn is_plain(host: &str) -> bool {
    !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "._-:[]".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::inspect::Container;

    fn proxy(ports: &str) -> Container {
        crate::docker::types::parse(format!(r#"{{"NetworkSettings": {{"Ports": {ports}}}}}"#).as_bytes())
            .unwrap()
    }

    fn url(ports: &str, route: &PublicRoute) -> Option<String> {
        let witness = route.witness_url(proxy(ports).published_address(route.port)?, None, None)?;
        let connect = witness.connect.map(|ip| format!(" at {ip}")).unwrap_or_default();
        Some(format!("{}{connect}", witness.url))
    }

    const OPEN: &str =
        r#"{"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8000"}, {"HostIp": "::", "HostPort": "8000"}]}"#;

    #[test]
    fn the_url_has_the_published_address_and_the_host_that_the_proxy_routes_by() {
        let named = PublicRoute {
            host: Some("app.example".into()),
            path: "/shop".into(),
            ..PublicRoute::at(80, false)
        };
        assert_eq!(url(OPEN, &named).unwrap(), "http://app.example:8000/shop at 127.0.0.1");
        assert_eq!(url(OPEN, &PublicRoute::at(80, false)).unwrap(), "http://127.0.0.1:8000/");
        assert_eq!(url(OPEN, &PublicRoute::at(81, false)), None);
        let ports = r#"{"443/tcp": [{"HostIp": "10.0.0.9", "HostPort": "443"}]}"#;
        let secure = PublicRoute { tls: true, port: 443, ..named };
        assert_eq!(url(ports, &secure).unwrap(), "https://app.example/shop at 10.0.0.9");
        let ipv6 = r#"{"80/tcp": [{"HostIp": "::", "HostPort": "8000"}]}"#;
        assert_eq!(url(ipv6, &PublicRoute::at(80, false)).unwrap(), "http://[::1]:8000/");
    }

    #[test]
    fn an_unpublished_port_has_no_url() {
        for ports in
            [r#"{"80/tcp": null}"#, "{}", "null", r#"{"80/udp": [{"HostIp": "", "HostPort": "80"}]}"#]
        {
            assert_eq!(url(ports, &PublicRoute::at(80, false)), None, "{ports}");
        }
        let without_number =
            r#"{"80/tcp": [{"HostIp": "x", "HostPort": "80"}, {"HostIp": null, "HostPort": ""}]}"#;
        assert_eq!(url(without_number, &PublicRoute::at(80, false)), None);
        let host_network: Container =
            serde_json::from_str(r#"{"NetworkSettings": {"Networks": {"host": {}}}}"#).unwrap();
        let witness = PublicRoute::at(80, false)
            .witness_url(host_network.published_address(80).unwrap(), None, None)
            .unwrap();
        assert_eq!(witness.url.as_str(), "http://127.0.0.1/");
    }

    #[test]
    fn a_setting_takes_precedence_over_the_route() {
        let named = PublicRoute { host: Some("app.example".into()), ..PublicRoute::at(80, false) };
        let address = proxy(OPEN).published_address(80).unwrap();
        let witness = named.witness_url(address, Some("b.example"), Some("/up?x=1")).unwrap();
        assert_eq!(witness.url.as_str(), "http://b.example:8000/up?x=1");
        assert_eq!(witness.host.as_deref(), Some("b.example"));
        assert_eq!(named.witness_url(address, Some("a b"), None), None);
    }
}
