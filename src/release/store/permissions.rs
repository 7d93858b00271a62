//! Permissions of the state folder. Only its owner can use the folder, or also a group that the owner shares it
//! with. Root uses no files of other users.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{cannot_write, names_in};
use crate::error::Error;
use crate::shell;

/// True for a folder that only compose-zd uses. A folder named with `--state-dir` may be the user's own and keeps its
/// permissions; secrets are in folders below it, which only compose-zd uses.
pub fn is_own_folder(state_dir: &Path) -> bool {
    let name = state_dir.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(".compose-zd") || name.starts_with('@')
}

/// True if the owner shares the folder with its group: `g=u`, the setgid bit, and nothing for others.
fn is_shared(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|metadata| metadata.is_dir() && metadata.mode() & 0o2077 == 0o2070)
}

/// Mode of a new file in a folder.
pub fn file_mode(folder: &Path) -> u32 {
    if is_shared(folder) { 0o660 } else { 0o600 }
}

/// Creates a folder for its owner alone, or for the group of a shared parent, whatever the umask. An existing
/// folder of ours that others can enter is restricted.
///
/// # Errors
/// The folder cannot be created, or only its owner can restrict it.
pub fn create_folder(folder: &Path, is_own: bool) -> Result<(), Error> {
    let is_open = match fs::metadata(folder) {
        Ok(metadata) => is_own && metadata.is_dir() && metadata.mode() & 0o077 != 0 && !is_shared(folder),
        Err(_) => {
            let mode = if folder.parent().is_some_and(is_shared) { 0o2770 } else { 0o700 };
            let created = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            let created = created.and_then(|()| fs::set_permissions(folder, Permissions::from_mode(mode)));
            created.map_err(|e| cannot_write(folder, &e))?;
            false
        }
    };
    if is_open {
        restrict(folder).map_err(|e| stays_open(folder, &e))?;
        names_in(folder)?.iter().for_each(|name| restrict_file(&folder.join(name)));
    }
    // Fails if the path is no folder.
    DirBuilder::new().recursive(true).create(folder).map_err(|e| cannot_write(folder, &e))
}

fn restrict(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o700))
}

/// Restricts a file. The folder is restricted already, so a failure does no harm.
fn restrict_file(path: &Path) {
    if path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
        let _ = fs::set_permissions(path, Permissions::from_mode(0o600));
    }
}

fn stays_open(folder: &Path, error: &io::Error) -> Error {
    let (shown, path) = (folder.display(), shell::path(folder));
    Error::unchanged(format!("`{shown}` holds secrets and is open to other users: {error}")).hint(format!(
        "restrict it as its owner (`chmod 700 {path}`), or name another folder with `--state-dir`"
    ))
}

/// Refuses links, and files of users other than root and the project's owner: the state folder, `below` it, and
/// every file there. The owner is that of the folder that holds the state folder. Only for root, which would trust
/// those files.
pub fn check_owners(state_dir: &Path, below: &[PathBuf]) -> Result<(), Error> {
    let is_engine_folder = state_dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with('@'));
    let state_root = state_dir.parent().filter(|_| is_engine_folder).unwrap_or(state_dir);
    let owner =
        state_root.parent().and_then(|project| fs::metadata(project).ok()).map(|metadata| metadata.uid());
    for folder in [state_root, state_dir].into_iter().chain(below.iter().map(PathBuf::as_path)) {
        let Ok(metadata) = folder.symlink_metadata() else { return Ok(()) };
        check_owner(folder, &metadata, owner)?;
    }
    for folder in below {
        for name in names_in(folder)? {
            let path = folder.join(name);
            // A link in place of a file is never followed, and reported when the file is read.
            if let Some(metadata) = path.symlink_metadata().ok().filter(|metadata| !metadata.is_symlink()) {
                check_owner(&path, &metadata, owner)?;
            }
        }
    }
    Ok(())
}

fn check_owner(path: &Path, metadata: &Metadata, owner: Option<u32>) -> Result<(), Error> {
    let shown = path.display();
    if metadata.is_symlink() {
        let leads = fs::read_link(path).unwrap_or_default();
        return Err(Error::unchanged(format!(
            "`{shown}` is a symbolic link to `{}`, and root does not follow links to releases",
            leads.display()
        ))
        .hint("replace the link by a folder, or name the target with `--state-dir`"));
    }
    if metadata.uid() == 0 || Some(metadata.uid()) == owner {
        return Ok(());
    }
    let (uid, word) = (metadata.uid(), shell::path(path));
    Err(Error::unchanged(format!(
        "`{shown}` belongs to the user with the id {uid}, neither root nor the owner of the project"
    ))
    .hint(format!(
        "check its contents; then trust it with `chown -R root {word}`, or move it away: `mv {word} {word}.strange`"
    )))
}

#[cfg(test)]
mod tests;
