//! Simulation of Apache: its hosts file, and the addresses that its children have. A child reads an address at its first
//! request, and another program restarts Apache whenever a container starts or stops.

use super::*;
use crate::proxy::apache::Apache;

pub struct Httpd {
    proxy: Apache,
    lines: Vec<String>,
    is_watched: bool,
    now: u64,
    started: u64,
    running: Vec<&'static str>,
    loaded: BTreeSet<IpAddr>,
    /// True if Apache looks up the name for each request.
    is_dynamic: bool,
}

pub fn simulation(parameter: &str) -> Httpd {
    let mut proxy = Apache::new(&container(&[]));
    proxy.learn(&output(format!(
        "@user 0\n@hosts rw\n@version 2.4.62\n@mpm event\n@config\n# configuration file mod_info:\n\
         <VirtualHost *:80>\nProxyPass / http://app:3000/ {parameter}\n</VirtualHost>\n"
    )));
    let lines = vec!["127.0.0.1 localhost".into(), "10.0.0.9 app # compose-zd other/app".into()];
    let (running, loaded) = (Vec::new(), BTreeSet::new());
    let is_dynamic = !parameter.is_empty();
    Httpd { proxy, lines, is_watched: false, now: 100, started: 1, running, loaded, is_dynamic }
}

const OWN: &str = " # compose-zd p/app";

impl Httpd {
    fn resolved(&self) -> BTreeSet<IpAddr> {
        let own = self.lines.iter().filter(|line| line.ends_with(OWN));
        let pinned: BTreeSet<IpAddr> = own.filter_map(|l| l.split(' ').next()?.parse().ok()).collect();
        if pinned.is_empty() { self.running.iter().map(|name| address(name)).collect() } else { pinned }
    }

    fn restart(&mut self) {
        self.loaded = self.resolved();
        self.now += 1;
        self.started = self.now;
    }
}

impl Simulation for Httpd {
    fn proxy(&self) -> &dyn Proxy {
        &self.proxy
    }

    fn answer(&self, query: &Query) -> CommandResult {
        let Query::Exec(_) = query else { return output("") };
        let pins = self.lines.iter().filter(|l| l.contains(" # compose-zd ")).map(|l| format!("@pin {l}\n"));
        let watcher = if self.is_watched { "@watcher compose-zd p/app watcher\n" } else { "" };
        let child = format!("@child {}\n@now {}\n", self.started, self.now);
        output(format!("{child}{watcher}{}@end\n", pins.collect::<String>()))
    }

    fn run(&mut self, action: &Action) {
        let Action::Exec(exec) = action else { panic!("{action:?}") };
        let script = script(exec);
        if exec.options.contains(&"--detach".to_string()) {
            self.is_watched = true;
        } else if script.starts_with("# restart") {
            assert!(!self.is_dynamic, "a restart for nothing");
            self.restart();
            self.lines.push(format!("# reloaded{OWN}"));
        } else if !script.starts_with("# test") {
            let write = script.lines().last().and_then(|line| line.strip_prefix("write")).expect("a change");
            self.now += 1;
            let words = shlex::split(&write.replace("$now", &self.now.to_string())).expect("words");
            self.lines.retain(|line| !line.ends_with(OWN));
            self.lines.extend(words);
        }
        assert!(self.lines.iter().any(|line| line.ends_with("other/app")), "pins of others stay");
    }

    fn set_running(&mut self, running: &[&'static str]) {
        self.running = running.to_vec();
        self.restart();
    }

    fn serving(&self) -> BTreeSet<&'static str> {
        let known = if self.is_dynamic { self.resolved() } else { self.loaded.clone() };
        self.running.iter().copied().filter(|name| known.contains(&address(name))).collect()
    }
}
