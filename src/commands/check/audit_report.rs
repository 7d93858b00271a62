//! Document of `check`: a verdict for each service, and the findings.

use serde::{Serialize, Serializer};

use crate::finding::{Finding, Subject};

/// Verdict on a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A deploy loses nothing.
    Yes,
    /// A deploy would lose something, or be refused.
    No,
    /// A deploy does not include the service, so it is not audited.
    LeftAlone,
}

/// Verdict on a service or a pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerdictRow {
    pub name: String,
    /// The service, or both sides of the pair.
    pub services: Vec<String>,
    pub verdict: Verdict,
    /// State of the service, or the reason for leaving it alone.
    pub message: String,
    /// Proxies in front of the service.
    pub proxies: Vec<String>,
}

/// A fact that was not available, about the whole project or some services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    fact: String,
    services: Vec<String>,
    reason: String,
}

impl Unknown {
    pub fn new(fact: &str, reason: impl Into<String>) -> Unknown {
        Unknown { fact: fact.into(), services: Vec::new(), reason: reason.into() }
    }

    pub fn of(self, service: &str) -> Unknown {
        Unknown { services: vec![service.into()], ..self }
    }

    /// Text with the names of at most so many services.
    pub fn text(&self, limit: usize) -> String {
        let Unknown { fact, services, reason } = self;
        let names = || services.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        match services.len() {
            0 => format!("{fact}: {reason}"),
            n if n > limit => format!("{fact} of {n} services: {reason}"),
            _ => format!("{fact} of {}: {reason}", names()),
        }
    }
}

impl Serialize for Unknown {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.text(usize::MAX))
    }
}

/// One entry for each fact and reason, with all its services.
fn merged(all: Vec<Unknown>) -> Vec<Unknown> {
    let mut merged: Vec<Unknown> = Vec::new();
    for unknown in all {
        match merged.iter_mut().find(|m| (&m.fact, &m.reason) == (&unknown.fact, &unknown.reason)) {
            Some(known) => known.services.extend(unknown.services),
            None => merged.push(unknown),
        }
    }
    merged
}

/// Document of `check --output json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    pub project: String,
    pub engine: &'static str,
    /// No finding is a loss.
    pub ok: bool,
    pub services: Vec<VerdictRow>,
    pub findings: Vec<Finding>,
    /// Facts that were not available.
    pub not_audited: Vec<Unknown>,
}

impl AuditReport {
    /// Report without findings.
    pub fn new(project: &str) -> AuditReport {
        let project = project.into();
        AuditReport {
            project,
            engine: "compose",
            ok: true,
            services: Vec::new(),
            findings: Vec::new(),
            not_audited: Vec::new(),
        }
    }

    /// Removes duplicate findings, and gives each service its verdict from the findings on the service, its proxies and the
    /// project.
    pub fn with_verdicts(mut self) -> AuditReport {
        let mut unique: Vec<Finding> = Vec::new();
        for mut finding in self.findings {
            let details = finding.details.drain(..).map(|d| format!("; {d}")).collect::<String>();
            finding.message.push_str(&details);
            if !unique.contains(&finding) {
                unique.push(finding);
            }
        }
        self.findings = unique;
        self.not_audited = merged(self.not_audited);
        let losses: Vec<&Finding> = self.findings.iter().filter(|f| f.is_loss()).collect();
        for row in self.services.iter_mut().filter(|r| r.verdict != Verdict::LeftAlone) {
            let concerns = |loss: &&Finding| match &loss.subject {
                Some(Subject::Service(service)) => row.services.contains(service),
                Some(Subject::Proxy(proxy)) => row.proxies.contains(proxy),
                None => true,
            };
            row.verdict = if losses.iter().any(concerns) { Verdict::No } else { Verdict::Yes };
        }
        self.ok = losses.is_empty();
        self
    }

    /// Names of the services that would lose something.
    pub fn losing_services(&self) -> Vec<&str> {
        let losing = self.services.iter().filter(|r| r.verdict == Verdict::No);
        losing.map(|r| r.name.as_str()).collect()
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
        let report = AuditReport { services, findings, ..AuditReport::new("p") };
        let report = report.with_verdicts();
        (report.services.iter().map(|r| r.verdict).collect(), report.ok)
    }

    #[test]
    fn a_loss_concerns_a_service_its_proxy_or_the_whole_project() {
        use Verdict::{LeftAlone, No, Yes};
        let loss = || Finding::loss("x", "", "");
        let of_proxy = loss().or_of(|| Subject::Proxy("lb".into()));
        assert_eq!(verdicts(vec![]), (vec![Yes, Yes, LeftAlone], true));
        assert_eq!(verdicts(vec![loss().of_service("web_b")]), (vec![No, Yes, LeftAlone], false));
        assert_eq!(verdicts(vec![of_proxy]), (vec![No, Yes, LeftAlone], false));
        assert_eq!(verdicts(vec![loss()]), (vec![No, No, LeftAlone], false));
        let note = vec![Finding::note("x", "", "").of_service("worker")];
        assert_eq!(verdicts(note), (vec![Yes, Yes, LeftAlone], true));
    }

    #[test]
    fn a_finding_on_two_services_is_reported_once() {
        let finding = || Finding::loss("x", "a", "b");
        let report = AuditReport { findings: vec![finding(), finding()], ..AuditReport::new("p") };
        assert_eq!(report.with_verdicts().findings.len(), 1);
    }

    #[test]
    fn facts_that_are_unknown_for_the_same_reason_are_one_entry() {
        let memory = |service: &str, reason: &str| Unknown::new("memory", reason).of(service);
        let not_audited =
            vec![memory("a", "x"), memory("b", "y"), memory("c", "x"), Unknown::new("engine", "none")];
        let report = AuditReport { not_audited, ..AuditReport::new("p") }.with_verdicts();
        let texts = |limit| report.not_audited.iter().map(|u| u.text(limit)).collect::<Vec<_>>();
        assert_eq!(texts(2), ["memory of `a`, `c`: x", "memory of `b`: y", "engine: none"]);
        assert_eq!(texts(1), ["memory of 2 services: x", "memory of `b`: y", "engine: none"]);
    }

    #[test]
    fn json_has_the_documented_keys() {
        let report = AuditReport {
            project: "p".into(),
            engine: "compose",
            ok: false,
            services: vec![VerdictRow { verdict: Verdict::LeftAlone, ..row("db", &["db"], &["lb"]) }],
            findings: vec![Finding::loss("container-name", "s", "f").of_service("app")],
            not_audited: vec![],
        };
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(
            json,
            r#"{"project":"p","engine":"compose","ok":false,"services":[{"name":"db","services":["db"],"verdict":"left_alone","message":"","proxies":["lb"]}],"findings":[{"rule":"container-name","severity":"no","service":"app","message":"s","hint":"f"}],"not_audited":[]}"#
        );
    }
}
