use super::*;
use crate::model::FlagLayers;

const ROLES: [Role; 6] =
    [Role::Job, Role::DeployJob, Role::Proxy, Role::Routed, Role::DataStore("PostgreSQL"), Role::Other];

fn facts(role: Role, running: usize, outdated: usize) -> TargetFacts {
    TargetFacts {
        name: "app".into(),
        services: vec!["app".into()],
        role,
        is_gated: true,
        running,
        outdated,
        is_unfinished: false,
        exists: true,
        replicas: None,
        obstacle: None,
        single: None,
        reloads: false,
        is_in_changed_file: false,
        files: Vec::new(),
        image: None,
        diff: None,
    }
}

#[test]
fn the_rollout_of_a_killed_run_is_finished() {
    let after_kill = |role, outdated| {
        let found = change(&TargetFacts { is_unfinished: true, ..facts(role, 1, outdated) });
        (found.way, found.reasons.concat())
    };
    let killed = || "an earlier run was killed".to_string();
    assert_eq!(after_kill(Role::Routed, 0), (Way::Roll, killed()));
    assert_eq!(after_kill(Role::Other, 0), (Way::ReplaceWhenReady, killed()));
    assert_eq!(after_kill(Role::Routed, 1), (Way::Roll, "configuration".into()));
    for role in [Role::Proxy, Role::DataStore("PostgreSQL"), Role::Job] {
        assert_eq!(after_kill(role, 0), (Way::Unchanged, String::new()), "{role:?}");
    }
}

/// Every combination of the facts that decide.
fn every() -> Vec<TargetFacts> {
    let mut all = Vec::new();
    for role in ROLES {
        for (running, outdated) in [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)] {
            for replicas in [None, Some(0), Some(1), Some(2)] {
                for obstacle in [None, Some("it has a name".to_string())] {
                    for files in [vec![], vec!["/etc/app.conf".to_string()]] {
                        let obstacle = obstacle.clone();
                        all.push(TargetFacts { replicas, obstacle, files, ..facts(role, running, outdated) });
                    }
                }
            }
        }
    }
    all
}

#[test]
fn what_runs_as_the_file_says_is_left_alone() {
    for f in every() {
        let is_same = f.outdated == 0 && f.files.is_empty() && f.running > 0;
        let is_scaled = f.replicas.is_none_or(|n| n == f.running);
        if is_same && is_scaled {
            assert_eq!(way(&f), Way::Unchanged, "{f:?}");
        }
        if way(&f) == Way::Unchanged && !matches!(f.role, Role::Job | Role::DeployJob) {
            assert!((is_same && is_scaled) || (f.running == 0 && f.replicas == Some(0)), "{f:?}");
        }
    }
}

#[test]
fn only_a_service_that_can_run_twice_is_replaced_without_consent() {
    for f in every() {
        let way = way(&f);
        let is_recreated = matches!(way, Way::Recreate { .. });
        if matches!(way, Way::Roll | Way::ReplaceWhenReady) {
            assert!(matches!(f.role, Role::Routed | Role::Other) && f.obstacle.is_none(), "{f:?}");
            assert_eq!(way == Way::Roll, f.role == Role::Routed, "{f:?}");
        }
        // A service without a running instance has no downtime.
        assert!(!is_recreated || (f.running > 0 && f.is_changed()), "{f:?}");
        assert!(!is_recreated || !matches!(f.role, Role::Job | Role::DeployJob), "{f:?}");
    }
}

#[test]
fn requests_wait_for_a_routed_service_of_which_one_instance_may_run() {
    let single = |role| {
        let single = Some("it writes to /data".to_string());
        way(&TargetFacts { single, ..facts(role, 1, 1) })
    };
    assert_eq!(single(Role::Routed), Way::Hold { cause: "it writes to /data".into() });
    assert_eq!(single(Role::Other), Way::ReplaceWhenReady);
}

#[test]
fn a_running_proxy_is_reloaded_if_only_its_files_changed() {
    for f in every().into_iter().filter(|f| f.role == Role::Proxy && f.replicas != Some(0)) {
        let reloads = way(&TargetFacts { reloads: true, ..f.clone() }) == Way::Reload;
        assert_eq!(reloads, f.running > 0 && f.outdated == 0, "{f:?}");
        assert_ne!(way(&f), Way::Reload, "{f:?}");
    }
}

#[test]
fn a_version_that_does_not_run_starts() {
    for f in every().into_iter().filter(|f| f.running == 0 && f.replicas != Some(0)) {
        let starts = way(&f) == Way::Start;
        let expected = match f.role {
            Role::DeployJob => false,
            Role::Job => f.is_changed(),
            _ => true,
        };
        assert_eq!(starts, expected, "{f:?}");
    }
}

#[test]
fn zero_instances_in_the_file_remove_the_service() {
    for f in every().into_iter().filter(|f| f.replicas == Some(0) && f.role != Role::DeployJob) {
        let expected = if f.running > 0 { Way::Remove } else { Way::Unchanged };
        assert_eq!(way(&f), expected, "{f:?}");
    }
}

#[test]
fn reasons_name_the_image_and_the_keys() {
    let keys = |keys: &[&str]| {
        let change = |key: &&str| KeyChange { key: key.to_string(), old: None, new: None };
        Some(keys.iter().map(change).collect::<Vec<_>>())
    };
    let of = |image: Option<&str>, diff| {
        let image = image.map(String::from);
        change(&TargetFacts { image, diff, ..facts(Role::Routed, 1, 1) }).reasons.join("; ")
    };
    assert_eq!(of(Some("a:1 → a:2"), None), "image a:1 → a:2");
    assert_eq!(of(None, None), "configuration");
    assert_eq!(of(Some("a:1 → a:2"), keys(&["environment.A", "image"])), "image a:1 → a:2; environment.A");
    assert_eq!(of(None, keys(&["a", "b", "c", "d", "e", "f"])), "a, b, c, d and 2 more keys");
    let f = TargetFacts { exists: false, ..facts(Role::Other, 0, 0) };
    assert_eq!(change(&f).reasons, ["is new"]);
    assert_eq!(change(&facts(Role::Other, 0, 0)).reasons, ["does not run"]);
    assert_eq!(change(&facts(Role::Other, 1, 0)).reasons, [""; 0]);
}

#[test]
fn each_change_has_its_stage() {
    let depends = |names: &str| format!("depends_on: {{{names}}}");
    let started = |name: &str| format!("{name}: {{condition: service_started}}");
    let yaml = format!(
        "name: p\nservices: {{db: {{image: d}}, cache: {{image: c}}, migrate: {{image: m}}, \
         web: {{image: w, {}}}, mailer: {{image: m, {}}}, proxy: {{image: x, {}}}, alone: {{image: a}}}}",
        depends(&format!(
            "{}, {}, migrate: {{condition: service_completed_successfully}}",
            started("db"),
            started("cache")
        )),
        depends(&started("web")),
        depends(&started("web")),
    );
    let project = Project::read(&yaml, "compose.yaml", &FlagLayers::default()).unwrap();
    let named = |name: &str, facts: TargetFacts| TargetFacts {
        name: name.into(),
        services: vec![name.into()],
        ..facts
    };
    let all = [
        named("db", facts(Role::DataStore("MySQL"), 1, 1)),
        named("cache", facts(Role::Other, 0, 0)),
        named("migrate", facts(Role::Job, 0, 1)),
        named("web", facts(Role::Routed, 1, 1)),
        named("mailer", facts(Role::Other, 0, 0)),
        named("proxy", facts(Role::Proxy, 1, 1)),
        named("alone", TargetFacts { replicas: Some(0), ..facts(Role::Other, 1, 0) }),
    ];
    let changes: Vec<ServiceChange> = all.iter().map(change).collect();
    let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
    let stages = Stages::new(&project, &all, &changes);
    let expected = Stages {
        reload: Vec::new(),
        start: words("cache"),
        recreate: words("db proxy"),
        roll_out: words("web"),
        start_after: words("mailer"),
        jobs: words("migrate"),
        remove: words("alone"),
    };
    assert_eq!(stages, expected);
    let recorded = ProjectChanges {
        started: words("cache mailer"),
        recreated: words("db proxy"),
        removed: words("alone"),
    };
    assert_eq!(project_changes(&all, &changes, &stages), recorded);
    assert_eq!(stages.by_compose(&all), words("cache db proxy mailer"));
    // What does not run is started by a rollout only behind a proxy.
    let starting = |is_gated| {
        let web = named("web", TargetFacts { is_gated, ..facts(Role::Routed, 0, 0) });
        Stages::new(&project, std::slice::from_ref(&web), &[change(&web)])
    };
    assert_eq!((starting(true).roll_out, starting(false).start), (words("web"), words("web")));
    // Without a rollout, the job and the dependents start at once.
    let mut idle = all.clone();
    idle[3] = named("web", facts(Role::Routed, 1, 0));
    idle[5] = named("proxy", TargetFacts { reloads: true, ..facts(Role::Proxy, 1, 0) });
    let changes: Vec<ServiceChange> = idle.iter().map(change).collect();
    let stages = Stages::new(&project, &idle, &changes);
    assert_eq!(stages.start, words("cache migrate mailer"));
    assert_eq!((stages.reload, stages.recreate), (words("proxy"), words("db")));
    // A routed service without an instance starts in the rollout, unless the proxy has to find it before.
    for is_in_changed_file in [false, true] {
        let new = named("web", TargetFacts { is_in_changed_file, ..facts(Role::Routed, 0, 0) });
        let stages = Stages::new(&project, std::slice::from_ref(&new), &[change(&new)]);
        assert_eq!(
            (stages.start.len(), stages.roll_out.len()),
            if is_in_changed_file { (1, 0) } else { (0, 1) }
        );
    }
    assert_eq!((stages.jobs, stages.start_after, stages.roll_out), (vec![], vec![], vec![]));
}

#[test]
fn a_stopped_proxy_starts_before_the_rollout_unless_it_has_nothing_to_route_to() {
    let depends = "depends_on: {web: {condition: service_started}}";
    let yaml = format!(
        "name: p\nservices: {{web: {{image: w}}, proxy: {{image: x, {depends}}}, mailer: {{image: m, {depends}}}}}"
    );
    let project = Project::read(&yaml, "compose.yaml", &FlagLayers::default()).unwrap();
    let named = |name: &str, facts: TargetFacts| TargetFacts {
        name: name.into(),
        services: vec![name.into()],
        ..facts
    };
    let stages = |running| {
        let all = [
            named("web", facts(Role::Routed, running, running)),
            named("proxy", facts(Role::Proxy, 0, 0)),
            named("mailer", facts(Role::Other, 0, 0)),
        ];
        let changes: Vec<ServiceChange> = all.iter().map(change).collect();
        let stages = Stages::new(&project, &all, &changes);
        assert_eq!(stages.roll_out, ["web"]);
        (stages.start, stages.start_after)
    };
    let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
    assert_eq!(stages(1), (words("proxy"), words("mailer")));
    assert_eq!(stages(0), (vec![], words("proxy mailer")));
}
