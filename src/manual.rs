//! The manual: its chapters, and their forms for a terminal and as manual pages. Pure.

mod chapter;
#[cfg(test)]
mod tests;

pub use chapter::{man_page, plain};

/// Chapters of the manual, in reading order. The first line of a chapter is its title.
pub const TOPICS: [(&str, &str); 29] = [
    ("install", include_str!("manual/install.md")),
    ("no-proxy", include_str!("manual/no-proxy.md")),
    ("port", include_str!("manual/port.md")),
    ("hold", include_str!("manual/hold.md")),
    ("project", include_str!("manual/project.md")),
    ("settings", include_str!("manual/settings.md")),
    ("services", include_str!("manual/services.md")),
    ("update", include_str!("manual/update.md")),
    ("jobs", include_str!("manual/jobs.md")),
    ("releases", include_str!("manual/releases.md")),
    ("recovery", include_str!("manual/recovery.md")),
    ("witness", include_str!("manual/witness.md")),
    ("rules", include_str!("manual/rules.md")),
    ("output", include_str!("manual/output.md")),
    ("json", include_str!("manual/json.md")),
    ("exit-codes", include_str!("manual/exit-codes.md")),
    ("nginx-proxy", include_str!("manual/nginx-proxy.md")),
    ("nginx", include_str!("manual/nginx.md")),
    ("apache", include_str!("manual/apache.md")),
    ("haproxy", include_str!("manual/haproxy.md")),
    ("dockercloud", include_str!("manual/dockercloud.md")),
    ("caddy", include_str!("manual/caddy.md")),
    ("traefik", include_str!("manual/traefik.md")),
    ("swarm", include_str!("manual/swarm.md")),
    ("engines", include_str!("manual/engines.md")),
    ("ci", include_str!("manual/ci.md")),
    ("how-it-works", include_str!("manual/how-it-works.md")),
    ("performance", include_str!("manual/performance.md")),
    ("limits", include_str!("manual/limits.md")),
];

/// Title of a chapter, without the `#`.
pub fn title(chapter: &str) -> &str {
    chapter.lines().next().unwrap_or_default().trim_start_matches(['#', ' '])
}
