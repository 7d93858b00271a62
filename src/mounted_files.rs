//! Files that a container has as mounts or inline configs. Compose compares only their paths: a change of their text needs
//! a replacement of an app, and a reload of a proxy.

mod read;

use std::fmt;
use std::time::UNIX_EPOCH;

use anyhow::Result;

use crate::docker::Docker;
use crate::docker::inspect::{BindMount, Container};
use crate::proxy::{Proxy, ProxyFiles, ReadBy, file_reload};
use read::{OnDisk, RunningFiles};

/// Change of a file that Compose does not see.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileChange {
    /// Path in the container.
    pub path: String,
    /// Path on the engine's machine; `None` for an inline config.
    pub source: Option<String>,
    pub kind: ChangeKind,
}

/// Kind of a change, the one that asks for most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// The path leads to another file now. The container keeps the one from before until it is recreated: most editors,
    /// `git` and `sed -i` write a new file.
    Replaced,
    /// The path leads to nothing. Docker would create a folder there for a new container.
    Missing,
    /// The text of an inline config is another one in the Compose file.
    Text,
    /// Written in place after the container read it.
    Edited,
}

impl fmt::Display for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.source.as_ref().unwrap_or(&self.path);
        match self.kind {
            ChangeKind::Edited => write!(f, "`{path}` was edited after the container read it"),
            ChangeKind::Replaced => {
                write!(f, "`{path}` is another file now, and the container still has the one from before")
            }
            ChangeKind::Missing => write!(f, "`{path}` is gone, and the container still has it"),
            ChangeKind::Text => write!(f, "the config at `{path}` has another text in the Compose file"),
        }
    }
}

impl FileChange {
    fn of_mount(mount: &BindMount, kind: ChangeKind) -> FileChange {
        FileChange { path: mount.destination.into(), source: Some(mount.source.into()), kind }
    }
}

/// Changed files of some containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileReport {
    pub changes: Vec<FileChange>,
    /// Files that were not compared, each with the reason.
    pub notes: Vec<String>,
}

/// Way in which a proxy gets its changed files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyWay {
    /// The proxy has noticed them already.
    Watched,
    Reload,
    /// Only a new container has them, for this reason.
    Recreate(String),
}

/// Changed files of an instance. `inline` has the path and text of each inline config.
///
/// # Errors
/// The engine does not answer.
pub fn of_instance(docker: &Docker, instance: &Container, inline: &[(String, String)]) -> Result<FileReport> {
    if !instance.is_running() {
        return Ok(FileReport::default());
    }
    changes_in(docker, instance, inline, &ProxyFiles::default(), started(instance))
}

/// Changed files of a running proxy, and the way in which it gets them; `None` without a change.
///
/// # Errors
/// The engine does not answer.
pub fn of_proxy(
    docker: &Docker,
    proxy: &dyn Proxy,
    inline: &[(String, String)],
) -> Result<(FileReport, Option<ProxyWay>)> {
    let Some(container) = proxy.container().filter(|c| c.is_running()) else { return Ok(Default::default()) };
    let files = proxy.files();
    let started = started(container);
    // A file that is older than the container is older than each reload.
    let mut report = changes_in(docker, container, inline, &files, started)?;
    if report.changes.is_empty() {
        return Ok((report, None));
    }
    let mut obstacle = None;
    if let Some(reload) = &files.reload {
        let state = file_reload::state(docker, reload)?;
        let read_at = state.read_at().map_or(started, |read_at| read_at.max(started));
        report = changes_in(docker, container, inline, &files, read_at)?;
        obstacle = state.obstacle;
    }
    let way = way(&files, &report.changes, obstacle.as_deref());
    Ok((report, way))
}

/// Rules, in this order: without a change there is no way. A file that the container does not have, or that it reads
/// only at its start, needs a new container. A watched file needs nothing. All others need a reload.
fn way(files: &ProxyFiles, changes: &[FileChange], obstacle: Option<&str>) -> Option<ProxyWay> {
    let recreate = |why: String| Some(ProxyWay::Recreate(why));
    let read_by = |change: &FileChange| files.read_by(&change.path);
    if let Some(change) = changes.iter().find(|change| change.kind != ChangeKind::Edited) {
        return recreate(change.to_string());
    }
    if let Some(change) = changes.iter().find(|change| read_by(change) == ReadBy::Start) {
        return recreate(format!("{change}, and it reads this file only when it starts"));
    }
    let reloaded = changes.iter().find(|change| read_by(change) == ReadBy::Reload);
    match (reloaded, obstacle) {
        (None, _) => (!changes.is_empty()).then_some(ProxyWay::Watched),
        (Some(change), Some(obstacle)) => recreate(format!("{change}, and {obstacle}")),
        (Some(_), None) => Some(ProxyWay::Reload),
    }
}

impl FileReport {
    /// True if a new container would have an empty folder in place of a file.
    pub fn has_missing_file(&self) -> bool {
        self.changes.iter().any(|change| change.kind == ChangeKind::Missing)
    }

    /// Adds the report of another container, each file once.
    pub fn add(&mut self, other: FileReport) {
        self.changes.extend(other.changes);
        self.changes.sort();
        self.changes.dedup_by(|a, b| a.path == b.path);
        self.notes.extend(other.notes);
        self.notes.dedup();
    }
}

/// Files that the machine itself changes, and that no user edits for a service.
const SYSTEM_FILES: [&str; 12] = [
    "/dev",
    "/etc/group",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/localtime",
    "/etc/machine-id",
    "/etc/passwd",
    "/etc/resolv.conf",
    "/etc/timezone",
    "/proc",
    "/sys",
    "/usr/share/zoneinfo",
];

fn is_system_file(source: &str) -> bool {
    SYSTEM_FILES.iter().any(|path| std::path::Path::new(source).starts_with(path))
}

fn started(container: &Container) -> f64 {
    let started = container.started().and_then(|started| started.duration_since(UNIX_EPOCH).ok());
    started.map_or(f64::MAX, |started| started.as_secs_f64())
}

/// Changes of a container's files since `read_at`, in seconds since 1970.
fn changes_in(
    docker: &Docker,
    container: &Container,
    inline: &[(String, String)],
    proxy_files: &ProxyFiles,
    read_at: f64,
) -> Result<FileReport> {
    let mounts: Vec<BindMount> = container.bind_mounts().filter(|m| !is_system_file(m.source)).collect();
    let inline: Vec<&(String, String)> =
        inline.iter().filter(|(path, _)| !container.has_mount(path)).collect();
    if mounts.is_empty() && inline.is_empty() {
        return Ok(FileReport::default());
    }
    let paths =
        mounts.iter().map(|mount| mount.destination).chain(inline.iter().map(|(path, _)| path.as_str()));
    let folders =
        mounts.iter().map(|mount| mount.destination).filter(|path| proxy_files.is_read_folder(path));
    let (paths, folders) =
        (paths.map(String::from).collect::<Vec<_>>(), folders.map(String::from).collect::<Vec<_>>());
    let Some(running) = RunningFiles::read(docker, container, &paths, &folders)? else {
        let reason = format!("the files of {} were not compared: its image has no shell", container.name());
        return Ok(FileReport { changes: Vec::new(), notes: vec![reason] });
    };
    let is_remote = docker.is_remote();
    let mut report = FileReport::default();
    for mount in &mounts {
        let on_disk = if is_remote { OnDisk::Unknown } else { OnDisk::read(mount.source) };
        match change_of(mount, &running, &on_disk, read_at) {
            Some(ChangeKind::Edited) if mount.is_writable && !proxy_files.is_named(mount.destination) => {
                report.notes.push(maybe_its_own(container, mount));
            }
            kind => report.changes.extend(kind.map(|kind| FileChange::of_mount(mount, kind))),
        }
    }
    let of_folders = running.entries.iter().filter(|(_, modified)| *modified > read_at).map(|(path, _)| {
        FileChange { path: path.clone(), source: source_of(&mounts, path), kind: ChangeKind::Edited }
    });
    let of_inline = inline
        .iter()
        .filter(|(path, text)| running.files.get(path).is_some_and(|reading| !reading.has_text(text)));
    let of_inline =
        of_inline.map(|(path, _)| FileChange { path: path.clone(), source: None, kind: ChangeKind::Text });
    report.add(FileReport { changes: of_folders.chain(of_inline).collect(), notes: Vec::new() });
    Ok(report)
}

/// Note about a file that the container itself may have written.
fn maybe_its_own(container: &Container, mount: &BindMount) -> String {
    format!(
        "`{}` was written after {} started, maybe by the container itself; mount it with `:ro`, and an edit counts",
        mount.source,
        container.name()
    )
}

/// Path on the engine's machine of a file in a mounted folder.
fn source_of(mounts: &[BindMount], path: &str) -> Option<String> {
    let inside = |mount: &&BindMount| std::path::Path::new(path).starts_with(mount.destination);
    let mount = mounts.iter().filter(inside).max_by_key(|mount| mount.destination.len())?;
    Some(format!(
        "{}{}",
        mount.source.trim_end_matches('/'),
        &path[mount.destination.trim_end_matches('/').len()..]
    ))
}

/// Change of a mounted file. Rules, in this order:
/// 1. A mount that is no regular file in the container is not compared.
/// 2. Another text on the machine: the path leads to another file now, or to none.
/// 3. The same text: edited if it is newer than `read_at`.
/// 4. A machine whose files are not visible: its kernel tells whether the path still leads to the container's file.
fn change_of(
    mount: &BindMount,
    running: &RunningFiles,
    on_disk: &OnDisk,
    read_at: f64,
) -> Option<ChangeKind> {
    let reading = running.files.get(mount.destination)?;
    let edited = || (reading.modified > read_at).then_some(ChangeKind::Edited);
    let is_elsewhere =
        || running.roots.get(mount.destination).is_some_and(|root| leads_elsewhere(root, mount.source));
    match on_disk {
        OnDisk::Found(now) if now.is_same(reading) => edited(),
        OnDisk::Found(_) => Some(ChangeKind::Replaced),
        OnDisk::Missing => Some(ChangeKind::Missing),
        OnDisk::Unknown if is_elsewhere() => Some(ChangeKind::Replaced),
        OnDisk::Unknown => edited(),
    }
}

/// True if the kernel has another path for the file of a mount, or none. Its path starts at the root of its file system,
/// which may be any part of the machine's.
fn leads_elsewhere(root: &str, source: &str) -> bool {
    root.ends_with("//deleted") || root.rsplit('/').next() != source.rsplit('/').next()
}

/// True if the new text of a changed file has one of these names as a whole word: such a file is of use only once these
/// services run.
pub fn mentions(changes: &[FileChange], names: &[String]) -> bool {
    let text = |change: &FileChange| std::fs::read_to_string(change.source.as_ref()?).ok();
    changes.iter().filter_map(text).any(|text| names.iter().any(|name| has_word(&text, name)))
}

fn has_word(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    text.match_indices(name)
        .any(|(at, _)| !text[..at].ends_with(is_part) && !text[at + name.len()..].starts_with(is_part))
}

#[cfg(test)]
mod tests;
