//! Operations on the switches: adding them, turning them, and handing them back.

use serde_json::Value;

use super::config::{with_switches, without_switches};
use super::snapshot::{CaddySnapshot, names};
use super::state::other_bank;
use super::{Caddy, scripts};
use crate::docker::{CommandResult, Exec};
use crate::proxy::{Change, Endpoint, Next, Proxy};
use crate::shell;

const PERMANENT_NOTE: &str = "added a switch in front of its `reverse_proxy`, by one reload; the switch does nothing between \
    deploys, and the next deploy needs no reload unless Caddy is restarted or reloaded";
const TEMPORARY_NOTE: &str = "added a switch in front of its `reverse_proxy` for this deploy only (`x-zd.proxy.tune: false`), \
    by one reload before the deploy and one after it";

impl Caddy {
    pub fn snapshot(&self, output: &CommandResult, endpoints: &[Endpoint]) -> Option<CaddySnapshot> {
        CaddySnapshot::parse(&output.stdout, names(endpoints), self.features())
    }

    /// Patch that adds the missing switches. With `is_permanent` they stay after the deploy.
    pub fn switch_patch(&self, snapshot: &CaddySnapshot, is_permanent: bool) -> Option<Change> {
        if snapshot.handlers.is_empty() || (snapshot.is_switched && is_permanent) {
            return None;
        }
        let reset =
            if snapshot.has_switch { String::new() } else { self.for_each_switch(snapshot, remove_flags) };
        let mark = if is_permanent { String::new() } else { self.for_each_switch(snapshot, mark_temporary) };
        let exec = if snapshot.is_switched {
            self.place.sh(format!("# remove the switch after the deploy\n{mark}"))
        } else {
            self.load_switches(snapshot, &format!("{reset}{mark}"))
        };
        let note = format!("{}: {}", self.name(), if is_permanent { PERMANENT_NOTE } else { TEMPORARY_NOTE });
        Some(Change { note, ..exec.into() })
    }

    /// Command that turns every switch to these names. A missing switch, removed by another program, is
    /// added until the end of the deploy.
    pub fn switch_to(&self, snapshot: &CaddySnapshot, names: &[String]) -> Option<Exec> {
        let slots = self.features().slots();
        if names.len() > slots {
            let message = format!("a switch has slots for {slots} instances, and there are {}", names.len());
            return Some(self.place.sh(format!("echo '{message}' >&2; exit 1")));
        }
        let script: String =
            snapshot.keys().iter().filter_map(|key| self.switch_script(snapshot, key, names)).collect();
        match (snapshot.is_switched, script.is_empty()) {
            (true, true) => None,
            (true, false) => {
                Some(self.place.sh(format!("# send requests to {}\nset -e\n{script}", names.join(" "))))
            }
            (false, _) => Some(self.load_switches(
                snapshot,
                &format!("{script}{}", self.for_each_switch(snapshot, mark_temporary)),
            )),
        }
    }

    /// Script that fills the idle bank and then makes it active by a single file, so that the switch is atomic.
    fn switch_script(&self, snapshot: &CaddySnapshot, key: &str, names: &[String]) -> Option<String> {
        let (switch, folder) = (snapshot.state.switch(key), self.features().switch_folder(key));
        let quoted = shell::word(&folder);
        if switch.names() == Some(names) {
            return None;
        }
        let (bank, turn_on) = match switch.bank() {
            Some(bank) => (other_bank(bank), String::new()),
            // Requests of the last deploy may still be in flight through a bank. Starting with the other bank
            // keeps the two counts apart.
            None if snapshot.state.requests_by_bank(key, "b") > snapshot.state.requests_by_bank(key, "a") => {
                ("b", format!(": > {quoted}/on\n"))
            }
            None => ("a", format!(": > {quoted}/on\n")),
        };
        let fill = scripts::fill_bank(&folder, bank, names, self.features());
        let activate = if bank == "b" {
            format!(": > {quoted}/switched\n")
        } else {
            format!("rm -f {quoted}/switched\n")
        };
        Some(format!("{fill}{activate}{turn_on}"))
    }

    /// Turns the switches off, and removes the temporary ones.
    pub fn hand_back_switches(&self, snapshot: &CaddySnapshot) -> Next {
        let off: String = snapshot.keys().iter().map(|key| self.off_script(snapshot, key)).collect();
        let is_temporary = snapshot.keys().iter().any(|key| snapshot.state.switch(key).is_temporary);
        match (off.is_empty(), is_temporary) {
            (true, false) => Next::Done,
            (false, false) => Next::run(self.place.sh(format!("# turn the switch off\nset -e\n{off}"))),
            (_, true) => {
                let without = without_switches(&snapshot.state.config, &snapshot.names);
                Next::run(self.load(
                    &format!("{off}{}", self.for_each_switch(snapshot, remove_flags)),
                    snapshot,
                    &without,
                ))
            }
        }
    }

    /// Script that turns a switch off. A request may read `on` just before its removal and then miss
    /// `switched`, which leads to bank `a`. So both banks get the serving names before any file is removed.
    fn off_script(&self, snapshot: &CaddySnapshot, key: &str) -> String {
        let (switch, folder) = (snapshot.state.switch(key), self.features().switch_folder(key));
        let quoted = shell::word(&folder);
        let (Some(bank), Some(names)) = (switch.bank(), switch.names()) else {
            return String::new();
        };
        let fill = scripts::fill_bank(&folder, other_bank(bank), names, self.features());
        format!("{fill}rm -f {quoted}/on {quoted}/switched\n")
    }

    fn load_switches(&self, snapshot: &CaddySnapshot, script: &str) -> Exec {
        self.load(script, snapshot, &with_switches(&snapshot.state.config, &snapshot.names, self.features()))
    }

    /// Command that runs a script of ours and then loads a configuration into Caddy.
    fn load(&self, first: &str, snapshot: &CaddySnapshot, config: &Value) -> Exec {
        let load = scripts::load_script(self.api_address(), self.features());
        let script = format!("# load a configuration\nset -e\n{first}set +e\n{load}");
        Exec { stdin: Some(format!("{}\n{config}\n", snapshot.state.raw)), ..self.place.sh(script) }
    }

    fn for_each_switch(&self, snapshot: &CaddySnapshot, line: fn(&str) -> String) -> String {
        snapshot.keys().iter().map(|key| line(&shell::word(&self.features().switch_folder(key)))).collect()
    }
}

fn mark_temporary(folder: &str) -> String {
    format!("mkdir -p {folder}; : > {folder}/once\n")
}

fn remove_flags(folder: &str) -> String {
    format!("rm -f {folder}/on {folder}/switched {folder}/once\n")
}
