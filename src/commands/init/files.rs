//! Writes the files: each atomically, and none if one of them cannot be written.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::NewFile;
use crate::error::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileStatus {
    Missing,
    /// The same contents and mode.
    Same,
    Different,
}

/// Compares a file with the one on disk.
///
/// # Errors
/// An unreadable file.
pub fn status_of(folder: &Path, file: &NewFile) -> Result<FileStatus, Error> {
    let path = folder.join(&file.path);
    let cannot = |e: io::Error| Error::unchanged(format!("cannot read `{}`: {e}", path.display()));
    let metadata = match fs::symlink_metadata(&path) {
        // A file in place of the folder is reported when the folder is created.
        Err(e) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&e.kind()) => {
            return Ok(FileStatus::Missing);
        }
        metadata => metadata.map_err(cannot)?,
    };
    if metadata.is_symlink() {
        return Ok(FileStatus::Different);
    }
    let is_same = fs::read(&path).map_err(cannot)? == file.text.as_bytes();
    let has_mode = !file.executable || metadata.permissions().mode() & 0o100 != 0;
    Ok(if is_same && has_mode { FileStatus::Same } else { FileStatus::Different })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAction {
    New,
    Overwritten,
    Unchanged,
    Kept,
}

impl FileAction {
    pub fn label(self) -> &'static str {
        match self {
            FileAction::New => "new",
            FileAction::Overwritten => "overwritten",
            FileAction::Unchanged => "unchanged",
            FileAction::Kept => "kept",
        }
    }
}

/// Writes the new files, and overwrites existing ones.
///
/// # Errors
/// A folder or file that cannot be written. All new files are removed then; overwritten ones stay.
pub fn write_all(folder: &Path, files: &[(&NewFile, FileAction)]) -> Result<(), Error> {
    let mut undo = NewFilesGuard::default();
    let mut drafts = Vec::new();
    let is_written = |action: &FileAction| [FileAction::New, FileAction::Overwritten].contains(action);
    for (file, action) in files.iter().filter(|(_, action)| is_written(action)) {
        let path = folder.join(&file.path);
        let draft = write_draft(&path, file, &mut undo).map_err(|e| cannot_write(&path, &e))?;
        drafts.push((path, draft, *action));
    }
    for (path, draft, action) in drafts {
        let written = match action {
            FileAction::New => draft.persist_noclobber(&path).map(|_| undo.files.push(path.clone())),
            _ => draft.persist(&path).map(drop),
        };
        written.map_err(|e| cannot_write(&path, &e.error))?;
    }
    undo.files.clear();
    undo.folders.clear();
    Ok(())
}

/// Writes the file under a temporary name. It is readable for all, because HAProxy runs as another user.
fn write_draft(path: &Path, file: &NewFile, undo: &mut NewFilesGuard) -> io::Result<NamedTempFile> {
    let folder = path.parent().expect("a file has a folder");
    if !folder.is_dir() {
        fs::create_dir(folder)?;
        undo.folders.push(folder.into());
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    }
    let mut draft = NamedTempFile::new_in(folder)?;
    draft.write_all(file.text.as_bytes())?;
    let mode = if file.executable { 0o755 } else { 0o644 };
    draft.as_file().set_permissions(Permissions::from_mode(mode))?;
    draft.as_file().sync_all()?;
    Ok(draft)
}

/// Removes new files and folders on drop.
#[derive(Default)]
struct NewFilesGuard {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Drop for NewFilesGuard {
    fn drop(&mut self) {
        self.files.iter().for_each(|file| _ = fs::remove_file(file));
        self.folders.iter().rev().for_each(|folder| _ = fs::remove_dir(folder));
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Error {
    Error::unchanged(format!("cannot write `{}`: {error}; nothing was added", path.display()))
        .hint("run it as the owner of the folder, or print the files with `--print`")
}
