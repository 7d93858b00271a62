//! The same promises by every proxy that there is an adapter for: what is lost is counted from outside, and nothing of
//! ours is left in the proxy.

use crate::stage::{LONG, Stage, free_port, wait_until};

/// What the first deploy behind a proxy that has just started costs: some are set up by a reload of their own kind.
#[derive(PartialEq)]
enum First {
    Nothing,
    /// A request now and then of a client that keeps its connection.
    KeptConnections,
    /// A request now and then.
    Requests,
}

/// A proxy in front of a service.
struct Front {
    stage: fn(&str) -> Stage,
    /// How many instances the service has.
    count: usize,
    first: First,
    /// What of ours is in the proxy: nothing but while a deploy runs.
    left: fn(&Stage) -> String,
}

impl Front {
    fn up(&self, name: &str, settings: &str) -> Stage {
        self.up_with(name, settings, self.count)
    }

    fn up_with(&self, name: &str, settings: &str, count: usize) -> Stage {
        let stage = (self.stage)(name);
        stage.set(settings);
        stage.up(&format!("--scale app={count}"));
        if self.first == First::Requests {
            self.set_up(&stage);
        }
        stage
    }

    fn set_up(&self, stage: &Stage) {
        stage.deploy("app --force").exits(0);
        stage.wait_until_all_answer();
    }

    /// Version `version` serves, and nobody else, and nothing of ours is left.
    fn expect(&self, stage: &Stage, version: &str, count: usize) {
        stage.expect_release("app", count, version);
        assert_eq!((self.left)(stage), "", "left in the proxy");
    }

    fn replaces(&self, name: &str, settings: &str, load: &str, count: usize) {
        let stage = self.up_with(name, settings, count);
        if self.first == First::KeptConnections && load.contains("--keep-alive") {
            self.set_up(&stage);
        }
        let proxy = stage.proxy();
        stage.set("VERSION=2");
        let (ran, answers) = stage.deploy_under_load(load, "app");
        ran.exits(0);
        answers.all_from(&["1", "2"]);
        self.expect(&stage, "2", count);
        assert_eq!(stage.proxy(), proxy);
    }

    /// The second finds what the first left: flags that outlive an instance would make it serve nobody.
    fn two_deploys(&self, name: &str) {
        let stage = self.up(name, "");
        let load = stage.start_load("");
        for version in ["2", "3"] {
            stage.set(&format!("VERSION={version}"));
            let ran = stage.deploy("app");
            let (sent, lost) = ran.exits(0).witnessed();
            assert!(sent > 0 && lost == 0, "the witness sent {sent} and lost {lost}");
            self.expect(&stage, version, self.count);
        }
        load.end().all_from(&["1", "2", "3"]);
    }

    fn broken(&self, name: &str) {
        let stage = self.up(name, "");
        let before = stage.containers();
        stage.set("VERSION=2 STATUS=500");
        let (ran, answers) = stage.deploy_under_load("", "app --health-deadline 3s");
        ran.exits(3).says("→ 500").says("served before and still serve");
        answers.all_from(&["1"]);
        assert_eq!(stage.containers(), before);
        assert_eq!((self.left)(&stage), "", "left in the proxy");
    }

    fn killed(&self, name: &str, line: &str) {
        let stage = self.up(name, "");
        let load = stage.start_load("");
        stage.set("VERSION=2");
        let mut deploy = stage.start_deploy("app");
        deploy.wait_for(line);
        deploy.kill();
        stage.deploy("app").exits(0);
        load.end().all_until("2");
        wait_until("nothing is left in the proxy", LONG, || (self.left)(&stage).is_empty());
        self.expect(&stage, "2", self.count);
    }

    /// An answer that never ends is cut at the limit, which is said; the others are not.
    fn endless(&self, name: &str) {
        let stage = self.up(name, "STOP=abrupt");
        let stream = stage.hold("/stream?seconds=100");
        let load = stage.start_load("");
        stage.set("VERSION=2");
        let ran = stage.deploy("app --drain-timeout 2s");
        ran.exits(0).says("1 request in flight after 2s");
        load.end().all_from(&["1", "2"]);
        drop(stream);
        self.expect(&stage, "2", self.count);
    }
}

macro_rules! behind {
    ($proxy:ident, $front:expr) => {
        mod $proxy {
            use super::*;

            fn name(promise: &str) -> String {
                format!("{}-{promise}", stringify!($proxy)).replace('_', "")
            }

            #[test]
            fn two_deploys_in_a_row_lose_no_request() {
                $front.two_deploys(&name("twice"));
            }

            #[test]
            fn instances_that_warm_up_get_no_request_of_clients_that_keep_their_connection() {
                let load = "--keep-alive --method POST --body 500";
                $front.replaces(&name("warm"), "WARMUP=2", load, $front.count * 2 - 1);
            }

            #[test]
            fn an_instance_that_listens_late_gets_no_request() {
                $front.replaces(&name("late"), "LISTEN_AFTER=2", "", $front.count);
            }

            #[test]
            fn a_slow_post_is_answered_by_an_instance_that_dies_at_once_when_told_to() {
                let load = "--method POST --body 500";
                $front.replaces(&name("slow"), "SLOW=1.5 STOP=abrupt", load, $front.count);
            }

            #[test]
            fn a_stream_is_not_cut() {
                $front.replaces(&name("stream"), "STOP=abrupt", "--stream 4", $front.count);
            }

            #[test]
            fn an_endless_stream_is_cut_at_the_limit_and_said() {
                $front.endless(&name("endless"));
            }

            #[test]
            fn a_release_that_never_gets_ready_leaves_all_as_it_was() {
                $front.broken(&name("broken"));
            }

            #[test]
            fn a_deploy_that_is_killed_before_the_switch_is_finished_by_the_next() {
                $front.killed(&name("before"), "started app-");
            }

            #[test]
            fn a_deploy_that_is_killed_after_the_switch_is_finished_by_the_next() {
                $front.killed(&name("after"), "in rotation: app-");
            }
        }
    };
}

behind!(
    nginx_proxy,
    Front { stage: Stage::scale, count: 2, first: First::KeptConnections, left: Stage::marks }
);
behind!(haproxy, Front { stage: Stage::haproxy, count: 2, first: First::Nothing, left: flags });
behind!(haproxy_2_6, Front { stage: haproxy_2_6, count: 2, first: First::Nothing, left: flags });
behind!(haproxy_line, Front { stage: haproxy_line, count: 1, first: First::Nothing, left: flags });
behind!(dockercloud, Front { stage: dockercloud, count: 2, first: First::Nothing, left: frozen });
behind!(caddy, Front { stage: caddy, count: 2, first: First::Requests, left: switched_on });
behind!(caddy_2_6, Front { stage: caddy_2_6, count: 1, first: First::Requests, left: switched_on });
behind!(traefik, Front { stage: Stage::traefik, count: 2, first: First::Nothing, left: routes });

fn haproxy_2_6(name: &str) -> Stage {
    let stage = Stage::haproxy(name);
    stage.set(&format!("HAPROXY_IMAGE={}", stage.variable("HAPROXY_OLD_IMAGE")));
    stage
}

/// A fixed `server` line, which HAProxy resolves once, when it starts: after the app.
fn haproxy_line(name: &str) -> Stage {
    let stage = Stage::haproxy(name);
    let configuration = stage.read("haproxy.cfg");
    let template = "server-template app 8 app:3000 check inter 500ms resolvers docker init-addr none";
    assert!(configuration.contains(template));
    let line = "server one app:3000 check inter 500ms";
    stage.write("haproxy.cfg", &configuration.replace(template, line));
    stage.add("services: { proxy: { depends_on: [app] } }");
    stage
}

pub fn dockercloud(name: &str) -> Stage {
    let stage = Stage::alone(name, "haproxy-scale");
    stage.set(&format!("STATS_PORT={}", free_port()));
    stage
}

/// By Caddy's own lookups, which every instance gets a share of.
pub fn caddy(name: &str) -> Stage {
    let stage = Stage::with(name, "caddy", &["Caddyfile.dynamic"]);
    stage.write("Caddyfile", &stage.read("Caddyfile.dynamic"));
    stage
}

/// By `reverse_proxy app:3000`: a request finds the instance that the connection which is free goes to.
fn caddy_2_6(name: &str) -> Stage {
    let stage = Stage::with(name, "caddy", &["Caddyfile"]);
    stage.set(&format!("CADDY_IMAGE={}", stage.variable("CADDY_OLD_IMAGE")));
    stage
}

/// Switches that are turned on: they are there for good, and off between deploys.
pub fn switched_on(stage: &Stage) -> String {
    stage.in_proxy(&["sh", "-c", "ls /dev/shm/compose-zd/*/on /tmp/compose-zd/*/on 2>/dev/null"])
}

/// Servers that are drained or in maintenance, or that we added.
pub fn flags(stage: &Stage) -> String {
    let script = "use IO::Socket; my $s = IO::Socket::UNIX->new(Peer => '/tmp/haproxy.sock'); \
                  print $s \"show servers state\\n\"; print while <$s>";
    let state = stage.in_proxy(&["perl", "-e", script]);
    let flagged = |l: &&str| {
        let mut words = l.split(' ').skip(3);
        let ours = words.next().is_some_and(|name| name.starts_with("compose-zd"));
        let admin = words.nth(2).and_then(|a| a.parse::<u32>().ok());
        ours || admin.is_some_and(|a| a & 0x09 != 0)
    };
    state.lines().filter(flagged).collect()
}

/// The manager stands still.
pub fn frozen(stage: &Stage) -> String {
    let script = "for p in /proc/[0-9]*; do \
                  tr '\\0' ' ' < $p/cmdline | grep -q '^[^ ]*python[^ ]* [^ ]*dockercloud-haproxy' && cut -d' ' -f3 $p/stat; done";
    let states = stage.in_proxy(&["sh", "-c", script]);
    assert!(!states.trim().is_empty(), "there is a manager");
    states.lines().filter(|state| *state == "T").collect()
}

/// Files in Traefik's directory of routes.
pub fn routes(stage: &Stage) -> String {
    stage.in_proxy(&["ls", "-A", "/etc/traefik/dynamic"])
}
