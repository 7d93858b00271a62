//! Is it ready? Asked at our own pace, never slept for: over HTTP, or by the healthcheck's own command.

mod inside;

use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Result;
use reqwest::blocking::Client;

use crate::docker::inspect::{Container, Healthcheck};
use crate::docker::{Docker, Exec};
use crate::fault::Fault;
use crate::model::{Codes, HttpHealth, Pace};
use crate::wait::{self, Stop, Waited};

/// A connection on a bridge of this machine opens at once, or there is no way to it.
const CONNECT: Duration = Duration::from_secs(1);

/// How much of an answer is searched for `x-zd.health.body`, in bytes; no more of it is read.
const BODY_LIMIT: u64 = 64 << 10;

/// How much longer than its answer `docker exec` may take to start and to end; by ssh it is a connection of its own.
const EXEC_SLACK: Duration = Duration::from_secs(30);

/// The longest line of others that a message shows, in characters.
const LINE: usize = 500;

/// How many last lines of an instance that failed are shown.
const LOG_LINES: u32 = 10;

/// How an instance is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    Http(Http),
    /// The healthcheck's own command, run in the instance.
    Check(Vec<String>),
    /// There is nothing to ask, and nobody sends it requests: that it runs is enough.
    Running,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Http {
    pub health: HttpHealth,
    pub port: u16,
    /// The proxy in front of it, from where it is asked if nobody else can.
    pub via: Option<Arc<Container>>,
}

/// What a proxy in front of an instance knows of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Front<'a> {
    pub routed: bool,
    pub port: Option<u16>,
    pub host: Option<&'a str>,
    pub container: Option<&'a Container>,
}

/// Chooses how an instance is asked: as `x-zd.health` says, else by its healthcheck, else by `GET /` at the port that
/// the proxy uses; a worker without any of it only has to run.
///
/// # Errors
/// When there is nothing to ask, with what to set.
pub fn choose(
    service: &str,
    asked_for: Option<&HttpHealth>,
    container: &Container,
    front: Front,
) -> Result<Probe, Fault> {
    if !cfg!(feature = "tls") && asked_for.is_some_and(|h| h.scheme == "https") {
        return Err(Fault::usage(format!("`{service}`: this build of compose-zd cannot ask over https"))
            .hint("use a build with the feature `tls`, or set `x-zd.health.scheme` to `http`"));
    }
    let exposed = container.exposed_tcp();
    let only = (exposed.len() == 1).then(|| exposed[0]);
    let port = asked_for.and_then(|h| h.port).or(front.port).or(only);
    let check = container.healthcheck().map(Probe::Check);
    match (asked_for, check, port) {
        (Some(health), _, Some(port)) => Ok(http(health.clone(), port, front)),
        (None, Some(check), _) => Ok(check),
        (None, None, Some(port)) => Ok(http(answers(), port, front)),
        (None, None, None) if !front.routed => Ok(Probe::Running),
        (_, _, None) => Err(Fault::usage(format!(
            "`{service}` has no port to ask whether a new instance is ready"
        ))
        .hint(format!(
            "set `services.{service}.x-zd.health.port` (or `--health-port`), `expose` one port, or give it a `healthcheck`"
        ))
        .rule(&"no-readiness")),
    }
}

fn http(mut health: HttpHealth, port: u16, front: Front) -> Probe {
    health.host = health.host.or(front.host.map(String::from));
    Probe::Http(Http { health, port, via: front.container.cloned().map(Arc::new) })
}

/// Without anything better: it listens, and answers below 500.
fn answers() -> HttpHealth {
    HttpHealth {
        path: "/".into(),
        port: None,
        scheme: "http".into(),
        host: None,
        expect: Codes::any_below_500(),
        body: None,
    }
}

impl Http {
    fn url(&self, address: &str) -> String {
        format!("{}://{address}:{}{}", self.health.scheme, self.port, self.health.path)
    }

    /// What an answer means.
    fn judge(&self, url: &str, code: u16, body: &str) -> Answer {
        let said = |ready: bool, why: String| Answer { ready, text: format!("GET {url} → {code}{why}") };
        let missing = self.health.body.as_ref().filter(|b| !body.contains(b.as_str()));
        match (self.health.expect.contains(code), missing) {
            (false, _) => said(false, format!(", expected {}", self.health.expect)),
            (true, Some(text)) => said(false, format!(" without `{text}`")),
            (true, None) => said(true, String::new()),
        }
    }
}

impl Probe {
    /// Any answer below 500 is enough, because nothing better was asked for.
    pub fn is_weak(&self) -> bool {
        matches!(self, Probe::Http(http) if http.health.expect == Codes::any_below_500())
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Probe::Http(http) => write!(f, "GET {} at port {}", http.health.path, http.port),
            Probe::Check(_) => write!(f, "its healthcheck"),
            Probe::Running => write!(f, "whether it runs"),
        }
    }
}

/// One answer to a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub ready: bool,
    /// For people: what was asked and what came back.
    pub text: String,
}

/// Nobody can ask an instance, and waiting does not help; with what each way to it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unasked(Vec<String>);

/// From where an instance is asked over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From this machine.
    Here,
    /// In the instance itself.
    Inside,
    /// In the proxy in front of it.
    Proxy,
}

/// Asks instances.
pub struct Asker<'a> {
    docker: &'a Docker,
    client: Client,
    timeout: Duration,
    /// How one was asked last.
    known: Mutex<Option<Way>>,
    /// The engine is on another machine.
    elsewhere: OnceLock<bool>,
}

impl<'a> Asker<'a> {
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(docker: &'a Docker, timeout: Duration) -> Result<Self> {
        let builder = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(timeout)
            .connect_timeout(timeout.min(CONNECT))
            .pool_max_idle_per_host(0);
        // It is asked by its address, which no certificate names.
        #[cfg(feature = "tls")]
        let builder = builder.tls_danger_accept_invalid_certs(true);
        let (known, elsewhere) = Default::default();
        Ok(Asker { docker, client: builder.build()?, timeout, known, elsewhere })
    }

    /// # Errors
    /// An instance that nobody can ask.
    pub fn ask(&self, probe: &Probe, container: &Container) -> Result<Answer, Unasked> {
        match probe {
            Probe::Check(argv) => Ok(self.check(argv, container)),
            Probe::Http(http) => self.http(http, container),
            Probe::Running => Ok(Answer {
                ready: container.is_running(),
                text: format!("it is {}", container.state.status),
            }),
        }
    }

    fn check(&self, argv: &[String], container: &Container) -> Answer {
        if argv.is_empty() {
            return Answer { ready: true, text: "left to Docker".into() };
        }
        let limit = container.config.healthcheck.as_ref().map_or(self.timeout, Healthcheck::limit);
        let answer = |ready, text: String| Answer { ready, text: format!("healthcheck {text}") };
        match self.docker.exec_within(&Exec::of_user(&container.id, argv.to_vec()), limit) {
            Ok(Some(done)) => match (done.code, last_line(done.said())) {
                (Some(0), _) => answer(true, "→ 0".into()),
                (Some(code), said) => answer(false, format!("→ {code} {said}")),
                (None, said) => answer(false, format!("was killed {said}")),
            },
            Ok(None) => answer(false, format!("→ no answer within {}", humantime::format_duration(limit))),
            Err(error) => answer(false, format!("→ {error}")),
        }
    }

    /// Asks at the instance's own address: from this machine where its network is on it, else from inside, as its
    /// address may be somebody else's here (Docker Desktop, an engine elsewhere).
    fn http(&self, http: &Http, container: &Container) -> Result<Answer, Unasked> {
        let mut addresses = container.bridged();
        let Some(first) = addresses.next() else {
            return Ok(refused("it has no address yet".into()));
        };
        let near =
            [first.clone()].into_iter().chain(addresses).find(|(bridge, _)| is_here(bridge.as_deref()));
        let (is_near, (_, address)) = (near.is_some(), near.unwrap_or(first));
        let known = *self.known.lock().expect("nobody panicked");
        let mut lacks = Vec::new();
        for way in ways(is_near, known) {
            let asked = match way {
                Way::Here if !is_near && self.is_elsewhere() => {
                    Err("its address is one of another machine's networks".into())
                }
                Way::Here => self.ask_here(http, address),
                Way::Inside => self.ask_in(container, http, address, "inside it"),
                Way::Proxy => self.ask_in_proxy(http, container),
            };
            match asked {
                Ok(answer) => {
                    *self.known.lock().expect("nobody panicked") = Some(way);
                    return Ok(answer);
                }
                Err(why) => lacks.push(why),
            }
        }
        match is_near {
            // There is a way; it does not even take a connection.
            true => Ok(refused(lacks.swap_remove(0))),
            false => Err(Unasked(lacks)),
        }
    }

    fn is_elsewhere(&self) -> bool {
        *self.elsewhere.get_or_init(|| self.docker.whereabouts().is_elsewhere())
    }

    /// # Errors
    /// No way from this machine.
    fn ask_here(&self, http: &Http, address: IpAddr) -> Result<Answer, String> {
        let url = http.url(&bracketed(address));
        // Of the request, so that it is for all of it: that of the client begins anew with every piece of a body.
        let mut request = self.client.get(&url).timeout(self.timeout).header("user-agent", "compose-zd");
        if let Some(host) = &http.health.host {
            request = request.header("host", host);
        }
        match request.send() {
            Ok(response) => {
                let code = response.status().as_u16();
                let mut body = Vec::new();
                // A body that breaks off, or does not end in time, is judged by what came of it.
                let _ = response.take(BODY_LIMIT).read_to_end(&mut body);
                Ok(http.judge(&url, code, &String::from_utf8_lossy(&body)))
            }
            Err(error) if has_no_way(&error) => Err(format!("GET {url} → {}", cause(&error))),
            Err(error) => Ok(refused(format!("GET {url} → {}", cause(&error)))),
        }
    }

    /// # Errors
    /// No proxy, or none that can ask.
    fn ask_in_proxy(&self, http: &Http, container: &Container) -> Result<Answer, String> {
        let Some(proxy) = &http.via else {
            return Err("no proxy is in front of it".into());
        };
        let Some(address) = container.addresses_reached_from(proxy).into_iter().next() else {
            return Err(format!("{} shares no network with it", proxy.name()));
        };
        self.ask_in(proxy, http, address, &format!("in {}", proxy.name()))
    }

    /// # Errors
    /// A container that has nothing to ask with.
    fn ask_in(&self, asker: &Container, http: &Http, address: IpAddr, place: &str) -> Result<Answer, String> {
        let authority = bracketed(address);
        let url = http.url(&authority);
        let shown = format!("{url} {place}");
        let request = inside::Request {
            url: &url,
            host: http.health.host.as_deref().unwrap_or(&authority),
            address: &address.to_string(),
            port: http.port,
            path: &http.health.path,
            timeout: self.timeout,
            bytes: BODY_LIMIT,
        };
        match self.docker.exec_within(&inside::question(&asker.id, &request), self.timeout + EXEC_SLACK) {
            Ok(None) => Ok(refused(format!("GET {shown} → no answer in time"))),
            Ok(Some(done)) if inside::cannot(&done) => {
                Err(format!("there is neither curl, wget nor bash {place}"))
            }
            Ok(Some(done)) => Ok(match inside::read(&done.stdout) {
                Some((code, body)) => http.judge(&shown, code, body),
                None => refused(format!("GET {shown} → {}", last_line(done.said()))),
            }),
            Err(error) => Ok(refused(format!("GET {shown} → {error}"))),
        }
    }
}

/// The ways to try, in order: one that was found goes first.
fn ways(is_near: bool, known: Option<Way>) -> Vec<Way> {
    let mut ways = match is_near {
        true => vec![Way::Here, Way::Inside, Way::Proxy],
        false => vec![Way::Inside, Way::Proxy, Way::Here],
    };
    ways.sort_by_key(|way| Some(*way) != known);
    ways
}

/// Whether a bridge is one of this machine's. Its name is made of the network's id, which no other engine gives; an
/// address alone says nothing, as every engine gives the same.
fn is_here(bridge: Option<&str>) -> bool {
    bridge.is_none_or(|name| Path::new("/sys/class/net").join(name).exists())
}

fn refused(text: String) -> Answer {
    Answer { ready: false, text }
}

fn last_line(text: &str) -> String {
    shortened(text.lines().last().unwrap_or("").trim())
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(LINE) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line.into(),
    }
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// A refused connection comes from the instance itself; no route or no answer at all to a connect comes from between.
fn has_no_way(error: &reqwest::Error) -> bool {
    let refused = cause(error).to_lowercase().contains("refused");
    error.is_connect() && !refused
}

/// The innermost cause, which reqwest's own text leaves out.
fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    match error.is_timeout() {
        true => "no answer in time".into(),
        false => inner.to_string(),
    }
}

/// A new instance that has to get ready.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub name: String,
    pub id: String,
    pub probe: Probe,
}

/// What is known of a candidate while it is waited for.
#[derive(Default)]
struct Progress {
    good: u32,
    asked: u32,
    last: String,
    ended: bool,
}

/// Those that failed, and why; more may have, had they been waited for.
#[derive(Debug)]
pub struct Unready {
    pub ids: Vec<String>,
    pub fault: Fault,
}

impl Unready {
    fn of(id: &str, fault: Fault) -> Unready {
        Unready { ids: vec![id.into()], fault }
    }

    /// Both in one: the first one's words, and what was seen of the other.
    fn add(all: &mut Option<Unready>, other: Unready) {
        let Some(first) = all else {
            *all = Some(other);
            return;
        };
        first.ids.extend(other.ids);
        first.fault.details.push(other.fault.message);
        first.fault.details.extend(other.fault.details);
    }
}

/// Waits until all are ready; `told` hears of each as it gets there. Up to `tolerated` may fail without ending the wait
/// for the others.
///
/// An instance that exits, restarts or turns unhealthy fails at once; the deadline fails all that are not ready. What
/// failed is told with the last answers and the last log lines. `seen` are their containers where they were read just now.
///
/// # Errors
/// No engine; an interrupt.
pub fn wait_until_ready(
    docker: &Docker,
    (candidates, mut seen): (&[Candidate], Option<Vec<Container>>),
    pace: &Pace,
    tolerated: usize,
    stop: &Stop,
    told: impl Fn(&Candidate, &Answer),
) -> Result<Option<Unready>> {
    let asker = Asker::new(docker, pace.timeout)?;
    let mut progress: Vec<Progress> = candidates.iter().map(|_| Progress::default()).collect();
    let mut dead: Option<Unready> = None;
    let waited = wait::until(pace.interval, pace.deadline, stop, || -> Result<Option<()>> {
        let open: Vec<usize> = (0..candidates.len()).filter(|n| progress[*n].is_open(pace)).collect();
        for (n, turn) in open.iter().zip(ask_all(&asker, candidates, &open, seen.take())?) {
            let (candidate, progress) = (&candidates[*n], &mut progress[*n]);
            match turn {
                Turn::Answered(answer) if progress.hear(&answer) == pace.successes => {
                    told(candidate, &answer)
                }
                Turn::Answered(_) => {}
                Turn::Ended(end) => {
                    progress.ended = true;
                    Unready::add(&mut dead, Unready::of(&candidate.id, died(docker, candidate, &end)));
                }
            }
        }
        let too_many = dead.as_ref().is_some_and(|d| d.ids.len() > tolerated);
        Ok((too_many || !progress.iter().any(|p| p.is_open(pace))).then_some(()))
    })?;
    match waited {
        Waited::Done(()) => Ok(dead),
        Waited::Interrupted(signal) => Err(Fault::interrupted(signal).into()),
        Waited::TimedOut => Ok(Some(too_late(docker, candidates, &progress, pace, dead))),
    }
}

impl Progress {
    fn is_open(&self, pace: &Pace) -> bool {
        !self.ended && self.good < pace.successes
    }

    /// Takes an answer in, and tells how many in a row were good.
    fn hear(&mut self, answer: &Answer) -> u32 {
        self.asked += 1;
        self.good = match answer.ready {
            true => self.good + 1,
            false => 0,
        };
        self.last = answer.text.clone();
        self.good
    }
}

/// What one look at an instance gave.
enum Turn {
    Answered(Answer),
    Ended(End),
}

/// Looks at the containers of those that are open, and asks those that live side by side.
fn ask_all(
    asker: &Asker,
    candidates: &[Candidate],
    open: &[usize],
    seen: Option<Vec<Container>>,
) -> Result<Vec<Turn>> {
    let ids = || open.iter().map(|n| candidates[*n].id.clone()).collect::<Vec<_>>();
    let containers = seen.map_or_else(|| asker.docker.inspect(&ids()), Ok)?;
    let one = |n: &usize| {
        let candidate = &candidates[*n];
        let Some(container) = containers.iter().find(|c| c.id == candidate.id) else {
            return Turn::Ended(End::Other("it was removed".into()));
        };
        match ended(container, &candidate.probe) {
            Some(end) => Turn::Ended(end),
            None => match asker.ask(&candidate.probe, container) {
                Ok(answer) => Turn::Answered(answer),
                Err(unasked) => Turn::Ended(End::Unasked(unasked)),
            },
        }
    };
    Ok(std::thread::scope(|scope| {
        let threads: Vec<_> = open.iter().map(|n| scope.spawn(move || one(n))).collect();
        threads.into_iter().map(|t| t.join().expect("no panic in a probe")).collect()
    }))
}

/// An instance that was ready, and that still counts if it fails.
pub struct Watched {
    candidate: Candidate,
    ready: Instant,
    /// When it was looked at last.
    seen: Instant,
    misses: u32,
}

impl Watched {
    pub fn new(candidate: Candidate) -> Self {
        let now = Instant::now();
        Watched { candidate, ready: now, seen: now, misses: 0 }
    }

    pub fn id(&self) -> &String {
        &self.candidate.id
    }

    pub fn name(&self) -> &str {
        &self.candidate.name
    }

    /// Until it was seen at the end of its time: a drain in between may take longer than that.
    fn is_due(&self, monitor: Duration) -> bool {
        self.seen.duration_since(self.ready) <= monitor
    }

    /// For how much longer it is watched.
    pub fn left(&self, monitor: Duration) -> Duration {
        monitor.saturating_sub(self.ready.elapsed())
    }
}

/// Bad answers in a row that make an instance count as failed after it was ready: Docker's own default (`retries`).
const MISSES: u32 = 3;

/// Looks once more at those that were not yet seen to have lived through `monitor`. A healthcheck is left to Docker's own turns here.
///
/// # Errors
/// No engine.
pub fn look_again(
    docker: &Docker,
    watched: &mut [Watched],
    monitor: Duration,
    pace: &Pace,
) -> Result<Option<Unready>> {
    let asker = Asker::new(docker, pace.timeout)?;
    let mut failed: Option<Unready> = None;
    let recent: Vec<&mut Watched> = watched.iter_mut().filter(|w| w.is_due(monitor)).collect();
    let candidates: Vec<Candidate> = recent.iter().map(|w| w.candidate.without_check()).collect();
    let all: Vec<usize> = (0..candidates.len()).collect();
    for (one, turn) in recent.into_iter().zip(ask_all(&asker, &candidates, &all, None)?) {
        if let Some(fault) = one.judge(docker, turn) {
            Unready::add(&mut failed, Unready::of(&one.candidate.id, fault));
        }
    }
    Ok(failed)
}

impl Candidate {
    /// Running a healthcheck's command costs a process in the instance, and Docker runs it anyway.
    fn without_check(&self) -> Candidate {
        match self.probe {
            Probe::Check(_) => Candidate { probe: Probe::Check(Vec::new()), ..self.clone() },
            _ => self.clone(),
        }
    }
}

impl Watched {
    fn judge(&mut self, docker: &Docker, turn: Turn) -> Option<Fault> {
        self.seen = Instant::now();
        match turn {
            Turn::Ended(end) => Some(failed_later(docker, &self.candidate, &end)),
            Turn::Answered(answer) if answer.ready => {
                self.misses = 0;
                None
            }
            Turn::Answered(answer) => {
                self.misses += 1;
                (self.misses >= MISSES).then(|| {
                    failed_later(
                        docker,
                        &self.candidate,
                        &End::Other(format!("it stopped answering as ready: {}", answer.text)),
                    )
                })
            }
        }
    }
}

/// How an instance ended before it was ready, if it did.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Exited { code: i32, out_of_memory: bool },
    Restarted,
    Unhealthy,
    Unasked(Unasked),
    Other(String),
}

fn ended(container: &Container, probe: &Probe) -> Option<End> {
    let state = &container.state;
    let unhealthy = state.health.as_ref().is_some_and(|h| h.status == "unhealthy");
    match state.status.as_str() {
        "exited" | "dead" => Some(End::Exited { code: state.exit_code, out_of_memory: state.oom_killed }),
        "paused" | "removing" => Some(End::Other(format!("it is {}", state.status))),
        _ if state.status == "restarting" || container.restart_count > 0 => Some(End::Restarted),
        _ if unhealthy && matches!(probe, Probe::Check(_)) => Some(End::Unhealthy),
        _ => None,
    }
}

impl End {
    /// In words; `code` is the last exit code that the engine remembers.
    fn explain(&self, code: Option<i32>) -> String {
        match (self, code) {
            (End::Exited { code, out_of_memory: true }, _) => {
                format!("it exited with code {code}, out of memory")
            }
            (End::Exited { code, .. }, _) => format!("it exited with code {code}"),
            (End::Restarted, Some(code)) => format!("it exited with code {code} and was restarted"),
            (End::Restarted, None) => "it exited and was restarted".into(),
            (End::Unhealthy, _) => "its healthcheck failed for good".into(),
            (End::Unasked(_), _) => "nobody can ask it whether it is".into(),
            (End::Other(text), _) => text.clone(),
        }
    }
}

fn died(docker: &Docker, candidate: &Candidate, end: &End) -> Fault {
    if let End::Unasked(Unasked(lacks)) = end {
        return unasked(candidate, lacks);
    }
    let code = docker.last_exit_code(&candidate.id).ok().flatten();
    let fault = Fault::unchanged(format!("{} did not get ready: {}", candidate.name, end.explain(code)));
    with_logs(fault, docker, candidate)
}

fn unasked(candidate: &Candidate, lacks: &[String]) -> Fault {
    let fault = Fault::unchanged(format!("nobody can ask {} whether it is ready", candidate.name));
    lacks.iter().fold(fault, |fault, why| fault.seen(why)).hint(
        "give the service a `healthcheck` whose command its image has, which is run in the instance, and leave \
         `x-zd.health` out; or put curl or wget into its image or into the proxy's",
    )
}

fn failed_later(docker: &Docker, candidate: &Candidate, end: &End) -> Fault {
    let code = docker.last_exit_code(&candidate.id).ok().flatten();
    let fault =
        Fault::unchanged(format!("{} failed after it was ready: {}", candidate.name, end.explain(code)));
    with_logs(fault, docker, candidate)
}

/// All that are not ready at the deadline, beside those that died before.
fn too_late(
    docker: &Docker,
    candidates: &[Candidate],
    progress: &[Progress],
    pace: &Pace,
    dead: Option<Unready>,
) -> Unready {
    let late: Vec<_> = candidates.iter().zip(progress).filter(|(_, p)| p.is_open(pace)).collect();
    let mut fault = Fault::unchanged(format!(
        "{} of {} new instances {} not ready after {}",
        late.len(),
        candidates.len(),
        if late.len() == 1 { "is" } else { "are" },
        humantime::format_duration(pace.deadline)
    ));
    let ids = late.iter().map(|(candidate, _)| candidate.id.clone()).collect();
    for (candidate, progress) in late {
        fault = fault.seen(&format!("{}: {} ({} times)", candidate.name, progress.last, progress.asked));
        fault = with_logs(fault, docker, candidate);
    }
    let fault = fault.hint(
        "see what a new instance answers, or set another `x-zd.health` (`--health-path`, `--health-deadline`)",
    );
    let mut all = Some(Unready { ids, fault });
    dead.into_iter().for_each(|d| Unready::add(&mut all, d));
    all.expect("those that are late")
}

fn with_logs(fault: Fault, docker: &Docker, candidate: &Candidate) -> Fault {
    let lines = docker.logs(&candidate.id, LOG_LINES).unwrap_or_default();
    match lines.is_empty() {
        true => fault.seen(&format!("{} printed nothing", candidate.name)),
        false => fault
            .seen(&format!("last lines of {}:", candidate.name))
            .seen(&lines.iter().map(|l| format!("  {}\n", shortened(l))).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(json: &str) -> Container {
        serde_json::from_str(json).unwrap()
    }

    fn health(body: Option<&str>) -> HttpHealth {
        HttpHealth {
            path: "/up".into(),
            body: body.map(String::from),
            expect: Codes::parse("200-399").unwrap(),
            ..answers()
        }
    }

    const CHECKED: &str =
        r#"{"Config": {"Healthcheck": {"Test": ["CMD", "ok"]}, "ExposedPorts": {"80/tcp": {}}}}"#;
    const FRONT: Front = Front { routed: true, port: Some(3000), host: None, container: None };
    const PLAIN: &str = r#"{"Config": {"ExposedPorts": {"80/tcp": {}}}}"#;

    #[test]
    fn what_was_asked_for_goes_before_the_healthcheck_and_that_before_the_proxys_port() {
        let probe = |asked: Option<&HttpHealth>, json| choose("app", asked, &container(json), FRONT).unwrap();
        assert_eq!(probe(Some(&health(None)), CHECKED).to_string(), "GET /up at port 3000");
        assert_eq!(probe(None, CHECKED).to_string(), "its healthcheck");
        assert_eq!(probe(None, PLAIN).to_string(), "GET / at port 3000");
    }

    #[test]
    fn a_service_without_a_port_is_told_what_to_set() {
        let routed = Front { port: None, ..FRONT };
        let fault = choose("app", Some(&health(None)), &container("{}"), routed).unwrap_err();
        assert!(fault.to_string().contains("services.app.x-zd.health.port"), "{fault}");
        assert!(choose("app", None, &container("{}"), routed).is_err());
        assert!(choose("app", None, &container(PLAIN), routed).is_ok());
        assert_eq!(choose("worker", None, &container("{}"), Front::default()), Ok(Probe::Running));
    }

    #[test]
    fn an_answer_is_judged_by_code_and_body() {
        let judge = |body, code, text: &str| {
            let http = Http { health: health(body), port: 80, via: None };
            http.judge("u", code, text)
        };
        assert!(judge(None, 204, "").ready);
        assert_eq!(judge(None, 503, "").text, "GET u → 503, expected 200-399");
        assert!(judge(Some("ok"), 200, "it is ok").ready);
        assert_eq!(judge(Some("ok"), 200, "no").text, "GET u → 200 without `ok`");
    }

    #[test]
    fn an_instance_that_ended_is_not_waited_for() {
        let http = Probe::Http(Http { health: health(None), port: 80, via: None });
        let check = Probe::Check(vec![]);
        let how = |json: &str, probe: &Probe| ended(&container(json), probe).map(|e| e.explain(Some(3)));
        assert_eq!(how(r#"{"State": {"Status": "running"}}"#, &http), None);
        let exited = r#"{"State": {"Status": "exited", "ExitCode": 137, "OOMKilled": true}}"#;
        assert_eq!(how(exited, &http).unwrap(), "it exited with code 137, out of memory");
        let restarted = r#"{"RestartCount": 1, "State": {"Status": "running", "ExitCode": 0}}"#;
        assert_eq!(how(restarted, &http).unwrap(), "it exited with code 3 and was restarted");
        let unhealthy = r#"{"State": {"Status": "running", "Health": {"Status": "unhealthy"}}}"#;
        assert_eq!(how(unhealthy, &http), None);
        assert!(how(unhealthy, &check).is_some());
    }

    #[test]
    fn an_instance_is_looked_at_until_it_was_seen_at_the_end_of_its_time() {
        let probe = Probe::Running;
        let mut watched = Watched::new(Candidate { name: "app-1".into(), id: "1".into(), probe });
        let monitor = Duration::from_secs(5);
        let at = |seconds| watched.ready + Duration::from_secs(seconds);
        let (within, long_after) = (at(5), at(60));
        assert!(watched.is_due(monitor), "whatever the time is by now");
        watched.seen = within;
        assert!(watched.is_due(monitor));
        watched.seen = long_after;
        assert!(!watched.is_due(monitor));
    }

    #[test]
    fn an_address_is_asked_from_here_only_where_its_bridge_is_here() {
        assert!(is_here(Some("lo")) && is_here(None));
        assert!(!is_here(Some("br-000000000000")));
        let json = r#"{"NetworkSettings": {"Networks": {
            "a": {"NetworkID": "0123456789abcdef", "IPAddress": "172.19.0.5"}, "b": {"IPAddress": "10.0.0.2"}}}}"#;
        let read = container(json);
        let bridges: Vec<_> = read.bridged().map(|(bridge, address)| (bridge, address.to_string())).collect();
        assert_eq!(
            bridges,
            [(Some("br-0123456789ab".into()), "172.19.0.5".into()), (None, "10.0.0.2".into())]
        );
    }

    #[test]
    fn a_way_that_was_found_goes_first() {
        assert_eq!(ways(true, None), [Way::Here, Way::Inside, Way::Proxy]);
        assert_eq!(ways(false, None), [Way::Inside, Way::Proxy, Way::Here]);
        assert_eq!(ways(false, Some(Way::Proxy)), [Way::Proxy, Way::Inside, Way::Here]);
    }

    #[test]
    fn an_instance_that_nobody_can_ask_is_told_with_what_is_lacking_and_the_fix() {
        let candidate = Candidate { name: "app-1".into(), id: "1".into(), probe: Probe::Running };
        let fault = unasked(&candidate, &["there is neither curl".into(), "no proxy".into()]);
        assert_eq!(fault.details, ["there is neither curl", "no proxy"]);
        assert!(fault.hint.unwrap().contains("`healthcheck`"));
    }

    mod properties {
        use super::*;

        #[test]
        fn whatever_an_instance_answers_inside_is_read_as_it_is() {
            let body = crate::fuzz::damaged(vec!["hello\n\nHTTP/1.1 200 OK\n  HTTP/1.1 200 OK\n".into()]);
            crate::fuzz::holds((body, 200u16..600), |(body, code)| {
                let text = format!("HTTP/1.1 {code} Said\r\nServer: x\r\n\r\n{body}");
                crate::fuzz::same(&inside::read(&text), &Some((code, body.as_str())))?;
                let _ = inside::read(&body);
                Ok(())
            });
        }
    }
}

#[cfg(test)]
#[path = "health/hostile.rs"]
mod hostile;
