//! The state folder: every file of it is read and written here, and none is ever half written.

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

use super::engine_folder::{EngineId, MARK};
use super::{FORMAT, InProgress, ReleaseHistory, ReleaseRecord, Retention, UnreadableFile};
use crate::error::Error;
use crate::shell;

/// A release's file is a few kilobytes; what is larger than this is no file of ours, and is not read into memory.
const LARGEST: u64 = 16 << 20;

/// No rollout gets as far; a file with a higher number is not ours, and would leave no number for the next one.
const LAST_NUMBER: u32 = 999_999_999;

/// The file in a project's folder with the id of its history.
const ID: &str = "history-id";

/// Hexadecimal digits of that id.
const ID_LENGTH: usize = 8;

/// The state of one project: `STATE_DIR/PROJECT/`, for two projects may come from one file.
#[derive(Debug, Clone)]
pub struct Store {
    state_dir: PathBuf,
    project: String,
    /// Whose releases they are, where that is known.
    engine: Option<EngineId>,
}

impl Store {
    /// Touches nothing yet.
    ///
    /// # Errors
    /// A name that is no folder of its own below the state folder.
    pub fn new(state_dir: &Path, project: &str) -> Result<Store, Error> {
        match is_folder_name(project) {
            true => Ok(Store { state_dir: state_dir.into(), project: project.into(), engine: None }),
            false => Err(Error::usage(format!("`{project}` cannot be the name of a project"))
                .hint("name it with `--project-name`: lower case letters, digits, `_` and `-`")),
        }
    }

    /// The same, of an engine that the folder is going to name.
    pub fn of_engine(self, engine: Option<EngineId>) -> Store {
        Store { engine, ..self }
    }

    /// The folder names an engine.
    pub fn is_marked(&self) -> bool {
        self.folder().join(MARK).exists()
    }

    /// Where everything of this project is.
    pub fn folder(&self) -> PathBuf {
        self.state_dir.join(&self.project)
    }

    /// Id of the history that the folder has; the same for a folder that was moved, and another one for each checkout.
    pub fn id(&self) -> String {
        let kept = fs::read_to_string(self.folder().join(ID)).unwrap_or_default();
        match kept.trim() {
            id if id.len() == ID_LENGTH && id.bytes().all(|b| b.is_ascii_hexdigit()) => id.to_lowercase(),
            _ => self.new_id(),
        }
    }

    /// Of the place of the folder: checkouts that keep no state and come back at the same place are one.
    fn new_id(&self) -> String {
        let folder = std::path::absolute(self.folder()).unwrap_or_else(|_| self.folder());
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let digest = Sha256::digest(format!("{}:{}", host.trim(), folder.display()));
        digest.iter().take(ID_LENGTH / 2).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Makes the folders, for their owner alone. One that we make is not for git: it holds secrets.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn prepare(&self) -> Result<(), Error> {
        permissions::make(&self.state_dir, permissions::is_ours(&self.state_dir))?;
        if self.is_empty() {
            let ignored = self.state_dir.join(".gitignore");
            replace(&ignored, b"*\n").map_err(|e| cannot_write(&ignored, &e))?;
        }
        permissions::make(&self.folder(), true)?;
        permissions::make(&self.releases(), true)?;
        permissions::make(&self.rollouts(), true)?;
        let id = self.folder().join(ID);
        if !id.exists() {
            replace(&id, self.id().as_bytes()).map_err(|e| cannot_write(&id, &e))?;
        }
        let mark = self.folder().join(MARK);
        match self.engine.as_ref().filter(|_| !mark.exists()) {
            Some(engine) => {
                let text = serde_json::to_vec_pretty(engine).map_err(|e| cannot_write(&mark, &e.into()))?;
                replace(&mark, &text).map_err(|e| cannot_write(&mark, &e))
            }
            None => Ok(()),
        }
    }

    /// Refuses a folder or file in which somebody else than root and the owner of the project has a hand, where root is
    /// about to trust it.
    ///
    /// # Errors
    /// A link or a stranger's file, by its path and with what to do.
    fn guard(&self) -> Result<(), Error> {
        match rustix::process::geteuid().is_root() {
            true => permissions::guard(&self.state_dir, &[self.folder(), self.releases(), self.rollouts()]),
            false => Ok(()),
        }
    }

    /// A folder that holds other things may be the user's working copy, where a `.gitignore` would hide their files.
    fn is_empty(&self) -> bool {
        fs::read_dir(&self.state_dir).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// Every record, those that cannot be read too.
    ///
    /// # Errors
    /// A folder that cannot be read, or that is not to be trusted; the error names it.
    pub fn history(&self) -> Result<ReleaseHistory, Error> {
        self.guard()?;
        let names = names_in(&self.releases())?;
        let (mut records, mut damaged) = (Vec::new(), BTreeMap::new());
        for number in names.iter().filter_map(|name| number_of(name, "json")) {
            match self.record(number) {
                Ok(record) => records.extend(record),
                Err(damage) => _ = damaged.insert(number, damage),
            }
        }
        // A configuration alone is a draft, whose number is free; unless a rollout may have begun with it.
        let drafts = names.iter().filter_map(|n| number_of(n, "yml")).filter(|_| self.wanted().is_err());
        let taken = names.iter().filter_map(|name| number_taken(name)).chain(drafts).max().unwrap_or(0);
        Ok(ReleaseHistory::with(records, damaged, taken))
    }

    /// None where it has just been removed.
    fn record(&self, number: u32) -> Result<Option<ReleaseRecord>, UnreadableFile> {
        let path = self.path(number, "json");
        let Some(text) = read(&path)? else { return Ok(None) };
        let record: ReleaseRecord = parse(&path, &text)?;
        match () {
            _ if record.project != self.project => {
                Err(damage(&path, format!("it is of the project `{}`", record.project)))
            }
            _ if record.number != number => Err(damage(&path, format!("it is release {}", record.number))),
            _ => Ok(Some(record)),
        }
    }

    /// The resolved configuration of a release. It holds secrets: it is neither logged nor shown.
    ///
    /// # Errors
    /// A configuration that is not kept, or cannot be read.
    pub fn config(&self, number: u32) -> Result<String, Error> {
        let path = self.config_path(number);
        let text = read(&path).map_err(|damage| Error::from(&damage))?.ok_or_else(|| {
            Error::unchanged(format!("the configuration of release {number} is not kept"))
                .seen(&format!("no file `{}`", path.display()))
                .hint("see with `compose-zd history` which releases can be gone back to, and name one with `--to`")
        })?;
        String::from_utf8(text).map_err(|_| Error::from(&damage(&path, "it is not UTF-8".into())))
    }

    pub fn config_path(&self, number: u32) -> PathBuf {
        self.path(number, "yml")
    }

    /// # Errors
    /// A folder that cannot be written.
    pub fn write(&self, record: &ReleaseRecord) -> Result<(), Error> {
        self.write_json(&self.path(record.number, "json"), record)
    }

    /// Before its record: a record without a configuration is a release that nothing can go back to.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn write_config(&self, number: u32, yaml: &str) -> Result<(), Error> {
        self.write_bytes(&self.config_path(number), yaml.as_bytes())
    }

    /// Removes the configuration of a release that nothing began to put in place.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn remove_draft(&self, number: u32) -> Result<(), Error> {
        // One that cannot be read may have begun with it.
        let begun = self.wanted().map_or(true, |wanted| wanted.is_some_and(|w| w.number == number));
        match begun || self.path(number, "json").exists() {
            true => Ok(()),
            false => remove(&self.config_path(number)),
        }
    }

    /// What a rollout that has not ended heads for.
    ///
    /// # Errors
    /// A file that is there and cannot be read as one of ours.
    pub fn wanted(&self) -> Result<Option<InProgress>, UnreadableFile> {
        let path = self.wanted_path();
        read(&path)?.map(|text| parse(&path, &text)).transpose()
    }

    /// Moves a `wanted.json` that cannot be read out of the way, whatever it is, under a name that nothing has.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn set_wanted_aside(&self) -> Result<(), Error> {
        let path = self.wanted_path();
        let names = (1..).map(|n| self.folder().join(format!("wanted.json.broken-{n}")));
        let mut free = names.filter(|name| name.symlink_metadata().is_err());
        let aside = free.next().expect("there is a number more than files");
        fs::rename(&path, &aside).map_err(|e| cannot_write(&path, &e))
    }

    /// # Errors
    /// A folder that cannot be written.
    pub fn set_wanted(&self, wanted: &InProgress) -> Result<(), Error> {
        self.write_json(&self.wanted_path(), wanted)
    }

    /// The rollout has ended; it may have been cleared before.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn clear_wanted(&self) -> Result<(), Error> {
        remove(&self.wanted_path())
    }

    /// Removes what is not kept, and what a write that was cut short left behind.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn prune(&self, kept: &Retention) -> Result<(), Error> {
        let folder = self.releases();
        let stays = |name: &String| {
            let config = number_of(name, "yml").is_none_or(|n| kept.configs.contains(&n));
            let record = number_of(name, "json").is_none_or(|n| kept.records.contains(&n));
            config && record && !is_temporary(name)
        };
        let names = names_in(&folder)?;
        names.iter().filter(|name| !stays(name)).try_for_each(|name| remove(&folder.join(name)))?;
        let old = |name: &&String| number_of(name, "jsonl").is_some_and(|n| !kept.records.contains(&n));
        names_in(&self.rollouts())?
            .iter()
            .filter(old)
            .try_for_each(|name| remove(&self.rollouts().join(name)))
    }

    /// A new journal of a rollout, in place of one that led to no release.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn journal(&self, number: u32) -> Result<File, Error> {
        self.prepare()?;
        let path = self.journal_path(number);
        create(&path).map_err(|e| cannot_write(&path, &e))
    }

    /// What happened in a rollout, a line an event; none where it is not kept.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    pub fn events(&self, number: u32) -> Result<Option<Vec<u8>>, UnreadableFile> {
        read(&self.journal_path(number))
    }

    pub fn has_events(&self, number: u32) -> bool {
        self.journal_path(number).is_file()
    }

    /// Of a rollout that ended before it changed anything.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn remove_journal(&self, number: u32) -> Result<(), Error> {
        remove(&self.journal_path(number))
    }

    fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), Error> {
        let mut text = serde_json::to_vec_pretty(value).map_err(|e| cannot_write(path, &e.into()))?;
        text.push(b'\n');
        self.write_bytes(path, &text)
    }

    fn write_bytes(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        self.prepare()?;
        replace(path, bytes).map_err(|e| cannot_write(path, &e))
    }

    fn wanted_path(&self) -> PathBuf {
        self.folder().join("wanted.json")
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

/// The projects that a state folder knows, in order; none when there is no such folder.
///
/// # Errors
/// A folder that cannot be read.
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

/// `0007.json`, so that a listing is in order.
fn file_name(number: u32, extension: &str) -> String {
    format!("{number:04}.{extension}")
}

fn number_of(name: &str, extension: &str) -> Option<u32> {
    let number = name.strip_suffix(extension)?.strip_suffix('.')?.parse().ok()?;
    (number <= LAST_NUMBER && file_name(number, extension) == name).then_some(number)
}

/// The number of a record, also of one that was moved away, as `0007.json.broken`: its images still have the number.
fn number_taken(name: &str) -> Option<u32> {
    let (number, _) = name.split_once(".json")?;
    number_of(&format!("{number}.json"), "json")
}

fn temporary(name: &str) -> String {
    format!(".{name}.tmp")
}

fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

/// The names in a folder; a missing one has none.
fn names_in(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let entries = entries.map_err(|e| cannot_read(folder, &e))?;
    Ok(entries.iter().filter_map(|e| e.file_name().into_string().ok()).collect())
}

/// Replaces a file at once: a reader sees the old or the new content, also after a power cut.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(temporary(&name));
    let written = write_through(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // It may hold secrets; the error that counts is the first.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_folder(path)
}

fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A new file with the permissions of its folder; one that was left behind may have others.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mode = permissions::file_mode(path.parent().unwrap_or(Path::new(".")));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // Whatever the umask takes away.
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path).and_then(|()| sync_folder(path)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(cannot_write(path, &e)),
        _ => Ok(()),
    }
}

/// A regular file of ours as it is; none where there is none. What else may have its name is not followed, waited for or
/// read without end.
fn read(path: &Path) -> Result<Option<Vec<u8>>, UnreadableFile> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(_) if path.is_symlink() => {
            let nowhere = if path.exists() { "" } else { " to nowhere" };
            return Err(damage(path, format!("it is a symbolic link{nowhere}, which is never ours")));
        }
        Err(e) => return Err(damage(path, e.to_string())),
    };
    let about = file.metadata().map_err(|e| damage(path, e.to_string()))?;
    match () {
        _ if about.is_dir() => return Err(damage(path, "it is a folder".into())),
        _ if !about.is_file() => return Err(damage(path, "it is no regular file".into())),
        _ if about.len() > LARGEST => return Err(damage(path, "it is larger than 16 MiB".into())),
        _ => {}
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).map_err(|e| damage(path, e.to_string()))?;
    Ok(Some(bytes))
}

/// The format comes first: what a newer version wrote may not even have our fields.
fn parse<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T, UnreadableFile> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(damage(path, "it is empty".into()));
    }
    let value: serde_json::Value = serde_json::from_slice(text).map_err(|e| damage(path, e.to_string()))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format > u64::from(FORMAT) => Err(newer(path, format)),
        Some(_) => serde_json::from_value(value).map_err(|e| damage(path, e.to_string())),
        None => Err(damage(path, "it has no `format`".into())),
    }
}

fn damage(path: &Path, why: String) -> UnreadableFile {
    UnreadableFile { path: path.into(), why, newer: false }
}

fn newer(path: &Path, format: u64) -> UnreadableFile {
    let why = format!("it has the format {format}; this version knows those up to {FORMAT}");
    UnreadableFile { path: path.into(), why, newer: true }
}

fn cannot_read(path: &Path, error: &io::Error) -> Error {
    Error::unchanged(format!("cannot read `{}`: {error}", path.display())).hint(of_another_user(path))
}

fn of_another_user(path: &Path) -> String {
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
                "a folder is in the place of this file; move it away: `mv {path} {path}.broken`"
            ))
        }
        ErrorKind::PermissionDenied => error.hint(of_another_user(path)),
        _ => error.hint("make its folder writable for this user, or name another with `--state-dir`"),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod properties;
