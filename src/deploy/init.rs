//! `init`: prepares a project for deploys. Reads the project and the engine, selects the services behind the proxy, verifies
//! the files with Compose and writes them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;

use crate::configuration::{connect, resolve_config};
use crate::docker::Docker;
use crate::engine::swarm::{compose_file_of_service, import_service, print_for_swarm};
use crate::error::Error;
use crate::init::files::{self, FileStatus};
use crate::init::{self, ComposeFiles, InitOptions, NewFile, ProjectFacts, ProxiedService};
use crate::model::args::{ComposeArgs, InitArgs};
use crate::model::{COMPOSE_FILES, EngineKind, FlagLayers, Project};
use crate::observe;
use crate::plugin::program;
use crate::proxy::Proxy;
use crate::report::{Report, Warning};
use crate::targets;

/// Adds the missing files.
///
/// # Errors
/// A project that cannot be read or cannot have a proxy; a read-only folder; a proxy that the user has to add by hand.
pub fn init(compose: &ComposeArgs, args: &InitArgs, report: Report) -> Result<()> {
    if args.swarm {
        return print_for_swarm(compose, report);
    }
    if let Some(name) = &args.from_service {
        return from_service(compose, args, name, report);
    }
    let context = InitContext::new(compose, args, report)?;
    let proxied = context.proxied_services(args)?;
    let files = init::files(&context.facts, &proxied, &context.compose_files);
    if !proxied.is_empty() {
        context.verify_with_compose(&proxied, &files[0])?;
    }
    if args.print {
        files
            .iter()
            .for_each(|file| report.print_line(&format!("==> {} <==\n{}", file.path.display(), file.text)));
        return Ok(());
    }
    let actions = file_actions(&context.folder, &files, args.force)?;
    let written: Vec<_> =
        actions.iter().filter(|(.., action)| action.is_written()).map(|(f, t, _)| (*f, *t)).collect();
    files::write_all(&context.folder, &written)?;
    context.report(&proxied, &actions)?;
    Ok(())
}

/// Writes a Compose file for a Swarm service, and turns the service into a stack of the same name.
fn from_service(compose: &ComposeArgs, args: &InitArgs, name: &str, report: Report) -> Result<()> {
    let docker = connect(compose, report)?;
    let text = compose_file_of_service(&docker, name)?;
    let path = PathBuf::from("compose.yaml");
    if args.print {
        report.print_line(&format!("==> {} <==\n{text}", path.display()));
        return Ok(());
    }
    let about = format!("the service `{name}`");
    let file = NewFile { path, text, executable: false, description: about };
    let folder = std::env::current_dir()?;
    let status = files::status_of(&folder, &file)?;
    if status == FileStatus::Different && !args.force {
        return Err(Error::usage("another `compose.yaml` exists already; nothing was changed")
            .hint("change to another folder, or overwrite the file with `--force`")
            .into());
    }
    files::write_all(&folder, &[(&file, status)])?;
    import_service(&docker, name)?;
    let program = program();
    report.print_line(&format!(
        "new  compose.yaml  the service `{name}`, now the stack `{name}`\nnext:\n  {program} deploy                       # \
         records a release and pins the image, which replaces the tasks once\n  {program} deploy --image {name}=IMAGE   # as `docker service update --image`\n  \
         {program} rollback                     # as `docker service update --rollback`"
    ));
    Ok(())
}

/// State of the project before `init` adds anything.
struct InitContext {
    docker: Docker,
    folder: PathBuf,
    compose_files: ComposeFiles,
    project: Project,
    facts: ProjectFacts,
    /// Descriptions of proxies in the project or on its networks.
    present_proxies: Vec<String>,
    report: Report,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileAction {
    New,
    Overwritten,
    Unchanged,
    Kept,
}

impl FileAction {
    fn is_written(self) -> bool {
        matches!(self, FileAction::New | FileAction::Overwritten)
    }

    fn label(self) -> &'static str {
        match self {
            FileAction::New => "new",
            FileAction::Overwritten => "overwritten",
            FileAction::Unchanged => "unchanged",
            FileAction::Kept => "kept",
        }
    }
}

impl InitContext {
    fn new(compose: &ComposeArgs, args: &InitArgs, report: Report) -> Result<InitContext> {
        let folder = compose.folder();
        let layout = compose_files(compose, &folder)?;
        let own = layout.own.iter().map(|file| folder.join(file));
        let mut docker = connect(&ComposeArgs { file: own.collect(), ..compose.clone() }, report)?;
        let yaml = resolve_config(&mut docker, report)?;
        let project = Project::read(&yaml, &compose.source(), &FlagLayers::default()).map_err(Error::from)?;
        let facts = ProjectFacts::read(&yaml)?;
        if facts.apps.is_empty() {
            return Err(Error::usage(format!("`{}` has no services", compose.source()))
                .hint("add one under `services`; a service of a profile needs `--profile`")
                .into());
        }
        let mut context = InitContext {
            docker,
            folder,
            compose_files: layout,
            project,
            facts,
            present_proxies: Vec::new(),
            report,
        };
        if !args.no_proxy {
            context.read_engine();
        }
        Ok(context)
    }

    /// Reads running proxies, and the ports of images. Without an engine only the file is used.
    fn read_engine(&mut self) {
        match self.find_proxies() {
            Ok(proxies) => self.present_proxies = proxies,
            Err(error) => {
                let reason = Error::from_error(error).message;
                self.report.warn(&Warning::Ignored(format!("{reason}; only the file is checked")));
                return;
            }
        }
        for (name, app) in &mut self.facts.apps {
            let image = &self.project.services[name].image;
            if let Ok(Some(image)) = self.docker.image(image) {
                app.add_exposed_ports(image.config.exposed_ports.into_keys());
            }
        }
    }

    /// Running proxies of other projects on networks of this one.
    fn find_proxies(&self) -> Result<Vec<String>> {
        let containers = self.docker.containers()?;
        let all = observe::detect(&self.docker, &self.project, &containers)?;
        let networks: BTreeSet<&str> =
            self.project.services.values().flat_map(|s| s.networks.iter().map(String::as_str)).collect();
        let is_foreign = |p: &&Arc<dyn Proxy>| {
            let container = p.container();
            // Proxies of this project are found in its file.
            let is_own = container.compose().is_some_and(|(project, _)| project == self.project.name);
            !is_own && container.is_running() && container.networks().any(|n| networks.contains(n))
        };
        Ok(all.iter().filter(is_foreign).map(|p| self.describe(p.as_ref())).collect())
    }

    /// Describes a running proxy, with its missing settings.
    fn describe(&self, proxy: &dyn Proxy) -> String {
        let routed =
            self.project.services.values().filter(|s| proxy.routes_to(&targets::backend(&self.project, s)));
        let routed: Vec<String> = routed.map(|s| format!("`{}`", s.name)).collect();
        if routed.is_empty() {
            format!(
                "{} runs on a network of this project, but routes to none of its services: {}",
                proxy.name(),
                requirement(&proxy.name())
            )
        } else {
            format!("{} routes to {} already", proxy.name(), routed.join(", "))
        }
    }

    /// Services to put behind a new proxy; none if a proxy exists.
    fn proxied_services(&self, args: &InitArgs) -> Result<Vec<ProxiedService>> {
        let in_file = self.facts.apps.iter().filter(|(_, app)| app.is_proxy());
        let in_file = in_file
            .map(|(name, app)| format!("`{name}` ({}) is a proxy: {}", app.image, requirement(&app.image)));
        let found: Vec<String> = in_file.chain(self.present_proxies.iter().cloned()).collect();
        if args.no_proxy {
            return Ok(Vec::new());
        }
        if self.project.engine == Some(EngineKind::Swarm) {
            self.report.print_line(
                "no proxy is added, because the project is for Swarm, and one HAProxy cannot serve several nodes",
            );
            return Ok(Vec::new());
        }
        if !found.is_empty() {
            found.iter().for_each(|text| self.report.print_line(text));
            self.report.print_line("no other proxy is added");
            return Ok(Vec::new());
        }
        let options = InitOptions {
            services: if args.service.is_empty() { self.choose_services()? } else { args.service.clone() },
            publish: args.publish.clone(),
            health_path: args.health_path.clone(),
        };
        Ok(init::proxied_services(&self.facts, &options)?)
    }

    /// The only candidate, or those that the user confirms at the terminal.
    fn choose_services(&self) -> Result<Vec<(String, Option<u16>)>, Error> {
        let names = init::candidates(&self.facts);
        let (services, all) = match &names[..] {
            [] => (Vec::new(), self.facts.apps.keys().map(String::as_str).collect()),
            [one] => (vec![*one], Vec::new()),
            several => {
                let ask = |name: &str| Report::confirm(&format!("put HAProxy in front of `{name}`?"));
                let answers: Vec<_> = several.iter().map(|name| (*name, ask(name))).collect();
                (answers.iter().filter(|(_, yes)| *yes == Some(true)).map(|(n, _)| *n).collect(), names)
            }
        };
        if services.is_empty() {
            Err(Error::usage("which service should get a proxy?").hint(format!(
                "name it with `--service NAME` or `--service NAME:PORT`: {}; `--no-proxy` adds none",
                all.iter().map(|n: &&str| format!("`{n}`")).collect::<Vec<_>>().join(", ")
            )))
        } else {
            Ok(services.into_iter().map(|name| (name.to_string(), None)).collect())
        }
    }

    /// Verifies with Compose that the added file removes host ports and container names.
    ///
    /// # Errors
    /// A Compose without `!reset`.
    fn verify_with_compose(&self, proxied: &[ProxiedService], added: &NewFile) -> Result<()> {
        // In the project folder, which every docker client can read (the client of snap has its own /tmp).
        let draft = tempfile::Builder::new().suffix(".yaml").tempfile_in(&self.folder)?;
        std::fs::write(draft.path(), &added.text)?;
        let yaml = self.docker.config_with(draft.path());
        let is_free = |facts: &ProjectFacts| {
            let app_of = |proxied_service: &ProxiedService| {
                facts.apps.get(&proxied_service.service).cloned().unwrap_or_default()
            };
            proxied.iter().map(app_of).all(|app| app.published.is_empty() && !app.container_name)
        };
        let too_old = || {
            let message = "this Compose does not support `!reset`, which removes ports of a service";
            Error::unchanged(message).hint("install Docker Compose 2.24.4 or later")
        };
        match yaml {
            Ok(yaml) if is_free(&ProjectFacts::read(&yaml)?) => Ok(()),
            Ok(_) => Err(too_old().into()),
            Err(error) => Err(too_old().detail(&Error::from_error(error).to_string()).into()),
        }
    }

    /// Reports the files and the next steps.
    ///
    /// # Errors
    /// A missing proxy, because a file of the user is in its place.
    fn report(
        &self,
        proxied: &[ProxiedService],
        actions: &[(&NewFile, FileStatus, FileAction)],
    ) -> Result<(), Error> {
        let row = |(file, _, action): &(&NewFile, FileStatus, FileAction)| {
            vec![action.label().to_string(), file.path.display().to_string(), file.description.clone()]
        };
        self.report.table(&["WHAT", "FILE", "ABOUT"], &actions.iter().map(row).collect::<Vec<_>>());
        let kept =
            |path: &Path| actions.iter().any(|(f, _, action)| f.path == path && *action == FileAction::Kept);
        let proxy_files = actions.iter().map(|(file, ..)| *file).filter(|f| f.belongs_to_proxy());
        let mut conflicts = proxy_files
            .filter(|file| kept(&file.path) && !init::is_written_by_init(&self.folder.join(&file.path)));
        if let Some(file) = conflicts.next() {
            let path = file.path.display();
            return Err(Error::unchanged(format!(
                "`{path}` exists already and stays unchanged: add this to it"
            ))
            .detail(&file.text)
            .hint("`--force` overwrites it, `--print` prints all files"));
        }
        if kept(Path::new("Makefile")) {
            self.report.print_line(&format!(
                "your Makefile stays unchanged; `init` would add:\n{}",
                init::addition_to_makefile()
            ));
        }
        self.print_next_steps(proxied);
        Ok(())
    }

    fn print_next_steps(&self, proxied: &[ProxiedService]) {
        let unchecked = proxied.iter().filter(|f| f.health_path.is_none() && !f.has_healthcheck);
        for proxied_service in unchecked {
            let text = format!(
                "`{}` has no healthcheck: any answer below 500 counts as ready; `init --health-path /PATH` sets a probe",
                proxied_service.service
            );
            self.report.warn(&Warning::Ignored(text));
        }
        if !proxied.is_empty() && self.docker.engine_address().is_remote() {
            let text =
                "the engine is on another machine, which mounts its own `./haproxy`: copy the folder to it";
            self.report.warn(&Warning::Ignored(text.into()));
        }
        let mut lines = Vec::new();
        if self.folder != std::env::current_dir().unwrap_or_default() {
            lines.push(format!("cd {}", crate::shell::path(&self.folder)));
        }
        if let Some(files) = self.compose_files.variable.as_ref().filter(|_| !proxied.is_empty()) {
            lines.push(format!("export COMPOSE_FILE={}", crate::shell::word(files)));
        }
        if !proxied.is_empty() {
            lines.push("docker compose up -d   # once: the proxy takes over the port".into());
        }
        let commands = [
            ("check", "report what a deploy would lose"),
            ("deploy", "replace the app without losing a request"),
            ("rollback", "restore the previous release"),
        ];
        let program = program();
        lines.extend(commands.map(|(word, about)| format!("{:<22} # {about}", format!("{program} {word}"))));
        self.report.print_line(&format!("next:\n  {}", lines.join("\n  ")));
    }
}

/// The action for each file. The user confirms at the terminal which existing files are overwritten.
fn file_actions<'a>(
    folder: &Path,
    files: &'a [NewFile],
    force: bool,
) -> Result<Vec<(&'a NewFile, FileStatus, FileAction)>, Error> {
    let action = |file: &'a NewFile| {
        let status = files::status_of(folder, file)?;
        let overwrite =
            || force || Report::confirm(&format!("overwrite `{}`?", file.path.display())) == Some(true);
        let action = match status {
            _ if is_shadowed(folder, &file.path) => FileAction::Kept,
            FileStatus::Missing => FileAction::New,
            FileStatus::Same => FileAction::Unchanged,
            FileStatus::Different if overwrite() => FileAction::Overwritten,
            FileStatus::Different => FileAction::Kept,
        };
        Ok((file, status, action))
    };
    files.iter().map(action).collect()
}

/// Make prefers another file to this `Makefile`.
fn is_shadowed(folder: &Path, path: &Path) -> bool {
    path == Path::new("Makefile") && ["GNUmakefile", "makefile"].iter().any(|name| folder.join(name).exists())
}

/// The Compose files. By default the added file is an override file, which Compose finds; if files are named, it is one more.
///
/// # Errors
/// No Compose file.
fn compose_files(compose: &ComposeArgs, folder: &Path) -> Result<ComposeFiles, Error> {
    let named = named_files(compose, folder);
    if !named.is_empty() {
        return Ok(ComposeFiles::from_named(&named, folder));
    }
    let Some(main) = COMPOSE_FILES.iter().find(|name| folder.join(name).exists()) else {
        return Err(Error::usage(format!("no Compose file in `{}` or its parents", folder.display()))
            .hint("create a `compose.yaml`, or name a file with `--file`"));
    };
    let overrides =
        COMPOSE_FILES.iter().map(|name| override_name(name)).filter(|name| folder.join(name).exists());
    let overrides: Vec<String> = overrides.collect();
    let added = overrides.first().cloned().unwrap_or_else(|| override_name(main));
    // Without the file of an earlier `init`, so that a second run gives the same result.
    let foreign = overrides.into_iter().filter(|name| !init::is_written_by_init(&folder.join(name))).take(1);
    let own = std::iter::once(main.to_string()).chain(foreign).map(PathBuf::from);
    Ok(ComposeFiles { own: own.collect(), added: added.into(), variable: None })
}

/// Name of the override file, which Compose reads by default.
fn override_name(name: &str) -> String {
    name.replacen('.', ".override.", 1)
}

/// Files from flags, the environment or the `.env` of the project.
fn named_files(compose: &ComposeArgs, folder: &Path) -> Vec<PathBuf> {
    if !compose.file.is_empty() {
        return compose.file.clone();
    }
    let dot_env = std::fs::read_to_string(folder.join(".env")).unwrap_or_default();
    let in_file = dot_env.lines().find_map(|line| line.strip_prefix("COMPOSE_FILE="));
    let in_file = in_file.map(|value| value.trim().trim_matches(['"', '\'']).to_string());
    let variable = std::env::var("COMPOSE_FILE").ok().or(in_file).filter(|v| !v.is_empty());
    let separator = std::env::var("COMPOSE_PATH_SEPARATOR").unwrap_or_else(|_| ":".into());
    variable.iter().flat_map(|v| v.split(&separator)).map(PathBuf::from).collect()
}

/// Requirements of a proxy for deploys without a loss, by its image or name.
fn requirement(image: &str) -> &'static str {
    let image = image.to_lowercase();
    let needs = [
        (
            "dockercloud",
            "it needs `links` to the service, and `ADDITIONAL_SERVICES: PROJECT:SERVICE` with Compose v2",
        ),
        (
            "haproxy",
            "it needs a `stats socket` with `level admin`, and a `server-template` with twice the instances and `resolvers`",
        ),
        (
            "nginx",
            "a service needs `VIRTUAL_HOST` in its environment, a network in common, and no fixed host port",
        ),
        ("caddy", "it needs `reverse_proxy SERVICE:PORT` in its Caddyfile, and its admin API"),
        ("traefik", "a service needs its labels, a network in common, and no fixed host port"),
    ];
    let requirement = needs.iter().find(|(kind, _)| image.contains(kind)).map(|(_, need)| *need);
    requirement.unwrap_or("`compose-zd deploy --dry-run SERVICE` reports its requirements")
}
