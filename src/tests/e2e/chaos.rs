//! Faults: a deploy under load is hit at every step and at random instants, and whatever was hit, the next run leaves one
//! release and nothing else. `scripts/chaos` runs all of it and prints a table.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use crate::cli_runner::{Ran, Running};
use crate::test_project::{LONG, Stage, wait_closely};

/// What a deploy says when it has done a step.
const STEPS: [&str; 8] = [
    "created app-",
    "started app-",
    "is ready",
    "in rotation: app-",
    "draining app-",
    "in flight",
    "stopped app-",
    "removed app-",
];

/// Longer than a deploy takes on a busy machine, so that some faults come when it is over.
const A_DEPLOY: Duration = Duration::from_secs(4);

/// What is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// compose-zd, by a signal.
    Tool(&'static str),
    /// compose-zd, by SIGINT and once more.
    ToolTwice,
    /// The docker client that compose-zd waits for.
    Child,
    NewInstance,
    OldInstance,
    ProxyKilled,
    ProxyRestarted,
    DockerGen,
    PausedNew,
    PausedOld,
}

/// When.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// It has said this.
    After(&'static str),
    /// So long after its start.
    At(Duration),
}

/// The run that comes after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Deploy,
    NewVersion,
    Rollback,
    Recover,
}

const NEXT: [Next; 4] = [Next::Deploy, Next::NewVersion, Next::Rollback, Next::Recover];

/// What became of one of them.
struct Row {
    victim: Victim,
    moment: Moment,
    next: Next,
    /// Of the run that was hit; none where a signal ended it.
    code: Option<i32>,
    next_code: Option<i32>,
    lost: u64,
    left: Vec<String>,
}

/// A project whose versions go up.
struct Target {
    stage: Stage,
    count: usize,
    version: Cell<u32>,
}

impl Target {
    /// Deployed once, so that there is a release to go back to.
    fn new(stage: Stage, count: usize) -> Target {
        stage.up(&format!("--scale app={count}"));
        let target = Target { stage, count, version: Cell::new(1) };
        target.next_version();
        target.stage.deploy("app").exits(0);
        target
    }

    fn next_version(&self) {
        self.version.set(self.version.get() + 1);
        self.stage.set(&format!("VERSION={}", self.version.get()));
    }

    /// The next promise of a test, for one that fails.
    fn promises(&self, promise: &str) {
        self.stage.tell(&format!("==== {promise}"));
    }

    /// One release is there, and nothing else.
    fn expect(&self, version: u32) {
        assert_eq!(self.left(), Vec::<String>::new());
        self.stage.expect_release("app", self.count, &version.to_string());
    }

    fn strike(&self, victim: Victim, moment: Moment, next: Next) -> Row {
        self.next_version();
        let load = self.stage.start_load("--rate 150 --seconds 300");
        let old = self.stage.ids("app");
        // One that is ready at once is in rotation, too, before it can be hit.
        let before_it_is_ready = matches!(victim, Victim::NewInstance | Victim::PausedNew);
        self.stage.set(if before_it_is_ready { "WARMUP=3" } else { "WARMUP=0" });
        let mut deploy = self.stage.start_deploy("app");
        wait_for(&mut deploy, moment);
        self.hit(victim, &mut deploy, &old);
        let code = deploy.end_whatever().code;
        self.stage.set("WARMUP=0");
        self.unpause();
        if victim == Victim::ProxyKilled {
            self.stage.compose("up -d --no-recreate proxy");
        }
        let next_code = self.after(next).code;
        let lost = load.end().lost();
        let left = self.left();
        Row { victim, moment, next, code, next_code, lost, left }
    }

    fn after(&self, next: Next) -> Ran {
        match next {
            Next::Deploy => self.stage.deploy("app"),
            Next::NewVersion => {
                self.next_version();
                self.stage.deploy("app")
            }
            Next::Rollback => self.stage.rollback("app"),
            Next::Recover => self.stage.start("recover").end(),
        }
    }

    fn hit(&self, victim: Victim, deploy: &mut Running, old: &BTreeSet<String>) {
        let stage = &self.stage;
        let pick = |new: bool| {
            let all = stage.service("app").into_iter().filter(|c| c.state == "running");
            all.map(|c| c.id).find(|id| old.contains(id) != new).unwrap_or_default()
        };
        // What is not there any more, or not yet, cannot be hit.
        let on = |verb: &str, id: String| {
            drop((!id.is_empty()).then(|| stage.try_docker(&format!("{verb} {id}"))))
        };
        match victim {
            Victim::Tool(signal) => deploy.try_signal(signal),
            Victim::ToolTwice => {
                deploy.try_signal("INT");
                let now = Instant::now();
                wait_closely("a moment", LONG, || now.elapsed() > Duration::from_millis(50));
                deploy.try_signal("INT");
            }
            Victim::Child => deploy.kill_children(),
            Victim::NewInstance => on("kill", pick(true)),
            Victim::OldInstance => on("kill", pick(false)),
            Victim::PausedNew => on("pause", pick(true)),
            Victim::PausedOld => on("pause", pick(false)),
            Victim::ProxyKilled => on("kill", stage.proxy().id),
            Victim::ProxyRestarted => on("restart -t 1", stage.proxy().id),
            Victim::DockerGen => drop(stage.in_proxy(&["pkill", "-9", "docker-gen"])),
        }
    }

    fn unpause(&self) {
        let paused = self.stage.service("app").into_iter().filter(|c| c.state == "paused");
        paused.for_each(|c| drop(self.stage.try_docker(&format!("unpause {}", c.id))));
    }

    /// Everything that is not one release in rotation.
    fn left(&self) -> Vec<String> {
        let stage = &self.stage;
        let mut left = Vec::new();
        let states = stage.states("app");
        let versions: BTreeSet<&String> = states.iter().collect();
        if states.len() != self.count || versions.len() != 1 || !states[0].starts_with("running ") {
            left.push(format!("instances: {}", states.join(", ")));
        }
        let marks = stage.marks();
        if !marks.is_empty() {
            left.push(format!("marks: {marks}"));
        }
        let locks = stage.docker(&format!("volume ls -q --filter name=compose-zd.{}.", stage.project));
        if !locks.is_empty() {
            left.push(format!("locks: {locks}"));
        }
        if stage.path(&format!(".compose-zd/{}/wanted.json", stage.project)).exists() {
            left.push("wanted.json".into());
        }
        let tags = stage.release_tags();
        let images: BTreeSet<String> = stage.keepers().into_iter().collect();
        if tags.len() > 6 || images.len() > 6 {
            left.push(format!("tags: {tags:?}, keepers: {images:?}"));
        }
        if left.is_empty() {
            stage.wait_until_all_answer();
        }
        left
    }
}

fn wait_for(deploy: &mut Running, moment: Moment) {
    let start = Instant::now();
    match moment {
        Moment::At(time) => wait_closely("the moment", LONG, || start.elapsed() >= time),
        // A run that has ended already is hit after its end.
        Moment::After(text) => {
            wait_closely("a step", LONG, || deploy.stderr().contains(text) || !deploy.runs());
        }
    }
}

/// Random numbers that a seed gives again.
struct Random(fastrand::Rng);

impl Random {
    fn moment(&mut self) -> Moment {
        Moment::At(A_DEPLOY.mul_f64(self.0.f64()))
    }

    fn next(&mut self) -> Next {
        NEXT[self.0.usize(..NEXT.len())]
    }

    fn signal(&mut self) -> Victim {
        [Victim::Tool("KILL"), Victim::Tool("INT"), Victim::Tool("TERM"), Victim::ToolTwice, Victim::Child]
            [self.0.usize(..5)]
    }
}

impl Row {
    /// What is expected of every row; nothing is lost where only compose-zd or a new instance was hit.
    fn is_as_promised(&self) -> bool {
        let spared = !matches!(
            self.victim,
            Victim::OldInstance | Victim::ProxyKilled | Victim::ProxyRestarted | Victim::PausedOld
        );
        self.left.is_empty() && self.next_code == Some(0) && (self.lost == 0 || !spared)
    }

    fn expect(&self) {
        assert!(self.is_as_promised(), "{self}");
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Row { victim, moment, next, lost, left, .. } = self;
        let code = |code: Option<i32>| code.map_or("killed".to_string(), |c| c.to_string());
        let moment = match moment {
            Moment::After(text) => {
                format!("after `{}`", text.trim_end_matches(" app-").trim_end_matches(": app-"))
            }
            Moment::At(time) => format!("at {:.2}s", time.as_secs_f64()),
        };
        let left = if left.is_empty() { "nothing".to_string() } else { left.join("; ") };
        write!(
            f,
            "| {victim:?} | {moment} | {} | {lost} | {next:?} | {} | {left} |",
            code(self.code),
            code(self.next_code)
        )
    }
}

#[test]
fn after_any_crash_behind_nginx_proxy_the_next_run_leaves_one_release() {
    let target = Target::new(Stage::scale("chaosnginx"), 1);
    let hits = [
        (Victim::NewInstance, "started app-"),
        (Victim::OldInstance, "started app-"),
        (Victim::ProxyRestarted, "started app-"),
        (Victim::ProxyKilled, "is ready"),
        (Victim::DockerGen, "created app-"),
        (Victim::PausedNew, "started app-"),
        (Victim::Child, "created app-"),
    ];
    for (n, (victim, step)) in hits.into_iter().enumerate() {
        target.strike(victim, Moment::After(step), NEXT[n % NEXT.len()]).expect();
    }
}

#[test]
fn of_six_deploys_at_once_one_works_at_a_time_and_a_blocked_output_costs_nothing() {
    let target = Target::new(Stage::scale("chaosothers"), 1);
    let stage = &target.stage;

    target.promises("of six deploys at once one works at a time, and one release is left");
    target.next_version();
    let load = stage.start_load("--rate 100 --seconds 300");
    let runs: Vec<Running> =
        (0..6).map(|n| stage.start_deploy(if n < 3 { "app" } else { "app --wait" })).collect();
    let codes: Vec<Option<i32>> = runs.into_iter().map(|run| run.end_whatever().code).collect();
    assert_eq!(load.end().lost(), 0);
    assert!(codes[3..].iter().all(|c| *c == Some(0)), "those that wait: {codes:?}");
    assert!(codes[..3].iter().all(|c| matches!(c, Some(0 | 5))), "those that do not: {codes:?}");
    target.expect(3);

    target.promises("a state folder that cannot be written changes nothing");
    target.next_version();
    let before = stage.containers();
    fs::create_dir(stage.path("state")).expect("a folder");
    for options in ["ro", "size=4k,nr_inodes=2"] {
        let mounted = Mount::tmpfs(stage, options);
        let ran = stage.deploy("app --state-dir state");
        drop(mounted);
        ran.exits(1).says("state");
        assert_eq!(stage.containers(), before);
    }

    target.promises("a deploy whose output nobody reads goes on");
    let load = stage.start_load("--seconds 300");
    let mut command = stage.tool();
    command.args(["-p", &stage.project, "deploy", "app", "-v"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("compose-zd can be started");
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().expect("a child").code(), Some(0));
    load.end().all_from(&["3", "4"]);
    target.expect(4);

    target.promises("a second interrupt leaves at once, and the next run recovers");
    target.next_version();
    // The way back takes longer than the second signal: what it stops takes all the time it may.
    stage.set("WARMUP=60 STOP=ignore");
    let load = stage.start_load("--seconds 300");
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for("started app-");
    deploy.signal("INT");
    deploy.wait_for("going back");
    deploy.signal("INT");
    let ran = deploy.end_whatever();
    assert_eq!(ran.code, Some(130), "{}", ran.stderr);
    ran.says("leaving at once").says("recover");
    stage.start("status app").end().exits(0).says("was left half done by a run that was killed");
    stage.rollback("app").exits(0);
    load.end().all_from(&["4"]);
    target.expect(4);
}

/// A file system of its own at the state folder.
struct Mount<'s>(&'s Stage);

impl Mount<'_> {
    fn tmpfs<'s>(stage: &'s Stage, options: &str) -> Mount<'s> {
        let mut mount = stage.command("mount");
        let done = mount.args(["-t", "tmpfs", "-o", options, "zd", "state"]).status();
        assert!(done.is_ok_and(|status| status.success()), "mount: it takes root");
        Mount(stage)
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = self.0.command("umount").arg("state").status();
    }
}

/// All of it; a table comes out.
#[test]
#[ignore = "takes an hour: scripts/chaos"]
fn table() {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (seed, kills) = (number("ZD_CHAOS_SEED", 1), number("ZD_CHAOS_KILLS", 50));
    let mut rows = Vec::new();
    for proxy in ["nginx-proxy", "haproxy"] {
        eprintln!("\n{proxy}, seed {seed}");
        eprintln!("| hit | when | its exit | lost | next run | its exit | left over |");
        eprintln!("|---|---|---|---|---|---|---|");
        // Two may run at a time.
        let name = format!("chaos{seed}");
        let stage = match proxy {
            "haproxy" => Stage::haproxy(&name),
            _ => Stage::scale(&name),
        };
        let target = Target::new(stage, 2);
        let mut random = Random(fastrand::Rng::with_seed(seed));
        let mut strikes: Vec<(Victim, Moment)> = Vec::new();
        let tools = [
            Victim::Tool("KILL"),
            Victim::Tool("INT"),
            Victim::Tool("TERM"),
            Victim::Tool("HUP"),
            Victim::ToolTwice,
            Victim::Child,
        ];
        strikes.extend(STEPS.iter().flat_map(|s| tools.map(|v| (v, Moment::After(s)))));
        let others = [
            Victim::NewInstance,
            Victim::OldInstance,
            Victim::ProxyKilled,
            Victim::ProxyRestarted,
            Victim::PausedNew,
            Victim::PausedOld,
        ];
        strikes.extend(STEPS[1..5].iter().flat_map(|s| others.map(|v| (v, Moment::After(s)))));
        if proxy == "nginx-proxy" {
            strikes.extend(STEPS.iter().map(|s| (Victim::DockerGen, Moment::After(s))));
        }
        strikes.extend((0..kills).map(|_| (random.signal(), random.moment())));
        // Only some, as `PausedOld`.
        let only = std::env::var("ZD_CHAOS_ONLY").unwrap_or_default();
        strikes.retain(|(victim, _)| format!("{victim:?}").contains(&only));
        for (victim, moment) in strikes {
            let row = target.strike(victim, moment, random.next());
            eprintln!("{row}{}", if row.is_as_promised() { "" } else { "  <-- not as promised" });
            if !row.is_as_promised() {
                eprintln!("{}", target.stage.last_told(3));
            }
            rows.push(row);
        }
    }
    let broken: Vec<&Row> = rows.iter().filter(|r| !r.is_as_promised()).collect();
    let lost: u64 = rows.iter().map(|r| r.lost).sum();
    eprintln!("\n{} faults, {lost} requests lost in all, {} not as promised", rows.len(), broken.len());
    assert!(broken.is_empty(), "not as promised");
}
