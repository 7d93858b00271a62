//! HAProxy with `server-template`: no request is lost, it is never reloaded, and no flag outlives an instance.

use crate::stage::{LONG, Stage, wait_until};

/// Two instances of version 1, replaced by version 2 while these clients are there.
fn replaces(name: &str, settings: &str, load: &str) {
    let stage = Stage::haproxy(name);
    stage.set(settings);
    stage.up("--scale app=2");
    let proxy = stage.proxy();
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load(load, "app");
    ran.exits(0).says(&format!("behind haproxy `{}-proxy-1`", stage.project));
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
    assert_eq!(flagged(&stage), 0, "slots with a flag of ours");
    assert_eq!(stage.proxy(), proxy);
}

/// How many slots are drained or in maintenance by somebody's word.
fn flagged(stage: &Stage) -> usize {
    let script = "use IO::Socket; my $s = IO::Socket::UNIX->new(Peer => '/tmp/haproxy.sock'); \
                  print $s \"show servers state\\n\"; print while <$s>";
    let mut command = stage.command("docker");
    command.args(["exec", &stage.proxy().id, "perl", "-e", script]);
    let state = String::from_utf8(command.output().expect("docker").stdout).expect("text");
    let admin = |l: &str| l.split(' ').nth(6).and_then(|a| a.parse::<u32>().ok());
    state.lines().filter_map(admin).filter(|a| a & 0x09 != 0).count()
}

#[test]
fn a_deploy_behind_haproxy_loses_no_request() {
    replaces("haget", "", "");
}

#[test]
fn an_instance_that_warms_up_gets_no_request_from_haproxy() {
    replaces("hawarm", "WARMUP=2", "--keep-alive --method POST --body 500");
}

#[test]
fn an_instance_that_listens_late_gets_no_request_from_haproxy() {
    replaces("halate", "LISTEN_AFTER=2", "");
}

#[test]
fn a_slow_post_is_answered_before_haproxy_lets_its_instance_go() {
    replaces("haslow", "SLOW=1.5 STOP=abrupt", "--method POST --body 500");
}

#[test]
fn a_release_that_never_gets_ready_leaves_haproxy_as_it_was() {
    let stage = Stage::haproxy("habroken");
    stage.up("--scale app=2");
    let before = stage.containers();
    stage.set("VERSION=2 STATUS=500");
    let (ran, answers) = stage.deploy_under_load("", "app --health-deadline 3s");
    ran.exits(3).says("→ 500").says("served before and still serve");
    answers.all_from(&["1"]);
    assert_eq!(stage.containers(), before);
    assert_eq!(flagged(&stage), 0, "slots with a flag of ours");
}

#[test]
fn a_killed_deploy_behind_haproxy_is_finished_by_the_next() {
    for (name, line) in [("hakilled", "started app-"), ("haswitched", "in rotation: app-")] {
        let stage = Stage::haproxy(name);
        stage.up("--scale app=2");
        let load = stage.start_load("");
        stage.set("VERSION=2");
        let mut deploy = stage.start_deploy("app");
        deploy.wait_for(line);
        deploy.kill();
        stage.deploy("app").exits(0);
        load.end().all_until("2");
        stage.expect_release("app", 2, "2");
        wait_until("no slot has a flag of ours", LONG, || flagged(&stage) == 0);
    }
}

/// A configuration that does not do, with what is said of it; nothing is changed by it.
fn refuses(name: &str, from: &str, to: &str, said: &str) {
    let stage = Stage::haproxy(name);
    let configuration = stage.read("haproxy.cfg");
    stage.write("haproxy.cfg", &configuration.replace(from, to));
    stage.up("--scale app=2");
    let before = stage.containers();
    stage.set("VERSION=2");
    stage.deploy("app").exits(1).says(said).says("hint: ");
    assert_eq!(stage.containers(), before);
}

#[test]
fn what_haproxy_lacks_is_said_before_anything_is_touched() {
    refuses("hasocket", "stats socket", "# stats socket", "has no `stats socket`");
    refuses("halevel", "level admin", "level operator", "is not `level admin`");
    refuses(
        "haroom",
        "app 8 app:3000",
        "app 3 app:3000",
        "has 1 free slots for `app`, and 2 instances are to start",
    );
}
