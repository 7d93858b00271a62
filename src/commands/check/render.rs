//! Text of an audit report: the services with their findings, then the proxies, then the project.

use super::audit_report::{AuditReport, Verdict, VerdictRow};
use crate::finding::Finding;

/// Column at which the text of a finding begins.
const INDENT: usize = 8;

/// Minimum width at which lines are wrapped, on any terminal.
const MIN_WIDTH: usize = 40;

pub fn lines(report: &AuditReport, width: Option<usize>, quiet: bool) -> Vec<String> {
    let page = Page { width: width.map(|w| w.max(MIN_WIDTH)), quiet };
    let mut lines = page.services(report);
    let mut proxies: Vec<&str> = Vec::new();
    for proxy in report.findings.iter().filter_map(Finding::proxy) {
        if !proxies.contains(&proxy) {
            proxies.push(proxy);
            lines.extend(page.section(proxy, report.findings.iter().filter(|f| f.proxy() == Some(proxy))));
        }
    }
    let of_project = |f: &&Finding| f.proxy().is_none() && !is_shown(f, &report.services);
    lines.extend(page.section("the project", report.findings.iter().filter(of_project)));
    if !quiet && !report.not_audited.is_empty() {
        lines.push("not checked".into());
        lines.extend(report.not_audited.iter().flat_map(|text| page.paragraph("  - ", text)));
    }
    lines
}

/// The finding is listed below its service.
fn is_shown(finding: &Finding, rows: &[VerdictRow]) -> bool {
    rows.iter().any(|row| row.has(finding))
}

struct Page {
    width: Option<usize>,
    quiet: bool,
}

impl Page {
    fn services(&self, report: &AuditReport) -> Vec<String> {
        let widest = report.services.iter().map(|r| r.name.chars().count()).max().unwrap_or(0);
        let service_lines = |row: &VerdictRow| {
            let verdict = match row.verdict {
                Verdict::Yes => "yes",
                Verdict::No => "no",
                Verdict::LeftAlone => "-",
            };
            let head = format!("{:<widest$}  {verdict:<3}  ", row.name);
            let own = report.findings.iter().filter(|f| row.has(f));
            let shown = !self.quiet || row.verdict == Verdict::No;
            let first = if shown { self.paragraph(&head, &row.message) } else { Vec::new() };
            first.into_iter().chain(own.flat_map(|f| self.finding(f))).collect::<Vec<_>>()
        };
        report.services.iter().flat_map(service_lines).collect()
    }

    /// A heading with findings; nothing without findings.
    fn section<'f>(&self, name: &str, findings: impl Iterator<Item = &'f Finding>) -> Vec<String> {
        let lines: Vec<String> = findings.flat_map(|f| self.finding(f)).collect();
        let head = (!lines.is_empty()).then(|| name.to_string());
        head.into_iter().chain(lines).collect()
    }

    fn finding(&self, finding: &Finding) -> Vec<String> {
        if self.quiet && !finding.is_loss() {
            return Vec::new();
        }
        let severity = if finding.is_loss() { "  no    " } else { "  note  " };
        let text = format!("{} [{}]", finding.message.replace('\n', " "), finding.rule);
        let mut lines = self.paragraph(severity, &text);
        if !finding.hint.is_empty() {
            lines.extend(self.paragraph(&" ".repeat(INDENT), &format!("hint: {}", finding.hint)));
        }
        lines
    }

    /// Wrapped text with a hanging indent; longer words stay whole.
    fn paragraph(&self, head: &str, text: &str) -> Vec<String> {
        let indent = " ".repeat(head.chars().count());
        let mut lines = vec![head.to_string()];
        for (n, word) in text.split_whitespace().enumerate() {
            let line = lines.last_mut().expect("there is one");
            let length = line.chars().count() + 1 + word.chars().count();
            match n {
                0 => line.push_str(word),
                _ if self.width.is_some_and(|w| length > w) => lines.push(format!("{indent}{word}")),
                _ => line.push_str(&format!(" {word}")),
            }
        }
        lines.iter().map(|l| l.trim_end().to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Subject;

    fn report() -> AuditReport {
        let row = |name: &str, verdict, message: &str| VerdictRow {
            name: name.into(),
            services: vec![name.into()],
            verdict,
            message: message.into(),
            proxies: vec!["lb".into()],
        };
        AuditReport {
            project: "p".into(),
            engine: "compose",
            ok: false,
            services: vec![
                row("app", Verdict::Yes, "2 instances behind lb"),
                row("worker", Verdict::No, "1 instance"),
                row("db", Verdict::LeftAlone, "left alone"),
            ],
            findings: vec![
                Finding::note("moving-image", "it moves", "name a version").of_service("app"),
                Finding::loss("container-name", "it has one name", "remove it").of_service("worker"),
                Finding::loss("nginx-keepalive", "it is old", "use a new one")
                    .or_of(|| Subject::Proxy("lb".into())),
                Finding::note("engine-too-old", "it is older", ""),
            ],
            not_audited: vec!["the stop signal".into()],
        }
    }

    #[test]
    fn the_services_come_first_then_the_proxies_then_the_project() {
        let expected = "\
app     yes  2 instances behind lb
  note  it moves [moving-image]
        hint: name a version
worker  no   1 instance
  no    it has one name [container-name]
        hint: remove it
db      -    left alone
lb
  no    it is old [nginx-keepalive]
        hint: use a new one
the project
  note  it is older [engine-too-old]
not checked
  - the stop signal";
        assert_eq!(lines(&report(), None, false).join("\n"), expected);
    }

    #[test]
    fn a_quiet_report_has_only_losses_and_their_fixes() {
        let expected = "\
worker  no   1 instance
  no    it has one name [container-name]
        hint: remove it
lb
  no    it is old [nginx-keepalive]
        hint: use a new one";
        assert_eq!(lines(&report(), None, true).join("\n"), expected);
    }

    #[test]
    fn a_line_is_wrapped_between_words_with_a_hanging_indent() {
        let page = Page { width: Some(12), quiet: false };
        assert_eq!(page.paragraph("ab  ", "one two three\n four"), ["ab  one two", "    three", "    four"]);
        assert_eq!(page.paragraph("  ", "unbreakably-long x"), ["  unbreakably-long", "  x"]);
        assert_eq!(page.paragraph("ab  ", ""), ["ab"]);
    }
}
