//! Files of a proxy that Compose does not compare, and the way in which the running proxy reads them again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::converge::Pursuit;
use super::kit::clock::{parse_clock, parse_time};
use super::{Goal, Proxy, Rotation, other_containers};
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Docker, Exec};
use crate::error::{Error, Exit};
use crate::wait::{self, StopSignal, WaitResult};

/// Timeout for a proxy to run with its changed files.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(100);

/// Seconds by which a process may seem older than a file that it has read: clocks tick in 10 ms.
const CLOCK_SLACK: f64 = 0.05;

/// Moment at which a proxy reads a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadBy {
    /// Only the start of the container.
    #[default]
    Start,
    /// A reload of the running proxy, too.
    Reload,
    /// Every change: the proxy watches the file.
    Watch,
}

/// Files that a proxy reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyFiles {
    /// Files and folders. The longest one that contains a file decides.
    pub paths: Vec<(String, ReadBy)>,
    /// For mounted files outside of these paths.
    pub others: ReadBy,
    /// Commands of a reload; `None` for a proxy that cannot be reloaded.
    pub reload: Option<FileReload>,
}

/// Commands by which a proxy reads its files again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReload {
    /// Prints what [`ReloadState::parse`] reads.
    pub state: Exec,
    /// The proxy's own test of its files.
    pub check: Exec,
    /// Reloads. A failure leaves the running configuration.
    pub apply: Exec,
}

impl ProxyFiles {
    pub fn read_by(&self, path: &str) -> ReadBy {
        let contains = |(folder, _): &&(String, ReadBy)| is_within(path, folder);
        let longest = self.paths.iter().filter(contains).max_by_key(|(folder, _)| folder.len());
        longest.map_or(self.others, |(_, read_by)| *read_by)
    }

    /// True if the path is one of these, or inside of one.
    pub fn is_named(&self, path: &str) -> bool {
        self.paths.iter().any(|(folder, _)| is_within(path, folder))
    }

    /// True if a mounted folder has files that the proxy reads.
    pub fn is_read_folder(&self, folder: &str) -> bool {
        self.paths.iter().any(|(path, _)| is_within(folder, path) || is_within(path, folder))
    }
}

/// True if the path is the folder, or inside of it.
fn is_within(path: &str, folder: &str) -> bool {
    let rest = path.strip_prefix(folder.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Age of a running configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReloadState {
    /// Seconds since the boot and since 1970, at the same moment.
    clock: Option<(f64, f64)>,
    /// Start of the processes that have the configuration, in seconds since the boot.
    processes: Vec<f64>,
    /// Mark of an earlier reload.
    marked: Option<f64>,
    /// Reason why the proxy cannot be reloaded.
    pub obstacle: Option<String>,
}

/// Shell command that prints two clocks at the same moment. The entry of a process in `/proc` is as old as the process
/// that reads it.
pub const PRINT_CLOCK: &str =
    "read -r up rest < /proc/uptime; echo \"@clock $up $(TZ=UTC0 stat -L -c %y /proc/self/)\"";

impl ReloadState {
    /// Parses `@clock UPTIME TIME`, `@process TICKS`, `@mark TIME` and `@obstacle REASON`.
    pub fn parse(text: &str) -> ReloadState {
        let mut state = ReloadState::default();
        for (mark, rest) in text.lines().filter_map(|line| line.trim_end().split_once(' ')) {
            match mark {
                "@clock" => state.clock = parse_clock(rest),
                "@process" => state.processes.extend(rest.parse::<f64>().ok().map(|ticks| ticks / 100.0)),
                "@mark" => state.marked = parse_time(rest),
                "@obstacle" => state.obstacle = Some(rest.into()),
                _ => {}
            }
        }
        state
    }

    /// Time at which the proxy has read its files, in seconds since 1970: that of the oldest process, or of the mark.
    /// `None` if neither is known.
    pub fn read_at(&self) -> Option<f64> {
        let oldest = self.processes.iter().copied().reduce(f64::min);
        let since_boot =
            oldest.zip(self.clock).map(|(start, (boot, now))| now - (boot - start) - CLOCK_SLACK);
        [since_boot, self.marked].into_iter().flatten().reduce(f64::max)
    }

    fn now(&self) -> Option<f64> {
        self.clock.map(|(_, now)| now)
    }
}

/// State of a proxy's running configuration.
///
/// # Errors
/// Docker fails.
pub fn state(docker: &Docker, reload: &FileReload) -> Result<ReloadState> {
    Ok(ReloadState::parse(&docker.query(&reload.state)?.stdout))
}

/// Has the proxy test its files.
///
/// # Errors
/// The proxy's own words for what is wrong. Nothing was changed.
pub fn check(docker: &Docker, proxy: &dyn Proxy) -> Result<()> {
    let Some(reload) = proxy.files().reload else { return Ok(()) };
    let result = docker.query(&reload.check)?;
    if result.ok() { Ok(()) } else { Err(refusal(proxy, &result).into()) }
}

/// As [`check`], in another container of the same image. Its mounts lead to the files of now.
pub fn check_in_new_container(docker: &Docker, proxy: &dyn Proxy) -> Result<()> {
    let (Some(reload), Some(container)) = (proxy.files().reload, proxy.container()) else { return Ok(()) };
    let variables = container.config.env.iter().filter_map(|pair| pair.split_once('='));
    let exec = Exec {
        sidecar_image: Some(container.config.image.clone()),
        options: vec!["--volumes-from".into(), container.id.clone()],
        variables: variables.map(|(name, value)| (name.into(), value.into())).collect(),
        ..reload.check
    };
    let result = docker.query(&exec)?;
    if result.ok() { Ok(()) } else { Err(refusal(proxy, &result).into()) }
}

fn refusal(proxy: &dyn Proxy, result: &CommandResult) -> Error {
    let message = format!("{} refuses its changed files; nothing was changed", proxy.name());
    let (stderr, stdout) = (result.stderr.trim_end(), result.stdout.trim_end());
    let output = Error::unchanged(message).detail(stdout).detail(stderr);
    output.hint("correct the file that is named above; the proxy still serves by the configuration before")
}

/// Reloads a proxy and waits until it runs with its changed files. `reread` returns the proxy with its new configuration:
/// the servers that only the running proxy had are restored by it. `containers` are all containers of the engine.
///
/// # Errors
/// The proxy refuses its files, or does not confirm them within 30 s: it serves by the configuration before. An
/// interrupt.
pub fn reload(
    docker: &Docker,
    proxy: &dyn Proxy,
    containers: &[Container],
    reread: &dyn Fn() -> Result<Arc<dyn Proxy>>,
    stop: &StopSignal,
) -> Result<()> {
    let Some(reload) = proxy.files().reload else { return Ok(()) };
    let routed =
        if proxy.abilities().gives_addresses { routed(docker, proxy, containers)? } else { Vec::new() };
    let before = state(docker, &reload)?.now();
    check(docker, proxy)?;
    docker.check_lease()?;
    let result = docker.exec(&reload.apply)?;
    if !result.ok() {
        return Err(refusal(proxy, &result).into());
    }
    let is_read = || -> Result<Option<()>> {
        let read_at = state(docker, &reload)?.read_at();
        Ok(read_at.zip(before).is_some_and(|(read_at, before)| read_at + CLOCK_SLACK >= before).then_some(()))
    };
    match wait::until(POLL, RELOAD_TIMEOUT, stop, is_read)? {
        WaitResult::Done(()) if routed.is_empty() => Ok(()),
        WaitResult::Done(()) => restore(docker, reread()?.as_ref(), &routed, containers, stop),
        WaitResult::Interrupted(signal) => Err(Error::interrupted(signal).into()),
        WaitResult::TimedOut => Err(unconfirmed(proxy).into()),
    }
}

fn unconfirmed(proxy: &dyn Proxy) -> Error {
    let (name, seconds) = (proxy.name(), RELOAD_TIMEOUT.as_secs());
    let message = format!("{name} does not run with its changed files {seconds}s after the reload");
    let container = proxy.container().map_or("", Container::name);
    Error::new(Exit::StillServing, message).hint(format!("see its log: `docker logs --tail 20 {container}`"))
}

/// Ids of the instances that get requests now.
fn routed(docker: &Docker, proxy: &dyn Proxy, containers: &[Container]) -> Result<Vec<String>> {
    let running = containers.iter().filter(|c| c.is_running() && !proxy.is_in(c));
    let goal = Goal::Observed(super::endpoints(proxy, running));
    Ok(Pursuit::new(docker, proxy, goal).state()?.routed.into_iter().collect())
}

/// Gives these instances a server again, if the files name their service and have no line for them.
fn restore(
    docker: &Docker,
    proxy: &dyn Proxy,
    routed: &[String],
    containers: &[Container],
    stop: &StopSignal,
) -> Result<()> {
    let (own, others): (Vec<_>, Vec<_>) = containers.iter().partition(|c| routed.contains(&c.id));
    let inside = super::endpoints(proxy, own.into_iter());
    if inside.is_empty() {
        return Ok(());
    }
    let rotation = Rotation {
        preexisting: inside.iter().map(|e| e.id.clone()).collect(),
        others: other_containers(others.into_iter()),
        inside,
        ..Rotation::default()
    };
    Pursuit::new(docker, proxy, Goal::Rotation(rotation)).converge(stop, &|| Ok(()))
}

#[cfg(test)]
mod tests;
