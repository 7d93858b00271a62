//! One history an engine: which folder has the releases of a project on the engine that is talked to, by whatever name it was
//! reached.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::FORMAT;

/// The file in a project's folder that names its engine.
pub const MARK: &str = "engine.json";

/// An engine, by what it says of itself: machines that were cloned have one id, and names of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineId {
    pub format: u32,
    pub id: String,
    /// Of its host.
    pub name: String,
}

impl EngineId {
    pub fn new(id: &str, name: &str) -> EngineId {
        EngineId { format: FORMAT, id: id.into(), name: name.into() }
    }

    /// A folder name of its own.
    fn folder(&self) -> String {
        let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        let id: String = self.id.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        format!("@{}-{id}", self.name.chars().map(safe).collect::<String>())
    }
}

/// The state folder, at or below `root`, that has this engine's releases of a project. A folder of an earlier version, which
/// names no engine, is at `before`: it is taken over where `is_here` knows its releases on this engine.
pub fn find(
    root: &Path,
    before: &Path,
    project: &str,
    engine: &EngineId,
    is_here: &dyn Fn(&Path) -> bool,
) -> PathBuf {
    let mut folders = vec![before.to_path_buf(), root.to_path_buf()];
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let others = entries.filter(|e| e.file_name().to_string_lossy().starts_with('@')).map(|e| e.path());
    folders.extend(others);
    let mark = |folder: &Path| mark(&folder.join(project));
    if let Some(own) = folders.iter().find(|folder| mark(folder).as_ref() == Some(engine)) {
        return own.clone();
    }
    let has_any = |folder: &Path| folder.join(project).is_dir();
    let mut unnamed = folders.iter().filter(|folder| has_any(folder) && mark(folder).is_none());
    match unnamed.find(|folder| is_here(folder)) {
        Some(known) => known.clone(),
        None if !has_any(root) => root.to_path_buf(),
        None => root.join(engine.folder()),
    }
}

/// Whether a folder names this engine.
pub fn is_known(root: &Path, before: &Path, project: &str, engine: &EngineId) -> bool {
    let found = find(root, before, project, engine, &|_| false);
    mark(&found.join(project)).as_ref() == Some(engine)
}

/// The engine that a project's folder names.
fn mark(folder: &Path) -> Option<EngineId> {
    serde_json::from_slice(&fs::read(folder.join(MARK)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct StateFolders(tempfile::TempDir);

    impl StateFolders {
        fn new() -> StateFolders {
            StateFolders(tempfile::tempdir().unwrap())
        }

        fn add(&self, folder: &str, engine: Option<&EngineId>) {
            let project = self.0.path().join(folder).join("p");
            fs::create_dir_all(&project).unwrap();
            let text = engine.map(|e| serde_json::to_string(e).unwrap());
            text.into_iter().for_each(|text| fs::write(project.join(MARK), text).unwrap());
        }

        /// Reached by a name, below which an earlier version kept it; `""` is the engine of this machine.
        fn found(&self, name: &str, engine: &EngineId, is_here: bool) -> String {
            let root = self.0.path();
            let found = find(root, &root.join(name), "p", engine, &|_| is_here);
            found.strip_prefix(root).unwrap().display().to_string()
        }
    }

    #[test]
    fn an_engine_has_one_history_whatever_name_it_is_reached_by() {
        let (here, far) = (EngineId::new("AB:CD", "here"), EngineId::new("EF:01", "far"));
        let folders = StateFolders::new();
        assert_eq!(folders.found("", &here, false), "", "the first one");
        folders.add("", Some(&here));
        assert_eq!(folders.found("@staging", &here, false), "", "by another name");
        assert_eq!(folders.found("", &far, false), "@far-EF01", "another one by the same name");
        folders.add("@far-EF01", Some(&far));
        assert_eq!(folders.found("@prod", &far, false), "@far-EF01");
        let clone = EngineId::new("AB:CD", "clone");
        assert_eq!(folders.found("", &clone, false), "@clone-ABCD", "a cloned machine");
    }

    #[test]
    fn a_folder_of_an_earlier_version_is_taken_over_where_its_releases_are_here() {
        let engine = EngineId::new("AB:CD", "here");
        for name in ["", "@staging"] {
            let folders = StateFolders::new();
            folders.add(name, None);
            assert_eq!(folders.found(name, &engine, true), name);
        }
        let folders = StateFolders::new();
        folders.add("", None);
        assert_eq!(folders.found("", &engine, false), "@here-ABCD", "they are of another engine");
        folders.add("@staging", None);
        assert_eq!(folders.found("@other", &engine, false), "@here-ABCD");
    }
}
