//! `deploy.update_config` and `deploy.rollback_config`: in batches, watched for a while, and what is done once more new
//! instances have failed than may.

use std::collections::BTreeMap;

use crate::load::Load;
use crate::stage::{LONG, Stage, wait_until};
use crate::tool::{Ran, Running};

/// Long enough to end an instance before it is ready.
const WARM: &str = "WARMUP=2";

/// Six instances of version 1, and a file that asks for version 2, replaced as `deploy` says.
fn six(stage: &Stage, deploy: &str) {
    stage.add(&format!("services: {{app: {{deploy: {{{deploy}}}}}}}"));
    stage.up("--scale app=6");
    stage.set("VERSION=2");
}

/// Ends some of the instances of a batch, before they are ready or after.
fn kill_some(stage: &Stage, deploy: &mut Running, batch: usize, count: usize) {
    let names = deploy.names("started", batch);
    assert!(names.len() >= count, "batch {batch} is {names:?}");
    signal(stage, "KILL", &names[..count]);
}

fn signal(stage: &Stage, name: &str, instances: &[String]) {
    let names: Vec<String> = instances.iter().map(|i| format!("{}-{i}", stage.project)).collect();
    stage.docker(&format!("kill -s {name} {}", names.join(" ")));
}

/// How many of each version run.
fn versions(stage: &Stage) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for container in stage.service("app") {
        assert_eq!(container.state, "running", "{container:?}");
        *counts.entry(container.version).or_default() += 1;
    }
    counts
}

fn expect_versions(stage: &Stage, expected: &[(&str, usize)]) {
    let expected = expected.iter().map(|(version, n)| (version.to_string(), *n)).collect();
    assert_eq!(versions(stage), expected);
    assert_eq!(stage.marks(), "");
    stage.wait_until_all_answer();
}

/// The first words of what was said, of those that are asked for.
fn order<'r>(ran: &'r Ran, words: &[&str]) -> Vec<&'r str> {
    let said = ran.stderr.lines().filter_map(|l| l.split_whitespace().nth(1));
    said.filter(|w| words.contains(w)).collect()
}

/// What was said of instances, a line each.
fn lines<'r>(ran: &'r Ran, verb: &str) -> Vec<&'r str> {
    ran.stderr.lines().filter_map(|l| l.split_once(&format!("s  {verb} "))).map(|(_, names)| names).collect()
}

const BACK: &str = "update_config: {parallelism: 2, monitor: 1ms, failure_action: rollback}";

/// The first batch fails before it is ready: nobody notices, and what served is not touched.
fn leaves_what_served(stage: &Stage, settings: &str, words: &str) {
    six(stage, BACK);
    let before = stage.containers();
    stage.set(settings);
    let (ran, answers) = stage.deploy_under_load("", words);
    ran.exits(3).says("served before and still serve");
    answers.all_from(&["1"]);
    assert_eq!(stage.containers(), before);
    assert_eq!(lines(&ran, "created").len(), 1, "only one batch is tried");
    expect_versions(stage, &[("1", 6)]);
}

#[test]
fn a_first_batch_that_is_never_ready_leaves_all_that_served() {
    leaves_what_served(&Stage::scale("upunready"), "STATUS=503", "app --health-deadline 2s");
}

#[test]
fn a_first_batch_that_exits_leaves_all_that_served_behind_haproxy_too() {
    leaves_what_served(&Stage::haproxy("upexits"), "LISTEN_AFTER=60 EXIT_AFTER=0.3", "app");
}

/// The second batch fails: those that the first one had replaced start again, one by one as `rollback_config` says.
fn brings_the_first_batch_back(stage: &Stage) {
    six(stage, &format!("{BACK}, rollback_config: {{parallelism: 1}}"));
    let before = stage.ids("app");
    stage.set(WARM);
    let load = stage.start_load("");
    let mut deploy = stage.start_deploy("app");
    kill_some(stage, &mut deploy, 2, 1);
    let ran = deploy.end();
    ran.exits(3).says("exited with code 137").says("served before and still serve");
    load.end().all_from(&["1", "2"]);
    assert_eq!(stage.ids("app"), before);
    let started = lines(&ran, "started");
    assert_eq!(started[2..].iter().map(|l| l.split(", ").count()).collect::<Vec<_>>(), [1, 1], "{started:?}");
    expect_versions(stage, &[("1", 6)]);
}

#[test]
fn a_second_batch_that_fails_brings_the_first_back_as_rollback_config_says() {
    brings_the_first_batch_back(&Stage::scale("upsecond"));
}

#[test]
fn a_second_batch_that_fails_brings_the_first_back_behind_haproxy_too() {
    brings_the_first_batch_back(&Stage::haproxy("upsecondha"));
}

const PAUSE: &str = "update_config: {parallelism: 2, monitor: 1ms}";

/// The second batch fails, and two new instances serve beside four old ones.
fn pauses<'s>(stage: &'s Stage) -> Load<'s> {
    six(stage, PAUSE);
    stage.set(WARM);
    let load = stage.start_load("");
    let mut deploy = stage.start_deploy("app");
    kill_some(stage, &mut deploy, 2, 1);
    deploy.end().exits(3).says("paused: 2 of 6 instances are of release").says("--resume");
    expect_versions(stage, &[("1", 4), ("2", 2)]);
    load
}

#[test]
fn a_rollout_that_pauses_is_finished_by_resume_and_nothing_is_left_to_resume() {
    let stage = Stage::scale("upresume");
    let load = pauses(&stage);
    stage.deploy("--resume").exits(0);
    load.end().all_from(&["1", "2"]);
    stage.expect_release("app", 6, "2");
    stage.deploy("--resume").exits(2).says("no rollout of this project is paused").says("compose-zd deploy");
}

#[test]
fn a_rollout_that_pauses_is_undone_by_rollback() {
    let stage = Stage::scale("upback");
    let load = pauses(&stage);
    stage.rollback("").exits(0);
    load.end().all_from(&["1", "2"]);
    stage.expect_release("app", 6, "1");
    stage.deploy("--resume").exits(2);
}

#[test]
fn a_third_version_replaces_both_of_a_rollout_that_pauses() {
    let stage = Stage::scale("upthird");
    let load = pauses(&stage);
    stage.set("VERSION=3 WARMUP=0");
    stage.deploy("app").exits(0);
    load.end().all_from(&["1", "2", "3"]);
    stage.expect_release("app", 6, "3");
}

#[test]
fn the_same_deploy_again_finishes_what_paused() {
    let stage = Stage::haproxy("upsame");
    let load = pauses(&stage);
    stage.deploy("app").exits(0);
    load.end().all_from(&["1", "2"]);
    stage.expect_release("app", 6, "2");
}

#[test]
fn a_rollout_that_continues_leaves_an_old_one_for_each_that_fails_and_the_next_deploy_replaces_it() {
    let stage = Stage::scale("upgoon");
    six(&stage, "update_config: {parallelism: 3, monitor: 1ms, failure_action: continue}");
    stage.set(WARM);
    let load = stage.start_load("");
    let mut deploy = stage.start_deploy("app");
    kill_some(&stage, &mut deploy, 1, 1);
    kill_some(&stage, &mut deploy, 2, 1);
    deploy.end().exits(0).says("warning: 1 of 6 new instances").says("warning: 2 of 6 new instances");
    expect_versions(&stage, &[("1", 2), ("2", 4)]);
    stage.deploy("app").exits(0);
    load.end().all_from(&["1", "2"]);
    stage.expect_release("app", 6, "2");
}

#[test]
fn a_rollout_that_continues_and_of_which_all_fail_is_no_success() {
    let stage = Stage::scale("upall");
    six(&stage, "update_config: {parallelism: 3, monitor: 1ms}");
    let before = stage.containers();
    stage.set("STATUS=503 COMPOSE_ZD_UPDATE_FAILURE_ACTION=continue");
    let (ran, answers) = stage.deploy_under_load("", "app --health-deadline 2s");
    ran.exits(3).says("warning: 3 of 6 new instances");
    answers.all_from(&["1"]);
    assert_eq!(stage.containers(), before);
    expect_versions(&stage, &[("1", 6)]);
}

/// A third of six may fail: one fails of each of this many batches. As with Swarm a batch is filled up when one of it
/// has failed, so that those after the first start one instance each.
fn tolerates(name: &str, killed: usize) -> (Stage, Ran) {
    let stage = Stage::scale(name);
    six(
        &stage,
        "update_config: {parallelism: 3, monitor: 1ms, failure_action: rollback, max_failure_ratio: 0.34}",
    );
    stage.set(WARM);
    let load = stage.start_load("");
    let mut deploy = stage.start_deploy("app");
    (1..=killed).for_each(|batch| kill_some(&stage, &mut deploy, batch, 1));
    let ran = deploy.end();
    load.end().all_until("1");
    (stage, ran)
}

#[test]
fn as_many_as_max_failure_ratio_says_may_fail() {
    let (stage, ran) = tolerates("upratio", 2);
    ran.exits(0).says("2 of 6 new instances of `app` failed, which may be");
    expect_versions(&stage, &[("1", 2), ("2", 4)]);
}

#[test]
fn one_more_than_max_failure_ratio_says_is_too_many() {
    let (stage, ran) = tolerates("upmore", 3);
    ran.exits(3).says("served before and still serve");
    expect_versions(&stage, &[("1", 6)]);
}

#[test]
fn an_instance_that_crashes_within_the_monitor_brings_all_that_served_back() {
    let stage = Stage::scale("upcrash");
    six(&stage, "update_config: {parallelism: 6, monitor: 4s, failure_action: rollback}");
    let before = stage.ids("app");
    stage.set("EXIT_AFTER=1.5");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(3).says("failed after it was ready: it exited with code 1");
    eprintln!("{} requests lost to instances that died while they served", answers.lost());
    assert_eq!(stage.ids("app"), before);
    expect_versions(&stage, &[("1", 6)]);
}

#[test]
fn an_instance_that_stops_answering_within_the_monitor_brings_all_that_served_back() {
    let stage = Stage::scale("upsilent");
    six(&stage, "update_config: {parallelism: 3, monitor: 20s}");
    let before = stage.ids("app");
    let load = stage.start_load("");
    let words = "--health-path /health --health-timeout 500ms --drain-timeout 20s";
    let mut deploy = stage.start_deploy(&format!("app --update-failure-action rollback {words}"));
    deploy.wait_for("watching ");
    let silent = &deploy.names("started", 2)[..1];
    signal(&stage, "STOP", silent);
    deploy.wait_for("going back");
    signal(&stage, "CONT", silent);
    deploy.end().exits(3).says("it stopped answering as ready").says("no answer in time");
    load.end().all_from(&["1", "2"]);
    assert_eq!(stage.ids("app"), before);
    expect_versions(&stage, &[("1", 6)]);
}

#[test]
fn an_instance_that_dies_after_its_monitor_does_not_end_the_rollout() {
    let stage = Stage::scale("upafter");
    six(&stage, "update_config: {parallelism: 3, delay: 3s, monitor: 100ms, failure_action: rollback}");
    let load = stage.start_load("");
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for("waiting 3.0s before the next batch");
    wait_until("the monitor is over", LONG, {
        let now = std::time::Instant::now();
        move || now.elapsed().as_millis() > 1000
    });
    kill_some(&stage, &mut deploy, 1, 1);
    deploy.end().exits(0).says("no longer runs");
    eprintln!("{} requests lost to an instance that was killed while it served", load.end().lost());
    assert_eq!(stage.states("app").iter().filter(|s| *s == "running 2").count(), 5);
    assert_eq!(stage.states("app").len(), 6);
}

/// Interrupted when it has said this, with some batches done.
fn goes_back_when_interrupted(name: &str, update: &str, line: &str) -> Ran {
    let stage = Stage::scale(name);
    six(&stage, update);
    let before = stage.ids("app");
    let load = stage.start_load("");
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for(line);
    deploy.signal("INT");
    let ran = deploy.end();
    ran.exits(130).says("going back").says("served before and still serve");
    load.end().all_from(&["1", "2"]);
    assert_eq!(stage.ids("app"), before);
    expect_versions(&stage, &[("1", 6)]);
    ran
}

#[test]
fn an_interrupt_between_two_batches_brings_all_that_served_back() {
    let update = "update_config: {parallelism: 2, delay: 30s, monitor: 1ms}";
    goes_back_when_interrupted("upintdelay", update, "waiting 30.0s before the next batch");
}

#[test]
fn an_interrupt_within_the_monitor_brings_all_that_served_back() {
    let update = "update_config: {parallelism: 3, delay: 1s, monitor: 30s}";
    let ran = goes_back_when_interrupted("upintwatch", update, "watching ");
    let said = order(&ran, &["created", "stopped", "waiting", "watching", "going"]);
    assert_eq!(said[..6], ["created", "stopped", "waiting", "created", "watching", "going"]);
}

/// Instances that nginx sends requests to; the last good configuration is what it runs.
fn listed(stage: &Stage) -> usize {
    let file = stage.in_proxy(&["cat", "/etc/nginx/conf.d/default.conf"]);
    file.lines()
        .filter(|l| l.trim().starts_with("server ") && l.contains(":3000") && !l.contains("down"))
        .count()
}

/// Replaced stop-first in batches of two, with an eye on how many there are; this many of the second batch are ended.
fn stops_first(name: &str, killed: usize) -> (Stage, Ran) {
    let stage = Stage::scale(name);
    six(&stage, "update_config: {parallelism: 2, monitor: 1ms, order: stop-first, failure_action: rollback}");
    stage.set(WARM);
    let load = stage.start_load("");
    let mut deploy = stage.start_deploy("app");
    let mut fewest = listed(&stage);
    let mut to_kill = killed;
    while deploy.runs() {
        if to_kill > 0 && deploy.said("started").len() == 2 {
            kill_some(&stage, &mut deploy, 2, std::mem::take(&mut to_kill));
        }
        fewest = fewest.min(listed(&stage));
    }
    assert!(fewest >= 4, "{fewest} instances were in rotation");
    load.end().all_from(&["1", "2"]);
    let ran = deploy.end();
    (stage, ran)
}

#[test]
fn stop_first_never_takes_more_than_a_batch_out() {
    let (stage, ran) = stops_first("upstop", 0);
    ran.exits(0);
    assert_eq!(order(&ran, &["created", "stopped"]), ["stopped", "created"].repeat(3));
    stage.expect_release("app", 6, "2");
}

#[test]
fn stop_first_goes_back_without_taking_more_than_a_batch_out() {
    let (stage, ran) = stops_first("upstopback", 1);
    ran.exits(3).says("served before and still serve");
    expect_versions(&stage, &[("1", 6)]);
}

#[test]
fn a_rollback_that_fails_pauses_and_is_never_rolled_back() {
    let stage = Stage::scale("upnever");
    stage.set(WARM);
    six(&stage, "rollback_config: {parallelism: 3, monitor: 1ms, failure_action: rollback}");
    stage.set("WARMUP=0");
    stage.deploy("app").exits(0);
    let load = stage.start_load("");
    let mut back = stage.start_rollback("");
    kill_some(&stage, &mut back, 2, 1);
    back.end().exits(3).says("the rollback is paused: 3 of 6").never_says("going back");
    expect_versions(&stage, &[("1", 3), ("2", 3)]);
    stage.deploy("--resume").exits(0);
    load.end().all_from(&["1", "2"]);
    stage.expect_release("app", 6, "1");
}

/// Killed when it has said this, it is over with the next deploy.
fn survives_a_kill_after(name: &str, update: &str, line: &str) {
    let stage = Stage::scale(name);
    six(&stage, update);
    let load = stage.start_load("");
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for(line);
    deploy.kill();
    stage.ask("/").expect("the service goes on");
    stage.set("VERSION=3");
    stage.deploy("app --update-delay 0s --update-monitor 0s").exits(0);
    load.end().all_from(&["1", "2", "3"]);
    stage.expect_release("app", 6, "3");
}

#[test]
fn a_kill_between_two_batches_is_survived() {
    let update = "update_config: {parallelism: 2, delay: 30s, monitor: 1ms}";
    survives_a_kill_after("upkdelay", update, "waiting 30.0s before the next batch");
}

#[test]
fn a_kill_within_the_monitor_is_survived() {
    survives_a_kill_after("upkwatch", "update_config: {parallelism: 3, monitor: 30s}", "watching ");
}

/// Both sides of a pair are watched.
const PAIR: &str = "services: {service_a: &s {deploy: {update_config: \
                    {monitor: 30s, failure_action: rollback}}}, service_b: *s}";

#[test]
fn a_side_that_dies_within_the_monitor_brings_both_back() {
    let stage = Stage::pair("uppair");
    stage.add(PAIR);
    stage.up("");
    stage.set("VERSION=2");
    stage.deploy("service --update-monitor 1s").exits(0);
    let before = (stage.ids("service_a"), stage.ids("service_b"));
    stage.set("VERSION=3 EXIT_AFTER=2");
    let (ran, answers) = stage.deploy_under_load("", "service");
    ran.exits(3).says("failed after it was ready");
    eprintln!("{} requests lost to a side that died while it served", answers.lost());
    assert_eq!((stage.ids("service_a"), stage.ids("service_b")), before);
    stage.expect_release("service_a", 1, "2");
    stage.expect_release("service_b", 1, "2");
}

#[test]
fn an_idle_side_that_dies_within_the_monitor_leaves_the_active_one_serving() {
    let stage = Stage::one_side("upidle");
    stage.add(PAIR);
    let active = stage.ids("service_a");
    stage.set("VERSION=2");
    let load = stage.start_load("");
    let mut deploy = stage.start_deploy("service");
    deploy.wait_for("watching ");
    let new = deploy.names("started", 1);
    signal(&stage, "KILL", &new);
    deploy.end().exits(3).says("failed after it was ready");
    eprintln!("{} requests lost to a side that was killed while it served", load.end().lost());
    assert_eq!(stage.ids("service_a"), active);
    assert_eq!(stage.states("service_a"), ["running 1"]);
    stage.expect_version("1");
    assert_eq!(stage.marks(), "");
}
