//! What is done to the switches: put in place, turned, and given back.

use serde_json::Value;

use super::config::{plain, switched};
use super::snapshot::{CaddySnapshot, names};
use super::state::other;
use super::{Caddy, scripts};
use crate::docker::{CommandResult, Exec};
use crate::proxy::{Endpoint, HandBack, Patch, Proxy};
use crate::shell;

const STAYS: &str = "a switch in front of its `reverse_proxy`, by a reload; between deploys it does nothing, and until \
    Caddy starts anew or is reloaded the next deploy needs no reload";
const GOES: &str = "a switch in front of its `reverse_proxy`, for this deploy only (`x-zd.proxy.tune: false`): a reload \
    before it and one after it";

impl Caddy {
    pub fn view(&self, now: &CommandResult, endpoints: &[Endpoint]) -> Option<CaddySnapshot> {
        CaddySnapshot::read(&now.stdout, names(endpoints), self.means())
    }

    /// The switches that are missing. They stay, where something may.
    pub fn preparation(&self, view: &CaddySnapshot, stays: bool) -> Option<Patch> {
        if view.handlers.is_empty() || (view.is_switched && stays) {
            return None;
        }
        let reset = if view.has_switch { String::new() } else { self.each(view, reset) };
        let once = if stays { String::new() } else { self.each(view, once) };
        let exec = match view.is_switched {
            true => self.sh(format!("# the switch goes\n{once}")),
            false => self.put(view, &format!("{reset}{once}")),
        };
        let note = format!("{}: {}", self.name(), if stays { STAYS } else { GOES });
        Some(Patch { exec, note, required: true, failure_note: String::new() })
    }

    /// Turns every switch to these names. One that is missing is put in place until the end of the deploy only: somebody
    /// has just taken it away.
    pub fn turn(&self, view: &CaddySnapshot, names: &[String]) -> Option<Exec> {
        let slots = self.means().slots();
        if names.len() > slots {
            let said = format!("a switch has slots for {slots} instances, and there are {}", names.len());
            return Some(self.sh(format!("echo '{said}' >&2; exit 1")));
        }
        let turns: String = view.keys().iter().filter_map(|key| self.turned(view, key, names)).collect();
        match (view.is_switched, turns.is_empty()) {
            (true, true) => None,
            (true, false) => {
                Some(self.sh(format!("# send requests to {}\nset -e\n{turns}", names.join(" "))))
            }
            (false, _) => Some(self.put(view, &format!("{turns}{}", self.each(view, once)))),
        }
    }

    /// Fills a bank that gets no request, and gives it its turn: one file decides, so that nothing is between the two.
    fn turned(&self, view: &CaddySnapshot, key: &str, names: &[String]) -> Option<String> {
        let (switch, folder) = (view.seen.switch(key), self.means().place(key));
        let place = shell::word(&folder);
        if switch.names() == Some(names) {
            return None;
        }
        let (bank, turn) = match switch.bank() {
            Some(bank) => (other(bank), String::new()),
            // What a bank has begun in the last deploy may go on, and is told from what this one begins with another.
            None if view.seen.by(key, "b") > view.seen.by(key, "a") => ("b", format!(": > {place}/on\n")),
            None => ("a", format!(": > {place}/on\n")),
        };
        let fill = scripts::fill(&folder, bank, names, self.means());
        let decide =
            if bank == "b" { format!(": > {place}/switched\n") } else { format!("rm -f {place}/switched\n") };
        Some(format!("{fill}{decide}{turn}"))
    }

    /// Turns the switches off, and takes those out that are not to stay.
    pub fn give_back(&self, view: &CaddySnapshot) -> HandBack {
        let off: String = view.keys().iter().map(|key| self.off(view, key)).collect();
        let goes = view.keys().iter().any(|key| view.seen.switch(key).once);
        match (off.is_empty(), goes) {
            (true, false) => HandBack::Done,
            (false, false) => HandBack::Run(self.sh(format!("# the switch is off\nset -e\n{off}"))),
            (_, true) => {
                let without = plain(&view.seen.config, &view.names);
                HandBack::Run(self.load(&format!("{off}{}", self.each(view, reset)), view, &without))
            }
        }
    }

    /// A request may have seen `on` just before it goes and not see `switched` any more, which gives it bank `a`: so
    /// both banks have the names that serve before anything is removed.
    fn off(&self, view: &CaddySnapshot, key: &str) -> String {
        let (switch, folder) = (view.seen.switch(key), self.means().place(key));
        let place = shell::word(&folder);
        let (Some(bank), Some(names)) = (switch.bank(), switch.names()) else {
            return String::new();
        };
        let same = scripts::fill(&folder, other(bank), names, self.means());
        format!("{same}rm -f {place}/on {place}/switched\n")
    }

    fn put(&self, view: &CaddySnapshot, first: &str) -> Exec {
        self.load(first, view, &switched(&view.seen.config, &view.names, self.means()))
    }

    /// Changes its configuration, after a script of ours.
    fn load(&self, first: &str, view: &CaddySnapshot, wanted: &Value) -> Exec {
        let load = scripts::load(self.api(), self.means());
        let script = format!("# load a configuration\nset -e\n{first}set +e\n{load}");
        Exec { stdin: Some(format!("{}\n{wanted}\n", view.seen.raw)), ..self.sh(script) }
    }

    fn each(&self, view: &CaddySnapshot, line: fn(&str) -> String) -> String {
        view.keys().iter().map(|key| line(&shell::word(&self.means().place(key)))).collect()
    }
}

fn once(place: &str) -> String {
    format!("mkdir -p {place}; : > {place}/once\n")
}

fn reset(place: &str) -> String {
    format!("rm -f {place}/on {place}/switched {place}/once\n")
}
