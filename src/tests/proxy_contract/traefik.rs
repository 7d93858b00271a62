//! Simulation of Traefik: its own discovery, and an override file that replaces it.

use std::cell::Cell;

use super::*;
use crate::proxy::traefik::Traefik;

const FLAGS: [&str; 3] = [
    "--entrypoints.web.address=:80",
    "--providers.docker=true",
    "--providers.file.directory=/etc/traefik/dynamic",
];

pub struct OverriddenDiscovery {
    proxy: Traefik,
    running: Vec<&'static str>,
    file: Option<String>,
    /// Time at which the wait for discovery began.
    waits_since: Option<u32>,
    now: Cell<u32>,
}

pub fn simulation() -> OverriddenDiscovery {
    let mut proxy = Traefik::new(&container(&FLAGS));
    proxy.learn(&output("@tool wget\n"));
    OverriddenDiscovery { proxy, running: Vec::new(), file: None, waits_since: None, now: Cell::new(100) }
}

impl Simulation for OverriddenDiscovery {
    fn proxy(&self) -> &dyn Proxy {
        &self.proxy
    }

    fn answer(&self, _query: &Query) -> CommandResult {
        self.now.set(self.now.get() + 60);
        let now = self.now.get();
        let Some(file) = &self.file else { return output(format!("@served \n@now {now}.0\n@end\n")) };
        let token =
            file.lines().find_map(|line| line.trim().strip_prefix("replacement: http://127.0.0.1:1/"));
        let left = self.waits_since.map(|at| format!("@left\n{at}.00\n")).unwrap_or_default();
        let token = token.expect("a token");
        output(format!(
            "@served {token}\n@now {now}.0\n@before\n90.0\n{left}@file\n{file}@connections\n@end\n"
        ))
    }

    fn run(&mut self, action: &Action) {
        let Action::Exec(exec) = action else { panic!("{action:?}") };
        match script(exec).lines().next().expect("a title") {
            _ if exec.stdin.is_some() => self.file = exec.stdin.clone(),
            "# hand the route back" => self.file = None,
            "# wait for Traefik's discovery" => self.waits_since = Some(self.now.get()),
            title => panic!("{title}"),
        }
    }

    fn set_running(&mut self, running: &[&'static str]) {
        self.running = running.to_vec();
    }

    fn serving(&self) -> BTreeSet<&'static str> {
        let is_in_file = |name: &&str| {
            let url = format!("http://{}:", address(name));
            self.file.as_ref().is_none_or(|file| file.contains(&url))
        };
        self.running.iter().copied().filter(is_in_file).collect()
    }
}
