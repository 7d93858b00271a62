//! Text of an audit report: one line for each service, then the losses, then the notes, then what is unknown.

use super::audit_report::{AuditReport, Unknown, Verdict, VerdictRow};
use crate::finding::Finding;

/// Minimum width at which lines are wrapped, on any terminal.
const MIN_WIDTH: usize = 40;

/// Number of services that a line names; more are only counted.
const MAX_NAMES: usize = 3;

/// Rule of refusals that have no rule of their own, and nothing in common.
const REFUSED: &str = "refused";

const NOTHING_AUDITED: &str =
    "no service gets requests from outside of this project; `compose-zd check SERVICE` checks one by name";

pub struct Page {
    width: Option<usize>,
    quiet: bool,
    verbose: bool,
}

impl Page {
    pub fn new(width: Option<usize>, quiet: bool, verbose: bool) -> Page {
        Page { width: width.map(|w| w.max(MIN_WIDTH)), quiet, verbose }
    }

    pub fn lines(&self, report: &AuditReport) -> Vec<String> {
        let (losses, notes): (Vec<_>, Vec<_>) = report.findings.iter().partition(|f| f.is_loss());
        let mut lines = self.services(&report.services);
        lines.extend(self.findings("no", &losses));
        if self.quiet {
            return lines;
        }
        lines.extend(self.findings("note", &notes));
        if !report.services.is_empty() && report.services.iter().all(|r| r.verdict == Verdict::LeftAlone) {
            lines.extend(self.paragraph("", NOTHING_AUDITED));
        }
        if !report.not_audited.is_empty() {
            lines.push("not checked".into());
            let text = |unknown: &Unknown| self.paragraph("  - ", &unknown.text(MAX_NAMES));
            lines.extend(report.not_audited.iter().flat_map(text));
        }
        lines
    }

    fn services(&self, rows: &[VerdictRow]) -> Vec<String> {
        let widest = rows.iter().map(|r| r.name.chars().count()).max().unwrap_or(0);
        let line = |row: &VerdictRow| {
            let verdict = match row.verdict {
                Verdict::Yes => "yes",
                Verdict::No => "no",
                Verdict::LeftAlone => "-",
            };
            self.paragraph(&format!("{:<widest$}  {verdict:<3}  ", row.name), &row.message)
        };
        rows.iter().filter(|row| !self.quiet || row.verdict == Verdict::No).flat_map(line).collect()
    }

    /// Findings of one rule are one finding, which names the other services.
    fn findings(&self, severity: &str, findings: &[&Finding]) -> Vec<String> {
        let mut groups: Vec<(&Finding, Vec<&str>)> = Vec::new();
        for finding in findings {
            let is_same = |first: &Finding| {
                first.rule == finding.rule && first.rule != REFUSED && first.service().is_some()
            };
            let known = groups.iter_mut().find(|(first, _)| is_same(first));
            match (known, finding.service()) {
                (Some((first, others)), Some(service))
                    if !self.verbose && first.service() != Some(service) =>
                {
                    if !others.contains(&service) {
                        others.push(service);
                    }
                }
                _ => groups.push((finding, Vec::new())),
            }
        }
        groups.iter().flat_map(|(first, others)| self.finding(severity, first, others)).collect()
    }

    fn finding(&self, severity: &str, finding: &Finding, others: &[&str]) -> Vec<String> {
        let proxy = finding.proxy().filter(|name| !finding.message.contains(*name));
        let prefix = proxy.map(|name| format!("{name}: ")).unwrap_or_default();
        let message = finding.message.replace('\n', " ");
        // Each loss has to be repaired, so each is named.
        let also = also(others, if finding.is_loss() { usize::MAX } else { MAX_NAMES });
        let mut lines =
            self.paragraph(&format!("{severity:<6}"), &format!("{prefix}{message}{also} [{}]", finding.rule));
        if !finding.hint.is_empty() {
            lines.extend(self.paragraph(&" ".repeat(6), &format!("hint: {}", finding.hint)));
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

/// Services of which a finding is true as well, by name up to a number.
fn also(others: &[&str], limit: usize) -> String {
    match others.len() {
        0 => String::new(),
        n if n > limit => format!("; also {n} other services"),
        _ => {
            format!("; also {}", others.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
        }
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
        let moves = |service: &str| {
            Finding::note("moving-image", format!("`{service}` moves"), "name a version").of_service(service)
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
                moves("app"),
                Finding::loss("container-name", "it has one name", "remove it").of_service("worker"),
                moves("worker"),
                Finding::loss("nginx-keepalive", "it is old", "use a new one")
                    .or_of(|| Subject::Proxy("lb".into())),
                Finding::note("engine-too-old", "it is older", ""),
            ],
            not_audited: vec![Unknown::new("stop signal", "no instance runs").of("app")],
        }
    }

    fn text(quiet: bool, verbose: bool) -> String {
        Page::new(None, quiet, verbose).lines(&report()).join("\n")
    }

    #[test]
    fn verdicts_come_first_then_losses_then_notes() {
        let expected = "\
app     yes  2 instances behind lb
worker  no   1 instance
db      -    left alone
no    it has one name [container-name]
      hint: remove it
no    lb: it is old [nginx-keepalive]
      hint: use a new one
note  `app` moves; also `worker` [moving-image]
      hint: name a version
note  it is older [engine-too-old]
not checked
  - stop signal of `app`: no instance runs";
        assert_eq!(text(false, false), expected);
    }

    #[test]
    fn a_verbose_report_has_each_note_by_itself() {
        let note =
            |service: &str| format!("note  `{service}` moves [moving-image]\n      hint: name a version\n");
        let text = text(false, true);
        assert!(text.contains(&(note("app") + &note("worker"))), "{text}");
    }

    #[test]
    fn a_quiet_report_has_only_losses_and_their_fixes() {
        let expected = "\
worker  no   1 instance
no    it has one name [container-name]
      hint: remove it
no    lb: it is old [nginx-keepalive]
      hint: use a new one";
        assert_eq!(text(true, false), expected);
    }

    #[test]
    fn a_project_of_services_that_are_left_alone_says_so() {
        let mut report = report();
        report.findings.clear();
        report.services.iter_mut().for_each(|row| row.verdict = Verdict::LeftAlone);
        let lines = Page::new(None, false, false).lines(&report);
        assert!(lines.contains(&NOTHING_AUDITED.to_string()), "{lines:?}");
    }

    #[test]
    fn many_other_services_are_counted() {
        assert_eq!(also(&[], 1), "");
        assert_eq!(also(&["a"], 1), "; also `a`");
        assert_eq!(also(&["a", "b"], 1), "; also 2 other services");
    }

    #[test]
    fn a_line_is_wrapped_between_words_with_a_hanging_indent() {
        let page = Page { width: Some(12), quiet: false, verbose: false };
        assert_eq!(page.paragraph("ab  ", "one two three\n four"), ["ab  one two", "    three", "    four"]);
        assert_eq!(page.paragraph("  ", "unbreakably-long x"), ["  unbreakably-long", "  x"]);
        assert_eq!(page.paragraph("ab  ", ""), ["ab"]);
    }
}
