//! Toy adapter: a process on this machine that forwards to the addresses in a file. It needs a helper container, and
//! forgets its addresses unless they are renewed.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::*;
use crate::docker::{Docker, Helper};
use crate::model::ComposeFlags;
use crate::proxy::converge::{Keeper, Pursuit};
use crate::proxy::effects;
use crate::proxy::kit::connections;

const OWNER: &str = "compose-zd";

/// Seconds for which an address is valid.
const LIFETIME: u64 = 900;

pub struct Toy {
    file: PathBuf,
    renewal: Duration,
}

/// Lines of the file: the addresses to which the toy forwards, and when each expires.
struct Pin {
    address: String,
    expires: u64,
}

fn pins(file: &str) -> Vec<Pin> {
    let pin = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        Some(Pin { address: words.get(1)?.to_string(), expires: words.get(3)?.parse().ok()? })
    };
    file.lines().filter(|line| line.ends_with(OWNER)).filter_map(pin).collect()
}

fn socket_addresses(endpoint: &Endpoint) -> Vec<SocketAddr> {
    endpoint.addresses.iter().map(|ip| SocketAddr::new(*ip, endpoint.port.unwrap_or(80))).collect()
}

/// Number of these addresses that are the endpoint's.
fn count<'a>(endpoint: &Endpoint, addresses: impl Iterator<Item = &'a str>) -> usize {
    let own: Vec<String> = socket_addresses(endpoint).iter().map(SocketAddr::to_string).collect();
    addresses.filter(|address| own.iter().any(|o| o == address)).count()
}

impl Toy {
    fn write(&self, lines: Vec<String>) -> Change {
        Action::WriteLines { path: self.file.clone(), owner: OWNER.into(), lines }.into()
    }

    fn pin(&self, inside: &[Endpoint], now: u64) -> Change {
        let expires = now + LIFETIME;
        self.write(
            inside.iter().flat_map(socket_addresses).map(|a| format!("to {a} until {expires}")).collect(),
        )
    }

    /// Without pins, the toy forwards to every instance.
    fn state(&self, answers: &[CommandResult], now: u64, endpoints: &[Endpoint]) -> ProxyState {
        let pins: Vec<Pin> = pins(&answers[0].stdout).into_iter().filter(|pin| pin.expires > now).collect();
        let is_routed = |e: &&Endpoint| {
            !e.addresses.is_empty()
                && (pins.is_empty() || count(e, pins.iter().map(|pin| pin.address.as_str())) > 0)
        };
        let connections = connections::parse(answers.get(2));
        let in_flight =
            |e: &Endpoint| (e.id.clone(), InFlight::Exact(connections::to_endpoint(&connections, e).len()));
        ProxyState {
            routed: endpoints.iter().filter(is_routed).map(|e| e.id.clone()).collect(),
            config_applied: true,
            in_flight: endpoints.iter().map(in_flight).collect(),
            ..ProxyState::default()
        }
    }
}

impl Proxy for Toy {
    fn place(&self) -> Place<'_> {
        Place::HostProcess { title: "toy", pid: std::process::id() }
    }

    fn routes_to(&self, _backend: &Backend) -> bool {
        true
    }

    fn route_to(&self, _backend: &Backend) -> RouteInfo {
        RouteInfo::default()
    }

    fn audit(&self, _shape: &RolloutShape, _planned: Option<&Planned>) -> Audit {
        Audit::default()
    }

    fn abilities(&self) -> Abilities {
        Abilities { renewal: Some(self.renewal), ..Abilities::default() }
    }

    fn queries(&self, goal: &Goal) -> Vec<Query> {
        vec![
            Query::HostFile(self.file.clone()),
            Query::Host(["date", "+%s"].map(String::from).to_vec()),
            Query::Sockets {
                of: Namespace::Process(std::process::id()),
                to: goal
                    .endpoints()
                    .iter()
                    .flat_map(|e| connections::remotes(e, &[e.port.unwrap_or(80)]))
                    .collect(),
            },
            Query::Exec(Exec::new("toy-helper", vec!["true".into()])),
        ]
    }

    fn advance(&self, answers: &[CommandResult], goal: &Goal) -> Result<(ProxyState, Next), Error> {
        let now = answers[1].stdout.trim().parse().expect("a time");
        let state = self.state(answers, now, &goal.endpoints());
        let has_helper = answers[3].ok();
        let helper = Helper { name: "toy-helper".into(), image: "toy".into(), ..Helper::default() };
        let next = match goal {
            Goal::Observed(_) => Next::Done,
            Goal::Patched(_) if has_helper => Next::Done,
            Goal::Patched(_) => Next::Finish(vec![Action::Start(helper).into()]),
            Goal::Gated(rotation) => Next::Finish(vec![self.pin(&rotation.inside, now)]),
            Goal::Rotation(rotation) => Next::Run(vec![self.pin(&rotation.inside, now)]),
            Goal::HandedBack(_) if pins(&answers[0].stdout).is_empty() && !has_helper => Next::Done,
            Goal::HandedBack(_) => {
                Next::Run(vec![self.write(Vec::new()), Action::Remove(helper.name).into()])
            }
        };
        Ok((state, next))
    }

    fn diagnose(&self) -> Query {
        Query::HostFile(self.file.clone())
    }
}

/// Files and sockets of this machine are real; the clock and the engine are not.
pub struct Machine {
    toy: Toy,
    dir: tempfile::TempDir,
    docker: Docker,
    now: u64,
    has_helper: bool,
    running: Vec<&'static str>,
}

pub fn simulation() -> Machine {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("toy.conf");
    std::fs::write(&file, "to 10.0.0.1:80 until 9 # of another\n").expect("a file");
    Machine {
        toy: Toy { file, renewal: Duration::ZERO },
        dir,
        docker: Docker::for_test("true".into(), ComposeFlags::default()),
        now: 1_000,
        has_helper: false,
        running: Vec::new(),
    }
}

impl Machine {
    fn file(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("toy.conf")).expect("a file")
    }
}

impl Simulation for Machine {
    fn proxy(&self) -> &dyn Proxy {
        &self.toy
    }

    fn answer(&self, query: &Query) -> CommandResult {
        match query {
            Query::Exec(_) => CommandResult { code: Some(i32::from(!self.has_helper)), ..output("") },
            Query::Host(_) => output(self.now.to_string()),
            here => effects::answer(&self.docker, here).expect("an answer"),
        }
    }

    fn run(&mut self, action: &Action) {
        self.has_helper = match action {
            Action::Start(_) => true,
            Action::Remove(_) => false,
            _ => self.has_helper,
        };
        assert!(effects::run(&self.docker, action).expect("a change").ok());
        assert!(self.file().starts_with("to 10.0.0.1:80 until 9 # of another\n"), "lines of others stay");
    }

    fn set_running(&mut self, running: &[&'static str]) {
        self.running = running.to_vec();
    }

    fn serving(&self) -> BTreeSet<&'static str> {
        let pins: Vec<Pin> = pins(&self.file()).into_iter().filter(|pin| pin.expires > self.now).collect();
        let is_pinned = |name: &&str| pins.iter().any(|pin| pin.address == format!("{}:3000", address(name)));
        self.running.iter().copied().filter(|name| pins.is_empty() || is_pinned(name)).collect()
    }
}

#[test]
fn a_goal_that_expires_is_renewed_while_the_run_waits() {
    let machine = simulation();
    let goal = || Goal::Rotation(rotation(endpoint(NEW, true), endpoint(OLD, true)));
    let keeper = Keeper::default();
    keeper.renew();
    assert_eq!(pins(&machine.file()).len(), 0, "nothing is kept");
    keeper.keep(Pursuit::new(&machine.docker, &machine.toy, goal()));
    keeper.renew();
    let first = pins(&machine.file()).pop().expect("a pin").expires;
    let later = std::fs::read_to_string(&machine.toy.file).unwrap().replace(&first.to_string(), "1");
    std::fs::write(&machine.toy.file, later).unwrap();
    keeper.renew();
    assert!(pins(&machine.file()).pop().expect("a pin").expires >= first);
    keeper.forget(&machine.toy);
    std::fs::write(&machine.toy.file, "").unwrap();
    keeper.renew();
    assert_eq!(machine.file(), "", "a forgotten goal is not renewed");
}

#[test]
fn connections_to_an_instance_are_its_requests_in_flight() {
    use std::net::{TcpListener, TcpStream};
    let machine = simulation();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let instance = Endpoint { addresses: vec![to.ip()], port: Some(to.port()), ..endpoint(OLD, true) };
    let goal = Goal::Observed(vec![instance]);
    assert_eq!(look(&machine, &goal).0.in_flight[OLD], InFlight::Exact(0));
    let _client = TcpStream::connect(to).unwrap();
    assert_eq!(look(&machine, &goal).0.in_flight[OLD], InFlight::Exact(1));
}
