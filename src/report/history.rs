//! The list of releases, as data and as a table. Pure.

use serde::Serialize;

use super::probes::LossCount;

/// Document of `history --output json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistoryReport {
    pub project: String,
    /// Newest first.
    pub releases: Vec<ReleaseRow>,
    /// Release that `rollback` restores.
    pub rollback_to: Option<u32>,
}

/// One release. An unreadable record has only a number and a result.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ReleaseRow {
    pub release: u32,
    /// `deployed`, `rolled back to 5`, `failed`, `paused`, `interrupted`, `imported`, `unreadable`.
    pub result: String,
    /// The rollout completed.
    #[serde(skip)]
    pub good: bool,
    /// Reason of a failure.
    pub reason: Option<String>,
    /// The services below still run as this release deployed them; one at least.
    pub serving: bool,
    /// Those services.
    pub serves: Vec<String>,
    /// The configuration is kept, so that a rollback can restore the release.
    pub kept: bool,
    pub started: Option<String>,
    pub seconds: Option<f64>,
    pub services: Vec<DeployedService>,
    pub revision: Option<String>,
    pub dirty: bool,
    pub user: Option<String>,
    pub command: Option<String>,
    /// Requests that the drain timeout cut off.
    pub cut_off: u64,
    /// Requests of the witness; none without a witness.
    pub witness: Option<LossCount>,
}

/// A service that the rollout deployed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeployedService {
    pub service: String,
    /// Empty if not recorded.
    pub image: String,
}

pub const COLUMNS: [&str; 8] =
    ["RELEASE", "STARTED (UTC)", "TOOK", "RESULT", "LOST", "SERVICES", "REVISION", "BY"];

/// Columns that a narrow terminal does not have, the least important first.
pub const OPTIONAL_COLUMNS: [&str; 4] = ["BY", "REVISION", "TOOK", "LOST"];

impl HistoryReport {
    pub fn new(project: &str) -> HistoryReport {
        HistoryReport { project: project.into(), releases: Vec::new(), rollback_to: None }
    }

    pub fn rows(&self) -> Vec<Vec<String>> {
        self.releases.iter().map(row).collect()
    }
}

fn row(release: &ReleaseRow) -> Vec<String> {
    let dash = || "-".to_string();
    let short = |revision: &String| revision.chars().take(10).collect::<String>();
    let dirty = if release.dirty { " (dirty)" } else { "" };
    let services = release.services.iter().map(|DeployedService { service, image }| {
        let mark = if release.serves.contains(service) { "*" } else { "" };
        if image.is_empty() { format!("{mark}{service}") } else { format!("{mark}{service}: {image}") }
    });
    vec![
        release.release.to_string(),
        release.started.as_deref().map_or_else(dash, minutes),
        release.seconds.map_or_else(dash, |s| format!("{s:.1}s")),
        result(release),
        losses(release),
        services.collect::<Vec<_>>().join(", "),
        release.revision.as_ref().map_or_else(dash, |r| short(r) + dirty),
        release.user.clone().unwrap_or_else(dash),
    ]
}

/// `2026-01-01 00:00` of a time in RFC 3339.
fn minutes(time: &str) -> String {
    time.chars().take(16).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

/// `deployed with losses` for a completed rollout that lost requests.
fn result(release: &ReleaseRow) -> String {
    let has_losses = release.cut_off > 0 || release.witness.as_ref().is_some_and(|w| w.lost > 0);
    let losses = if release.good && has_losses { " with losses" } else { "" };
    let kept = if release.good && !release.kept { ", not kept" } else { "" };
    format!("{}{losses}{kept}", release.result)
}

/// `0 of 58, 2 cut`: losses of the witness, and requests that the drain timeout cut off.
fn losses(release: &ReleaseRow) -> String {
    let witness = release.witness.as_ref().map(|w| format!("{} of {}", w.lost, w.sent));
    let cut = (release.cut_off > 0).then(|| format!("{} cut", release.cut_off));
    let parts: Vec<String> = witness.into_iter().chain(cut).collect();
    if parts.is_empty() { "-".into() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release() -> ReleaseRow {
        ReleaseRow {
            release: 7,
            result: "deployed".into(),
            good: true,
            kept: true,
            started: Some("2026-01-01T00:00:00Z".into()),
            seconds: Some(6.04),
            services: vec![DeployedService { service: "app".into(), image: "shop:42".into() }],
            revision: Some("0123456789abcdef".into()),
            dirty: true,
            user: Some("ann@build".into()),
            witness: Some(LossCount { sent: 58, lost: 0 }),
            ..ReleaseRow::default()
        }
    }

    #[test]
    fn a_release_is_a_row() {
        assert_eq!(
            row(&release()).join(" | "),
            "7 | 2026-01-01 00:00 | 6.0s | deployed | 0 of 58 | app: shop:42 | 0123456789 (dirty) | ann@build"
        );
        let serves = ReleaseRow { serves: vec!["app".into()], cut_off: 2, ..release() };
        assert_eq!((row(&serves)[5].as_str(), row(&serves)[4].as_str()), ("*app: shop:42", "0 of 58, 2 cut"));
        let gone = ReleaseRow { kept: false, witness: None, ..release() };
        assert_eq!((row(&gone)[3].as_str(), row(&gone)[4].as_str()), ("deployed, not kept", "-"));
    }

    #[test]
    fn a_release_with_losses_is_marked() {
        let result = |release: ReleaseRow| row(&release)[3].clone();
        let losses = Some(LossCount { sent: 58, lost: 3 });
        assert_eq!(result(release()), "deployed");
        assert_eq!(result(ReleaseRow { witness: losses, ..release() }), "deployed with losses");
        assert_eq!(result(ReleaseRow { cut_off: 1, ..release() }), "deployed with losses");
        let failed = ReleaseRow { result: "failed".into(), good: false, witness: losses, ..release() };
        assert_eq!(result(failed), "failed");
    }

    #[test]
    fn an_unreadable_record_keeps_its_number() {
        let unreadable = ReleaseRow { release: 6, result: "unreadable".into(), ..ReleaseRow::default() };
        assert_eq!(row(&unreadable)[..5], ["6", "-", "-", "unreadable", "-"]);
    }
}
