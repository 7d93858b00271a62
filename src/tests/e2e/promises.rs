//! The same promises by every proxy that there is an adapter for: what is lost is counted from outside, and nothing of
//! ours is left in the proxy.

use crate::test_project::{WAIT_LIMIT, TestProject, engine_kind, free_port, wait_until};

/// What the first deploy behind a proxy that has just started costs: some are set up by a reload of their own kind.
#[derive(PartialEq)]
enum FirstRelease {
    Nothing,
    /// A request now and then of a client that keeps its connection.
    KeptConnections,
    /// A request now and then.
    Requests,
}

/// A proxy in front of a service.
struct ProxySetup {
    stage: fn(&str) -> TestProject,
    /// How many instances the service has.
    count: usize,
    first: FirstRelease,
    /// What of ours is in the proxy: nothing but while a deploy runs.
    left: fn(&TestProject) -> String,
}

impl ProxySetup {
    fn up(&self, name: &str) -> TestProject {
        let stage = (self.stage)(name);
        stage.up(&format!("--scale app={}", self.count));
        if self.first == FirstRelease::Requests {
            self.set_up(&stage);
        }
        stage
    }

    fn set_up(&self, stage: &TestProject) {
        stage.deploy("app --force").exits(0);
        stage.wait_until_all_answer();
    }

    /// Version `version` serves, and nobody else, and nothing of ours is left.
    fn expect_release(&self, stage: &TestProject, version: &str) {
        stage.expect_release("app", self.count, version);
        assert_eq!((self.left)(stage), "", "left in the proxy");
    }

    /// One release after the other on the same proxy, so that each deploy finds what the one before it left: flags that
    /// outlive an instance would make it serve nobody.
    fn deploy_in_every_way(&self, name: &str) {
        let stage = self.up(name);
        if !engine_kind().is_empty() {
            return self.deploy_on_another_engine(&stage);
        }
        let proxy = stage.proxy();

        stage.log("--- the first deploy");
        stage.set_variables("VERSION=2 STOP=abrupt");
        let load = if self.first == FirstRelease::Nothing { "--keep-alive --method POST --body 500" } else { "" };
        let (ran, answers) = stage.deploy_under_load(load, "app");
        let (sent, lost) = ran.exits(0).witness_counts();
        assert!(sent > 0 && lost == 0, "the witness sent {sent} and lost {lost}");
        answers.all_from(&["1", "2"]);
        self.expect_release(&stage, "2");
        // `scripts/test --quick`
        if std::env::var_os("ZD_QUICK").is_some() {
            return;
        }

        stage.log("--- clients of every kind; the new instances listen late, and then warm up");
        stage.set_variables("VERSION=3 LISTEN_AFTER=1 WARMUP=2");
        let load = stage.start_mixed_load();
        stage.deploy("app").exits(0);
        load.stop_all_from(&["2", "3"]);
        self.expect_release(&stage, "3");

        stage.log("--- killed before the switch, the next finishes; an answer that never ends is cut at the limit, which is said");
        let load = stage.start_load("");
        let stream = stage.open_request("/stream?seconds=100");
        stage.set_variables("VERSION=4 LISTEN_AFTER=0 WARMUP=0");
        kill_after(&stage, "started app-");
        let ran = stage.deploy("app --drain-timeout 2s");
        ran.exits(0).says("1 request in flight after 2s");
        load.stop().all_from(&["3", "4"]);
        drop(stream);
        self.expect_release(&stage, "4");

        stage.log("--- killed after the switch, the next finishes");
        let load = stage.start_load("");
        stage.set_variables("VERSION=5");
        kill_after(&stage, "in rotation: app-");
        stage.deploy("app").exits(0);
        load.stop().all_from(&["4", "5"]);
        wait_until("nothing is left in the proxy", WAIT_LIMIT, || (self.left)(&stage).is_empty());
        self.expect_release(&stage, "5");

        stage.log("--- a release that never gets ready");
        let before = stage.containers();
        stage.set_variables("VERSION=6 STATUS=500");
        let (ran, answers) = stage.deploy_under_load("", "app --health-deadline 3s");
        ran.exits(3).says("→ 500").says("served before and still serve");
        answers.all_from(&["5"]);
        assert_eq!(stage.containers(), before);
        assert_eq!((self.left)(&stage), "", "left in the proxy");
        assert_eq!(stage.proxy(), proxy);
    }
}

impl ProxySetup {
    /// What an engine can make different; the rest is the same code.
    fn deploy_on_another_engine(&self, stage: &TestProject) {
        stage.log("--- killed before the switch, `recover` finishes");
        let load = stage.start_load("");
        stage.set_variables("VERSION=2 STOP=abrupt");
        kill_after(stage, "started app-");
        stage.start("recover").wait().exits(0);
        load.stop().all_from(&["1", "2"]);
        self.expect_release(stage, "2");

        stage.log("--- a release that never gets ready, and back");
        let before = stage.containers();
        stage.set_variables("VERSION=3 STATUS=500");
        let load = stage.start_load("");
        stage.deploy("app --health-deadline 3s").exits(3).says("→ 500").says("served before and still serve");
        assert_eq!(stage.containers(), before);
        stage.rollback("").exits(0);
        load.stop().all_from(&["2", "1"]);
        self.expect_release(stage, "1");
    }
}

/// Starts a deploy and kills it once it has printed this.
fn kill_after(stage: &TestProject, line: &str) {
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for(line);
    deploy.kill();
}

macro_rules! behind {
    ($proxy:ident, $front:expr) => {
        mod $proxy {
            use super::*;

            #[test]
            fn no_deploy_loses_a_request_even_when_killed_or_never_ready() {
                $front.deploys(&stringify!($proxy).replace('_', ""));
            }
        }
    };
}

behind!(
    nginx_proxy,
    ProxySetup { stage: TestProject::nginx_proxy, count: 2, first: FirstRelease::KeptConnections, left: TestProject::marks }
);
behind!(haproxy, ProxySetup { stage: TestProject::haproxy, count: 2, first: FirstRelease::Nothing, left: haproxy_flags });
behind!(haproxy_2_6, ProxySetup { stage: haproxy_2_6, count: 2, first: FirstRelease::Nothing, left: haproxy_flags });
behind!(haproxy_line, ProxySetup { stage: haproxy_static_server, count: 1, first: FirstRelease::Nothing, left: haproxy_flags });
behind!(dockercloud, ProxySetup { stage: dockercloud, count: 2, first: FirstRelease::Nothing, left: dockercloud_state });
behind!(caddy, ProxySetup { stage: caddy, count: 2, first: FirstRelease::Requests, left: caddy_switches });
behind!(caddy_2_6, ProxySetup { stage: caddy_2_6, count: 1, first: FirstRelease::Requests, left: caddy_switches });
behind!(traefik, ProxySetup { stage: TestProject::traefik, count: 2, first: FirstRelease::Nothing, left: traefik_files });

fn haproxy_2_6(name: &str) -> TestProject {
    let stage = TestProject::haproxy(name);
    stage.set_variables(&format!("HAPROXY_IMAGE={}", stage.variable("HAPROXY_OLD_IMAGE")));
    stage
}

/// A fixed `server` line, which HAProxy resolves once, when it starts: after the app.
fn haproxy_static_server(name: &str) -> TestProject {
    let stage = TestProject::haproxy(name);
    let configuration = stage.read("haproxy.cfg");
    let template = "server-template app 8 app:3000 check inter 500ms resolvers docker init-addr none";
    assert!(configuration.contains(template));
    let line = "server one app:3000 check inter 500ms";
    stage.write("haproxy.cfg", &configuration.replace(template, line));
    stage.write_override("services: { proxy: { depends_on: [app] } }");
    stage
}

pub fn dockercloud(name: &str) -> TestProject {
    let stage = TestProject::exclusive(name, "haproxy-scale");
    stage.set_variables(&format!("STATS_PORT={}", free_port()));
    stage
}

/// By Caddy's own lookups, which every instance gets a share of.
pub fn caddy(name: &str) -> TestProject {
    let stage = TestProject::from_fixture(name, "caddy", &["Caddyfile.dynamic"]);
    stage.write("Caddyfile", &stage.read("Caddyfile.dynamic"));
    stage
}

/// By `reverse_proxy app:3000`: a request finds the instance that the connection which is free goes to.
fn caddy_2_6(name: &str) -> TestProject {
    let stage = TestProject::from_fixture(name, "caddy", &["Caddyfile"]);
    stage.set_variables(&format!("CADDY_IMAGE={}", stage.variable("CADDY_OLD_IMAGE")));
    stage
}

/// Switches that are turned on: they are there for good, and off between deploys.
pub fn caddy_switches(stage: &TestProject) -> String {
    stage.exec_in_proxy(&["sh", "-c", "ls /dev/shm/compose-zd/*/on /tmp/compose-zd/*/on 2>/dev/null"])
}

/// Servers that are drained or in maintenance, or that we added.
pub fn haproxy_flags(stage: &TestProject) -> String {
    let script = "use IO::Socket; my $s = IO::Socket::UNIX->new(Peer => '/tmp/haproxy.sock'); \
                  print $s \"show servers state\\n\"; print while <$s>";
    let state = stage.exec_in_proxy(&["perl", "-e", script]);
    let flagged = |l: &&str| {
        let mut words = l.split(' ').skip(3);
        let ours = words.next().is_some_and(|name| name.starts_with("compose-zd"));
        let admin = words.nth(2).and_then(|a| a.parse::<u32>().ok());
        ours || admin.is_some_and(|a| a & 0x09 != 0)
    };
    state.lines().filter(flagged).collect()
}

/// The manager stands still.
pub fn dockercloud_state(stage: &TestProject) -> String {
    let script = "for p in /proc/[0-9]*; do \
                  tr '\\0' ' ' < $p/cmdline | grep -q '^[^ ]*python[^ ]* [^ ]*dockercloud-haproxy' && cut -d' ' -f3 $p/stat; done";
    let states = stage.exec_in_proxy(&["sh", "-c", script]);
    assert!(!states.trim().is_empty(), "there is a manager");
    states.lines().filter(|state| *state == "T").collect()
}

/// Files in Traefik's directory of routes.
pub fn traefik_files(stage: &TestProject) -> String {
    stage.ls_in_proxy("/etc/traefik/dynamic")
}
