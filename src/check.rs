//! What a project would lose by a deploy, told before the first one: rules get facts and give findings, each with its
//! fix. Pure; `deploy/check.rs` gathers the facts.

pub mod finding;
pub mod memory;
pub mod service;
pub mod signals;
pub mod version;

mod render;

use serde::Serialize;

pub use finding::{Finding, Scope, Severity};

/// Whether a deploy would lose anything of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Yes,
    No,
    /// A deploy leaves it alone, so it is not judged.
    LeftAlone,
}

/// A service or a pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerdictRow {
    pub name: String,
    /// Itself, or the sides of the pair.
    pub services: Vec<String>,
    pub verdict: Verdict,
    /// How it runs, or why it is left alone.
    pub message: String,
    /// The proxies in front of it.
    pub proxies: Vec<String>,
}

/// What is told in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    pub project: String,
    pub engine: &'static str,
    /// Nothing is lost.
    pub ok: bool,
    pub services: Vec<VerdictRow>,
    pub findings: Vec<Finding>,
    /// What could not be judged, and why.
    pub not_audited: Vec<String>,
}

impl AuditReport {
    /// Gives every service its verdict: what it is itself, what the proxies in front of it are, and what the project is.
    pub fn with_verdicts(mut self) -> AuditReport {
        let mut known = Vec::new();
        self.findings.retain(|f| {
            let is_new = !known.contains(f);
            known.extend(is_new.then(|| f.clone()));
            is_new
        });
        self.not_audited.dedup();
        let nos: Vec<&Scope> = self.findings.iter().filter(|f| f.is_no()).map(|f| &f.scope).collect();
        for row in self.services.iter_mut().filter(|r| r.verdict != Verdict::LeftAlone) {
            let concerns = |about: &&Scope| match (&about.service, &about.proxy) {
                (Some(service), _) => row.services.contains(service),
                (_, Some(proxy)) => row.proxies.contains(proxy),
                (None, None) => true,
            };
            row.verdict = if nos.iter().any(concerns) { Verdict::No } else { Verdict::Yes };
        }
        self.ok = nos.is_empty();
        self
    }

    /// The names of those that would lose something.
    pub fn losing_services(&self) -> Vec<&str> {
        let losing = self.services.iter().filter(|r| r.verdict == Verdict::No);
        losing.map(|r| r.name.as_str()).collect()
    }

    /// As lines for people, at most `width` columns wide where that is known; nothing but what is lost where it has to be
    /// quiet.
    pub fn lines(&self, width: Option<usize>, quiet: bool) -> Vec<String> {
        render::lines(self, width, quiet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, services: &[&str], proxies: &[&str]) -> VerdictRow {
        let list = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
        VerdictRow {
            name: name.into(),
            services: list(services),
            verdict: Verdict::Yes,
            message: String::new(),
            proxies: list(proxies),
        }
    }

    fn verdicts(findings: Vec<Finding>) -> (Vec<Verdict>, bool) {
        let left = VerdictRow { verdict: Verdict::LeftAlone, ..row("db", &["db"], &[]) };
        let services = vec![row("web", &["web_a", "web_b"], &["lb"]), row("worker", &["worker"], &[]), left];
        let sheet = AuditReport {
            project: "p".into(),
            engine: "compose",
            ok: true,
            services,
            findings,
            not_audited: Vec::new(),
        };
        let sheet = sheet.with_verdicts();
        (sheet.services.iter().map(|r| r.verdict).collect(), sheet.ok)
    }

    #[test]
    fn a_service_loses_by_itself_by_its_proxy_or_by_the_project() {
        use Verdict::{LeftAlone, No, Yes};
        let no = |about| vec![Finding::no("x", about, "", "")];
        assert_eq!(verdicts(vec![]), (vec![Yes, Yes, LeftAlone], true));
        assert_eq!(verdicts(no(Scope::service("web_b"))), (vec![No, Yes, LeftAlone], false));
        assert_eq!(verdicts(no(Scope::proxy("lb"))), (vec![No, Yes, LeftAlone], false));
        assert_eq!(verdicts(no(Scope::default())), (vec![No, No, LeftAlone], false));
        let note = vec![Finding::note("x", Scope::service("worker"), "", "")];
        assert_eq!(verdicts(note), (vec![Yes, Yes, LeftAlone], true));
    }

    #[test]
    fn what_two_services_have_in_common_is_told_once() {
        let finding = || Finding::no("x", Scope::proxy("lb"), "a", "b");
        let sheet = AuditReport {
            project: "p".into(),
            engine: "compose",
            ok: true,
            services: vec![],
            findings: vec![finding(), finding()],
            not_audited: vec!["u".into(), "u".into()],
        };
        let sheet = sheet.with_verdicts();
        assert_eq!((sheet.findings.len(), sheet.not_audited.len()), (1, 1));
    }

    #[test]
    fn json_has_the_documented_keys() {
        let sheet = AuditReport {
            project: "p".into(),
            engine: "compose",
            ok: false,
            services: vec![VerdictRow { verdict: Verdict::LeftAlone, ..row("db", &["db"], &["lb"]) }],
            findings: vec![Finding::no("container-name", Scope::service("app"), "s", "f")],
            not_audited: vec![],
        };
        let json = serde_json::to_string(&sheet).unwrap();
        assert_eq!(
            json,
            r#"{"project":"p","engine":"compose","ok":false,"services":[{"name":"db","services":["db"],"verdict":"left_alone","message":"","proxies":["lb"]}],"findings":[{"rule":"container-name","severity":"no","service":"app","message":"s","hint":"f"}],"not_audited":[]}"#
        );
    }
}
