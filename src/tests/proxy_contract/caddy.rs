//! Simulation of Caddy: its configuration, and the files of a switch.

use super::*;
use crate::proxy::caddy::Caddy;

const CONFIGURATION: &str = r#"{"apps":{"http":{"servers":{"srv0":{"listen":[":80"],"routes":[{"handle":[{"handler":"reverse_proxy","upstreams":[{"dial":"app:3000"}]}]}]}}}}}"#;

pub struct Switch {
    proxy: Caddy,
    configuration: String,
    running: Vec<&'static str>,
    /// Names of the files of the switch that exist, and the instances in each bank.
    files: BTreeSet<String>,
    banks: BTreeMap<String, String>,
}

pub fn simulation() -> Switch {
    let mut proxy = Caddy::new(&container(&[]));
    let head = "@folder /dev/shm\n@version v2.11.4 h1:x\n@api 127.0.0.1:2019\n@config\n";
    proxy.learn(&output(format!("{head}{CONFIGURATION}\n")));
    let (files, banks) = (BTreeSet::new(), BTreeMap::new());
    Switch { proxy, configuration: CONFIGURATION.into(), running: Vec::new(), files, banks }
}

fn file_name(path: &str) -> Option<String> {
    Some(path.trim_matches(['\'', ';']).rsplit_once("/app/")?.1.into())
}

impl Simulation for Switch {
    fn proxy(&self) -> &dyn Proxy {
        &self.proxy
    }

    fn answer(&self, query: &Query) -> CommandResult {
        let Query::Exec(exec) = query else { panic!("{query:?}") };
        if script(exec).starts_with("cat /proc/sys") {
            return output("1\n");
        }
        let flags: String = self.files.iter().map(|file| format!("@{file} app 9\n")).collect();
        let banks: String =
            self.banks.iter().map(|(bank, names)| format!("@bank app/{bank} {names}\n")).collect();
        output(format!("{flags}{banks}@upstreams\n[]\n\n@config\n{}\n", self.configuration))
    }

    fn run(&mut self, action: &Action) {
        let Action::Exec(exec) = action else { panic!("{action:?}") };
        for line in script(exec).lines() {
            if let Some(path) = line.strip_prefix(": > ") {
                self.files.extend(file_name(path));
            } else if let Some(paths) = line.strip_prefix("rm -f ") {
                let removed: Vec<String> = paths.split(' ').filter_map(file_name).collect();
                self.files.retain(|file| !removed.contains(file));
            } else if let Some((names, path)) = line.strip_prefix("echo ").and_then(|l| l.split_once(" > ")) {
                let bank = file_name(path).and_then(|file| Some(file.strip_suffix(".set")?.to_string()));
                self.banks.extend(bank.map(|bank| (bank, names.trim_matches('\'').into())));
            }
        }
        if let Some(configurations) = &exec.stdin {
            self.configuration = configurations.lines().last().expect("a configuration").into();
        }
    }

    fn set_running(&mut self, running: &[&'static str]) {
        self.running = running.to_vec();
    }

    fn serving(&self) -> BTreeSet<&'static str> {
        let bank = if self.files.contains("switched") { Some("b") } else { None };
        let bank = bank.or(self.files.contains("on").then_some("a"));
        let names: Option<Vec<&str>> = bank.map(|bank| self.banks[bank].split(' ').collect());
        self.running
            .iter()
            .copied()
            .filter(|n| names.as_ref().is_none_or(|names| names.contains(n)))
            .collect()
    }
}
