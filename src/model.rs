//! What is wanted: the project as Compose resolved it, its pairs, and the settings with their defaults. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_yaml::Value;

/// What a deploy may be asked for: `x-zd` of the project or a service, or the flags. Nothing is required.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zd {
    pub health: Option<ZdHealth>,
    pub drain: Option<ZdDrain>,
    pub proxy: Option<ZdProxy>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZdHealth {
    pub path: Option<String>,
    pub port: Option<u16>,
    pub scheme: Option<String>,
    pub host: Option<String>,
    #[serde(default, deserialize_with = "text_or_number")]
    pub expect: Option<String>,
    pub body: Option<String>,
    #[serde(default, deserialize_with = "duration")]
    pub interval: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    pub deadline: Option<Duration>,
    pub successes: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZdDrain {
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    pub command: Option<Words>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZdProxy {
    pub container: Option<String>,
    pub kind: Option<String>,
    pub tune: Option<bool>,
}

/// A command as Compose takes it: words, or one line for the shell.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Words {
    Line(String),
    List(Vec<String>),
}

impl Words {
    /// The argv; a line is run by `sh -c`. Compose's doubled `$$` becomes `$`.
    pub fn argv(&self) -> Vec<String> {
        match self {
            Words::Line(line) => vec!["sh".into(), "-c".into(), undouble(line)],
            Words::List(words) => words.iter().map(|w| undouble(w)).collect(),
        }
    }
}

/// The `x-zd` of the project: the defaults of its services, and the pairs.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProjectZd {
    health: Option<ZdHealth>,
    drain: Option<ZdDrain>,
    proxy: Option<ZdProxy>,
    #[serde(default)]
    pairs: BTreeMap<String, [String; 2]>,
}

#[derive(Deserialize)]
struct RawProject {
    name: String,
    #[serde(default)]
    services: BTreeMap<String, RawService>,
    #[serde(rename = "x-zd")]
    zd: Option<Value>,
    #[serde(default)]
    secrets: BTreeMap<String, Value>,
    #[serde(default)]
    configs: BTreeMap<String, Value>,
    #[serde(default)]
    networks: BTreeMap<String, RawNetwork>,
}

#[derive(Deserialize)]
struct RawNetwork {
    name: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawService {
    image: Option<String>,
    build: Option<Value>,
    scale: Option<u32>,
    container_name: Option<String>,
    network_mode: Option<String>,
    networks: BTreeMap<String, Value>,
    ports: Vec<RawPort>,
    expose: Vec<Value>,
    healthcheck: Option<RawHealthcheck>,
    environment: BTreeMap<String, Option<Value>>,
    depends_on: BTreeMap<String, RawDependency>,
    post_start: Vec<Hook>,
    pre_stop: Vec<Hook>,
    secrets: Vec<RawGrant>,
    configs: Vec<RawGrant>,
    deploy: RawDeploy,
    #[serde(rename = "x-zd")]
    zd: Option<Value>,
}

#[derive(Deserialize)]
struct RawHealthcheck {
    #[serde(default)]
    test: Vec<String>,
    #[serde(default)]
    disable: bool,
}

#[derive(Deserialize)]
struct RawPort {
    target: u16,
    protocol: Option<String>,
    published: Option<Value>,
}

#[derive(Deserialize)]
struct RawDependency {
    condition: String,
}

#[derive(Deserialize)]
struct RawGrant {
    source: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawDeploy {
    replicas: Option<u32>,
    update_config: BTreeMap<String, Value>,
}

/// One of Compose's lifecycle hooks, run by `docker exec`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Hook {
    pub command: Words,
    pub user: Option<String>,
    #[serde(default)]
    pub privileged: bool,
    pub working_dir: Option<String>,
    #[serde(default)]
    pub environment: BTreeMap<String, Option<String>>,
}

/// A project as `docker compose config` resolved it.
#[derive(Debug)]
pub struct Project {
    pub name: String,
    pub services: BTreeMap<String, Service>,
    pub pairs: Vec<Pair>,
}

/// Two services that are sides of one app; declared in `x-zd.pairs`, or recognised by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub name: String,
    pub sides: [String; 2],
}

#[derive(Debug)]
pub struct Service {
    pub name: String,
    /// The image reference that Compose runs; `PROJECT-SERVICE` where only `build` is given.
    pub image: String,
    pub builds: bool,
    /// `deploy.replicas` or `scale`; `None` keeps as many as run.
    pub replicas: Option<u32>,
    pub container_name: Option<String>,
    pub network_mode: Option<String>,
    /// Names of its networks, as the engine knows them.
    pub networks: Vec<String>,
    /// Host ports that only one container can have.
    pub fixed_ports: Vec<String>,
    /// Ports of its containers that the file names, as `3000/tcp`.
    pub exposed: Vec<String>,
    /// The test of its healthcheck; `NONE` switches the image's off, and nothing leaves it.
    pub healthcheck: Option<Vec<String>>,
    pub environment: BTreeMap<String, String>,
    /// Services it depends on, and whether they only have to run to their end.
    pub depends_on: BTreeMap<String, Completes>,
    pub post_start: Vec<Hook>,
    pub pre_stop: Vec<Hook>,
    /// Compose has to start it itself: it copies secrets or configs in at that moment.
    pub starts_by_compose: bool,
    pub order: Order,
    /// Instances replaced at a time; 0 is all at once.
    pub parallelism: u32,
    /// `update_config` keys that this version does not follow.
    pub not_followed: Vec<String>,
    pub settings: Settings,
}

/// Whether a dependency is satisfied by having completed (`service_completed_successfully`).
pub type Completes = bool;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    StartFirst,
    StopFirst,
}

/// Everything that has a default, resolved for one service.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The HTTP probe, where one was asked for.
    pub http: Option<HttpHealth>,
    pub pace: Pace,
    pub drain_timeout: Duration,
    pub drain_command: Option<Vec<String>>,
    pub proxy: ZdProxy,
}

/// How often, how long and how many times in a row an instance is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    pub interval: Duration,
    pub timeout: Duration,
    pub deadline: Duration,
    pub successes: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct HttpHealth {
    pub path: String,
    pub port: Option<u16>,
    pub scheme: String,
    pub host: Option<String>,
    pub expect: Codes,
    pub body: Option<String>,
}

/// Status codes that count as ready, as inclusive ranges.
#[derive(Debug, Clone, PartialEq)]
pub struct Codes(Vec<(u16, u16)>);

impl Codes {
    /// Any answer below 500: something listens and works, whatever it thinks of the question.
    pub fn any_below_500() -> Self {
        Codes(vec![(100, 499)])
    }

    pub fn contains(&self, code: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&code))
    }

    /// Reads `200`, `200-399` or `200,204,300-399`.
    pub fn parse(text: &str) -> Option<Self> {
        let code = |t: &str| t.trim().parse().ok().filter(|c| (100..=599).contains(c));
        let range = |part: &str| match part.split_once('-') {
            Some((a, b)) => Some((code(a)?, code(b)?)).filter(|(a, b)| a <= b),
            None => code(part).map(|c| (c, c)),
        };
        text.split(',').map(range).collect::<Option<_>>().map(Codes)
    }
}

impl fmt::Display for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |(a, b): &(u16, u16)| match a == b {
            true => a.to_string(),
            false => format!("{a}-{b}"),
        };
        let all: Vec<_> = self.0.iter().map(one).collect();
        write!(f, "{}", all.join(","))
    }
}

/// A key of the configuration that is wrong, and how to put it right.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    pub message: String,
    pub hint: String,
}

/// Something in the file that keeps two instances of a service from running side by side.
#[derive(Debug, PartialEq, Eq)]
pub enum Obstacle {
    ContainerName(String),
    FixedPort(String),
    NetworkMode(String),
}

impl Hook {
    /// The options of the `docker exec` that runs it.
    pub fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        let mut add = |flag: &str, value: String| options.extend([flag.to_string(), value]);
        for (name, value) in &self.environment {
            let value = value.as_deref().map(undouble);
            add("--env", value.map_or(name.clone(), |v| format!("{name}={v}")));
        }
        self.user.iter().for_each(|user| add("--user", user.clone()));
        self.working_dir.iter().for_each(|dir| add("--workdir", dir.clone()));
        options.extend(self.privileged.then(|| "--privileged".to_string()));
        options
    }
}

impl Project {
    /// Reads the YAML of `docker compose config`; `source` names the file in messages, `flags` override every service.
    ///
    /// # Errors
    /// An `x-zd` key that is unknown, of the wrong type or impossible, and a pair of services that are not there.
    pub fn read(yaml: &str, source: &str, flags: &Zd) -> Result<Project, Wrong> {
        let raw: RawProject = serde_yaml::from_str(yaml).map_err(|e| Wrong {
            message: format!("{source}: cannot read what `docker compose config` printed: {e}"),
            hint: "please report this with the output of `docker compose version`".into(),
        })?;
        let zd: ProjectZd = read_zd(raw.zd.as_ref(), source, "x-zd")?;
        let defaults = Zd { health: zd.health, drain: zd.drain, proxy: zd.proxy };
        let context = Context { project: &raw, source, defaults: &defaults, flags };
        let mut services = BTreeMap::new();
        for (name, service) in &raw.services {
            services.insert(name.clone(), Service::read(name, service, &context)?);
        }
        Ok(Project { pairs: pairs(&raw.services, zd.pairs, source)?, name: raw.name, services })
    }

    /// The pair that a name stands for: the pair's own, or one of its sides'.
    pub fn pair(&self, name: &str) -> Option<&Pair> {
        self.pairs.iter().find(|p| p.name == name || p.sides.iter().any(|s| s == name))
    }
}

/// What the services of a project are read with.
struct Context<'a> {
    project: &'a RawProject,
    source: &'a str,
    defaults: &'a Zd,
    flags: &'a Zd,
}

impl Context<'_> {
    /// Whether Compose itself copies content into the container when it starts it: a secret or config that is made of
    /// an environment variable or of text.
    fn is_made_at_start(&self, service: &RawService) -> bool {
        let made = |grant: &RawGrant, all: &BTreeMap<String, Value>| {
            let keys = ["environment", "content"];
            all.get(&grant.source).is_some_and(|d| keys.iter().any(|k| d.get(k).is_some()))
        };
        service.secrets.iter().any(|g| made(g, &self.project.secrets))
            || service.configs.iter().any(|g| made(g, &self.project.configs))
    }

    /// The engine's names of a service's networks.
    fn networks(&self, service: &RawService) -> Vec<String> {
        let full = |key: &String| {
            let named = self.project.networks.get(key).and_then(|n| n.name.clone());
            named.unwrap_or_else(|| format!("{}_{key}", self.project.name))
        };
        service.networks.keys().map(full).collect()
    }
}

impl Service {
    fn read(name: &str, raw: &RawService, context: &Context) -> Result<Service, Wrong> {
        let key = format!("services.{name}.x-zd");
        let own: Zd = read_zd(raw.zd.as_ref(), context.source, &key)?;
        let settings = Settings::resolve(context.flags.over(&own).over(context.defaults))
            .map_err(|(field, hint)| wrong_setting(context.source, name, &field, hint))?;
        let update = &raw.deploy.update_config;
        Ok(Service {
            name: name.into(),
            image: raw.image.clone().unwrap_or_else(|| format!("{}-{name}", context.project.name)),
            builds: raw.build.is_some(),
            replicas: raw.scale.or(raw.deploy.replicas),
            container_name: raw.container_name.clone(),
            network_mode: raw.network_mode.clone(),
            networks: context.networks(raw),
            fixed_ports: raw.ports.iter().filter_map(RawPort::fixed).collect(),
            exposed: exposed(raw),
            healthcheck: raw.healthcheck.as_ref().and_then(RawHealthcheck::test),
            environment: raw.environment.iter().filter_map(variable).collect(),
            depends_on: raw.depends_on.iter().map(dependency).collect(),
            post_start: raw.post_start.clone(),
            pre_stop: raw.pre_stop.clone(),
            starts_by_compose: context.is_made_at_start(raw),
            order: match update.get("order").and_then(Value::as_str) {
                Some("stop-first") => Order::StopFirst,
                _ => Order::StartFirst,
            },
            parallelism: update.get("parallelism").and_then(Value::as_u64).unwrap_or(0) as u32,
            not_followed: update.iter().filter(|(k, v)| !followed(k, v)).map(|(k, _)| k.clone()).collect(),
            settings,
        })
    }

    /// What keeps a second instance from running beside the first.
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let name = self.container_name.iter().cloned().map(Obstacle::ContainerName);
        let ports = self.fixed_ports.iter().cloned().map(Obstacle::FixedPort);
        let mode = self.network_mode.iter().cloned().map(Obstacle::NetworkMode);
        let own_network = |o: &Obstacle| !matches!(o, Obstacle::NetworkMode(m) if m == "bridge");
        name.chain(ports).chain(mode.filter(own_network)).collect()
    }

    /// The services it needs, and theirs, each with whether having completed is enough.
    pub fn needs<'a>(&'a self, project: &'a Project) -> BTreeMap<&'a str, Completes> {
        let mut found = BTreeMap::new();
        let mut open = vec![self];
        while let Some(service) = open.pop() {
            for (name, completes) in &service.depends_on {
                if found.insert(name.as_str(), *completes).is_none() {
                    open.extend(project.services.get(name));
                }
            }
        }
        found
    }
}

impl Obstacle {
    /// What is wrong and its fix, for one service.
    pub fn explain(&self, service: &str) -> (String, String) {
        match self {
            Obstacle::ContainerName(name) => (
                format!(
                    "`{service}` has `container_name: {name}`, so a new instance cannot start beside the old one"
                ),
                format!(
                    "remove `services.{service}.container_name`; other containers reach it by its service name `{service}`"
                ),
            ),
            Obstacle::FixedPort(port) => (
                format!("`{service}` publishes host port {port}, which only one instance can have"),
                format!(
                    "remove `{port}:…` from `services.{service}.ports` and let the proxy reach the container's own port (`expose`)"
                ),
            ),
            Obstacle::NetworkMode(mode) => (
                format!(
                    "`{service}` has `network_mode: {mode}`, so its instances share one address and cannot be told apart"
                ),
                format!(
                    "remove `services.{service}.network_mode` and put the service on a network that it shares with the proxy"
                ),
            ),
        }
    }
}

impl RawPort {
    /// A published port that is one number; an empty one or a range is Docker's to choose from.
    fn fixed(&self) -> Option<String> {
        let text = match self.published.as_ref()? {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        text.parse::<u16>().ok().filter(|p| *p > 0).map(|_| text)
    }
}

impl RawHealthcheck {
    fn test(&self) -> Option<Vec<String>> {
        match self.disable {
            true => Some(vec!["NONE".into()]),
            false if self.test.is_empty() => None,
            false => Some(self.test.iter().map(|w| undouble(w)).collect()),
        }
    }
}

fn exposed(raw: &RawService) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::Number(number) => number.to_string(),
        value => value.as_str().unwrap_or("").to_string(),
    };
    let with_protocol = |port: String| match port.contains('/') {
        true => port,
        false => format!("{port}/tcp"),
    };
    let named = raw.expose.iter().map(text).map(with_protocol);
    let published =
        raw.ports.iter().map(|p| format!("{}/{}", p.target, p.protocol.as_deref().unwrap_or("tcp")));
    named.chain(published).collect()
}

fn variable((name, value): (&String, &Option<Value>)) -> Option<(String, String)> {
    let text = match value.as_ref()? {
        Value::String(text) => undouble(text),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        _ => return None,
    };
    Some((name.clone(), text))
}

fn dependency((name, raw): (&String, &RawDependency)) -> (String, Completes) {
    let completes = raw.condition == "service_completed_successfully";
    (name.clone(), completes)
}

/// Whether this version does what an `update_config` key says.
fn followed(key: &str, value: &Value) -> bool {
    match key {
        "parallelism" | "order" => true,
        "failure_action" => value.as_str() == Some("rollback"),
        "max_failure_ratio" => value.as_f64() == Some(0.0),
        _ => false,
    }
}

/// Compose leaves `$$` doubled in what `config` prints.
fn undouble(text: &str) -> String {
    text.replace("$$", "$")
}

impl Zd {
    /// These settings, and `below` where they say nothing.
    pub fn over(&self, below: &Zd) -> Zd {
        Zd {
            health: merge(&self.health, &below.health, ZdHealth::over),
            drain: merge(&self.drain, &below.drain, ZdDrain::over),
            proxy: merge(&self.proxy, &below.proxy, ZdProxy::over),
        }
    }
}

fn merge<T: Clone>(above: &Option<T>, below: &Option<T>, over: fn(&T, &T) -> T) -> Option<T> {
    match (above, below) {
        (Some(a), Some(b)) => Some(over(a, b)),
        (a, b) => a.clone().or(b.clone()),
    }
}

impl ZdHealth {
    fn over(&self, below: &ZdHealth) -> ZdHealth {
        let (a, b) = (self.clone(), below.clone());
        ZdHealth {
            path: a.path.or(b.path),
            port: a.port.or(b.port),
            scheme: a.scheme.or(b.scheme),
            host: a.host.or(b.host),
            expect: a.expect.or(b.expect),
            body: a.body.or(b.body),
            interval: a.interval.or(b.interval),
            timeout: a.timeout.or(b.timeout),
            deadline: a.deadline.or(b.deadline),
            successes: a.successes.or(b.successes),
        }
    }

    /// An HTTP probe is asked for by any key that only an HTTP probe has.
    fn asks_http(&self) -> bool {
        let texts = [&self.path, &self.scheme, &self.host, &self.expect, &self.body];
        self.port.is_some() || texts.iter().any(|t| t.is_some())
    }
}

impl ZdDrain {
    fn over(&self, below: &ZdDrain) -> ZdDrain {
        ZdDrain {
            timeout: self.timeout.or(below.timeout),
            command: self.command.clone().or(below.command.clone()),
        }
    }
}

impl ZdProxy {
    fn over(&self, below: &ZdProxy) -> ZdProxy {
        ZdProxy {
            container: self.container.clone().or(below.container.clone()),
            kind: self.kind.clone().or(below.kind.clone()),
            tune: self.tune.or(below.tune),
        }
    }
}

/// A setting that is impossible: its key, and how to put it right.
type Impossible = (String, &'static str);

impl Settings {
    /// Fills in the defaults and refuses what cannot be.
    fn resolve(zd: Zd) -> Result<Settings, Impossible> {
        let health = zd.health.unwrap_or_default();
        let drain = zd.drain.unwrap_or_default();
        Ok(Settings {
            http: health.asks_http().then(|| http(&health)).transpose()?,
            pace: pace(&health)?,
            drain_timeout: drain.timeout.unwrap_or(Duration::from_secs(30)),
            drain_command: drain.command.map(|c| c.argv()),
            proxy: zd.proxy.unwrap_or_default(),
        })
    }
}

fn pace(health: &ZdHealth) -> Result<Pace, Impossible> {
    let zero = |d: Option<Duration>| d.is_some_and(|d| d.is_zero());
    if zero(health.interval) || zero(health.timeout) || zero(health.deadline) {
        return Err(("health".into(), "a duration has to be longer than 0, such as `500ms`"));
    }
    if health.successes == Some(0) {
        return Err(("health.successes".into(), "set it to 1 or more"));
    }
    Ok(Pace {
        interval: health.interval.unwrap_or(Duration::from_millis(200)),
        timeout: health.timeout.unwrap_or(Duration::from_secs(2)),
        deadline: health.deadline.unwrap_or(Duration::from_secs(60)),
        successes: health.successes.unwrap_or(1),
    })
}

fn http(health: &ZdHealth) -> Result<HttpHealth, Impossible> {
    let path = undouble(health.path.as_deref().unwrap_or("/"));
    if !path.starts_with('/') {
        return Err(("health.path".into(), "it has to start with `/`"));
    }
    if health.port == Some(0) {
        return Err(("health.port".into(), "set it to a port from 1 to 65535"));
    }
    let scheme = health.scheme.as_deref().unwrap_or("http");
    if !["http", "https"].contains(&scheme) {
        return Err(("health.scheme".into(), "set it to `http` or `https`"));
    }
    let expect = Codes::parse(health.expect.as_deref().unwrap_or("200-399"));
    Ok(HttpHealth {
        path,
        port: health.port,
        scheme: scheme.into(),
        host: health.host.clone(),
        expect: expect.ok_or((
            "health.expect".to_string(),
            "set it to codes and ranges, such as `200-399` or `200,204`",
        ))?,
        body: health.body.as_deref().map(undouble),
    })
}

fn wrong_setting(source: &str, service: &str, field: &str, hint: &str) -> Wrong {
    let flag = field.replace('.', "-");
    Wrong {
        message: format!("{source}: `services.{service}.x-zd.{field}` (or `--{flag}`) is impossible"),
        hint: hint.into(),
    }
}

/// Reads one `x-zd` block; the message names the file and the whole key.
fn read_zd<T: Default + for<'a> Deserialize<'a>>(
    value: Option<&Value>,
    source: &str,
    key: &str,
) -> Result<T, Wrong> {
    let Some(value) = value.filter(|v| !v.is_null()) else {
        return Ok(T::default());
    };
    serde_path_to_error::deserialize(value.clone()).map_err(|e| {
        let path = e.path().to_string();
        let whole = match path.as_str() {
            "." => key.to_string(),
            path => format!("{key}.{path}"),
        };
        Wrong {
            message: format!("{source}: `{whole}`: {}", e.into_inner()),
            hint: format!("correct or remove `{whole}`"),
        }
    })
}

/// The declared pairs, then those that their names and their app give away.
fn pairs(
    services: &BTreeMap<String, RawService>,
    declared: BTreeMap<String, [String; 2]>,
    source: &str,
) -> Result<Vec<Pair>, Wrong> {
    let mut pairs = Vec::new();
    for (name, sides) in declared {
        check_pair(services, &name, &sides, source)?;
        pairs.push(Pair { name, sides });
    }
    let taken: BTreeSet<String> = pairs.iter().flat_map(|p| p.sides.clone()).collect();
    let free = |s: &String| !taken.contains(s);
    let recognised = services.keys().filter_map(|first| recognise(services, first));
    pairs.extend(recognised.filter(|p| p.sides.iter().all(free)));
    Ok(pairs)
}

fn check_pair(
    services: &BTreeMap<String, RawService>,
    name: &str,
    sides: &[String; 2],
    source: &str,
) -> Result<(), Wrong> {
    let wrong = |message: String, hint: &str| {
        Err(Wrong { message: format!("{source}: `x-zd.pairs.{name}`: {message}"), hint: hint.into() })
    };
    if sides[0] == sides[1] {
        return wrong("both sides are the same service".into(), "name two services");
    }
    match sides.iter().find(|s| !services.contains_key(*s)) {
        Some(side) => wrong(format!("there is no service `{side}`"), "name two services of this file"),
        None => Ok(()),
    }
}

/// `X_a`/`X_b`, `X-a`/`X-b`, `X_blue`/`X_green`, `X-blue`/`X-green` of the same app.
fn recognise(services: &BTreeMap<String, RawService>, first: &str) -> Option<Pair> {
    let endings = [("_a", "_b"), ("-a", "-b"), ("_blue", "_green"), ("-blue", "-green")];
    let (name, second) = endings.iter().find_map(|(one, other)| {
        let name = first.strip_suffix(one).filter(|n| !n.is_empty())?;
        Some((name.to_string(), format!("{name}{other}")))
    })?;
    let same = same_app(&services[first], services.get(&second)?);
    let sides = [first.to_string(), second];
    (same && !services.contains_key(&name)).then_some(Pair { name, sides })
}

/// The same `VIRTUAL_HOST`, image or build: what `extends` of one base leaves in the resolved file.
fn same_app(a: &RawService, b: &RawService) -> bool {
    let host = |s: &RawService| s.environment.get("VIRTUAL_HOST").cloned().flatten();
    let same_host = host(a).is_some() && host(a) == host(b);
    let same_image = a.image.is_some() && a.image == b.image;
    let same_build = a.build.is_some() && a.build == b.build;
    same_host || same_image || same_build
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let Some(text) = text_or_number(from)? else {
        return Ok(None);
    };
    let parsed = humantime::parse_duration(&text);
    parsed.map(Some).map_err(|e| {
        serde::de::Error::custom(format!("`{text}` is no duration such as `500ms` or `1m30s`: {e}"))
    })
}

fn text_or_number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    match Option::<Value>::deserialize(from)? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(other) => Err(serde::de::Error::custom(format!("expected a text, found {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<Project, Wrong> {
        Project::read(yaml, "compose.yaml", &Zd::default())
    }

    fn service(keys: &str) -> Result<Service, Wrong> {
        let mut project = read(&format!("name: p\nservices: {{app: {{{keys}}}}}"))?;
        Ok(project.services.remove("app").unwrap())
    }

    fn message(keys: &str) -> String {
        service(keys).unwrap_err().message
    }

    #[test]
    fn the_number_of_instances_is_the_files_or_open() {
        let replicas = |keys| service(keys).unwrap().replicas;
        assert_eq!(replicas("image: x"), None);
        assert_eq!(replicas("deploy: {replicas: 4}"), Some(4));
        assert_eq!(replicas("scale: 2"), Some(2));
    }

    #[test]
    fn a_flag_goes_before_the_service_and_the_service_before_the_project() {
        let yaml = "name: p\nx-zd: {health: {path: /p, port: 1, body: b}}\n\
                    services: {app: {x-zd: {health: {path: /s, port: 2}}}}";
        let flags =
            Zd { health: Some(ZdHealth { path: Some("/f".into()), ..ZdHealth::default() }), ..Zd::default() };
        let project = Project::read(yaml, "compose.yaml", &flags).unwrap();
        let http = project.services["app"].settings.http.clone().unwrap();
        assert_eq!((http.path.as_str(), http.port, http.body.as_deref()), ("/f", Some(2), Some("b")));
    }

    #[test]
    fn only_a_key_of_an_http_probe_asks_for_one() {
        let http = |keys: &str| service(keys).unwrap().settings.http.is_some();
        assert!(!http("image: x"));
        assert!(!http("x-zd: {health: {deadline: 5s}}"));
        assert!(http("x-zd: {health: {path: /up}}"));
        assert!(http("x-zd: {health: {port: 3000}}"));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_whole_path() {
        let text = message("x-zd: {health: {pth: /up}}");
        assert!(
            text.starts_with("compose.yaml: `services.app.x-zd.health.pth`: unknown field `pth`"),
            "{text}"
        );
    }

    #[test]
    fn wrong_types_and_impossible_values_name_the_key() {
        let cases = [
            ("x-zd: {health: {port: 70000}}", "x-zd.health.port"),
            ("x-zd: {health: {port: 0}}", "x-zd.health.port"),
            ("x-zd: {health: {port: web}}", "x-zd.health.port"),
            ("x-zd: {health: {path: up}}", "x-zd.health.path"),
            ("x-zd: {health: {path: /, scheme: ftp}}", "x-zd.health.scheme"),
            ("x-zd: {health: {expect: 2xx}}", "x-zd.health.expect"),
            ("x-zd: {health: {expect: 399-200}}", "x-zd.health.expect"),
            ("x-zd: {health: {deadline: soon}}", "x-zd.health.deadline"),
            ("x-zd: {health: {interval: 0s}}", "x-zd.health"),
            ("x-zd: {health: {successes: 0}}", "x-zd.health.successes"),
            ("x-zd: {drain: {timeout: 10}}", "x-zd.drain.timeout"),
            ("x-zd: {proxy: {tune: maybe}}", "x-zd.proxy.tune"),
            ("x-zd: 5", "services.app.x-zd"),
        ];
        for (keys, key) in cases {
            assert!(message(keys).contains(key), "{keys}: {}", message(keys));
        }
    }

    #[test]
    fn codes_are_numbers_and_ranges() {
        let codes = Codes::parse("200,204,300-399").unwrap();
        assert!(codes.contains(204) && codes.contains(301) && !codes.contains(201));
        assert_eq!(codes.to_string(), "200,204,300-399");
        assert_eq!(
            service("x-zd: {health: {expect: 204}}").unwrap().settings.http.unwrap().expect.to_string(),
            "204"
        );
    }

    #[test]
    fn commands_lose_composes_doubled_dollars() {
        let service =
            service("x-zd: {drain: {command: 'echo $$HOME'}}, environment: {VIRTUAL_HOST: '~^a$$'}").unwrap();
        assert_eq!(service.settings.drain_command.unwrap(), ["sh", "-c", "echo $HOME"]);
        assert_eq!(service.environment["VIRTUAL_HOST"], "~^a$");
    }

    #[test]
    fn obstacles_to_a_second_instance_are_found() {
        let found = service("container_name: one, network_mode: host, ports: [{target: 80, published: '8080'}, {target: 81}, {target: 82, published: '9000-9010'}]").unwrap();
        assert_eq!(
            found.obstacles(),
            [
                Obstacle::ContainerName("one".into()),
                Obstacle::FixedPort("8080".into()),
                Obstacle::NetworkMode("host".into())
            ]
        );
        assert_eq!(service("image: x").unwrap().obstacles(), []);
    }

    #[test]
    fn compose_starts_what_has_content_made_at_start() {
        let project = "name: p\nsecrets: {env: {environment: A}, file: {file: ./x}}\n";
        let by_compose = |keys: &str| {
            let yaml = format!("{project}services: {{app: {{{keys}}}}}");
            read(&yaml).unwrap().services["app"].starts_by_compose
        };
        assert!(!by_compose("image: x"));
        assert!(!by_compose("secrets: [{source: file}]"));
        assert!(by_compose("secrets: [{source: env}]"));
        assert!(!by_compose("post_start: [{command: [touch, /x]}]"));
    }

    #[test]
    fn a_hook_is_a_docker_exec() {
        let service = service("pre_stop: [{command: [a, $$b], user: root, privileged: true, working_dir: /w, environment: {K: v, N: null}}]").unwrap();
        let hook = &service.pre_stop[0];
        assert_eq!(hook.command.argv(), ["a", "$b"]);
        assert_eq!(hook.options().join(" "), "--env K=v --env N --user root --workdir /w --privileged");
    }

    #[test]
    fn pairs_are_recognised_by_name_and_app() {
        let names = |services: &str| {
            let project = read(&format!("name: p\nservices: {{{services}}}")).unwrap();
            project.pairs.iter().map(|p| p.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names("web_a: {image: x}, web_b: {image: x}"), ["web"]);
        assert_eq!(names("web-blue: {image: x}, web-green: {image: x}"), ["web"]);
        let hosts = "environment: {VIRTUAL_HOST: h}";
        assert_eq!(names(&format!("s_a: {{{hosts}}}, s_b: {{image: y, {hosts}}}")), ["s"]);
        assert_eq!(names("web_a: {image: x}, web_b: {image: y}"), [""; 0]);
        assert_eq!(names("web_a: {image: x}, web_c: {image: x}"), [""; 0]);
        assert_eq!(names("web: {image: z}, web_a: {image: x}, web_b: {image: x}"), [""; 0]);
    }

    #[test]
    fn a_declared_pair_names_two_services_that_are_there() {
        let with = |sides: &str| {
            read(&format!(
                "name: p\nx-zd: {{pairs: {{w: {sides}}}}}\nservices: {{a: {{image: x}}, b: {{image: y}}}}"
            ))
        };
        assert_eq!(with("[a, b]").unwrap().pair("a").unwrap().name, "w");
        assert!(with("[a, c]").unwrap_err().message.contains("there is no service `c`"));
        assert!(with("[a, a]").unwrap_err().message.contains("same service"));
        assert!(with("[a]").unwrap_err().message.contains("x-zd.pairs"));
    }

    #[test]
    fn dependencies_of_dependencies_are_needed_too() {
        let project = read(
            "name: p\nservices: {app: {depends_on: {db: {condition: service_healthy}, once: {condition: service_completed_successfully}}}, \
             db: {depends_on: {disk: {condition: service_started}}}, disk: {}, once: {}}",
        )
        .unwrap();
        let needs = project.services["app"].needs(&project);
        let expected = [("db", false), ("disk", false), ("once", true)];
        assert_eq!(needs.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn update_config_keys_that_are_not_followed_are_known() {
        let found = service(
            "deploy: {update_config: {parallelism: 2, order: stop-first, delay: 5s, failure_action: pause}}",
        )
        .unwrap();
        assert_eq!(found.not_followed, ["delay", "failure_action"]);
        assert_eq!((found.parallelism, found.order), (2, Order::StopFirst));
    }
}
