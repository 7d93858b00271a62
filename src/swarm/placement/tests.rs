use serde_json::json;

use super::*;
use crate::model::ResolvedProject;
use crate::swarm::stack_file::StackOverrides;

fn node(name: &str, role: &str, availability: &str) -> Node {
    serde_json::from_value(json!({
        "ID": format!("id-{name}"),
        "Spec": { "Role": role, "Availability": availability, "Labels": { "disk": "SSD" } },
        "Description": { "Hostname": name, "Platform": { "OS": "linux", "Architecture": "x86_64" },
            "Engine": { "Labels": { "zone": "a" } } },
        "Status": { "State": "ready", "Addr": "10.0.0.1" },
    }))
    .unwrap()
}

/// Two nodes, of which `one` is the current one, and a third that accepts no tasks.
fn nodes() -> SwarmNodes {
    let all = vec![
        node("one", "manager", "active"),
        node("two", "worker", "active"),
        node("three", "worker", "drain"),
    ];
    SwarmNodes { all, this_id: "id-one".into() }
}

fn refusals(yaml: &str, local: &[(&str, &[&str])]) -> String {
    let text = ResolvedProject::parse(yaml).unwrap().text();
    let file = StackFile::from_project(&text, "compose.yaml", &StackOverrides::default()).unwrap();
    let set = |nodes: &[&str]| nodes.iter().map(|n| n.to_string()).collect();
    let one = |(service, nodes): &(&str, &[&str])| LocalImage {
        service: service.to_string(),
        image: file.image(service).into(),
        ran_on: set(nodes),
    };
    let local: Vec<LocalImage> = local.iter().map(one).collect();
    let found = nodes().refusals(&file, &local, Path::new("/srv/shop"));
    found.iter().map(|w| format!("{} | {}\n", w.message, w.hint)).collect()
}

#[test]
fn a_constraint_is_compared_as_swarm_compares_it() {
    let one = node("one", "manager", "active");
    for (constraint, is_met) in [
        ("node.role==manager", true),
        ("node.role == Manager", true),
        ("node.role!=manager", false),
        ("node.hostname == two", false),
        ("node.id == id-one", true),
        ("node.labels.disk==ssd", true),
        ("node.labels.none != x", true),
        ("node.labels.none == x", false),
        ("engine.labels.zone == a", true),
        ("node.platform.os == linux", true),
        ("node.unknown == x", true),
    ] {
        assert_eq!(one.meets(constraint), is_met, "{constraint}");
    }
}

#[test]
fn a_constraint_that_no_node_meets_is_refused() {
    let text = refusals(
        "services: {app: {image: a, deploy: {mode: global, placement: {constraints: [node.labels.x == 1]}}}}",
        &[],
    );
    assert!(text.starts_with("`app`: no node meets `node.labels.x == 1` |"), "{text}");
    assert_eq!(
        refusals(
            "services: {app: {image: a, deploy: {placement: {constraints: [node.role == worker]}}}}",
            &[]
        ),
        ""
    );
    let drained = "services: {app: {image: a, deploy: {placement: {constraints: [node.hostname == three]}}}}";
    assert!(refusals(drained, &[]).contains("no node meets"));
}

#[test]
fn an_image_of_one_node_is_refused_if_other_nodes_may_run_it() {
    let app = |more: &str| format!("services: {{app: {{image: a:1, {more}}}}}");
    let text = refusals(&app(""), &[("app", &[])]);
    assert!(text.contains("`a:1` is on this node only") && text.contains("`two`"), "{text}");
    assert!(text.contains("--push") && text.contains("node.hostname == one"), "{text}");
    assert_eq!(refusals(&app(""), &[("app", &["two"])]), "", "it ran there");
    assert_eq!(
        refusals(&app("deploy: {placement: {constraints: [node.role==manager]}}"), &[("app", &[])]),
        ""
    );
}

#[test]
fn all_refusals_are_reported_together() {
    let yaml = "services: {app: {image: a, volumes: [{type: bind, source: /srv/shop/conf, target: /c}, \
                {type: bind, source: /var/run/docker.sock, target: /s}]}, \
                db: {image: d, deploy: {placement: {constraints: [node.labels.x==1]}}}}";
    let text = refusals(yaml, &[("app", &[])]);
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.contains("`/srv/shop/conf` is in the project's folder") && !text.contains("docker.sock"));
}

#[test]
fn a_node_local_volume_is_a_risk_if_the_service_may_move() {
    let risks = |more: &str, volume: &str| {
        let yaml = format!(
            "services: {{db: {{image: d, volumes: [{{type: volume, source: v, target: /d}}], {more}}}}}\nvolumes: {{v: {volume}}}"
        );
        let text = ResolvedProject::parse(&yaml).unwrap().text();
        nodes().risks(&StackFile::from_project(&text, "f", &StackOverrides::default()).unwrap()).len()
    };
    assert_eq!(risks("", "{name: p_v}"), 1);
    assert_eq!(risks("deploy: {placement: {constraints: [node.hostname == one]}}", "{}"), 0);
    assert_eq!(risks("deploy: {mode: global}", "{}"), 0);
    assert_eq!(risks("", "{driver_opts: {type: nfs}}"), 0);
    assert_eq!(risks("", "{external: true}"), 0);
}
