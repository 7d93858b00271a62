//! Tests of the switch by equality.

use super::*;

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| n.to_string()).collect()
}

pub fn proxying(handler: Value) -> Value {
    json!({"apps": {"http": {"servers": {"srv0": {"listen": [":80"], "routes": [
        {"match": [{"host": ["*.a.test", "a.test"]}], "handle": [{"handler": "subroute", "routes": [{"handle": [handler]}]}]}
    ]}}}}})
}

/// `reverse_proxy app:3000`
pub fn by_name() -> Value {
    json!({"handler": "reverse_proxy", "upstreams": [{"dial": "app:3000"}]})
}

/// `dynamic a app 3000`
pub fn by_address() -> Value {
    json!({"handler": "reverse_proxy", "dynamic_upstreams": {"source": "a", "name": "app", "port": "3000"}})
}

/// The handler inside the routes around it.
fn inner(config: &Value) -> &Value {
    &config["apps"]["http"]["servers"]["srv0"]["routes"][0]["handle"][0]["routes"][0]["handle"][0]
}

/// Features of a current Caddy, or of one before 2.8.
fn features(current: bool) -> CaddyFeatures {
    CaddyFeatures {
        folder: "/dev/shm".into(),
        reads_files: current,
        sets_host: current,
        counts_names: current,
    }
}

fn switched(current: bool, handler: &Value, names: &[&str]) -> Value {
    inner(&with_switches(&proxying(handler.clone()), &set(names), &features(current))).clone()
}

#[test]
fn a_switch_passes_requests_to_the_handler_behind_it_unless_it_is_on() {
    let folder = "/dev/shm/compose-zd/app";
    let slots = |bank| (1..=24).map(move |n| json!({"dial": format!("{{file.{folder}/{bank}/{n}}}:3000")}));
    let banked = |bank| json!([{"handler": "reverse_proxy", "upstreams": slots(bank).collect::<Vec<_>>()}]);
    let file = |name: &str| json!([{"file": {"fs": "default", "root": folder, "try_files": [name]}}]);
    let expected = json!({"handler": "subroute", "routes": [
        {"match": file("/on"), "handle": [{"handler": "vars", folder: "a"}]},
        {"match": file("/switched"), "handle": [{"handler": "vars", folder: "b"}]},
        {"match": [{"vars": {folder: ["a"]}}], "handle": banked("a")},
        {"match": [{"vars": {folder: ["b"]}}], "handle": banked("b")},
        {"match": [{"not": [{"vars": {folder: ["a", "b"]}}]}], "handle": [by_name()]},
    ]});
    assert_eq!(switched(true, &by_name(), &["app"]), expected);
}

#[test]
fn before_2_8_a_slot_is_a_folder_with_one_file() {
    let all = switched(false, &by_name(), &["app"]);
    let slot = "/dev/shm/compose-zd/app/a/1";
    assert_eq!(
        all["routes"][2]["handle"][0]["routes"][0],
        json!({
            "match": [{"file": {"root": slot, "try_files": ["/*"]}}],
            "handle": [{"handler": "vars", slot: "{http.matchers.file.relative}"}],
        })
    );
    let upstreams = all["routes"][2]["handle"][1]["upstreams"].as_array().unwrap();
    assert_eq!((upstreams.len(), &upstreams[0]["dial"]), (12, &json!(format!("{{http.vars.{slot}}}:3000"))));
}

#[test]
fn switches_are_recognised_and_removed_without_a_trace() {
    let accel = json!({"handler": "reverse_proxy", "@id": "api", "upstreams": [{"dial": "app:3000"}],
        "handle_response": [{"routes": [{"handle": [by_address()]}]}]});
    let (config, features) = (proxying(accel), features(true));
    let names = set(&["app"]);
    let all = with_switches(&config, &names, &features);
    assert_eq!(all.to_string().matches("\"@id\"").count(), 1, "an id may occur only once");
    assert_eq!(with_switches(&all, &names, &features), all);
    assert_eq!(without_switches(&all, &set(&["other"])), all);
    assert_eq!(with_switches(&all, &set(&["other"]), &features), all);
    assert_eq!(without_switches(&all, &names), config);
}

#[test]
fn other_upstreams_keep_their_share() {
    let two = json!({"handler": "reverse_proxy", "upstreams": [{"dial": "app:3000", "max_requests": 9}, {"dial": "legacy:80"}]});
    let upstreams = &switched(true, &two, &["app"])["routes"][2]["handle"][0]["upstreams"];
    let upstreams = upstreams.as_array().unwrap();
    let (slots, legacy): (Vec<&Value>, Vec<&Value>) =
        upstreams.iter().partition(|u| u["dial"] != "legacy:80");
    assert_eq!((slots.len(), legacy.len()), (24, 24));
    assert!(slots.iter().all(|s| s["max_requests"] == 9));
}

#[test]
fn the_sides_of_a_pair_are_one_switch_with_the_port_of_each() {
    let pair =
        json!({"handler": "reverse_proxy", "upstreams": [{"dial": "app_a:80"}, {"dial": "tcp/app_b:81"}]});
    let slots = &switched(true, &pair, &["app_b", "app_a"])["routes"][2]["handle"][0]["upstreams"];
    let file = |n: usize| format!("{{file./dev/shm/compose-zd/app_a+app_b/a/{n}}}");
    assert_eq!(slots[0], json!({"dial": format!("{}:80", file(1))}));
    assert_eq!(slots[1], json!({"dial": format!("{}:81", file(2))}));
}

#[test]
fn a_banks_handler_has_no_discovery_and_no_active_checks() {
    let mut checked = by_address();
    checked["health_checks"] = json!({"active": {"uri": "/"}, "passive": {"fail_duration": 1}});
    let banked = switched(true, &checked, &["app"])["routes"][2]["handle"][0].clone();
    assert_eq!(banked["health_checks"], json!({"passive": {"fail_duration": 1}}));
    assert_eq!(banked["dynamic_upstreams"], Value::Null);
    assert_eq!(banked["upstreams"][0]["dial"], "{file./dev/shm/compose-zd/app/a/1}:3000");
}

#[test]
fn an_instance_sees_the_same_host_name_behind_a_switch() {
    let mut tls = by_name();
    tls["transport"] = json!({"protocol": "http", "tls": {}});
    tls["headers"] =
        json!({"request": {"set": {"X-From": ["{http.reverse_proxy.upstream.host}:{http.request.port}"]}}});
    let banked = |current| switched(current, &tls, &["app"])["routes"][3]["handle"].clone();
    let (new, old) = (&banked(true)[0], &banked(false)[1]);
    assert_eq!(new["transport"]["tls"]["server_name"], "app");
    assert_eq!(new["headers"]["request"]["set"]["X-From"], json!(["app:{http.request.port}"]));
    assert_eq!(new["headers"]["request"]["set"]["Host"], json!(["app:3000"]));
    assert_eq!(old["headers"]["request"]["set"]["Host"], Value::Null);
}

#[test]
fn an_address_is_a_host_and_a_port() {
    let parsed = |dial: &str| host_and_port(dial).map(|(host, port)| (host, port.unwrap_or(0)));
    assert_eq!(parsed("app:3000"), Some(("app".into(), 3000)));
    assert_eq!(parsed("tcp4/app:80"), Some(("app".into(), 80)));
    assert_eq!(parsed("[fd00::5]:80"), Some(("fd00::5".into(), 80)));
    assert_eq!(parsed("app:{env.PORT}"), Some(("app".into(), 0)));
    assert_eq!(parsed("unix//run/app.sock"), None);
}

#[test]
fn dynamic_upstreams_are_found_in_every_source() {
    let a = json!({"source": "a", "name": "app", "refresh": "2s"});
    let srv = json!({"source": "srv", "name": "web", "refresh": 3_000_000_000_u64});
    let upstreams_of_multi =
        upstreams(&json!({"dynamic_upstreams": {"source": "multi", "sources": [a, srv]}}));
    let parsed: Vec<_> =
        upstreams_of_multi.iter().map(|u| (u.host.as_str(), u.port, u.refresh.unwrap().as_secs())).collect();
    assert_eq!(parsed, [("app", Some(80), 2), ("web", None, 3)]);
    assert_eq!(upstreams(&by_address())[0].refresh, Some(REFRESH));
}

#[test]
fn headers_that_are_not_an_object_are_replaced() {
    let handler = json!({"handler": "reverse_proxy", "upstreams": [{"dial": "app:443"}], "headers": [1],
        "transport": {"protocol": "http", "tls": {}}});
    let all = switched(true, &handler, &["app"]);
    let copy = &all["routes"][2]["handle"][0];
    assert_eq!(copy["headers"], json!({"request": {"set": {"Host": ["app:443"]}}}));
}
