//! Simulation of nginx: its hosts file, and the addresses of its last reload. Another program reloads it whenever a
//! container starts or stops.

use super::*;
use crate::proxy::nginx::Nginx;

const DUMP: &str = "@user 0\n@hosts rw\n@version nginx version: nginx/1.29.5\n@config\n\
    # configuration file /etc/nginx/nginx.conf:\nhttp { include conf.d/*.conf; }\n\
    # configuration file /etc/nginx/conf.d/app.conf:\nserver { location / { proxy_pass http://app:3000; } }\n";

pub struct Hosts {
    proxy: Nginx,
    lines: Vec<String>,
    is_watched: bool,
    now: u64,
    started: u64,
    running: Vec<&'static str>,
    loaded: BTreeSet<IpAddr>,
}

pub fn simulation() -> Hosts {
    let mut proxy = Nginx::new(&container(&[]));
    proxy.learn(&output(DUMP));
    let lines = vec!["127.0.0.1 localhost".into(), "10.0.0.9 app # compose-zd other/app".into()];
    let (running, loaded) = (Vec::new(), BTreeSet::new());
    Hosts { proxy, lines, is_watched: false, now: 100, started: 1, running, loaded }
}

const OWN: &str = " # compose-zd p/app";

impl Hosts {
    fn reload(&mut self) {
        let own = self.lines.iter().filter(|line| line.ends_with(OWN));
        let pinned: BTreeSet<IpAddr> = own.filter_map(|l| l.split(' ').next()?.parse().ok()).collect();
        let running = self.running.iter().map(|name| address(name)).collect();
        self.loaded = if pinned.is_empty() { running } else { pinned };
        self.now += 1;
        self.started = self.now;
    }
}

impl Simulation for Hosts {
    fn proxy(&self) -> &dyn Proxy {
        &self.proxy
    }

    fn answer(&self, query: &Query) -> CommandResult {
        let Query::Exec(_) = query else { panic!("{query:?}") };
        let pins = self.lines.iter().filter(|l| l.contains(" # compose-zd ")).map(|l| format!("@pin {l}\n"));
        let watcher = if self.is_watched { "@watcher compose-zd p/app watcher\n" } else { "" };
        let worker = format!("@worker {} nginx: worker process\n@now {}\n", self.started, self.now);
        output(format!("{worker}{watcher}{}@end\n", pins.collect::<String>()))
    }

    fn run(&mut self, action: &Action) {
        let Action::Exec(exec) = action else { panic!("{action:?}") };
        let script = script(exec);
        if exec.options.contains(&"--detach".to_string()) {
            self.is_watched = true;
        } else if script.starts_with("# reload") {
            self.reload();
        } else {
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
        self.reload();
    }

    fn serving(&self) -> BTreeSet<&'static str> {
        self.running.iter().copied().filter(|name| self.loaded.contains(&address(name))).collect()
    }
}
