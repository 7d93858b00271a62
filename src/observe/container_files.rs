//! Files that a container will have by its mounts.

use std::path::{Path, PathBuf};

use crate::proxy::MountedFile;

/// File, folder or volume that a container has at a path.
#[derive(Debug, Default)]
pub struct PlannedMount {
    pub target: String,
    pub read_only: bool,
    pub source: MountSource,
}

#[derive(Debug, Default)]
pub enum MountSource {
    /// File or folder of this machine.
    Disk(PathBuf),
    /// Text of a config without a file.
    Text(String),
    /// Volume, or a config whose text is unknown.
    #[default]
    Unknown,
}

/// The mounted file at a path, the file of a mounted folder, or the names of the files that are mounted in a folder.
pub fn mounted_file(mounts: &[PlannedMount], path: &str) -> Option<MountedFile> {
    let above = mounts.iter().filter(|mount| Path::new(path).starts_with(&mount.target));
    let Some(mount) = above.max_by_key(|mount| mount.target.len()) else {
        let names = mounts.iter().filter_map(|mount| {
            let (folder, name) = mount.target.rsplit_once('/')?;
            (folder == path).then(|| format!("{name}\n"))
        });
        let text: String = names.collect();
        return (!text.is_empty()).then_some(MountedFile { text, read_only: false });
    };
    let is_root = mount.target == path;
    let text = match &mount.source {
        MountSource::Text(text) if is_root => text.clone(),
        MountSource::Disk(folder) if is_root && folder.is_dir() => names_in(folder),
        MountSource::Disk(file) if is_root => std::fs::read_to_string(file).unwrap_or_default(),
        MountSource::Disk(folder) => {
            let inside = folder.join(Path::new(path).strip_prefix(&mount.target).ok()?);
            if inside.is_dir() { names_in(&inside) } else { std::fs::read_to_string(inside).ok()? }
        }
        MountSource::Unknown if is_root => String::new(),
        MountSource::Text(_) | MountSource::Unknown => return None,
    };
    Some(MountedFile { text, read_only: mount.read_only })
}

/// Names of the files in a folder, one a line.
fn names_in(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        files.map(|file| file.file_name().to_string_lossy().into_owned() + "\n").collect();
    names.sort();
    names.concat()
}
