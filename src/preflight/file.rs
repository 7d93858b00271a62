//! Findings by the Compose file alone: keys that keep a new instance from running, alone or beside the old one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;
use crate::finding::Finding;
use crate::model::{Port, Project, Service};
use crate::plan::Unplannable;
use crate::proxy::{self, Backend, Place, Proxy, port};
use crate::report::{Report, Warning};
use crate::targets::{Target, backend};

/// Findings for which a target cannot run twice. `up` recreates it, with downtime. Each other refusal is an error in the
/// file.
pub const OBSTACLES: [&str; 7] = [
    "container-name",
    FIXED_PORT,
    FIXED_UDP_PORT,
    NETWORK_MODE,
    FIXED_ADDRESS,
    "anonymous-volume",
    "shared-namespace",
];

/// Refusals of a target.
pub fn findings(project: &Project, target: &Target, proxies: &[Arc<dyn Proxy>]) -> Vec<Finding> {
    let is_pair = matches!(target, Target::Pair(_));
    let of_service = |name: &str| {
        let service = &project.services[name];
        // The sides of a pair have their own names and ports.
        let mut found = obstacles(service);
        found.retain(|obstacle| !is_pair || obstacle.rule == NETWORK_MODE);
        resolve_fixed_ports(&mut found, proxies, &backend(project, service));
        found.extend(port_twice(project, service));
        found.extend(no_instances(service));
        found.extend(unknown_kind(service));
        found.extend(per_replica(service));
        found.extend(service.anonymous_volumes().iter().filter_map(|path| anonymous_volume(service, path)));
        found.into_iter().map(|finding| with_downtime(finding, name).of_service(name)).collect::<Vec<_>>()
    };
    target.services().into_iter().flat_map(of_service).chain(shared_namespaces(project, target)).collect()
}

/// The same finding, with the command that recreates the service if only a second instance is impossible.
fn with_downtime(finding: Finding, service: &str) -> Finding {
    if ![FIXED_PORT, FIXED_UDP_PORT, NETWORK_MODE, FIXED_ADDRESS].contains(&finding.rule) {
        return finding;
    }
    let hint = format!("{}; or recreate it, with downtime: `compose-zd up --yes {service}`", finding.hint);
    Finding { hint, ..finding }
}

const NETWORK_MODE: &str = "network-mode";
const FIXED_PORT: &str = "fixed-host-port";
const FIXED_UDP_PORT: &str = "fixed-udp-port";
const FIXED_ADDRESS: &str = "fixed-address";

/// Port of HTTP/3.
const HTTP3: u16 = 443;

/// Obstacles to a second instance.
pub fn obstacles(service: &Service) -> Vec<Finding> {
    let name = &service.name;
    let by_name = format!("other containers reach it by its service name `{name}`");
    let mut found = Vec::new();
    found.extend(one_container_for_a_name(service, service.replicas().map_or(1, |number| number as usize)));
    found.extend(service.ports.iter().filter_map(|port| fixed_port(service, port)));
    if let Some(mode) = service.network_mode.as_ref().filter(|mode| *mode != "bridge") {
        let message = format!(
            "`{name}` has `network_mode: {mode}`, so its instances share one address and cannot be distinguished"
        );
        let hint =
            format!("remove `services.{name}.network_mode` and put the service on a network of the proxy");
        found.push(Finding::usage(NETWORK_MODE, message, hint));
    }
    for (key, address) in service.own_addresses() {
        let message = format!("`{name}` has `{key}: {address}`, an address that only one instance can have");
        let hint = format!("remove `services.{name}.{key}`; {by_name}");
        found.push(Finding::usage(FIXED_ADDRESS, message, hint));
    }
    found
}

/// Obstacle to several instances of a service with `container_name`.
pub fn one_container_for_a_name(service: &Service, number: usize) -> Option<Finding> {
    let (name, container) = (&service.name, service.container_name.as_ref().filter(|_| number > 1)?);
    let message = format!(
        "`{name}` has `container_name: {container}`, which only one of its {number} instances can have"
    );
    let hint = format!(
        "run one instance, or remove `services.{name}.container_name`; other containers reach it by its service name `{name}`"
    );
    Some(Finding::usage("container-name", message, hint))
}

/// Obstacle of a fixed port. A stand-in serves only TCP.
fn fixed_port(service: &Service, port: &Port) -> Option<Finding> {
    let (name, published) = (&service.name, port.fixed()?);
    if let Some(database) = service.single_writer().filter(|_| port.protocol() == "tcp") {
        let message = format!(
            "`{name}` publishes host port {published}, and {database} does not support two writers, so nothing can serve at \
             the port while it is replaced"
        );
        let hint = format!(
            "let a proxy publish the port instead of `services.{name}` (`compose-zd init`): requests then wait in it \
             (`compose-zd help hold`)"
        );
        return Some(Finding::usage(FIXED_PORT, message, hint));
    }
    if port.protocol() == "tcp" {
        let message = format!("`{name}` publishes host port {published}, which only one instance can have");
        let hint = format!(
            "remove `{published}:…` from `services.{name}.ports` and let the proxy use the container port (`expose`)"
        );
        return Some(Finding::usage(FIXED_PORT, message, hint));
    }
    let protocol = port.protocol();
    let message =
        format!("`{name}` publishes host port {published}/{protocol}, which only one instance can have");
    let removal = format!("remove `{published}:{}/{protocol}` from `services.{name}.ports`", port.target);
    let instead = if port.target == HTTP3 { "; browsers use TCP instead" } else { "" };
    let hint = removal + instead;
    Some(Finding::usage(FIXED_UDP_PORT, message, hint))
}

/// Host port that two entries of the file publish. The engine refuses the second one, also for a stand-in. The sides of a
/// pair may share a port, because one of them may be stopped.
fn port_twice(project: &Project, service: &Service) -> Option<Finding> {
    let name = &service.name;
    let is_side = |other: &Service| {
        project.pair(name).is_some_and(|pair| pair.sides.contains(&other.name)) && other.name != *name
    };
    let runs = |other: &&Service| other.replicas() != Some(0) && !is_side(other);
    let others = || {
        project.services.values().filter(runs).flat_map(|other| other.ports.iter().map(move |p| (other, p)))
    };
    let clash = |port: &Port| {
        let published = port.fixed()?;
        let (other, entry) =
            others().find(|(_, entry)| !std::ptr::eq(*entry, port) && is_same_place(entry, port))?;
        let (first, second) = (port.target, entry.target);
        let place = format!("remove one of the two from `services.{name}.ports`");
        let (subject, hint) = if other.name == *name {
            let twice = format!("`{name}` publishes host port {published} twice");
            (format!("{twice}, for its ports {first} and {second}"), place)
        } else {
            let both = format!("`{name}` and `{}` both publish host port {published}", other.name);
            (both, format!("{place} or `services.{}.ports`", other.name))
        };
        Some(Finding::usage("port-twice", format!("{subject}, which the engine refuses"), hint))
    };
    service.ports.iter().find_map(clash)
}

/// True for the same port of the host, at the same address or at all of them.
fn is_same_place(one: &Port, other: &Port) -> bool {
    let address = |port: &Port| port.host_ip.clone().filter(|ip| ip != "0.0.0.0");
    let (a, b) = (address(one), address(other));
    // A port for IPv4 and the same one for IPv6 are two places.
    let is_ipv6 = |ip: &Option<String>| ip.as_ref().is_some_and(|ip| ip.contains(':'));
    let shares_address = is_ipv6(&a) == is_ipv6(&b) && (a.is_none() || b.is_none() || a == b);
    one.fixed() == other.fixed() && one.protocol() == other.protocol() && shares_address
}

/// Removes the findings on fixed ports if a stand-in can serve meanwhile, or adds to their hints why none can.
fn resolve_fixed_ports(found: &mut Vec<Finding>, proxies: &[Arc<dyn Proxy>], service: &Backend) {
    let places = proxies.iter().filter(|p| p.routes_to(service)).map(|p| p.place());
    let obstacle = places.into_iter().find_map(|place| match place {
        Place::Port { obstacle, .. } => Some(obstacle),
        _ => None,
    });
    match obstacle {
        Some(None) => found.retain(|finding| finding.rule != FIXED_PORT),
        Some(Some(reason)) => found.iter_mut().filter(|finding| finding.rule == FIXED_PORT).for_each(|finding| {
            let hint = format!(
                "run compose-zd as root on the machine of the engine, where a stand-in serves meanwhile ({reason}); or add a \
                 proxy with `compose-zd init`, or {}",
                finding.hint
            );
            finding.hint = hint;
        }),
        None => {}
    }
}

fn no_instances(service: &Service) -> Option<Finding> {
    let message = format!("`{}` is set to 0 instances (`deploy.replicas` or `scale`)", service.name);
    let hint = "set it to 1 or more; `docker compose stop` stops a service";
    (service.replicas() == Some(0)).then(|| Finding::usage("no-instances", message, hint))
}

/// Finding for `per_replica`, which Compose itself refuses when it starts a service.
fn per_replica(service: &Service) -> Option<Finding> {
    let n = service.pre_start.iter().position(|step| step.per_replica)?;
    let (name, key) = (&service.name, format!("pre_start[{n}].per_replica"));
    let message = format!("`{name}` has `{key}: true`, which Compose does not run yet");
    Some(Finding::usage("pre-start-per-replica", message, format!("remove `services.{name}.{key}`")))
}

fn unknown_kind(service: &Service) -> Option<Finding> {
    let is_known = |kind: &&str| {
        ["none", port::KIND].contains(kind) || proxy::ADAPTERS.iter().any(|adapter| adapter.kind == *kind)
    };
    let kind = service.settings.proxy.kind.as_deref().filter(|kind| !is_known(kind))?;
    Some(Finding { rule: "unknown-proxy-kind", ..proxy::unknown_kind(kind).into() })
}

/// Finding for an anonymous volume, unless the file allows a new one for each instance.
pub fn anonymous_volume(service: &Service, path: &str) -> Option<Finding> {
    let name = &service.name;
    let message =
        format!("`{name}` has an anonymous volume at {path}, whose data would stay with the old instance");
    let volume = path.trim_end_matches('/').rsplit('/').next().unwrap_or("data");
    let hint = format!(
        "give it a name (`services.{name}.volumes: [\"{volume}:{path}\"]`) and copy the data there, or set \
         `services.{name}.x-zd.anonymous_volumes: fresh` where it is only a cache"
    );
    let is_allowed = service.settings.anonymous_volumes.is_some();
    (!is_allowed).then(|| Finding::usage("anonymous-volume", message, hint).of_service(name))
}

/// Findings for services that share the network, processes or volumes of a target's container.
fn shared_namespaces(project: &Project, target: &Target) -> Vec<Finding> {
    let replaced = target.services();
    let others = project.services.values().filter(|s| !replaced.contains(&s.name.as_str()));
    let hosts =
        others.flat_map(|other| other.hosts().into_iter().map(move |(key, host)| (&other.name, key, host)));
    let left = hosts.filter(|(_, _, host)| replaced.contains(&host.as_str()));
    let finding = |(other, key, host): (&String, &str, String)| {
        let value = if key == "volumes_from" { format!("- {host}") } else { format!("service:{host}") };
        let message = format!(
            "`{other}` runs in the container of `{host}` (`services.{other}.{key}: {value}`), and would stay in the old instance"
        );
        let hint = format!(
            "give `{other}` its own network and volumes; or recreate both, with downtime: `compose-zd up --yes {host} \
             {other}`"
        );
        Finding::usage("shared-namespace", message, hint).of_service(&host)
    };
    left.map(finding).collect()
}

/// Warns if an image would be built with the state folder in it.
pub fn build_contexts(project: &Project, targets: &[Target], state_dir: &Path, report: Report) {
    for service in targets.iter().flat_map(Target::services).map(|s| &project.services[s]) {
        if is_in_build_context(service, state_dir) {
            let (service, folder) = (service.name.clone(), state_dir.display().to_string());
            report.warn(&Warning::StateInBuildContext { service, folder });
        }
    }
}

/// True if the build context of a service includes the state folder, whose records hold resolved secrets.
pub fn is_in_build_context(service: &Service, state_dir: &Path) -> bool {
    let Some(context) = service.build_context().map(PathBuf::from) else { return false };
    let Ok(inside) = state_dir.strip_prefix(&context) else { return false };
    let ignored = std::fs::read_to_string(context.join(".dockerignore")).unwrap_or_default();
    let first = inside.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned());
    !ignores(&ignored, &inside.to_string_lossy()) && !first.is_some_and(|f| ignores(&ignored, &f))
}

/// True if a `.dockerignore` names a path, in one of the usual forms.
fn ignores(text: &str, path: &str) -> bool {
    let name = |line: &str| {
        line.trim().trim_start_matches("**/").trim_start_matches('/').trim_end_matches('/').to_string()
    };
    text.lines().any(|line| name(line) == path || ["*", "**", ".*"].contains(&name(line).as_str()))
}

impl From<Unplannable> for Error {
    fn from(unplannable: Unplannable) -> Self {
        Finding::from(unplannable).into()
    }
}

impl From<Unplannable> for Finding {
    fn from(unplannable: Unplannable) -> Self {
        let message = format!("`{}` {}", unplannable.service, unplannable.reason);
        Finding::usage("stop-first-alone", message, unplannable.fix).of_service(&unplannable.service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FlagLayers;

    #[test]
    fn a_host_port_that_two_entries_publish_is_found() {
        let message = |services: &str| {
            let yaml = format!("name: p\nservices: {{{services}}}");
            let project = Project::read(&yaml, "compose.yaml", &FlagLayers::default()).unwrap();
            port_twice(&project, &project.services["app"]).map(|found| found.message).unwrap_or_default()
        };
        let port = |more: &str| format!("{{target: 80, published: '8080'{more}}}");
        let other = |more: &str| format!("{{target: 81, published: '8080'{more}}}");
        let app = |ports: &[String]| format!("app: {{image: x, ports: [{}]}}", ports.join(", "));
        let twice = message(&app(&[port(""), other("")]));
        assert!(
            twice.starts_with("`app` publishes host port 8080 twice, for its ports 80 and 81"),
            "{twice}"
        );
        assert_eq!(message(&app(&[port(""), other(", protocol: udp")])), "");
        assert_eq!(message(&app(&[port(", host_ip: 127.0.0.1"), other(", host_ip: 10.0.0.1")])), "");
        assert_ne!(message(&app(&[port(", host_ip: 127.0.0.1"), other("")])), "");
        assert_eq!(message(&app(&[port(", host_ip: 0.0.0.0"), port(", host_ip: '::'")])), "");
        let web =
            |keys: &str| format!("{}, web: {{image: x, ports: [{}]{keys}}}", app(&[port("")]), other(""));
        assert!(message(&web("")).starts_with("`app` and `web` both publish host port 8080"));
        assert_eq!(message(&web(", deploy: {replicas: 0}")), "");
        let yaml = format!("name: p\nx-zd: {{pairs: {{both: [app, web]}}}}\nservices: {{{}}}", web(""));
        let project = Project::read(&yaml, "compose.yaml", &FlagLayers::default()).unwrap();
        assert_eq!(port_twice(&project, &project.services["app"]), None, "one side may be stopped");
    }

    #[test]
    fn obstacles_to_a_second_instance_are_found() {
        let rules = |keys: &str| {
            let yaml = format!("name: p\nservices: {{app: {{image: x, {keys}}}}}");
            let project = Project::read(&yaml, "compose.yaml", &FlagLayers::default()).unwrap();
            let found = obstacles(&project.services["app"]);
            found.iter().map(|f| format!("{} {}", f.rule, f.message)).collect::<Vec<_>>()
        };
        let found = rules(
            "container_name: one, deploy: {replicas: 2}, network_mode: host, ports: [{target: 80, published: '8080'}, {target: 81}, \
             {target: 82, published: '9000-9010'}]",
        );
        let expected = [
            "container-name `app` has `container_name: one`, which only one of its 2 ",
            "fixed-host-port `app` publishes host port 8080, ",
            "network-mode `app` has `network_mode: host`, ",
        ];
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.iter().zip(expected).all(|(f, start)| f.starts_with(start)), "{found:?}");
        let found = rules(
            "mac_address: '02:42:ac:11:65:43', networks: {default: {ipv4_address: 10.0.0.9, ipv6_address: 'fd00::9'}}",
        );
        let expected = [
            "`mac_address: 02:42:ac:11:65:43`",
            "`networks.default.ipv4_address: 10.0.0.9`",
            "`networks.default.ipv6_address: fd00::9`",
        ];
        assert_eq!(found.len(), 3, "{found:?}");
        let is_address = |(f, key): (&String, &str)| f.starts_with("fixed-address") && f.contains(key);
        assert!(found.iter().zip(expected).all(is_address), "{found:?}");
        assert_eq!(rules("network_mode: bridge"), [""; 0]);
        assert_eq!(rules("container_name: one"), [""; 0]);
    }
}
