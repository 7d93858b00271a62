//! The story of a deploy, in words: load, observe, plan, execute, report.

mod asked;
mod checks;
mod scene;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::cli::{ComposeArgs, DeployArgs};
use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::drain;
use crate::fault::{Exit, Fault};
use crate::model::{Order, Project, Service, Wrong};
use crate::observed::{Instance, Observed};
use crate::plan::{self, Goal, Plan, Strategy};
use crate::proxy::{Backend, Proxy, Wish};
use crate::report::{Event, Report, Warning};
use crate::rollout::{Rollout, Stopped, Tools};
use crate::wait::Stop;
use asked::Target;
use scene::{Scene, Viewer, Wanted};

/// Replaces the services asked for by their next version.
///
/// # Errors
/// A [`Fault`] whose exit code tells what serves now.
pub fn deploy(compose: &ComposeArgs, args: &DeployArgs, report: Report, stop: &Stop) -> Result<()> {
    let observer = Box::new(move |words: &str, took: Duration| report.command(words, took));
    let mut docker = Docker::find(asked::place(compose), observer)?;
    let (yaml, warnings) = docker.config()?;
    warnings.into_iter().for_each(|w| report.warn(&Warning::Compose(w)));
    let project = Project::read(&yaml, &asked::source(compose), &asked::flags(args)).map_err(Fault::from)?;
    let containers = docker.containers()?;
    let proxies = scene::detect(&docker, &containers)?;
    let targets = asked::targets(&project, args, &proxies)?;
    for target in &targets {
        checks::file(&project, target)?;
        checks::proxy_runs(&project, target, &proxies)?;
    }
    let provided = provide_images(&docker, &project, &targets, args, report);
    if let Some(signal) = stop.signal() {
        return Err(Fault::interrupted(signal).into());
    }
    let changed = provided?;
    let wanted = Wanted::read(&docker, &project, &targets, args.force)?;
    let run = Run { docker: &docker, project: &project, wanted: &wanted, proxies: &proxies, args, report };
    let mut fresh = (!changed).then_some(containers);
    for target in &targets {
        let containers = fresh.take().map_or_else(|| docker.containers(), Ok)?;
        run.target(target, containers, stop)?;
    }
    Ok(())
}

/// One run of the command.
struct Run<'a> {
    docker: &'a Docker,
    project: &'a Project,
    wanted: &'a Wanted,
    /// All of the engine's.
    proxies: &'a [Arc<dyn Proxy>],
    args: &'a DeployArgs,
    report: Report,
}

impl Run<'_> {
    /// One target: observe → plan → execute → report. `containers` are all of the engine's, read just now.
    fn target(&self, target: &Target, containers: Vec<Container>, stop: &Stop) -> Result<()> {
        let viewer = Viewer {
            docker: self.docker,
            project: self.project,
            wanted: self.wanted,
            target,
            proxies: scene::fronting(self.docker, self.project, target, &containers, self.proxies)?,
        };
        let backends = viewer.backends(&containers);
        let losses = losses(&viewer, &backends)?;
        let probes = viewer.probes()?;
        let down = self.down(target, &containers);
        let scene = viewer.look_at(containers)?;
        let strategy = self.strategy(target, &scene.observed)?;
        let plan = plan::plan(&strategy, &scene.observed).map_err(Fault::from)?;
        if plan.steps.is_empty() {
            return self.unchanged(&viewer, &plan, &scene);
        }
        self.announce(&viewer);
        losses.into_iter().for_each(|loss| self.report.warn(&Warning::Loss(loss)));
        for (service, _) in probes.iter().filter(|(_, probe)| probe.is_weak()) {
            self.report.warn(&Warning::WeakProbe(service.to_string()));
        }
        checks::collateral(self.docker, &plan, &down)?;
        self.prepare(&viewer, &plan, &backends)?;
        if self.args.dry_run {
            self.report.plan(target.name(), &plan);
            return Ok(());
        }
        self.start_needed(&down)?;
        self.execute(&viewer, &plan, &scene, stop)
    }

    /// Nothing has to change; but a rollout that was killed just before its end may have left marks in a proxy.
    fn unchanged(&self, viewer: &Viewer, plan: &Plan, scene: &Scene) -> Result<()> {
        if !self.args.dry_run {
            let tools = self.tools(viewer);
            let rollout = Rollout::new(&tools, Stop::default(), &scene.observed, scene.containers.clone());
            if let Err(error) = rollout.release() {
                self.report.warn(&Warning::LeftBehind(format!("{error:#}")));
            }
        }
        self.report.plan(viewer.target.name(), plan);
        Ok(())
    }

    fn tools<'v>(&'v self, viewer: &'v Viewer) -> Tools<'v> {
        Tools { docker: self.docker, project: self.project, proxies: &viewer.proxies, report: self.report }
    }

    fn execute(&self, viewer: &Viewer, plan: &Plan, scene: &Scene, stop: &Stop) -> Result<()> {
        let tools = self.tools(viewer);
        let started = self.report.elapsed();
        let mut rollout = Rollout::new(&tools, stop.clone(), &scene.observed, scene.containers.clone());
        match rollout.run(plan) {
            Ok(()) => {}
            Err(stopped) if stopped.serves => {
                self.report.warn(&Warning::LeftBehind(stopped.fault.to_string()));
            }
            Err(stopped) => return Err(self.go_back(viewer, &tools, scene, stopped).into()),
        }
        let took = self.report.elapsed().saturating_sub(started);
        self.report.deployed(viewer.target.name(), &rollout.in_rotation(), took);
        Ok(())
    }

    /// Brings back what served before, and says how that went.
    fn go_back(&self, viewer: &Viewer, tools: &Tools, start: &Scene, stopped: Stopped) -> Fault {
        if matches!(stopped.fault.exit, Exit::Interrupted(_)) {
            self.report.event(&Event::Interrupted);
        }
        self.report.event(&Event::GoingBack);
        let back = || -> Result<(), Fault> {
            let now = viewer.look_patiently()?;
            let plan = plan::undo(&start.observed, &now.observed);
            let mut rollout = Rollout::back(tools, &now.observed, now.containers);
            rollout.run(&plan).map_err(|s| s.fault)
        };
        match back() {
            Ok(()) => kept(viewer.target, &start.observed, stopped.fault),
            Err(second) => broken(viewer.target, &self.project.name, stopped.fault, &second),
        }
    }

    fn strategy(&self, target: &Target, observed: &Observed) -> Result<Strategy, Fault> {
        let sides = target.services();
        let goal = |name: &str| self.goal(name, &sides, observed);
        let Target::Pair(pair) = target else {
            return Ok(Strategy::Scale(goal(target.name())));
        };
        let mut goals = [goal(&pair.sides[0]), goal(&pair.sides[1])];
        let serves = |s: &&str| observed.of(s).any(Instance::serves);
        if sides.iter().all(serves) {
            checks::active_sides(self.project, target)?;
            goals.iter_mut().for_each(|g| self.stop_first_where_needed(g));
        }
        Ok(Strategy::Pair(goals))
    }

    /// A fixed host port is free only once the old instance has stopped.
    fn stop_first_where_needed(&self, goal: &mut Goal) {
        if !self.project.services[&goal.service].fixed_ports.is_empty() {
            goal.order = Order::StopFirst;
        }
    }

    /// `--scale`, else the file, else as many as run (for the idle side of a pair: of the other one), else one.
    fn goal(&self, name: &str, sides: &[&str], observed: &Observed) -> Goal {
        let service = &self.project.services[name];
        let asked = self.args.scale.iter().rev().find(|(s, _)| s == name).map(|(_, n)| *n);
        let own = Some(observed.size(name)).filter(|n| *n > 0);
        let running = own.or(sides.iter().map(|s| observed.size(s)).max()).unwrap_or(0);
        let wanted = asked.or(service.replicas).map_or(running, |n| n as usize);
        Goal {
            service: name.into(),
            wanted: wanted.max(1),
            order: service.order,
            parallelism: service.parallelism as usize,
            clears_stopped: service.starts_by_compose,
        }
    }

    fn announce(&self, viewer: &Viewer) {
        self.report.event(&Event::Deploying {
            target: viewer.target.name().into(),
            proxies: viewer.proxies.iter().map(|p| p.name()).collect(),
        });
        if viewer.proxies.is_empty() {
            self.report.warn(&Warning::NoProxy(viewer.target.name().into()));
        }
        for service in viewer.target.services().iter().map(|s| &self.project.services[*s]) {
            if !service.not_followed.is_empty() {
                self.report.warn(&Warning::NotFollowed {
                    service: service.name.clone(),
                    keys: service.not_followed.clone(),
                });
            }
        }
    }

    /// Makes sure that the proxies can be given a rotation; a dry run only says what it would change in them.
    fn prepare(&self, viewer: &Viewer, plan: &Plan, backends: &[Backend]) -> Result<()> {
        let first = &self.project.services[viewer.target.services()[0]];
        let wish = Wish {
            tune: first.settings.proxy.tune.unwrap_or(true),
            starting: plan.starting(),
            services: viewer.names(backends),
        };
        for proxy in &viewer.proxies {
            let answers = proxy.inspect().iter().map(|q| self.docker.exec(q)).collect::<Result<Vec<_>>>()?;
            for preparation in proxy.prepare(&answers, &wish)? {
                let told = !preparation.note.is_empty();
                if self.args.dry_run {
                    told.then(|| self.report.event(&Event::WouldPrepare(preparation.note)));
                    continue;
                }
                match drain::checked(self.docker, &preparation.exec, &proxy.name()) {
                    Ok(_) if !told => {}
                    Ok(_) => self.report.event(&Event::Prepared(preparation.note)),
                    Err(error) if preparation.required => return Err(error),
                    Err(error) => self.report.warn(&Warning::NotPrepared(format!("{error:#}"))),
                }
            }
        }
        Ok(())
    }

    /// The services a target depends on that are down: no instance runs, or none has completed where that is enough.
    fn down(&self, target: &Target, containers: &[Container]) -> Vec<&str> {
        let ours = target.services();
        let is_up = |service: &str, completes: bool| {
            let mut its = containers.iter().filter(|c| scene::is_member(self.project, c, &[service]));
            its.any(|c| c.is_running() || (completes && c.has_completed()))
        };
        let needs = ours.iter().flat_map(|s| self.project.services[*s].needs(self.project));
        let down = needs.filter(|(s, completes)| !ours.contains(s) && !is_up(s, *completes));
        let down: BTreeSet<&str> = down.map(|(s, _)| s).collect();
        down.into_iter().collect()
    }

    /// Starts what it depends on and is down; what runs is left alone, whatever has changed in it.
    fn start_needed(&self, down: &[&str]) -> Result<()> {
        if down.is_empty() {
            return Ok(());
        }
        self.report.event(&Event::StartingNeeded(down.join(", ")));
        self.docker.start_services(down)
    }
}

/// What the proxies in front will lose, by their own configuration.
fn losses(viewer: &Viewer, backends: &[Backend]) -> Result<Vec<String>, Fault> {
    let checks = viewer.proxies.iter().map(|p| p.check(backends));
    Ok(checks.collect::<Result<Vec<_>, _>>()?.concat())
}

/// Builds and pulls before anything is touched, so that every image is there; tells whether it did any of it.
fn provide_images(
    docker: &Docker,
    project: &Project,
    targets: &[Target],
    args: &DeployArgs,
    report: Report,
) -> Result<bool> {
    let services = targets.iter().flat_map(Target::services).map(|s| &project.services[s]);
    let (built, others): (Vec<&Service>, Vec<&Service>) = services.partition(|s| s.builds && !args.no_build);
    if args.dry_run {
        return Ok(false);
    }
    let names = |services: &[&Service]| services.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    if !built.is_empty() {
        report.event(&Event::Building(names(&built).join(", ")));
        docker.build(&names(&built))?;
    }
    let mut pulled = Vec::new();
    for service in others {
        if args.pull || docker.image(&service.image)?.is_none() {
            pulled.push(service);
        }
    }
    if !pulled.is_empty() {
        report.event(&Event::Pulling(names(&pulled).join(", ")));
        docker.pull(&names(&pulled))?;
    }
    Ok(!built.is_empty() || !pulled.is_empty())
}

/// The old release serves, unchanged.
fn kept(target: &Target, start: &Observed, fault: Fault) -> Fault {
    let serving: Vec<&str> = start.serving().map(|i| i.key.as_str()).collect();
    let serves = match serving[..] {
        [] => "nothing served before, and nothing was left behind".to_string(),
        [one] => format!("{one} served before and still serves"),
        _ => format!("{} served before and still serve", serving.join(", ")),
    };
    let exit = match fault.exit {
        Exit::Interrupted(signal) => Exit::Interrupted(signal),
        _ => Exit::Kept,
    };
    Fault { exit, message: format!("`{}`: {}; {serves}", target.name(), fault.message), ..fault }
}

fn broken(target: &Target, project: &str, first: Fault, second: &Fault) -> Fault {
    let (name, first_message, second_message) = (target.name(), &first.message, &second.message);
    let mut fault = Fault::new(
        Exit::Broken,
        format!("`{name}`: {first_message}; and what served before could not be restored: {second_message}"),
    );
    fault.details = [first.details, second.details.clone()].concat();
    fault.hint(format!(
        "act now: `docker compose --project-name {project} ps --all` shows what runs; deploy again once the cause is gone"
    ))
}

impl From<Wrong> for Fault {
    fn from(wrong: Wrong) -> Self {
        Fault::usage(wrong.message).hint(wrong.hint)
    }
}
