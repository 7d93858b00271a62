//! What a project is given so that deploys lose nothing: which services get a proxy, and the text of every file. Pure
//! but for `write`, which puts the files in place, and for telling what is ours.

mod facts;
pub mod files;
mod select;
mod templates;

use std::path::{Path, PathBuf};

pub use facts::ProjectFacts;
pub use select::{InitOptions, PortForward, ProxiedService, candidates, proxied_services};
pub use templates::{addition_to_makefile, files};

/// The first words of the files that `init` writes for a proxy.
const MARK: &str = "# Written by `compose-zd init`";

/// A file that is to be there, by its path in the project's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    pub path: PathBuf,
    pub text: String,
    pub executable: bool,
    /// For people, in a few words.
    pub about: String,
}

impl NewFile {
    /// Without it there is no proxy.
    pub fn is_of_proxy(&self) -> bool {
        self.text.starts_with(MARK) && !self.path.ends_with("Makefile")
    }
}

/// Whether `init` wrote what is there, though it may have been changed since.
pub fn is_ours(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(MARK))
}

/// How the project's own files are named to Compose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComposeFiles {
    /// The Compose files that there are.
    pub own: Vec<PathBuf>,
    /// The one that is added.
    pub added: PathBuf,
    /// What `COMPOSE_FILE` has to be; nothing where Compose finds the added file by itself.
    pub variable: Option<String>,
}

impl ComposeFiles {
    /// Of files that somebody names, whose paths are read from the folder.
    pub fn named(files: &[PathBuf], folder: &Path) -> ComposeFiles {
        let added = PathBuf::from("compose.zd.yaml");
        let inside = |file: &PathBuf| file.strip_prefix(folder).unwrap_or(file).to_path_buf();
        let own: Vec<PathBuf> = files.iter().map(inside).filter(|file| *file != added).collect();
        let all: Vec<String> = own.iter().chain([&added]).map(|file| file.display().to_string()).collect();
        ComposeFiles { own, added, variable: Some(all.join(":")) }
    }
}

#[cfg(test)]
mod tests;
