//! `VIRTUAL_HOST_MULTIPORTS`: several hosts and paths of one container, each with its own port and protocol.
//! nginx-proxy 1.6 and later reads it, and then ignores the container's other `VIRTUAL_…` variables.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

pub const KEY: &str = "VIRTUAL_HOST_MULTIPORTS";

/// First version of nginx-proxy that reads the variable.
pub const SINCE: [u32; 3] = [1, 6, 0];

/// A route by host and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPath {
    pub host: String,
    pub path: String,
    /// None for the container's only exposed port, else 80.
    pub port: Option<u16>,
    pub protocol: String,
    /// Public HTTP and HTTPS ports, where they differ from the proxy's own.
    pub external: [Option<u16>; 2],
}

/// Non-empty value of the variable in an environment.
pub fn value(environment: &BTreeMap<String, String>) -> Option<&str> {
    environment.get(KEY).map(String::as_str).filter(|text| !text.trim().is_empty())
}

/// Parses the routes, in the order of the text. None for a text that nginx-proxy cannot parse, for which it
/// renders no route.
pub fn parse(text: &str) -> Option<Vec<HostPath>> {
    let hosts: Mapping = serde_yaml::from_str(text).ok().filter(|hosts: &Mapping| !hosts.is_empty())?;
    Some(
        hosts.iter().filter_map(|(host, paths)| Some(host_routes(host.as_str()?, paths))).flatten().collect(),
    )
}

fn host_routes(host: &str, paths: &Value) -> Vec<HostPath> {
    let number = |value: Option<&Value>| value.and_then(scalar)?.parse().ok();
    let external = ["external_http_port", "external_https_port"].map(|key| number(paths.get(key)));
    let route = |path: &str, keys: &Value| HostPath {
        host: host.trim().into(),
        path: path.into(),
        port: number(keys.get("port")),
        protocol: keys.get("proto").and_then(scalar).map_or("http".into(), |p| p.trim().to_string()),
        external,
    };
    match paths.as_mapping().filter(|paths| !paths.is_empty()) {
        None => vec![route("/", &Value::Null)],
        Some(mapping) => {
            let paths = mapping.iter().filter_map(|(path, keys)| Some((path.as_str()?, keys)));
            paths.filter(|(path, _)| path.starts_with('/')).map(|(path, keys)| route(path, keys)).collect()
        }
    }
}

/// A number or text, as a template prints it.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The route that a probe uses: of the first plain host, `/` or else its first path.
pub fn main_route(routes: &[HostPath]) -> Option<&HostPath> {
    let first = routes.iter().find(|r| super::is_plain(&r.host)).or(routes.first())?;
    let root = routes.iter().find(|r| r.host == first.host && r.path == "/");
    Some(root.unwrap_or(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(text: &str) -> Vec<String> {
        let all = parse(text).unwrap_or_default();
        all.iter().map(|r| format!("{}{} {:?} {}", r.host, r.path, r.port, r.protocol)).collect()
    }

    fn main(text: &str) -> String {
        let all = parse(text).unwrap();
        main_route(&all).map(|r| format!("{}{} {:?}", r.host, r.path, r.port)).unwrap_or_default()
    }

    #[test]
    fn each_host_and_path_has_its_own_port_and_protocol() {
        let yaml = "www.a:\napi.a:\n  '/': {port: 8000}\n  '/fpm': {port: '9000', proto: fastcgi, dest: /}\n";
        let all = ["www.a/ None http", "api.a/ Some(8000) http", "api.a/fpm Some(9000) fastcgi"];
        assert_eq!(routes(yaml), all);
        let json =
            r#"{"www.a": {}, "api.a": {"/": {"port": 8000}, "/fpm": {"port": 9000, "proto": "fastcgi"}}}"#;
        assert_eq!(routes(json), all);
        assert_eq!(routes("a: {external_http_port: 81, /x: }"), ["a/x None http"]);
        assert_eq!(parse("a: {external_http_port: 81, /x: }").unwrap()[0].external, [Some(81), None]);
    }

    #[test]
    fn a_text_that_is_not_a_map_has_no_routes() {
        for text in ["", "www.a", "- www.a", "{", "{}", "3"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(routes("a: {/: {port: [1]}, 3: {}, x: {}}"), ["a/ None http"]);
    }

    #[test]
    fn a_probe_uses_the_root_of_the_first_plain_host() {
        assert_eq!(
            main("'~^x': {/: {port: 1}}\na: {/y: {port: 2}, /: {port: 3}}\nb: {/: {port: 4}}"),
            "a/ Some(3)"
        );
        assert_eq!(main("a: {/y: {port: 2}, /z: {port: 3}}"), "a/y Some(2)");
        assert_eq!(main("'*.a': {/: {port: 1}}"), "*.a/ Some(1)");
    }
}
