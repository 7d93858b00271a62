//! The same promises behind every supported proxy: clients outside count the lost requests, and compose-zd leaves nothing in
//! the proxy.

use crate::hold;
use crate::nginx::pins;
use crate::test_project::{TestProject, WAIT_LIMIT, engine_kind, free_port, wait_until};

/// Cost of the first deploy behind a new proxy: some proxies need a reload for their setup.
#[derive(PartialEq)]
pub enum FirstRelease {
    Nothing,
    /// May lose single requests on kept connections.
    KeptConnections,
    /// May lose single requests.
    Requests,
}

/// A proxy in front of a service.
pub struct ProxySetup {
    pub project: fn(&str) -> TestProject,
    /// Number of instances of the service.
    pub count: usize,
    pub first: FirstRelease,
    /// Query for what compose-zd left in the proxy; empty between deploys.
    pub left: fn(&TestProject) -> String,
}

impl ProxySetup {
    fn up(&self, name: &str) -> TestProject {
        let project = (self.project)(name);
        project.up(&format!("--scale app={}", self.count));
        if self.first == FirstRelease::Requests {
            self.set_up(&project);
        }
        project
    }

    fn set_up(&self, project: &TestProject) {
        project.deploy("app --force").exits(0);
        project.wait_until_all_answer();
    }

    /// Asserts that only this version serves, and that nothing is left in the proxy.
    fn expect_release(&self, project: &TestProject, version: &str) {
        project.expect_release("app", self.count, version);
        assert_eq!((self.left)(project), "", "left in the proxy");
    }

    /// Deploys several releases on the same proxy, so that each deploy finds what the previous one left: a flag that outlives its
    /// instance would take a later one out of rotation.
    fn deploy_in_every_way(&self, name: &str) {
        let project = self.up(name);
        if !engine_kind().is_empty() {
            return self.deploy_on_another_engine(&project);
        }
        let proxy = project.proxy();

        project.log("--- the first deploy");
        project.set_variables("VERSION=2 STOP=abrupt");
        let load =
            if self.first == FirstRelease::Nothing { "--keep-alive --method POST --body 500" } else { "" };
        let (result, answers) = project.deploy_under_load(load, "app");
        let (sent, lost) = result.exits(0).witness_counts();
        assert!(sent > 0 && lost == 0, "the witness sent {sent} and lost {lost}");
        answers.all_from(&["1", "2"]);
        self.expect_release(&project, "2");
        // `scripts/test --quick`
        if std::env::var_os("ZD_QUICK").is_some() {
            return;
        }

        project.log("--- clients of every kind; the new instances listen late, and then warm up");
        project.set_variables("VERSION=3 LISTEN_AFTER=1 WARMUP=2");
        let load = project.start_mixed_load();
        project.deploy("app").exits(0);
        load.stop_all_from(&["2", "3"]);
        self.expect_release(&project, "3");

        project.log("--- killed before the switch, the next run finishes; an endless answer is cut at the drain timeout, which is reported");
        let load = project.start_load("");
        let stream = project.open_request("/stream?seconds=100");
        project.set_variables("VERSION=4 LISTEN_AFTER=0 WARMUP=0");
        kill_after(&project, "started app-");
        let result = project.deploy("app --drain-timeout 2s");
        // Traefik's pool may hold further connections, which had a request within the last second.
        let cut = if name == "traefik" { " in flight after 2s" } else { "1 request in flight after 2s" };
        result.exits(0).says(cut);
        load.stop().all_from(&["3", "4"]);
        drop(stream);
        self.expect_release(&project, "4");

        project.log("--- killed after the switch, the next run finishes");
        let load = project.start_load("");
        project.set_variables("VERSION=5");
        kill_after(&project, "in rotation: app-");
        project.deploy("app").exits(0);
        load.stop().all_from(&["4", "5"]);
        wait_until("nothing is left in the proxy", WAIT_LIMIT, || (self.left)(&project).is_empty());
        self.expect_release(&project, "5");

        project.log("--- a release that never gets ready");
        let before = project.containers();
        project.set_variables("VERSION=6 STATUS=500");
        let (result, answers) = project.deploy_under_load("", "app --health-deadline 3s");
        result.exits(3).says("→ 500").says("served before and still serve");
        answers.all_from(&["5"]);
        assert_eq!(project.containers(), before);
        assert_eq!((self.left)(&project), "", "left in the proxy");
        assert_eq!(project.proxy(), proxy);
    }
}

impl ProxySetup {
    /// Deploys that may differ between engines; the rest is the same code.
    fn deploy_on_another_engine(&self, project: &TestProject) {
        project.log("--- killed before the switch, `recover` finishes");
        let load = project.start_load("");
        project.set_variables("VERSION=2 STOP=abrupt");
        kill_after(project, "started app-");
        project.start("recover").wait().exits(0);
        load.stop().all_from(&["1", "2"]);
        self.expect_release(project, "2");

        project.log("--- a release that never gets ready, and a rollback");
        let before = project.containers();
        project.set_variables("VERSION=3 STATUS=500");
        let load = project.start_load("");
        project
            .deploy("app --health-deadline 3s")
            .exits(3)
            .says("→ 500")
            .says("served before and still serve");
        assert_eq!(project.containers(), before);
        project.rollback("").exits(0);
        load.stop().all_from(&["2", "1"]);
        self.expect_release(project, "1");
    }
}

/// Starts a deploy, and kills it after this output.
fn kill_after(project: &TestProject, line: &str) {
    let mut deploy = project.start_deploy("app");
    deploy.wait_for(line);
    deploy.kill();
}

/// Another version or setting of a proxy has the same hold, which is tested once.
macro_rules! behind {
    (hold, $proxy:ident, $setup:expr) => {
        #[test]
        fn an_app_that_cannot_run_twice_is_replaced_without_a_lost_request() {
            hold::replaces_without_a_loss(&$setup, &format!("{}hold", stringify!($proxy).replace('_', "")));
        }
    };
    ($proxy:ident, $setup:expr $(, $has_hold:tt)?) => {
        mod $proxy {
            use super::*;

            #[test]
            fn no_deploy_loses_a_request_even_when_killed_or_never_ready() {
                $setup.deploy_in_every_way(&stringify!($proxy).replace('_', ""));
            }

            $(behind!($has_hold, $proxy, $setup);)?
        }
    };
}

behind!(
    nginx_proxy,
    ProxySetup {
        project: TestProject::nginx_proxy,
        count: 2,
        first: FirstRelease::KeptConnections,
        left: TestProject::marks
    },
    hold
);
behind!(
    nginx,
    ProxySetup { project: TestProject::nginx, count: 2, first: FirstRelease::KeptConnections, left: pins },
    hold
);
behind!(
    apache,
    ProxySetup { project: apache_with_lookups, count: 2, first: FirstRelease::Nothing, left: pins },
    hold
);
behind!(
    apache_worker,
    ProxySetup { project: apache_worker, count: 1, first: FirstRelease::Nothing, left: pins }
);
behind!(
    haproxy,
    ProxySetup { project: TestProject::haproxy, count: 2, first: FirstRelease::Nothing, left: haproxy_flags },
    hold
);
behind!(
    haproxy_2_6,
    ProxySetup { project: haproxy_2_6, count: 2, first: FirstRelease::Nothing, left: haproxy_flags }
);
behind!(
    haproxy_line,
    ProxySetup { project: haproxy_plain, count: 1, first: FirstRelease::Nothing, left: haproxy_flags },
    hold
);
behind!(
    dockercloud,
    ProxySetup { project: dockercloud, count: 2, first: FirstRelease::Nothing, left: dockercloud_state },
    hold
);
behind!(
    caddy,
    ProxySetup { project: caddy, count: 2, first: FirstRelease::Requests, left: caddy_switches },
    hold
);
behind!(
    caddy_2_6,
    ProxySetup { project: caddy_2_6, count: 1, first: FirstRelease::Requests, left: caddy_switches }
);
behind!(
    traefik,
    ProxySetup { project: TestProject::traefik, count: 2, first: FirstRelease::Nothing, left: traefik_pins },
    hold
);

/// Apache that resolves the name for each request, and is not restarted.
fn apache_with_lookups(name: &str) -> TestProject {
    let project = TestProject::apache(name);
    project.set_variables("DISABLEREUSE=on");
    project
}

/// Apache whose retired processes keep idle clients, so that a restart loses nothing.
fn apache_worker(name: &str) -> TestProject {
    let project = TestProject::apache(name);
    project.set_variables("MPM=worker");
    project
}

fn haproxy_2_6(name: &str) -> TestProject {
    let project = TestProject::haproxy(name);
    project.set_variables(&format!("HAPROXY_IMAGE={}", project.variable("HAPROXY_OLD_IMAGE")));
    project
}

/// A plain `server` line.
pub fn haproxy_plain(name: &str) -> TestProject {
    TestProject::from_fixture(name, "haproxy-plain", &["haproxy.cfg"])
}

pub fn dockercloud(name: &str) -> TestProject {
    let project = TestProject::from_fixture(name, "haproxy-scale", &[]);
    project.set_variables(&format!("STATS_PORT={} ONLY_PROJECT={}", free_port(), project.name));
    project
}

/// Caddy with dynamic lookups, so that every instance gets a share.
pub fn caddy(name: &str) -> TestProject {
    let project = TestProject::from_fixture(name, "caddy", &["Caddyfile.dynamic"]);
    project.write("Caddyfile", &project.read("Caddyfile.dynamic"));
    project
}

/// Caddy with `reverse_proxy app:3000`: a request goes to the instance of whichever connection is free.
fn caddy_2_6(name: &str) -> TestProject {
    let project = TestProject::from_fixture(name, "caddy", &["Caddyfile"]);
    project.set_variables(&format!("CADDY_IMAGE={}", project.variable("CADDY_OLD_IMAGE")));
    project
}

/// Caddy switches that are on. The switches stay in place, and are off between deploys.
pub fn caddy_switches(project: &TestProject) -> String {
    project.exec_in_proxy(&["sh", "-c", "ls /dev/shm/compose-zd/*/on /tmp/compose-zd/*/on 2>/dev/null"])
}

/// HAProxy servers that are drained, in maintenance, or added by compose-zd.
pub fn haproxy_flags(project: &TestProject) -> String {
    let script = "use IO::Socket; my $s = IO::Socket::UNIX->new(Peer => '/tmp/haproxy.sock'); \
                  print $s \"show servers state\\n\"; print while <$s>";
    let state = project.exec_in_proxy(&["perl", "-e", script]);
    let flagged = |l: &&str| {
        let mut words = l.split(' ').skip(3);
        let is_own = words.next().is_some_and(|name| name.starts_with("compose-zd"));
        let admin = words.nth(2).and_then(|a| a.parse::<u32>().ok());
        is_own || admin.is_some_and(|a| a & 0x09 != 0)
    };
    state.lines().filter(flagged).collect()
}

/// Stopped manager process of dockercloud, if any.
pub fn dockercloud_state(project: &TestProject) -> String {
    let script = "for p in /proc/[0-9]*; do \
                  tr '\\0' ' ' < $p/cmdline | grep -q '^[^ ]*python[^ ]* [^ ]*dockercloud-haproxy' && cut -d' ' -f3 $p/stat; done";
    let states = project.exec_in_proxy(&["sh", "-c", script]);
    assert!(!states.trim().is_empty(), "there is a manager");
    states.lines().filter(|state| *state == "T").collect()
}

/// Pins of the project's routes.
pub fn traefik_pins(project: &TestProject) -> String {
    let pins = project.docker("ps --all --filter label=compose-zd.pin --format {{.Names}}");
    let start = format!("compose-zd-pin-{}-app", project.name);
    pins.lines().filter(|name| name.starts_with(&start)).map(|name| format!("{name} ")).collect()
}
