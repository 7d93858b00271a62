//! Queue of waiting runs, of which only the newest deploys. Each run has a number, in a file that it keeps locked
//! while it runs. The runs of one state folder share a queue.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::store::{Store, permissions};
use crate::error::Error;

/// File with the highest number of a run that has left the queue to deploy.
const SERVED_FILE: &str = "served";

/// Position in the queue; it ends when this is dropped.
pub struct QueueTicket {
    folder: PathBuf,
    number: u64,
    _lock_file: File,
}

impl QueueTicket {
    /// Joins the queue at the newest position.
    pub fn join(store: &Store) -> Result<QueueTicket, Error> {
        store.prepare()?;
        let folder = store.folder().join("queue");
        QueueTicket::in_folder(&folder).map_err(|e| {
            Error::unchanged(format!("cannot write `{}`: {e}", folder.display()))
                .hint("check its owner and mode, or name another folder with `--state-dir`")
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
            let created = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(permissions::file_mode(folder))
                .open(folder.join(number.to_string()));
            match created {
                Ok(lock_file) => {
                    lock_file.lock()?;
                    return Ok(QueueTicket { folder: folder.into(), number, _lock_file: lock_file });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// True if a newer run waits, or has left the queue to deploy. A run that died while it waited does not count.
    pub fn is_superseded(&self) -> io::Result<bool> {
        if served(&self.folder) > self.number {
            return Ok(true);
        }
        let newer = numbers(&self.folder)?.into_iter().filter(|n| *n > self.number);
        Ok(newer.into_iter().any(|n| is_running(&self.folder.join(n.to_string()))))
    }

    /// Records that this run leaves the queue to deploy, which supersedes all runs before it.
    pub fn mark_served(&self) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        write!(file, "{}", self.number)?;
        file.as_file().sync_all()?;
        file.persist(self.folder.join(SERVED_FILE))?;
        Ok(())
    }
}

impl Drop for QueueTicket {
    fn drop(&mut self) {
        // A file that remains is not locked, and does not count.
        let _ = fs::remove_file(self.folder.join(self.number.to_string()));
    }
}

/// True if the file's run still waits; the file of a dead run is removed.
fn is_running(path: &Path) -> bool {
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

/// Highest number that was recorded; 0 if there is none or if the file cannot be read.
fn served(folder: &Path) -> u64 {
    let text = fs::read_to_string(folder.join(SERVED_FILE)).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(folder: &tempfile::TempDir) -> QueueTicket {
        QueueTicket::in_folder(folder.path()).unwrap()
    }

    #[test]
    fn only_the_newest_of_several_runs_is_not_superseded() {
        let folder = tempfile::tempdir().unwrap();
        let tickets = [join(&folder), join(&folder), join(&folder)];
        let superseded = tickets.iter().map(|p| p.is_superseded().unwrap());
        assert_eq!(superseded.collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn a_run_that_left_supersedes_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let first = join(&folder);
        drop(join(&folder));
        assert!(!first.is_superseded().unwrap());
    }

    #[test]
    fn a_run_that_deployed_supersedes_earlier_runs_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let first = join(&folder);
        let second = join(&folder);
        second.mark_served().unwrap();
        drop(second);
        assert!(first.is_superseded().unwrap());
        assert!(!join(&folder).is_superseded().unwrap());
    }

    #[test]
    fn a_killed_run_supersedes_no_other_and_its_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let first = join(&folder);
        fs::write(folder.path().join("7"), "").unwrap();
        assert!(!first.is_superseded().unwrap());
        assert!(!folder.path().join("7").exists());
    }

    #[test]
    fn other_files_in_the_queue_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("notes"), "").unwrap();
        fs::write(folder.path().join(SERVED_FILE), "garbage").unwrap();
        assert!(!join(&folder).is_superseded().unwrap());
        assert!(folder.path().join("notes").exists());
    }
}
