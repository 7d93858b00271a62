//! Queries and changes of proxies as data, and the one place that runs each.

mod open_connections;

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::kit::connections::Remote;
use crate::docker::{CommandResult, Docker, Exec, Helper};
use crate::process;

/// Query of a proxy; it changes nothing.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "only the toy adapter of the contract uses some of them so far")
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    Exec(Exec),
    /// Running containers of the engine: a JSON array with ids, labels and times.
    Containers,
    /// Text of a file on this machine.
    HostFile(PathBuf),
    /// Command on this machine.
    Host(Vec<String>),
    /// Open connections from a network namespace to these instances. The answer has a
    /// [`Connection`](super::kit::connections::Connection) per line. A step towards a goal gets none of a container.
    Sockets {
        of: Namespace,
        to: Vec<Remote>,
    },
    /// Open connections of clients to these ports, from the network namespace of a process of an instance on this machine.
    /// The answer has a line for each, as that to [`Query::Sockets`].
    Accepted {
        pid: u32,
        ports: Vec<u16>,
    },
}

/// Network namespace of a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespace {
    /// Of a process on this machine.
    Process(u32),
    /// Of a container, with the number of its first process on the engine's machine.
    Container { id: String, pid: u32 },
}

impl Query {
    /// True if the answer matters only for requests in flight, and may take long.
    pub fn counts_requests(&self) -> bool {
        matches!(self, Query::Sockets { of: Namespace::Container { .. }, .. })
    }
}

impl From<Exec> for Query {
    fn from(exec: Exec) -> Self {
        Query::Exec(exec)
    }
}

/// Effect of a change.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "only the toy adapter of the contract uses some of them so far")
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Exec(Exec),
    /// Signal to the main process of a container.
    Signal {
        container: String,
        signal: String,
    },
    /// Start of a helper container.
    Start(Helper),
    /// Removal of a helper container.
    Remove(String),
    /// Lines of an owner in a file on this machine. The lines of others stay.
    WriteLines {
        path: PathBuf,
        owner: String,
        lines: Vec<String>,
    },
    /// Command on this machine.
    Host(Vec<String>),
    /// This program with these words, as a process that outlives the run.
    Detached(Vec<String>),
}

/// Change of a running proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub action: Action,
    /// Line for the report; empty for a change that does not last.
    pub note: String,
    /// True if gate and drain need this change, so that its failure ends the deploy.
    pub required: bool,
    /// Warning for the failure of an optional change; empty to report Docker's own message.
    pub failure_note: String,
}

impl Change {
    /// Command in a container that makes the change.
    pub fn exec(&self) -> Option<&Exec> {
        match &self.action {
            Action::Exec(exec) => Some(exec),
            _ => None,
        }
    }
}

impl From<Exec> for Change {
    fn from(exec: Exec) -> Self {
        Action::Exec(exec).into()
    }
}

impl From<Action> for Change {
    fn from(action: Action) -> Self {
        Change { action, note: String::new(), required: true, failure_note: String::new() }
    }
}

/// Answer to a query.
///
/// # Errors
/// The program cannot be started. The answer holds the failure of a command, and of a file that cannot be read.
pub fn answer(docker: &Docker, query: &Query) -> Result<CommandResult> {
    match query {
        Query::Exec(exec) => docker.query(exec),
        Query::Containers => Ok(succeeded(docker.running_list()?.to_string())),
        Query::HostFile(path) => Ok(text_of(path)),
        Query::Host(argv) => run_here(argv),
        Query::Sockets { of, to } => open_connections::answer(docker, of, to, false),
        Query::Accepted { pid, ports } => {
            let clients = open_connections::accepted(*pid, ports);
            Ok(succeeded(clients.iter().map(|c| format!("{c}\n")).collect()))
        }
    }
}

/// As [`answer`], but connections have times also where only a helper container can read them.
pub fn sample(docker: &Docker, query: &Query) -> Result<CommandResult> {
    match query {
        Query::Sockets { of, to } => open_connections::answer(docker, of, to, true),
        query => answer(docker, query),
    }
}

/// As [`answer`], without the queries for requests in flight.
pub fn answer_for_step(docker: &Docker, query: &Query) -> Result<CommandResult> {
    if query.counts_requests() { Ok(succeeded(String::new())) } else { answer(docker, query) }
}

/// Runs an action.
///
/// # Errors
/// The program cannot be started, Docker fails, or the file cannot be written. The result holds the failure of a
/// command.
pub fn run(docker: &Docker, action: &Action) -> Result<CommandResult> {
    let done = |()| succeeded(String::new());
    match action {
        Action::Exec(exec) => docker.exec(exec),
        Action::Signal { container, signal } => docker.signal_container(container, signal).map(done),
        Action::Start(helper) => docker.start_helper(helper).map(done),
        Action::Remove(container) => docker.remove_helper(container).map(done),
        Action::WriteLines { path, owner, lines } => Ok(write_lines(path, owner, lines).map(done)?),
        Action::Host(argv) => run_here(argv),
        Action::Detached(words) => Ok(process::start_self_detached(words).map(done)?),
    }
}

fn succeeded(stdout: String) -> CommandResult {
    CommandResult { code: Some(0), stdout, stderr: String::new() }
}

fn run_here(argv: &[String]) -> Result<CommandResult> {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    Ok(process::run_program(&words, Path::new("/"), &[])?)
}

fn text_of(path: &Path) -> CommandResult {
    match std::fs::read_to_string(path) {
        Ok(text) => succeeded(text),
        Err(error) => {
            CommandResult { stderr: format!("{}: {error}", path.display()), ..CommandResult::default() }
        }
    }
}

/// Writes into the file itself: a container may have it as a mount, which a new file would not replace.
fn write_lines(path: &Path, owner: &str, lines: &[String]) -> std::io::Result<()> {
    let mut file: File = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let text = with_lines(&text, owner, lines);
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)?;
    file.sync_all()
}

/// Text with these lines in place of the owner's, where the first of them was, else at the end. Each line ends with
/// the owner as a comment.
fn with_lines(text: &str, owner: &str, lines: &[String]) -> String {
    let mark = format!(" # {owner}");
    let is_owned = |line: &str| line.ends_with(&mark);
    let before = text.lines().take_while(|line| !is_owned(line)).map(String::from);
    let after =
        text.lines().skip_while(|line| !is_owned(line)).filter(|line| !is_owned(line)).map(String::from);
    let own = lines.iter().map(|line| format!("{line}{mark}"));
    before.chain(own).chain(after).map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ComposeFlags;

    fn docker(program: &str) -> Docker {
        Docker::for_test(program.into(), ComposeFlags::default())
    }

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(String::from).collect()
    }

    #[test]
    fn only_the_lines_of_the_owner_are_replaced_and_the_file_stays_the_same() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upstream.conf");
        std::fs::write(&path, "# head\nserver a; # p\nserver b;\nserver c; # p\nserver d; # of p").unwrap();
        let inode = || std::fs::metadata(&path).unwrap().ino();
        let (first, text) = (inode(), || std::fs::read_to_string(&path).unwrap());
        let write = |lines: &[&str]| {
            let lines = lines.iter().map(|l| l.to_string()).collect();
            let action = Action::WriteLines { path: path.clone(), owner: "p".into(), lines };
            assert!(run(&docker("false"), &action).unwrap().ok());
        };
        write(&["server e;", "server f;"]);
        assert_eq!(text(), "# head\nserver e; # p\nserver f; # p\nserver b;\nserver d; # of p\n");
        write(&[]);
        assert_eq!(text(), "# head\nserver b;\nserver d; # of p\n");
        write(&["server g;"]);
        assert_eq!(text(), "# head\nserver b;\nserver d; # of p\nserver g; # p\n");
        let answer = answer(&docker("false"), &Query::HostFile(path.clone())).unwrap();
        assert_eq!((answer.ok(), answer.stdout), (true, text()));
        assert_eq!(inode(), first, "a mount of the file still has it");
    }

    #[test]
    fn a_file_that_cannot_be_read_or_written_is_named() {
        let missing = PathBuf::from("/does/not/exist");
        let answer = answer(&docker("false"), &Query::HostFile(missing.clone())).unwrap();
        assert!(!answer.ok() && answer.stderr.starts_with("/does/not/exist: "), "{answer:?}");
        let write = Action::WriteLines { path: missing, owner: "p".into(), lines: Vec::new() };
        assert!(run(&docker("false"), &write).is_err());
    }

    #[test]
    fn a_command_of_this_machine_answers_by_its_output_and_code() {
        let query = |line: &str| answer(&docker("false"), &Query::Host(words(line))).unwrap();
        assert_eq!((query("echo on").stdout.as_str(), query("false").ok()), ("on\n", false));
        assert!(run(&docker("false"), &Action::Host(words("true"))).unwrap().ok());
        assert!(answer(&docker("false"), &Query::Host(words("/does/not/exist"))).is_err());
    }

    #[test]
    fn containers_are_changed_by_docker() {
        let helper = Helper { name: "relay".into(), image: "busybox".into(), ..Helper::default() };
        let actions =
            [Action::Signal { container: "lb".into(), signal: "HUP".into() }, Action::Start(helper)];
        for action in actions {
            assert!(run(&docker("true"), &action).unwrap().ok(), "{action:?}");
            assert!(run(&docker("false"), &action).is_err(), "{action:?}");
        }
        assert!(run(&docker("true"), &Action::Remove("relay".into())).unwrap().ok());
    }
}
