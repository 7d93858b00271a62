//! Every docker argv is built here, and every process is started here.

mod ahead;
mod call;
pub mod claims;
pub mod engine;
pub mod facts;
pub mod inspect;
mod said;
mod session;
mod shells;
pub mod swarm;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::{Pid, Signal};

use crate::fault::Fault;
use crate::lock::{Process, RUN};
use crate::wait::{self, Stop};
use ahead::Ahead;
pub use call::Call;
use engine::{Patience, Whereabouts};
use inspect::{Container, Image};
pub use said::Said;
use shells::Shells;

/// A command to run in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exec {
    pub container: String,
    pub argv: Vec<String>,
    /// What it reads; nothing is read without.
    pub stdin: Option<String>,
    pub options: Vec<String>,
    /// Variables that it gets. They may be secret, so docker is told their names only, and finds the values in its own
    /// environment: everybody on this machine can read the arguments of a process.
    pub variables: Vec<(String, String)>,
    /// Its words are the user's and may hold secrets: none but the first is shown.
    pub private: bool,
    /// The image of a container of its own, which lives as long as the command and shares the network of `container`,
    /// whose settings it may write; those are read-only in `container` itself.
    pub beside: Option<String>,
}

impl Exec {
    /// A script for the container's own `sh`.
    pub fn sh(container: &str, script: impl Into<String>) -> Self {
        Exec::new(container, vec!["sh".into(), "-c".into(), script.into()])
    }

    pub fn new(container: &str, argv: Vec<String>) -> Self {
        Exec { container: container.into(), argv, ..Exec::default() }
    }

    /// A command of the user's.
    pub fn of_user(container: &str, argv: Vec<String>) -> Self {
        Exec { private: true, ..Exec::new(container, argv) }
    }

    /// A script for the `sh` of an image, which may change the network settings of a container.
    pub fn beside(container: &str, image: &str, script: impl Into<String>) -> Self {
        Exec { beside: Some(image.into()), ..Exec::sh(container, script) }
    }

    /// The command for people, of which `argv` is the whole.
    fn shown(&self, argv: &[String]) -> String {
        match self.private {
            true => format!("{} …", shown_words(&argv[1..argv.len().saturating_sub(self.argv.len()) + 1])),
            false => shown_words(&argv[1..]),
        }
    }

    fn words(&self) -> Vec<String> {
        match &self.beside {
            Some(image) => self.words_beside(image),
            None => self.words_inside(),
        }
    }

    fn words_beside(&self, image: &str) -> Vec<String> {
        let network = format!("container:{}", self.container);
        let [program, arguments @ ..] = &self.argv[..] else {
            return Vec::new();
        };
        let mut words = ["run", "--rm", "--pull", "never", "--network", &network].map(String::from).to_vec();
        words.extend(["--security-opt", "systempaths=unconfined", "--user", "0"].map(String::from));
        words.extend(["--entrypoint", program, image].map(String::from));
        words.extend(arguments.iter().cloned());
        words
    }

    fn words_inside(&self) -> Vec<String> {
        let mut words = vec!["exec".to_string()];
        words.extend(self.stdin.is_some().then(|| "-i".to_string()));
        words.extend(self.options.iter().cloned());
        for (name, value) in &self.variables {
            let told = if is_dockers_own(name) { format!("{name}={value}") } else { name.clone() };
            words.extend(["--env".to_string(), told]);
        }
        words.push(self.container.clone());
        words.extend(self.argv.iter().cloned());
        words
    }
}

/// Variables that the docker client goes by itself: such a one is told in full.
fn is_dockers_own(name: &str) -> bool {
    let own = ["PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK"];
    let name = name.to_uppercase();
    own.contains(&name.as_str())
        || ["DOCKER", "OTEL", "LD_", "GO"].iter().any(|p| name.starts_with(p))
        || name.ends_with("_PROXY")
}

/// How a finished command ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// What it said last, for messages: stderr, else stdout.
    pub fn said(&self) -> &str {
        match self.stderr.trim() {
            "" => self.stdout.trim(),
            text => text,
        }
    }
}

/// Which project: Compose's and docker's own flags, passed through as they were given.
#[derive(Debug, Clone, Default)]
pub struct Where {
    /// `--context` and `--host`.
    pub engine: Vec<String>,
    /// `--file`, `--project-name`, `--project-directory`, `--env-file`, `--profile`.
    pub project: Vec<String>,
}

/// Told of every command that ran, for `--verbose`.
pub type Observer = Arc<dyn Fn(&str, Duration) + Send + Sync>;

/// The docker client of this machine, pointed at one engine and one project.
#[derive(Clone)]
pub struct Docker {
    program: PathBuf,
    /// A standalone `docker-compose` v2, where the client has no `compose` plugin.
    standalone: Option<PathBuf>,
    place: Where,
    observer: Observer,
    patience: Patience,
    /// The engine did not answer when it was asked last.
    is_silent: Arc<AtomicBool>,
    shells: Arc<Shells>,
    ahead: Arc<Ahead>,
    known: Arc<Mutex<Vec<String>>>,
    said: Option<Said>,
}

impl Docker {
    /// Finds the client and a Compose v2.
    ///
    /// # Errors
    /// No `docker`, no Compose, or a Compose of version 1.
    pub fn find(place: Where, observer: Observer) -> Result<Docker> {
        let program = which::which("docker").map_err(|_| {
            Fault::unchanged("`docker` is not on the PATH").hint(
                "install Docker Engine and its Compose plugin (on Debian or Ubuntu `scripts/setup` does)",
            )
        })?;
        Ok(Docker::new(program, place, observer))
    }

    fn new(program: PathBuf, place: Where, observer: Observer) -> Docker {
        Docker {
            program,
            standalone: None,
            place,
            observer,
            patience: engine::PATIENCE,
            is_silent: Arc::default(),
            shells: Arc::default(),
            ahead: Arc::default(),
            known: Arc::default(),
            said: None,
        }
    }

    /// A client at this place, for tests of what needs none.
    #[cfg(test)]
    pub fn at(program: PathBuf, place: Where) -> Docker {
        Docker::new(program, place, Arc::new(|_, _| {}))
    }

    /// The same engine, and a project that was resolved before: its file, its name and the folder it came from. Every
    /// service in the file is meant, whatever its profile.
    pub fn with_file(&self, file: &Path, project: &str, folder: &Path) -> Docker {
        let words = [
            "--project-name".into(),
            project.to_string(),
            "--project-directory".into(),
            folder.to_string_lossy().into_owned(),
            "--file".into(),
            file.to_string_lossy().into_owned(),
            "--profile".into(),
            "*".into(),
        ];
        let place = Where { engine: self.place.engine.clone(), project: words.to_vec() };
        Docker { place, ..self.clone() }
    }

    /// One service and what it needs, whatever profile it has.
    ///
    /// # Errors
    /// Compose's own, when there is none of that name.
    pub fn config_of(&self, service: &str) -> Result<String> {
        self.compose_checked(&["config", service])
    }

    /// Runs a service to its end in a container of its own, its output shown.
    ///
    /// # Errors
    /// Only when docker cannot be started; `false` when the service fails.
    pub fn run_service(&self, service: &str) -> Result<bool> {
        let argv = self.compose_words(&["run", "--rm", "--no-deps", "--no-TTY", service]);
        // In a process group of its own: what it does to a database is not cut short by a first Ctrl-C.
        self.run_loud(&argv, expression(&argv))
    }

    /// The project as Compose resolves it, in YAML, and what Compose warns of (a variable that is not set). The YAML
    /// holds secrets: it is neither logged nor shown.
    ///
    /// # Errors
    /// Compose's own, when the file is missing or wrong; no Compose; no engine.
    pub fn config(&mut self) -> Result<(String, Vec<String>)> {
        let done = self.compose(&["config"])?;
        if done.ok() {
            let warnings = warnings(&done.stderr);
            return Ok((done.stdout, warnings));
        }
        if self.standalone.is_none() && !self.run(&self.docker_words(&["compose", "version"]))?.ok() {
            self.standalone = Some(standalone()?);
            return self.config();
        }
        Err(Fault::usage("`docker compose config` refuses the project")
            .seen(done.said())
            .hint("correct the file, or name another with `--file`")
            .into())
    }

    /// The project with one more file, as [`Docker::config`] reads it.
    ///
    /// # Errors
    /// Compose's own.
    pub fn config_with(&self, file: &Path) -> Result<String> {
        let file = file.to_string_lossy();
        self.compose_checked(&["--file", &file, "config"])
    }

    /// The configuration hash of every service, as Compose labels its containers with.
    ///
    /// # Errors
    /// Compose's own.
    pub fn hashes(&self) -> Result<BTreeMap<String, String>> {
        let done = self.compose_said(&HASHES, self.told(&self.compose_words(&HASHES))?)?;
        let pairs = done.lines().filter_map(|l| l.split_once(char::is_whitespace));
        Ok(pairs.map(|(service, hash)| (service.trim().into(), hash.trim().into())).collect())
    }

    /// Every container of the engine, running or not.
    ///
    /// # Errors
    /// No engine, or an answer that cannot be read.
    pub fn containers(&self) -> Result<Vec<Container>> {
        // Most of them are known from the last time: they are read while it is asked whether there are others.
        let known = self.known();
        let (ids, read) = std::thread::scope(|scope| {
            let ids = scope.spawn(|| self.said(&IDS, self.told(&self.docker_words(&IDS))?));
            let read = self.inspect_by(&known, |argv| self.told(argv));
            (ids.join().expect("no panic in a read"), read)
        });
        let (ids, mut all): (Vec<String>, _) = (ids?.lines().map(String::from).collect(), read?);
        let is_read = |id: &&String| !known.contains(id);
        all.extend(self.inspect(&ids.iter().filter(is_read).cloned().collect::<Vec<_>>())?);
        all.retain(|c| ids.contains(&c.id));
        all.sort_by_key(|c| ids.iter().position(|id| *id == c.id));
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = ids;
        Ok(all)
    }

    /// Ids of the containers there were when all were read last.
    fn known(&self) -> Vec<String> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The containers of one service, running or not.
    ///
    /// # Errors
    /// As [`Docker::containers`].
    pub fn containers_of(&self, project: &str, service: &str) -> Result<Vec<Container>> {
        let project = format!("label=com.docker.compose.project={project}");
        let service = format!("label=com.docker.compose.service={service}");
        self.listed(&["--filter", &project, "--filter", &service])
    }

    /// The ids of all containers of the engine.
    ///
    /// # Errors
    /// No engine.
    pub fn ids(&self) -> Result<Vec<String>> {
        let ids = self.checked(&IDS)?;
        Ok(ids.lines().map(String::from).collect())
    }

    fn listed(&self, filters: &[&str]) -> Result<Vec<Container>> {
        let words = [&IDS[..], filters].concat();
        let ids = self.checked(&words)?;
        self.inspect(&ids.lines().map(String::from).collect::<Vec<_>>())
    }

    /// Reads containers by id or name; those that are gone by now are left out.
    ///
    /// # Errors
    /// No engine, or an answer that cannot be read.
    pub fn inspect(&self, ids: &[String]) -> Result<Vec<Container>> {
        self.inspect_by(ids, |argv| self.run(argv))
    }

    fn inspect_by(&self, ids: &[String], run: impl Fn(&[String]) -> Result<Done>) -> Result<Vec<Container>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let words: Vec<&str> = INSPECT.into_iter().chain(ids.iter().map(String::as_str)).collect();
        let done = run(&self.docker_words(&words))?;
        let gone = done.stderr.to_lowercase().contains("no such container");
        if !done.ok() && !gone {
            return Err(self.engine_fault(&words, &done).into());
        }
        Ok(serde_json::from_str(&done.stdout)?)
    }

    /// A local image; `None` when there is none of that name.
    ///
    /// # Errors
    /// No engine.
    pub fn image(&self, reference: &str) -> Result<Option<Image>> {
        if !is_reference(reference) {
            return Ok(None);
        }
        let words = image_words(&[reference]);
        let done = self.told(&self.docker_words(&words))?;
        match done.stderr.to_lowercase().contains("no such image") {
            true => Ok(None),
            false if done.ok() => Ok(serde_json::from_str::<Vec<Image>>(&done.stdout)?.pop()),
            false => Err(self.engine_fault(&words, &done).into()),
        }
    }

    /// Those of these local images that there are, in no order that tells which is which.
    ///
    /// # Errors
    /// No engine.
    pub fn images(&self, references: &BTreeSet<&str>) -> Result<Vec<Image>> {
        if references.is_empty() {
            return Ok(Vec::new());
        }
        let words = image_words(&references.iter().copied().collect::<Vec<_>>());
        let done = self.told(&self.docker_words(&words))?;
        match done.ok() || done.stderr.to_lowercase().contains("no such image") {
            true => Ok(serde_json::from_str(&done.stdout)?),
            false => Err(self.engine_fault(&words, &done).into()),
        }
    }

    /// Builds images, its output shown.
    ///
    /// # Errors
    /// A build that fails; nothing was changed then.
    pub fn build(&self, services: &[String]) -> Result<()> {
        self.shown("build", services)
    }

    /// Pulls images, Compose's own progress shown.
    ///
    /// # Errors
    /// An image that cannot be pulled; nothing was changed then.
    pub fn pull(&self, services: &[String]) -> Result<()> {
        self.shown("pull", services)
    }

    fn shown(&self, verb: &str, services: &[String]) -> Result<()> {
        let mut words = vec![verb];
        words.extend(services.iter().map(String::as_str));
        match self.run_shown(&self.compose_words(&words))? {
            true => Ok(()),
            false => Err(Fault::unchanged(format!(
                "`docker compose {verb} {}` failed; nothing was changed",
                services.join(" ")
            ))
            .hint("what it said stands above")
            .into()),
        }
    }

    /// Shows what a command says; whether it succeeded.
    fn run_shown(&self, argv: &[String]) -> Result<bool> {
        // In our own process group: nothing is touched yet, so Ctrl-C may end it at once.
        self.run_loud(argv, duct::cmd(&argv[0], &argv[1..]))
    }

    fn run_loud(&self, argv: &[String], command: duct::Expression) -> Result<bool> {
        let (shown, command) = (shown_words(&argv[1..]), command.stdin_null().unchecked());
        let Some(said) = self.said.as_ref().filter(|s| (s.wanted)()) else {
            return self.run_to_end(&shown, &command.stdout_to_stderr()).map(|done| done.ok());
        };
        let (reader, writer) = io::pipe()?;
        let command = command.stdout_file(writer.try_clone()?).stderr_file(writer);
        let told = said::tell(reader, Arc::clone(&said.line));
        let done = self.run_to_end(&shown, &command);
        // It holds our ends of the pipe. What the command started itself may hold it for longer.
        drop(command);
        let _ = told.recv_timeout(PIPE);
        done.map(|done| done.ok())
    }

    /// Pulls one image by its reference, docker's own progress shown; whether it came.
    ///
    /// # Errors
    /// Only when docker cannot be started.
    pub fn pull_image(&self, reference: &str) -> Result<bool> {
        if !is_reference(reference) {
            return Ok(false);
        }
        self.run_shown(&self.docker_words(&["pull", reference]))
    }

    /// Gives an image a name; one that has it loses it.
    ///
    /// # Errors
    /// No such image, or no engine.
    pub fn tag(&self, image: &str, tag: &str) -> Result<()> {
        self.checked(&["tag", image, tag]).map(drop)
    }

    /// The names in these repositories, and maybe in others: the engine reads a repository as a pattern.
    ///
    /// # Errors
    /// No engine.
    pub fn tags_in(&self, repositories: &BTreeSet<String>) -> Result<Vec<String>> {
        if repositories.is_empty() {
            return Ok(Vec::new());
        }
        let filters: Vec<String> = repositories.iter().map(|r| format!("reference={r}")).collect();
        let words = tags_words(&filters);
        let tags = self.said(&words, self.told(&self.docker_words(&words))?)?;
        Ok(tags.lines().map(String::from).collect())
    }

    /// Takes a name from an image; the image goes with its last name, unless a container uses it.
    ///
    /// # Errors
    /// Only when docker cannot be started.
    pub fn remove_tag(&self, tag: &str) -> Result<Done> {
        self.run(&self.docker_words(&["image", "rm", tag]))
    }

    /// Makes a container that is never started, so that pruning images spares this one.
    ///
    /// # Errors
    /// A name that is taken, or no engine.
    pub fn create_keeper(&self, project: &str, name: &str, tag: &str, image: &Image) -> Result<()> {
        let words = keeper_words(project, name, tag, image);
        self.checked(&words.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
    }

    /// The names of a project's keepers.
    ///
    /// # Errors
    /// No engine.
    pub fn keepers(&self, project: &str) -> Result<Vec<String>> {
        let label = keeper_label(project);
        let words = keepers_words(&label);
        let names = self.said(&words, self.told(&self.docker_words(&words))?)?;
        Ok(names.lines().map(String::from).collect())
    }

    /// Removes a container that does not run, with the anonymous volumes of its own; it may be gone by now.
    ///
    /// # Errors
    /// A container that cannot be removed.
    pub fn remove_with_volumes(&self, name: &str) -> Result<()> {
        let words = ["rm", "--volumes", name];
        let done = self.run(&self.docker_words(&words))?;
        match done.ok() || done.stderr.to_lowercase().contains("no such container") {
            true => Ok(()),
            false => Err(self.engine_fault(&words, &done).into()),
        }
    }

    /// What Compose would stop or remove if it were told to create instances: it recreates a network whose definition
    /// changed, and stops everything on it, whatever `--no-recreate` says.
    ///
    /// # Errors
    /// Compose's own.
    pub fn collateral(&self, service: &str, total: usize) -> Result<Vec<String>> {
        self.dry_run(&create_words(service, &format!("{service}={total}")))
    }

    /// The same for starting services that are down.
    ///
    /// # Errors
    /// Compose's own.
    pub fn collateral_of_start(&self, services: &[&str]) -> Result<Vec<String>> {
        let words = ["up", "--no-start", "--no-recreate"].iter().chain(services);
        self.dry_run(&words.map(|w| w.to_string()).collect::<Vec<_>>())
    }

    fn dry_run(&self, command: &[String]) -> Result<Vec<String>> {
        let done = self.told(&self.compose_words(&dry_words(command)))?;
        match done.ok() {
            true => Ok(collateral(&done.stderr).chain(collateral(&done.stdout)).collect()),
            false => Err(Fault::unchanged(format!("Compose refuses `{}`", command.join(" ")))
                .seen(done.said())
                .into()),
        }
    }

    /// Creates instances beside those that exist, without starting them: `total` counts both.
    ///
    /// # Errors
    /// Compose's own.
    pub fn create(&self, service: &str, total: usize) -> Result<()> {
        let scale = format!("{service}={total}");
        let words = create_words(service, &scale);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.compose_checked(&words).map(drop)
    }

    /// Starts containers, side by side.
    ///
    /// # Errors
    /// The first container that does not start.
    pub fn start(&self, ids: &[String]) -> Result<()> {
        // The client starts one after the other.
        let some = |ids: &[String]| {
            let words: Vec<&str> = ["start"].into_iter().chain(ids.iter().map(String::as_str)).collect();
            self.checked(&words).map(drop)
        };
        let share = ids.len().div_ceil(CLIENTS).max(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = ids.chunks(share).map(|ids| scope.spawn(move || some(ids))).collect();
            threads.into_iter().try_for_each(|t| t.join().expect("no panic in a start"))
        })
    }

    /// Starts what was created of a service as Compose does, with its hooks and the secrets it copies in.
    ///
    /// # Errors
    /// Compose's own.
    pub fn start_by_compose(&self, service: &str, total: usize) -> Result<()> {
        let scale = format!("{service}={total}");
        let words = [
            "up",
            "--detach",
            "--no-deps",
            "--no-recreate",
            "--no-build",
            "--pull",
            "never",
            "--scale",
            &scale,
            service,
        ];
        self.compose_checked(&words).map(drop)
    }

    /// Starts services that are down, and what they need; what runs is left alone.
    ///
    /// # Errors
    /// Compose's own.
    pub fn start_services(&self, services: &[&str]) -> Result<()> {
        let mut words = vec!["up", "--detach", "--no-recreate"];
        words.extend(services);
        self.compose_checked(&words).map(drop)
    }

    /// Stops containers side by side, each with its own signal and grace period.
    ///
    /// # Errors
    /// A container that cannot be stopped.
    pub fn stop(&self, ids: &[String]) -> Result<()> {
        self.on_all("stop", ids)
    }

    /// Removes stopped containers; their volumes stay.
    ///
    /// # Errors
    /// A container that cannot be removed.
    pub fn remove(&self, ids: &[String]) -> Result<()> {
        self.on_all("rm", ids)
    }

    fn on_all(&self, verb: &str, ids: &[String]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut words = vec![verb];
        words.extend(ids.iter().map(String::as_str));
        let done = self.run(&self.docker_words(&words))?;
        let gone = |line: &str| line.to_lowercase().contains("no such container");
        match done.ok() || done.stderr.lines().all(gone) {
            true => Ok(()),
            false => Err(self.engine_fault(&words, &done).into()),
        }
    }

    /// Runs a command in a container; a plain script in a shell that is kept open there, which costs a tenth of it.
    ///
    /// # Errors
    /// Only when docker cannot be started; the command's own failure is in the answer.
    pub fn exec(&self, exec: &Exec) -> Result<Done> {
        let argv = self.docker_words(&exec.words().iter().map(String::as_str).collect::<Vec<_>>());
        if session::takes(exec) {
            let start = Instant::now();
            if let Some(done) = self.exec_in_shell(exec)? {
                (self.observer)(&exec.shown(&argv), start.elapsed());
                return Ok(done);
            }
        }
        let command = with_variables(expression(&argv), exec);
        self.run_command(&exec.shown(&argv), command, exec.stdin.as_deref())
    }

    /// As [`Docker::exec`], for at most `limit`, and without input; what takes longer is left to itself and gives no
    /// answer. No more than the first 64 KiB of what it prints is read.
    ///
    /// # Errors
    /// Only when docker cannot be started.
    pub fn exec_within(&self, exec: &Exec, limit: Duration) -> Result<Option<Done>> {
        let argv = self.docker_words(&exec.words().iter().map(String::as_str).collect::<Vec<_>>());
        let start = Instant::now();
        let done = bounded(with_variables(expression(&argv), exec), limit);
        (self.observer)(&exec.shown(&argv), start.elapsed());
        Ok(done.map_err(|e| cannot_start(&argv[0], &e))?)
    }

    /// Starts a shell in a container, which ends with its input.
    fn start_shell(
        &self,
        container: &str,
        stdin: PipeReader,
        stdout: PipeWriter,
        stderr: PipeWriter,
    ) -> io::Result<()> {
        let argv = self.docker_words(&["exec", "-i", container, "sh"]);
        let command = expression(&argv).stdin_file(stdin).stdout_file(stdout).stderr_file(stderr);
        command.unchecked().start().map(drop)
    }

    /// `None` where it takes longer than that; it is then left to itself.
    fn run_within(&self, argv: &[String], stdin: Option<&str>, limit: Duration) -> Result<Option<Done>> {
        let start = Instant::now();
        let command = expression(argv).stdout_capture().stderr_capture().unchecked();
        let child = match stdin {
            Some(text) => command.stdin_bytes(text).start(),
            None => command.stdin_null().start(),
        };
        let child = child.map_err(|e| cannot_start(&argv[0], &e))?;
        let done = child.wait_timeout(limit).map(|output| output.map(done));
        if !matches!(done, Ok(Some(_))) {
            end_group(&child);
        }
        (self.observer)(&shown_words(&argv[1..]), start.elapsed());
        Ok(done.map_err(|e| cannot_start(&argv[0], &e))?)
    }

    /// The beginning of what others wrote: a line of a log may be as long as it likes.
    fn log(&self, argv: &[String], limit: Duration) -> Result<Done> {
        let start = Instant::now();
        let done = bounded(expression(argv), limit);
        (self.observer)(&shown_words(&argv[1..]), start.elapsed());
        Ok(done.map_err(|e| cannot_start(&argv[0], &e))?.unwrap_or_default())
    }

    /// The last lines a container printed.
    ///
    /// # Errors
    /// No engine.
    pub fn logs(&self, id: &str, lines: u32) -> Result<Vec<String>> {
        let tail = lines.to_string();
        let done = self.log(&self.docker_words(&["logs", "--tail", &tail, id]), LOGS)?;
        let both = done.stdout.lines().chain(done.stderr.lines());
        Ok(both.map(String::from).collect())
    }

    /// The exit code of a container's last end, also when it was restarted since: `inspect` has forgotten it then. The
    /// engine counts in whole seconds, so it is asked for those up to the next one, and takes as long.
    ///
    /// # Errors
    /// No engine.
    pub fn last_exit_code(&self, id: &str) -> Result<Option<i32>> {
        let container = format!("container={id}");
        let code = "{{index .Actor.Attributes \"exitCode\"}}";
        let codes = self.checked(&[
            "events",
            "--since",
            "1h",
            "--until=-1s",
            "--filter",
            &container,
            "--filter",
            "event=die",
            "--format",
            code,
        ])?;
        Ok(codes.lines().last().and_then(|c| c.trim().parse().ok()))
    }

    fn checked(&self, words: &[&str]) -> Result<String> {
        self.said(words, self.run(&self.docker_words(words))?)
    }

    fn said(&self, words: &[&str], done: Done) -> Result<String> {
        match done.ok() {
            true => Ok(done.stdout),
            false => Err(self.engine_fault(words, &done).into()),
        }
    }

    fn compose(&self, words: &[&str]) -> Result<Done> {
        self.run(&self.compose_words(words))
    }

    fn compose_checked(&self, words: &[&str]) -> Result<String> {
        self.compose_said(words, self.compose(words)?)
    }

    fn compose_said(&self, words: &[&str], done: Done) -> Result<String> {
        match done.ok() {
            true => Ok(done.stdout),
            false => {
                let verb = words.first().unwrap_or(&"");
                Err(Fault::unchanged(format!("`docker compose {verb}` failed")).seen(done.said()).into())
            }
        }
    }

    fn docker_words(&self, words: &[&str]) -> Vec<String> {
        docker_words(&self.program, &self.place, words)
    }

    fn compose_words(&self, words: &[&str]) -> Vec<String> {
        compose_words(&self.program, self.standalone.as_deref(), &self.place, words)
    }

    fn run(&self, argv: &[String]) -> Result<Done> {
        self.run_with(argv, None)
    }

    /// For what may have been asked ahead.
    fn told(&self, argv: &[String]) -> Result<Done> {
        self.ahead.take(argv).unwrap_or_else(|| self.run(argv))
    }

    fn run_with(&self, argv: &[String], stdin: Option<&str>) -> Result<Done> {
        self.run_command(&shown_words(&argv[1..]), expression(argv), stdin)
    }

    /// Tried again where an ssh server turned it away because too many came at a time: it has done nothing then.
    fn run_command(&self, shown: &str, command: duct::Expression, stdin: Option<&str>) -> Result<Done> {
        let command = command.stdout_capture().stderr_capture().unchecked();
        let command = match stdin {
            Some(text) => command.stdin_bytes(text),
            None => command.stdin_null(),
        };
        let mut last = Done::default();
        wait::until(engine::DOOR_POLL, engine::DOOR, &Stop::default(), || -> Result<_> {
            last = self.run_to_end(shown, &command)?;
            Ok((!self.is_to_try_again(&last)).then_some(()))
        })?;
        Ok(last)
    }

    /// However long it takes, as long as the engine answers meanwhile: a line that breaks, or an engine that hangs, is
    /// told by nothing but silence.
    fn run_to_end(&self, shown: &str, command: &duct::Expression) -> Result<Done> {
        let start = Instant::now();
        let program = self.program.to_string_lossy();
        let child = command.start().map_err(|e| cannot_start(&program, &e))?;
        let ended = self.wait_for(&child).map_err(|e| cannot_start(&program, &e));
        (self.observer)(shown, start.elapsed());
        Ok(ended?.ok_or_else(|| self.silent(shown, start.elapsed()))?)
    }

    /// `None` where the engine has fallen silent; the command is ended then.
    fn wait_for(&self, child: &duct::Handle) -> std::io::Result<Option<Done>> {
        loop {
            let Patience { before, answer } = match self.is_silent.load(Ordering::Relaxed) {
                true => engine::AGAIN,
                false => self.patience,
            };
            if let Some(output) = child.wait_timeout(before)? {
                self.is_silent.store(false, Ordering::Relaxed);
                return Ok(Some(done(output)));
            }
            let answers = self.answers_within(answer);
            self.is_silent.store(!answers, Ordering::Relaxed);
            if !answers {
                end_group(child);
                return Ok(None);
            }
        }
    }

    fn engine_fault(&self, words: &[&str], done: &Done) -> Fault {
        engine_fault(words, done, || self.whereabouts())
    }
}

/// Runs another program of this machine, in a folder; a variable without a value is taken away from it. Each variable
/// is named once.
///
/// # Errors
/// Only when it cannot be started: there is no such program, or no such folder.
pub fn run_program(argv: &[&str], dir: &Path, environment: &[(&str, Option<OsString>)]) -> Result<Done> {
    let plain = expression(&argv.iter().map(|w| w.to_string()).collect::<Vec<_>>());
    let command = environment.iter().fold(plain, |command, (name, value)| match value {
        Some(value) => command.env(name, value),
        None => command.env_remove(name),
    });
    let command = command.dir(dir).stdin_null().stdout_capture().stderr_capture().unchecked();
    Ok(done(&command.run().map_err(|e| cannot_start(argv[0], &e))?))
}

/// A shell for tests, as a container has one.
#[cfg(test)]
pub fn shell_of_this_machine(stdin: PipeReader, stdout: PipeWriter, stderr: PipeWriter) {
    let command = duct::cmd!("sh").stdin_file(stdin).stdout_file(stdout).stderr_file(stderr);
    command.unchecked().start().expect("a shell");
}

fn done(output: &std::process::Output) -> Done {
    Done {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into(),
        stderr: String::from_utf8_lossy(&output.stderr).into(),
    }
}

/// Ends a command with all that it has started: Compose is a child of docker's, and would go on without it. It may have
/// ended by itself in this moment.
fn end_group(child: &duct::Handle) {
    let _ = child.kill();
    for pid in child.pids().into_iter().filter_map(|pid| Pid::from_raw(pid.try_into().ok()?)) {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}

/// A child in a process group of its own: Ctrl-C in the terminal is for us to handle, not for `docker compose`. It carries a
/// mark by which the next run finds it, should this one be killed meanwhile.
fn expression(argv: &[String]) -> duct::Expression {
    static MARK: LazyLock<String> = LazyLock::new(|| Process::this().mark());
    duct::cmd(&argv[0], &argv[1..]).env(RUN, &*MARK).before_spawn(|command| {
        command.process_group(0);
        Ok(())
    })
}

/// Nothing that docker would take for a flag has a place in its words, whoever wrote the record that it is from.
fn is_reference(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn with_variables(command: duct::Expression, exec: &Exec) -> duct::Expression {
    let own = exec.variables.iter().filter(|(name, _)| !is_dockers_own(name));
    own.fold(command, |command, (name, value)| command.env(name, value))
}

/// As much of the output of a command as is read where anybody may have written it, in bytes.
const OUTPUT: u64 = 64 << 10;

/// How long the engine may take to give the last lines of a log.
const LOGS: Duration = Duration::from_secs(20);

/// Runs a command of which neither the time nor the output is trusted; none where it takes longer than `limit`.
fn bounded(command: duct::Expression, limit: Duration) -> io::Result<Option<Done>> {
    let ((out, stdout), (err, stderr)) = (io::pipe()?, io::pipe()?);
    let (out, err) = (first_of(out), first_of(err));
    // The command holds its ends of the pipes, which have to close with the child.
    let child = command.stdin_null().stdout_file(stdout).stderr_file(stderr).unchecked().start()?;
    let ended = child.wait_timeout(limit).map(|output| output.map(|o| o.status.code()));
    if !matches!(ended, Ok(Some(_))) {
        // It may have ended by itself in this moment.
        let _ = child.kill();
    }
    let text = |read: Receiver<Vec<u8>>| {
        // What the child started itself may live on and hold the pipe.
        let end = Instant::now() + PIPE;
        let next = || read.recv_timeout(end.saturating_duration_since(Instant::now())).ok();
        let bytes: Vec<u8> = std::iter::from_fn(next).flatten().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(ended?.map(|code| Done { code, stdout: text(out), stderr: text(err) }))
}

/// How long a pipe may take to close once its process has ended.
const PIPE: Duration = Duration::from_secs(1);

/// Reads on a thread of its own; then the pipe is closed, which ends who writes on.
fn first_of(pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut pipe = pipe.take(OUTPUT);
        let mut buffer = vec![0; 8 << 10];
        // What came before an error counts; and nobody may wait for it any more.
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if send.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receive
}

fn docker_words(program: &Path, place: &Where, words: &[&str]) -> Vec<String> {
    let mut argv = vec![program.to_string_lossy().into_owned()];
    argv.extend(place.engine.iter().cloned());
    argv.extend(words.iter().map(|w| w.to_string()));
    argv
}

fn compose_words(program: &Path, standalone: Option<&Path>, place: &Where, words: &[&str]) -> Vec<String> {
    let mut argv = match standalone {
        Some(compose) => docker_words(compose, place, &[]),
        None => docker_words(program, place, &["compose"]),
    };
    argv.extend(place.project.iter().cloned());
    argv.extend(words.iter().map(|w| w.to_string()));
    argv
}

fn image_words<'w>(references: &[&'w str]) -> Vec<&'w str> {
    ["image", "inspect"].into_iter().chain(references.iter().copied()).collect()
}

fn dry_words(command: &[String]) -> Vec<&str> {
    ["--dry-run"].into_iter().chain(command.iter().map(String::as_str)).collect()
}

fn create_words(service: &str, scale: &str) -> Vec<String> {
    [
        "up",
        "--no-start",
        "--no-deps",
        "--no-recreate",
        "--no-build",
        "--pull",
        "never",
        "--scale",
        scale,
        service,
    ]
    .map(String::from)
    .to_vec()
}

/// Asks for the configuration hash of every service.
const HASHES: [&str; 3] = ["config", "--hash", "*"];

/// So many docker clients start containers side by side; the engine does no more at a time on most machines.
const CLIENTS: usize = 10;

/// Asks for the ids of containers.
const IDS: [&str; 4] = ["ps", "--all", "--quiet", "--no-trunc"];

/// Asks for containers by id.
const INSPECT: [&str; 2] = ["container", "inspect"];

/// The label of a container that holds an image, with the project that it is kept for.
pub const KEEPS: &str = "compose-zd.keeps";

fn keeper_label(project: &str) -> String {
    format!("label={KEEPS}={project}")
}

fn keepers_words(label: &str) -> [&str; 6] {
    ["ps", "--all", "--filter", label, "--format", "{{.Names}}"]
}

fn tags_words(filters: &[String]) -> Vec<&str> {
    let words = ["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"].into_iter();
    words.chain(filters.iter().flat_map(|f| ["--filter", f])).collect()
}

/// An entrypoint that no image has: started by mistake it fails, and does nothing. A volume of the image would get an
/// anonymous one. A label of the image speaks to others, and Compose writes its own into what it builds: with those the
/// keeper would be an instance, or an orphan that `up --remove-orphans` takes.
fn keeper_words(project: &str, name: &str, tag: &str, image: &Image) -> Vec<String> {
    let mut words =
        ["create", "--name", name, "--network", "none", "--pull", "never"].map(String::from).to_vec();
    words.extend(["--entrypoint", "/compose-zd-keep"].map(String::from));
    words.extend(image.config.volumes.keys().flat_map(|path| ["--tmpfs".into(), path.clone()]));
    words.extend(image.config.labels.keys().flat_map(|key| ["--label".into(), format!("{key}=")]));
    words.extend(["--label".into(), format!("{KEEPS}={project}"), tag.into()]);
    words
}

/// What Compose warns of, out of its log lines: `time="…" level=warning msg="…"`.
fn warnings(stderr: &str) -> Vec<String> {
    let message = |line: &str| {
        let (_, rest) = line.split_once("level=warning msg=\"")?;
        Some(rest.trim_end_matches('"').replace("\\\"", "`"))
    };
    stderr.lines().filter_map(message).collect()
}

/// The lines of a dry run that say something running would go.
fn collateral(text: &str) -> impl Iterator<Item = String> {
    let goes = |line: &&str| {
        let last = line.split_whitespace().last().unwrap_or("");
        ["Stopping", "Removing", "Removed", "Recreate"].contains(&last)
    };
    let name =
        |line: &str| line.replace("DRY-RUN MODE -", "").split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().filter(goes).map(name).collect::<Vec<_>>().into_iter()
}

/// A command for people: scripts are cut to their first line.
fn shown_words(words: &[String]) -> String {
    let first_line = |w: &String| match w.split_once('\n') {
        Some((line, _)) => format!("'{line} …'"),
        None if w.contains(' ') => format!("'{w}'"),
        None => w.clone(),
    };
    words.iter().map(first_line).collect::<Vec<_>>().join(" ")
}

fn standalone() -> Result<PathBuf> {
    let missing = || {
        Fault::unchanged("neither `docker compose` nor a standalone `docker-compose` v2 is installed")
            .hint("install the package `docker-compose-plugin` (or `docker-compose-v2`)")
    };
    let path = which::which("docker-compose").map_err(|_| missing())?;
    let version = duct::cmd!(&path, "version", "--short").stdin_null().stderr_null().unchecked().read();
    match version.unwrap_or_default().trim_start_matches('v').starts_with("1.") {
        true => Err(missing().seen("`docker-compose` is of version 1, which cannot do this").into()),
        false => Ok(path),
    }
}

fn cannot_start(program: &str, error: &std::io::Error) -> Fault {
    Fault::unchanged(format!("cannot start `{program}`: {error}"))
}

/// What docker said, as an error that names the usual causes.
fn engine_fault(words: &[&str], done: &Done, place: impl Fn() -> Whereabouts) -> Fault {
    let said = done.said();
    let lower = said.to_lowercase();
    let command = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
    if lower.contains("permission denied") && lower.contains("docker") && lower.contains("sock") {
        return Fault::unchanged("this user may not talk to the Docker engine")
            .seen(said)
            .hint("run as root, or add the user to the group `docker`");
    }
    let unreachable = [
        "cannot connect to the docker daemon",
        "error during connect",
        "failed to connect to the docker api",
    ];
    if unreachable.iter().any(|u| lower.contains(u)) {
        let place = place();
        return Fault::unchanged(format!("no Docker engine answers{place}")).seen(said).hint(place.hint());
    }
    let ended = match done.code {
        Some(code) => format!("exited with {code}"),
        None => "was killed".into(),
    };
    Fault::unchanged(format!("`docker {command}` {ended}")).seen(said)
}

#[cfg(test)]
#[path = "docker/tests.rs"]
mod tests;
