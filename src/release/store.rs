//! The state folder: every file of it is read and written here, and none is ever half written.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{FORMAT, History, Kept, Record, Wanted};
use crate::fault::Fault;

/// The state of one project: `STATE_DIR/PROJECT/`, for two projects may come from one file.
#[derive(Debug, Clone)]
pub struct Store {
    state_dir: PathBuf,
    project: String,
}

impl Store {
    /// Touches nothing yet.
    ///
    /// # Errors
    /// A name that is no folder of its own below the state folder.
    pub fn new(state_dir: &Path, project: &str) -> Result<Store, Fault> {
        match is_folder_name(project) {
            true => Ok(Store { state_dir: state_dir.into(), project: project.into() }),
            false => Err(Fault::usage(format!("`{project}` cannot be the name of a project"))
                .hint("name it with `--project-name`: lower case letters, digits, `_` and `-`")),
        }
    }

    /// Where everything of this project is.
    pub fn folder(&self) -> PathBuf {
        self.state_dir.join(&self.project)
    }

    /// Makes the folders, for their owner alone. One that we make is not for git: it holds secrets.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn prepare(&self) -> Result<(), Fault> {
        self.make(&self.state_dir)?;
        if self.is_empty() {
            let ignored = self.state_dir.join(".gitignore");
            replace(&ignored, b"*\n").map_err(|e| cannot_write(&ignored, &e))?;
        }
        self.make(&self.releases())
    }

    fn make(&self, folder: &Path) -> Result<(), Fault> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|e| cannot_write(folder, &e))
    }

    /// A folder that holds other things may be the user's working copy, where a `.gitignore` would hide their files.
    fn is_empty(&self) -> bool {
        fs::read_dir(&self.state_dir).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// Every record.
    ///
    /// # Errors
    /// A record that cannot be read as one of ours; the error names its file.
    pub fn history(&self) -> Result<History, Fault> {
        let names = names_in(&self.releases())?;
        let numbers = names.iter().filter_map(|name| number_of(name, "json"));
        let records: Result<Vec<Record>, Fault> = numbers.map(|n| self.record(n)).collect();
        records.map(History::new)
    }

    fn record(&self, number: u32) -> Result<Record, Fault> {
        let path = self.path(number, "json");
        let text = fs::read(&path).map_err(|e| cannot_read(&path, &e))?;
        let record: Record = parse(&path, &text)?;
        match () {
            _ if record.project != self.project => {
                Err(broken(&path, format!("it is of the project `{}`", record.project)))
            }
            _ if record.number != number => Err(broken(&path, format!("it is release {}", record.number))),
            _ => Ok(record),
        }
    }

    /// The resolved configuration of a release. It holds secrets: it is neither logged nor shown.
    ///
    /// # Errors
    /// A configuration that is not kept, or cannot be read.
    pub fn config(&self, number: u32) -> Result<String, Fault> {
        let path = self.config_path(number);
        fs::read_to_string(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                Fault::unchanged(format!("the configuration of release {number} is not kept"))
                    .seen(&format!("no file `{}`", path.display()))
                    .hint("see with `compose-zd history` which releases can be gone back to")
            }
            _ => cannot_read(&path, &e),
        })
    }

    pub fn config_path(&self, number: u32) -> PathBuf {
        self.path(number, "yml")
    }

    /// # Errors
    /// A folder that cannot be written.
    pub fn write(&self, record: &Record) -> Result<(), Fault> {
        self.write_json(&self.path(record.number, "json"), record)
    }

    /// Before its record: a record without a configuration is a release that nothing can go back to.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn write_config(&self, number: u32, yaml: &str) -> Result<(), Fault> {
        self.write_bytes(&self.config_path(number), yaml.as_bytes())
    }

    /// Removes the configuration of a release that nothing began to put in place.
    ///
    /// # Errors
    /// As [`Store::wanted`]; a folder that cannot be written.
    pub fn remove_draft(&self, number: u32) -> Result<(), Fault> {
        let begun = self.wanted()?.is_some_and(|wanted| wanted.number == number);
        match begun || self.path(number, "json").exists() {
            true => Ok(()),
            false => remove(&self.config_path(number)),
        }
    }

    /// What a rollout that has not ended heads for.
    ///
    /// # Errors
    /// As [`Store::history`].
    pub fn wanted(&self) -> Result<Option<Wanted>, Fault> {
        let path = self.wanted_path();
        match fs::read(&path) {
            Ok(text) => parse(&path, &text).map(Some),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(cannot_read(&path, &e)),
        }
    }

    /// # Errors
    /// A folder that cannot be written.
    pub fn set_wanted(&self, wanted: &Wanted) -> Result<(), Fault> {
        self.write_json(&self.wanted_path(), wanted)
    }

    /// The rollout has ended; it may have been cleared before.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn clear_wanted(&self) -> Result<(), Fault> {
        remove(&self.wanted_path())
    }

    /// Removes what is not kept, and what a write that was cut short left behind.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn prune(&self, kept: &Kept) -> Result<(), Fault> {
        let folder = self.releases();
        let stays = |name: &String| {
            let config = number_of(name, "yml").is_none_or(|n| kept.configs.contains(&n));
            let record = number_of(name, "json").is_none_or(|n| kept.records.contains(&n));
            config && record && !is_temporary(name)
        };
        let names = names_in(&folder)?;
        names.iter().filter(|name| !stays(name)).try_for_each(|name| remove(&folder.join(name)))
    }

    fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), Fault> {
        let mut text = serde_json::to_vec_pretty(value).map_err(|e| cannot_write(path, &e.into()))?;
        text.push(b'\n');
        self.write_bytes(path, &text)
    }

    fn write_bytes(&self, path: &Path, bytes: &[u8]) -> Result<(), Fault> {
        self.prepare()?;
        replace(path, bytes).map_err(|e| cannot_write(path, &e))
    }

    fn wanted_path(&self) -> PathBuf {
        self.folder().join("wanted.json")
    }

    fn releases(&self) -> PathBuf {
        self.folder().join("releases")
    }

    fn path(&self, number: u32, extension: &str) -> PathBuf {
        self.releases().join(file_name(number, extension))
    }
}

/// The projects that a state folder knows, in order; none when there is no such folder.
///
/// # Errors
/// A folder that cannot be read.
pub fn projects(state_dir: &Path) -> Result<Vec<String>, Fault> {
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
    (file_name(number, extension) == name).then_some(number)
}

fn temporary(name: &str) -> String {
    format!(".{name}.tmp")
}

fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

/// The names in a folder; a missing one has none.
fn names_in(folder: &Path) -> Result<Vec<String>, Fault> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let entries = entries.map_err(|e| cannot_read(folder, &e))?;
    Ok(entries.iter().filter_map(|e| e.file_name().into_string().ok()).collect())
}

/// Whoever reads the file sees the old or the new content, and after a power cut too. It is for its owner alone.
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
    // One that was left behind may have other permissions.
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn remove(path: &Path) -> Result<(), Fault> {
    match fs::remove_file(path).and_then(|()| sync_folder(path)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(cannot_write(path, &e)),
        _ => Ok(()),
    }
}

/// The format comes first: what a newer version wrote may not even have our fields.
fn parse<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T, Fault> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(broken(path, "it is empty".into()));
    }
    let value: serde_json::Value = serde_json::from_slice(text).map_err(|e| broken(path, e.to_string()))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format > u64::from(FORMAT) => Err(newer(path, format)),
        Some(_) => serde_json::from_value(value).map_err(|e| broken(path, e.to_string())),
        None => Err(broken(path, "it has no `format`".into())),
    }
}

fn broken(path: &Path, why: String) -> Fault {
    let path = path.display();
    Fault::unchanged(format!("`{path}` cannot be used"))
        .seen(&why)
        .hint(format!("move it away, and the rest is used without it: `mv {path} {path}.broken`"))
}

fn newer(path: &Path, format: u64) -> Fault {
    let path = path.display();
    let message = format!("`{path}` has the format {format}; this version knows those up to {FORMAT}");
    Fault::unchanged(message)
        .hint(format!("use the newer compose-zd that wrote it, or move it away: `mv {path} {path}.newer`"))
}

fn cannot_read(path: &Path, error: &io::Error) -> Fault {
    Fault::unchanged(format!("cannot read `{}`: {error}", path.display()))
        .hint("run as the user who deployed before, or name another folder with `--state-dir`")
}

fn cannot_write(path: &Path, error: &io::Error) -> Fault {
    Fault::unchanged(format!("cannot write `{}`: {error}", path.display()))
        .hint("make its folder writable for this user, or name another with `--state-dir`")
}

#[cfg(test)]
#[path = "store/tests.rs"]
mod tests;

#[cfg(test)]
#[path = "store/properties.rs"]
mod properties;
