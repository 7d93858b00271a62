//! Properties of the adapter: its parsers read back generated input, and no input makes them panic.

use proptest::prelude::*;
use proptest::sample::select;
use serde_yaml::{Mapping, Value};

use super::*;
use crate::fuzz::{corpus, damaged, holds, same};
use crate::proxy::haproxy::properties::{interrogate, rotation};

fn container(args: &[String]) -> Container {
    let json = r#"{"Id": "t", "Name": "/t", "NetworkSettings": {"Networks": {"front": {}}}}"#;
    let mut container: Container = serde_json::from_str(json).expect("a container");
    container.args = args.to_vec();
    container
}

fn traefik() -> Traefik {
    let flags = "--providers.docker --entrypoints.web.address=:80";
    let mut traefik = Traefik::new(&container(&flags.split(' ').map(String::from).collect::<Vec<_>>()));
    traefik.learn(&CommandResult { stdout: "@tool wget\n".into(), ..CommandResult::default() });
    traefik
}

/// Pins of a rotation, on an engine without others.
fn pins(traefik: &Traefik, rotation: &Rotation) -> Vec<Helper> {
    let output =
        |text: &str| CommandResult { code: Some(0), stdout: text.into(), ..CommandResult::default() };
    let goal = Goal::Rotation(rotation.clone());
    let next = traefik.advance(&[output("[]"), output("@end")], &goal).map(|(_, next)| next);
    let changes = next.map(|next| next.changes().to_vec()).unwrap_or_default();
    let started = changes.into_iter().filter_map(|change| match change.action {
        Action::Start(helper) => Some(helper),
        _ => None,
    });
    started.collect()
}

fn labels_of(text: &str) -> Labels {
    text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
}

#[test]
fn no_output_makes_the_adapter_panic() {
    let inputs = (damaged(corpus("traefik-answer")), damaged(corpus("traefik-containers")), any::<u8>());
    holds(inputs, |(text, containers, bits)| {
        interrogate(&traefik(), &text, bits);
        let (rotation, traefik) = (rotation(bits), traefik());
        let existing = vec!["t".into()];
        let discovery = Discovery { endpoints: rotation.all(), existing, ..Discovery::default() };
        let answers = [containers, text].map(|stdout| CommandResult {
            code: Some(0),
            stdout,
            ..CommandResult::default()
        });
        for goal in [Goal::Gated(rotation.clone()), Goal::Rotation(rotation), Goal::HandedBack(discovery)] {
            let _ = traefik.advance(&answers, &goal);
        }
        Ok(())
    });
}

#[test]
fn no_configuration_makes_the_adapter_panic() {
    let inputs = (damaged(corpus("traefik-config")), select(&["t.yaml", "t.toml"][..]), any::<u8>());
    holds(inputs, |(text, name, bits)| {
        let mut traefik = traefik();
        traefik.learn(&CommandResult {
            stdout: format!("@tool nc\n@file {name}\n{text}"),
            ..CommandResult::default()
        });
        let _ = traefik.check(&[]);
        interrogate(&traefik, "@now 5.1\n@served \n@end", bits);
        let flags: Vec<String> = text.split_whitespace().map(|w| format!("--{w}")).collect();
        interrogate(&Traefik::new(&container(&flags)), "@end", bits);
        Ok(())
    });
}

#[test]
fn a_deeply_nested_file_makes_nothing_overflow() {
    for (name, text) in [("t.toml", "a = "), ("t.yml", "a: "), ("t.yml", "")] {
        for opening in ["[", "{a: ", "{ a = ", "- "] {
            let text = format!("{text}{}", opening.repeat(2_000));
            let config = TraefikStaticConfig::read(&container(&[]), Some((name, &text)));
            assert_eq!(config.get("a"), None, "{name}: {opening}");
        }
    }
}

#[test]
fn no_label_makes_the_adapter_panic() {
    holds((damaged(corpus("traefik-labels")), any::<u8>()), |(text, bits)| {
        let labels = labels_of(&text);
        let mut rotation = rotation(bits);
        rotation.inside.iter_mut().for_each(|e| e.labels = labels.clone());
        let traefik = traefik();
        for pin in pins(&traefik, &rotation) {
            let labels: Labels = pin.labels.into_iter().collect();
            prop_assert!(labels::enabled(&labels) == Some(true), "{labels:?}");
        }
        let mut container = container(&[]);
        container.config.labels = labels.clone();
        let _ = (
            traefik.route_to(&Backend::from(&container)).port,
            traefik.route_to(&Backend::from(&container)).host,
        );
        let _ = traefik.check(&[Backend { labels: labels.clone(), ..Backend::default() }]);
        constraints::matches(&text, &labels);
        labels::default_rule(&text, &labels);
        for line in text.lines() {
            let _ = (constraints::matches(line, &labels), constraints::label_names(line));
        }
        Ok(())
    });
}

/// A constraint expression.
#[derive(Debug, Clone)]
enum Expression {
    Label(&'static str, &'static str),
    Regex,
    Not(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
}

fn expression() -> impl Strategy<Value = Expression> {
    let leaf = prop_oneof![
        3 => (select(&["a", "b", "c"][..]), select(&["1", "2", ""][..])).prop_map(|(k, v)| Expression::Label(k, v)),
        1 => Just(Expression::Regex),
    ];
    leaf.prop_recursive(5, 24, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|e| Expression::Not(e.into())),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Expression::And(a.into(), b.into())),
            (inner.clone(), inner).prop_map(|(a, b)| Expression::Or(a.into(), b.into())),
        ]
    })
}

impl Expression {
    fn print(&self) -> String {
        match self {
            Expression::Label(key, value) => format!("Label(`{key}`, \"{value}\")"),
            Expression::Regex => "LabelRegex(`a`,`(`)".into(),
            Expression::Not(e) => format!("!({})", e.print()),
            Expression::And(a, b) => format!("({})&&({})", a.print(), b.print()),
            Expression::Or(a, b) => format!("( {} ) || ( {} )", a.print(), b.print()),
        }
    }

    /// Value of the expression, where an invalid regex has the value `unknown`.
    fn value(&self, unknown: bool) -> bool {
        match self {
            Expression::Label(key, value) => (if *key == "a" { "1" } else { "" }) == *value,
            Expression::Regex => unknown,
            Expression::Not(e) => !e.value(unknown),
            Expression::And(a, b) => a.value(unknown) && b.value(unknown),
            Expression::Or(a, b) => a.value(unknown) || b.value(unknown),
        }
    }
}

/// The value of a constraint does not depend on its unknown parts.
#[test]
fn a_constraint_has_the_value_of_its_expression() {
    holds(expression(), |expression| {
        let labels: Labels = [("a".to_string(), "1".to_string())].into();
        match constraints::matches(&expression.print(), &labels) {
            Some(value) => same(&(expression.value(true), expression.value(false)), &(value, value)),
            None => {
                prop_assert!(expression.print().contains("LabelRegex"), "{}", expression.print());
                Ok(())
            }
        }
    });
}

/// Every pin is in the network of an instance inside, and the labels of a route survive a copy of the copy.
#[test]
fn the_pins_of_a_rotation_are_those_of_the_instances_inside() {
    holds(any::<u8>(), |bits| {
        let mut rotation = rotation(bits);
        for endpoint in rotation.inside.iter_mut().chain(&mut rotation.outside) {
            endpoint.labels = labels_of(&corpus("traefik-labels").concat());
        }
        let networks: BTreeSet<String> =
            pins(&traefik(), &rotation).into_iter().map(|pin| pin.network).collect();
        let running = rotation.inside.iter().filter(|e| !e.addresses.is_empty());
        let mut expected: BTreeSet<String> = running.map(|e| format!("container:{}", e.id)).collect();
        expected.extend((expected.len() > 1).then(|| "container:t".to_string()));
        same(&networks, &expected)
    });
}

/// The same keys and values, in the syntax of each source.
#[test]
fn flags_variables_and_files_give_the_same_configuration() {
    let keys = [
        "entrypoints.web.address",
        "entrypoints.web.http.tls.certresolver",
        "providers.docker.exposedbydefault",
        "providers.file.directory",
        "providers.file.watch",
        "api.insecure",
        "api.basepath",
        "ping",
        "serverstransport.forwardingtimeouts.idleconntimeout",
        "providers.providersthrottleduration",
    ];
    let value = select(
        &["true", "false", ":80", ":443/tcp", "/d/", "500ms", "1m30.5s", "7", "a b", "x=y", "1e3"][..],
    );
    holds(prop::collection::btree_map(select(keys.to_vec()), value, 1..6), |pairs| {
        let flags: Vec<String> = pairs.iter().map(|(k, v)| format!("--{k}={v}")).collect();
        let mut by_environment = container(&[]);
        by_environment.config.env = pairs
            .iter()
            .map(|(k, v)| format!("TRAEFIK_{}={v}", k.replace('.', "_").to_uppercase()))
            .collect();
        let mut tree = Mapping::new();
        for (key, value) in &pairs {
            labels::insert(&mut tree, &key.split('.').collect::<Vec<_>>(), value);
        }
        let yaml = serde_yaml::to_string(&tree).expect("YAML");
        let toml = toml_of(&tree);
        let configs = [
            TraefikStaticConfig::read(&container(&flags), None),
            TraefikStaticConfig::read(&by_environment, None),
            TraefikStaticConfig::read(&container(&[]), Some(("t.yml", &yaml))),
            TraefikStaticConfig::read(&container(&[]), Some(("t.toml", &toml))),
        ];
        for config in &configs {
            for (key, value) in &pairs {
                same(&config.get(key), &Some(*value))?;
            }
            let values = |s: &TraefikStaticConfig| {
                (
                    s.entry_points(),
                    s.route_files().map(String::from).collect::<Vec<_>>(),
                    s.insecure_api(),
                    s.throttle(),
                )
            };
            same(&values(config), &values(&configs[0]))?;
        }
        Ok(())
    });
}

/// TOML text of a tree, with inline tables.
fn toml_of(tree: &Mapping) -> String {
    fn inline(value: &Value) -> String {
        match value {
            Value::Mapping(map) => {
                let entries =
                    map.iter().map(|(k, v)| format!("{} = {}", k.as_str().expect("a name"), inline(v)));
                format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
            }
            other => format!("{:?}", other.as_str().expect("a text")),
        }
    }
    tree.iter().map(|(k, v)| format!("{} = {}\n", k.as_str().expect("a name"), inline(v))).collect()
}
