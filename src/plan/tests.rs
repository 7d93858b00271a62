//! The planner against every small world: each observed state, and each prefix of each plan.

#[path = "rules.rs"]
mod rules;

use super::*;
use crate::observed::Generation::{New, Old};
use crate::observed::InstanceState::{Broken, Created, Exited, Running};

fn instance(key: &str, generation: Generation, state: InstanceState, routed: bool, ready: bool) -> Instance {
    let (service, _) = key.rsplit_once(['-', '+']).unwrap();
    Instance { key: key.into(), service: service.into(), generation, state, routed, ready, age: None }
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

fn goal(service: &str, wanted: usize) -> DesiredService {
    DesiredService { service: service.into(), wanted, ..DesiredService::default() }
}

fn scale(wanted: usize) -> Strategy {
    Strategy::Scale(goal("app", wanted))
}

fn pair() -> Strategy {
    Strategy::Pair([goal("a", 1), goal("b", 1)])
}

fn steps(strategy: &Strategy, observed: &Observed) -> String {
    let plan = plan(strategy, observed).unwrap();
    let lines = plan.steps.iter().map(|(step, _)| step.to_string());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_deploy_gates_admits_drains_and_only_then_stops() {
    let observed = world(vec![old("app-1"), old("app-2")]);
    let text = plan(&scale(2), &observed).unwrap().to_string();
    assert_eq!(
        text,
        "  1. create app+1, app+2  (the new release is not there yet)
  2. gate app+1, app+2  (not yet ready)
  3. start app+1, app+2  (not yet ready)
  4. wait until ready: app+1, app+2  (not yet ready)
  5. route to app+1, app+2, not to app-1, app-2  (ready)
  6. wait until idle: app-1, app-2  (replaced)
  7. stop app-1, app-2  (replaced)
  8. remove app-1, app-2  (replaced)
  9. release the route  (nothing of ours stays behind)
"
    );
}

#[test]
fn nothing_to_do_is_an_empty_plan() {
    assert_eq!(steps(&scale(2), &world(vec![new("app-1"), new("app-2")])), "");
    let kept = instance("b-1", Old, Exited, false, false);
    assert_eq!(steps(&pair(), &world(vec![new("a-1"), kept])), "");
}

#[test]
fn a_first_deploy_starts_gated_and_is_admitted_when_ready() {
    assert_eq!(
        steps(&scale(1), &world(vec![])),
        "create app+1\ngate app+1\nstart app+1\nwait until ready: app+1\nroute to app+1\nrelease the route"
    );
}

#[test]
fn without_a_proxy_readiness_alone_decides() {
    let mut observed = world(vec![old("app-1")]);
    observed.proxied = false;
    assert_eq!(
        steps(&scale(1), &observed),
        "create app+1\nstart app+1\nwait until ready: app+1\nstop app-1\nremove app-1"
    );
}

#[test]
fn more_instances_are_added_and_fewer_are_drained_without_touching_the_others() {
    let observed = world(vec![new("app-1"), new("app-2")]);
    assert_eq!(
        steps(&scale(3), &observed),
        "create app+1\ngate app+1\nstart app+1\nwait until ready: app+1\nroute to app-1, app-2, app+1\nrelease the route"
    );
    assert_eq!(
        steps(&scale(1), &observed),
        "route to app-1, not to app-2\nwait until idle: app-2\nstop app-2\nremove app-2\nrelease the route"
    );
}

#[test]
fn batches_grow_and_shrink_the_rotation() {
    let mut goal = goal("app", 2);
    goal.pace.parallelism = 1;
    let observed = world(vec![old("app-1"), old("app-2")]);
    assert_eq!(
        steps(&Strategy::Scale(goal), &observed),
        "create app+1\ngate app+1\nstart app+1\nwait until ready: app+1\n\
         route to app-2, app+1, not to app-1\nwait until idle: app-1\nstop app-1\n\
         create app+2\ngate app+2\nstart app+2\nwait until ready: app+2\n\
         route to app+1, app+2, not to app-2\nwait until idle: app-2\nstop app-2\n\
         remove app-1, app-2\nrelease the route"
    );
}

#[test]
fn stop_first_drains_before_it_starts_and_needs_somebody_else_to_serve() {
    let mut goal = goal("app", 2);
    goal.pace.order = Order::StopFirst;
    let observed = world(vec![old("app-1"), old("app-2")]);
    assert_eq!(
        steps(&Strategy::Scale(goal.clone()), &observed),
        "route to app-2, not to app-1\nwait until idle: app-1\nstop app-1\n\
         create app+1\ngate app+1\nstart app+1\nwait until ready: app+1\n\
         route to app+1, not to app-2\nwait until idle: app-2\nstop app-2\n\
         create app+2\ngate app+2\nstart app+2\nwait until ready: app+2\n\
         route to app+1, app+2\nremove app-1, app-2\nrelease the route"
    );
    let alone = plan(&Strategy::Scale(goal), &world(vec![old("app-1")])).unwrap_err();
    assert!(alone.reason.contains("stop-first"), "{alone:?}");
}

#[test]
fn the_idle_side_of_a_pair_takes_over_and_the_other_is_kept_stopped() {
    let stale = instance("b-1", Old, Exited, false, false);
    assert_eq!(
        steps(&pair(), &world(vec![old("a-1"), stale])),
        "remove b-1\ncreate b+1\ngate b+1\nstart b+1\nwait until ready: b+1\n\
         route to b+1, not to a-1\nwait until idle: a-1\nstop a-1\nrelease the route"
    );
}

#[test]
fn a_stopped_side_that_is_what_is_wanted_is_a_start_away() {
    let kept = instance("b-1", New, Exited, false, false);
    assert_eq!(
        steps(&pair(), &world(vec![old("a-1"), kept])),
        "gate b-1\nstart b-1\nwait until ready: b-1\n\
         route to b-1, not to a-1\nwait until idle: a-1\nstop a-1\nrelease the route"
    );
}

#[test]
fn two_active_sides_are_replaced_one_after_the_other() {
    assert_eq!(
        steps(&pair(), &world(vec![old("a-1"), old("b-1")])),
        "create a+1\ngate a+1\nstart a+1\nwait until ready: a+1\n\
         route to b-1, a+1, not to a-1\nwait until idle: a-1\nstop a-1\n\
         create b+1\ngate b+1\nstart b+1\nwait until ready: b+1\n\
         route to a+1, b+1, not to b-1\nwait until idle: b-1\nstop b-1\nremove a-1, b-1\nrelease the route"
    );
}

#[test]
fn undo_brings_back_what_served_and_removes_what_was_added() {
    let start = world(vec![old("app-1")]);
    let now = world(vec![
        instance("app-1", Old, Running, false, true),
        instance("app+1", New, Running, true, true),
    ]);
    let text: Vec<_> =
        undo(&start, &now, &PlanPolicy::default()).steps.iter().map(|(s, _)| s.to_string()).collect();
    assert_eq!(
        text.join("\n"),
        "route to app-1, not to app+1\nwait until idle: app+1\nstop app+1\n\
         remove app+1\nrelease the route"
    );
}

/// New instances that crash over and over may be what a proxy sends requests to at that moment; and nobody else then.
#[test]
fn undo_lets_those_in_that_served_before_anything_else_is_done() {
    let start = world(vec![old("app-1"), old("app-2")]);
    let aside = |key, generation| instance(key, generation, Running, false, true);
    let now = world(vec![aside("app-1", Old), aside("app-2", Old), aside("app-3", New), new("app-4")]);
    let plan = undo(&start, &now, &PlanPolicy::default());
    assert_eq!(plan.steps[0].0.to_string(), "route to app-1, app-2, not to app-4, app-3");
}

/// The world, with what a proxy hides; steps act on it the way docker and the proxy do.
#[derive(Clone)]
struct Simulated {
    now: Observed,
    hidden: Vec<InstanceKey>,
    /// Nothing served at the start, so nothing can be routed to instead.
    alone: bool,
    /// How long new instances have to be watched, in which order they come.
    monitor: (Duration, Order),
}

impl Simulated {
    fn new(observed: &Observed) -> Self {
        let live = observed.instances.iter().filter(|i| i.is_live() && !i.routed);
        let alone = observed.serving().count() == 0;
        Simulated { now: observed.clone(), hidden: keys(live), alone, monitor: Default::default() }
    }

    /// What would go for good although a new instance in rotation has not been watched.
    fn goes_too_early(&self, step: &Step) -> bool {
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

    /// Does a step, and says which law it breaks.
    fn apply(&mut self, step: &Step) -> Result<(), String> {
        let proxied = self.now.proxied;
        check(!self.goes_too_early(step), "law 4: gone before the monitor is over")?;
        match step {
            Step::Create { fresh, total, service } => {
                let made = fresh.iter().map(|k| instance(k, New, Created, false, false));
                self.now.instances.extend(made);
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
                let early = proxied && !self.alone && self.now.instances.iter().any(routed);
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
            Step::Monitor(time) => {
                self.now.instances.iter_mut().for_each(|i| i.age = i.age.map(|age| age + *time))
            }
            Step::Delay(_) | Step::Release => {}
        }
        Ok(())
    }

    fn serving(&self) -> usize {
        self.now.serving().filter(|i| i.ready).count()
    }
}

fn check(holds: bool, law: impl Into<String>) -> Result<(), String> {
    match holds {
        true => Ok(()),
        false => Err(law.into()),
    }
}

/// Every instance that a service can have: what it is, what it does, whether it gets requests, whether it is ready.
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

/// Every world of up to as many instances as there are keys.
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

/// After a kill the placeholders have become instances with names of their own.
fn real_names(observed: &Observed) -> Observed {
    let mut named = observed.clone();
    for (i, n) in named.instances.iter_mut().zip(90..) {
        if i.key.contains('+') {
            i.key = format!("{}-{n}", i.service);
        }
    }
    named
}

/// From this world the plan reaches its goal, and some ready instance serves at every prefix.
fn reaches(strategy: &Strategy, start: &Observed) -> Result<Vec<Simulated>, String> {
    let Ok(plan) = plan(strategy, start) else {
        return Ok(Vec::new());
    };
    let mut world = Simulated::new(start);
    let least = world.serving().min(1);
    let mut prefixes = vec![world.clone()];
    for (step, _) in &plan.steps {
        world.apply(step).map_err(|law| format!("{law} at `{step}`\n{plan}{start:#?}"))?;
        check(world.serving() >= least, format!("nobody serves after `{step}`\n{plan}{start:#?}"))?;
        prefixes.push(world.clone());
    }
    let again = super::plan(strategy, &world.now).map_err(|e| format!("{e:?}"))?;
    check(again.steps.is_empty(), format!("not at the goal:\n{plan}then\n{again}{start:#?}"))?;
    Ok(prefixes)
}

/// The two properties of the planner, over every world: see `reaches`; and from every prefix, planning again gets there.
fn holds_everywhere(strategy: &Strategy, keys: &[&str]) -> usize {
    let mut prefixes_seen = 0;
    for start in every_world(keys) {
        let prefixes = reaches(strategy, &start).unwrap_or_else(|e| panic!("{e}"));
        for prefix in &prefixes {
            let start = real_names(&prefix.now);
            reaches(strategy, &start).unwrap_or_else(|e| panic!("after a kill: {e}"));
        }
        prefixes_seen += prefixes.len();
    }
    prefixes_seen
}

#[test]
fn every_world_of_a_service_reaches_the_goal_from_every_prefix() {
    assert!(holds_everywhere(&scale(1), &["app-1", "app-2"]) > 1000);
    assert!(holds_everywhere(&scale(2), &["app-1", "app-2"]) > 1000);
    let mut batches = goal("app", 2);
    batches.pace.parallelism = 1;
    assert!(holds_everywhere(&Strategy::Scale(batches), &["app-1", "app-2", "app-3"]) > 10_000);
}

#[test]
fn a_service_that_compose_starts_has_no_stopped_instance_then() {
    let mut goal = goal("app", 2);
    goal.clears_stopped = true;
    goal.pace.order = Order::StopFirst;
    let strategy = Strategy::Scale(goal);
    assert!(holds_everywhere(&strategy, &["app-1", "app-2"]) > 1000);
    for start in every_world(&["app-1", "app-2"]) {
        let Ok(plan) = plan(&strategy, &start) else {
            continue;
        };
        let mut world = Simulated::new(&start);
        for (step, _) in &plan.steps {
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
    assert!(holds_everywhere(&pair(), &["a-1", "b-1"]) > 1000);
}

#[test]
fn stop_first_keeps_somebody_serving_in_every_world() {
    let mut stop_first = goal("app", 2);
    stop_first.pace.order = Order::StopFirst;
    assert!(holds_everywhere(&Strategy::Scale(stop_first), &["app-1", "app-2", "app-3"]) > 10_000);
}

#[test]
fn start_first_never_has_fewer_than_before() {
    for start in every_world(&["app-1", "app-2"]) {
        let before = Simulated::new(&start).serving().min(2);
        for prefix in reaches(&scale(2), &start).unwrap() {
            assert!(prefix.serving() >= before, "law 3: {start:#?}");
        }
    }
}

/// As a file says: batches of one, a moment between them, and a look at them at the end.
fn watched(order: Order) -> Strategy {
    let second = Duration::from_secs(1);
    let pace = PlanPolicy { order, parallelism: 1, delay: second, monitor: second * 5 };
    Strategy::Scale(DesiredService { pace, ..goal("app", 2) })
}

#[test]
fn killed_between_two_batches_or_within_the_monitor_every_world_reaches_the_goal() {
    for order in [Order::StartFirst, Order::StopFirst] {
        assert!(holds_everywhere(&watched(order), &["app-1", "app-2"]) > 1000);
        let plan = plan(&watched(order), &world(vec![old("app-1"), old("app-2")])).unwrap();
        let is_wait = |step: &Step| matches!(step, Step::Delay(_) | Step::Monitor(_));
        assert_eq!(plan.steps.iter().filter(|(step, _)| is_wait(step)).count(), 2, "{plan}");
    }
}

/// All that a rollout of this may have come to when it was killed, and what the next run does about it.
fn is_watched_from_every_prefix(first: &DesiredService, start: &Observed) -> usize {
    let next = DesiredService { after_another: true, ..first.clone() };
    let mut waits = 0;
    for prefix in reaches(&Strategy::Scale(first.clone()), start).unwrap() {
        let start = real_names(&prefix.now);
        let Ok(again) = plan(&Strategy::Scale(next.clone()), &start) else { continue };
        let mut world =
            Simulated { monitor: (first.pace.monitor, first.pace.order), ..Simulated::new(&start) };
        for (step, _) in &again.steps {
            world.apply(step).unwrap_or_else(|law| panic!("{law} at `{step}`\n{again}{start:#?}"));
        }
        waits += usize::from(again.goes_on_watching());
        assert_eq!(world.serving(), 2, "{again}{start:#?}");
    }
    waits
}

#[test]
fn killed_within_the_monitor_the_next_run_watches_before_the_last_old_ones_go() {
    for order in [Order::StartFirst, Order::StopFirst] {
        for parallelism in [0, 1] {
            let monitor = Duration::from_secs(5);
            let pace = PlanPolicy { order, parallelism, monitor, ..PlanPolicy::default() };
            let goal = DesiredService { pace, ..goal("app", 2) };
            let old = world(vec![old("app-1"), old("app-2")]);
            let waits = is_watched_from_every_prefix(&goal, &old);
            assert!(waits > 0, "{order:?} {parallelism}: no kill fell into the monitor");
            let unproxied = Observed { proxied: false, ..old };
            assert!(order == Order::StopFirst || is_watched_from_every_prefix(&goal, &unproxied) > 0);
        }
    }
}

#[test]
fn the_rest_of_a_monitor_is_all_that_is_left_to_do_before_the_old_ones_go() {
    let second = Duration::from_secs(1);
    let aside = instance("app-1", Old, Running, false, true);
    let of_age = |seconds| Instance { age: Some(second * seconds), ..new("app-2") };
    let mut goal = goal("app", 1);
    (goal.pace.monitor, goal.after_another) = (second * 5, true);
    let text = |age| steps(&Strategy::Scale(goal.clone()), &world(vec![aside.clone(), of_age(age)]));
    let retires = "wait until idle: app-1\nstop app-1\nremove app-1\nrelease the route";
    assert_eq!(text(3), format!("watch the new instances for 5s\n{retires}"));
    assert_eq!(text(6), retires);
    goal.after_another = false;
    let observed = world(vec![aside, of_age(3)]);
    assert_eq!(steps(&Strategy::Scale(goal), &observed), retires, "nobody was killed");
}

/// The new one may get the name of the one whose place it takes.
#[test]
fn a_new_idle_side_that_fails_is_removed_although_one_of_its_name_was_there() {
    let stale = instance("b-1", Old, Exited, false, false);
    let start = world(vec![old("a-1"), stale]);
    let aside = instance("a-1", Old, Running, false, true);
    let now = world(vec![aside, instance("b-1", New, Broken, true, false)]);
    let plan = undo(&start, &now, &PlanPolicy::default());
    let text: Vec<_> = plan.steps.iter().map(|(s, _)| s.to_string()).collect();
    assert_eq!(
        text.join("\n"),
        "route to a-1, not to b-1\nwait until idle: b-1\nstop b-1\nremove b-1\nrelease the route"
    );
}

#[test]
fn both_sides_of_a_pair_are_watched_at_the_end() {
    let watched = |name| {
        let mut goal = goal(name, 1);
        goal.pace.monitor = Duration::from_secs(5);
        goal
    };
    let strategy = Strategy::Pair([watched("a"), watched("b")]);
    assert_eq!(
        steps(&strategy, &world(vec![old("a-1"), old("b-1")])),
        "create a+1\ngate a+1\nstart a+1\nwait until ready: a+1\n\
         route to b-1, a+1, not to a-1\nwait until idle: a-1\nstop a-1\n\
         create b+1\ngate b+1\nstart b+1\nwait until ready: b+1\n\
         route to a+1, b+1, not to b-1\nwatch the new instances for 5s\n\
         wait until idle: b-1\nstop b-1\nremove a-1, b-1\nrelease the route"
    );
}

fn six() -> Observed {
    world((1..=6).map(|n| old(&format!("app-{n}"))).collect())
}

/// The fewest that serve at any step, forward and on the way back from every step.
fn fewest(strategy: &Strategy, start: &Observed, pace: &PlanPolicy) -> usize {
    let prefixes = reaches(strategy, start).unwrap();
    let mut fewest = prefixes.iter().map(Simulated::serving).min().unwrap();
    let is_whole = |p: &&Simulated| start.instances.iter().all(|i| p.now.get(&i.key).is_some());
    for prefix in prefixes.iter().filter(is_whole) {
        let mut world = prefix.clone();
        for (step, _) in undo(start, &prefix.now, pace).steps {
            world.apply(&step).unwrap();
            fewest = fewest.min(world.serving());
        }
    }
    fewest
}

/// The way back is start-first unless `rollback_config` says otherwise.
#[test]
fn stop_first_never_takes_more_than_a_batch_out_on_the_way_there_or_back() {
    for (parallelism, least) in [(0, 5), (1, 5), (2, 4), (3, 3)] {
        let back = PlanPolicy { parallelism, ..PlanPolicy::default() };
        let scale = |pace: PlanPolicy| Strategy::Scale(DesiredService { pace, ..goal("app", 6) });
        let stop_first = scale(PlanPolicy { order: Order::StopFirst, ..back.clone() });
        assert_eq!(fewest(&stop_first, &six(), &back), least, "batches of {parallelism}");
        assert_eq!(fewest(&scale(back.clone()), &six(), &back), 6, "start-first, batches of {parallelism}");
    }
}

/// As with Swarm; those that got ready with it wait for the one that takes the place of the one that failed.
#[test]
fn a_batch_is_filled_up_when_one_of_it_has_failed() {
    let mut goal = goal("app", 6);
    (goal.pace.parallelism, goal.spared) = (3, 1);
    let mut now = six();
    let failed = instance("app-7", New, Broken, false, false);
    let gated = |key| instance(key, New, Running, false, true);
    now.instances.extend([failed, gated("app-8"), gated("app-9")]);
    let plan = plan(&Strategy::Scale(goal), &now).unwrap();
    let starts = plan.steps.iter().filter_map(|(step, _)| match step {
        Step::Start(keys) => Some(keys.len()),
        _ => None,
    });
    assert_eq!((starts.collect::<Vec<_>>(), plan.slots), (vec![1, 2], 5), "{plan}");
}

/// Undoing from any prefix, whatever was removed by then, ends with what served at the start; where that is gone, new
/// instances that serve take its place, and nothing else that the rollout added is left.
fn undoes(strategy: &Strategy, start: &Observed, pace: &PlanPolicy) -> usize {
    let mut ways = 0;
    for prefix in reaches(strategy, start).unwrap() {
        for world in with_removed(start, &prefix) {
            ways += 1;
            undoes_from(world, start, pace);
        }
    }
    ways
}

/// The same world, and each in which somebody has removed some of those that served at the start.
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

fn undoes_from(mut world: Simulated, start: &Observed, pace: &PlanPolicy) {
    let served = |w: &Observed| keys(w.serving().filter(|i| i.ready));
    let before = served(start).len();
    let there = world.now.clone();
    let least = before.min(world.serving()).min(1);
    let plan = undo(start, &there, pace);
    for (step, _) in &plan.steps {
        world
            .apply(step)
            .unwrap_or_else(|law| panic!("{law} at `{step}` of undo\n{plan}{start:#?}{there:#?}"));
        assert!(world.serving() >= least, "nobody serves after `{step}` of undo\n{plan}{start:#?}{there:#?}");
    }
    let now = served(&world.now);
    let back: Vec<InstanceKey> = served(start).into_iter().filter(|k| there.get(k).is_some()).collect();
    for key in &back {
        assert!(now.contains(key), "{key} is not back: {start:#?}{there:#?}");
    }
    let could = there.running_new().filter(|i| i.ready && start.get(&i.key).is_none()).count();
    let least = before.min(back.len() + could);
    assert!(now.len() >= least, "{} serve instead of {least}\n{plan}{start:#?}{there:#?}", now.len());
    let missing = start.serving().count().saturating_sub(back.len());
    let added = world.now.instances.iter().filter(|i| start.get(&i.key).is_none());
    assert!(
        added.clone().all(Instance::serves) && added.count() <= missing,
        "law 4: leftovers {plan}{start:#?}"
    );
    let standing = RotationState::new(start, &world.now);
    assert_eq!(standing.is_worse(), world.now.serving().count() < start.serving().count(), "{standing:?}");
    let again = undo(start, &world.now, pace);
    assert_eq!(again.steps, [], "a second time: {start:#?}{there:#?}");
}

/// All at once, and one by one in either order.
fn every_pace() -> [PlanPolicy; 3] {
    let one = PlanPolicy { parallelism: 1, ..PlanPolicy::default() };
    [PlanPolicy::default(), one.clone(), PlanPolicy { order: Order::StopFirst, ..one }]
}

#[test]
fn undo_ends_with_the_old_release_from_every_prefix() {
    let healthy = |w: &Observed| w.proxied && w.instances.iter().all(|i| i.ready || !i.serves());
    for start in every_world(&["app-1", "app-2"]).iter().filter(|w| healthy(w)) {
        for pace in every_pace() {
            undoes(&scale(1), start, &pace);
            undoes(&scale(2), start, &pace);
        }
    }
    for start in every_world(&["a-1", "b-1"]).iter().filter(|w| healthy(w)) {
        undoes(&pair(), start, &PlanPolicy::default());
    }
    let mut stop_first = goal("app", 2);
    stop_first.pace.order = Order::StopFirst;
    for order in [Order::StartFirst, Order::StopFirst] {
        for pace in every_pace() {
            undoes(&watched(order), &world(vec![old("app-1"), old("app-2")]), &pace);
        }
    }
    for pace in every_pace() {
        undoes(&Strategy::Scale(stop_first.clone()), &world(vec![old("app-1"), old("app-2")]), &pace);
    }
}

/// Compose starts it: each batch of old instances is removed before the next one begins.
#[test]
fn undo_keeps_new_instances_in_the_place_of_those_that_are_removed() {
    let mut clears = goal("app", 2);
    (clears.clears_stopped, clears.pace.parallelism) = (true, 1);
    let start = world(vec![old("app-1"), old("app-2")]);
    for order in [Order::StartFirst, Order::StopFirst] {
        clears.pace.order = order;
        for pace in every_pace() {
            assert!(undoes(&Strategy::Scale(clears.clone()), &start, &pace) > 40);
        }
    }
    let gone = world(vec![old("app-2"), new("app-3"), instance("app-4", New, Running, false, false)]);
    let text: Vec<_> =
        undo(&start, &gone, &PlanPolicy::default()).steps.iter().map(|(s, _)| s.to_string()).collect();
    assert_eq!(text, ["wait until idle: app-4", "stop app-4", "remove app-4", "release the route"]);
    let standing = RotationState::new(&start, &world(vec![old("app-2"), new("app-3")]));
    let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(standing.still, names(&["app-2"]));
    assert_eq!((&standing.gone, &standing.instead), (&names(&["app-1"]), &names(&["app-3"])));
    assert!(!standing.is_worse());
}

/// One that restarts over and over, or that did not start again, is left alone.
#[test]
fn undo_does_not_count_on_an_old_instance_that_is_broken() {
    let start = world(vec![old("app-1")]);
    let broken = instance("app-1", Old, Broken, false, false);
    let now = world(vec![broken, new("app-2")]);
    assert_eq!(undo(&start, &now, &PlanPolicy::default()).steps, []);
    let standing = RotationState::new(&start, &now);
    assert_eq!((standing.gone.len(), standing.is_worse()), (1, false));
    let nothing = RotationState::new(&start, &world(vec![instance("app-2", New, Running, true, false)]));
    assert!(nothing.is_worse(), "one that is not ready takes the place of nothing");
}

#[test]
fn the_last_old_ones_run_until_the_new_ones_were_watched() {
    let mut goal = goal("app", 2);
    let second = Duration::from_secs(1);
    goal.pace = PlanPolicy { parallelism: 1, delay: second, monitor: second * 5, ..PlanPolicy::default() };
    let observed = world(vec![old("app-1"), old("app-2")]);
    assert_eq!(
        steps(&Strategy::Scale(goal), &observed),
        "create app+1\ngate app+1\nstart app+1\nwait until ready: app+1\n\
         route to app-2, app+1, not to app-1\nwait until idle: app-1\nstop app-1\nwait 1s\n\
         create app+2\ngate app+2\nstart app+2\nwait until ready: app+2\n\
         route to app+1, app+2, not to app-2\nwatch the new instances for 5s\nwait until idle: app-2\nstop app-2\n\
         remove app-1, app-2\nrelease the route"
    );
}

#[test]
fn a_slot_whose_new_instance_failed_keeps_its_old_one() {
    let mut goal = goal("app", 2);
    goal.spared = 1;
    let failed = instance("app-3", New, Broken, false, false);
    let observed = world(vec![old("app-1"), old("app-2"), failed.clone()]);
    assert_eq!(
        steps(&Strategy::Scale(goal.clone()), &observed),
        "wait until idle: app-3\nstop app-3\n\
         create app+1\ngate app+1\nstart app+1\nwait until ready: app+1\n\
         route to app-1, app+1, not to app-2\nwait until idle: app-2\nstop app-2\n\
         remove app-2, app-3\nrelease the route"
    );
    let stopped = instance("app-1", Old, Exited, false, false);
    let observed = world(vec![stopped, new("app-2"), failed]);
    assert_eq!(
        steps(&Strategy::Scale(goal), &observed),
        "wait until idle: app-3\nstop app-3\ngate app-1\nstart app-1\nwait until ready: app-1\n\
         route to app-2, app-1\nremove app-3\nrelease the route"
    );
}

#[test]
fn a_paused_rollout_settles_where_it_is_and_goes_on_from_there() {
    let observed = world(vec![new("app-5"), old("app-2"), old("app-3")]);
    let mut paused = goal("app", 3);
    paused.spared = 2;
    assert_eq!(steps(&Strategy::Scale(paused), &observed), "");
    let again = plan(&scale(3), &observed).unwrap();
    assert_eq!(again.slots, 2);
}

#[test]
fn a_worker_may_rest_while_its_one_instance_is_replaced() {
    let mut goal = goal("app", 1);
    (goal.pace.order, goal.may_rest) = (Order::StopFirst, true);
    let observed = Observed { instances: vec![old("app-1")], proxied: false };
    assert_eq!(
        steps(&Strategy::Scale(goal), &observed),
        "stop app-1\ncreate app+1\nstart app+1\nwait until ready: app+1\nremove app-1"
    );
}

#[test]
fn a_rollback_in_batches_brings_back_as_many_at_a_time() {
    let start = world(vec![old("app-1"), old("app-2"), old("app-3")]);
    let stopped = |key| instance(key, Old, Exited, false, false);
    let now = world(vec![stopped("app-1"), stopped("app-2"), old("app-3"), new("app-4"), new("app-5")]);
    let text: Vec<_> =
        undo(&start, &now, &every_pace()[1]).steps.iter().map(|(s, _)| s.to_string()).collect();
    assert_eq!(
        text.join("\n"),
        "gate app-1\nstart app-1\nwait until ready: app-1\n\
         route to app-3, app-5, app-1, not to app-4\nwait until idle: app-4\nstop app-4\n\
         gate app-2\nstart app-2\nwait until ready: app-2\n\
         route to app-3, app-1, app-2, not to app-5\nwait until idle: app-5\nstop app-5\n\
         remove app-4, app-5\nrelease the route"
    );
}

/// HAProxy's `server-template` has a number of places: no way may need more of them than the way forward does.
#[test]
fn those_that_nobody_is_sent_to_make_room_before_others_start() {
    let gated = |key, generation| instance(key, generation, Running, false, true);
    let killed = world(vec![old("app-1"), old("app-2"), gated("app-3", Old)]);
    let mut goal = goal("app", 2);
    goal.pace.parallelism = 1;
    let put_aside = plan(&Strategy::Scale(goal.clone()), &killed).unwrap();
    assert_eq!(put_aside.steps[0].0.to_string(), "create app+1");
    goal.after_another = true;
    let plan = plan(&Strategy::Scale(goal), &killed).unwrap();
    assert_eq!((plan.steps[1].0.to_string(), plan.starting()), ("stop app-3".into(), 0));
    assert!(plan.stage(Stage::BringUp).contains(&2), "{plan}");
    let start = world(vec![old("app-1"), old("app-2")]);
    let stopped = instance("app-1", Old, Exited, false, false);
    let failed = world(vec![stopped, old("app-2"), new("app-3"), gated("app-4", New)]);
    let back = undo(&start, &failed, &PlanPolicy::default());
    assert_eq!((back.steps[1].0.to_string(), back.starting()), ("stop app-4".into(), 0));
    let stopped = instance("app-1", Old, Exited, false, false);
    let watched = world(vec![stopped, gated("app-2", Old), new("app-3"), new("app-4")]);
    let back = undo(&start, &watched, &PlanPolicy::default());
    assert_eq!(back.steps[0].0.to_string(), "route to app-4, app-2, not to app-3");
    assert_eq!(back.starting(), 0);
}

#[test]
fn a_plan_has_five_parts() {
    let observed = world(vec![old("app-1")]);
    let plan = plan(&scale(1), &observed).unwrap();
    let part = |stage| plan.stage(stage);
    assert_eq!((part(Stage::BringUp), part(Stage::Switch), part(Stage::Monitor)), (0..4, 4..5, 5..5));
    assert_eq!((part(Stage::Retire), part(Stage::Clean)), (5..7, 7..9));
    let watched = super::plan(&watched(Order::StartFirst), &observed).unwrap();
    let part = |stage| watched.stage(stage);
    assert_eq!((part(Stage::Switch), part(Stage::Monitor), part(Stage::Retire)), (4..13, 13..14, 14..14));
    let nothing = Plan::default();
    assert_eq!(nothing.stage(Stage::Clean), 0..0);
    let mut stop_first = goal("app", 2);
    stop_first.pace.order = Order::StopFirst;
    let plan = super::plan(&Strategy::Scale(stop_first), &world(vec![old("app-1"), old("app-2")])).unwrap();
    assert_eq!(plan.stage(Stage::BringUp), 0..0);
    let leftover = world(vec![new("app-1"), instance("app-2", Old, Exited, false, false)]);
    let plan = super::plan(&scale(1), &leftover).unwrap();
    assert_eq!((plan.stage(Stage::BringUp), plan.stage(Stage::Clean)), (0..0, 0..2));
}

/// Whichever of the new instances failed, the rest of the rollout keeps the laws and ends.
#[test]
fn every_world_with_spared_slots_reaches_its_end() {
    for spared in 0..=2 {
        let mut goal = goal("app", 2);
        (goal.spared, goal.pace.parallelism) = (spared, 1);
        for start in every_world(&["app-1", "app-2", "app-3"]) {
            let plan = plan(&Strategy::Scale(goal.clone()), &start).unwrap();
            let mut world = Simulated::new(&start);
            let least = world.serving().min(1);
            for (step, _) in &plan.steps {
                world.apply(step).unwrap_or_else(|law| panic!("{law} at `{step}`\n{plan}{start:#?}"));
                assert!(world.serving() >= least, "nobody serves after `{step}`\n{plan}{start:#?}");
            }
        }
    }
}
