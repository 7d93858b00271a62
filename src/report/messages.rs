//! Parts of the texts of events and warnings.

use std::time::Duration;

/// Confirmation of new instances, before the monitor.
pub fn in_service_text(names: &[String], time: Duration, old_instances: &[String], proxied: bool) -> String {
    let (new, after) = (list(names), in_seconds(time));
    match old_instances {
        [] if proxied => format!("{new} in rotation after {after}"),
        [] => format!("{new} in service after {after}"),
        old => format!("{new} in service after {after}, while {} keeps working", list(old)),
    }
}

pub fn total_window(time: Duration) -> String {
    if time.is_zero() {
        return String::new();
    }
    format!("; watching the new instances takes {} in all", rounded(time))
}

pub fn dependents(rolled: &[String], restarted: &[String]) -> String {
    let clauses = [(rolled, "is replaced afterwards"), (restarted, "restarts afterwards")];
    let clauses = clauses.iter().filter(|(names, _)| !names.is_empty());
    clauses.map(|(names, action)| format!("{} {action}", quoted(names))).collect::<Vec<_>>().join(", ")
}

pub fn restoring(release: Option<u32>) -> String {
    release.map(|to| format!(", which restores release {to}")).unwrap_or_default()
}

pub fn placed(release: u32, restored: Option<u32>) -> String {
    match restored {
        Some(to) => format!("is back on release {to} (as release {release})"),
        None => format!("is deployed as release {release}"),
    }
}

/// `in service after 0.7s, done after 5.9s`; the second time only if it differs.
pub fn durations(in_service: Duration, took: Duration) -> String {
    let (after, took) = (in_seconds(in_service), in_seconds(took));
    let done = if after == took { String::new() } else { format!(", done after {took}") };
    format!("in service after {after}{done}")
}

/// `3 requests waited for the replacement, the longest for 3.4s; 1 was refused`
pub fn held_text(requests: usize, longest: Duration, refused: usize) -> String {
    let count = match requests {
        0 => "no request had to wait for the replacement".to_string(),
        1 => format!("1 request waited for the replacement, for {}", in_seconds(longest)),
        n => format!("{n} requests waited for the replacement, the longest for {}", in_seconds(longest)),
    };
    match refused {
        0 => count,
        n => format!("{count}; {n} {} refused", plural(n, "was", "were")),
    }
}

/// `2 requests in flight after 30s (`x-zd.drain.timeout`)`
pub fn drain_timeout(limit: Option<Duration>, requests: usize, unsure: usize) -> String {
    let up_to = if unsure > 0 { "up to " } else { "" };
    let open = plural(requests + unsure, "request in flight", "requests in flight");
    let when = match limit {
        Some(limit) => format!("after {} (`x-zd.drain.timeout`)", humantime::format_duration(limit)),
        None => "at the second signal".into(),
    };
    format!("{up_to}{} {open} {when}", requests + unsure)
}

/// Seconds with one decimal.
pub fn in_seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

/// Seconds with one decimal, or without a fraction if they are whole.
pub fn rounded(time: Duration) -> String {
    in_seconds(time).replace(".0s", "s")
}

pub fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}

pub fn list(names: &[String]) -> String {
    names.join(", ")
}

/// List after a prefix; nothing for an empty list.
pub fn after(prefix: &str, names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("{prefix}{}", list(names)) }
}

/// Each text after a prefix.
pub fn lines_after<'t>(prefix: &str, texts: impl IntoIterator<Item = &'t String>) -> String {
    texts.into_iter().map(|text| format!("{prefix}{text}")).collect()
}

pub fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::warning::Warning;
    use super::*;

    #[test]
    fn a_drain_timeout_reports_the_requests_that_were_cut() {
        let warning = Warning::DrainTimeout {
            names: vec!["app-1".into()],
            limit: Some(Duration::from_secs(30)),
            requests: 1,
            unsure: 0,
        };
        assert_eq!(
            warning.to_string(),
            "app-1 still had 1 request in flight after 30s (`x-zd.drain.timeout`); stopped anyway"
        );
    }
}
