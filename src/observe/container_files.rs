//! Files of a container that does not run: as its mounts will be, and as its image has them.

use std::path::{Path, PathBuf};

use crate::docker::Docker;
use crate::docker::archive::ContainerFile;
use crate::docker::inspect::Container;
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

/// Files of a stopped container.
pub struct StoppedFiles<'a> {
    docker: &'a Docker,
    container: &'a Container,
    /// Mounts of files and folders of this machine; none if the engine is on another one.
    mounts: Vec<PlannedMount>,
    /// False if the source of a mount is gone: the engine would create a folder there.
    can_ask_engine: bool,
}

impl<'a> StoppedFiles<'a> {
    pub fn new(docker: &'a Docker, container: &'a Container) -> StoppedFiles<'a> {
        let is_here = |source: &str| !docker.is_remote() && Path::new(source).exists();
        // A missing path in a folder that is missing, too, is one of another machine: compose-zd may run in a container.
        let is_gone = |source: &str| {
            !docker.is_remote()
                && !Path::new(source).exists()
                && Path::new(source).parent().is_some_and(Path::is_dir)
        };
        let binds = container.bind_mounts().filter(|mount| is_here(mount.source));
        let mounts = binds.map(|mount| PlannedMount {
            target: mount.destination.into(),
            read_only: !mount.is_writable,
            source: MountSource::Disk(mount.source.into()),
        });
        let can_ask_engine = !container.bind_mounts().any(|mount| is_gone(mount.source));
        StoppedFiles { docker, container, mounts: mounts.collect(), can_ask_engine }
    }

    /// File, or names in a folder, at a path.
    pub fn find(&self, path: &str) -> Option<MountedFile> {
        let on_disk = || mounted_file(&self.mounts, path);
        let has_mount = self.mounts.iter().any(|mount| Path::new(path).starts_with(&mount.target));
        if has_mount || !path.starts_with('/') || !self.can_ask_engine {
            return on_disk();
        }
        // An engine that refuses tells nothing, as one that has no such file.
        let file = self.docker.file_of_stopped(&self.container.id, path).ok().flatten();
        let text = file.map(|file| match file {
            ContainerFile::File(text) => text,
            ContainerFile::Folder(mut names) => {
                names.sort();
                names.iter().map(|name| format!("{name}\n")).collect()
            }
        });
        text.map(|text| MountedFile { text, read_only: false }).or_else(on_disk)
    }
}
