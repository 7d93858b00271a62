//! State folder of a project, by the engine's own id, whichever name reached the engine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::docker::Docker;
use crate::model::args::ComposeArgs;
use crate::release::engine_folder::{self, EngineId};
use crate::release::store::Store;

/// State folder, and the engine of its releases.
#[derive(Debug, Clone)]
pub struct StateLocation {
    pub state_dir: PathBuf,
    /// `None` for a Swarm, whose folder has the Swarm's id, and without an engine.
    pub engine: Option<EngineId>,
}

impl StateLocation {
    /// Finds the state folder; `given` is the flag's, `cluster` the id of the Swarm.
    pub fn find(
        docker: &Docker,
        compose: &ComposeArgs,
        given: Option<&Path>,
        cluster: Option<&str>,
        project: &str,
    ) -> StateLocation {
        let by_name = compose.state_dir(given, cluster);
        if cluster.is_some() {
            return StateLocation { state_dir: by_name, engine: None };
        }
        // Reading releases needs no engine.
        let Some(info) = docker.info().ok().filter(|info| !info.id.is_empty()) else {
            return StateLocation { state_dir: by_name, engine: None };
        };
        let root = compose.state_root(given);
        let is_here = |folder: &Path| has_images_of(docker, folder, project);
        let find = |engine: EngineId| StateLocation {
            state_dir: engine_folder::find_folder(&root, &by_name, project, &engine, &is_here),
            engine: Some(engine),
        };
        let engine = EngineId::new(&info.id, &info.name);
        if engine_folder::is_known(&root, &by_name, project, &engine) {
            return find(engine);
        }
        let is_lasting = docker.info().is_ok_and(|again| again.id == info.id);
        let own = || docker.assigned_identity().ok().filter(|id| !id.is_empty());
        find(if is_lasting { engine } else { EngineId::new(&own().unwrap_or(info.id), &info.name) })
    }
}

/// True if the engine has an image of a release in this folder, or if the folder has no release.
fn has_images_of(docker: &Docker, folder: &Path, project: &str) -> bool {
    let Ok(history) = Store::new(folder, project).and_then(|store| store.history()) else { return true };
    let images =
        history.newest_first().flat_map(|r| r.services.values()).map(|release| release.image_id.clone());
    let ids: BTreeSet<String> = images.filter(|id| !id.is_empty()).collect();
    let ids: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    ids.is_empty() || docker.images(&ids).is_ok_and(|found| !found.is_empty())
}
