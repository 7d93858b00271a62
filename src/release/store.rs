//! State folder: reads and writes every file of it, and never leaves a file half written.

pub mod permissions;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::engine_folder::{ENGINE_FILE, EngineId};
use super::{FORMAT, InProgress, ProjectRun, ReleaseHistory, ReleaseRecord, Retention, UnreadableFile};
use crate::error::Error;
use crate::shell;

/// Largest file that is read; a release's file has a few kilobytes, and a larger file is not from compose-zd.
const MAX_SIZE: u64 = 16 << 20;

/// Highest number of a release. A file with a higher number is not from compose-zd, and would leave no number for the next
/// release.
const LAST_NUMBER: u32 = 999_999_999;

/// File in a project's folder about a rollout that has not ended.
const IN_PROGRESS_FILE: &str = "wanted.json";

/// File in a project's folder about a run of the whole project that has not ended.
const PROJECT_RUN_FILE: &str = "project.json";

/// File in a project's folder with the id of its history.
const ID_FILE: &str = "history-id";

/// Length of that id in hexadecimal digits.
const ID_LENGTH: usize = 8;

/// State of one project: `STATE_DIR/PROJECT/`, because two projects may share a compose file.
#[derive(Debug, Clone)]
pub struct Store {
    state_dir: PathBuf,
    project: String,
    /// Engine of the releases, if known.
    engine: Option<EngineId>,
}

impl Store {
    /// A store that touches no file yet.
    ///
    /// # Errors
    /// The name cannot be a folder below the state folder.
    pub fn new(state_dir: &Path, project: &str) -> Result<Store, Error> {
        if is_folder_name(project) {
            Ok(Store { state_dir: state_dir.into(), project: project.into(), engine: None })
        } else {
            Err(Error::usage(format!("`{project}` cannot be the name of a project"))
                .hint("name it with `--project-name`: lower case letters, digits, `_` and `-`"))
        }
    }

    /// The same store, which names this engine in a new folder.
    pub fn with_engine(self, engine: Option<EngineId>) -> Store {
        Store { engine, ..self }
    }

    /// True if the folder names an engine.
    pub fn names_engine(&self) -> bool {
        self.folder().join(ENGINE_FILE).exists()
    }

    /// Folder of the project.
    pub fn folder(&self) -> PathBuf {
        self.state_dir.join(&self.project)
    }

    /// Id of the history in the folder. The id stays the same if the folder is moved, and differs for each checkout.
    pub fn id(&self) -> String {
        let stored = fs::read_to_string(self.folder().join(ID_FILE)).unwrap_or_default();
        match stored.trim() {
            id if id.len() == ID_LENGTH && id.bytes().all(|b| b.is_ascii_hexdigit()) => id.to_lowercase(),
            _ => self.new_id(),
        }
    }

    /// Id from the folder's path: checkouts that keep no state and return at the same path share a history.
    fn new_id(&self) -> String {
        let folder = std::path::absolute(self.folder()).unwrap_or_else(|_| self.folder());
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let digest = Sha256::digest(format!("{}:{}", host.trim(), folder.display()));
        digest.iter().take(ID_LENGTH / 2).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Creates the folders, for their owner alone. A new state folder is ignored by git, because it holds secrets.
    pub fn prepare(&self) -> Result<(), Error> {
        permissions::create_folder(&self.state_dir, permissions::is_own_folder(&self.state_dir))?;
        if self.is_empty() {
            let ignored = self.state_dir.join(".gitignore");
            replace_file(&ignored, b"*\n").map_err(|e| cannot_write(&ignored, &e))?;
        }
        permissions::create_folder(&self.folder(), true)?;
        permissions::create_folder(&self.releases(), true)?;
        permissions::create_folder(&self.rollouts(), true)?;
        let id = self.folder().join(ID_FILE);
        if !id.exists() {
            replace_file(&id, self.id().as_bytes()).map_err(|e| cannot_write(&id, &e))?;
        }
        let mark = self.folder().join(ENGINE_FILE);
        match self.engine.as_ref().filter(|_| !mark.exists()) {
            Some(engine) => {
                let text = serde_json::to_vec_pretty(engine).map_err(|e| cannot_write(&mark, &e.into()))?;
                replace_file(&mark, &text).map_err(|e| cannot_write(&mark, &e))
            }
            None => Ok(()),
        }
    }

    /// Refuses folders and files that a user other than root and the project's owner controls, if this process is
    /// root and would trust them.
    ///
    /// # Errors
    /// A symbolic link, or a file of another user; the error has the path and a hint.
    fn check_owners(&self) -> Result<(), Error> {
        if rustix::process::geteuid().is_root() {
            permissions::check_owners(&self.state_dir, &[self.folder(), self.releases(), self.rollouts()])
        } else {
            Ok(())
        }
    }

    /// True for an empty state folder. Other files may be the user's working copy, which a `.gitignore` would hide.
    fn is_empty(&self) -> bool {
        fs::read_dir(&self.state_dir).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// Every record, unreadable ones included.
    ///
    /// # Errors
    /// The folder cannot be read or trusted; the error names the folder.
    pub fn history(&self) -> Result<ReleaseHistory, Error> {
        self.check_owners()?;
        let names = names_in(&self.releases())?;
        let (mut records, mut unreadable_files) = (Vec::new(), BTreeMap::new());
        for number in names.iter().filter_map(|name| number_of(name, "json")) {
            match self.record(number) {
                Ok(record) => records.extend(record),
                Err(file) => _ = unreadable_files.insert(number, file),
            }
        }
        // A configuration without a record is a draft, whose number is free, unless a rollout may have begun with it.
        let drafts = names.iter().filter_map(|n| number_of(n, "yml")).filter(|_| self.in_progress().is_err());
        let highest_number =
            names.iter().filter_map(|name| record_number(name)).chain(drafts).max().unwrap_or(0);
        Ok(ReleaseHistory::with_unreadable(records, unreadable_files, highest_number))
    }

    /// Record of this number; `None` if the file was just removed.
    fn record(&self, number: u32) -> Result<Option<ReleaseRecord>, UnreadableFile> {
        let path = self.path(number, "json");
        let Some(text) = read_file(&path)? else { return Ok(None) };
        let record: ReleaseRecord = parse(&path, &text)?;
        match () {
            _ if record.project != self.project => {
                Err(unreadable(&path, format!("it belongs to the project `{}`", record.project)))
            }
            _ if record.number != number => {
                Err(unreadable(&path, format!("it is release {}", record.number)))
            }
            _ => Ok(Some(record)),
        }
    }

    /// Resolved configuration of a release. It holds secrets: it is neither logged nor shown.
    ///
    /// # Errors
    /// The configuration is not kept, or cannot be read.
    pub fn config(&self, number: u32) -> Result<String, Error> {
        let path = self.config_path(number);
        let text = read_file(&path).map_err(|file| Error::from(&file))?.ok_or_else(|| {
            Error::unchanged(format!("the configuration of release {number} is not kept"))
                .detail(&format!("no file `{}`", path.display()))
                .hint("choose another release with `--to`; `compose-zd history` lists them")
        })?;
        String::from_utf8(text).map_err(|_| Error::from(&unreadable(&path, "it is not UTF-8".into())))
    }

    pub fn config_path(&self, number: u32) -> PathBuf {
        self.path(number, "yml")
    }

    pub fn write_record(&self, record: &ReleaseRecord) -> Result<(), Error> {
        self.write_json(&self.path(record.number, "json"), record)
    }

    /// Writes the configuration, before the record: no rollback can return to a record without a configuration.
    pub fn write_config(&self, number: u32, yaml: &str) -> Result<(), Error> {
        self.write_bytes(&self.config_path(number), yaml.as_bytes())
    }

    /// Removes the configuration of a release whose rollout never began.
    pub fn remove_draft(&self, number: u32) -> Result<(), Error> {
        // An unreadable `wanted.json` may name this release.
        let begun =
            self.in_progress().map_or(true, |in_progress| in_progress.is_some_and(|w| w.number == number));
        if begun || self.path(number, "json").exists() {
            Ok(())
        } else {
            remove_file(&self.config_path(number))
        }
    }

    /// Target of a rollout that has not ended.
    pub fn in_progress(&self) -> Result<Option<InProgress>, UnreadableFile> {
        let path = self.in_progress_path();
        read_file(&path)?.map(|text| parse(&path, &text)).transpose()
    }

    /// Moves an unreadable `wanted.json` to a free name, whatever kind of file it is.
    pub fn set_in_progress_aside(&self) -> Result<(), Error> {
        set_aside(&self.in_progress_path())
    }

    pub fn write_in_progress(&self, in_progress: &InProgress) -> Result<(), Error> {
        self.write_json(&self.in_progress_path(), in_progress)
    }

    /// Records that the rollout has ended; can be repeated.
    pub fn clear_in_progress(&self) -> Result<(), Error> {
        remove_file(&self.in_progress_path())
    }

    /// Removes files that a killed run left half done: temporary ones, and configurations from this number on, which no
    /// rollout has begun.
    pub fn remove_unfinished(&self, next_number: u32) -> Result<(), Error> {
        let folder = self.releases();
        let is_draft = |name: &str| number_of(name, "yml").is_some_and(|number| number >= next_number);
        let names = names_in(&folder)?.into_iter().filter(|name| is_draft(name) || is_temporary(name));
        // Other runs write into the folder of the project while they wait, but not these files.
        let half_written =
            [IN_PROGRESS_FILE, PROJECT_RUN_FILE].map(|name| self.folder().join(temporary(name)));
        names.map(|name| folder.join(name)).chain(half_written).try_for_each(|path| remove_file(&path))
    }

    /// Run of the whole project that has not ended.
    pub fn project_run(&self) -> Result<Option<ProjectRun>, UnreadableFile> {
        let path = self.project_run_path();
        read_file(&path)?.map(|text| parse(&path, &text)).transpose()
    }

    /// Writes the run, in place of an unreadable one, which is set aside.
    pub fn write_project_run(&self, run: &ProjectRun) -> Result<(), Error> {
        if self.project_run().is_err() {
            set_aside(&self.project_run_path())?;
        }
        self.write_json(&self.project_run_path(), run)
    }

    /// Records that the run has ended; can be repeated.
    pub fn clear_project_run(&self) -> Result<(), Error> {
        remove_file(&self.project_run_path())
    }

    /// Removes what is not retained, and temporary files of interrupted writes.
    pub fn prune(&self, retained: &Retention) -> Result<(), Error> {
        let folder = self.releases();
        let is_retained = |name: &String| {
            let config = number_of(name, "yml").is_none_or(|n| retained.configs.contains(&n));
            let record = number_of(name, "json").is_none_or(|n| retained.records.contains(&n));
            config && record && !is_temporary(name)
        };
        let names = names_in(&folder)?;
        names
            .iter()
            .filter(|name| !is_retained(name))
            .try_for_each(|name| remove_file(&folder.join(name)))?;
        let is_obsolete =
            |name: &&String| number_of(name, "jsonl").is_some_and(|n| !retained.records.contains(&n));
        names_in(&self.rollouts())?
            .iter()
            .filter(is_obsolete)
            .try_for_each(|name| remove_file(&self.rollouts().join(name)))
    }

    /// New journal of a rollout, in place of that of a rollout without a release.
    pub fn create_journal(&self, number: u32) -> Result<File, Error> {
        self.prepare()?;
        let path = self.journal_path(number);
        create_file(&path).map_err(|e| cannot_write(&path, &e))
    }

    /// Events of a rollout, one a line; `None` if the journal is not kept.
    pub fn events(&self, number: u32) -> Result<Option<Vec<u8>>, UnreadableFile> {
        read_file(&self.journal_path(number))
    }

    pub fn has_events(&self, number: u32) -> bool {
        self.journal_path(number).is_file()
    }

    /// Removes the journal of a rollout that ended before it changed anything.
    pub fn remove_journal(&self, number: u32) -> Result<(), Error> {
        remove_file(&self.journal_path(number))
    }

    fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), Error> {
        let mut text = serde_json::to_vec_pretty(value).map_err(|e| cannot_write(path, &e.into()))?;
        text.push(b'\n');
        self.write_bytes(path, &text)
    }

    fn write_bytes(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        self.prepare()?;
        replace_file(path, bytes).map_err(|e| cannot_write(path, &e))
    }

    fn in_progress_path(&self) -> PathBuf {
        self.folder().join(IN_PROGRESS_FILE)
    }

    fn project_run_path(&self) -> PathBuf {
        self.folder().join(PROJECT_RUN_FILE)
    }

    fn releases(&self) -> PathBuf {
        self.folder().join("releases")
    }

    fn rollouts(&self) -> PathBuf {
        self.folder().join("rollouts")
    }

    fn journal_path(&self, number: u32) -> PathBuf {
        self.rollouts().join(file_name(number, "jsonl"))
    }

    fn path(&self, number: u32, extension: &str) -> PathBuf {
        self.releases().join(file_name(number, extension))
    }
}

/// Projects of a state folder, in order; empty if the folder does not exist.
pub fn projects(state_dir: &Path) -> Result<Vec<String>, Error> {
    let names = names_in(state_dir)?;
    let is_project = |name: &String| is_folder_name(name) && state_dir.join(name).is_dir();
    let mut projects: Vec<String> = names.into_iter().filter(is_project).collect();
    projects.sort_unstable();
    Ok(projects)
}

fn is_folder_name(project: &str) -> bool {
    !project.is_empty() && !project.starts_with(['.', '@']) && !project.contains(['/', '\0'])
}

/// File name such as `0007.json`, so that names sort by number.
fn file_name(number: u32, extension: &str) -> String {
    format!("{number:04}.{extension}")
}

fn number_of(name: &str, extension: &str) -> Option<u32> {
    let number = name.strip_suffix(extension)?.strip_suffix('.')?.parse().ok()?;
    (number <= LAST_NUMBER && file_name(number, extension) == name).then_some(number)
}

/// Number of a record, also after the file was moved away, such as `0007.json.broken`: its images still have the
/// number.
fn record_number(name: &str) -> Option<u32> {
    let (number, _) = name.split_once(".json")?;
    number_of(&format!("{number}.json"), "json")
}

fn temporary(name: &str) -> String {
    format!(".{name}.tmp")
}

fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

/// Names in a folder; empty if the folder does not exist.
fn names_in(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let entries = entries.map_err(|e| cannot_read(folder, &e))?;
    Ok(entries.iter().filter_map(|e| e.file_name().into_string().ok()).collect())
}

/// Replaces a file atomically: a reader sees the old or the new content, also after a power cut.
fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(temporary(&name));
    let written = write_through(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The temporary file may hold secrets. The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_folder(path)
}

fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create_file(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Creates a file with the permissions of its folder; an existing file may have others and is removed.
fn create_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mode = permissions::file_mode(path.parent().unwrap_or(Path::new(".")));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // The umask must not restrict the mode.
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Moves a file to a free name, whatever kind of file it is.
fn set_aside(path: &Path) -> Result<(), Error> {
    let names = (1..).map(|n| PathBuf::from(format!("{}.broken-{n}", path.display())));
    let mut free = names.filter(|name| name.symlink_metadata().is_err());
    let aside = free.next().expect("a free number");
    fs::rename(path, &aside).map_err(|e| cannot_write(path, &e))
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path).and_then(|()| sync_folder(path)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(cannot_write(path, &e)),
        _ => Ok(()),
    }
}

/// Reads a regular file; `None` if no file has that name. Links are not followed, pipes not waited for, and endless
/// files not read to the end.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>, UnreadableFile> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(_) if path.is_symlink() => {
            let nowhere = if path.exists() { "" } else { " to nowhere" };
            return Err(unreadable(
                path,
                format!("it is a symbolic link{nowhere}, and compose-zd creates none"),
            ));
        }
        Err(e) => return Err(unreadable(path, e.to_string())),
    };
    let metadata = file.metadata().map_err(|e| unreadable(path, e.to_string()))?;
    match () {
        _ if metadata.is_dir() => return Err(unreadable(path, "it is a folder".into())),
        _ if !metadata.is_file() => return Err(unreadable(path, "it is no regular file".into())),
        _ if metadata.len() > MAX_SIZE => return Err(unreadable(path, "it is larger than 16 MiB".into())),
        _ => {}
    }
    let mut bytes = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut bytes).map_err(|e| unreadable(path, e.to_string()))?;
    Ok(Some(bytes))
}

/// Checks the format first: a file of a newer version may lack fields of this version.
fn parse<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T, UnreadableFile> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(unreadable(path, "it is empty".into()));
    }
    let value: serde_json::Value =
        serde_json::from_slice(text).map_err(|e| unreadable(path, e.to_string()))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format > u64::from(FORMAT) => Err(newer(path, format)),
        Some(_) => serde_json::from_value(value).map_err(|e| unreadable(path, e.to_string())),
        None => Err(unreadable(path, "it has no `format`".into())),
    }
}

fn unreadable(path: &Path, reason: String) -> UnreadableFile {
    UnreadableFile { path: path.into(), reason, is_newer: false }
}

fn newer(path: &Path, format: u64) -> UnreadableFile {
    let reason = format!("it has the format {format}; this version reads formats up to {FORMAT}");
    UnreadableFile { path: path.into(), reason, is_newer: true }
}

fn cannot_read(path: &Path, error: &io::Error) -> Error {
    Error::unchanged(format!("cannot read `{}`: {error}", path.display())).hint(share_hint(path))
}

fn share_hint(path: &Path) -> String {
    let root = path.ancestors().find(|p| p.ends_with(".compose-zd")).unwrap_or(path);
    let root = shell::path(root);
    format!(
        "run as the user who deployed before, let them share it with a group (`chgrp -R docker {root}; chmod -R g=u {root}; \
         find {root} -type d -exec chmod g+s,o= {{}} +`), or name another folder with `--state-dir`"
    )
}

fn cannot_write(path: &Path, cause: &io::Error) -> Error {
    let error = Error::unchanged(format!("cannot write `{}`: {cause}", path.display()));
    match cause.kind() {
        ErrorKind::IsADirectory => {
            let path = shell::path(path);
            error.hint(format!(
                "a folder has the name of this file; move the folder away: `mv {path} {path}.broken`"
            ))
        }
        ErrorKind::PermissionDenied => error.hint(share_hint(path)),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => error.hint(
            "free space on its disk (`df`, `docker system df`), or name another folder with `--state-dir`",
        ),
        _ => error.hint("make its folder writable for this user, or name another with `--state-dir`"),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod properties;
