use super::*;

/// As engine 20.10 prints it, shortened.
const SPEC: &str = r#"{"Name":"demo_vote","Labels":{"com.docker.stack.namespace":"demo"},"TaskTemplate":{
  "ContainerSpec":{"Image":"app:1@sha256:ab","Env":["EXIT_AFTER=0","VERSION=2"],
    "Privileges":{"CredentialSpec":null,"NoNewPrivileges":false},"StopGracePeriod":10000000000,"DNSConfig":{},"Isolation":"default"},
  "Resources":{},"RestartPolicy":{"Condition":"any","Delay":5000000000,"MaxAttempts":0},"Placement":{},
  "Networks":[{"Target":"6yrw","Aliases":["vote"]}],"ForceUpdate":0,"Runtime":"container"},
  "Mode":{"Replicated":{"Replicas":5}},"UpdateConfig":{"Parallelism":2,"Monitor":2000000000},"EndpointSpec":{"Mode":"dnsrr"}}"#;

/// The same spec as the `PreviousSpec` of the next update, without the defaults that Swarm fills in.
const PREVIOUS: &str = r#"{"Name":"demo_vote","Labels":{},"TaskTemplate":{
  "ContainerSpec":{"Image":"app:1@sha256:ab","Env":["EXIT_AFTER=0","VERSION=2"],
    "Privileges":{"CredentialSpec":null},"Isolation":"default"},
  "Placement":{},"Networks":[{"Target":"6yrw","Aliases":["vote"]}],"ForceUpdate":0,"Runtime":"container"},
  "Mode":{"Replicated":{"Replicas":5}},"UpdateConfig":{"Parallelism":1},"EndpointSpec":{"Mode":"dnsrr"}}"#;

fn spec(json: &str) -> ServiceSpec {
    ServiceSpec::new(&serde_json::from_str(json).unwrap())
}

#[test]
fn a_spec_equals_itself_without_the_defaults_of_swarm() {
    let (one, other) = (spec(SPEC), spec(PREVIOUS));
    assert!(one.same_content(&other) && one.same_tasks(&other));
    assert_eq!(one.fingerprint(), other.fingerprint());
}

#[test]
fn specs_that_differ_are_distinguished() {
    let one = spec(SPEC);
    let of = |from: &str, to: &str| spec(&SPEC.replace(from, to));
    for (from, to) in [
        ("VERSION=2", "VERSION=3"),
        ("app:1@sha256:ab", "app:2"),
        ("\"Resources\":{}", "\"Resources\":{\"Limits\":{\"Pids\":3}}"),
    ] {
        let other = of(from, to);
        assert!(!one.same_tasks(&other) && !one.same_content(&other), "{to}");
        assert_ne!(one.fingerprint(), other.fingerprint());
    }
    let scaled = of("\"Replicas\":5", "\"Replicas\":6");
    assert!(one.same_tasks(&scaled) && !one.same_content(&scaled));
    let forced = of("\"ForceUpdate\":0", "\"ForceUpdate\":1");
    assert!(!one.same_tasks(&forced) && one.same_content(&forced));
    let paced = of("\"Parallelism\":2", "\"Parallelism\":3");
    assert!(one.same_tasks(&paced) && one.same_content(&paced));
}

#[test]
fn a_fingerprint_reveals_no_secret() {
    let print = spec(SPEC).fingerprint();
    assert!(print.len() == 64 && print.chars().all(|c| c.is_ascii_hexdigit()), "{print}");
}

#[test]
fn the_settings_of_a_spec_are_read() {
    let read = spec(SPEC);
    assert_eq!((read.image(), read.replicas(), read.is_job()), ("app:1@sha256:ab", Some(5), false));
    assert_eq!(read.environment().get("VERSION"), Some(&"2"));
    assert_eq!(read.monitor(), Duration::from_secs(2));
    assert_eq!(read.stop_grace_period(), Duration::from_secs(10));
    let none = spec(r#"{"Name":"x","Mode":{"Replicated":{"Replicas":0}}}"#);
    assert_eq!(none.replicas(), Some(0));
    assert_eq!(spec(r#"{"Name":"x","Mode":{"Global":{}}}"#).replicas(), None);
    assert!(spec(r#"{"Name":"x","Mode":{"ReplicatedJob":{}}}"#).is_job());
}

fn task(json: &str) -> Task {
    serde_json::from_str(json).unwrap()
}

#[test]
fn a_stack_is_assembled_from_services_tasks_and_nodes() {
    let service =
        format!(r#"{{"ID":"s1","Spec":{SPEC},"UpdateStatus":{{"State":"updating","Message":"m"}}}}"#);
    let services = vec![serde_json::from_str(&service).unwrap()];
    let template = &serde_json::from_str::<Value>(SPEC).unwrap()["TaskTemplate"];
    let running = format!(
        r#"{{"ID":"t1","ServiceID":"s1","NodeID":"n1","Slot":3,"Spec":{template},"DesiredState":"running",
            "Status":{{"State":"running","ContainerStatus":{{"ContainerID":"c"}}}}}}"#
    );
    let failed = r#"{"ID":"t2","ServiceID":"s1","NodeID":"gone","DesiredState":"shutdown",
        "Status":{"State":"failed","Err":"task: non-zero exit (1)"}}"#;
    let other = r#"{"ID":"t3","ServiceID":"another","Status":{"State":"running"},"DesiredState":"running"}"#;
    let nodes = [("n1".to_string(), "one".to_string())].into();
    let stack = ObservedStack::new("demo", services, vec![task(&running), task(failed), task(other)], &nodes);
    let service = &stack.services["vote"];
    assert_eq!((service.update.state, stack.tasks().count()), (UpdateState::Updating, 2));
    assert_eq!((service.desired_tasks(), service.current_tasks()), (5, 1));
    let one = stack.tasks().find(|t| t.runs()).unwrap();
    let container = one.status.container_status.container.as_str();
    assert_eq!((one.name().as_str(), one.node.as_str(), container), ("vote.3", "one", "c"));
    let two = stack.tasks().find(|t| t.has_failed()).unwrap();
    assert_eq!((two.name().as_str(), two.node.as_str(), two.is_desired()), ("vote", "", false));
}

#[test]
fn an_answer_without_a_needed_key_is_an_error_and_no_panic() {
    assert!(serde_json::from_str::<SwarmService>("{}").is_err());
    assert!(serde_json::from_str::<Task>("{}").is_err());
    let bare: SwarmService = serde_json::from_str(r#"{"ID":"a","Spec":null}"#).unwrap();
    let stack = ObservedStack::new("demo", vec![bare], Vec::new(), &BTreeMap::new());
    assert_eq!(stack.services[""].spec.replicas(), None);
}
