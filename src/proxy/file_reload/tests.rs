use super::*;
use crate::proxy;

fn container(image: &str, args: &str) -> Container {
    let json = format!(
        r#"{{"Id": "c", "Name": "/p", "Path": "x", "Args": [{args}], "Config": {{"Image": "{image}"}}, "State": {{"Status": "running"}}}}"#
    );
    serde_json::from_str(&json).unwrap()
}

fn files(image: &str, args: &str) -> ProxyFiles {
    proxy::detect(&[container(image, args)]).pop().expect("a proxy").files()
}

#[test]
fn the_longest_path_decides_when_a_file_is_read() {
    let paths = [("/etc/nginx", ReadBy::Reload), ("/etc/nginx/templates", ReadBy::Start)];
    let paths = paths.map(|(path, read_by)| (path.to_string(), read_by)).into();
    let files = ProxyFiles { paths, others: ReadBy::Watch, reload: None };
    for (path, read_by) in [
        ("/etc/nginx", ReadBy::Reload),
        ("/etc/nginx/conf.d/a.conf", ReadBy::Reload),
        ("/etc/nginx/templates/a.template", ReadBy::Start),
        ("/etc/nginx/templates2/a", ReadBy::Reload),
        ("/etc/nginx2/a.conf", ReadBy::Watch),
        ("/certs/a.pem", ReadBy::Watch),
    ] {
        assert_eq!(files.read_by(path), read_by, "{path}");
    }
    let is_read =
        ["/etc", "/etc/nginx/", "/etc/nginx/conf.d", "/", "/etc/ng", "/srv"].map(|f| files.is_read_folder(f));
    assert_eq!(is_read, [true, true, true, true, false, false]);
}

#[test]
fn each_proxy_tells_when_it_reads_its_files() {
    let read_by = |image: &str, args: &str, path: &str| files(image, args).read_by(path);
    use ReadBy::{Reload, Start, Watch};
    for (image, args, path, expected) in [
        ("nginx:1.29", "", "/etc/nginx/conf.d/default.conf", Reload),
        ("nginx:1.29", "", "/certs/site.pem", Reload),
        ("nginx:1.29", "", "/etc/nginx/templates/default.conf.template", Start),
        ("nginxproxy/nginx-proxy", "", "/etc/nginx/vhost.d/site", Reload),
        ("nginxproxy/nginx-proxy", "", "/app/nginx.tmpl", Watch),
        ("haproxy:3.2", r#""haproxy", "-f", "/cfg/lb.cfg""#, "/cfg/lb.cfg", Reload),
        ("caddy:2.11", r#""run", "--config", "/etc/caddy/Caddyfile""#, "/etc/caddy/Caddyfile", Reload),
        ("caddy:2.11", r#""run", "--watch", "--config", "/srv/Caddyfile""#, "/srv/Caddyfile", Watch),
        ("caddy:2.11", r#""run", "--resume""#, "/etc/caddy/Caddyfile", Start),
        ("traefik:3.7", r#""--providers.file.directory=/dynamic""#, "/dynamic/a.yml", Watch),
        ("traefik:3.7", r#""--providers.file.directory=/dynamic""#, "/etc/traefik/traefik.yml", Start),
        ("traefik:3.7", r#""--configFile=/conf/t.toml""#, "/conf/t.toml", Start),
        ("dockercloud/haproxy", "", "/etc/haproxy.cfg", Start),
    ] {
        assert_eq!(read_by(image, args, path), expected, "{image} {args} {path}");
    }
    let reloads = ["nginx", "nginxproxy/nginx-proxy", "haproxy", "caddy", "traefik"]
        .map(|i| files(i, "").reload.is_some());
    assert_eq!(reloads, [true, true, true, true, false]);
}

/// 1000 s after the boot it is 10:00:00.
const CLOCK: &str = "@clock 1000.00 2026-11-30 10:00:00.000000000 +0000\n";

fn read_at(text: &str) -> Option<f64> {
    let ten = parse_time("2026-11-30 10:00:00.0 +0000").unwrap();
    ReloadState::parse(text).read_at().map(|at| ((at - ten) * 100.0).round() / 100.0)
}

#[test]
fn a_configuration_is_as_old_as_the_oldest_process_or_the_mark_of_a_reload() {
    assert_eq!(read_at(&format!("@process 99000\n@process 90000\n{CLOCK}")), Some(-100.05));
    assert_eq!(read_at(&format!("{CLOCK}@mark 2026-11-30 11:59:58.500000000 +0200\n")), Some(-1.5));
    assert_eq!(read_at(&format!("@process 99000\n{CLOCK}@mark 2026-11-30 09:00:00.0 +0000\n")), Some(-10.05));
    assert_eq!([read_at(CLOCK), read_at("@process 99000\n"), read_at("")], [None; 3]);
    let obstacle = ReloadState::parse("@obstacle no master\n").obstacle;
    assert_eq!(obstacle.as_deref(), Some("no master"));
}
