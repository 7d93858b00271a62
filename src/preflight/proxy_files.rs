//! Notes about a proxy whose files changed since it read them. A deploy is not the moment at which a user expects them to
//! take effect.

use anyhow::Result;

use super::Surroundings;
use crate::finding::Finding;
use crate::mounted_files::{self, FileChange, ProxyWay};
use crate::proxy::Proxy;

/// Notes about the proxies in front of a target.
///
/// # Errors
/// The engine does not answer.
pub fn findings(around: &Surroundings) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for proxy in around.fronting {
        let (report, way) = mounted_files::of_proxy(around.reader.docker, proxy.as_ref(), &[])?;
        found.extend(way.and_then(|way| finding(proxy.as_ref(), &report.changes, way)));
    }
    Ok(found)
}

fn finding(proxy: &dyn Proxy, changes: &[FileChange], way: ProxyWay) -> Option<Finding> {
    let name = proxy.name();
    let (rule, message, hint) = match way {
        ProxyWay::Watched => return None,
        ProxyWay::Reload if proxy.abilities().reloads => (
            "proxy-file-edited",
            format!("{name}: {}; the reload of this deploy puts the change into effect", list(changes)),
            "undo an edit that is not finished",
        ),
        ProxyWay::Reload => (
            "proxy-file-edited",
            format!("{name}: {}; a deploy does not reload this proxy", list(changes)),
            "`compose-zd up` tests and reloads it",
        ),
        ProxyWay::Recreate(why) => (
            "proxy-file-replaced",
            format!("{name}: {why}, so a reload has no effect"),
            "mount its folder instead of the file, and the proxy gets new files, too; a new container of the proxy has the \
             file, with downtime: `compose-zd up --yes`",
        ),
    };
    Some(Finding::note(rule, message, hint))
}

/// Changed files as a text.
fn list(changes: &[FileChange]) -> String {
    let first = changes.first().map(ToString::to_string).unwrap_or_default();
    match changes.len() {
        0 | 1 => first,
        n => format!("{first}, and {} more files changed", n - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::inspect::Container;
    use crate::mounted_files::ChangeKind;
    use crate::proxy;

    fn note(image: &str, way: ProxyWay) -> Option<(&'static str, String)> {
        let json = format!(r#"{{"Id": "c", "Name": "/lb", "Config": {{"Image": "{image}"}}}}"#);
        let container: Container = serde_json::from_str(&json).unwrap();
        let proxy = proxy::detect(&[container]).pop().unwrap();
        let change = |path: &str| FileChange {
            path: path.into(),
            source: Some(format!("/srv{path}")),
            kind: ChangeKind::Edited,
        };
        let finding = finding(proxy.as_ref(), &[change("/a"), change("/b")], way)?;
        assert!(!finding.is_loss() && !finding.hint.is_empty());
        Some((finding.rule, finding.message))
    }

    #[test]
    fn a_changed_file_is_reported_with_its_effect() {
        let (rule, nginx) = note("nginx", ProxyWay::Reload).unwrap();
        assert_eq!(rule, "proxy-file-edited");
        assert!(
            nginx.starts_with("nginx `lb`: `/srv/a` was edited after the container read it, and 1 more"),
            "{nginx}"
        );
        assert!(nginx.ends_with("the reload of this deploy puts the change into effect"), "{nginx}");
        let (_, haproxy) = note("haproxy", ProxyWay::Reload).unwrap();
        assert!(haproxy.ends_with("a deploy does not reload this proxy"), "{haproxy}");
        let (rule, replaced) = note("haproxy", ProxyWay::Recreate("`a` is gone".into())).unwrap();
        assert_eq!(
            (rule, replaced.as_str()),
            ("proxy-file-replaced", "haproxy `lb`: `a` is gone, so a reload has no effect")
        );
        assert_eq!(note("traefik", ProxyWay::Watched), None);
    }
}
