//! Who may have a hand in the state folder: it is made for its owner alone, or for the group that its owner shares it with,
//! and root trusts no stranger's.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{cannot_write, names_in};
use crate::error::Error;
use crate::shell;

/// A folder that has no other use: one that was named with `--state-dir` may be the user's own, and stays as open as they
/// made it. What is secret is below it, in folders that are always ours.
pub fn is_ours(state_dir: &Path) -> bool {
    let name = state_dir.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(".compose-zd") || name.starts_with('@')
}

/// A folder whose owner shares it with its group: `g=u`, the bit that hands the group down, and nothing for others.
fn is_shared(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|about| about.is_dir() && about.mode() & 0o2077 == 0o2070)
}

/// Mode of a new file in a folder.
pub fn file_mode(folder: &Path) -> u32 {
    if is_shared(folder) { 0o660 } else { 0o600 }
}

/// Makes a folder for its owner alone, or for the group that has the one it is in, whatever the umask; one of ours that is
/// there and open to others is closed.
///
/// # Errors
/// A folder that cannot be made, or that others can enter and that only its owner can close.
pub fn make(folder: &Path, ours: bool) -> Result<(), Error> {
    let open = match fs::metadata(folder) {
        Ok(there) => ours && there.is_dir() && there.mode() & 0o077 != 0 && !is_shared(folder),
        Err(_) => {
            let mode = if folder.parent().is_some_and(is_shared) { 0o2770 } else { 0o700 };
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            let made = made.and_then(|()| fs::set_permissions(folder, Permissions::from_mode(mode)));
            made.map_err(|e| cannot_write(folder, &e))?;
            false
        }
    };
    if open {
        close(folder).map_err(|e| stays_open(folder, &e))?;
        names_in(folder)?.iter().for_each(|name| close_file(&folder.join(name)));
    }
    // Not even a folder.
    DirBuilder::new().recursive(true).create(folder).map_err(|e| cannot_write(folder, &e))
}

fn close(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o700))
}

/// The folder is closed by now, so that it does no harm where this cannot be done.
fn close_file(path: &Path) {
    if path.symlink_metadata().is_ok_and(|about| about.is_file()) {
        let _ = fs::set_permissions(path, Permissions::from_mode(0o600));
    }
}

fn stays_open(folder: &Path, error: &io::Error) -> Error {
    let (shown, path) = (folder.display(), shell::path(folder));
    Error::unchanged(format!(
        "`{shown}` is open to other users, and resolved secrets are kept in it: {error}"
    ))
    .hint(format!("close it as its owner, `chmod 700 {path}`, or name another folder with `--state-dir`"))
}

/// Refuses a link, and what belongs to others than root and the owner of the folder that the state folder is in (the
/// project's): the state folder, `below` it, and every file there. For root only: it would write, chmod and believe.
///
/// # Errors
/// The first such path, and what to do about it.
pub fn guard(state_dir: &Path, below: &[PathBuf]) -> Result<(), Error> {
    let engine = state_dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with('@'));
    let own = state_dir.parent().filter(|_| engine).unwrap_or(state_dir);
    let owner = own.parent().and_then(|project| fs::metadata(project).ok()).map(|about| about.uid());
    for folder in [own, state_dir].into_iter().chain(below.iter().map(PathBuf::as_path)) {
        let Ok(about) = folder.symlink_metadata() else { return Ok(()) };
        check(folder, &about, owner)?;
    }
    for folder in below {
        for name in names_in(folder)? {
            let path = folder.join(name);
            // A link in the place of a file is not followed anyway, and told of where the file is read.
            if let Some(about) = path.symlink_metadata().ok().filter(|about| !about.is_symlink()) {
                check(&path, &about, owner)?;
            }
        }
    }
    Ok(())
}

fn check(path: &Path, about: &Metadata, owner: Option<u32>) -> Result<(), Error> {
    let shown = path.display();
    if about.is_symlink() {
        let leads = fs::read_link(path).unwrap_or_default();
        return Err(Error::unchanged(format!(
            "`{shown}` is a symbolic link to `{}`, and root keeps no releases behind one",
            leads.display()
        ))
        .hint("put a folder in its place, or name the folder that it leads to with `--state-dir`"));
    }
    if about.uid() == 0 || Some(about.uid()) == owner {
        return Ok(());
    }
    let (uid, word) = (about.uid(), shell::path(path));
    Err(Error::unchanged(format!(
        "`{shown}` belongs to the user with the id {uid}, who is neither root nor the owner of the project"
    ))
    .hint(format!(
        "look at what is in it; then trust it with `chown -R root {word}`, or move it away: `mv {word} {word}.strange`"
    )))
}

#[cfg(test)]
mod tests;
