//! Planner with a bridge, against every small world.

use super::*;

fn strategy(monitor: Duration) -> Strategy {
    let policy = PlanPolicy { monitor, ..PlanPolicy::default() };
    Strategy::Bridge(DesiredService { policy, ..goal("app", 1) }, Bridge::StandIn)
}

fn bridge(key: &str, state: InstanceState, routed: bool) -> Instance {
    Instance { is_bridge: true, ..instance(key, Old, state, routed, state == Running) }
}

fn texts(plan: &Plan) -> String {
    plan.steps().into_iter().map(|(step, _)| step.to_string()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_stand_in_serves_while_the_owner_of_the_port_is_replaced() {
    assert_eq!(
        step_texts(&strategy(Duration::from_secs(5)), &world(vec![old("app-1")])),
        "create the stand-in app+0\ngate app+0\nstart app+0\nwait until ready: app+0\ncreate app+1\n\
         route to app+0, not to app-1\nwait until idle: app-1\nstop app-1\n\
         gate app+1\nstart app+1\nwait until ready: app+1\nroute to app+1, not to app+0\n\
         watch the new instances for 5s\nwait until idle: app+0\nstop app+0\nremove app-1, app+0\nhand back the route"
    );
}

#[test]
fn requests_wait_in_a_relay_until_the_new_instance_is_ready() {
    let policy = PlanPolicy { monitor: Duration::from_secs(5), ..PlanPolicy::default() };
    let held = Strategy::Bridge(DesiredService { policy, ..goal("app", 1) }, Bridge::Relay);
    let plan = plan(&held, &world(vec![old("app-1")])).unwrap();
    let steps = texts(&plan);
    let before = "create the relay app+0\ngate app+0\nstart app+0\nwait until ready: app+0\ncreate app+1\n\
                  route to app+0, not to app-1\nwait until idle: app-1\nstop app-1\n\
                  gate app+1\nstart app+1\nwait until ready: app+1\nroute to app+1, not to app+0\n";
    assert!(steps.starts_with(before), "{steps}");
    assert!(plan.to_string().contains("(requests wait while the only instance is replaced)"), "{plan}");
    assert_eq!(plan.extra_instances(), 0, "a relay needs little");
}

#[test]
fn nothing_is_bridged_without_a_serving_owner_or_a_change() {
    let bridged = strategy(Duration::ZERO);
    assert_eq!(step_texts(&bridged, &world(vec![new("app-1")])), "");
    let first =
        "create app+1\ngate app+1\nstart app+1\nwait until ready: app+1\nroute to app+1\nhand back the route";
    assert_eq!(step_texts(&bridged, &world(vec![])), first);
    let two = Strategy::Bridge(goal("app", 2), Bridge::StandIn);
    assert!(plan(&two, &world(vec![old("app-1")])).unwrap_err().reason.contains("fixed host port"));
}

#[test]
fn the_bridge_of_a_killed_run_serves_until_the_new_owner_is_ready() {
    let stopped = instance("app-1", Old, Exited, false, false);
    let created = instance("app-3", New, Created, false, false);
    let killed = world(vec![stopped, bridge("app-2", Running, true), created]);
    assert_eq!(
        step_texts(&strategy(Duration::ZERO), &killed),
        "gate app-3\nstart app-3\nwait until ready: app-3\nroute to app-3, not to app-2\n\
         wait until idle: app-2\nstop app-2\nremove app-1, app-2\nhand back the route"
    );
    let unused = world(vec![old("app-1"), bridge("app-2", Running, false)]);
    let steps = step_texts(&strategy(Duration::ZERO), &unused);
    assert!(
        steps.contains("wait until idle: app-2\nstop app-2\nremove app-2\ncreate the stand-in app+0"),
        "{steps}"
    );
}

#[test]
fn an_undo_starts_the_old_owner_again_while_the_bridge_serves() {
    let start = world(vec![old("app-1")]);
    let stopped = instance("app-1", Old, Exited, false, false);
    let failed = Instance { ready: false, ..new("app-3") };
    let now = world(vec![stopped.clone(), bridge("app-2", Running, false), failed]);
    let expected = "route to app-2, not to app-3\nwait until idle: app-3\nstop app-3\n\
                    gate app-1\nstart app-1\nwait until ready: app-1\nroute to app-1, not to app-2\n\
                    wait until idle: app-2\nstop app-2\nremove app-2, app-3\nhand back the route";
    assert_eq!(texts(&undo(&start, &now, &PlanPolicy::default())), expected);
    let gone = world(vec![bridge("app-2", Running, true), instance("app-3", New, Exited, false, false)]);
    assert_eq!(texts(&undo(&start, &gone, &PlanPolicy::default())), "remove app-3\nhand back the route");
}

#[test]
fn an_undo_does_not_start_a_bridge_again_that_failed() {
    let start = world(vec![old("app-1")]);
    let stopped = instance("app-1", Old, Exited, false, false);
    let failed = Instance { has_failed: true, ..bridge("app-2", Exited, false) };
    let now = world(vec![stopped, failed, new("app-3")]);
    let expected = "stop app-3\ngate app-1\nstart app-1\nwait until ready: app-1\nroute to app-1\n\
                    remove app-2, app-3\nhand back the route";
    assert_eq!(texts(&undo(&start, &now, &PlanPolicy::default())), expected);
}

/// Every world of two owners, of which one at most lives, and a bridge.
fn worlds() -> Vec<Observed> {
    let bridges = every_instance("app-8").into_iter().filter(|i| i.generation == Old);
    let bridges: Vec<Option<Instance>> =
        bridges.map(|i| Some(Instance { is_bridge: true, ..i })).chain([None]).collect();
    let with_bridge = |world: &Observed| {
        let with = |bridge: &Option<Instance>| {
            let instances = world.instances.iter().chain(bridge).cloned().collect();
            Observed { instances, proxied: true }
        };
        bridges.iter().map(with).collect::<Vec<_>>()
    };
    let is_possible = |w: &Observed| w.instances.iter().filter(|i| i.is_live()).count() <= 1;
    let owners = every_world(&["app-1", "app-2"]).into_iter().filter(|w| w.proxied && is_possible(w));
    owners.flat_map(|world| with_bridge(&world)).collect()
}

/// Fails if two owners live at the same time.
fn check_owners(prefixes: &[Simulated], start: &Observed) {
    for prefix in prefixes {
        let live = prefix.now.instances.iter().filter(|i| i.is_live() && !i.is_bridge).count();
        assert!(live <= 1, "two owners: {start:#?}");
    }
}

#[test]
fn every_world_reaches_the_goal_from_every_prefix_with_one_owner_at_a_time() {
    for monitor in [Duration::ZERO, Duration::from_secs(5)] {
        let bridged = strategy(monitor);
        for start in worlds() {
            let prefixes = prefixes_to_goal(&bridged, &start).unwrap_or_else(|e| panic!("{e}"));
            check_owners(&prefixes, &start);
            for prefix in &prefixes {
                let start = real_names(&prefix.now);
                let again =
                    prefixes_to_goal(&bridged, &start).unwrap_or_else(|e| panic!("after a kill: {e}"));
                check_owners(&again, &start);
            }
        }
    }
}

#[test]
fn an_undo_from_every_prefix_leaves_the_old_owner_alone() {
    let healthy = |w: &&Observed| w.instances.iter().all(|i| i.ready || !i.serves());
    for start in worlds().iter().filter(healthy) {
        for mut prefix in prefixes_to_goal(&strategy(Duration::ZERO), start).unwrap() {
            let served = start.serving().filter(|i| i.ready).count();
            let before = served.min(prefix.serving()).min(1);
            let there = prefix.now.clone();
            let plan = undo(start, &there, &PlanPolicy::default());
            for (step, _) in plan.steps() {
                prefix
                    .apply(step)
                    .unwrap_or_else(|law| panic!("{law} at `{step}`\n{plan}{start:#?}{there:#?}"));
                assert!(
                    prefix.serving() >= before,
                    "nothing serves after `{step}`\n{plan}{start:#?}{there:#?}"
                );
            }
            check_owners(&[prefix.clone()], start);
            let again = undo(start, &prefix.now, &PlanPolicy::default());
            assert!(again.is_empty(), "a second time:\n{again}{start:#?}{there:#?}");
        }
    }
}
