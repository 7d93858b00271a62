//! `up` and `plan`: a whole project from what runs to what its file says, each service by the gentlest way it has.

mod answers;
mod apply;
mod first_answers;
mod services;
mod survey;

use anyhow::Result;

use crate::configuration::Configuration;
use crate::context::{Context, Invocation};
use crate::deploy::put_in_place;
use crate::docker::inspect::Container;
use crate::engine::compose::prepare::provide_images;
use crate::engine::compose::proxy_files::ProxyReload;
use crate::error::{Error, Exit};
use crate::finding;
use crate::jobs;
use crate::model::EngineKind;
use crate::model::args::{self, DeployArgs, RollbackArgs, UpArgs};
use crate::mounted_files;
use crate::project_plan::{self, Role, Stages, TargetFacts};
use crate::report::changes::{ServiceChange, Way};
use crate::report::plan::{PlannedCommand, PlannedStep};
use crate::report::{Event, Report, Warning};
use crate::request::Request;
use crate::targets::{self, Target};
use apply::{Apply, Recorded};
use survey::Survey;

/// Brings a project to what its file says.
///
/// # Errors
/// An [`Error`] whose exit code reports what serves now; also if a service needs consent and was left.
pub fn up(call: Invocation, args: &UpArgs) -> Result<()> {
    run(call, args, args.deploy_args())
}

/// Prints what `up` would do, with the differences and the commands.
pub fn plan(call: Invocation, args: &UpArgs) -> Result<()> {
    let mut deploy = args.deploy_args();
    deploy.rollout.dry_run = true;
    run(call, &UpArgs { diff: true, ..args.clone() }, deploy)
}

fn run(call: Invocation, args: &UpArgs, deploy: DeployArgs) -> Result<()> {
    let context = Context::for_deploy(call, &deploy, deploy.rollout.settings(&args.update))?;
    context.locked(&args::run_name("up", &args.services), |ctx| {
        if ctx.engine == EngineKind::Swarm {
            // Swarm replaces only what has changed, and has its own way for each service.
            let mut request = Request::from_file(ctx, &deploy)?;
            return put_in_place(ctx, &mut request);
        }
        bring_up(ctx, args, &deploy)
    })
}

/// What a run brings the project to, for messages.
struct Goal {
    /// Command that recreates services.
    command: &'static str,
    /// How a service differs: `changed in the file`.
    difference: String,
    /// State of the project: `runs as its file says`.
    state: String,
}

impl Goal {
    fn of_file() -> Goal {
        Goal {
            command: "compose-zd up --yes",
            difference: "changed in the file".into(),
            state: "runs as its file says".into(),
        }
    }

    fn of_release(number: u32) -> Goal {
        Goal {
            command: "compose-zd rollback --yes",
            difference: format!("differs from release {number}"),
            state: format!("runs as in release {number}"),
        }
    }
}

/// Restores a release that `up` changed by more than a rollout.
///
/// # Errors
/// An [`Error`] whose exit code reports what serves now; also if a service needs consent and was left.
pub fn roll_back(ctx: &mut Context, request: Request, args: &RollbackArgs) -> Result<()> {
    let goal = Goal::of_release(request.record.as_ref().map_or(0, |record| record.number));
    let Survey { facts, orphans, refused, running, .. } = Survey::of_release(ctx, &request)?;
    let mut changes: Vec<ServiceChange> = facts.iter().map(project_plan::change).collect();
    let removal = orphans.iter().map(|orphan| ServiceChange {
        service: orphan.name().into(),
        way: Way::Remove,
        reasons: vec!["not in that release".into()],
        diff: Vec::new(),
    });
    let removals: Vec<ServiceChange> = removal.collect();
    if ctx.args.dry_run {
        let stages = Stages::new(&request.config.project, &facts, &changes);
        changes.extend(removals);
        show(ctx.report, &request.config.project.name, false, &changes);
        finding::require(refused)?;
        return preview(ctx, request, &stages, false);
    }
    ask_for_consent(&mut changes, args.yes, goal.command);
    let stages = Stages::new(&request.config.project, &facts, &changes);
    report_changes(ctx.report, &changes);
    report_changes(ctx.report, &removals);
    finding::require(refused.into_iter().map(finding::Finding::nothing_changed))?;
    let to = request.record.as_ref().map(|record| record.number);
    let is_unrecorded = !ctx.journal.unrecorded_changes(to, &args.services).is_empty();
    let has_work = !stages.is_empty() || !orphans.is_empty() || is_unrecorded;
    if has_work {
        let recorded = Recorded::new(&facts, &changes, &stages, &orphans, &args.services);
        Apply::new(ctx, request, &stages, running).recording(recorded).run(orphans)?;
    }
    finish(ctx, &changes, has_work, &goal)
}

fn bring_up(ctx: &mut Context, args: &UpArgs, deploy: &DeployArgs) -> Result<()> {
    let config = ctx.configuration()?;
    if config.project.services.is_empty() {
        return Err(targets::no_services(&config.project, &config.source).into());
    }
    jobs::require_known(&config.docker, &config.project, &config.source)?;
    provide(ctx, &config, args, deploy)?;
    let survey = Survey::new(ctx, &config, &args.services)?;
    let mut changes: Vec<ServiceChange> = survey.facts.iter().map(project_plan::change).collect();
    if ctx.args.dry_run {
        let stages = Stages::new(&config.project, &survey.facts, &changes);
        changes.extend(survey.orphans.iter().map(|orphan| orphan_change(orphan, args)));
        show(ctx.report, &config.project.name, args.diff, &changes);
        finding::require(survey.refused)?;
        check_reloads(&config, &survey.reloads, &stages)?;
        for reload in survey.reloads.iter().filter(|reload| reload.is_of(&stages.reload)) {
            ctx.report.event(Event::WouldPrepare(reload.text("reload").into()));
        }
        let args = DeployArgs { no_build: true, ..deploy.clone() };
        let is_started = |facts: &TargetFacts| facts.services.iter().any(|s| stages.start.contains(s));
        let starts_proxy = survey.facts.iter().any(|facts| facts.role == Role::Proxy && is_started(facts));
        return preview(ctx, Request::of_project(config, args), &stages, starts_proxy);
    }
    let (facts, refused) = (&survey.facts, survey.refused);
    let goal = Goal::of_file();
    ask_for_consent(&mut changes, args.yes, goal.command);
    let stages = Stages::new(&config.project, facts, &changes);
    let orphan_changes = survey.orphans.iter().map(|orphan| orphan_change(orphan, args));
    let all: Vec<ServiceChange> = changes.iter().cloned().chain(orphan_changes).collect();
    report_changes(ctx.report, &all);
    finding::require(refused.into_iter().map(finding::Finding::nothing_changed))?;
    check_reloads(&config, &survey.reloads, &stages)?;
    let is_recreated = |reload: &&ProxyReload| reload.is_of(&stages.recreate);
    survey
        .recreated
        .iter()
        .filter(is_recreated)
        .try_for_each(|reload| reload.check_in_new_container(&config.docker))?;
    let removed: Vec<Container> = if args.remove_orphans { survey.orphans } else { Vec::new() };
    // A killed run may have left nothing but the record of its changes.
    let is_unrecorded = !ctx.journal.unrecorded_changes(None, &args.services).is_empty();
    let has_work = !stages.is_empty() || !removed.is_empty() || is_unrecorded;
    if has_work {
        let request =
            Request::of_project(config, DeployArgs { no_build: true, pull: false, ..deploy.clone() });
        let recorded = Recorded::new(facts, &changes, &stages, &removed, &args.services);
        let apply = Apply::new(ctx, request, &stages, survey.running);
        apply.reloading(survey.reloads).recording(recorded).run(removed)?;
    } else {
        ctx.journal.end_project_run(&args.services, ctx.report);
    }
    finish(ctx, &changes, has_work, &goal)
}

/// Provides every image, before anything is compared.
fn provide(ctx: &Context, config: &Configuration, args: &UpArgs, deploy: &DeployArgs) -> Result<()> {
    let all = config.project.services.keys();
    let named = all.filter(|name| args.services.is_empty() || args.services.contains(name));
    if provide_images(ctx, config, deploy, named.map(String::as_str))?.is_none() {
        config.docker.discard_prefetched();
    }
    match ctx.stop.signal() {
        Some(signal) => Err(Error::interrupted(signal).into()),
        None => Ok(()),
    }
}

/// Turns each change that means downtime into one that leaves the service alone, unless the user consents.
fn ask_for_consent(changes: &mut [ServiceChange], yes: bool, command: &str) {
    let mut with_downtime: Vec<&mut ServiceChange> =
        changes.iter_mut().filter(|change| matches!(change.way, Way::Recreate { .. })).collect();
    if with_downtime.is_empty() || yes {
        return;
    }
    let lines: Vec<String> = with_downtime.iter().map(|change| change.to_string()).collect();
    let question = format!("{}\nrecreate with downtime?", lines.join("\n"));
    if Report::confirm(&question) == Some(true) {
        return;
    }
    for change in &mut with_downtime {
        let name = &change.service;
        change.way = Way::Leave {
            hint: format!("because replacing it means downtime; `{command} {name}` recreates it"),
        };
    }
}

/// Change of a container whose service the file no longer has.
fn orphan_change(orphan: &Container, args: &UpArgs) -> ServiceChange {
    let hint = || "`compose-zd up --remove-orphans` removes it".into();
    ServiceChange {
        service: orphan.name().into(),
        way: if args.remove_orphans { Way::Remove } else { Way::Leave { hint: hint() } },
        reasons: vec!["not in the file".into()],
        diff: Vec::new(),
    }
}

fn report_changes(report: Report, changes: &[ServiceChange]) {
    let shown = changes.iter().filter(|change| change.way != Way::Unchanged);
    shown.for_each(|change| report.event(Event::ServiceChange(change.clone())));
}

/// Prints the changes of a dry run.
fn show(report: Report, project: &str, diff: bool, changes: &[ServiceChange]) {
    if report.is_json() {
        return report_changes(report, changes);
    }
    let (unchanged, changed): (Vec<&ServiceChange>, Vec<&ServiceChange>) =
        changes.iter().partition(|change| change.way == Way::Unchanged);
    if changed.is_empty() {
        return report.print_line(&format!("`{project}`: nothing has to change"));
    }
    let rows: Vec<Vec<String>> = changed.iter().map(|change| change.row()).collect();
    report.table(&["SERVICE", "CHANGE", "WHY"], &rows);
    if !unchanged.is_empty() {
        let names: Vec<&str> = unchanged.iter().map(|change| change.service.as_str()).collect();
        report.print_line(&format!("unchanged: {}", names.join(", ")));
    }
    for change in changed.iter().filter(|change| diff && !change.diff.is_empty()) {
        report.print_line(&format!("{}:", change.service));
        change.diff_lines().iter().for_each(|line| report.print_line(line));
    }
}

/// Has each proxy test its changed files. A file that names a service which starts first is tested after its start: some
/// proxies refuse a name without an address.
///
/// # Errors
/// The proxy's own words for what is wrong. Nothing was changed.
fn check_reloads(config: &Configuration, reloads: &[ProxyReload], stages: &Stages) -> Result<()> {
    let is_early = |reload: &&ProxyReload| {
        let late = [&stages.start, &stages.start_after].into_iter().flatten().cloned();
        reload.is_of(&stages.reload) && !mounted_files::mentions(&reload.changes, &late.collect::<Vec<_>>())
    };
    reloads.iter().filter(is_early).try_for_each(|reload| reload.check(&config.docker))
}

/// Prints the commands of a dry run, in their order. Those of a rollout are unknown before its proxy has started.
fn preview(ctx: &mut Context, mut request: Request, stages: &Stages, starts_proxy: bool) -> Result<()> {
    let (docker, report) = (request.config.docker.clone(), ctx.report);
    let by_compose = |verb: &str, services: &[String], reason: &str| {
        let command = docker.up_services_command(services, verb == "recreate");
        let command = PlannedCommand::Command(command);
        let step = PlannedStep {
            verb: verb.into(),
            names: services.to_vec(),
            text: format!("{verb} {}", services.join(", ")),
            reason: reason.into(),
            actions: vec![command],
        };
        if !services.is_empty() {
            report.plan(&services.join(", "), vec![step]);
        }
    };
    by_compose("start", &stages.start, "not running");
    by_compose("recreate", &stages.recreate, "needs `--yes`");
    if !stages.roll_out.is_empty() {
        if starts_proxy {
            let what = format!("roll out {}, once the proxy runs", stages.roll_out.join(", "));
            report.event(Event::WouldPrepare(what.into()));
        } else {
            request.args.services = rolled_services(&request, stages)?;
            put_in_place(ctx, &mut request)?;
        }
    }
    by_compose("start", &stages.start_after, "depends on what is replaced");
    Ok(())
}

/// Names of the rollout's targets. A recorded release is by service, so a pair is named by its sides.
fn rolled_services(request: &Request, stages: &Stages) -> Result<Vec<String>, Error> {
    if request.record.is_none() {
        return Ok(stages.roll_out.clone());
    }
    let targets = targets::from_names(&request.config.project, &stages.roll_out)?;
    Ok(targets.iter().flat_map(Target::services).map(String::from).collect())
}

/// Reports the end of the run.
///
/// # Errors
/// A changed service was left, because its replacement needs consent.
fn finish(ctx: &Context, changes: &[ServiceChange], has_work: bool, goal: &Goal) -> Result<()> {
    let left: Vec<&ServiceChange> =
        changes.iter().filter(|change| matches!(change.way, Way::Leave { .. })).collect();
    let project = &ctx.journal.project;
    if left.is_empty() {
        let state = if has_work { &goal.state } else { "nothing has to change" };
        ctx.report.print_line(&format!("`{project}`: {state}"));
        return Ok(());
    }
    let names: Vec<&str> = left.iter().map(|change| change.service.as_str()).collect();
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    let (exit, rest) = if has_work {
        (Exit::StillServing, "all other changes are made")
    } else {
        (Exit::Unchanged, "nothing was changed")
    };
    let message = format!(
        "{} {} and was left alone, because its replacement means downtime; {rest}",
        quoted.join(", "),
        goal.difference
    );
    Err(Error::new(exit, message)
        .hint(format!("`{} {}` recreates it, with downtime", goal.command, names.join(" ")))
        .into())
}

/// Warns of services that are recreated and whose present definition is unknown.
fn warn_of_no_way_back(report: Report, services: &[String], is_known: impl Fn(&str) -> bool) {
    for service in services.iter().filter(|service| !is_known(service)) {
        report.warn(&Warning::Other(format!(
            "the definition from which `{service}` was created is unknown, so a failed `{service}` cannot be restored"
        )));
    }
}
