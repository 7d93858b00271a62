//! Planner against every small world: each observed state, and each prefix of each plan.

#[path = "bridge_tests.rs"]
mod bridge_tests;
#[path = "rules.rs"]
mod rules;

use super::*;
use crate::observed::Generation::{New, Old};
use crate::observed::InstanceState::{Broken, Created, Exited, Running};

fn instance(key: &str, generation: Generation, state: InstanceState, routed: bool, ready: bool) -> Instance {
    let (service, _) = key.rsplit_once(['-', '+']).unwrap();
    Instance {
        key: key.into(),
        service: service.into(),
        generation,
        state,
        routed,
        ready,
        age: None,
        is_bridge: false,
        is_set_aside: false,
        has_failed: false,
    }
}

fn old(key: &str) -> Instance {
    instance(key, Old, Running, true, true)
}

fn new(key: &str) -> Instance {
    instance(key, New, Running, true, true)
}

fn world(instances: Vec<Instance>) -> Observed {
    Observed { instances, proxied: true }
}

fn goal(service: &str, replicas: usize) -> DesiredService {
    DesiredService { service: service.into(), replicas, ..DesiredService::default() }
}

fn scale(replicas: usize) -> Strategy {
    Strategy::Scale(goal("app", replicas))
}

fn pair() -> Strategy {
    Strategy::Pair([goal("a", 1), goal("b", 1)])
}

fn step_texts(strategy: &Strategy, observed: &Observed) -> String {
    let plan = plan(strategy, observed).unwrap();
    let lines = plan.steps().into_iter().map(|(step, _)| step.to_string());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_deploy_gates_admits_drains_and_only_then_stops() {
    let observed = world(vec![old("app-1"), old("app-2")]);
    let text = plan(&scale(2), &observed).unwrap().to_string();
    assert_eq!(
        text,
        "  1. create app+1, app+2  (the new release does not exist yet)
  2. gate app+1, app+2  (not yet ready)
  3. start app+1, app+2  (not yet ready)
  4. wait until ready: app+1, app+2  (not yet ready)
  5. route to app+1, app+2, not to app-1, app-2  (ready)
  6. wait until idle: app-1, app-2  (replaced)
  7. stop app-1, app-2  (replaced)
  8. remove app-1, app-2  (replaced)
  9. hand back the route  (cleanup)
"
    );
}

#[test]
fn an_up_to_date_service_needs_no_plan() {
    assert_eq!(step_texts(&scale(2), &world(vec![new("app-1"), new("app-2")])), "");
    let kept = instance("b-1", Old, Exited, false, false);
    assert_eq!(step_texts(&pair(), &world(vec![new("a-1"), kept])), "");
}

#[test]
fn a_first_deploy_starts_gated_and_is_admitted_when_ready() {
    assert_eq!(
        step_texts(&scale(1), &world(vec![])),
        "create app+1\ngate app+1\nstart app+1\nwait until ready: app+1\nroute to app+1\nhand back the route"
    );
}

#[test]
fn without_a_proxy_readiness_alone_decides() {
    let mut observed = world(vec![old("app-1")]);
    observed.proxied = false;
    assert_eq!(
        step_texts(&scale(1), &observed),
        "create app+1\nstart app+1\nwait until ready: app+1\nstop app-1\nremove app-1"
    );
}

#[test]
fn more_instances_are_added_and_fewer_are_drained_without_touching_the_others() {
    let observed = world(vec![new("app-1"), new("app-2")]);
    assert_eq!(
        step_texts(&scale(3), &observed),
        "create app+1\ngate app+1\nstart app+1\nwait until ready: app+1\nroute to app-1, app-2, app+1\nhand back the route"
    );
    assert_eq!(
        step_texts(&scale(1), &observed),
        "route to app-1, not to app-2\nwait until idle: app-2\nstop app-2\nremove app-2\nhand back the route"
    );
}

#[test]
fn batches_grow_and_shrink_the_rotation() {
    let mut goal = goal("app", 2);
    goal.policy.parallelism = 1;
    let observed = world(vec![old("app-1"), old("app-2")]);
    assert_eq!(
        step_texts(&Strategy::Scale(goal), &observed),
        "create app+1\ngate app+1\nstart app+1\nwait until ready: app+1\n\
         route to app-2, app+1, not to app-1\nwait until idle: app-1\nstop app-1\n\
         create app+2\ngate app+2\nstart app+2\nwait until ready: app+2\n\
         route to app+1, app+2, not to app-2\nwait until idle: app-2\nstop app-2\n\
         remove app-1, app-2\nhand back the route"
    );
}

#[test]
fn stop_first_drains_before_it_starts_and_needs_another_instance_to_serve() {
    let mut goal = goal("app", 2);
    goal.policy.order = Order::StopFirst;
    let observed = world(vec![old("app-1"), old("app-2")]);
    assert_eq!(
        step_texts(&Strategy::Scale(goal.clone()), &observed),
        "route to app-2, not to app-1\nwait until idle: app-1\nstop app-1\n\
         create app+1\ngate app+1\nstart app+1\nwait until ready: app+1\n\
         route to app+1, not to app-2\nwait until idle: app-2\nstop app-2\n\
         create app+2\ngate app+2\nstart app+2\nwait until ready: app+2\n\
         route to app+1, app+2\nremove app-1, app-2\nhand back the route"
    );
    let alone = plan(&Strategy::Scale(goal), &world(vec![old("app-1")])).unwrap_err();
    assert!(alone.reason.contains("stop-first"), "{alone:?}");
}

#[test]
fn the_idle_side_of_a_pair_takes_over_and_the_other_is_kept_stopped() {
    let stale = instance("b-1", Old, Exited, false, false);
    assert_eq!(
        step_texts(&pair(), &world(vec![old("a-1"), stale])),
        "remove b-1\ncreate b+1\ngate b+1\nstart b+1\nwait until ready: b+1\n\
         route to b+1, not to a-1\nwait until idle: a-1\nstop a-1\nhand back the route"
    );
}

#[test]
fn an_up_to_date_stopped_side_only_has_to_start() {
    let kept = instance("b-1", New, Exited, false, false);
    assert_eq!(
        step_texts(&pair(), &world(vec![old("a-1"), kept])),
        "gate b-1\nstart b-1\nwait until ready: b-1\n\
         route to b-1, not to a-1\nwait until idle: a-1\nstop a-1\nhand back the route"
    );
}

#[test]
fn two_active_sides_are_replaced_one_after_the_other() {
    assert_eq!(
        step_texts(&pair(), &world(vec![old("a-1"), old("b-1")])),
        "create a+1\ngate a+1\nstart a+1\nwait until ready: a+1\n\
         route to b-1, a+1, not to a-1\nwait until idle: a-1\nstop a-1\n\
         create b+1\ngate b+1\nstart b+1\nwait until ready: b+1\n\
         route to a+1, b+1, not to b-1\nwait until idle: b-1\nstop b-1\nremove a-1, b-1\nhand back the route"
    );
}

#[test]
fn undo_restores_old_instances_and_removes_new_ones() {
    let start = world(vec![old("app-1")]);
    let now = world(vec![
        instance("app-1", Old, Running, false, true),
        instance("app+1", New, Running, true, true),
    ]);
    let text: Vec<_> =
        undo(&start, &now, &PlanPolicy::default()).steps().into_iter().map(|(s, _)| s.to_string()).collect();
    assert_eq!(
        text.join("\n"),
        "route to app-1, not to app+1\nwait until idle: app+1\nstop app+1\n\
         remove app+1\nhand back the route"
    );
}

/// A proxy may send all requests to crashing new instances at that moment.
#[test]
fn undo_first_admits_the_old_instances() {
    let start = world(vec![old("app-1"), old("app-2")]);
    let out_of_rotation = |key, generation| instance(key, generation, Running, false, true);
    let now = world(vec![
        out_of_rotation("app-1", Old),
        out_of_rotation("app-2", Old),
        out_of_rotation("app-3", New),
        new("app-4"),
    ]);
    let plan = undo(&start, &now, &PlanPolicy::default());
    assert_eq!(plan.steps()[0].0.to_string(), "route to app-1, app-2, not to app-4, app-3");
}

/// Simulated world, with the instances that a proxy hides. Steps act like docker and the proxy.
#[derive(Clone)]
struct Simulated {
    now: Observed,
    hidden: Vec<InstanceKey>,
    /// Nothing served at the start, so requests cannot go elsewhere.
    nothing_serves: bool,
    /// A new instance gets the name of the others, which are set aside.
    has_fixed_name: bool,
    /// Monitor of new instances, and the order of the replacement.
    monitor: (Duration, Order),
}

impl Simulated {
    fn new(observed: &Observed) -> Self {
        let live = observed.instances.iter().filter(|i| i.is_live() && !i.routed);
        let nothing_serves = observed.serving().count() == 0;
        Simulated {
            now: observed.clone(),
            hidden: keys(live),
            nothing_serves,
            has_fixed_name: false,
            monitor: Default::default(),
        }
    }

    /// True if a step removes or stops old instances although a new one in rotation is still monitored.
    fn is_too_early(&self, step: &Step) -> bool {
        let young = self.now.instances.iter().any(|i| i.is_young(self.monitor.0));
        let is_old = |i: &&Instance| i.generation == Old;
        match step {
            Step::Remove(keys) => {
                young && self.now.instances.iter().filter(is_old).any(|i| keys.contains(&i.key))
            }
            Step::Stop(keys) if self.monitor.1 == Order::StartFirst => {
                let live = || self.now.instances.iter().filter(is_old).filter(|i| i.is_live());
                young && live().count() > 0 && live().all(|i| keys.contains(&i.key))
            }
            _ => false,
        }
    }

    fn each(&mut self, keys: &[InstanceKey], change: impl Fn(&mut Instance)) {
        let named = |i: &&mut Instance| keys.contains(&i.key);
        self.now.instances.iter_mut().filter(named).for_each(change);
    }

    /// Applies a step; the error is the law that it breaks.
    fn apply(&mut self, step: &Step) -> Result<(), String> {
        let proxied = self.now.proxied;
        check(!self.is_too_early(step), "law 4: gone before the monitor is over")?;
        match step {
            Step::Create { fresh, total, service } => {
                if self.has_fixed_name {
                    self.now
                        .instances
                        .iter_mut()
                        .filter(|i| !i.is_bridge)
                        .for_each(|i| i.is_set_aside = true);
                }
                let made = fresh.iter().map(|k| instance(k, New, Created, false, false));
                self.now.instances.extend(made);
                let count = self.now.of(service).count();
                return check(*total == count, format!("total {total} of {count}"));
            }
            Step::CreateBridge { key, total, service, .. } => {
                let bridge = instance(key, Old, Created, false, false);
                self.now.instances.push(Instance { is_bridge: true, ..bridge });
                let count = self.now.of(service).count();
                return check(*total == count, format!("total {total} of {count}"));
            }
            Step::Gate(keys) => self.hidden.extend(keys.iter().cloned()),
            Step::Start(keys) => {
                let hidden = self.hidden.clone();
                self.each(keys, |i| {
                    (i.state, i.age) = (Running, Some(Duration::ZERO));
                    i.routed = !proxied || !hidden.contains(&i.key);
                });
                let open = |i: &Instance| keys.contains(&i.key) && i.routed;
                let early = proxied && self.now.instances.iter().any(open);
                return check(!early, "law 1: started into rotation");
            }
            Step::Ready(keys) => self.each(keys, |i| i.ready = true),
            Step::Route { inside, outside } => {
                let unready = |i: &Instance| inside.contains(&i.key) && !i.routed && !i.ready;
                let early = self.now.instances.iter().any(unready);
                self.each(inside, |i| i.routed = true);
                self.each(outside, |i| i.routed = false);
                check(!early, "law 1: admitted before it is ready")?;
                return check(!inside.is_empty(), "an empty rotation");
            }
            Step::Idle(keys) | Step::Stop(keys) => {
                let routed = |i: &Instance| keys.contains(&i.key) && i.serves();
                let early = proxied && !self.nothing_serves && self.now.instances.iter().any(routed);
                if matches!(step, Step::Stop(_)) {
                    self.each(keys, |i| (i.state, i.routed, i.ready) = (Exited, false, false));
                }
                return check(!early, "law 2: drained or stopped in rotation");
            }
            Step::Remove(keys) => {
                let live = |i: &Instance| keys.contains(&i.key) && i.is_live();
                let early = self.now.instances.iter().any(live);
                self.now.instances.retain(|i| !keys.contains(&i.key));
                return check(!early, "removed alive");
            }
            Step::Rename(keys) => self.now.instances.iter_mut().for_each(|i| {
                i.is_set_aside = !i.is_bridge && !keys.contains(&i.key);
            }),
            Step::Monitor(time) => {
                self.now.instances.iter_mut().for_each(|i| i.age = i.age.map(|age| age + *time))
            }
            Step::Delay(_) | Step::HandBack => {}
        }
        Ok(())
    }

    fn serving(&self) -> usize {
        self.now.serving().filter(|i| i.ready).count()
    }
}

fn check(holds: bool, law: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(law.into()) }
}

/// Every instance that a service can have, by generation, state, rotation and readiness.
fn every_instance(key: &str) -> Vec<Instance> {
    let mut all = Vec::new();
    for generation in [Old, New] {
        for state in [Created, Exited] {
            all.push(instance(key, generation, state, false, false));
        }
        for state in [Running, Broken] {
            for (routed, ready) in [(false, false), (false, true), (true, false), (true, true)] {
                let ready = ready && state == Running;
                all.push(instance(key, generation, state, routed, ready));
            }
        }
    }
    all.sort_by_key(|i| format!("{i:?}"));
    all.dedup();
    all
}

/// Every world of up to one instance per key.
fn every_world(keys: &[&str]) -> Vec<Observed> {
    let mut worlds = vec![vec![]];
    for key in keys {
        let mut longer = Vec::new();
        for world in &worlds {
            for one in every_instance(key) {
                let mut more: Vec<Instance> = world.clone();
                more.push(one);
                longer.push(more);
            }
        }
        worlds.extend(longer);
    }
    let with = |proxied: bool| {
        let fits = move |w: &&Vec<Instance>| proxied || w.iter().all(|i| i.routed == (i.state == Running));
        move |w: &Vec<Instance>| fits(&w).then(|| Observed { instances: w.clone(), proxied })
    };
    let proxied: Vec<_> = worlds.iter().filter_map(with(true)).collect();
    proxied.into_iter().chain(worlds.iter().filter_map(with(false))).collect()
}

/// World after a kill, in which placeholders have become instances with real names.
fn real_names(observed: &Observed) -> Observed {
    let mut named = observed.clone();
    for (i, n) in named.instances.iter_mut().zip(90..) {
        if i.key.contains('+') {
            i.key = format!("{}-{n}", i.service);
        }
    }
    named
}

/// States at every prefix of the plan from this world. The plan reaches its goal, and some ready instance serves at
/// every prefix.
fn prefixes_to_goal(strategy: &Strategy, start: &Observed) -> Result<Vec<Simulated>, String> {
    prefixes_from(strategy, Simulated::new(start))
}

fn prefixes_from(strategy: &Strategy, mut world: Simulated) -> Result<Vec<Simulated>, String> {
    let start = &world.now.clone();
    let Ok(plan) = plan(strategy, start) else {
        return Ok(Vec::new());
    };
    let least = world.serving().min(1);
    let mut prefixes = vec![world.clone()];
    for (step, _) in plan.steps() {
        world.apply(step).map_err(|law| format!("{law} at `{step}`\n{plan}{start:#?}"))?;
        check(world.serving() >= least, format!("nothing serves after `{step}`\n{plan}{start:#?}"))?;
        prefixes.push(world.clone());
    }
    let again = super::plan(strategy, &world.now).map_err(|e| format!("{e:?}"))?;
    check(again.is_empty(), format!("not at the goal:\n{plan}then\n{again}{start:#?}"))?;
    Ok(prefixes)
}

/// Checks both properties of the planner in every world: see `reaches`; and from every prefix, a new plan reaches
/// the goal.
fn check_every_world(strategy: &Strategy, keys: &[&str]) -> usize {
    let mut prefixes_seen = 0;
    for start in every_world(keys) {
        let prefixes = prefixes_to_goal(strategy, &start).unwrap_or_else(|e| panic!("{e}"));
        for prefix in &prefixes {
            let start = real_names(&prefix.now);
            prefixes_to_goal(strategy, &start).unwrap_or_else(|e| panic!("after a kill: {e}"));
        }
        prefixes_seen += prefixes.len();
    }
    prefixes_seen
}

#[test]
fn every_world_of_a_service_reaches_the_goal_from_every_prefix() {
    assert!(check_every_world(&scale(1), &["app-1", "app-2"]) > 1000);
    assert!(check_every_world(&scale(2), &["app-1", "app-2"]) > 1000);
    let mut batches = goal("app", 2);
    batches.policy.parallelism = 1;
    assert!(check_every_world(&Strategy::Scale(batches), &["app-1", "app-2", "app-3"]) > 10_000);
}

/// Worlds of a service with `container_name`, of whose containers one at most has the name.
fn named_worlds() -> Vec<Observed> {
    let with_name = |world: &Observed, owner: Option<usize>| {
        let mut world = world.clone();
        world.instances.iter_mut().enumerate().for_each(|(n, i)| i.is_set_aside = owner != Some(n));
        world
    };
    let owners = |world: &Observed| (0..world.instances.len()).map(Some).chain([None]).collect::<Vec<_>>();
    let worlds = every_world(&["app-1", "app-2"]);
    worlds.iter().flat_map(|w| owners(w).into_iter().map(|owner| with_name(w, owner))).collect()
}

fn named(start: &Observed) -> Simulated {
    Simulated { has_fixed_name: true, ..Simulated::new(start) }
}

#[test]
fn the_instance_of_every_world_has_the_fixed_name_in_the_end() {
    for start in named_worlds() {
        let prefixes = prefixes_from(&scale(1), named(&start)).unwrap_or_else(|e| panic!("{e}"));
        for prefix in &prefixes {
            let again = named(&real_names(&prefix.now));
            let ends = prefixes_from(&scale(1), again).unwrap_or_else(|e| panic!("after a kill: {e}"));
            let set_aside = ends.last().map(|end| end.now.instances.iter().any(|i| i.is_set_aside));
            assert_eq!(set_aside, Some(false), "{start:#?}");
        }
    }
}

#[test]
fn an_undo_gives_an_instance_its_name_back() {
    let start = world(vec![old("app-1")]);
    let set_aside = Instance { is_set_aside: true, ..instance("app-1", Old, Running, false, true) };
    let plan = undo(&start, &world(vec![set_aside, new("app+1")]), &PlanPolicy::default());
    let steps: Vec<_> = plan.steps().into_iter().map(|(step, _)| step.to_string()).collect();
    assert_eq!(
        steps.join("\n"),
        "route to app-1, not to app+1\nwait until idle: app+1\nstop app+1\nremove app+1\n\
         give its name back to app-1\nhand back the route"
    );
    for mut prefix in prefixes_from(&scale(1), named(&start)).unwrap() {
        let plan = undo(&start, &prefix.now.clone(), &PlanPolicy::default());
        plan.steps().into_iter().for_each(|(step, _)| prefix.apply(step).unwrap());
        let left: Vec<_> = prefix.now.instances.iter().map(|i| i.is_set_aside).collect();
        assert!(left.iter().all(|is_set_aside| !is_set_aside), "{left:?}");
    }
}

#[test]
fn a_service_that_compose_starts_has_no_stopped_instance_then() {
    let mut goal = goal("app", 2);
    goal.removes_stopped = true;
    goal.policy.order = Order::StopFirst;
    let strategy = Strategy::Scale(goal);
    assert!(check_every_world(&strategy, &["app-1", "app-2"]) > 1000);
    for start in every_world(&["app-1", "app-2"]) {
        let Ok(plan) = plan(&strategy, &start) else {
            continue;
        };
        let mut world = Simulated::new(&start);
        for (step, _) in plan.steps() {
            let named = |i: &&Instance| matches!(step, Step::Start(keys) if keys.contains(&i.key));
            let stopped = world.now.instances.iter().filter(|i| !i.is_live() && !named(i));
            let starts = matches!(step, Step::Start(_));
            assert!(!starts || stopped.count() == 0, "started with others: {plan}{start:#?}");
            world.apply(step).unwrap();
        }
    }
}

#[test]
fn every_world_of_a_pair_reaches_the_goal_from_every_prefix() {
    assert!(check_every_world(&pair(), &["a-1", "b-1"]) > 1000);
}

#[test]
fn stop_first_keeps_an_instance_serving_in_every_world() {
    let mut stop_first = goal("app", 2);
    stop_first.policy.order = Order::StopFirst;
    assert!(check_every_world(&Strategy::Scale(stop_first), &["app-1", "app-2", "app-3"]) > 10_000);
}

#[test]
fn start_first_never_has_fewer_serving_instances_than_before() {
    for start in every_world(&["app-1", "app-2"]) {
        let before = Simulated::new(&start).serving().min(2);
        for prefix in prefixes_to_goal(&scale(2), &start).unwrap() {
            assert!(prefix.serving() >= before, "law 3: {start:#?}");
        }
    }
}

/// Strategy with batches of one, a delay and a monitor.
fn monitored_strategy(order: Order) -> Strategy {
    let second = Duration::from_secs(1);
    let policy = PlanPolicy { order, parallelism: 1, delay: second, monitor: second * 5 };
    Strategy::Scale(DesiredService { policy, ..goal("app", 2) })
}

#[test]
fn killed_between_two_batches_or_during_the_monitor_every_world_reaches_the_goal() {
    for order in [Order::StartFirst, Order::StopFirst] {
        assert!(check_every_world(&monitored_strategy(order), &["app-1", "app-2"]) > 1000);
        let plan = plan(&monitored_strategy(order), &world(vec![old("app-1"), old("app-2")])).unwrap();
        let is_wait = |step: &Step| matches!(step, Step::Delay(_) | Step::Monitor(_));
        assert_eq!(plan.steps().into_iter().filter(|(step, _)| is_wait(step)).count(), 2, "{plan}");
    }
}

/// Number of prefixes from which the next run after a kill continues the monitor; each of them keeps the laws.
fn is_watched_from_every_prefix(first: &DesiredService, start: &Observed) -> usize {
    let next = DesiredService { follows_unfinished: true, ..first.clone() };
    let mut waits = 0;
    for prefix in prefixes_to_goal(&Strategy::Scale(first.clone()), start).unwrap() {
        let start = real_names(&prefix.now);
        let Ok(again) = plan(&Strategy::Scale(next.clone()), &start) else { continue };
        let mut world =
            Simulated { monitor: (first.policy.monitor, first.policy.order), ..Simulated::new(&start) };
        for (step, _) in again.steps() {
            world.apply(step).unwrap_or_else(|law| panic!("{law} at `{step}`\n{again}{start:#?}"));
        }
        waits += usize::from(again.resumes_monitor());
        assert_eq!(world.serving(), 2, "{again}{start:#?}");
    }
    waits
}

#[test]
fn after_a_kill_during_the_monitor_the_next_run_continues_it() {
    for order in [Order::StartFirst, Order::StopFirst] {
        for parallelism in [0, 1] {
            let monitor = Duration::from_secs(5);
            let policy = PlanPolicy { order, parallelism, monitor, ..PlanPolicy::default() };
            let goal = DesiredService { policy, ..goal("app", 2) };
            let old = world(vec![old("app-1"), old("app-2")]);
            let waits = is_watched_from_every_prefix(&goal, &old);
            assert!(waits > 0, "{order:?} {parallelism}: no kill fell into the monitor");
            let unproxied = Observed { proxied: false, ..old };
            assert!(order == Order::StopFirst || is_watched_from_every_prefix(&goal, &unproxied) > 0);
        }
    }
}

#[test]
fn the_rest_of_a_monitor_ends_before_the_old_instances_are_removed() {
    let second = Duration::from_secs(1);
    let out_of_rotation = instance("app-1", Old, Running, false, true);
    let of_age = |seconds| Instance { age: Some(second * seconds), ..new("app-2") };
    let mut goal = goal("app", 1);
    (goal.policy.monitor, goal.follows_unfinished) = (second * 5, true);
    let text =
        |age| step_texts(&Strategy::Scale(goal.clone()), &world(vec![out_of_rotation.clone(), of_age(age)]));
    let retires = "wait until idle: app-1\nstop app-1\nremove app-1\nhand back the route";
    assert_eq!(text(3), format!("watch the new instances for 5s\n{retires}"));
    assert_eq!(text(6), retires);
    goal.follows_unfinished = false;
    let observed = world(vec![out_of_rotation, of_age(3)]);
    assert_eq!(step_texts(&Strategy::Scale(goal), &observed), retires, "no run was killed");
}

/// A new instance may have the name of the one that it replaces.
#[test]
fn a_failed_idle_side_is_removed_even_if_its_name_existed_before() {
    let stale = instance("b-1", Old, Exited, false, false);
    let start = world(vec![old("a-1"), stale]);
    let out_of_rotation = instance("a-1", Old, Running, false, true);
    let now = world(vec![out_of_rotation, instance("b-1", New, Broken, true, false)]);
    let plan = undo(&start, &now, &PlanPolicy::default());
    let text: Vec<_> = plan.steps().into_iter().map(|(s, _)| s.to_string()).collect();
    assert_eq!(
        text.join("\n"),
        "route to a-1, not to b-1\nwait until idle: b-1\nstop b-1\nremove b-1\nhand back the route"
    );
}

#[test]
fn both_sides_of_a_pair_are_monitored_at_the_end() {
    let monitored = |name| {
        let mut goal = goal(name, 1);
        goal.policy.monitor = Duration::from_secs(5);
        goal
    };
    let strategy = Strategy::Pair([monitored("a"), monitored("b")]);
    assert_eq!(
        step_texts(&strategy, &world(vec![old("a-1"), old("b-1")])),
        "create a+1\ngate a+1\nstart a+1\nwait until ready: a+1\n\
         route to b-1, a+1, not to a-1\nwait until idle: a-1\nstop a-1\n\
         create b+1\ngate b+1\nstart b+1\nwait until ready: b+1\n\
         route to a+1, b+1, not to b-1\nwatch the new instances for 5s\n\
         wait until idle: b-1\nstop b-1\nremove a-1, b-1\nhand back the route"
    );
}

fn six_old_instances() -> Observed {
    world((1..=6).map(|n| old(&format!("app-{n}"))).collect())
}

/// Fewest instances that serve at any step of the plan, or of an undo from any prefix.
fn fewest_serving(strategy: &Strategy, start: &Observed, policy: &PlanPolicy) -> usize {
    let prefixes = prefixes_to_goal(strategy, start).unwrap();
    let mut fewest = prefixes.iter().map(Simulated::serving).min().unwrap();
    let is_whole = |p: &&Simulated| start.instances.iter().all(|i| p.now.get(&i.key).is_some());
    for prefix in prefixes.iter().filter(is_whole) {
        let mut world = prefix.clone();
        for (step, _) in undo(start, &prefix.now, policy).steps() {
            world.apply(step).unwrap();
            fewest = fewest.min(world.serving());
        }
    }
    fewest
}

/// An undo is start-first unless `rollback_config` sets another order.
#[test]
fn stop_first_never_takes_out_more_than_a_batch_neither_in_the_plan_nor_in_an_undo() {
    for (parallelism, least) in [(0, 5), (1, 5), (2, 4), (3, 3)] {
        let back = PlanPolicy { parallelism, ..PlanPolicy::default() };
        let scale = |policy: PlanPolicy| Strategy::Scale(DesiredService { policy, ..goal("app", 6) });
        let stop_first = scale(PlanPolicy { order: Order::StopFirst, ..back.clone() });
        assert_eq!(
            fewest_serving(&stop_first, &six_old_instances(), &back),
            least,
            "batches of {parallelism}"
        );
        assert_eq!(
            fewest_serving(&scale(back.clone()), &six_old_instances(), &back),
            6,
            "start-first, batches of {parallelism}"
        );
    }
}

/// As in Swarm: the ready instances of a batch wait for the replacement of the failed one.
#[test]
fn a_batch_is_filled_up_after_a_failure() {
    let mut goal = goal("app", 6);
    (goal.policy.parallelism, goal.kept_slots) = (3, 1);
    let mut now = six_old_instances();
    let failed = instance("app-7", New, Broken, false, false);
    let gated = |key| instance(key, New, Running, false, true);
    now.instances.extend([failed, gated("app-8"), gated("app-9")]);
    let plan = plan(&Strategy::Scale(goal), &now).unwrap();
    let starts = plan.steps().into_iter().filter_map(|(step, _)| match step {
        Step::Start(keys) => Some(keys.len()),
        _ => None,
    });
    assert_eq!((starts.collect::<Vec<_>>(), plan.slots), (vec![1, 2], 5), "{plan}");
}

/// Number of undos that were checked, from any prefix and with any old instances removed. Each ends with the
/// instances that served at the start. New instances that serve replace removed ones, and no other new one is left.
fn check_undos(strategy: &Strategy, start: &Observed, policy: &PlanPolicy) -> usize {
    let mut ways = 0;
    for prefix in prefixes_to_goal(strategy, start).unwrap() {
        for world in with_removed(start, &prefix) {
            ways += 1;
            check_undo(world, start, policy);
        }
    }
    ways
}

/// Same world, and each variant in which some of the old instances are removed.
fn with_removed(start: &Observed, world: &Simulated) -> Vec<Simulated> {
    let served = keys(start.serving());
    let subsets = (0..1usize << served.len()).map(|bits| {
        let mut rest = world.clone();
        let is_removed =
            |key: &InstanceKey| served.iter().position(|s| s == key).is_some_and(|n| bits >> n & 1 == 1);
        rest.now.instances.retain(|i| !is_removed(&i.key));
        rest
    });
    subsets.collect()
}

fn check_undo(mut world: Simulated, start: &Observed, policy: &PlanPolicy) {
    let served = |w: &Observed| keys(w.serving().filter(|i| i.ready));
    let before = served(start).len();
    let there = world.now.clone();
    let least = before.min(world.serving()).min(1);
    let plan = undo(start, &there, policy);
    for (step, _) in plan.steps() {
        world
            .apply(step)
            .unwrap_or_else(|law| panic!("{law} at `{step}` of undo\n{plan}{start:#?}{there:#?}"));
        assert!(
            world.serving() >= least,
            "nothing serves after `{step}` of undo\n{plan}{start:#?}{there:#?}"
        );
    }
    let now = served(&world.now);
    let back: Vec<InstanceKey> = served(start).into_iter().filter(|k| there.get(k).is_some()).collect();
    for key in &back {
        assert!(now.contains(key), "{key} is not back: {start:#?}{there:#?}");
    }
    let could_serve = there.running_new().filter(|i| i.ready && start.get(&i.key).is_none()).count();
    let least = before.min(back.len() + could_serve);
    assert!(now.len() >= least, "{} serve instead of {least}\n{plan}{start:#?}{there:#?}", now.len());
    let missing = start.serving().count().saturating_sub(back.len());
    let added = world.now.instances.iter().filter(|i| start.get(&i.key).is_none());
    assert!(
        added.clone().all(Instance::serves) && added.count() <= missing,
        "law 4: leftovers {plan}{start:#?}"
    );
    let rotation = RotationState::new(start, &world.now);
    assert_eq!(rotation.is_worse(), world.now.serving().count() < start.serving().count(), "{rotation:?}");
    let again = undo(start, &world.now, policy);
    assert!(again.is_empty(), "a second time: {start:#?}{there:#?}");
}

/// Policies: all at once, and one by one in either order.
fn every_policy() -> [PlanPolicy; 3] {
    let one = PlanPolicy { parallelism: 1, ..PlanPolicy::default() };
    [PlanPolicy::default(), one.clone(), PlanPolicy { order: Order::StopFirst, ..one }]
}

#[test]
fn undo_ends_with_the_old_release_from_every_prefix() {
    let healthy = |w: &Observed| w.proxied && w.instances.iter().all(|i| i.ready || !i.serves());
    for start in every_world(&["app-1", "app-2"]).iter().filter(|w| healthy(w)) {
        for policy in every_policy() {
            check_undos(&scale(1), start, &policy);
            check_undos(&scale(2), start, &policy);
        }
    }
    for start in every_world(&["a-1", "b-1"]).iter().filter(|w| healthy(w)) {
        check_undos(&pair(), start, &PlanPolicy::default());
    }
    let mut stop_first = goal("app", 2);
    stop_first.policy.order = Order::StopFirst;
    for order in [Order::StartFirst, Order::StopFirst] {
        for policy in every_policy() {
            check_undos(&monitored_strategy(order), &world(vec![old("app-1"), old("app-2")]), &policy);
        }
    }
    for policy in every_policy() {
        check_undos(&Strategy::Scale(stop_first.clone()), &world(vec![old("app-1"), old("app-2")]), &policy);
    }
}

/// Compose starts the service, so each batch of old instances is removed before the next one begins.
#[test]
fn undo_keeps_new_instances_in_the_place_of_removed_ones() {
    let mut goal_by_compose = goal("app", 2);
    (goal_by_compose.removes_stopped, goal_by_compose.policy.parallelism) = (true, 1);
    let start = world(vec![old("app-1"), old("app-2")]);
    for order in [Order::StartFirst, Order::StopFirst] {
        goal_by_compose.policy.order = order;
        for policy in every_policy() {
            assert!(check_undos(&Strategy::Scale(goal_by_compose.clone()), &start, &policy) > 40);
        }
    }
    let gone = world(vec![old("app-2"), new("app-3"), instance("app-4", New, Running, false, false)]);
    let text: Vec<_> =
        undo(&start, &gone, &PlanPolicy::default()).steps().into_iter().map(|(s, _)| s.to_string()).collect();
    assert_eq!(text, ["wait until idle: app-4", "stop app-4", "remove app-4", "hand back the route"]);
    let rotation = RotationState::new(&start, &world(vec![old("app-2"), new("app-3")]));
    let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(rotation.still_serving, names(&["app-2"]));
    assert_eq!((&rotation.gone, &rotation.replacements), (&names(&["app-1"]), &names(&["app-3"])));
    assert!(!rotation.is_worse());
}

/// An instance that keeps restarting, or that did not start again, is left alone.
#[test]
fn undo_does_not_count_on_an_old_instance_that_is_broken() {
    let start = world(vec![old("app-1")]);
    let broken = instance("app-1", Old, Broken, false, false);
    let now = world(vec![broken, new("app-2")]);
    assert!(undo(&start, &now, &PlanPolicy::default()).is_empty());
    let rotation = RotationState::new(&start, &now);
    assert_eq!((rotation.gone.len(), rotation.is_worse()), (1, false));
    let nothing = RotationState::new(&start, &world(vec![instance("app-2", New, Running, true, false)]));
    assert!(nothing.is_worse(), "an unready instance replaces nothing");
}

#[test]
fn the_last_old_instances_run_until_the_monitor_is_over() {
    let mut goal = goal("app", 2);
    let second = Duration::from_secs(1);
    goal.policy = PlanPolicy { parallelism: 1, delay: second, monitor: second * 5, ..PlanPolicy::default() };
    let observed = world(vec![old("app-1"), old("app-2")]);
    assert_eq!(
        step_texts(&Strategy::Scale(goal), &observed),
        "create app+1\ngate app+1\nstart app+1\nwait until ready: app+1\n\
         route to app-2, app+1, not to app-1\nwait until idle: app-1\nstop app-1\nwait 1s\n\
         create app+2\ngate app+2\nstart app+2\nwait until ready: app+2\n\
         route to app+1, app+2, not to app-2\nwatch the new instances for 5s\nwait until idle: app-2\nstop app-2\n\
         remove app-1, app-2\nhand back the route"
    );
}

#[test]
fn a_slot_whose_new_instance_failed_keeps_its_old_one() {
    let mut goal = goal("app", 2);
    goal.kept_slots = 1;
    let failed = instance("app-3", New, Broken, false, false);
    let observed = world(vec![old("app-1"), old("app-2"), failed.clone()]);
    assert_eq!(
        step_texts(&Strategy::Scale(goal.clone()), &observed),
        "wait until idle: app-3\nstop app-3\n\
         create app+1\ngate app+1\nstart app+1\nwait until ready: app+1\n\
         route to app-1, app+1, not to app-2\nwait until idle: app-2\nstop app-2\n\
         remove app-2, app-3\nhand back the route"
    );
    let stopped = instance("app-1", Old, Exited, false, false);
    let observed = world(vec![stopped, new("app-2"), failed]);
    assert_eq!(
        step_texts(&Strategy::Scale(goal), &observed),
        "wait until idle: app-3\nstop app-3\ngate app-1\nstart app-1\nwait until ready: app-1\n\
         route to app-2, app-1\nremove app-3\nhand back the route"
    );
}

#[test]
fn a_paused_rollout_keeps_its_state_and_continues_from_it() {
    let observed = world(vec![new("app-5"), old("app-2"), old("app-3")]);
    let mut paused = goal("app", 3);
    paused.kept_slots = 2;
    assert_eq!(step_texts(&Strategy::Scale(paused), &observed), "");
    let again = plan(&scale(3), &observed).unwrap();
    assert_eq!(again.slots, 2);
}

#[test]
fn a_worker_may_be_down_while_its_only_instance_is_replaced() {
    let mut goal = goal("app", 1);
    (goal.policy.order, goal.may_be_down) = (Order::StopFirst, true);
    let observed = Observed { instances: vec![old("app-1")], proxied: false };
    assert_eq!(
        step_texts(&Strategy::Scale(goal), &observed),
        "stop app-1\ncreate app+1\nstart app+1\nwait until ready: app+1\nremove app-1"
    );
}

#[test]
fn a_rollback_in_batches_restores_as_many_at_a_time() {
    let start = world(vec![old("app-1"), old("app-2"), old("app-3")]);
    let stopped = |key| instance(key, Old, Exited, false, false);
    let now = world(vec![stopped("app-1"), stopped("app-2"), old("app-3"), new("app-4"), new("app-5")]);
    let text: Vec<_> =
        undo(&start, &now, &every_policy()[1]).steps().into_iter().map(|(s, _)| s.to_string()).collect();
    assert_eq!(
        text.join("\n"),
        "gate app-1\nstart app-1\nwait until ready: app-1\n\
         route to app-3, app-5, app-1, not to app-4\nwait until idle: app-4\nstop app-4\n\
         gate app-2\nstart app-2\nwait until ready: app-2\n\
         route to app-3, app-1, app-2, not to app-5\nwait until idle: app-5\nstop app-5\n\
         remove app-4, app-5\nhand back the route"
    );
}

/// HAProxy's `server-template` has a fixed number of servers: an undo may need no more of them than the plan.
#[test]
fn instances_without_requests_are_removed_before_others_start() {
    let gated = |key, generation| instance(key, generation, Running, false, true);
    let killed = world(vec![old("app-1"), old("app-2"), gated("app-3", Old)]);
    let mut goal = goal("app", 2);
    goal.policy.parallelism = 1;
    let in_order = plan(&Strategy::Scale(goal.clone()), &killed).unwrap();
    assert_eq!(in_order.steps()[0].0.to_string(), "create app+1");
    goal.follows_unfinished = true;
    let plan = plan(&Strategy::Scale(goal), &killed).unwrap();
    assert_eq!((plan.steps()[1].0.to_string(), plan.extra_instances()), ("stop app-3".into(), 0));
    assert!(plan.stage(Stage::BringUp).contains(&2), "{plan}");
    let start = world(vec![old("app-1"), old("app-2")]);
    let stopped = instance("app-1", Old, Exited, false, false);
    let failed = world(vec![stopped, old("app-2"), new("app-3"), gated("app-4", New)]);
    let back = undo(&start, &failed, &PlanPolicy::default());
    assert_eq!((back.steps()[1].0.to_string(), back.extra_instances()), ("stop app-4".into(), 0));
    let stopped = instance("app-1", Old, Exited, false, false);
    let monitored = world(vec![stopped, gated("app-2", Old), new("app-3"), new("app-4")]);
    let back = undo(&start, &monitored, &PlanPolicy::default());
    assert_eq!(back.steps()[0].0.to_string(), "route to app-4, app-2, not to app-3");
    assert_eq!(back.extra_instances(), 0);
}

#[test]
fn a_plan_has_five_stages() {
    let observed = world(vec![old("app-1")]);
    let plan = plan(&scale(1), &observed).unwrap();
    let stage = |stage| plan.stage(stage);
    assert_eq!((stage(Stage::BringUp), stage(Stage::Switch), stage(Stage::Monitor)), (0..4, 4..5, 5..5));
    assert_eq!((stage(Stage::Retire), stage(Stage::Clean)), (5..7, 7..9));
    let monitored = super::plan(&monitored_strategy(Order::StartFirst), &observed).unwrap();
    let stage = |stage| monitored.stage(stage);
    assert_eq!((stage(Stage::Switch), stage(Stage::Monitor), stage(Stage::Retire)), (4..13, 13..14, 14..14));
    let nothing = Plan::default();
    assert_eq!(nothing.stage(Stage::Clean), 0..0);
    let mut stop_first = goal("app", 2);
    stop_first.policy.order = Order::StopFirst;
    let plan = super::plan(&Strategy::Scale(stop_first), &world(vec![old("app-1"), old("app-2")])).unwrap();
    assert_eq!(plan.stage(Stage::BringUp), 0..0);
    let leftover = world(vec![new("app-1"), instance("app-2", Old, Exited, false, false)]);
    let plan = super::plan(&scale(1), &leftover).unwrap();
    assert_eq!((plan.stage(Stage::BringUp), plan.stage(Stage::Clean)), (0..0, 0..2));
}

/// The rest of the rollout keeps the laws and ends, whichever new instances failed.
#[test]
fn every_world_with_kept_slots_reaches_its_end() {
    for kept_slots in 0..=2 {
        let mut goal = goal("app", 2);
        (goal.kept_slots, goal.policy.parallelism) = (kept_slots, 1);
        for start in every_world(&["app-1", "app-2", "app-3"]) {
            let plan = plan(&Strategy::Scale(goal.clone()), &start).unwrap();
            let mut world = Simulated::new(&start);
            let least = world.serving().min(1);
            for (step, _) in plan.steps() {
                world.apply(step).unwrap_or_else(|law| panic!("{law} at `{step}`\n{plan}{start:#?}"));
                assert!(world.serving() >= least, "nothing serves after `{step}`\n{plan}{start:#?}");
            }
        }
    }
}
