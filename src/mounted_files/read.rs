//! Reading of files, in a container and on this machine.
//!
//! The engine's archive API is of no use here: it mounts the files anew by their paths, so it returns those that the
//! container does not have yet, and creates a folder where a file is gone.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::docker::inspect::Container;
use crate::docker::{Docker, Exec};
use crate::proxy::kit::clock::parse_time;
use crate::shell;

/// Largest file, in bytes, whose text is compared. Size and time are compared of a larger one.
const MAX_HASHED: u64 = 1 << 20;

/// Highest number of files of a proxy's folders that are looked at.
const MAX_ENTRIES: usize = 1000;

/// Regular file at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    pub size: u64,
    /// Seconds since 1970.
    pub modified: f64,
    /// SHA-256, unless the file is too large.
    pub digest: Option<String>,
}

impl Reading {
    /// True if both are the same file, or have the same text.
    pub fn is_same(&self, other: &Reading) -> bool {
        let is_as_old = self.modified.floor() == other.modified.floor();
        let has_text = match (&self.digest, &other.digest) {
            (Some(own), Some(other)) => own == other,
            _ => is_as_old,
        };
        self.size == other.size && has_text
    }

    /// True if the file has this text, or is too large to tell.
    pub fn has_text(&self, text: &str) -> bool {
        self.digest.as_ref().is_none_or(|digest| *digest == hash(text.as_bytes()))
    }

    fn of(path: &Path, metadata: &Metadata) -> Reading {
        let size = metadata.len();
        let text = (size <= MAX_HASHED).then(|| fs::read(path).ok()).flatten();
        Reading { size, modified: modified(metadata), digest: text.map(|text| hash(&text)) }
    }
}

fn modified(metadata: &Metadata) -> f64 {
    metadata.mtime() as f64 + metadata.mtime_nsec() as f64 / 1e9
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// File at a path of the engine's machine.
#[derive(Debug, Clone, PartialEq)]
pub enum OnDisk {
    Found(Reading),
    Missing,
    /// The engine is on another machine, or this process may not read the file.
    Unknown,
}

impl OnDisk {
    /// Reads a file of this machine. A path whose folder is missing, too, is one of another machine: compose-zd may run in
    /// a container.
    pub fn read(source: &str) -> OnDisk {
        let path = Path::new(source);
        match fs::metadata(path) {
            Ok(metadata) => OnDisk::Found(Reading::of(path, &metadata)),
            Err(error) if error.kind() == ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir) => {
                OnDisk::Missing
            }
            Err(_) => OnDisk::Unknown,
        }
    }
}

/// Files that a running container has.
#[derive(Debug, Default, PartialEq)]
pub struct RunningFiles {
    /// Regular files by path.
    pub files: BTreeMap<String, Reading>,
    /// Files and folders in the folders, each with its time.
    pub entries: Vec<(String, f64)>,
    /// Path of each mounted file in its file system, by its path in the container.
    pub roots: BTreeMap<String, String>,
}

impl RunningFiles {
    /// Reads files and folders of a container: through `/proc` where this process may, else by a shell in the container.
    /// `None` if neither is possible.
    ///
    /// # Errors
    /// The engine does not answer.
    pub fn read(
        docker: &Docker,
        container: &Container,
        paths: &[String],
        folders: &[String],
    ) -> Result<Option<RunningFiles>> {
        if !docker.is_remote()
            && let Some(files) = RunningFiles::through_proc(container, paths, folders)
        {
            return Ok(Some(files));
        }
        let result = docker.query(&Exec::sh(&container.id, script(paths, folders)))?;
        Ok(result.stdout.contains("@end").then(|| RunningFiles::parse(&result.stdout, paths)))
    }

    fn through_proc(container: &Container, paths: &[String], folders: &[String]) -> Option<RunningFiles> {
        let process = Path::new("/proc").join(container.state.pid.to_string());
        let is_its_own =
            fs::read_to_string(process.join("cgroup")).is_ok_and(|text| text.contains(&container.id));
        if container.state.pid <= 1 || !is_its_own {
            return None;
        }
        let root = process.join("root");
        fs::read_dir(&root).ok()?;
        let mut found = RunningFiles::default();
        for path in paths {
            let file = root.join(path.trim_start_matches('/'));
            if let Ok(metadata) = fs::metadata(&file).map(|m| (m.is_file(), m))
                && metadata.0
            {
                found.files.insert(path.clone(), Reading::of(&file, &metadata.1));
            }
        }
        for folder in folders {
            add_entries(&root, &root.join(folder.trim_start_matches('/')), &mut found.entries);
        }
        found.add_roots(fs::read_to_string(process.join("mountinfo")).ok()?.lines(), paths);
        Some(found)
    }

    fn parse(text: &str, paths: &[String]) -> RunningFiles {
        let mut found = RunningFiles::default();
        for (mark, rest) in text.lines().filter_map(|line| line.split_once(' ')) {
            match mark {
                "@file" => found.files.extend(parse_file(rest)),
                "@entry" => found.entries.extend(parse_entry(rest)),
                _ => {}
            }
        }
        found.add_roots(text.lines().filter_map(|line| line.strip_prefix("@mount ")), paths);
        found
    }

    /// Reads the lines of `/proc/PID/mountinfo` about these paths.
    fn add_roots<'l>(&mut self, lines: impl Iterator<Item = &'l str>, paths: &[String]) {
        for line in lines {
            let words: Vec<&str> = line.split(' ').take(5).collect();
            let [_, _, _, root, path] = words[..] else { continue };
            let path = unescape(path);
            if paths.contains(&path) {
                self.roots.insert(path, unescape(root));
            }
        }
    }
}

/// Reads the octal escapes of `/proc/PID/mountinfo`.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.into(), |text: String, (escape, character)| text.replace(escape, character))
}

/// Adds a folder and all that is in it, with paths below `root`.
fn add_entries(root: &Path, folder: &Path, entries: &mut Vec<(String, f64)>) {
    let mut open: Vec<_> = Some(folder.to_path_buf()).filter(|folder| folder.is_dir()).into_iter().collect();
    while let Some(path) = open.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if entries.len() >= MAX_ENTRIES || !(metadata.is_dir() || metadata.is_file()) {
            continue;
        }
        let inside = path.strip_prefix(root).unwrap_or(&path);
        entries.push((Path::new("/").join(inside).display().to_string(), modified(&metadata)));
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
}

/// Script that prints regular files, the entries of folders, and the mounts.
fn script(paths: &[String], folders: &[String]) -> String {
    format!(
        "# read mounted files
TZ=UTC0; export TZ
for f in {paths}; do
  [ -f \"$f\" ] || continue
  s=$(stat -L -c '%s %y' \"$f\") || continue
  h=-; [ \"${{s%% *}}\" -gt {MAX_HASHED} ] || h=$(sha256sum < \"$f\")
  h=${{h%% *}}; echo \"@file ${{h:--}} $s $f\"
done
for d in {folders}; do
  [ ! -d \"$d\" ] || find \"$d\" \\( -type f -o -type d \\) -exec stat -c '@entry %y %n' {{}} + | head -n {MAX_ENTRIES}
done
sed 's/^/@mount /' /proc/self/mountinfo
echo @end",
        paths = shell::words(paths),
        folders = shell::words(folders),
    )
}

/// Parses `DIGEST SIZE DATE TIME ZONE PATH`.
fn parse_file(line: &str) -> Option<(String, Reading)> {
    let words: Vec<&str> = line.splitn(6, ' ').collect();
    let [digest, size, date, time, zone, path] = words[..] else { return None };
    let modified = parse_time(&format!("{date} {time} {zone}"))?;
    let digest = Some(digest.to_string()).filter(|digest| digest != "-");
    Some((path.into(), Reading { size: size.parse().ok()?, modified, digest }))
}

/// Parses `DATE TIME ZONE PATH`.
fn parse_entry(line: &str) -> Option<(String, f64)> {
    let words: Vec<&str> = line.splitn(4, ' ').collect();
    let [date, time, zone, path] = words[..] else { return None };
    Some((path.into(), parse_time(&format!("{date} {time} {zone}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The script runs on this machine, and `/proc/self` stands for a container.
    #[test]
    fn a_shell_reports_what_the_files_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::create_dir_all(path("conf.d")).unwrap();
        fs::write(path("a b.conf"), "text\n").unwrap();
        fs::write(path("large"), vec![b'x'; MAX_HASHED as usize + 1]).unwrap();
        fs::write(path("conf.d/one.conf"), "one").unwrap();
        let paths = ["a b.conf", "large", "conf.d", "none"].map(path);
        let script = script(&paths, &[path("conf.d"), path("none")]);
        let result = crate::process::run_program(&["sh", "-c", &script], Path::new("/"), &[]).unwrap();
        assert!(result.stdout.trim_end().ends_with("@end"), "{result:?}");
        let found = RunningFiles::parse(&result.stdout, &paths);
        assert_eq!(found.files.keys().collect::<Vec<_>>(), [&paths[0], &paths[1]]);
        for path in &paths[..2] {
            let OnDisk::Found(on_disk) = OnDisk::read(path) else { panic!("{path}") };
            let read = &found.files[path];
            assert!(
                (read.modified - on_disk.modified).abs() < 1e-3 && read.is_same(&on_disk),
                "{read:?} {on_disk:?}"
            );
        }
        assert_eq!(found.files[&paths[1]].digest, None);
        assert!(found.files[&paths[0]].has_text("text\n") && !found.files[&paths[0]].has_text("text"));
        let mut entries: Vec<&str> = found.entries.iter().map(|(path, _)| path.as_str()).collect();
        entries.sort_unstable();
        assert_eq!(entries, [path("conf.d"), path("conf.d/one.conf")]);
        let mut by_proc = Vec::new();
        add_entries(Path::new("/"), Path::new(&path("conf.d")), &mut by_proc);
        add_entries(Path::new("/"), Path::new(&paths[0]), &mut by_proc);
        assert_eq!(by_proc.len(), 2, "a file has no entries");
        assert!(
            by_proc
                .iter()
                .all(|(path, at)| found.entries.iter().any(|(p, a)| p == path && (a - at).abs() < 1e-3))
        );
    }

    #[test]
    fn the_kernel_names_the_file_behind_a_mount() {
        let lines = "89 69 254:0 /srv/a\\040b.conf//deleted /etc/a\\040b.conf rw - ext4 /dev/vda rw\n90 69 0:5 / /proc rw";
        let mut found = RunningFiles::default();
        found.add_roots(lines.lines(), &["/etc/a b.conf".into()]);
        assert_eq!(found.roots, [("/etc/a b.conf".into(), "/srv/a b.conf//deleted".into())].into());
    }

    #[test]
    fn a_missing_file_differs_from_a_path_of_another_machine() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone").display().to_string();
        assert_eq!(OnDisk::read(&path), OnDisk::Missing);
        assert_eq!(OnDisk::read("/no/such/folder/file"), OnDisk::Unknown);
    }
}
