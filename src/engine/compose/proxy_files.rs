//! Proxies whose files changed: a reload gives them their files, without a new container.

use std::sync::Arc;

use anyhow::Result;

use super::ComposeRun;
use super::target_rollout::TargetRollout;
use crate::docker::Docker;
use crate::error::Error;
use crate::model::Project;
use crate::mounted_files::{self, FileChange, ProxyWay};
use crate::observe;
use crate::proxy::{Proxy, file_reload};
use crate::release::RolloutKind;
use crate::report::{Event, Report, Warning};
use crate::targets::is_member;
use crate::wait::StopSignal;

/// Proxy that is reloaded, with its changed files.
#[derive(Clone)]
pub struct ProxyReload {
    pub proxy: Arc<dyn Proxy>,
    pub changes: Vec<FileChange>,
}

/// Proxies among the containers of a service.
pub fn proxies_in<'p>(
    project: &'p Project,
    proxies: &'p [Arc<dyn Proxy>],
    service: &'p str,
) -> impl Iterator<Item = &'p Arc<dyn Proxy>> {
    let is_of = move |p: &&Arc<dyn Proxy>| {
        p.container().is_some_and(|c| is_member(project, c, &[service])) && !p.routes_nowhere()
    };
    proxies.iter().filter(is_of)
}

impl ProxyReload {
    /// Has the proxy test its files.
    ///
    /// # Errors
    /// The proxy's own words for what is wrong. Nothing was changed.
    pub fn check(&self, docker: &Docker) -> Result<()> {
        file_reload::check(docker, self.proxy.as_ref())
    }

    /// As [`ProxyReload::check`], of the files that a new container would have.
    pub fn check_in_new_container(&self, docker: &Docker) -> Result<()> {
        file_reload::check_in_new_container(docker, self.proxy.as_ref())
    }

    /// Reloads the proxy, and waits until it runs with its changed files.
    ///
    /// # Errors
    /// The proxy refuses its files, or does not confirm them: it serves by the configuration before.
    pub fn run(&self, docker: &Docker, project: &Project, report: Report, stop: &StopSignal) -> Result<()> {
        let containers = docker.containers()?;
        let reread = || -> Result<Arc<dyn Proxy>> {
            let proxies = observe::detect(docker, project, &containers)?;
            let same = proxies.into_iter().find(|p| self.proxy.container().is_some_and(|c| p.is_in(c)));
            Ok(same.unwrap_or_else(|| self.proxy.clone()))
        };
        file_reload::reload(docker, self.proxy.as_ref(), &containers, &reread, stop)?;
        report.event(Event::Prepared(self.text("reloaded").into()));
        Ok(())
    }

    /// True for a proxy in a container of one of these services.
    pub fn is_of(&self, services: &[String]) -> bool {
        let service = self.proxy.container().and_then(|c| c.compose()).map(|(_, service)| service);
        service.is_some_and(|service| services.iter().any(|name| name == service))
    }

    /// Text of the reload, for messages.
    pub fn text(&self, verb: &str) -> String {
        let changes: Vec<String> = self.changes.iter().map(ToString::to_string).collect();
        format!("{verb} {}: {}", self.proxy.name(), changes.join(", "))
    }
}

impl ComposeRun<'_> {
    /// Reloads of the proxies among the unchanged targets. Each proxy has accepted its files.
    ///
    /// # Errors
    /// A proxy refuses its files, or only a new container would have them.
    pub fn plan_reloads(&self, unchanged: &[TargetRollout]) -> Result<Vec<ProxyReload>> {
        let mut reloads = Vec::new();
        if self.kind != RolloutKind::Deploy {
            return Ok(reloads);
        }
        for service in unchanged.iter().flat_map(|rollout| rollout.reader.target.services()) {
            let inline = self.request.config.snapshot.inline_configs(service);
            for proxy in proxies_in(self.project(), &self.prepared.proxies, service) {
                let (report, way) = mounted_files::of_proxy(self.docker(), proxy.as_ref(), &inline)?;
                report.notes.into_iter().for_each(|note| self.report.warn(&Warning::Other(note)));
                let reload = ProxyReload { proxy: proxy.clone(), changes: report.changes };
                match way {
                    None | Some(ProxyWay::Watched) => {}
                    Some(ProxyWay::Recreate(why)) => {
                        return Err(needs_new_container(proxy.as_ref(), &why).into());
                    }
                    Some(ProxyWay::Reload) => {
                        reload.check(self.docker())?;
                        reloads.push(reload);
                    }
                }
            }
        }
        if self.context.args.dry_run {
            let would = |reload: &ProxyReload| Event::WouldPrepare(reload.text("reload").into());
            reloads.iter().for_each(|reload| self.report.event(would(reload)));
            reloads.clear();
        }
        Ok(reloads)
    }

    /// Reloads proxies, one after the other.
    pub fn reload(&self, reloads: &[ProxyReload]) -> Result<()> {
        let run =
            |reload: &ProxyReload| reload.run(self.docker(), self.project(), self.report, self.context.stop);
        reloads.iter().try_for_each(run)
    }
}

fn needs_new_container(proxy: &dyn Proxy, why: &str) -> Error {
    let service = proxy.container().and_then(|c| c.compose()).map_or("", |(_, service)| service);
    Error::unchanged(format!("{}: {why}; a reload has no effect, and nothing was changed", proxy.name())).hint(format!(
        "mount its folder instead of the file, so that the proxy has new files, too; `compose-zd up --yes {service}` \
         recreates the proxy, with downtime"
    ))
}
