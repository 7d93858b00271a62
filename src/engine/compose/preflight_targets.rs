//! Checks, warnings and preparations of a run before it changes anything.

use std::collections::BTreeSet;

use anyhow::Result;

use super::ComposeRun;
use super::desired;
use super::target_rollout::TargetRollout;
use crate::docker::inspect::{CONFIG_HASH, Container};
use crate::finding::{self, Finding};
use crate::git;
use crate::health::ReadinessProbe;
use crate::model::DependsOnCondition;
use crate::observe::TargetReader;
use crate::observed::{Generation, Instance, InstanceState};
use crate::preflight::readiness::{self, ServingInstance};
use crate::preflight::{self, Surroundings, proxies};
use crate::proxy::{RolloutShape, converge};
use crate::release::RolloutKind;
use crate::report::{Event, ImageChange, InitialInstance, Warning};
use crate::targets::Target;
use crate::targets::is_member;

impl<'a> ComposeRun<'a> {
    /// Preflight checks of a target: the first refusal is an error, and the rest are notes.
    pub fn findings(&self, rollout: &TargetRollout) -> Result<Vec<Finding>> {
        let found = preflight::running(&Surroundings {
            reader: rollout.reader,
            fronting: &rollout.reader.proxies,
            proxies: &self.prepared.proxies,
            containers: &self.prepared.containers,
            extra_instances: rollout.plan.extra_instances(),
        })?;
        Ok(finding::require(found)?)
    }

    pub fn announce(&self, rollout: &TargetRollout, notes: &[Finding]) {
        let reader = rollout.reader;
        self.report.event(Event::Images {
            project: self.project().name.clone(),
            by: git::user_and_host(),
            images: reader.target.services().into_iter().map(|service| self.image_change(service)).collect(),
        });
        self.report.event(Event::Deploying {
            target: rollout.name().into(),
            proxies: reader.proxies.iter().map(|p| p.name()).collect(),
            instances: rollout.start.instances.iter().map(|i| initial_instance(rollout, i)).collect(),
        });
        if reader.proxies.is_empty() {
            self.report.warn(&Warning::NoProxy(rollout.name().into()));
        }
        for service in reader.target.services().iter().map(|s| &self.project().services[*s]) {
            if desired::stops_first_for_volume(service, self.policy(service), !reader.proxies.is_empty()) {
                self.report.event(Event::StoppingFirst(service.name.clone().into()));
            }
        }
        rollout.warnings().iter().for_each(|warning| self.report.warn(warning));
        notes.iter().for_each(|risk| self.report.warn(&Warning::ExpectedLoss(risk.to_string())));
        self.report_back_to_file(reader.target);
    }

    fn image_change(&self, service: &str) -> ImageChange {
        let containers = self.prepared.containers.iter();
        let is_instance = |c: &&Container| is_member(self.project(), c, &[service]) && !c.is_bridge();
        let running = containers.filter(is_instance).filter(|c| c.is_running());
        let from = running.map(|c| (c.config.image.clone(), c.image_id.clone()));
        // A restored release has a tag of compose-zd as its image.
        let recorded = self.restored.get(service).map(|release| release.image.as_str());
        let to = recorded.unwrap_or(&self.project().services[service].image);
        let id = self.prepared.desired.images.get(service).map_or("", |image| image.id.as_str());
        ImageChange::new(service, from, (to, id))
    }

    /// Reports a return to the file's image: an image of `--image` is not in the file, so a plain deploy drops it.
    pub fn report_back_to_file(&self, target: &Target) {
        let Some(current) = self.journal().history.current().filter(|_| self.kind == RolloutKind::Deploy)
        else {
            return;
        };
        for service in target.services() {
            let image = &self.project().services[service].image;
            let ran = current.services.get(service).filter(|p| p.by_flag && p.image != *image);
            if let Some(ran) = ran.filter(|_| !self.has_image_flag(service)) {
                self.report.event(Event::ImageOverrideEnded {
                    service: service.into(),
                    image: image.clone(),
                    previous_image: ran.image.clone(),
                    release: current.number,
                });
            }
        }
    }

    /// Warnings about losses by a proxy's own configuration, and about weak probes.
    pub fn warnings(&self, reader: &TargetReader, probes: &[(&str, ReadinessProbe)]) -> Result<Vec<Warning>> {
        let backends = reader.backends(&self.prepared.containers);
        let shape = RolloutShape { backends, ..RolloutShape::default() };
        let mut warnings = Vec::new();
        for proxy in &reader.proxies {
            let audit = proxy.audit(&shape, None);
            audit.refused.map_or(Ok(()), Err)?;
            warnings.extend(audit.risks.iter().map(|risk| Warning::ExpectedLoss(risk.to_string())));
        }
        let weak = probes.iter().filter(|(_, probe)| probe.is_weak());
        warnings.extend(weak.map(|(service, _)| Warning::WeakProbe(service.to_string())));
        Ok(warnings)
    }

    /// Warns of a serving instance that fails the probe for new instances. A rollback skips this check: the
    /// restored release is not judged by its successor.
    pub fn probe_serving(&self, rollouts: &[TargetRollout]) -> Result<()> {
        if self.kind != RolloutKind::Deploy {
            return Ok(());
        }
        let mut all = Vec::new();
        for rollout in rollouts {
            all.extend(ServingInstance::select(
                rollout.reader,
                &rollout.reader.proxies,
                rollout.old_serving(),
            )?);
        }
        for finding in readiness::not_ready(self.docker(), &all)? {
            self.report.warn(&Warning::ServingNotReady(finding.to_string()));
        }
        Ok(())
    }

    /// Services that this run does not deploy, if any of them has a container.
    fn unnamed_services(&self) -> Vec<&'a str> {
        let jobs = self.prepared.jobs.all();
        let deployed: Vec<&str> =
            self.prepared.targets.iter().flat_map(Target::services).chain(jobs).collect();
        let all = self.project().services.keys().map(String::as_str);
        let others: Vec<&str> = all.filter(|s| !deployed.contains(s)).collect();
        let is_there = self.prepared.containers.iter().any(|c| is_member(self.project(), c, &others));
        let is_reported = self.kind == RolloutKind::Deploy && !self.request.is_of_project;
        if is_reported && is_there { others } else { Vec::new() }
    }

    fn images_of(&self, services: &[&str]) -> BTreeSet<&'a str> {
        services.iter().map(|s| self.project().services[*s].image.as_str()).collect()
    }

    /// Reports outdated services that this run does not deploy.
    pub fn report_left_alone(&self) -> Result<()> {
        let others = self.unnamed_services();
        let members = || self.prepared.containers.iter().filter(|c| is_member(self.project(), c, &others));
        if others.is_empty() {
            return Ok(());
        }
        let images = self.docker().images(&self.images_of(&others))?;
        let has_changed = |container: &Container, service: &str| {
            let hashes = self.prepared.desired.hashes.get(service);
            let hash = container.label(CONFIG_HASH);
            let image = images.iter().find(|i| i.is_named(&self.project().services[service].image));
            let other_image = image.is_some_and(|i| i.id != container.image_id);
            other_image || hashes.is_some_and(|all| !all.iter().any(|wanted| Some(wanted.as_str()) == hash))
        };
        let changed: BTreeSet<String> = members()
            .filter_map(|c| Some((c, c.compose()?.1)))
            .filter(|(container, service)| has_changed(container, service))
            .map(|(_, service)| service.to_string())
            .collect();
        if !changed.is_empty() {
            let event = Event::LeftAlone(changed.into_iter().collect::<Vec<_>>().into());
            if self.context.args.witness.strict {
                self.report.warn(&Warning::LeftAlone(event.to_string()));
            }
            self.report.event(event);
        }
        Ok(())
    }

    /// Prepares the proxies for a rotation. A dry run only reports the changes.
    pub fn prepare_proxies(&self, rollout: &TargetRollout, all: &[TargetRollout]) -> Result<()> {
        let containers = &self.prepared.containers;
        let reader = rollout.reader;
        let names = |p: &TargetRollout| p.reader.names(&p.reader.backends(containers));
        let others = all.iter().filter(|p| p.name() != rollout.name());
        let other_names = others.flat_map(names).flat_map(|(_, names)| names).collect();
        let sizes = (rollout.plan.extra_instances(), rollout.plan.serving_at_end());
        let shape = proxies::shape(reader, containers, sizes, other_names);
        for proxy in &reader.proxies {
            let (answers, changes) = converge::patches(self.docker(), proxy.as_ref(), &shape)?;
            let losses = proxy.losses(&answers, &shape);
            losses.iter().for_each(|loss| self.report.warn(&Warning::ExpectedLoss(loss.to_string())));
            for patch in changes? {
                let has_note = !patch.note.is_empty();
                if self.context.args.dry_run {
                    has_note.then(|| self.report.event(Event::WouldPrepare(patch.note.into())));
                    continue;
                }
                match converge::run(self.docker(), proxy.as_ref(), &patch) {
                    Ok(_) if !has_note => {}
                    Ok(_) => self.report.event(Event::Prepared(patch.note.into())),
                    Err(error) if patch.required => return Err(error),
                    Err(error) if patch.failure_note.is_empty() => {
                        self.report.warn(&Warning::ProxyNotPrepared(format!("{error:#}")));
                    }
                    Err(_) => self.report.warn(&Warning::ProxyNotPrepared(patch.failure_note)),
                }
            }
        }
        Ok(())
    }

    /// Stopped dependencies of targets and jobs: no instance runs, or none has completed if that is the condition.
    pub fn stopped_dependencies(&self) -> Vec<&'a str> {
        let targeted: Vec<&str> = self.prepared.targets.iter().flat_map(Target::services).collect();
        let is_up = |service: &str, condition: DependsOnCondition| {
            let mut its =
                self.prepared.containers.iter().filter(|c| is_member(self.project(), c, &[service]));
            its.any(|c| c.is_running() || (condition.is_completed() && c.has_completed()))
        };
        let jobs = self.prepared.jobs.all().into_iter();
        let needs = targeted
            .iter()
            .copied()
            .chain(jobs)
            .flat_map(|s| self.project().services[s].needs(self.project()));
        // A job of this run needs no start.
        let is_run = |s: &str| {
            self.kind == RolloutKind::Deploy && self.prepared.jobs.before.iter().any(|shot| shot == s)
        };
        let down =
            needs.filter(|(s, condition)| !targeted.contains(s) && !is_run(s) && !is_up(s, *condition));
        let down: BTreeSet<&str> = down.map(|(s, _)| s).collect();
        down.into_iter().collect()
    }
}

fn initial_instance(rollout: &TargetRollout, instance: &Instance) -> InitialInstance {
    InitialInstance {
        name: rollout.name_of(&instance.key),
        new: instance.generation == Generation::New,
        running: instance.state != InstanceState::Exited && instance.state != InstanceState::Created,
        in_rotation: instance.serves(),
    }
}
