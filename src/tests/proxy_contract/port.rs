//! Simulation of the machine's firewall in front of a published port. Clients come from loopback, from this machine to
//! another of its addresses, and from outside.

use super::*;
use crate::docker::inspect::BRIDGE;
use crate::model::{FlagLayers, Project};
use crate::proxy::port::PublishedPort;
use crate::proxy::port::firewall::Firewall;

/// Stand-in, which the engine publishes at [`STAND_IN_PORT`].
const STAND_IN: &str = "p-app-9";
const STAND_IN_PORT: u16 = 32768;

/// Chain that a request passes first, and whether its target is loopback.
const CLIENTS: [(&str, bool); 3] = [("OUTPUT", true), ("OUTPUT", false), ("PREROUTING", false)];

const ENGINE: &str = "-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n\
    -A DOCKER ! -i br-1 -p tcp -m tcp --dport 32768 -j DNAT --to-destination 172.21.0.9:3000\n";

/// Rule of another project, which stays.
const RULE_OF_OTHER: &str = "OUTPUT -m comment --comment 'compose-zd p/app2 x y' -d 127.0.0.0/8 -p tcp --dport 9 -j REDIRECT --to-ports 1";

pub struct Rules {
    proxy: PublishedPort,
    /// Words of each rule from its chain on; the first one that matches counts.
    rules: Vec<Vec<String>>,
    guards: Vec<Vec<String>>,
    running: Vec<&'static str>,
}

fn simulation() -> Rules {
    let yaml =
        "name: p\nservices: {app: {image: a, ports: [{target: 3000, published: '8080', protocol: tcp}]}}";
    let project = Project::read(yaml, "compose.yaml", &FlagLayers::default()).expect("a project");
    let firewall = Firewall { v4: "iptables".into(), v6: None };
    Rules {
        proxy: PublishedPort::new(&project, &project.services["app"], Ok(firewall)),
        rules: vec![shlex::split(RULE_OF_OTHER).expect("words")],
        guards: Vec::new(),
        running: Vec::new(),
    }
}

impl Rules {
    /// Instance that gets the request of a client.
    fn target(&self, (chain, is_loopback): (&str, bool)) -> Option<&'static str> {
        let matches = |rule: &&Vec<String>| {
            let is_for = |flag: &str| rule.iter().position(|word| word == flag);
            let is_negated = |at: usize| rule[at - 1] == "!";
            let fits_target = is_for("-d").is_none_or(|at| is_loopback != is_negated(at));
            let fits_bridge = is_for("-i").is_none_or(is_negated);
            let is_port = is_for("--dport").is_some_and(|at| rule[at + 1] == "8080");
            rule[0] == chain && is_port && fits_target && fits_bridge
        };
        let name = match self.rules.iter().find(matches).and_then(|rule| rule.last()) {
            Some(to) if *to == STAND_IN_PORT.to_string() => Some(STAND_IN),
            Some(to) if *to == format!("{}:3000", address(STAND_IN)) => Some(STAND_IN),
            Some(to) => panic!("{to} is no address of an instance"),
            None => self.running.iter().copied().find(|name| *name != STAND_IN),
        };
        name.filter(|name| self.running.contains(name))
    }
}

impl Simulation for Rules {
    fn proxy(&self) -> &dyn Proxy {
        &self.proxy
    }

    fn answer(&self, query: &Query) -> CommandResult {
        let line = |rule: &Vec<String>| {
            let words = shlex::try_join(rule.iter().map(String::as_str)).expect("words");
            format!("-A {words}\n")
        };
        match query {
            Query::Host(_) => output([&self.rules.iter().map(line).collect::<String>(), ENGINE].concat()),
            _ => output(""),
        }
    }

    fn run(&mut self, action: &Action) {
        let words = match action {
            Action::Host(words) => words,
            Action::Detached(words) => return self.guards.push(words.clone()),
            other => panic!("{other:?}"),
        };
        let rule = words[6..].to_vec();
        if words[5] == "-I" {
            assert!(!self.guards.is_empty(), "a guard starts before the first rule");
            self.rules.insert(0, rule);
        } else {
            self.rules.retain(|existing| *existing != rule);
        }
        let of_other = shlex::split(RULE_OF_OTHER).expect("words");
        assert!(self.rules.contains(&of_other), "rules of others stay");
    }

    fn set_running(&mut self, running: &[&'static str]) {
        self.running = running.to_vec();
    }

    fn serving(&self) -> BTreeSet<&'static str> {
        let targets = CLIENTS.map(|client| self.target(client));
        if targets.contains(&None) { BTreeSet::new() } else { targets.into_iter().flatten().collect() }
    }
}

fn stand_in() -> Endpoint {
    let mut endpoint = endpoint(STAND_IN, true);
    endpoint.labels.insert(BRIDGE.into(), "p/app".into());
    endpoint.published = vec![(3000, SocketAddr::new([0, 0, 0, 0].into(), STAND_IN_PORT))];
    endpoint
}

#[test]
fn a_published_port_leads_to_the_stand_in_while_its_owner_is_replaced() {
    let simulation = &mut simulation();
    simulation.set_running(&[OLD]);
    assert_eq!(look(simulation, &Goal::Observed(vec![endpoint(OLD, true)])).0.routed, [OLD.into()].into());

    simulation.set_running(&[OLD, STAND_IN]);
    assert_eq!(simulation.serving(), BTreeSet::from([OLD]), "a stand-in that starts gets no request");
    let over = Goal::Rotation(rotation(stand_in(), endpoint(OLD, true)));
    pursue(simulation, &over);
    assert_eq!(simulation.serving(), BTreeSet::from([STAND_IN]));
    assert_eq!(pursue(simulation, &over), 0, "the rules are set once");

    pursue(simulation, &Goal::Rotation(rotation(endpoint(OLD, true), stand_in())));
    assert_eq!(simulation.serving(), BTreeSet::from([OLD]), "an undo leads back to the owner");
    pursue(simulation, &over);

    simulation.set_running(&[STAND_IN, NEW]);
    assert_eq!(simulation.serving(), BTreeSet::from([STAND_IN]), "an owner that starts gets no request");
    pursue(simulation, &Goal::Rotation(rotation(endpoint(NEW, true), stand_in())));
    assert_eq!(simulation.serving(), BTreeSet::from([NEW]));
    assert_eq!(simulation.rules.len(), 1, "no rule of compose-zd is left");
}

#[test]
fn a_published_port_is_handed_back_to_an_owner_that_runs() {
    let simulation = &mut simulation();
    simulation.set_running(&[OLD, STAND_IN]);
    pursue(simulation, &Goal::Rotation(rotation(stand_in(), endpoint(OLD, true))));
    let handed_back = |endpoints| Goal::HandedBack(Discovery { endpoints, ..Discovery::default() });

    simulation.set_running(&[STAND_IN]);
    pursue(simulation, &handed_back(vec![endpoint(OLD, false), stand_in()]));
    assert_eq!(simulation.serving(), BTreeSet::from([STAND_IN]), "without an owner the stand-in serves on");
    simulation.set_running(&[STAND_IN, NEW]);
    pursue(simulation, &handed_back(vec![endpoint(NEW, true), stand_in()]));
    assert_eq!((simulation.serving(), simulation.rules.len()), (BTreeSet::from([NEW]), 1));
}
