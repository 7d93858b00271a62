use std::fs;

use super::*;
use crate::model::ResolvedProject;
use crate::swarm::diff::ServiceDiff;
use crate::swarm::observed::ObservedStack;

#[test]
fn a_compose_project_is_converted_for_swarm_with_each_change_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("site.conf"), "x").unwrap();
    let path = folder.path().display();
    let project: Value = serde_yaml::from_str(&format!(
        "{{name: shop, services: {{app: {{image: app, build: {{context: .}}, depends_on: {{db: {{}}}}, scale: 2, \
         labels: {{traefik.enable: 'true', own: x}}, ports: [{{target: 80, published: '80', host_ip: 127.0.0.1}}], \
         volumes: [{{type: bind, source: '{path}/site.conf', target: /c}}, {{type: bind, source: '{path}/data', target: /d}}]}}, \
         db: {{image: d, restart: always, networks: [n]}}, \
         lb: {{image: traefik, command: ['--providers.docker=true']}}}}, networks: {{n: {{driver: bridge}}}}}}"
    ))
    .unwrap();
    let converted = ConvertedProject::new(&project, folder.path());
    let app = &converted.value["services"]["app"];
    assert!(app["image"].as_str().unwrap().starts_with("${REGISTRY:?"), "{app}");
    assert_eq!(app["configs"][0]["target"], "/c");
    assert_eq!(converted.value["configs"]["app-0"]["file"], "./site.conf");
    assert_eq!(app["deploy"]["labels"], json!({ "traefik.enable": "true" }));
    assert_eq!((&app["labels"], &app["deploy"]["replicas"]), (&json!({ "own": "x" }), &json!(2)));
    assert!(app["ports"][0].get("host_ip").is_none() && app.get("depends_on").is_none());
    assert_eq!(converted.value["services"]["lb"]["command"][0], "--providers.swarm=true");
    assert_eq!(converted.value["x-zd"]["engine"], "swarm");
    assert!(!converted.text().contains("null"), "{}", converted.text());
    let changes = converted.changes.join("\n");
    for key in
        ["app.image", "app.volumes", "app.ports", "app.labels", "app.depends_on", "lb.command", "n.driver"]
    {
        assert!(changes.contains(&format!("{key}: ")), "no {key} in\n{changes}");
    }
    assert!(changes.contains("TODO services.app.volumes") && changes.contains("/data"), "{changes}");
    assert!(ResolvedProject::parse(&converted.text()).is_ok(), "{}", converted.text());
}

#[test]
fn the_file_of_an_existing_service_changes_nothing() {
    let json = r#"{"ID":"s","Spec":{"Name":"redis","Labels":{},"TaskTemplate":{
      "ContainerSpec":{"Image":"redis:6@sha256:ab","Env":["A=$1"],"Args":["--port","1"],"StopGracePeriod":3000000000,
        "OpenStdin":true,"DNSConfig":{"Nameservers":["1.1.1.1"]},"Labels":{"own":"$x"},"CapabilityAdd":["CAP_NET_ADMIN"],
        "Healthcheck":{"Test":["CMD","x"],"Interval":2000000000},
        "Mounts":[{"Type":"volume","Source":"data","Target":"/data"}]},
      "Resources":{"Limits":{"NanoCPUs":500000000,"MemoryBytes":52428800}},"Networks":[{"Target":"n1"}],
      "Placement":{"Constraints":["node.role==manager"],"Preferences":[{"Spread":{"SpreadDescriptor":"node.labels.x"}}],
        "MaxReplicas":2},"RestartPolicy":{"Condition":"on-failure","MaxAttempts":3},"ForceUpdate":0,"Runtime":"container"},
      "Mode":{"Replicated":{"Replicas":3}},"UpdateConfig":{"Parallelism":1,"Delay":10000000000,"FailureAction":"pause"},"RollbackConfig":{"Order":"start-first"},
      "EndpointSpec":{"Mode":"vip","Ports":[{"Protocol":"tcp","TargetPort":6379,"PublishedPort":6379,"PublishMode":"ingress"}]}}}"#;
    let stack =
        ObservedStack::new("redis", vec![serde_json::from_str(json).unwrap()], Vec::new(), &BTreeMap::new());
    let service = &stack.services["redis"];
    let networks: BTreeMap<String, String> = [("n1".to_string(), "front".to_string())].into();
    let project = project_of_service("redis", &service.spec, &networks);
    let written = &project["services"]["redis"];
    assert_eq!(written["environment"], json!(["A=$$1"]));
    assert_eq!(project["networks"]["front"], json!({ "name": "front", "external": true }));
    // As Compose resolves it.
    let mut resolved = project.clone();
    resolved["services"]["redis"]["environment"] = json!({ "A": "$$1" });
    resolved["services"]["redis"]["networks"] = json!({ "front": null });
    let file = StackFile::from_project(&resolved.to_string(), "f", &StackOverrides::default()).unwrap();
    assert!(file.refusals.is_empty(), "{:?}", file.refusals);
    let change = ServiceDiff {
        stack: "redis",
        file: &file.value,
        service: "redis",
        image: "redis:6",
        networks: &networks,
    };
    assert_eq!(change.describe(Some(service)), "nothing changes");
}
