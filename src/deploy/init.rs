//! `init`: look at the project and at what runs, choose what gets a proxy, try it with Compose, ask, write, tell.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;

use super::request::{connect, resolve_config};
use super::settings;
use super::targets;
use super::{observe, swarm_deploy};
use crate::cli::{ComposeArgs, InitArgs};
use crate::docker::Docker;
use crate::error::Error;
use crate::init::files::{self, FileStatus};
use crate::init::{self, ComposeFiles, InitOptions, NewFile, ProjectFacts, ProxiedService};
use crate::model::{EngineKind, FlagLayers, Project};
use crate::proxy::Proxy;
use crate::report::{Report, Warning};

/// Adds what is missing.
///
/// # Errors
/// A project that cannot be read or given a proxy; a folder that cannot be written; a proxy that is left to be added
/// by hand.
pub fn init(compose: &ComposeArgs, args: &InitArgs, report: Report) -> Result<()> {
    if args.swarm {
        return swarm_deploy::print_for_swarm(compose, report);
    }
    if let Some(name) = &args.from_service {
        return from_service(compose, args, name, report);
    }
    let scene = InitContext::look(compose, args, report)?;
    let fronts = scene.proxied_services(args)?;
    let files = init::files(&scene.facts, &fronts, &scene.layout);
    if !fronts.is_empty() {
        scene.try_with_compose(&fronts, &files[0])?;
    }
    if args.print {
        files
            .iter()
            .for_each(|file| report.print_line(&format!("==> {} <==\n{}", file.path.display(), file.text)));
        return Ok(());
    }
    let fates = fates(&scene.folder, &files, args.force)?;
    let written: Vec<_> =
        fates.iter().filter(|(.., fate)| fate.is_written()).map(|(f, t, _)| (*f, *t)).collect();
    files::put(&scene.folder, &written)?;
    scene.report(&fronts, &fates)?;
    Ok(())
}

/// Writes the file of a service that has none, and makes the service a stack of its own name.
fn from_service(compose: &ComposeArgs, args: &InitArgs, name: &str, report: Report) -> Result<()> {
    let docker = connect(compose, report)?;
    let text = swarm_deploy::file_of_service(&docker, name)?;
    let path = PathBuf::from("compose.yaml");
    if args.print {
        report.print_line(&format!("==> {} <==\n{text}", path.display()));
        return Ok(());
    }
    let about = format!("the service `{name}`");
    let file = NewFile { path, text, executable: false, about };
    let folder = std::env::current_dir()?;
    let there = files::look(&folder, &file)?;
    if there == FileStatus::Other && !args.force {
        return Err(Error::usage("`compose.yaml` is there already, and is another one; nothing was changed")
            .hint("write it elsewhere: `cd` to another folder; or overwrite it with `--force`")
            .into());
    }
    files::put(&folder, &[(&file, there)])?;
    swarm_deploy::adopt(&docker, name)?;
    report.print_line(&format!(
        "new  compose.yaml  the service `{name}`, which is the stack `{name}` now\nnext:\n  compose-zd deploy                       # \
         records it, and pins its image, which replaces the tasks once\n  compose-zd deploy --image {name}=IMAGE   # as `docker service update --image`\n  \
         compose-zd rollback                     # as `docker service update --rollback`"
    ));
    Ok(())
}

/// What there is before anything is added.
struct InitContext {
    docker: Docker,
    folder: PathBuf,
    layout: ComposeFiles,
    project: Project,
    facts: ProjectFacts,
    /// Proxies that the project, or somebody on its networks, has already; for people.
    found: Vec<String>,
    report: Report,
}

/// What becomes of a file.
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

    fn word(self) -> &'static str {
        match self {
            FileAction::New => "new",
            FileAction::Overwritten => "overwritten",
            FileAction::Unchanged => "unchanged",
            FileAction::Kept => "kept",
        }
    }
}

impl InitContext {
    fn look(compose: &ComposeArgs, args: &InitArgs, report: Report) -> Result<InitContext> {
        let folder = settings::project_folder(compose);
        let layout = layout(compose, &folder)?;
        let own = layout.own.iter().map(|file| folder.join(file));
        let mut docker = connect(&ComposeArgs { file: own.collect(), ..compose.clone() }, report)?;
        let yaml = resolve_config(&mut docker, report)?;
        let project =
            Project::read(&yaml, &settings::source(compose), &FlagLayers::default()).map_err(Error::from)?;
        let facts = ProjectFacts::read(&yaml)?;
        if facts.apps.is_empty() {
            return Err(Error::usage(format!("`{}` has no service", settings::source(compose)))
                .hint("add one under `services`; a service of a profile needs `--profile`")
                .into());
        }
        let mut scene = InitContext { docker, folder, layout, project, facts, found: Vec::new(), report };
        if !args.no_proxy {
            scene.look_at_engine();
        }
        Ok(scene)
    }

    /// What runs, and what images say; the file alone does where no engine answers.
    fn look_at_engine(&mut self) {
        match self.proxies() {
            Ok(found) => self.found = found,
            Err(error) => {
                let why = Error::from_error(error).message;
                self.report.warn(&Warning::Ignored(format!("{why}; only the file is looked at")));
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

    /// Proxies of the file, and those that run where services of the file can be reached.
    fn proxies(&self) -> Result<Vec<String>> {
        let containers = self.docker.containers()?;
        let all = observe::detect(&self.docker, &self.project, &containers)?;
        let networks: BTreeSet<&str> =
            self.project.services.values().flat_map(|s| s.networks.iter().map(String::as_str)).collect();
        let near = |p: &&Arc<dyn Proxy>| {
            let container = p.container();
            // What `init` itself added in this project is looked at by its file.
            let ours = container.compose().is_some_and(|(project, _)| project == self.project.name);
            !ours && container.is_running() && container.networks().any(|n| networks.contains(n))
        };
        Ok(all.iter().filter(near).map(|p| self.describe(p.as_ref())).collect())
    }

    /// A proxy that runs, and what it still needs.
    fn describe(&self, proxy: &dyn Proxy) -> String {
        let routed =
            self.project.services.values().filter(|s| proxy.routes_to(&targets::backend(&self.project, s)));
        let routed: Vec<String> = routed.map(|s| format!("`{}`", s.name)).collect();
        match routed.is_empty() {
            true => format!(
                "{} runs on a network of this project, and routes to none of its services: {}",
                proxy.name(),
                need(&proxy.name())
            ),
            false => format!("{} routes to {} already", proxy.name(), routed.join(", ")),
        }
    }

    /// The services that get a proxy: none where there is one.
    fn proxied_services(&self, args: &InitArgs) -> Result<Vec<ProxiedService>> {
        let in_file = self.facts.apps.iter().filter(|(_, app)| app.is_proxy());
        let in_file =
            in_file.map(|(name, app)| format!("`{name}` ({}) is a proxy: {}", app.image, need(&app.image)));
        let found: Vec<String> = in_file.chain(self.found.iter().cloned()).collect();
        if args.no_proxy {
            return Ok(Vec::new());
        }
        if self.project.engine == Some(EngineKind::Swarm) {
            self.report.print_line(
                "the project is for Swarm, where one HAProxy on one machine is no way in: no proxy is added",
            );
            return Ok(Vec::new());
        }
        if !found.is_empty() {
            found.iter().for_each(|text| self.report.print_line(text));
            self.report.print_line("so no other proxy is added");
            return Ok(Vec::new());
        }
        let wish = InitOptions {
            services: if args.service.is_empty() { self.choose()? } else { args.service.clone() },
            publish: args.publish.clone(),
            health_path: args.health_path.clone(),
        };
        Ok(init::proxied_services(&self.facts, &wish)?)
    }

    /// The one that there is, or those that somebody at the terminal says.
    fn choose(&self) -> Result<Vec<(String, Option<u16>)>, Error> {
        let names = init::candidates(&self.facts);
        let (services, all) = match &names[..] {
            [] => (Vec::new(), self.facts.apps.keys().map(String::as_str).collect()),
            [one] => (vec![*one], Vec::new()),
            several => {
                let ask = |name: &str| Report::confirm(&format!("put HAProxy in front of `{name}`?"));
                let said: Vec<_> = several.iter().map(|name| (*name, ask(name))).collect();
                (said.iter().filter(|(_, yes)| *yes == Some(true)).map(|(n, _)| *n).collect(), names)
            }
        };
        match services.is_empty() {
            true => Err(Error::usage("which service is to get a proxy?").hint(format!(
                "name it with `--service NAME` or `--service NAME:PORT`: {}; `--no-proxy` adds none",
                all.iter().map(|n: &&str| format!("`{n}`")).collect::<Vec<_>>().join(", ")
            ))),
            false => Ok(services.into_iter().map(|name| (name.to_string(), None)).collect()),
        }
    }

    /// Compose reads the file that is to be added, and it does what it is for.
    ///
    /// # Errors
    /// A Compose that does not know how to take ports away.
    fn try_with_compose(&self, fronts: &[ProxiedService], added: &NewFile) -> Result<()> {
        // Beside the project, where every client of docker's can read it (snap's has a /tmp of its own).
        let draft = tempfile::Builder::new().suffix(".yaml").tempfile_in(&self.folder)?;
        std::fs::write(draft.path(), &added.text)?;
        let yaml = self.docker.config_with(draft.path());
        let is_free = |facts: &ProjectFacts| {
            let of = |front: &ProxiedService| facts.apps.get(&front.service).cloned().unwrap_or_default();
            fronts.iter().map(of).all(|app| app.published.is_empty() && !app.container_name)
        };
        let too_old = || {
            let said = "Compose does not understand `!reset`, which takes ports away from a service";
            Error::unchanged(said).hint("install Docker Compose 2.24.4 or later")
        };
        match yaml {
            Ok(yaml) if is_free(&ProjectFacts::read(&yaml)?) => Ok(()),
            Ok(_) => Err(too_old().into()),
            Err(error) => Err(too_old().detail(&Error::from_error(error).to_string()).into()),
        }
    }

    /// What was done, and what comes next.
    ///
    /// # Errors
    /// A proxy that is not there because a file of the user's is in its place.
    fn report(
        &self,
        fronts: &[ProxiedService],
        fates: &[(&NewFile, FileStatus, FileAction)],
    ) -> Result<(), Error> {
        let row = |(file, _, fate): &(&NewFile, FileStatus, FileAction)| {
            vec![fate.word().to_string(), file.path.display().to_string(), file.about.clone()]
        };
        self.report.table(&["WHAT", "FILE", "ABOUT"], &fates.iter().map(row).collect::<Vec<_>>());
        let kept = |path: &Path| fates.iter().any(|(f, _, fate)| f.path == path && *fate == FileAction::Kept);
        let of_proxy = fates.iter().map(|(file, ..)| *file).filter(|f| f.is_of_proxy());
        let mut in_the_way =
            of_proxy.filter(|file| kept(&file.path) && !init::is_ours(&self.folder.join(&file.path)));
        if let Some(file) = in_the_way.next() {
            let path = file.path.display();
            return Err(Error::unchanged(format!(
                "`{path}` is there already and stays as it is: put this into it"
            ))
            .detail(&file.text)
            .hint("`--force` overwrites it, `--print` shows all files"));
        }
        if kept(Path::new("Makefile")) {
            self.report.print_line(&format!(
                "your Makefile stays; what `init` would put into it:\n{}",
                init::addition_to_makefile()
            ));
        }
        self.next(fronts);
        Ok(())
    }

    fn next(&self, fronts: &[ProxiedService]) {
        let blind = fronts.iter().filter(|f| f.health_path.is_none() && !f.has_healthcheck);
        for front in blind {
            let told = format!(
                "`{}` has no healthcheck: any answer below 500 counts as ready; `init --health-path /PATH` says what to ask for",
                front.service
            );
            self.report.warn(&Warning::Ignored(told));
        }
        if !fronts.is_empty() && self.docker.engine_address().is_remote() {
            let told = "the engine is on another machine: `./haproxy` is mounted from there, so copy the folder to it";
            self.report.warn(&Warning::Ignored(told.into()));
        }
        let mut lines = Vec::new();
        if self.folder != std::env::current_dir().unwrap_or_default() {
            lines.push(format!("cd {}", crate::shell::path(&self.folder)));
        }
        if let Some(files) = self.layout.variable.as_ref().filter(|_| !fronts.is_empty()) {
            lines.push(format!("export COMPOSE_FILE={}", crate::shell::word(files)));
        }
        if !fronts.is_empty() {
            lines.push("docker compose up -d   # once: the proxy takes the port over".into());
        }
        lines.push("compose-zd check       # whether a deploy would lose anything".into());
        lines.push("compose-zd deploy      # the next version, without losing a request".into());
        lines.push("compose-zd rollback    # the one before".into());
        self.report.print_line(&format!("next:\n  {}", lines.join("\n  ")));
    }
}

/// What becomes of each file; somebody at the terminal is asked about those that are there.
fn fates<'a>(
    folder: &Path,
    files: &'a [NewFile],
    force: bool,
) -> Result<Vec<(&'a NewFile, FileStatus, FileAction)>, Error> {
    let fate = |file: &'a NewFile| {
        let there = files::look(folder, file)?;
        let overwrite =
            || force || Report::confirm(&format!("overwrite `{}`?", file.path.display())) == Some(true);
        let fate = match there {
            _ if is_shadowed(folder, &file.path) => FileAction::Kept,
            FileStatus::Nothing => FileAction::New,
            FileStatus::Same => FileAction::Unchanged,
            FileStatus::Other if overwrite() => FileAction::Overwritten,
            FileStatus::Other => FileAction::Kept,
        };
        Ok((file, there, fate))
    };
    files.iter().map(fate).collect()
}

/// Make reads a file of these names before one called `Makefile`.
fn is_shadowed(folder: &Path, path: &Path) -> bool {
    path == Path::new("Makefile") && ["GNUmakefile", "makefile"].iter().any(|name| folder.join(name).exists())
}

/// Where Compose looks by itself, the added file is one that it finds; where files are named, one more is.
///
/// # Errors
/// No Compose file.
fn layout(compose: &ComposeArgs, folder: &Path) -> Result<ComposeFiles, Error> {
    let named = named_files(compose, folder);
    if !named.is_empty() {
        return Ok(ComposeFiles::named(&named, folder));
    }
    let Some(main) = settings::COMPOSE_FILES.iter().find(|name| folder.join(name).exists()) else {
        return Err(Error::usage(format!("there is no Compose file in `{}` or above it", folder.display()))
            .hint(
                "write a `compose.yaml` with the service that is to be deployed, or name one with `--file`",
            ));
    };
    let others =
        settings::COMPOSE_FILES.iter().map(|name| overriding(name)).filter(|name| folder.join(name).exists());
    let others: Vec<String> = others.collect();
    let added = others.first().cloned().unwrap_or_else(|| overriding(main));
    // Without the one that was added before, so that the same comes of it again.
    let theirs = others.into_iter().filter(|name| !init::is_ours(&folder.join(name))).take(1);
    let own = std::iter::once(main.to_string()).chain(theirs).map(PathBuf::from);
    Ok(ComposeFiles { own: own.collect(), added: added.into(), variable: None })
}

/// The file that Compose reads after one of this name by itself.
fn overriding(name: &str) -> String {
    name.replacen('.', ".override.", 1)
}

/// By flags, by the environment, or by the project's `.env`.
fn named_files(compose: &ComposeArgs, folder: &Path) -> Vec<PathBuf> {
    if !compose.file.is_empty() {
        return compose.file.clone();
    }
    let written = std::fs::read_to_string(folder.join(".env")).unwrap_or_default();
    let in_file = written.lines().find_map(|line| line.strip_prefix("COMPOSE_FILE="));
    let in_file = in_file.map(|value| value.trim().trim_matches(['"', '\'']).to_string());
    let variable = std::env::var("COMPOSE_FILE").ok().or(in_file).filter(|v| !v.is_empty());
    let separator = std::env::var("COMPOSE_PATH_SEPARATOR").unwrap_or_else(|_| ":".into());
    variable.iter().flat_map(|v| v.split(&separator)).map(PathBuf::from).collect()
}

/// What a proxy needs before deploys behind it lose nothing, by its image or name.
fn need(image: &str) -> &'static str {
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
    let known = needs.iter().find(|(kind, _)| image.contains(kind)).map(|(_, need)| *need);
    known.unwrap_or("`compose-zd deploy --dry-run SERVICE` tells what it needs")
}
