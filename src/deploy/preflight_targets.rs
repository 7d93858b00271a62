//! What a run tells, checks and prepares before it changes anything.

use std::collections::BTreeSet;

use anyhow::Result;

use super::desired;
use super::observe::{self, TargetReader};
use super::pipeline::Pipeline;
use super::serving::{self, ServingInstance};
use super::target_rollout::TargetRollout;
use super::targets::Target;
use crate::docker::inspect::{CONFIG_HASH, Container};
use crate::drain;
use crate::error::Risk;
use crate::health::ReadinessProbe;
use crate::observed::{Generation, Instance, InstanceState};
use crate::preflight::{self, Surroundings};
use crate::proxy::RolloutShape;
use crate::release::RolloutKind;
use crate::report::{Event, InitialInstance, Warning};

impl<'a> Pipeline<'a> {
    /// What a part is refused for; else what has to be said before.
    ///
    /// # Errors
    /// The first reason, with its fix.
    pub fn judge(&self, part: &TargetRollout, containers: &[Container]) -> Result<Vec<Risk>> {
        let found = preflight::engine(&Surroundings {
            reader: part.reader,
            fronting: &part.reader.proxies,
            known: self.proxies,
            containers,
            starting: part.plan.starting(),
        })?;
        let note = |finding| match finding {
            preflight::PreflightFinding::Refused(error) => Err(error.into()),
            preflight::PreflightFinding::Note(loss) => Ok(loss),
        };
        found.into_iter().map(note).collect()
    }

    pub fn announce(&self, part: &TargetRollout, notes: &[Risk]) {
        let reader = part.reader;
        self.report.event(Event::Deploying {
            target: part.name().into(),
            proxies: reader.proxies.iter().map(|p| p.name()).collect(),
            instances: part.start.instances.iter().map(found).collect(),
        });
        if reader.proxies.is_empty() {
            self.report.warn(&Warning::NoProxy(part.name().into()));
        }
        for service in reader.target.services().iter().map(|s| &self.project().services[*s]) {
            if desired::rests_for_its_volume(service, self.policy(service), !reader.proxies.is_empty()) {
                self.report.event(Event::StopFirst { service: service.name.clone() });
            }
        }
        part.warnings().iter().for_each(|warning| self.report.warn(warning));
        notes.iter().for_each(|loss| self.report.warn(&Warning::Loss(loss.to_string())));
        self.back_to_file(reader.target);
    }

    /// An image that came from a flag is not in the file, so a plain deploy takes it away again.
    pub fn back_to_file(&self, target: &Target) {
        let Some(current) = self.journal.history.current().filter(|_| self.kind == RolloutKind::Deploy)
        else {
            return;
        };
        for service in target.services() {
            let image = &self.project().services[service].image;
            let ran = current.services.get(service).filter(|p| p.by_flag && p.image != *image);
            if let Some(ran) = ran.filter(|_| !self.images.contains(service)) {
                self.report.event(Event::BackToFile {
                    service: service.into(),
                    image: image.clone(),
                    ran: ran.image.clone(),
                    release: current.number,
                });
            }
        }
    }

    /// What the proxies in front will lose by their own configuration, and what a weak probe cannot see.
    pub fn warnings(
        &self,
        reader: &TargetReader,
        probes: &[(&str, ReadinessProbe)],
        containers: &[Container],
    ) -> Result<Vec<Warning>> {
        let backends = reader.backends(containers);
        let mut warnings = Vec::new();
        for proxy in &reader.proxies {
            warnings.extend(proxy.check(&backends)?.iter().map(|loss| Warning::Loss(loss.to_string())));
        }
        let weak = probes.iter().filter(|(_, probe)| probe.is_weak());
        warnings.extend(weak.map(|(service, _)| Warning::WeakProbe(service.to_string())));
        Ok(warnings)
    }

    /// Warns where what serves does not pass the probe of new instances. A release that is put back is not judged by
    /// the one that it replaces.
    ///
    /// # Errors
    /// No HTTP client can be made.
    pub fn query_serving(&self, parts: &[TargetRollout]) -> Result<()> {
        if self.kind != RolloutKind::Deploy {
            return Ok(());
        }
        let mut all = Vec::new();
        for part in parts {
            all.extend(ServingInstance::of(part.reader, &part.reader.proxies, part.old_serving())?);
        }
        for found in serving::not_ready(self.docker(), &all)? {
            self.report.warn(&Warning::ServingNotReady(format!("{found}; {}", found.fix)));
        }
        Ok(())
    }

    /// The services that nobody asked for, as far as there are any containers of theirs.
    fn others(&self, containers: &[Container], targets: &[Target]) -> Vec<&'a str> {
        let jobs = self.jobs.all();
        let asked: Vec<&str> = targets.iter().flat_map(Target::services).chain(jobs).collect();
        let all = self.project().services.keys().map(String::as_str);
        let others: Vec<&str> = all.filter(|s| !asked.contains(s)).collect();
        let is_there = containers.iter().any(|c| observe::is_member(self.project(), c, &others));
        if self.kind == RolloutKind::Deploy && is_there { others } else { Vec::new() }
    }

    fn images_of(&self, services: &[&str]) -> BTreeSet<&'a str> {
        services.iter().map(|s| self.project().services[*s].image.as_str()).collect()
    }

    /// Starts to read what [`Run::left_alone`] asks for.
    pub fn prefetch_others(&self, containers: &[Container], targets: &[Target]) {
        self.docker().prefetch_images(&self.images_of(&self.others(containers, targets)));
    }

    /// What has changed as well, in the file or in its image, and that nobody asked for.
    pub fn left_alone(&self, containers: &[Container], targets: &[Target]) -> Result<()> {
        let others = self.others(containers, targets);
        let theirs = || containers.iter().filter(|c| observe::is_member(self.project(), c, &others));
        if others.is_empty() {
            return Ok(());
        }
        let images = self.docker().images(&self.images_of(&others))?;
        let has_changed = |container: &Container, service: &str| {
            let hashes = self.wanted.hashes.get(service);
            let hash = container.label(CONFIG_HASH);
            let image = images.iter().find(|i| i.is_named(&self.project().services[service].image));
            let other_image = image.is_some_and(|i| i.id != container.image_id);
            other_image || hashes.is_some_and(|all| !all.iter().any(|wanted| Some(wanted.as_str()) == hash))
        };
        let changed: BTreeSet<String> = theirs()
            .filter_map(|c| Some((c, c.compose()?.1)))
            .filter(|(container, service)| has_changed(container, service))
            .map(|(_, service)| service.to_string())
            .collect();
        if !changed.is_empty() {
            self.report.event(Event::LeftAlone { services: changed.into_iter().collect() });
        }
        Ok(())
    }

    /// Makes sure that the proxies can be given a rotation; a dry run only says what it would change in them.
    pub fn prepare(
        &self,
        part: &TargetRollout,
        all: &[TargetRollout],
        containers: &[Container],
    ) -> Result<()> {
        let reader = part.reader;
        let first = &self.project().services[reader.target.services()[0]];
        let names = |p: &TargetRollout| p.reader.names(&p.reader.backends(containers));
        let others = all.iter().filter(|p| p.name() != part.name());
        let wish = RolloutShape {
            tune: first.settings.proxy.tune.unwrap_or(true),
            project: self.project().name.clone(),
            starting: part.plan.starting(),
            services: names(part),
            backends: reader.backends(containers),
            names_in_same_run: others.flat_map(names).flat_map(|(_, names)| names).collect(),
        };
        for proxy in &reader.proxies {
            let answers =
                proxy.inspect().iter().map(|q| self.docker().query(q)).collect::<Result<Vec<_>>>()?;
            let losses = proxy.losses(&answers, &wish);
            losses.iter().for_each(|loss| self.report.warn(&Warning::Loss(loss.to_string())));
            for preparation in proxy.prepare(&answers, &wish)? {
                let told = !preparation.note.is_empty();
                if self.rollout.dry_run {
                    told.then(|| self.report.event(Event::WouldPrepare { what: preparation.note }));
                    continue;
                }
                match drain::checked(self.docker(), &preparation.exec, &proxy.name()) {
                    Ok(_) if !told => {}
                    Ok(_) => self.report.event(Event::Prepared { what: preparation.note }),
                    Err(error) if preparation.required => return Err(error),
                    Err(error) if preparation.failure_note.is_empty() => {
                        self.report.warn(&Warning::NotPrepared(format!("{error:#}")));
                    }
                    Err(_) => self.report.warn(&Warning::NotPrepared(preparation.failure_note)),
                }
            }
        }
        Ok(())
    }

    /// The services that targets and one-shots depend on and that are down: no instance runs, or none has completed
    /// where that is enough.
    pub fn down(&self, targets: &[Target], containers: &[Container]) -> Vec<&'a str> {
        let ours: Vec<&str> = targets.iter().flat_map(Target::services).collect();
        let is_up = |service: &str, completes: bool| {
            let mut its = containers.iter().filter(|c| observe::is_member(self.project(), c, &[service]));
            its.any(|c| c.is_running() || (completes && c.has_completed()))
        };
        let jobs = self.jobs.all().into_iter();
        let needs =
            ours.iter().copied().chain(jobs).flat_map(|s| self.project().services[s].needs(self.project()));
        // Those that this run runs to their end need no start before.
        let is_run =
            |s: &str| self.kind == RolloutKind::Deploy && self.jobs.before.iter().any(|shot| shot == s);
        let down = needs.filter(|(s, completes)| !ours.contains(s) && !is_run(s) && !is_up(s, *completes));
        let down: BTreeSet<&str> = down.map(|(s, _)| s).collect();
        down.into_iter().collect()
    }
}

fn found(instance: &Instance) -> InitialInstance {
    InitialInstance {
        name: instance.key.clone(),
        new: instance.generation == Generation::New,
        runs: instance.state != InstanceState::Exited && instance.state != InstanceState::Created,
        in_rotation: instance.serves(),
    }
}
