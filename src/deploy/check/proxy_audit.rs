//! The proxies in front of a target: asked where they run, else judged by their files.

use anyhow::Result;

use super::service_audit::TargetProxies;
use super::{ProjectCheck, refused_by_proxy, scope_of};
use crate::check::{AuditReport, Finding};
use crate::deploy::observe::{self, TargetReader};
use crate::deploy::targets::{Target, backend};
use crate::error::{Error, Risk};
use crate::proxy::{Backend, Proxy, RolloutShape};

impl ProjectCheck<'_> {
    /// Those that run, and those of the file that do not.
    ///
    /// # Errors
    /// One that is named and is none.
    pub fn proxies_of(&self, target: &Target) -> Result<TargetProxies> {
        let project = self.project();
        let services: Vec<_> = target.services().iter().map(|s| &project.services[*s]).collect();
        let settings = &services[0].settings.proxy;
        let none = settings.kind.as_deref() == Some("none");
        // What is named can only be looked for where there is an engine.
        let by_name = settings.container.is_some() && self.containers.is_none();
        if none || by_name {
            return Ok(TargetProxies {
                running: Vec::new(),
                configured: Vec::new(),
                may_have_another: by_name,
            });
        }
        let running = match &self.containers {
            Some(all) => observe::proxies_of(self.docker(), project, target, all, &self.proxies)?,
            None => Vec::new(),
        };
        let fronts = |p: &dyn Proxy| services.iter().any(|s| p.routes_to(&backend(project, s)));
        let planned =
            self.configured_proxies.known().filter(|p| running.is_empty() && fronts(p.as_ref())).cloned();
        let planned: Vec<_> = planned.collect();
        let perhaps = services.iter().any(|s| self.configured_proxies.may_front(s));
        Ok(TargetProxies {
            may_have_another: perhaps && running.is_empty() && planned.is_empty(),
            running,
            configured: planned,
        })
    }

    /// What a deploy would be refused for or warned of by the proxies in front.
    pub fn audit_proxies(
        &self,
        reader: &TargetReader,
        fronting: &TargetProxies,
        (starting, beside): (usize, Vec<String>),
        sheet: &mut AuditReport,
    ) -> Result<()> {
        let target = reader.target;
        let backends = reader.backends(self.containers());
        let wish = RolloutShape { names_in_same_run: beside, ..self.rollout_shape(reader, &backends, starting) };
        for proxy in fronting.all() {
            let proxy = proxy.as_ref();
            let mut losses = proxy.advice(&backends);
            match proxy.check(&backends) {
                Ok(found) => losses.extend(found),
                Err(error) => {
                    sheet.findings.push(refused_by_proxy(target, proxy, error));
                    sheet.findings.extend(losses.into_iter().map(|loss| finding(target, proxy, loss)));
                    continue;
                }
            }
            let is_planned =
                fronting.configured.iter().any(|p| p.container().name() == proxy.container().name());
            let prepared = match is_planned {
                true => {
                    let present = self.instances_before(target);
                    proxy.foresee(&|path| self.configured_proxies.mounted_file(proxy, path), &wish, present)
                }
                false => self.audit_preparation(proxy, &wish)?,
            };
            match prepared {
                Ok(found) => losses.extend(found),
                Err(error) => sheet.findings.push(refused_by_proxy(target, proxy, error)),
            }
            sheet.findings.extend(losses.into_iter().map(|loss| finding(target, proxy, loss)));
        }
        Ok(())
    }

    /// What a running proxy says to being prepared; nothing is done about it.
    fn audit_preparation(&self, proxy: &dyn Proxy, wish: &RolloutShape) -> Result<Result<Vec<Risk>, Error>> {
        let answers = proxy.inspect().iter().map(|q| self.docker().query(q)).collect::<Result<Vec<_>>>()?;
        Ok(proxy.prepare(&answers, wish).map(|_| proxy.losses(&answers, wish)))
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

    /// How many instances there are going to be before the deploy that brings the next.
    fn instances_before(&self, target: &Target) -> usize {
        let count = |s: &&str| self.project().services[*s].replicas.map_or(1, |n| n as usize);
        target.services().iter().map(count).max().unwrap_or(1)
    }
}

fn finding(target: &Target, proxy: &dyn Proxy, loss: Risk) -> Finding {
    Finding::from_risk(scope_of(target, proxy, &loss.message), loss)
}
