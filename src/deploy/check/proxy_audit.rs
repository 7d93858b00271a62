//! Audit of the proxies in front of a target: queried if they run, else checked by their files.

use anyhow::Result;

use super::ProjectCheck;
use super::target_audit::TargetProxies;
use crate::check::AuditReport;
use crate::finding::{Finding, Subject};
use crate::observe::{self, TargetReader};
use crate::proxy::converge;
use crate::proxy::{Backend, Planned, Proxy, RolloutShape};
use crate::targets::{Target, backend};

impl ProjectCheck<'_> {
    /// Proxies of a target: running ones, and those of the file.
    ///
    /// # Errors
    /// A named container that is no known proxy.
    pub fn proxies_of(&self, target: &Target) -> Result<TargetProxies> {
        let project = self.project();
        let services: Vec<_> = target.services().iter().map(|s| &project.services[*s]).collect();
        let settings = &services[0].settings.proxy;
        let has_no_proxy = settings.kind.as_deref() == Some("none");
        // A named container can only be found on an engine.
        let is_named = settings.container.is_some() && self.containers.is_none();
        if has_no_proxy || is_named {
            return Ok(TargetProxies {
                running: Vec::new(),
                configured: Vec::new(),
                may_have_another: is_named,
            });
        }
        let running = match &self.containers {
            Some(all) => observe::proxies_of(self.docker(), project, target, all, &self.proxies)?,
            None => Vec::new(),
        };
        let routes = |p: &dyn Proxy| services.iter().any(|s| p.routes_to(&backend(project, s)));
        let configured =
            self.configured_proxies.known().filter(|p| running.is_empty() && routes(p.as_ref())).cloned();
        let configured: Vec<_> = configured.collect();
        let may_have_another = services.iter().any(|s| self.configured_proxies.may_route_to(s));
        Ok(TargetProxies {
            may_have_another: may_have_another && running.is_empty() && configured.is_empty(),
            running,
            configured,
        })
    }

    /// Adds the refusals and warnings that a deploy would get from the proxies.
    pub fn audit_proxies(
        &self,
        reader: &TargetReader,
        proxies: &TargetProxies,
        (starting, names_in_same_run): (usize, Vec<String>),
        audit_report: &mut AuditReport,
    ) -> Result<()> {
        let target = reader.target;
        let backends = reader.backends(self.containers());
        let shape = RolloutShape { names_in_same_run, ..self.rollout_shape(reader, &backends, starting) };
        for proxy in proxies.all() {
            let proxy = proxy.as_ref();
            let is_configured =
                proxies.configured.iter().any(|p| p.container().name() == proxy.container().name());
            let files = |path: &str| self.configured_proxies.mounted_file(proxy, path);
            let planned = Planned { files: &files, present: self.instances_before(target) };
            let mut audit = proxy.audit(&shape, is_configured.then_some(&planned));
            if !is_configured && audit.refused.is_none() {
                let (answers, patches) = converge::patches(self.docker(), proxy, &shape)?;
                audit = audit.and(|| patches.map(|_| proxy.losses(&answers, &shape)));
            }
            let refused = audit.refused.map(|error| finding(target, proxy, error));
            let risks = audit.advice.into_iter().chain(audit.risks).map(|risk| finding(target, proxy, risk));
            audit_report.findings.extend(refused.into_iter().chain(risks));
        }
        Ok(())
    }

    fn rollout_shape(&self, reader: &TargetReader, backends: &[Backend], starting: usize) -> RolloutShape {
        let first = &self.project().services[reader.target.services()[0]];
        RolloutShape {
            tune: first.settings.proxy.tune.unwrap_or(true),
            project: self.project().name.clone(),
            starting,
            services: reader.names(backends),
            backends: backends.to_vec(),
            names_in_same_run: Vec::new(),
        }
    }

    /// Number of instances before the next deploy.
    fn instances_before(&self, target: &Target) -> usize {
        let count = |s: &&str| self.project().services[*s].replicas().map_or(1, |n| n as usize);
        target.services().iter().map(count).max().unwrap_or(1)
    }
}

/// Finding of a proxy. It belongs to the service that the message names, else to the proxy.
fn finding(target: &Target, proxy: &dyn Proxy, finding: impl Into<Finding>) -> Finding {
    let finding = finding.into();
    let named = target.services().into_iter().find(|s| finding.message.contains(&format!("`{s}`")));
    let of_proxy = || Subject::Proxy(proxy.name());
    finding.or_of(|| named.map_or_else(of_proxy, |service| Subject::Service(service.into())))
}
