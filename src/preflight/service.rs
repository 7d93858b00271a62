//! Rules for one service. Each takes the facts on the service and gives a finding or none.

use std::time::Duration;

use super::file;
use super::signals::{self, SignalMasks};
use crate::docker::inspect::Image;
use crate::finding::Finding;
use crate::model::{Order, Service, SingleCause};

/// Kind of proxy in front of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyPresence {
    /// No proxy; other services or clients may send requests.
    NoProxy,
    /// The proxy takes an instance out of rotation before the instance stops.
    Drains,
}

/// Wait of the requests of a service while it is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldState {
    /// Several instances may run.
    Unneeded,
    /// Requests wait in a relay.
    Waits,
    /// Requests would wait, if the proxy and the engine could use a relay.
    Impossible,
}

/// Facts on one service.
#[derive(Debug, Clone)]
pub struct ServiceContext<'a> {
    pub service: &'a Service,
    /// None if the engine does not have the image.
    pub image: Option<&'a Image>,
    pub proxy: ProxyPresence,
    /// The environment or the labels request a route from a proxy.
    pub requests_route: bool,
    /// Other services depend on the service, or it publishes a host port.
    pub has_clients: bool,
    /// The file names a container port.
    pub listens: bool,
    /// The facts include those of the engine, so that a missing proxy does not exist.
    pub has_engine: bool,
    /// Present or future number of instances.
    pub instances: usize,
    pub hold: HoldState,
    /// Proxy in front, and the time after which it gives up on an answer.
    pub answer_timeout: Option<(String, Duration)>,
    /// Name of a running instance, with the signal masks of its first process.
    pub signals: Option<(String, SignalMasks)>,
    /// The state folder, if it is inside the build context.
    pub state_in_image: Option<String>,
}

/// Findings of all rules.
pub fn findings(context: &ServiceContext) -> Vec<Finding> {
    let rules: [fn(&ServiceContext) -> Option<Finding>; 11] = [
        no_proxy,
        ignores_stop_signal,
        short_grace,
        shared_volume,
        no_hold,
        short_answer_timeout,
        stop_first,
        runs_twice,
        no_restart_policy,
        moving_image,
        state_in_image,
    ];
    let found = rules.iter().filter_map(|rule| rule(context));
    found.map(|finding| finding.of_service(context.name())).collect()
}

impl ServiceContext<'_> {
    fn name(&self) -> &str {
        &self.service.name
    }

    fn key(&self, key: &str) -> String {
        format!("services.{}.{key}", self.name())
    }

    fn stop_signal(&self) -> &str {
        let from_image = self.image.map(|i| i.config.stop_signal.as_str()).filter(|s| !s.is_empty());
        self.service.stop_signal.as_deref().or(from_image).unwrap_or("SIGTERM")
    }

    /// Arguments of the first process.
    fn command_line(&self) -> Vec<String> {
        let config = self.image.map(|i| i.config.clone()).unwrap_or_default();
        self.service.command_line(&config.entrypoint, &config.cmd)
    }

    /// Finding on instances that end too early: a note if the proxy drains them first, else a loss.
    fn early_end_finding(&self, rule: &'static str, message: String, fix: String) -> Finding {
        match self.proxy {
            ProxyPresence::Drains => Finding::note(rule, message, fix),
            ProxyPresence::NoProxy => Finding::loss(rule, message, fix),
        }
    }
}

/// An instance that is not drained loses its requests in flight when it stops.
fn no_proxy(s: &ServiceContext) -> Option<Finding> {
    let gets_requests = s.requests_route || s.listens || s.has_clients;
    let is_stop_first = s.service.holds_volume() && s.service.update.order.is_none();
    // Obstacles to a proxy have findings of their own.
    let has_no_proxy =
        s.proxy == ProxyPresence::NoProxy && file::obstacles(s.service).is_empty() && !is_stop_first;
    let role = if s.requests_route { "requests a route" } else { "receives requests" };
    let message = format!(
        "`{}` {role}, but no proxy that compose-zd can control routes to it: requests in flight are cut when an \
         instance stops",
        s.name()
    );
    let fix = format!(
        "publish one fixed port and deploy as root, put nginx, HAProxy, Caddy or Traefik in front of it, or name the proxy with `{}`",
        s.key("x-zd.proxy.container")
    );
    let new = if s.has_engine { Finding::loss } else { Finding::note };
    (has_no_proxy && gets_requests).then(|| new("no-proxy", message, fix))
}

/// Checks the signal masks of a running instance; without one, detects a shell in front of the command in the file. The
/// engine's init (`init: true`) passes every signal.
fn ignores_stop_signal(s: &ServiceContext) -> Option<Finding> {
    if s.service.init {
        return None;
    }
    let signal = s.stop_signal();
    let grace = humantime::format_duration(s.service.longest_stop());
    let fix = format!(
        "handle {signal} in the app, start it with `exec`, or set `{}: true` (or another `stop_signal`)",
        s.key("init")
    );
    if let Some((instance, signals)) = &s.signals {
        let number = signals::signal_number(signal)?;
        let message = format!(
            "the first process of {instance} has no handler for {signal}, so the kernel drops the signal, and the process is \
             killed after {grace} with all its work"
        );
        return (!signals.has_effect(number)).then(|| s.early_end_finding(IGNORES_STOP_SIGNAL, message, fix));
    }
    let words = s.command_line();
    let shell = signals::wrapping_shell(&words)?;
    let message = format!(
        "`{}` is started by `{shell} -c` without `exec`: the shell does not pass {signal} to the command, and each \
         instance is killed after {grace}",
        s.name()
    );
    Some(Finding::note(IGNORES_STOP_SIGNAL, message, fix))
}

const IGNORES_STOP_SIGNAL: &str = "ignores-stop-signal";

/// The grace period is shorter than the drain timeout in the file, or than the shutdown timeout of the app.
fn short_grace(s: &ServiceContext) -> Option<Finding> {
    let grace = s.service.longest_stop();
    let drain = s.service.settings.drain_timeout;
    let configured =
        s.service.settings.drain_is_configured.then_some((drain, "`x-zd.drain.timeout`".to_string()));
    let by_flag = grace_of_flag(&s.command_line()).map(|(flag, time)| (time, format!("its flag `{flag}`")));
    let (needed, source) = configured.into_iter().chain(by_flag).max()?;
    let message = format!(
        "`{}` is killed {} after its stop signal (`stop_grace_period`), but {source} gives its requests {}",
        s.name(),
        humantime::format_duration(grace),
        humantime::format_duration(needed)
    );
    let longer = needed.as_secs() + 5;
    let fix = format!("set `{}: {longer}s`", s.key("stop_grace_period"));
    (grace < needed).then(|| s.early_end_finding("short-grace", message, fix))
}

/// Flags of servers for the time that open requests get at shutdown, in seconds.
const GRACE_FLAGS: [&str; 5] = [
    "--graceful-timeout",
    "--timeout-graceful-shutdown",
    "--graceful-shutdown-timeout",
    "--shutdown-timeout",
    "--drain-timeout",
];

fn grace_of_flag(words: &[String]) -> Option<(&str, Duration)> {
    let arguments: Vec<&str> = words.iter().flat_map(|w| w.split_whitespace()).collect();
    let value = |at: usize, flag: &str| match arguments[at].strip_prefix(flag)? {
        "" => arguments.get(at + 1).copied(),
        rest => rest.strip_prefix('='),
    };
    let time = |text: &str| {
        text.parse().map(Duration::from_secs).ok().or_else(|| humantime::parse_duration(text).ok())
    };
    let found =
        |flag: &'static str| (0..arguments.len()).find_map(|at| Some((flag, time(value(at, flag)?)?)));
    GRACE_FLAGS.into_iter().find_map(found)
}

/// Old and new instances write to the same volume at the same time.
fn shared_volume(s: &ServiceContext) -> Option<Finding> {
    let order = s.service.update.order;
    let are_side_by_side = match s.proxy {
        ProxyPresence::NoProxy => order == Some(Order::StartFirst),
        ProxyPresence::Drains => order != Some(Order::StopFirst),
    };
    let paths = &s.service.shared_paths();
    let path = paths.first().filter(|_| are_side_by_side && s.hold != HoldState::Waits)?;
    let message =
        format!("old and new instances of `{}` write to {path} at the same time during a deploy", s.name());
    if let Some(database) = s.service.single_writer() {
        let fix = format!(
            "leave `{}` out of deploys, or set `{}: stop-first` and accept the downtime",
            s.name(),
            s.key("deploy.update_config.order")
        );
        let message = format!("{message}, and {database} does not support two writers");
        return Some(Finding::loss(SHARED_VOLUME, message, fix));
    }
    // A service with several instances has several writers already.
    let fix = "make sure that it supports two writers; a path that is only read can have `:ro`".to_string();
    (s.instances < 2).then(|| Finding::note(SHARED_VOLUME, message, fix))
}

const SHARED_VOLUME: &str = "shared-volume";

/// Only one instance may run, and requests cannot wait meanwhile.
fn no_hold(s: &ServiceContext) -> Option<Finding> {
    let cause = s.service.hold_cause(&s.service.update).filter(|cause| *cause != SingleCause::Order)?;
    let message = format!(
        "requests of `{}` cannot wait while its only instance is replaced ({cause}), so two versions run at the same time: its \
         proxy or the engine cannot use a relay",
        s.name()
    );
    let fix = "see `compose-zd help hold` for what a hold needs".to_string();
    (s.hold == HoldState::Impossible).then(|| Finding::note("no-hold", message, fix))
}

/// A proxy gives up on requests that wait, before the old instance can answer them.
fn short_answer_timeout(s: &ServiceContext) -> Option<Finding> {
    let (proxy, limit) = s.answer_timeout.as_ref()?;
    let wait = s.service.settings.hold * 2;
    let message = format!(
        "requests of `{}` may wait up to {} while its only instance is replaced, and {proxy} gives up on an answer after {}",
        s.name(),
        humantime::format_duration(wait),
        humantime::format_duration(*limit)
    );
    let fix = format!(
        "set `{}: {}` or less, or a longer time-out in the proxy",
        s.key("x-zd.hold"),
        humantime::format_duration(*limit / 2)
    );
    (s.hold == HoldState::Waits && wait > *limit).then(|| Finding::note("short-proxy-timeout", message, fix))
}

/// A worker with a volume is replaced stop-first; a service with clients should not be.
fn stop_first(s: &ServiceContext) -> Option<Finding> {
    // Obstacles refuse a deploy before.
    let is_stop_first = s.proxy == ProxyPresence::NoProxy
        && s.service.holds_volume()
        && s.service.update.order.is_none()
        && file::obstacles(s.service).is_empty();
    let message = format!(
        "`{}` holds a writable volume and is behind no proxy, so its old instance stops before the new one starts: its \
         clients get no answer meanwhile",
        s.name()
    );
    let fix = format!(
        "leave it out of deploys, or set `{}: start-first` if two instances may share the volume",
        s.key("deploy.update_config.order")
    );
    (is_stop_first && s.has_clients).then(|| Finding::loss("stops-first", message, fix))
}

/// Old and new instance of a scheduler would both start each job.
fn runs_twice(s: &ServiceContext) -> Option<Finding> {
    let words = s.command_line();
    let scheduler = s.service.scheduler(&words)?;
    let order = s.service.update.order;
    let stops_first = order == Some(Order::StopFirst) || (order.is_none() && s.service.holds_volume());
    let are_side_by_side = s.proxy == ProxyPresence::NoProxy && !stops_first;
    let message = format!(
        "`{}` is {scheduler}, and its new instance starts before the old one stops: a job that is due then runs twice",
        s.name()
    );
    let fix = format!("set `{}: stop-first`", s.key("deploy.update_config.order"));
    are_side_by_side.then(|| Finding::loss("runs-twice", message, fix))
}

fn no_restart_policy(s: &ServiceContext) -> Option<Finding> {
    let policy = s.service.restart();
    let message =
        format!("`{}` has no restart policy: its instances stay down after a crash or a reboot", s.name());
    let fix = format!("set `{}: unless-stopped`", s.key("restart"));
    matches!(policy, None | Some("no" | "none" | ""))
        .then(|| Finding::note("no-restart-policy", message, fix))
}

fn moving_image(s: &ServiceContext) -> Option<Finding> {
    let reference = &s.service.image;
    let name = reference.rsplit('/').next().unwrap_or_default();
    let tag = name.split_once(':').map_or("latest", |(_, tag)| tag);
    let moves = !s.service.is_built() && !name.contains('@') && !tag.contains(|c: char| c.is_ascii_digit());
    let message = format!("`{}` runs {reference}, a tag that moves with every push", s.name());
    let fix = format!("name a version or a digest in `{}`", s.key("image"));
    moves.then(|| Finding::note("moving-image", message, fix))
}

fn state_in_image(s: &ServiceContext) -> Option<Finding> {
    let folder = s.state_in_image.as_ref()?;
    let message = format!(
        "the build context of `{}` contains `{folder}`, which holds resolved secrets after the first release",
        s.name()
    );
    let fix = "add `.compose-zd` to `.dockerignore`, or move the folder with `--state-dir`";
    Some(Finding::note("state-in-build-context", message, fix))
}

#[cfg(test)]
mod tests;
