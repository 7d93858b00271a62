//! The rules for one service: each gets what is known of it, and finds something or nothing.

use std::time::Duration;

use super::finding::{Finding, Scope, Severity};
use super::signals::{self, SignalMasks};
use crate::docker::inspect::Image;
use crate::model::{Order, Service};

/// Docker's own, where neither the file nor a flag says how long a container may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// Who sends requests to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyPresence {
    /// No proxy; other services or clients may.
    NoProxy,
    /// A proxy that takes an instance out of rotation before it is stopped.
    Drains,
    /// A proxy that is only watched: instances are told to stop with requests in them.
    WatchedOnly,
}

/// One service, with what is known of it.
#[derive(Debug, Clone)]
pub struct ServiceContext<'a> {
    pub service: &'a Service,
    /// Where it is on the engine.
    pub image: Option<&'a Image>,
    pub proxy: ProxyPresence,
    /// Its environment or its labels ask some proxy for a route.
    pub requests_route: bool,
    /// Somebody depends on it, or it has a port of the host.
    pub has_clients: bool,
    /// The file names a port of its containers.
    pub listens: bool,
    /// The engine was asked, so that what is not found is not there.
    pub has_engine: bool,
    /// As many as there are, or will be.
    pub instances: usize,
    /// What the first process of an instance that runs wants of signals, with the instance's name.
    pub signals: Option<(String, SignalMasks)>,
    /// The folder of the releases, where its image is built with that in it.
    pub state_in_image: Option<String>,
}

/// Everything that is found.
pub fn findings(subject: &ServiceContext) -> Vec<Finding> {
    let rules: [fn(&ServiceContext) -> Option<Finding>; 8] = [
        no_proxy,
        ignores_stop_signal,
        short_grace,
        shared_volume,
        stop_first,
        no_restart_policy,
        moving_image,
        state_in_image,
    ];
    rules.iter().filter_map(|rule| rule(subject)).collect()
}

impl ServiceContext<'_> {
    fn name(&self) -> &str {
        &self.service.name
    }

    fn scope(&self) -> Scope {
        Scope::service(self.name())
    }

    fn key(&self, key: &str) -> String {
        format!("services.{}.{key}", self.name())
    }

    fn grace(&self) -> Duration {
        self.service.process.grace.unwrap_or(GRACE)
    }

    fn stop_signal(&self) -> &str {
        let of_image = self.image.map(|i| i.config.stop_signal.as_str()).filter(|s| !s.is_empty());
        self.service.process.stop_signal.as_deref().or(of_image).unwrap_or("SIGTERM")
    }

    /// The words of its first process.
    fn command_line(&self) -> Vec<String> {
        let config = self.image.map(|i| i.config.clone()).unwrap_or_default();
        self.service.process.words(&config.entrypoint, &config.cmd)
    }

    /// Its work is cut where it ends too early: nobody has drained it.
    fn by_drain(&self, rule: &'static str, says: String, fix: String) -> Finding {
        match self.proxy {
            ProxyPresence::Drains => Finding::note(rule, self.scope(), says, fix),
            ProxyPresence::NoProxy | ProxyPresence::WatchedOnly => Finding::no(rule, self.scope(), says, fix),
        }
    }
}

/// Who gets requests and is not drained loses those that it has when it is stopped.
fn no_proxy(s: &ServiceContext) -> Option<Finding> {
    let gets_requests = s.requests_route || s.listens || s.has_clients;
    let rests = s.service.holds_volume && s.service.update.order.is_none();
    // What keeps a proxy away is told by itself.
    let alone = s.proxy == ProxyPresence::NoProxy && s.service.obstacles().is_empty() && !rests;
    let what = if s.requests_route { "asks for a route" } else { "gets requests" };
    let says = format!(
        "`{}` {what}, and no proxy that can be steered is found in front of it: the requests that an instance has when it is \
         stopped are cut",
        s.name()
    );
    let fix = format!(
        "put nginx-proxy, HAProxy, Caddy or Traefik in front of it, on a network of its own, or name the proxy with `{}`",
        s.key("x-zd.proxy.container")
    );
    let found = Finding::no("no-proxy", s.scope(), says, fix);
    let severity = if s.has_engine { Severity::No } else { Severity::Note };
    (alone && gets_requests).then_some(Finding { severity, ..found })
}

/// The process of an instance that runs tells the truth; the file only tells of a shell that is known to stay in front.
fn ignores_stop_signal(s: &ServiceContext) -> Option<Finding> {
    let signal = s.stop_signal();
    let grace = humantime::format_duration(s.grace());
    let fix = format!(
        "handle {signal} in the app, start it with `exec`, or set `{}: true` (or another `stop_signal`)",
        s.key("init")
    );
    if let Some((instance, signals)) = &s.signals {
        let number = signals::signal_number(signal)?;
        let says = format!(
            "the first process of {instance} has no handler for {signal}, so the kernel drops it, and it is killed after \
             {grace} with all that it does then"
        );
        return (!signals.has_effect(number)).then(|| s.by_drain(IGNORES_STOP_SIGNAL, says, fix));
    }
    let words = s.command_line();
    let shell = signals::wrapping_shell(&words).filter(|_| !s.service.process.init)?;
    let says = format!(
        "`{}` is started by `{shell} -c` without `exec`: a shell that stays in front of it passes {signal} to nobody, and \
         each instance is killed after {grace}",
        s.name()
    );
    Some(Finding::note(IGNORES_STOP_SIGNAL, s.scope(), says, fix))
}

const IGNORES_STOP_SIGNAL: &str = "ignores-stop-signal";

/// Shorter than a drain that was asked for, or than the app itself says that it takes to end.
fn short_grace(s: &ServiceContext) -> Option<Finding> {
    let grace = s.grace();
    let drain = s.service.settings.drain_timeout;
    let asked = s.service.settings.drain_asked.then_some((drain, "`x-zd.drain.timeout`".to_string()));
    let own = grace_of_flag(&s.command_line()).map(|(flag, time)| (time, format!("its own `{flag}`")));
    let (needed, why) = asked.into_iter().chain(own).max()?;
    let says = format!(
        "`{}` is killed {} after it was told to stop (`stop_grace_period`), and {why} gives its requests {}",
        s.name(),
        humantime::format_duration(grace),
        humantime::format_duration(needed)
    );
    let longer = needed.as_secs() + 5;
    let fix = format!("set `{}: {longer}s`", s.key("stop_grace_period"));
    (grace < needed).then(|| s.by_drain("short-grace", says, fix))
}

/// Flags by which servers are told how long requests may take that are open when they end, in seconds.
const GRACE_FLAGS: [&str; 5] = [
    "--graceful-timeout",
    "--timeout-graceful-shutdown",
    "--graceful-shutdown-timeout",
    "--shutdown-timeout",
    "--drain-timeout",
];

fn grace_of_flag(words: &[String]) -> Option<(&str, Duration)> {
    let split: Vec<&str> = words.iter().flat_map(|w| w.split_whitespace()).collect();
    let value = |at: usize, flag: &str| match split[at].strip_prefix(flag)? {
        "" => split.get(at + 1).copied(),
        rest => rest.strip_prefix('='),
    };
    let time = |text: &str| {
        text.parse().map(Duration::from_secs).ok().or_else(|| humantime::parse_duration(text).ok())
    };
    let found = |flag: &'static str| (0..split.len()).find_map(|at| Some((flag, time(value(at, flag)?)?)));
    GRACE_FLAGS.into_iter().find_map(found)
}

/// Old and new instances side by side write to the same place.
fn shared_volume(s: &ServiceContext) -> Option<Finding> {
    let order = s.service.update.order;
    let beside = match s.proxy {
        ProxyPresence::NoProxy => order == Some(Order::StartFirst),
        ProxyPresence::Drains | ProxyPresence::WatchedOnly => order != Some(Order::StopFirst),
    };
    let paths = &s.service.shared_paths;
    let path = paths.first().filter(|_| beside)?;
    let says =
        format!("old and new instances of `{}` write to {path} side by side during a deploy", s.name());
    if let Some(database) = database(s) {
        let fix = format!(
            "leave `{}` out of deploys, or set `{}: stop-first` and take the time in which nobody answers",
            s.name(),
            s.key("deploy.update_config.order")
        );
        let says = format!("{says}, and {database} does not take two writers");
        return Some(Finding::no(SHARED_VOLUME, s.scope(), says, fix));
    }
    // More than one writer is nothing new to it.
    let fix = "see that it takes two writers; a path that is only read can have `:ro`".to_string();
    (s.instances < 2).then(|| Finding::note(SHARED_VOLUME, s.scope(), says, fix))
}

const SHARED_VOLUME: &str = "shared-volume";

/// What is known to keep its files to itself, by the image, the paths or the environment.
fn database(s: &ServiceContext) -> Option<&'static str> {
    let image = s.service.image.rsplit('/').next()?.split([':', '@']).next()?;
    let by_image = [
        ("postgres", "PostgreSQL"),
        ("postgis", "PostgreSQL"),
        ("timescaledb", "PostgreSQL"),
        ("mysql", "MySQL"),
        ("mariadb", "MariaDB"),
        ("mongo", "MongoDB"),
        ("redis", "Redis"),
        ("valkey", "Valkey"),
        ("influxdb", "InfluxDB"),
        ("elasticsearch", "Elasticsearch"),
        ("opensearch", "OpenSearch"),
        ("rabbitmq", "RabbitMQ"),
        ("clickhouse-server", "ClickHouse"),
    ];
    let by_path = [
        ("/var/lib/postgresql", "PostgreSQL"),
        ("/var/lib/mysql", "MySQL"),
        ("/data/db", "MongoDB"),
        ("sqlite", "SQLite"),
    ];
    let named = by_image.iter().find(|(name, _)| *name == image).map(|(_, kind)| *kind);
    let in_path = |part: &str| s.service.shared_paths.iter().any(|p| p.contains(part));
    let placed = || by_path.iter().find(|(part, _)| in_path(part)).map(|(_, kind)| *kind);
    let is_file = |value: &String| {
        let value = value.to_lowercase();
        value.starts_with("sqlite:") || value.ends_with(".sqlite3") || value.ends_with(".sqlite")
    };
    let sqlite = || s.service.environment.values().any(is_file).then_some("SQLite");
    named.or_else(placed).or_else(sqlite)
}

/// A worker with a volume rests while it is replaced; one that is asked by somebody should not.
fn stop_first(s: &ServiceContext) -> Option<Finding> {
    let rests =
        s.proxy == ProxyPresence::NoProxy && s.service.holds_volume && s.service.update.order.is_none();
    let says = format!(
        "`{}` holds a writable volume and has no proxy in front, so its old instance stops before the new one starts: who \
         asks it meanwhile gets no answer",
        s.name()
    );
    let fix = format!(
        "leave it out of deploys, or set `{}: start-first` where two instances may share the volume",
        s.key("deploy.update_config.order")
    );
    (rests && s.has_clients).then(|| Finding::no("stops-first", s.scope(), says, fix))
}

fn no_restart_policy(s: &ServiceContext) -> Option<Finding> {
    let policy = s.service.process.restart.as_deref();
    let says = format!(
        "`{}` has no restart policy: an instance that crashes, and all of them once the machine restarts, stay down",
        s.name()
    );
    let fix = format!("set `{}: unless-stopped`", s.key("restart"));
    matches!(policy, None | Some("no" | "none" | ""))
        .then(|| Finding::note("no-restart-policy", s.scope(), says, fix))
}

fn moving_image(s: &ServiceContext) -> Option<Finding> {
    let reference = &s.service.image;
    let name = reference.rsplit('/').next().unwrap_or_default();
    let tag = name.split_once(':').map_or("latest", |(_, tag)| tag);
    let moves = !s.service.builds && !name.contains('@') && !tag.contains(|c: char| c.is_ascii_digit());
    let says =
        format!("`{}` runs {reference}, which is another image whenever somebody pushes one", s.name());
    let fix = format!("name a version or a digest in `{}`", s.key("image"));
    moves.then(|| Finding::note("moving-image", s.scope(), says, fix))
}

fn state_in_image(s: &ServiceContext) -> Option<Finding> {
    let folder = s.state_in_image.as_ref()?;
    let says = format!(
        "the build of `{}` sends `{folder}` along, where resolved secrets are kept once there is a release",
        s.name()
    );
    let fix = "add `.compose-zd` to `.dockerignore`, or keep it elsewhere with `--state-dir`";
    Some(Finding::note("state-in-build-context", s.scope(), says, fix))
}

#[cfg(test)]
mod tests;
