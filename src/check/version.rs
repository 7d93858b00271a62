//! Which Compose and which engine can do what a deploy asks of them.

use super::finding::{Finding, Scope};

/// `docker compose --dry-run` (docker/compose pull request 10533) is how a deploy sees what Compose would stop.
const MIN_COMPOSE: (u32, u32) = (2, 18);

/// The oldest that deploys were run on.
const MIN_ENGINE: (u32, u32) = (20, 10);

/// Judges the versions that they tell of themselves.
pub fn findings(compose: Option<&str>, engine: Option<&str>) -> Vec<Finding> {
    let compose = compose.and_then(too_old(MIN_COMPOSE)).map(|version| {
        let says =
            format!("Compose {version} has no `--dry-run`, by which a deploy sees what Compose would stop");
        let fix = "install Compose 2.18 or later (the package `docker-compose-plugin`)";
        Finding::no("compose-too-old", Scope::default(), says, fix)
    });
    let engine = engine.and_then(too_old(MIN_ENGINE)).map(|version| {
        let says = format!("no deploy was ever run on a Docker Engine as old as {version}");
        Finding::note("engine-too-old", Scope::default(), says, "install Docker Engine 20.10 or later")
    });
    compose.into_iter().chain(engine).collect()
}

/// A version that is known to be older than this.
fn too_old(least: (u32, u32)) -> impl Fn(&str) -> Option<&str> {
    move |text| {
        let version = text.trim().trim_start_matches('v');
        let mut parts = version.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
        let read = (parts.next()?, parts.next().unwrap_or(0));
        (read < least).then_some(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_older_is_too_old() {
        let compose = |version| !findings(Some(version), None).is_empty();
        let engine = |version| !findings(None, Some(version)).is_empty();
        assert!(["v2.17.3", "2.2.2", "1.29.2", "2"].into_iter().all(compose));
        assert!(!["v2.18.0", "2.40.3-3", "5.0.0", "dev", ""].into_iter().any(compose));
        assert!(["19.03.15", "18.09.7"].into_iter().all(engine));
        assert!(!["20.10.24+dfsg1", "29.0.0-rc.1", ""].into_iter().any(engine));
        assert!(findings(None, None).is_empty());
    }
}
