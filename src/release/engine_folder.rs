//! State folder of an engine: each engine has one history, by whatever name the engine was reached.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::FORMAT;

/// File in a project's folder that names its engine.
pub const ENGINE_FILE: &str = "engine.json";

/// Engine, by the id and the name that it reports: cloned machines share an id, and have different names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineId {
    pub format: u32,
    pub id: String,
    /// Name of the engine's host.
    pub name: String,
}

impl EngineId {
    pub fn new(id: &str, name: &str) -> EngineId {
        EngineId { format: FORMAT, id: id.into(), name: name.into() }
    }

    /// Unique name of the engine's folder.
    fn folder(&self) -> String {
        let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        let id: String = self.id.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        format!("@{}-{id}", self.name.chars().map(safe).collect::<String>())
    }
}

/// State folder, at or below `root`, with this engine's releases of a project. An earlier version kept its folder,
/// which names no engine, at `before`. That folder is used if `is_here` finds its releases on this engine.
pub fn find_folder(
    root: &Path,
    before: &Path,
    project: &str,
    engine: &EngineId,
    is_here: &dyn Fn(&Path) -> bool,
) -> PathBuf {
    let mut folders = vec![before.to_path_buf(), root.to_path_buf()];
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let engine_folders =
        entries.filter(|e| e.file_name().to_string_lossy().starts_with('@')).map(|e| e.path());
    folders.extend(engine_folders);
    let mark = |folder: &Path| named_engine(&folder.join(project));
    if let Some(named) = folders.iter().find(|folder| mark(folder).as_ref() == Some(engine)) {
        return named.clone();
    }
    let has_any = |folder: &Path| folder.join(project).is_dir();
    let mut unnamed = folders.iter().filter(|folder| has_any(folder) && mark(folder).is_none());
    match unnamed.find(|folder| is_here(folder)) {
        Some(folder) => folder.clone(),
        None if !has_any(root) => root.to_path_buf(),
        None => root.join(engine.folder()),
    }
}

/// True if a folder names this engine.
pub fn is_known(root: &Path, before: &Path, project: &str, engine: &EngineId) -> bool {
    let found = find_folder(root, before, project, engine, &|_| false);
    named_engine(&found.join(project)).as_ref() == Some(engine)
}

/// Engine that a project's folder names.
fn named_engine(folder: &Path) -> Option<EngineId> {
    serde_json::from_slice(&fs::read(folder.join(ENGINE_FILE)).ok()?).ok()
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
            text.into_iter().for_each(|text| fs::write(project.join(ENGINE_FILE), text).unwrap());
        }

        /// Folder that is found for an engine reached by a name, below which an earlier version kept it; `""` is local.
        fn found(&self, name: &str, engine: &EngineId, is_here: bool) -> String {
            let root = self.0.path();
            let found = find_folder(root, &root.join(name), "p", engine, &|_| is_here);
            found.strip_prefix(root).unwrap().display().to_string()
        }
    }

    #[test]
    fn an_engine_has_one_history_whatever_name_it_is_reached_by() {
        let (local, remote) = (EngineId::new("AB:CD", "here"), EngineId::new("EF:01", "far"));
        let folders = StateFolders::new();
        assert_eq!(folders.found("", &local, false), "", "the first one");
        folders.add("", Some(&local));
        assert_eq!(folders.found("@staging", &local, false), "", "by another name");
        assert_eq!(folders.found("", &remote, false), "@far-EF01", "another one by the same name");
        folders.add("@far-EF01", Some(&remote));
        assert_eq!(folders.found("@prod", &remote, false), "@far-EF01");
        let clone = EngineId::new("AB:CD", "clone");
        assert_eq!(folders.found("", &clone, false), "@clone-ABCD", "a cloned machine");
    }

    #[test]
    fn a_folder_of_an_earlier_version_is_used_if_its_releases_are_on_this_engine() {
        let engine = EngineId::new("AB:CD", "here");
        for name in ["", "@staging"] {
            let folders = StateFolders::new();
            folders.add(name, None);
            assert_eq!(folders.found(name, &engine, true), name);
        }
        let folders = StateFolders::new();
        folders.add("", None);
        assert_eq!(folders.found("", &engine, false), "@here-ABCD", "its releases are of another engine");
        folders.add("@staging", None);
        assert_eq!(folders.found("@other", &engine, false), "@here-ABCD");
    }
}
