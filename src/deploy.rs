//! The story of a deploy, in words: load, observe, plan, execute, report.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;

use crate::cli::{ComposeArgs, DeployArgs};
use crate::docker::inspect::Container;
use crate::docker::{Docker, Where};
use crate::drain;
use crate::fault::{Exit, Fault};
use crate::health::Asker;
use crate::model::{
    Obstacle, Order, Pair, Project, Service, Words, Wrong, Zd, ZdDrain, ZdHealth, ZdProxy,
};
use crate::observed::{Generation, Instance, Key, Observed, State};
use crate::plan::{self, Goal, Plan, Step, Strategy, Unplannable};
use crate::proxy::{self, Backend, Proxy};
use crate::report::{Event, Report, Warning};
use crate::rollout::{self, Rollout, Stopped, Tools};
use crate::wait::Stop;

/// Replaces the services asked for by their next version.
///
/// # Errors
/// A [`Fault`] whose exit code tells what serves now.
pub fn deploy(compose: &ComposeArgs, args: &DeployArgs, report: Report, stop: &Stop) -> Result<()> {
    let mut docker = Docker::find(place(compose), observer(report))?;
    let yaml = docker.config()?;
    let project = Project::read(&yaml, &source(compose), &flags(args)).map_err(Fault::from)?;
    let containers = docker.containers()?;
    let targets = targets(&project, args, &containers)?;
    for target in &targets {
        check(&project, target, report)?;
        check_proxy_runs(&project, target, &containers)?;
    }
    provide_images(&docker, &project, &targets, args, report)?;
    let wanted = Wanted::read(&docker, &project, &targets, args.force)?;
    for target in &targets {
        let run = Run {
            docker: &docker,
            project: &project,
            wanted: &wanted,
            args,
            report,
        };
        run.target(target, stop)?;
    }
    Ok(())
}

/// What a deploy is about: a service, or a pair of them.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Service(String),
    Pair(Pair),
}

impl Target {
    fn services(&self) -> Vec<&str> {
        match self {
            Target::Service(name) => vec![name],
            Target::Pair(pair) => pair.sides.iter().map(String::as_str).collect(),
        }
    }

    fn name(&self) -> &str {
        match self {
            Target::Service(name) => name,
            Target::Pair(pair) => &pair.name,
        }
    }
}

/// What tells a new instance from an old one.
struct Wanted {
    hashes: BTreeMap<String, String>,
    /// Image id by service; a service without an image here has never run.
    images: BTreeMap<String, String>,
    /// Every instance counts as old.
    force: bool,
}

impl Wanted {
    fn read(docker: &Docker, project: &Project, targets: &[Target], force: bool) -> Result<Wanted> {
        let mut images = BTreeMap::new();
        for name in targets.iter().flat_map(Target::services) {
            if let Some(id) = docker.image_id(&project.services[name].image)? {
                images.insert(name.to_string(), id);
            }
        }
        Ok(Wanted {
            hashes: docker.hashes()?,
            images,
            force,
        })
    }

    fn generation(&self, service: &str, container: &Container) -> Generation {
        let hash = container.label("com.docker.compose.config-hash");
        let same_config = hash == self.hashes.get(service).map(String::as_str);
        let same_image = self.images.get(service) == Some(&container.image_id);
        match same_config && same_image && !self.force {
            true => Generation::New,
            false => Generation::Old,
        }
    }
}

/// One moment of a target: what the planner sees, and the containers behind it.
struct Scene {
    observed: Observed,
    containers: BTreeMap<Key, Container>,
}

/// One deploy under way.
struct Run<'a> {
    docker: &'a Docker,
    project: &'a Project,
    wanted: &'a Wanted,
    args: &'a DeployArgs,
    report: Report,
}

impl Run<'_> {
    fn target(&self, target: &Target, stop: &Stop) -> Result<()> {
        let proxies = self.proxies(target)?;
        let tools = Tools {
            docker: self.docker,
            project: self.project,
            proxies: &proxies,
            report: self.report,
        };
        let scene = self.observe(target, &proxies)?;
        let strategy = self.strategy(target, &scene.observed);
        let plan = plan::plan(&strategy, &scene.observed).map_err(Fault::from)?;
        self.announce(target, &proxies, &plan);
        self.check_collateral(&plan)?;
        if self.args.dry_run || plan.steps.is_empty() {
            self.report.plan(&format!("`{}`", target.name()), &plan);
            return Ok(());
        }
        self.prepare(target, &proxies)?;
        self.start_needed(target)?;
        let started = self.report.elapsed();
        let mut rollout = Rollout::new(
            &tools,
            stop.clone(),
            &scene.observed,
            scene.containers.clone(),
        );
        match rollout.run(&plan) {
            Ok(()) => {}
            Err(stopped) if stopped.serves => {
                self.report
                    .warn(&Warning::LeftBehind(stopped.fault.to_string()));
            }
            Err(stopped) => return Err(self.go_back(target, &tools, &scene, stopped).into()),
        }
        self.conclude(target, &proxies, started)
    }

    /// The proxies that run in front of a target; those named by `x-zd.proxy` where detection is wrong.
    fn proxies(&self, target: &Target) -> Result<Vec<Box<dyn Proxy>>> {
        let containers = self.docker.containers()?;
        let settings = &self.project.services[target.services()[0]].settings.proxy;
        match (settings.kind.as_deref(), settings.container.as_deref()) {
            (Some("none"), _) => return Ok(Vec::new()),
            (kind, Some(name)) => return Ok(vec![named_proxy(name, kind, &containers)?]),
            (Some(kind), None) if !proxy::KINDS.contains(&kind) => {
                return Err(proxy::unknown_kind(kind).into());
            }
            _ => {}
        }
        let backends = self.backends(target, &containers);
        let mut proxies = proxy::detect(&containers);
        proxies.retain(|p| p.container().is_running() && backends.iter().any(|b| p.fronts(b)));
        Ok(proxies)
    }

    /// A target as a proxy's discovery sees it: its containers, and what the file says of those to come.
    fn backends(&self, target: &Target, containers: &[Container]) -> Vec<Backend> {
        let services = target.services();
        let members = containers.iter().filter(|c| self.is_member(c, &services));
        let wanted = services.iter().map(|s| backend(&self.project.services[*s]));
        members.map(Backend::from).chain(wanted).collect()
    }

    fn is_member(&self, container: &Container, services: &[&str]) -> bool {
        let of = |(project, service): (&str, &str)| {
            project == self.project.name && services.contains(&service)
        };
        container.compose().is_some_and(of)
    }

    fn observe(&self, target: &Target, proxies: &[Box<dyn Proxy>]) -> Result<Scene> {
        let mut members = Vec::new();
        for service in target.services() {
            members.extend(self.docker.containers_of(&self.project.name, service)?);
        }
        members.retain(|c| c.compose().is_some());
        let routed = self.routed(&members, proxies)?;
        let mut instances = Vec::new();
        for container in &members {
            instances.push(self.instance(container, routed.as_ref(), proxies)?);
        }
        let key = |c: &Container| rollout::short_name(&self.project.name, c);
        Ok(Scene {
            observed: Observed {
                instances,
                proxied: !proxies.is_empty(),
            },
            containers: members.iter().map(|c| (key(c), c.clone())).collect(),
        })
    }

    /// The ids that any proxy sends requests to; none where there is no proxy to tell.
    fn routed(
        &self,
        members: &[Container],
        proxies: &[Box<dyn Proxy>],
    ) -> Result<Option<BTreeSet<String>>> {
        let mut routed = BTreeSet::new();
        for proxy in proxies {
            let endpoints = rollout::endpoints(proxy.as_ref(), members.iter());
            let answer = drain::checked(self.docker, &proxy.question(&endpoints), &proxy.name())?;
            routed.extend(proxy.read(&answer, &endpoints)?.routed);
        }
        Ok((!proxies.is_empty()).then_some(routed))
    }

    fn instance(
        &self,
        container: &Container,
        routed: Option<&BTreeSet<String>>,
        proxies: &[Box<dyn Proxy>],
    ) -> Result<Instance> {
        let (_, service) = container.compose().expect("only members are observed");
        let state = State::read(&container.state.status);
        let generation = self.wanted.generation(service, container);
        let runs = state == State::Running;
        let ready = match (runs, generation) {
            (false, _) => false,
            (true, Generation::Old) => true,
            (true, Generation::New) => self.is_ready(service, container, proxies)?,
        };
        Ok(Instance {
            key: rollout::short_name(&self.project.name, container),
            service: service.into(),
            generation,
            state,
            routed: routed.map_or(runs, |ids| ids.contains(&container.id)),
            ready,
        })
    }

    fn is_ready(
        &self,
        service: &str,
        container: &Container,
        proxies: &[Box<dyn Proxy>],
    ) -> Result<bool> {
        let service = &self.project.services[service];
        let probe = rollout::probe(service, container, proxies)?;
        let asker = Asker::new(self.docker, service.settings.pace.timeout)?;
        Ok(asker.ask(&probe, container).ready)
    }

    fn strategy(&self, target: &Target, observed: &Observed) -> Strategy {
        match target {
            Target::Service(name) => Strategy::Scale(self.goal(name, &[name], observed)),
            Target::Pair(pair) => {
                let sides: Vec<&str> = target.services();
                let goal = |side: &String| self.goal(side, &sides, observed);
                let mut goals = [goal(&pair.sides[0]), goal(&pair.sides[1])];
                let serves = |s: &String| observed.of(s).any(Instance::serves);
                if pair.sides.iter().all(serves) {
                    goals
                        .iter_mut()
                        .for_each(|g| self.stop_first_where_needed(g));
                }
                Strategy::Pair(goals)
            }
        }
    }

    /// A fixed host port is free only once the old instance has stopped.
    fn stop_first_where_needed(&self, goal: &mut Goal) {
        if !self.project.services[&goal.service].fixed_ports.is_empty() {
            goal.order = Order::StopFirst;
        }
    }

    /// `--scale`, else the file, else as many as run of any of `counted`, else one.
    fn goal(&self, name: &str, counted: &[&str], observed: &Observed) -> Goal {
        let service = &self.project.services[name];
        let asked = self
            .args
            .scale
            .iter()
            .rev()
            .find(|(s, _)| s == name)
            .map(|(_, n)| *n);
        let runs = |s: &&str| {
            observed
                .of(s)
                .filter(|i| i.state == State::Running && i.routed)
                .count()
        };
        let own = Some(runs(&name)).filter(|n| *n > 0);
        let running = own.or(counted.iter().map(runs).max()).unwrap_or(0);
        let wanted = asked.or(service.replicas).map_or(running, |n| n as usize);
        Goal {
            service: name.into(),
            wanted: wanted.max(1),
            order: service.order,
            parallelism: service.parallelism as usize,
            clears_stopped: service.starts_by_compose,
        }
    }

    fn announce(&self, target: &Target, proxies: &[Box<dyn Proxy>], plan: &Plan) {
        if plan.steps.is_empty() {
            return;
        }
        self.report.event(&Event::Deploying {
            target: format!("`{}`", target.name()),
            proxies: proxies.iter().map(|p| p.name()).collect(),
        });
        if proxies.is_empty() {
            self.report
                .warn(&Warning::NoProxy(format!("`{}`", target.name())));
        }
    }

    /// Compose recreates a network whose definition changed, and stops everything on it, before it creates anything.
    fn check_collateral(&self, plan: &Plan) -> Result<()> {
        for (step, _) in &plan.steps {
            let Step::Create { service, total, .. } = step else {
                continue;
            };
            let lost = self.docker.collateral(service, *total)?;
            if !lost.is_empty() {
                return Err(Fault::unchanged(format!(
                    "Compose would stop what runs in order to create a new instance of `{service}`"
                ))
                .seen(&lost.join("\n"))
                .hint("the definition of a network changed; give the new network another name in the file, so that both can exist, or take the downtime with `docker compose up --detach`")
                .into());
            }
        }
        Ok(())
    }

    fn prepare(&self, target: &Target, proxies: &[Box<dyn Proxy>]) -> Result<()> {
        let tune = self.project.services[target.services()[0]]
            .settings
            .proxy
            .tune
            .unwrap_or(true);
        for proxy in proxies {
            let answers = proxy
                .inspect()
                .iter()
                .map(|q| self.docker.exec(q))
                .collect::<Result<Vec<_>>>()?;
            for preparation in proxy.prepare(&answers, tune)? {
                match drain::checked(self.docker, &preparation.exec, &proxy.name()) {
                    Ok(_) => self.report.event(&Event::Note(preparation.note)),
                    Err(error) if preparation.required => return Err(error),
                    Err(error) => self
                        .report
                        .warn(&Warning::NotPrepared(format!("{error:#}"))),
                }
            }
        }
        Ok(())
    }

    /// Starts the services it depends on that are down; those that run are left alone, whatever has changed in them.
    fn start_needed(&self, target: &Target) -> Result<()> {
        let containers = self.docker.containers()?;
        let mut down = BTreeSet::new();
        for name in target.services() {
            let needs = self.project.services[name].needs(self.project);
            let is_down = |(service, completes): &(&str, bool)| {
                let mut its = containers.iter().filter(|c| self.is_member(c, &[*service]));
                !its.any(|c| {
                    c.is_running()
                        || (*completes && c.state.status == "exited" && c.state.exit_code == 0)
                })
            };
            let ours = target.services();
            down.extend(
                needs
                    .into_iter()
                    .filter(is_down)
                    .map(|(s, _)| s)
                    .filter(|s| !ours.contains(s)),
            );
        }
        if down.is_empty() {
            return Ok(());
        }
        let down: Vec<&str> = down.into_iter().collect();
        self.report.event(&Event::StartingNeeded(down.join(", ")));
        self.docker.start_services(&down)
    }

    /// Brings back what served before, and says how that went.
    fn go_back(&self, target: &Target, tools: &Tools, start: &Scene, stopped: Stopped) -> Fault {
        if matches!(stopped.fault.exit, Exit::Interrupted(_)) {
            self.report.event(&Event::Interrupted);
        }
        self.report.event(&Event::GoingBack);
        let back = || -> Result<(), Fault> {
            let now = self
                .observe(target, tools.proxies)
                .map_err(Fault::from_error)?;
            let plan = plan::undo(&start.observed, &now.observed);
            let mut rollout = Rollout::back(tools, &now.observed, now.containers);
            rollout.run(&plan).map_err(|s| s.fault)
        };
        match back() {
            Ok(()) => kept(target, &start.observed, stopped.fault),
            Err(second) => broken(target, &self.project.name, stopped.fault, &second),
        }
    }

    fn conclude(
        &self,
        target: &Target,
        proxies: &[Box<dyn Proxy>],
        started: Duration,
    ) -> Result<()> {
        let scene = self.observe(target, proxies)?;
        let serving: Vec<&str> = scene.observed.serving().map(|i| i.key.as_str()).collect();
        let took = self.report.elapsed().saturating_sub(started).as_secs_f64();
        self.report.result(&format!(
            "`{}` is deployed: {} in service after {took:.1}s",
            target.name(),
            serving.join(", ")
        ));
        Ok(())
    }
}

/// The old release serves, unchanged.
fn kept(target: &Target, start: &Observed, fault: Fault) -> Fault {
    let serving: Vec<&str> = start.serving().map(|i| i.key.as_str()).collect();
    let serves = match serving.is_empty() {
        true => "nothing served before, and nothing was left behind".to_string(),
        false => format!(
            "{} served before and serve{} every request",
            serving.join(", "),
            if serving.len() == 1 { "s" } else { "" }
        ),
    };
    let exit = match fault.exit {
        Exit::Interrupted(signal) => Exit::Interrupted(signal),
        _ => Exit::Kept,
    };
    Fault {
        exit,
        message: format!("`{}`: {}; {serves}", target.name(), fault.message),
        ..fault
    }
}

fn broken(target: &Target, project: &str, first: Fault, second: &Fault) -> Fault {
    let mut fault = Fault {
        exit: Exit::Broken,
        message: format!(
            "`{}`: {}; and what served before could not be restored: {}",
            target.name(),
            first.message,
            second.message
        ),
        ..first
    };
    fault.details.extend(second.details.clone());
    fault.hint(format!(
        "act now: `docker compose --project-name {project} ps --all` shows what runs; run `compose-zd deploy` again once the cause is gone"
    ))
}

fn place(compose: &ComposeArgs) -> Where {
    let mut engine = Vec::new();
    let mut project = Vec::new();
    fn add(words: &mut Vec<String>, flag: &str, value: impl Into<String>) {
        words.extend([flag.to_string(), value.into()]);
    }
    compose
        .context
        .iter()
        .for_each(|c| add(&mut engine, "--context", c));
    compose
        .host
        .iter()
        .for_each(|h| add(&mut engine, "--host", h));
    compose
        .file
        .iter()
        .for_each(|f| add(&mut project, "--file", f.to_string_lossy()));
    compose
        .project_name
        .iter()
        .for_each(|n| add(&mut project, "--project-name", n));
    compose
        .project_directory
        .iter()
        .for_each(|d| add(&mut project, "--project-directory", d.to_string_lossy()));
    compose
        .env_file
        .iter()
        .for_each(|f| add(&mut project, "--env-file", f.to_string_lossy()));
    compose
        .profile
        .iter()
        .for_each(|p| add(&mut project, "--profile", p));
    Where { engine, project }
}

/// How messages name the compose file: as it was given, else as Compose finds it.
fn source(compose: &ComposeArgs) -> String {
    let given: Vec<String> = compose
        .file
        .iter()
        .map(|f| f.display().to_string())
        .collect();
    if !given.is_empty() {
        return given.join(" + ");
    }
    let folder = compose.project_directory.clone().unwrap_or_default();
    let names = [
        "compose.yaml",
        "compose.yml",
        "docker-compose.yml",
        "docker-compose.yaml",
    ];
    let found = names.iter().find(|n| folder.join(n).exists());
    let variable = std::env::var("COMPOSE_FILE").ok();
    variable.unwrap_or(found.map_or("the compose file".into(), |n| {
        folder.join(n).display().to_string()
    }))
}

fn observer(report: Report) -> Box<dyn Fn(&str, Duration) + Send + Sync> {
    Box::new(move |words, took| report.command(words, took))
}

/// The flags, in the shape of `x-zd`.
fn flags(args: &DeployArgs) -> Zd {
    let health = args.health.clone();
    Zd {
        health: Some(ZdHealth {
            path: health.health_path,
            port: health.health_port,
            scheme: health.health_scheme,
            host: health.health_host,
            expect: health.health_expect,
            body: health.health_body,
            interval: health.health_interval,
            timeout: health.health_timeout,
            deadline: health.health_deadline,
            successes: health.health_successes,
        }),
        drain: Some(ZdDrain {
            timeout: args.drain.drain_timeout,
            command: args.drain.drain_command.clone().map(Words::Line),
        }),
        proxy: Some(ZdProxy {
            container: args.proxy.proxy_container.clone(),
            kind: args.proxy.proxy_kind.clone(),
            tune: args.proxy.proxy_tune,
        }),
    }
}

/// What to deploy: what was named, else every service that a proxy routes to. A side of a pair stands for the pair.
fn targets(
    project: &Project,
    args: &DeployArgs,
    containers: &[Container],
) -> Result<Vec<Target>, Fault> {
    for (name, _) in &args.scale {
        if !project.services.contains_key(name) {
            return Err(unknown(project, name, "--scale"));
        }
    }
    let names = match args.services.is_empty() {
        false => args.services.clone(),
        true => routed_services(project, containers),
    };
    if names.is_empty() {
        return Err(
            Fault::usage("no service of this project is routed to by a proxy")
                .hint(format!("name the services to deploy: {}", listed(project))),
        );
    }
    let mut targets: Vec<Target> = Vec::new();
    for name in &names {
        let target = match (project.pair(name), project.services.get(name)) {
            (Some(pair), _) => Target::Pair(pair.clone()),
            (None, Some(_)) => Target::Service(name.clone()),
            (None, None) => return Err(unknown(project, name, "deploy")),
        };
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    Ok(targets)
}

fn routed_services(project: &Project, containers: &[Container]) -> Vec<String> {
    let proxies = proxy::detect(containers);
    let fronted = |s: &Service| proxies.iter().any(|p| p.fronts(&backend(s)));
    let routed = |s: &&Service| proxy::claims(&s.environment) || fronted(s);
    project
        .services
        .values()
        .filter(routed)
        .map(|s| s.name.clone())
        .collect()
}

fn backend(service: &Service) -> Backend {
    Backend {
        environment: service.environment.clone(),
        networks: service.networks.clone(),
    }
}

fn unknown(project: &Project, name: &str, place: &str) -> Fault {
    Fault::usage(format!(
        "`{place}`: there is no service or pair `{name}` in project `{}`",
        project.name
    ))
    .hint(format!(
        "there are {}; a service of a profile needs `--profile`",
        listed(project)
    ))
}

fn listed(project: &Project) -> String {
    let services = project.services.keys().map(|s| format!("`{s}`"));
    let pairs = project
        .pairs
        .iter()
        .map(|p| format!("the pair `{}`", p.name));
    services.chain(pairs).collect::<Vec<_>>().join(", ")
}

/// Finds what keeps a new instance from running beside the old one, before anything starts.
fn check(project: &Project, target: &Target, report: Report) -> Result<(), Fault> {
    for name in target.services() {
        let service = &project.services[name];
        let blocks = |o: &Obstacle| match (o, target) {
            // The sides of a pair have different names and ports.
            (Obstacle::ContainerName(_) | Obstacle::FixedPort(_), Target::Pair(_)) => false,
            _ => true,
        };
        if let Some(obstacle) = service.obstacles().into_iter().find(blocks) {
            let (message, hint) = obstacle.explain(name);
            return Err(Fault::usage(message).hint(hint));
        }
        if service.replicas == Some(0) {
            return Err(Fault::usage(format!(
                "`{name}` is set to 0 instances (`deploy.replicas` or `scale`)"
            ))
            .hint(format!(
                "set it to 1 or more, or deploy with `--scale {name}=1`"
            )));
        }
        if !service.not_followed.is_empty() {
            report.warn(&Warning::NotFollowed {
                service: name.into(),
                keys: service.not_followed.clone(),
            });
        }
        if service
            .settings
            .proxy
            .kind
            .as_deref()
            .is_some_and(|k| k != "none" && !proxy::KINDS.contains(&k))
        {
            return Err(proxy::unknown_kind(
                service.settings.proxy.kind.as_deref().unwrap_or(""),
            ));
        }
    }
    Ok(())
}

/// A service that asks for a route, and its proxy is there but down: a deploy would look fine and serve nobody.
fn check_proxy_runs(
    project: &Project,
    target: &Target,
    containers: &[Container],
) -> Result<(), Fault> {
    let services: Vec<&Service> = target
        .services()
        .iter()
        .map(|s| &project.services[*s])
        .collect();
    let overridden =
        |s: &&Service| s.settings.proxy.kind.is_some() || s.settings.proxy.container.is_some();
    let claims = |s: &&Service| proxy::claims(&s.environment);
    if services.iter().any(overridden) || !services.iter().any(claims) {
        return Ok(());
    }
    let fronts = |p: &&Box<dyn Proxy>| services.iter().any(|s| p.fronts(&backend(s)));
    let proxies = proxy::detect(containers);
    let (running, down): (Vec<_>, Vec<_>) = proxies
        .iter()
        .filter(fronts)
        .partition(|p| p.container().is_running());
    let own = project
        .services
        .values()
        .find(|s| proxy::is_proxy_image(&s.image));
    let (what, start) = match (running.is_empty(), down.first(), own) {
        (false, ..) | (true, None, None) => return Ok(()),
        (true, Some(proxy), _) => (
            format!("{} is {}", proxy.name(), proxy.container().state.status),
            start_command(proxy.container()),
        ),
        (true, None, Some(own)) => (
            format!("the proxy `{}` of this project does not run", own.name),
            format!("docker compose up --detach --no-deps {}", own.name),
        ),
    };
    Err(Fault::unchanged(format!(
        "{what}, so nobody reaches `{}`; nothing was changed",
        target.name()
    ))
    .hint(format!(
        "start it with `{start}`, or deploy without a proxy with `--proxy-kind none`"
    )))
}

fn start_command(container: &Container) -> String {
    match container.state.status.as_str() {
        "paused" => format!("docker unpause {}", container.name()),
        _ => format!("docker start {}", container.name()),
    }
}

fn named_proxy(
    name: &str,
    kind: Option<&str>,
    containers: &[Container],
) -> Result<Box<dyn Proxy>, Fault> {
    let found = containers
        .iter()
        .find(|c| c.name() == name || c.id.starts_with(name));
    let container = found.ok_or_else(|| {
        Fault::usage(format!(
            "there is no container `{name}` (`x-zd.proxy.container` or `--proxy-container`)"
        ))
        .hint("`docker ps` lists those that run")
    })?;
    if !container.is_running() {
        return Err(
            Fault::unchanged(format!("the proxy `{name}` is {}", container.state.status))
                .hint(format!("start it with `{}`", start_command(container))),
        );
    }
    match kind {
        Some(kind) => proxy::declared(kind, container),
        None => {
            let mut all = proxy::detect(containers);
            let at = all.iter().position(|p| p.container().id == container.id);
            at.map(|n| all.swap_remove(n)).ok_or_else(|| {
                Fault::usage(format!("`{name}` is no proxy that can be recognised"))
                    .hint("say what it is with `x-zd.proxy.kind` (or `--proxy-kind`)")
            })
        }
    }
}

/// Builds and pulls before anything is touched, and makes sure that every image is there.
fn provide_images(
    docker: &Docker,
    project: &Project,
    targets: &[Target],
    args: &DeployArgs,
    report: Report,
) -> Result<()> {
    let services: Vec<&Service> = targets
        .iter()
        .flat_map(Target::services)
        .map(|s| &project.services[s])
        .collect();
    let names = |keep: &dyn Fn(&Service) -> bool| -> Vec<&str> {
        services
            .iter()
            .filter(|s| keep(s))
            .map(|s| s.name.as_str())
            .collect()
    };
    let builds = names(&|s| s.builds && !args.no_build);
    if args.dry_run {
        return Ok(());
    }
    if !builds.is_empty() {
        report.event(&Event::Building(builds.join(", ")));
        docker.build(&builds)?;
    }
    let mut missing = Vec::new();
    for service in &services {
        let absent = || docker.image_id(&service.image).map(|id| id.is_none());
        if !builds.contains(&service.name.as_str()) && (args.pull || absent()?) {
            missing.push(service.name.as_str());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    report.event(&Event::Pulling(missing.join(", ")));
    docker.pull(&missing)
}

impl From<Wrong> for Fault {
    fn from(wrong: Wrong) -> Self {
        Fault::usage(wrong.message).hint(wrong.hint)
    }
}

impl From<Unplannable> for Fault {
    fn from(unplannable: Unplannable) -> Self {
        Fault::usage(format!("`{}` {}", unplannable.service, unplannable.reason))
            .hint(unplannable.fix)
    }
}
