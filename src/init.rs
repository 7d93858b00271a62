//! Files that prepare a project for deploys without a loss: selection of the services behind the proxy, and contents of
//! each file. Pure except for `files`, which writes them, and `is_written_by_init`.

mod facts;
pub mod files;
mod select;
mod templates;

use std::path::{Path, PathBuf};

pub use facts::ProjectFacts;
pub use select::{InitOptions, PortForward, ProxiedService, candidates, proxied_services};
pub use templates::{addition_to_makefile, files};

/// First words of the files that `init` writes.
const WRITTEN_BY_INIT: &str = "# Written by `compose-zd init`";

/// A file to write, relative to the project folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    pub path: PathBuf,
    pub text: String,
    pub executable: bool,
    pub description: String,
}

impl NewFile {
    /// The proxy needs this file.
    pub fn belongs_to_proxy(&self) -> bool {
        self.text.starts_with(WRITTEN_BY_INIT) && !self.path.ends_with("Makefile")
    }
}

/// `init` wrote the file, which may have been edited since.
pub fn is_written_by_init(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(WRITTEN_BY_INIT))
}

/// The Compose files of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComposeFiles {
    /// Existing files.
    pub own: Vec<PathBuf>,
    /// File that `init` adds.
    pub added: PathBuf,
    /// Value for `COMPOSE_FILE`; none if Compose finds the added file by default.
    pub variable: Option<String>,
}

impl ComposeFiles {
    /// Files from a flag or a variable, relative to the folder.
    pub fn from_named(files: &[PathBuf], folder: &Path) -> ComposeFiles {
        let added = PathBuf::from("compose.zd.yaml");
        let inside = |file: &PathBuf| file.strip_prefix(folder).unwrap_or(file).to_path_buf();
        let own: Vec<PathBuf> = files.iter().map(inside).filter(|file| *file != added).collect();
        let all: Vec<String> = own.iter().chain([&added]).map(|file| file.display().to_string()).collect();
        ComposeFiles { own, added, variable: Some(all.join(":")) }
    }
}

#[cfg(test)]
mod tests;
