//! Puts files in place: each whole or not at all, and nothing where one of them cannot be written.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::NewFile;
use crate::error::Error;

/// What is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileStatus {
    Nothing,
    /// Exactly this file.
    Same,
    Other,
}

/// # Errors
/// Something of that name that cannot be read.
pub fn look(folder: &Path, file: &NewFile) -> Result<FileStatus, Error> {
    let path = folder.join(&file.path);
    let cannot = |e: io::Error| Error::unchanged(format!("cannot read `{}`: {e}", path.display()));
    let found = match fs::symlink_metadata(&path) {
        // What stands where its folder has to be is told when that is made.
        Err(e) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&e.kind()) => {
            return Ok(FileStatus::Nothing);
        }
        found => found.map_err(cannot)?,
    };
    if found.is_symlink() {
        return Ok(FileStatus::Other);
    }
    let same = fs::read(&path).map_err(cannot)? == file.text.as_bytes();
    let runs = !file.executable || found.permissions().mode() & 0o100 != 0;
    Ok(if same && runs { FileStatus::Same } else { FileStatus::Other })
}

/// Writes all of them, each over what is there where that was asked for.
///
/// # Errors
/// A folder or file that cannot be written; nothing of ours is there then, but for what was overwritten before.
pub fn put(folder: &Path, files: &[(&NewFile, FileStatus)]) -> Result<(), Error> {
    let mut undo = NewFilesGuard::default();
    let mut drafts = Vec::new();
    for (file, there) in files {
        let path = folder.join(&file.path);
        let draft = draft(&path, file, &mut undo).map_err(|e| cannot_write(&path, &e))?;
        drafts.push((path, draft, *there));
    }
    for (path, draft, there) in drafts {
        let put = match there {
            FileStatus::Nothing => draft.persist_noclobber(&path).map(|_| undo.files.push(path.clone())),
            _ => draft.persist(&path).map(drop),
        };
        put.map_err(|e| cannot_write(&path, &e.error))?;
    }
    undo.keep();
    Ok(())
}

/// The file under another name beside its own. HAProxy reads its configuration as a user of its own.
fn draft(path: &Path, file: &NewFile, undo: &mut NewFilesGuard) -> io::Result<NamedTempFile> {
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

/// What goes again unless all of it is there.
#[derive(Default)]
struct NewFilesGuard {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl NewFilesGuard {
    fn keep(&mut self) {
        self.files.clear();
        self.folders.clear();
    }
}

impl Drop for NewFilesGuard {
    fn drop(&mut self) {
        self.files.iter().for_each(|file| _ = fs::remove_file(file));
        self.folders.iter().rev().for_each(|folder| _ = fs::remove_dir(folder));
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Error {
    Error::unchanged(format!("cannot write `{}`: {error}; nothing was added", path.display()))
        .hint("run it as the owner of the folder; `--print` shows what would be written")
}
