//! Fault injection: kills parts of a deploy under load at every step and at random times. The next run must leave one release
//! and nothing else. `scripts/chaos` runs all cases and prints a table.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use crate::cli_runner::{CommandResult, RunningCommand};
use crate::test_project::{TestProject, WAIT_LIMIT, wait_for_instant};

/// Output of a deploy after each step.
const MILESTONES: [&str; 8] = [
    "created app-",
    "started app-",
    "is ready",
    "in rotation: app-",
    "draining app-",
    "in flight",
    "stopped app-",
    "removed app-",
];

/// Longer than a deploy takes on a busy machine, so that some faults come after its end.
const DEPLOY_TIME: Duration = Duration::from_secs(4);

/// Target of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// compose-zd gets a signal.
    Tool(&'static str),
    /// compose-zd gets SIGINT twice.
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

/// Time of a fault.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// After this output of the deploy.
    After(&'static str),
    /// This long after the start of the deploy.
    At(Duration),
}

/// The run after the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FollowUp {
    Deploy,
    NewVersion,
    Rollback,
    Recover,
}

const FOLLOW_UPS: [FollowUp; 4] =
    [FollowUp::Deploy, FollowUp::NewVersion, FollowUp::Rollback, FollowUp::Recover];

/// Result of one case.
struct ChaosResult {
    victim: Victim,
    moment: Moment,
    next: FollowUp,
    /// Exit code of the failed run; none if a signal ended it.
    code: Option<i32>,
    next_code: Option<i32>,
    lost: u64,
    left: Vec<String>,
}

/// A project whose version grows with each deploy.
struct ChaosTarget {
    project: TestProject,
    count: usize,
    version: Cell<u32>,
}

impl ChaosTarget {
    /// Deploys once, so that a release for rollbacks exists.
    fn new(project: TestProject, count: usize) -> ChaosTarget {
        project.up(&format!("--scale app={count}"));
        let target = ChaosTarget { project, count, version: Cell::new(1) };
        target.next_version();
        target.project.deploy("app").exits(0);
        target
    }

    fn next_version(&self) {
        self.version.set(self.version.get() + 1);
        self.project.set_variables(&format!("VERSION={}", self.version.get()));
    }

    /// Logs the promise that the next steps test.
    fn log_promise(&self, promise: &str) {
        self.project.log(&format!("==== {promise}"));
    }

    /// Asserts that this release exists, and nothing else.
    fn expect_version(&self, version: u32) {
        assert_eq!(self.leftovers(), Vec::<String>::new());
        self.project.expect_release("app", self.count, &version.to_string());
    }

    fn strike(&self, victim: Victim, moment: Moment, next: FollowUp) -> ChaosResult {
        self.next_version();
        let load = self.project.start_load("--rate 150 --seconds 300");
        let old = self.project.ids("app");
        // An instance that is ready at once would be in rotation before the fault.
        let before_it_is_ready = matches!(victim, Victim::NewInstance | Victim::PausedNew);
        self.project.set_variables(if before_it_is_ready { "WARMUP=3" } else { "WARMUP=0" });
        let mut deploy = self.project.start_deploy("app");
        wait_for_moment(&mut deploy, moment);
        self.kill(victim, &mut deploy, &old);
        let code = deploy.wait_unchecked().code;
        self.project.set_variables("WARMUP=0");
        self.unpause();
        if victim == Victim::ProxyKilled {
            self.project.compose("up -d --no-recreate proxy");
        }
        let next_code = self.follow_up(next).code;
        let lost = load.stop().lost();
        let left = self.leftovers();
        ChaosResult { victim, moment, next, code, next_code, lost, left }
    }

    fn follow_up(&self, next: FollowUp) -> CommandResult {
        match next {
            FollowUp::Deploy => self.project.deploy("app"),
            FollowUp::NewVersion => {
                self.next_version();
                self.project.deploy("app")
            }
            FollowUp::Rollback => self.project.rollback("app"),
            FollowUp::Recover => self.project.start("recover").wait(),
        }
    }

    fn kill(&self, victim: Victim, deploy: &mut RunningCommand, old: &BTreeSet<String>) {
        let project = &self.project;
        let pick = |new: bool| {
            let all = project.service_containers("app").into_iter().filter(|c| c.state == "running");
            all.map(|c| c.id).find(|id| old.contains(id) != new).unwrap_or_default()
        };
        // A target that does not exist yet or any more is not hit.
        let on = |verb: &str, id: String| {
            drop((!id.is_empty()).then(|| project.try_docker(&format!("{verb} {id}"))))
        };
        match victim {
            Victim::Tool(signal) => deploy.try_signal(signal),
            Victim::ToolTwice => {
                deploy.try_signal("INT");
                let now = Instant::now();
                wait_for_instant("a moment", WAIT_LIMIT, || now.elapsed() > Duration::from_millis(50));
                deploy.try_signal("INT");
            }
            Victim::Child => deploy.kill_children(),
            Victim::NewInstance => on("kill", pick(true)),
            Victim::OldInstance => on("kill", pick(false)),
            Victim::PausedNew => on("pause", pick(true)),
            Victim::PausedOld => on("pause", pick(false)),
            Victim::ProxyKilled => on("kill", project.proxy().id),
            Victim::ProxyRestarted => on("restart -t 1", project.proxy().id),
            Victim::DockerGen => drop(project.exec_in_proxy(&["pkill", "-9", "docker-gen"])),
        }
    }

    fn unpause(&self) {
        let paused = self.project.service_containers("app").into_iter().filter(|c| c.state == "paused");
        paused.for_each(|c| drop(self.project.try_docker(&format!("unpause {}", c.id))));
    }

    /// Everything besides one release in rotation.
    fn leftovers(&self) -> Vec<String> {
        let project = &self.project;
        let mut left = Vec::new();
        let states = project.states("app");
        let versions: BTreeSet<&String> = states.iter().collect();
        if states.len() != self.count || versions.len() != 1 || !states[0].starts_with("running ") {
            left.push(format!("instances: {}", states.join(", ")));
        }
        let marks = project.marks();
        if !marks.is_empty() {
            left.push(format!("marks: {marks}"));
        }
        let locks = project.docker(&format!("volume ls -q --filter name=compose-zd.{}.", project.name));
        if !locks.is_empty() {
            left.push(format!("locks: {locks}"));
        }
        if project.path(&format!(".compose-zd/{}/wanted.json", project.name)).exists() {
            left.push("wanted.json".into());
        }
        let tags = project.release_tags();
        let images: BTreeSet<String> = project.keepers().into_iter().collect();
        if tags.len() > 6 || images.len() > 6 {
            left.push(format!("tags: {tags:?}, keepers: {images:?}"));
        }
        if left.is_empty() {
            project.wait_until_all_answer();
        }
        left
    }
}

fn wait_for_moment(deploy: &mut RunningCommand, moment: Moment) {
    let start = Instant::now();
    match moment {
        Moment::At(time) => wait_for_instant("the moment", WAIT_LIMIT, || start.elapsed() >= time),
        // The fault comes after the end of a run that has ended already.
        Moment::After(text) => {
            wait_for_instant("a step", WAIT_LIMIT, || deploy.stderr().contains(text) || !deploy.is_running());
        }
    }
}

/// Reproducible random cases from a seed.
struct RandomCases(fastrand::Rng);

impl RandomCases {
    fn moment(&mut self) -> Moment {
        Moment::At(DEPLOY_TIME.mul_f64(self.0.f64()))
    }

    fn follow_up(&mut self) -> FollowUp {
        FOLLOW_UPS[self.0.usize(..FOLLOW_UPS.len())]
    }

    fn signal(&mut self) -> Victim {
        [Victim::Tool("KILL"), Victim::Tool("INT"), Victim::Tool("TERM"), Victim::ToolTwice, Victim::Child]
            [self.0.usize(..5)]
    }
}

impl ChaosResult {
    /// The case ended as promised. No request may be lost if only compose-zd or a new instance was hit.
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

impl std::fmt::Display for ChaosResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ChaosResult { victim, moment, next, lost, left, .. } = self;
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
    let target = ChaosTarget::new(TestProject::nginx_proxy("chaosnginx"), 1);
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
        target.strike(victim, Moment::After(step), FOLLOW_UPS[n % FOLLOW_UPS.len()]).expect();
    }
}

#[test]
fn of_six_deploys_at_once_one_works_at_a_time_and_a_blocked_output_costs_nothing() {
    let target = ChaosTarget::new(TestProject::nginx_proxy("chaosothers"), 1);
    let project = &target.project;

    target.log_promise("of six deploys at once one works at a time, and one release remains");
    target.next_version();
    let load = project.start_load("--rate 100 --seconds 300");
    let runs: Vec<RunningCommand> =
        (0..6).map(|n| project.start_deploy(if n < 3 { "app" } else { "app --wait" })).collect();
    let codes: Vec<Option<i32>> = runs.into_iter().map(|run| run.wait_unchecked().code).collect();
    assert_eq!(load.stop().lost(), 0);
    assert!(codes[3..].iter().all(|c| *c == Some(0)), "those that wait: {codes:?}");
    assert!(codes[..3].iter().all(|c| matches!(c, Some(0 | 5))), "those that do not: {codes:?}");
    target.expect_version(3);

    target.log_promise("a state folder that cannot be written changes nothing");
    target.next_version();
    let before = project.containers();
    fs::create_dir(project.path("state")).expect("a folder");
    for options in ["ro", "size=4k,nr_inodes=2"] {
        let mounted = Mount::tmpfs(project, options);
        let result = project.deploy("app --state-dir state");
        drop(mounted);
        result.exits(1).says("state");
        assert_eq!(project.containers(), before);
    }

    target.log_promise("a deploy continues when its output is not read");
    let load = project.start_load("--seconds 300");
    let mut command = project.compose_zd();
    command.args(["-p", &project.name, "deploy", "app", "-v"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("compose-zd can be started");
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().expect("a child").code(), Some(0));
    load.stop().all_from(&["3", "4"]);
    target.expect_version(4);

    target.log_promise("a second interrupt exits at once, and the next run recovers");
    target.next_version();
    // The rollback takes longer than the second signal: its instances use their whole stop grace period.
    project.set_variables("WARMUP=60 STOP=ignore");
    let load = project.start_load("--seconds 300");
    let mut deploy = project.start_deploy("app");
    deploy.wait_for("started app-");
    deploy.signal("INT");
    deploy.wait_for("rolling back");
    deploy.signal("INT");
    let result = deploy.wait_unchecked();
    assert_eq!(result.code, Some(130), "{}", result.stderr);
    result.says("ending at once").says("recover");
    project.start("status app").wait().exits(0).says("is unfinished, because its run was killed");
    project.rollback("app").exits(0);
    load.stop().all_from(&["4"]);
    target.expect_version(4);
}

/// A separate file system at the state folder.
struct Mount<'s>(&'s TestProject);

impl Mount<'_> {
    fn tmpfs<'s>(project: &'s TestProject, options: &str) -> Mount<'s> {
        let mut mount = project.command("mount");
        let done = mount.args(["-t", "tmpfs", "-o", options, "zd", "state"]).status();
        assert!(done.is_ok_and(|status| status.success()), "mount: it takes root");
        Mount(project)
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = self.0.command("umount").arg("state").status();
    }
}

/// Runs all cases and prints a table.
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
        // Two cases may run at a time.
        let name = format!("chaos{seed}");
        let project = match proxy {
            "haproxy" => TestProject::haproxy(&name),
            _ => TestProject::nginx_proxy(&name),
        };
        let target = ChaosTarget::new(project, 2);
        let mut random = RandomCases(fastrand::Rng::with_seed(seed));
        let mut strikes: Vec<(Victim, Moment)> = Vec::new();
        let tools = [
            Victim::Tool("KILL"),
            Victim::Tool("INT"),
            Victim::Tool("TERM"),
            Victim::Tool("HUP"),
            Victim::ToolTwice,
            Victim::Child,
        ];
        strikes.extend(MILESTONES.iter().flat_map(|s| tools.map(|v| (v, Moment::After(s)))));
        let others = [
            Victim::NewInstance,
            Victim::OldInstance,
            Victim::ProxyKilled,
            Victim::ProxyRestarted,
            Victim::PausedNew,
            Victim::PausedOld,
        ];
        strikes.extend(MILESTONES[1..5].iter().flat_map(|s| others.map(|v| (v, Moment::After(s)))));
        if proxy == "nginx-proxy" {
            strikes.extend(MILESTONES.iter().map(|s| (Victim::DockerGen, Moment::After(s))));
        }
        strikes.extend((0..kills).map(|_| (random.signal(), random.moment())));
        // Only some cases, as with `PausedOld`.
        let only = std::env::var("ZD_CHAOS_ONLY").unwrap_or_default();
        strikes.retain(|(victim, _)| format!("{victim:?}").contains(&only));
        for (victim, moment) in strikes {
            let row = target.strike(victim, moment, random.follow_up());
            eprintln!("{row}{}", if row.is_as_promised() { "" } else { "  <-- not as promised" });
            if !row.is_as_promised() {
                eprintln!("{}", target.project.last_log_entries(3));
            }
            rows.push(row);
        }
    }
    let broken: Vec<&ChaosResult> = rows.iter().filter(|r| !r.is_as_promised()).collect();
    let lost: u64 = rows.iter().map(|r| r.lost).sum();
    eprintln!("\n{} faults, {lost} requests lost in all, {} not as promised", rows.len(), broken.len());
    assert!(broken.is_empty(), "not as promised");
}
