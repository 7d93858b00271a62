//! The resolved project as input for Compose, with other images or with services of another release. Written as JSON,
//! which is YAML: a string that looks like a number or a date stays a string.

use std::net::IpAddr;

use serde_yaml::{Mapping, Value};

use super::ConfigError;

/// Top-level maps that services refer to.
const SHARED: [&str; 4] = ["networks", "volumes", "secrets", "configs"];

/// Keys of a service by which proxies and other services find a container.
const DISCOVERY: [&str; 5] = ["networks", "network_mode", "labels", "environment", "profiles"];

/// Relay in the place of a service's only instance.
#[derive(Debug, Clone, Default)]
pub struct Relay {
    pub image: String,
    pub command: Vec<String>,
    /// Ports that the image of the service exposes.
    pub exposed: Vec<u16>,
    /// Ports that the engine publishes where it likes, each with an address of the host.
    pub published: Vec<(Option<IpAddr>, u16)>,
}

/// A resolved project as a tree of values.
#[derive(Clone)]
pub struct ResolvedProject(Value);

impl ResolvedProject {
    /// Parses the output of `docker compose config`, or an earlier snapshot. The text holds secrets, so no message shows it.
    ///
    /// # Errors
    /// A text that is no project.
    pub fn parse(yaml: &str) -> Result<ResolvedProject, ConfigError> {
        let value: Option<Value> = serde_yaml::from_str(yaml).ok();
        // JSON needs keys that are strings.
        let value = value.filter(|v| serde_json::to_value(v).is_ok());
        let project = value.filter(|v| v.get("services").is_some_and(Value::is_mapping));
        project.map(ResolvedProject).ok_or_else(|| ConfigError {
            message: "the resolved project has no `services`".into(),
            hint: "use the output of `docker compose config`".into(),
        })
    }

    pub fn text(&self) -> String {
        serde_json::to_string_pretty(&self.0).expect("a parsed project can be serialised")
    }

    /// Name of the project.
    pub fn project_name(&self) -> Option<&str> {
        self.0.get("name")?.as_str()
    }

    /// The image of a service, as the file names it.
    pub fn image(&self, service: &str) -> Option<&str> {
        self.service(service)["image"].as_str()
    }

    /// The definition of a service; null if there is none.
    pub fn definition(&self, service: &str) -> &Value {
        self.service(service)
    }

    fn service(&self, name: &str) -> &Value {
        &self.0["services"][name]
    }

    fn service_mut(&mut self, name: &str) -> Option<&mut Mapping> {
        self.map_mut("services")?.get_mut(name)?.as_mapping_mut()
    }

    /// Sets the image of a service and removes its `build`.
    pub fn set_image(&mut self, service: &str, reference: &str) {
        if let Some(service) = self.service_mut(service) {
            service.insert("image".into(), reference.into());
            service.remove("build");
        }
    }

    /// The definition of a config, secret, network or volume.
    pub fn shared(&self, kind: &str, key: &str) -> Option<&Value> {
        self.0.get(kind)?.get(key)
    }

    /// Sets the definition of a config, secret, network or volume.
    pub fn set_shared(&mut self, kind: &str, key: &str, value: Value) {
        if let Some(map) = self.map_mut(kind) {
            map.insert(key.into(), value);
        }
    }

    /// Configs of a service whose text is in the file: path in the container, and text. Compose ignores a change of it.
    pub fn inline_configs(&self, service: &str) -> Vec<(String, String)> {
        let grants = self.service(service)["configs"].as_sequence().into_iter().flatten();
        let inline = |grant: &Value| {
            let source = grant["source"].as_str()?;
            let text = self.shared("configs", source)?["content"].as_str()?;
            let target = grant["target"].as_str().map_or_else(|| format!("/{source}"), String::from);
            Some((target, text.replace("$$", "$")))
        };
        grants.filter_map(inline).collect()
    }

    /// Keys of a top-level map.
    pub fn keys(&self, kind: &str) -> Vec<String> {
        let map = self.0[kind].as_mapping().into_iter().flatten();
        map.filter_map(|(key, _)| Some(key.as_str()?.to_string())).collect()
    }

    /// Sets the environment of a service, but keeps variables without a value (`KEY:`), which Compose passes on.
    pub fn set_environment<'p>(&mut self, service: &str, pairs: impl Iterator<Item = (&'p str, &'p str)>) {
        let Some(service) = self.service_mut(service) else { return };
        let before = service.get("environment").and_then(Value::as_mapping);
        let unset = before.into_iter().flatten().filter(|(_, value)| value.is_null());
        let mut environment: Mapping = unset.map(|(name, value)| (name.clone(), value.clone())).collect();
        let doubled = |text: &str| Value::from(text.replace('$', "$$"));
        environment.extend(pairs.map(|(name, value)| (name.into(), doubled(value))));
        service.insert("environment".into(), environment.into());
    }

    /// The project with a stand-in of a service: without the fixed ports of the host, and with a label. The engine
    /// publishes its container ports, with these addresses of the host, where it likes. It never starts again.
    pub fn with_stand_in(
        &self,
        name: &str,
        ports: &[(Option<IpAddr>, u16)],
        label: (&str, &str),
    ) -> ResolvedProject {
        let mut project = self.clone();
        let Some(service) = project.service_mut(name) else { return project };
        name_to_alias(service);
        service.insert("ports".into(), random_ports(ports));
        service.insert("restart".into(), "no".into());
        add_label(service, label);
        project
    }

    /// The project with a relay of a service: what proxies find an instance by, and the program of the relay.
    pub fn with_relay(&self, name: &str, relay: &Relay, label: (&str, &str)) -> ResolvedProject {
        let mut project = self.clone();
        let Some(service) = project.service_mut(name) else { return project };
        name_to_alias(service);
        service.retain(|key, _| key.as_str().is_some_and(|key| DISCOVERY.contains(&key)));
        if let Some(environment) = service.get_mut("environment").and_then(Value::as_mapping_mut) {
            // Variables of the loader could keep the relay's own program from starting.
            environment.retain(|variable, _| !variable.as_str().is_some_and(|name| name.starts_with("LD_")));
        }
        let strings =
            |words: &[String]| Value::from(words.iter().map(|w| w.replace('$', "$$")).collect::<Vec<_>>());
        let exposed: Vec<String> = relay.exposed.iter().map(u16::to_string).collect();
        let disabled = Mapping::from_iter([("disable".into(), true.into())]);
        let keys: [(&str, Value); 6] = [
            ("image", relay.image.as_str().into()),
            ("command", strings(&relay.command)),
            ("expose", strings(&exposed)),
            ("healthcheck", disabled.into()),
            ("restart", "no".into()),
            ("pull_policy", "never".into()),
        ];
        service.extend(keys.map(|(key, value)| (key.into(), value)));
        if !relay.published.is_empty() {
            service.insert("ports".into(), random_ports(&relay.published));
        }
        add_label(service, label);
        project
    }

    /// Both snapshots define the service in the same way.
    pub fn has_same_service(&self, service: &str, other: &ResolvedProject) -> bool {
        !self.service(service).is_null() && self.service(service) == other.service(service)
    }

    /// The environment of a service has the variable, with any value.
    pub fn has_variable(&self, service: &str, name: &str) -> bool {
        self.service(service)["environment"].get(name).is_some()
    }

    /// Copies services, and the networks, volumes, secrets and configs that they need, from another snapshot.
    pub fn copy_services(&mut self, services: &[&str], other: &ResolvedProject) {
        for name in services {
            let source = other.service(name);
            if let Some(services) = self.map_mut("services").filter(|_| !source.is_null()) {
                services.insert((*name).into(), source.clone());
            }
        }
        for key in SHARED {
            self.add_missing(key, other);
        }
    }

    /// Adds the entries of a top-level map that are missing here.
    fn add_missing(&mut self, key: &str, other: &ResolvedProject) {
        let (Some(source), Some(target)) = (other.0[key].as_mapping(), self.map_mut(key)) else { return };
        for (name, value) in source {
            target.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }

    /// A top-level map, created if missing.
    fn map_mut(&mut self, key: &str) -> Option<&mut Mapping> {
        let root = self.0.as_mapping_mut()?;
        root.entry(key.into()).or_insert_with(|| Value::Mapping(Mapping::new())).as_mapping_mut()
    }
}

/// Ports of a container that the engine publishes where it likes, each with an address of the host.
fn random_ports(ports: &[(Option<IpAddr>, u16)]) -> Value {
    let port = |(ip, target): &(Option<IpAddr>, u16)| {
        let mut port = Mapping::new();
        port.insert("target".into(), (*target).into());
        port.insert("protocol".into(), "tcp".into());
        ip.iter().for_each(|ip| _ = port.insert("host_ip".into(), ip.to_string().into()));
        Value::Mapping(port)
    };
    ports.iter().map(port).collect::<Vec<_>>().into()
}

/// Replaces `container_name`, which only one container can have, by an alias on each network.
fn name_to_alias(service: &mut Mapping) {
    let Some(name) = service.remove("container_name") else { return };
    let networks = service.get_mut("networks").and_then(Value::as_mapping_mut);
    for network in networks.into_iter().flat_map(Mapping::values_mut) {
        if network.is_null() {
            *network = Mapping::new().into();
        }
        let Some(keys) = network.as_mapping_mut() else { continue };
        let aliases = keys.entry("aliases".into()).or_insert_with(|| Value::Sequence(Vec::new()));
        aliases.as_sequence_mut().into_iter().for_each(|aliases| aliases.push(name.clone()));
    }
}

fn add_label(service: &mut Mapping, (key, value): (&str, &str)) {
    let labels = service.entry("labels".into()).or_insert_with(|| Mapping::new().into());
    labels.as_mapping_mut().map(|labels| labels.insert(key.into(), value.into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> ResolvedProject {
        ResolvedProject::parse(yaml).unwrap_or_else(|wrong| panic!("{wrong:?}"))
    }

    #[test]
    fn a_string_that_looks_like_something_else_stays_a_string() {
        let words = ["1_000", "2001-01-01", "012", "yes", "1e3", "0x10", "~", "a$$b"];
        let environment: Vec<String> = words.iter().map(|w| format!("{{K: \"{w}\"}}")).collect();
        let text = read(&format!("services: {{app: {{environment: [{}]}}}}", environment.join(", "))).text();
        for word in words {
            assert!(text.contains(&format!("\"K\": \"{word}\"")), "{word}: {text}");
        }
    }

    #[test]
    fn an_environment_keeps_variables_without_a_value() {
        let mut snapshot = read("services: {app: {image: a, environment: {OPTIONS: , OLD: 1}}}");
        snapshot.set_environment("app", [("NEW", "a$b")].into_iter());
        let text = snapshot.text();
        assert!(text.contains("\"OPTIONS\": null") && text.contains("\"NEW\": \"a$$b\""), "{text}");
        assert!(!text.contains("OLD") && snapshot.has_variable("app", "OPTIONS"));
        assert!(!snapshot.has_variable("app", "OLD"));
    }

    #[test]
    fn an_inline_config_has_a_path_and_the_text_that_the_container_gets() {
        let project = read(
            "services: {app: {configs: [{source: a}, {source: b, target: /etc/b}, {source: c}]}, db: {}}\n\
             configs: {a: {content: \"1 $$x\"}, b: {content: b}, c: {file: /c}}",
        );
        let expected = [("/a", "1 $x"), ("/etc/b", "b")].map(|(path, text)| (path.into(), text.into()));
        assert_eq!(project.inline_configs("app"), expected);
        assert!(project.inline_configs("db").is_empty() && project.inline_configs("none").is_empty());
    }

    #[test]
    fn a_set_image_removes_the_build() {
        let mut snapshot = read("services: {app: {build: {context: .}}, db: {image: d}}");
        assert_eq!((snapshot.image("app"), snapshot.image("db")), (None, Some("d")));
        snapshot.set_image("app", "a:2");
        snapshot.set_image("unknown", "x");
        assert_eq!(snapshot.image("app"), Some("a:2"));
        assert!(!snapshot.text().contains("build") && !snapshot.text().contains("unknown"));
    }

    #[test]
    fn a_stand_in_has_no_fixed_port_and_never_starts_again() {
        let ports = "[{target: 3000, published: '8080', protocol: tcp}, {target: 53, published: '53', protocol: udp}]";
        let project = read(&format!(
            "services: {{app: {{image: a, ports: {ports}, restart: always, labels: {{a: b}}}}}}"
        ));
        let ports = [(None, 3000), (Some("127.0.0.1".parse().unwrap()), 9090)];
        let stand_in = project.with_stand_in("app", &ports, ("stand-in", "p/app"));
        let app = stand_in.service("app");
        let published = "[{target: 3000, protocol: tcp}, {target: 9090, protocol: tcp, host_ip: 127.0.0.1}]";
        assert_eq!(app["ports"], serde_yaml::from_str::<Value>(published).unwrap());
        assert_eq!(
            (app["restart"].as_str(), app["labels"]["stand-in"].as_str()),
            (Some("no"), Some("p/app"))
        );
        assert_eq!((app["labels"]["a"].as_str(), app["image"].as_str()), (Some("b"), Some("a")));
    }

    #[test]
    fn a_relay_has_only_what_proxies_find_an_instance_by() {
        let project = read(
            "services: {app: {image: a, build: {context: .}, command: [run], user: '5', volumes: [{type: volume}], \
             ports: [{target: 3000}], depends_on: {db: {}}, deploy: {replicas: 2}, restart: always, entrypoint: [x], \
             healthcheck: {test: [CMD, x]}, networks: {front: {aliases: [shop]}}, \
             environment: {VIRTUAL_HOST: shop, LD_PRELOAD: x}, labels: {traefik.enable: 'true'}}}",
        );
        let words = ["__helper", "relay", "$x"].map(String::from).to_vec();
        let relay =
            Relay { image: "helper:1".into(), command: words, exposed: vec![3000], ..Relay::default() };
        let relay = project.with_relay("app", &relay, ("bridge", "relay"));
        let expected = "{networks: {front: {aliases: [shop]}}, environment: {VIRTUAL_HOST: shop}, image: 'helper:1', \
                        labels: {traefik.enable: 'true', bridge: relay}, command: [__helper, relay, $$x], \
                        expose: ['3000'], healthcheck: {disable: true}, restart: 'no', pull_policy: never}";
        assert_eq!(*relay.service("app"), serde_yaml::from_str::<Value>(expected).unwrap());
        let published = vec![(Some("127.0.0.1".parse().unwrap()), 3000)];
        let relay = project.with_relay("app", &Relay { published, ..Relay::default() }, ("bridge", "relay"));
        let random = "[{target: 3000, protocol: tcp, host_ip: 127.0.0.1}]";
        assert_eq!(relay.service("app")["ports"], serde_yaml::from_str::<Value>(random).unwrap());
    }

    #[test]
    fn a_bridge_has_an_alias_in_the_place_of_the_name_of_the_only_container() {
        let networks = "networks: {default: null, front: {aliases: [shop], priority: 1}}";
        let project = read(&format!("services: {{app: {{image: a, container_name: one, {networks}}}}}"));
        let expected = "{default: {aliases: [one]}, front: {aliases: [shop, one], priority: 1}}";
        let stand_in = project.with_stand_in("app", &[], ("bridge", "p/app"));
        let relay = project.with_relay("app", &Relay::default(), ("bridge", "relay"));
        for bridge in [stand_in.service("app"), relay.service("app")] {
            assert_eq!(bridge["networks"], serde_yaml::from_str::<Value>(expected).unwrap());
            assert!(bridge["container_name"].is_null());
        }
    }

    #[test]
    fn copied_services_bring_their_networks_and_volumes() {
        let mut new = read("services: {app: {image: a:2}, db: {image: d:2}}\nnetworks: {n: {name: new}}");
        let old = read(
            "services: {app: {image: a:1}, db: {image: d:1}}\nnetworks: {n: {name: old}, m: {name: m}}\nvolumes: {v: {}}",
        );
        new.copy_services(&["db", "unknown"], &old);
        assert_eq!((new.image("app"), new.image("db")), (Some("a:2"), Some("d:1")));
        let again = read(&new.text());
        let name = |n: &str| again.0["networks"][n]["name"].as_str().map(String::from);
        assert_eq!((name("n").as_deref(), name("m").as_deref()), (Some("new"), Some("m")));
        assert!(again.0["volumes"].get("v").is_some());
    }

    #[test]
    fn dollars_of_an_environment_are_doubled() {
        let mut snapshot = read("services: {app: {environment: {A: one, B: two}}}");
        snapshot.set_environment("app", [("A", "$1"), ("C", "x=y")].into_iter());
        let again = read(&snapshot.text());
        let environment = &again.0["services"]["app"]["environment"];
        assert_eq!((environment["A"].as_str(), environment["C"].as_str()), (Some("$$1"), Some("x=y")));
        assert!(environment.get("B").is_none());
    }

    #[test]
    fn a_text_that_is_no_project_is_refused() {
        for text in ["", "a", "services: 3", "{", "name: x", "services: {}\n? [a]\n: b", "services: {~: {}}"]
        {
            assert!(ResolvedProject::parse(text).is_err(), "{text}");
        }
    }
}
