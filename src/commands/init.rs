//! `init`: prepares a project for deploys. Reads the project and the engine, selects the services behind the proxy,
//! verifies the files with Compose and writes them.

mod facts;
mod files;
mod select;
mod templates;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use clap::Args;

use crate::configuration::{connect, resolve_config};
use crate::docker::Docker;
use crate::engine::swarm::{compose_file_of_service, import_service, print_for_swarm};
use crate::error::Error;
use crate::model::args::ComposeArgs;
use crate::model::{COMPOSE_FILES, EngineKind, FlagLayers, Project, override_name};
use crate::observe;
use crate::plugin::program;
use crate::proxy::{Place, Proxy, RolloutShape};
use crate::report::{Report, Warning};
use crate::{shell, targets};
use facts::ProjectFacts;
use files::{FileAction, FileStatus};
use select::ProxiedService;

#[derive(Args, Debug, Clone, Default)]
pub struct InitArgs {
    /// Service to put behind a proxy, and its port; may be given several times [default: the only service that looks
    /// like a web application]
    #[arg(long, value_name = "SERVICE[:PORT]", value_parser = service_and_port)]
    pub service: Vec<(String, Option<u16>)>,
    /// Host port of the proxy, if the service publishes none [default: 8080]
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = publication)]
    pub publish: Option<(String, u16)>,
    /// Path of health probes, for the proxy and for deploys [default: path of the healthcheck]
    #[arg(long, value_name = "PATH", value_parser = url_path)]
    pub health_path: Option<String>,
    /// Add HAProxy although a deploy needs no proxy
    #[arg(long, conflicts_with = "no_proxy")]
    pub proxy: bool,
    /// Add no proxy
    #[arg(long, conflicts_with_all = ["service", "publish", "health_path"])]
    pub no_proxy: bool,
    /// Print the file converted for a Swarm, with a comment for each change; needs --print
    #[arg(long, requires = "print", conflicts_with_all = ["service", "publish", "health_path"])]
    pub swarm: bool,
    /// Write the Compose file of a Swarm service from `docker service create`, and import the service
    #[arg(long, value_name = "NAME", conflicts_with_all = ["service", "publish", "health_path", "swarm"])]
    pub from_service: Option<String>,
    /// Print the files, write nothing
    #[arg(long)]
    pub print: bool,
    /// Overwrite existing files
    #[arg(long, conflicts_with = "print")]
    pub force: bool,
}

fn service_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let invalid = || "expected SERVICE or SERVICE:PORT, such as web:3000".to_string();
    match text.split_once(':') {
        _ if text.is_empty() || text.starts_with(':') => Err(invalid()),
        None => Ok((text.into(), None)),
        Some((service, port)) => Ok((service.into(), Some(port_number(port).ok_or_else(invalid)?))),
    }
}

/// A port, or an address and a port; an IPv6 address is in brackets.
fn publication(text: &str) -> Result<(String, u16), String> {
    let (address, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port = port_number(port).ok_or("expected a port, or ADDRESS:PORT such as 127.0.0.1:8080")?;
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    if bare.is_empty() || bare.parse::<std::net::IpAddr>().is_ok() {
        Ok((bare.into(), port))
    } else {
        Err(format!("`{address}` is not an IP address such as 127.0.0.1"))
    }
}

fn port_number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

fn url_path(text: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~%?=&+,;@".contains(c);
    if text.starts_with('/') && text.chars().all(is_allowed) {
        Ok(text.into())
    } else {
        Err("expected a path that begins with `/`, such as /health".into())
    }
}

/// First words of the files that `init` writes.
const WRITTEN_BY_INIT: &str = "# Written by `compose-zd init`";

/// A file to write, relative to the project folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    pub path: PathBuf,
    pub text: String,
    pub executable: bool,
    pub description: String,
}

impl NewFile {
    /// The proxy needs this file.
    fn belongs_to_proxy(&self) -> bool {
        self.text.starts_with(WRITTEN_BY_INIT) && !self.path.ends_with("Makefile")
    }

    fn print(&self, report: Report) {
        report.print_line(&format!("==> {} <==\n{}", self.path.display(), self.text));
    }
}

/// `init` wrote the file, which may have been edited since.
fn is_written_by_init(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(WRITTEN_BY_INIT))
}

/// The Compose files of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComposeFiles {
    /// Existing files.
    own: Vec<PathBuf>,
    /// File that `init` adds.
    added: PathBuf,
    /// Value for `COMPOSE_FILE`; none if Compose finds the added file by default.
    variable: Option<String>,
}

impl ComposeFiles {
    /// Finds the files. By default the added file is an override file, which Compose finds; if files are named, it is
    /// one more.
    ///
    /// # Errors
    /// No Compose file.
    fn find(compose: &ComposeArgs, folder: &Path) -> Result<ComposeFiles, Error> {
        let dot_env = std::fs::read_to_string(folder.join(".env")).unwrap_or_default();
        let in_dot_env = dot_env.lines().find_map(|line| line.strip_prefix("COMPOSE_FILE="));
        let named =
            compose.named_files(in_dot_env.map(|value| value.trim().trim_matches(['"', '\'']).into()));
        if !named.is_empty() {
            return Ok(ComposeFiles::from_named(&named, folder));
        }
        let exists = |name: &String| folder.join(name).exists();
        let Some(main) = COMPOSE_FILES.map(String::from).into_iter().find(exists) else {
            return Err(Error::usage(format!("no Compose file in `{}` or its parents", folder.display()))
                .hint("create a `compose.yaml`, or name a file with `--file`"));
        };
        let existing = COMPOSE_FILES.map(override_name).into_iter().find(exists);
        // Without the file of an earlier `init`, so that a second run gives the same result.
        let foreign = existing.clone().filter(|name| !is_written_by_init(&folder.join(name)));
        let added = existing.unwrap_or_else(|| override_name(&main)).into();
        let own = [main].into_iter().chain(foreign).map(PathBuf::from).collect();
        Ok(ComposeFiles { own, added, variable: None })
    }

    /// Files from a flag or a variable, relative to the folder.
    fn from_named(files: &[PathBuf], folder: &Path) -> ComposeFiles {
        let added = PathBuf::from("compose.zd.yaml");
        let inside = |file: &PathBuf| file.strip_prefix(folder).unwrap_or(file).to_path_buf();
        let own: Vec<PathBuf> = files.iter().map(inside).filter(|file| *file != added).collect();
        let all: Vec<String> = own.iter().chain([&added]).map(|file| file.display().to_string()).collect();
        ComposeFiles { own, added, variable: Some(all.join(":")) }
    }
}

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
    let files = templates::files(&context.facts, &proxied, &context.compose_files);
    if !proxied.is_empty() {
        context.verify_with_compose(&proxied, &files[0])?;
    }
    if args.print {
        files.iter().for_each(|file| file.print(report));
        return Ok(());
    }
    let actions = file_actions(&context.folder, &files, args.force)?;
    files::write_all(&context.folder, &actions)?;
    context.report(&proxied, &actions)?;
    Ok(())
}

/// Writes a Compose file for a Swarm service, and turns the service into a stack of the same name.
fn from_service(compose: &ComposeArgs, args: &InitArgs, name: &str, report: Report) -> Result<()> {
    let docker = connect(compose, report)?;
    let text = compose_file_of_service(&docker, name)?;
    let description = format!("the service `{name}`");
    let file = NewFile { path: "compose.yaml".into(), text, executable: false, description };
    if args.print {
        file.print(report);
        return Ok(());
    }
    let folder = std::env::current_dir()?;
    let action = match files::status_of(&folder, &file)? {
        FileStatus::Missing => FileAction::New,
        FileStatus::Different if !args.force => {
            return Err(Error::usage("another `compose.yaml` exists already; nothing was changed")
                .hint("change to another folder, or overwrite the file with `--force`")
                .into());
        }
        _ => FileAction::Overwritten,
    };
    files::write_all(&folder, &[(&file, action)])?;
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
    facts: ProjectFacts,
    /// Descriptions of proxies on the networks of the project.
    present_proxies: Vec<String>,
    /// Published ports that a deploy replaces without a proxy.
    served_ports: Vec<String>,
    report: Report,
}

impl InitContext {
    fn new(compose: &ComposeArgs, args: &InitArgs, report: Report) -> Result<InitContext> {
        let folder = compose.folder();
        let compose_files = ComposeFiles::find(compose, &folder)?;
        let own = compose_files.own.iter().map(|file| folder.join(file));
        let mut docker = connect(&ComposeArgs { file: own.collect(), ..compose.clone() }, report)?;
        let yaml = resolve_config(&mut docker, compose, report)?;
        let source = compose.source();
        let mut project = Project::read(&yaml, &source, &FlagLayers::default()).map_err(Error::from)?;
        project.profiles = compose.profiles();
        if project.services.is_empty() {
            return Err(targets::no_services(&project, &source).into());
        }
        let facts = ProjectFacts { project, image_ports: BTreeMap::new() };
        let mut context = InitContext {
            docker,
            folder,
            compose_files,
            facts,
            present_proxies: Vec::new(),
            served_ports: Vec::new(),
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
            Ok((proxies, ports)) => (self.present_proxies, self.served_ports) = (proxies, ports),
            Err(error) => {
                let reason = Error::from_error(error).message;
                self.report.warn(&Warning::Ignored(format!("{reason}; only the file is checked")));
                return;
            }
        }
        for (name, service) in &self.facts.project.services {
            if let Ok(Some(image)) = self.docker.image(&service.image) {
                let ports = image.config.exposed_ports.into_keys();
                let ports = ports.filter_map(|port| port.strip_suffix("/tcp")?.parse().ok()).collect();
                self.facts.image_ports.insert(name.clone(), ports);
            }
        }
    }

    /// Running proxies of other projects on networks of this one, and published ports that need no proxy.
    fn find_proxies(&self) -> Result<(Vec<String>, Vec<String>)> {
        let project = &self.facts.project;
        let containers = self.docker.containers()?;
        let all = observe::detect(&self.docker, project, &containers)?;
        let networks: BTreeSet<&str> =
            project.services.values().flat_map(|s| s.networks.iter().map(String::as_str)).collect();
        let is_foreign = |p: &&Arc<dyn Proxy>| {
            let Some(container) = p.container() else { return false };
            // Proxies of this project are found in its file.
            let is_own = container.compose().is_some_and(|(name, _)| name == project.name);
            !is_own && container.is_running() && container.networks().any(|n| networks.contains(n))
        };
        let is_running = |service: &str| {
            containers.iter().any(|c| c.is_running() && targets::is_member(project, c, &[service]))
        };
        let served = |p: &Arc<dyn Proxy>| match p.place() {
            Place::Port { service, .. } if is_running(service) => {
                p.audit(&RolloutShape::default(), None).refused.is_none().then(|| p.name())
            }
            _ => None,
        };
        let foreign = all.iter().filter(is_foreign).map(|p| describe(project, p.as_ref())).collect();
        Ok((foreign, all.iter().filter_map(served).collect()))
    }

    /// A deploy needs no proxy, and the flags describe none.
    fn needs_no_proxy(&self, args: &InitArgs) -> bool {
        let describes_proxy =
            !args.service.is_empty() || args.publish.is_some() || args.health_path.is_some();
        !self.served_ports.is_empty() && !args.proxy && !describes_proxy
    }

    /// Services to put behind a new proxy; none if a proxy exists.
    fn proxied_services(&self, args: &InitArgs) -> Result<Vec<ProxiedService>> {
        if args.no_proxy {
            return Ok(Vec::new());
        }
        let project = &self.facts.project;
        if project.engine == Some(EngineKind::Swarm) {
            self.report.print_line(
                "no proxy is added, because the project is for Swarm, and one HAProxy cannot serve several nodes",
            );
            return Ok(Vec::new());
        }
        let in_file = project.services.values().filter(|service| self.facts.is_proxy(service));
        let in_file =
            in_file.map(|s| format!("`{}` ({}) is a proxy: {}", s.name, s.image, requirement(&s.image)));
        let found: Vec<String> = in_file.chain(self.present_proxies.iter().cloned()).collect();
        if !found.is_empty() {
            found.iter().for_each(|text| self.report.print_line(text));
            self.report.print_line("no other proxy is added");
            return Ok(Vec::new());
        }
        if self.needs_no_proxy(args) {
            let ports = self.served_ports.join(", ");
            self.report.print_line(&format!(
                "{ports}: a deploy as root on this machine replaces it as it is, so no proxy is added; `--proxy` adds HAProxy"
            ));
            return Ok(Vec::new());
        }
        let service = if args.service.is_empty() { self.choose_services()? } else { args.service.clone() };
        Ok(select::proxied_services(&self.facts, &InitArgs { service, ..args.clone() })?)
    }

    /// The only candidate, or those that the user confirms at the terminal.
    fn choose_services(&self) -> Result<Vec<(String, Option<u16>)>, Error> {
        let names = self.facts.candidates();
        let is_confirmed =
            |name: &&str| Report::confirm(&format!("put HAProxy in front of `{name}`?")) == Some(true);
        let chosen: Vec<&str> = match &names[..] {
            [one] => vec![*one],
            several => several.iter().copied().filter(is_confirmed).collect(),
        };
        if !chosen.is_empty() {
            return Ok(chosen.into_iter().map(|name| (name.to_string(), None)).collect());
        }
        let all = self.facts.project.services.keys().map(String::as_str);
        let all: Vec<&str> = if names.is_empty() { all.collect() } else { names };
        Err(Error::usage("which service should get a proxy?").hint(format!(
            "name it with `--service NAME` or `--service NAME:PORT`: {}; `--no-proxy` adds none",
            all.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        )))
    }

    /// Verifies with Compose that the added file removes host ports and container names.
    ///
    /// # Errors
    /// A Compose without `!reset`.
    fn verify_with_compose(&self, proxied: &[ProxiedService], added: &NewFile) -> Result<()> {
        // In the project folder, which every docker client can read (the client of snap has its own /tmp).
        let draft = tempfile::Builder::new().suffix(".yaml").tempfile_in(&self.folder)?;
        std::fs::write(draft.path(), &added.text)?;
        let too_old = || {
            let message = "this Compose does not support `!reset`, which removes ports of a service";
            Error::unchanged(message).hint("install Docker Compose 2.24.4 or later")
        };
        let yaml = self
            .docker
            .config_with(draft.path())
            .map_err(|error| too_old().detail(&Error::from_error(error).to_string()))?;
        let project = Project::read(&yaml, &added.path.to_string_lossy(), &FlagLayers::default())
            .map_err(Error::from)?;
        let services = proxied.iter().filter_map(|p| project.services.get(&p.service));
        let is_free = |service: &crate::model::Service| facts::host_ports(service).is_empty();
        if services.into_iter().all(is_free) { Ok(()) } else { Err(too_old().into()) }
    }

    /// Reports the files and the next steps.
    ///
    /// # Errors
    /// A missing proxy, because a file of the user is in its place.
    fn report(&self, proxied: &[ProxiedService], actions: &[(&NewFile, FileAction)]) -> Result<(), Error> {
        let row = |(file, action): &(&NewFile, FileAction)| {
            vec![action.label().to_string(), file.path.display().to_string(), file.description.clone()]
        };
        self.report.table(&["WHAT", "FILE", "ABOUT"], &actions.iter().map(row).collect::<Vec<_>>());
        let kept = actions.iter().filter(|(_, action)| *action == FileAction::Kept).map(|(file, _)| *file);
        let is_conflict =
            |file: &&NewFile| file.belongs_to_proxy() && !is_written_by_init(&self.folder.join(&file.path));
        if let Some(file) = kept.clone().find(is_conflict) {
            let path = file.path.display();
            return Err(Error::unchanged(format!(
                "`{path}` exists already and stays unchanged: add this to it"
            ))
            .detail(&file.text)
            .hint("`--force` overwrites it, `--print` prints all files"));
        }
        if kept.into_iter().any(|file| file.path == Path::new("Makefile")) {
            self.report.print_line(&format!(
                "your Makefile stays unchanged; `init` would add:\n{}",
                templates::ADDITION_TO_MAKEFILE
            ));
        }
        self.warn(proxied);
        self.print_next_steps(!proxied.is_empty());
        Ok(())
    }

    fn warn(&self, proxied: &[ProxiedService]) {
        let unchecked = proxied.iter().filter(|p| p.health_path.is_none() && !p.has_healthcheck);
        let unchecked = unchecked.map(|p| {
            format!(
                "`{}` has no healthcheck: any answer below 500 counts as ready; `init --health-path /PATH` sets a probe",
                p.service
            )
        });
        let is_remote = !proxied.is_empty() && self.docker.engine_address().is_remote();
        let remote = is_remote.then(|| {
            "the engine is on another machine, which mounts its own `./haproxy`: copy the folder to it".into()
        });
        unchecked.chain(remote).for_each(|text| self.report.warn(&Warning::Ignored(text)));
    }

    fn print_next_steps(&self, has_proxy: bool) {
        let mut lines = Vec::new();
        if self.folder != std::env::current_dir().unwrap_or_default() {
            lines.push(format!("cd {}", shell::path(&self.folder)));
        }
        if has_proxy {
            let files = self.compose_files.variable.iter();
            lines.extend(files.map(|files| format!("export COMPOSE_FILE={}", shell::word(files))));
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
) -> Result<Vec<(&'a NewFile, FileAction)>, Error> {
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
        Ok((file, action))
    };
    files.iter().map(action).collect()
}

/// Make prefers another file to this `Makefile`.
fn is_shadowed(folder: &Path, path: &Path) -> bool {
    path == Path::new("Makefile") && ["GNUmakefile", "makefile"].iter().any(|name| folder.join(name).exists())
}

/// Describes a running proxy, with its missing settings.
fn describe(project: &Project, proxy: &dyn Proxy) -> String {
    let routed = project.services.values().filter(|s| proxy.routes_to(&targets::backend(project, s)));
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

/// Requirements of a proxy for deploys without a loss, by its image or name.
fn requirement(image: &str) -> &'static str {
    let image = image.to_lowercase();
    let needs = [
        (
            "dockercloud",
            "it needs `links` to the service, and `ADDITIONAL_SERVICES: PROJECT:SERVICE` with Compose v2",
        ),
        ("haproxy", "it needs a `stats socket` with `level admin`; its `server` lines stay as they are"),
        (
            "nginx-proxy",
            "a service needs `VIRTUAL_HOST` in its environment, a network in common, and no fixed host port",
        ),
        ("nginx", "its configuration has to name the service; nothing has to be added"),
        ("apache", "its configuration has to name the service; nothing has to be added"),
        ("httpd", "its configuration has to name the service; nothing has to be added"),
        ("caddy", "it needs `reverse_proxy SERVICE:PORT` in its Caddyfile, and its admin API"),
        ("traefik", "a service needs its labels and a network in common; nothing has to be added"),
    ];
    let requirement = needs.iter().find(|(kind, _)| image.contains(kind)).map(|(_, need)| *need);
    requirement.unwrap_or("`compose-zd deploy --dry-run SERVICE` reports its requirements")
}
