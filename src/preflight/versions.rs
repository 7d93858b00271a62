//! Minimum versions of Compose and of the engine.

use crate::finding::Finding;

/// First Compose with `--dry-run` (docker/compose pull request 10533), by which a deploy detects what Compose would stop.
const MIN_COMPOSE: (u32, u32) = (2, 18);

/// Oldest engine that deploys were tested on.
const MIN_ENGINE: (u32, u32) = (20, 10);

/// Findings on versions that are too old.
pub fn findings(compose: Option<&str>, engine: Option<&str>) -> Vec<Finding> {
    let compose = compose.and_then(too_old(MIN_COMPOSE)).map(|version| {
        let message = format!(
            "Compose {version} has no `--dry-run`, by which a deploy detects what Compose would stop"
        );
        let fix = "install Compose 2.18 or later (the package `docker-compose-plugin`)";
        Finding::loss("compose-too-old", message, fix)
    });
    let engine = engine.and_then(too_old(MIN_ENGINE)).map(|version| {
        let message = format!("deploys were never tested on a Docker Engine as old as {version}");
        Finding::note("engine-too-old", message, "install Docker Engine 20.10 or later")
    });
    compose.into_iter().chain(engine).collect()
}

/// The version, if it is certainly older than `least`.
fn too_old(least: (u32, u32)) -> impl Fn(&str) -> Option<&str> {
    move |text| {
        let version = text.trim().trim_start_matches('v');
        let mut parts = version.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
        let numbers = (parts.next()?, parts.next().unwrap_or(0));
        (numbers < least).then_some(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_version_that_is_certainly_older_is_too_old() {
        let compose = |version| !findings(Some(version), None).is_empty();
        let engine = |version| !findings(None, Some(version)).is_empty();
        assert!(["v2.17.3", "2.2.2", "1.29.2", "2"].into_iter().all(compose));
        assert!(!["v2.18.0", "2.40.3-3", "5.0.0", "dev", ""].into_iter().any(compose));
        assert!(["19.03.15", "18.09.7"].into_iter().all(engine));
        assert!(!["20.10.24+dfsg1", "29.0.0-rc.1", ""].into_iter().any(engine));
        assert!(findings(None, None).is_empty());
    }
}
