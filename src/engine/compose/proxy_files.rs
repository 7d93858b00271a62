//! Proxies among the targets whose files changed: a reload gives them their files, without a new container.

use std::sync::Arc;

use anyhow::Result;

use super::ComposeRun;
use super::target_rollout::TargetRollout;
use crate::error::Error;
use crate::mounted_files::{self, FileChange, ProxyWay};
use crate::observe;
use crate::proxy::{Proxy, file_reload};
use crate::release::RolloutKind;
use crate::report::{Event, Warning};
use crate::targets::is_member;

/// Proxy that is reloaded, with its changed files.
pub struct ProxyReload {
    proxy: Arc<dyn Proxy>,
    changes: Vec<FileChange>,
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
            for proxy in self.proxies_in(service) {
                let (report, way) = mounted_files::of_proxy(self.docker(), proxy.as_ref(), &inline)?;
                report.notes.into_iter().for_each(|note| self.report.warn(&Warning::Other(note)));
                match way {
                    None | Some(ProxyWay::Watched) => continue,
                    Some(ProxyWay::Recreate(why)) => {
                        return Err(needs_new_container(proxy.as_ref(), &why).into());
                    }
                    Some(ProxyWay::Reload) => file_reload::check(self.docker(), proxy.as_ref())?,
                }
                reloads.push(ProxyReload { proxy: proxy.clone(), changes: report.changes });
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
        let containers = &self.prepared.containers;
        for reload in reloads {
            let proxy = reload.proxy.as_ref();
            let reread = || -> Result<Arc<dyn Proxy>> {
                let proxies = observe::detect(self.docker(), self.project(), containers)?;
                let same = proxies.into_iter().find(|p| proxy.container().is_some_and(|c| p.is_in(c)));
                Ok(same.unwrap_or_else(|| reload.proxy.clone()))
            };
            file_reload::reload(self.docker(), proxy, containers, &reread, self.context.stop)?;
            self.report.event(Event::Prepared(reload.text("reloaded").into()));
        }
        Ok(())
    }

    fn proxies_in<'s>(&'s self, service: &'s str) -> impl Iterator<Item = &'s Arc<dyn Proxy>> {
        let is_of = move |p: &&Arc<dyn Proxy>| {
            p.container().is_some_and(|c| is_member(self.project(), c, &[service])) && !p.routes_nowhere()
        };
        self.prepared.proxies.iter().filter(is_of)
    }
}

impl ProxyReload {
    fn text(&self, verb: &str) -> String {
        let changes: Vec<String> = self.changes.iter().map(ToString::to_string).collect();
        format!("{verb} {}: {}", self.proxy.name(), changes.join(", "))
    }
}

fn needs_new_container(proxy: &dyn Proxy, why: &str) -> Error {
    Error::unchanged(format!("{}: {why}; a reload has no effect, and nothing was changed", proxy.name())).hint(
        "mount its folder instead of the file, so that the proxy has new files, too; a new container of the proxy has the \
         file, with downtime: `docker compose up --detach --no-deps --force-recreate`",
    )
}
