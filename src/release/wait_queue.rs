//! Runs that wait, of which only the newest is to deploy: each has a number, in a file that it holds locked for as long as
//! it lives. Those of one state folder know of each other.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::store::{Store, permissions};
use crate::error::Error;

/// The highest number of a run that had its turn.
const SERVED: &str = "served";

/// A place in the queue; it goes when this is dropped.
pub struct QueueTicket {
    folder: PathBuf,
    number: u64,
    _held: File,
}

impl QueueTicket {
    /// The newest place there is.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn take(store: &Store) -> Result<QueueTicket, Error> {
        store.prepare()?;
        let folder = store.folder().join("queue");
        QueueTicket::in_folder(&folder).map_err(|e| {
            Error::unchanged(format!("`{}` cannot be written: {e}", folder.display()))
                .hint("see its owner and mode, or name another folder with `--state-dir`")
        })
    }

    fn in_folder(folder: &Path) -> io::Result<QueueTicket> {
        match fs::create_dir(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut number = numbers(folder)?.into_iter().max().unwrap_or(0).max(served(folder));
        loop {
            number += 1;
            let new = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(permissions::file_mode(folder))
                .open(folder.join(number.to_string()));
            match new {
                Ok(held) => {
                    held.lock()?;
                    return Ok(QueueTicket { folder: folder.into(), number, _held: held });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A newer run waits, or had its turn. One that died while it waited does not count.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn is_superseded(&self) -> io::Result<bool> {
        if served(&self.folder) > self.number {
            return Ok(true);
        }
        let newer = numbers(&self.folder)?.into_iter().filter(|n| *n > self.number);
        Ok(newer.into_iter().any(|n| lives(&self.folder.join(n.to_string()))))
    }

    /// This one has its turn: those before it have none any more.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn begin(&self) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        write!(file, "{}", self.number)?;
        file.as_file().sync_all()?;
        file.persist(self.folder.join(SERVED))?;
        Ok(())
    }
}

impl Drop for QueueTicket {
    fn drop(&mut self) {
        // One that stays is locked by nobody, and does not count.
        let _ = fs::remove_file(self.folder.join(self.number.to_string()));
    }
}

/// Whether its run does; one that died is tidied up.
fn lives(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(_)) => false,
        Ok(()) => {
            let _ = fs::remove_file(path);
            false
        }
    }
}

fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
    let names = names.collect::<io::Result<Vec<_>>>()?;
    Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// None had its turn where nobody wrote it down, or where that cannot be read.
fn served(folder: &Path) -> u64 {
    let text = fs::read_to_string(folder.join(SERVED)).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &tempfile::TempDir) -> QueueTicket {
        QueueTicket::in_folder(folder.path()).unwrap()
    }

    #[test]
    fn of_several_that_wait_the_newest_is_not_superseded() {
        let folder = tempfile::tempdir().unwrap();
        let places = [place(&folder), place(&folder), place(&folder)];
        let superseded = places.iter().map(|p| p.is_superseded().unwrap());
        assert_eq!(superseded.collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn one_that_has_gone_supersedes_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let first = place(&folder);
        drop(place(&folder));
        assert!(!first.is_superseded().unwrap());
    }

    #[test]
    fn one_that_had_its_turn_supersedes_those_before_it_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let first = place(&folder);
        let second = place(&folder);
        second.begin().unwrap();
        drop(second);
        assert!(first.is_superseded().unwrap());
        assert!(!place(&folder).is_superseded().unwrap());
    }

    #[test]
    fn one_that_was_killed_supersedes_nobody_and_is_tidied_up() {
        let folder = tempfile::tempdir().unwrap();
        let first = place(&folder);
        fs::write(folder.path().join("7"), "").unwrap();
        assert!(!first.is_superseded().unwrap());
        assert!(!folder.path().join("7").exists());
    }

    #[test]
    fn what_cannot_be_read_as_a_number_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("notes"), "").unwrap();
        fs::write(folder.path().join(SERVED), "garbage").unwrap();
        assert!(!place(&folder).is_superseded().unwrap());
        assert!(folder.path().join("notes").exists());
    }
}
