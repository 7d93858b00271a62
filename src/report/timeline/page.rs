//! The page around the drawing: results, legend and table.

use std::fmt::Write;

use super::axis::{label, two_decimals};
use super::svg::{DESKTOP, PHONE, css_class, draw};
use super::{Timeline, spans};
use crate::report::record::EventRecord;
use crate::report::text::printable;
use crate::report::timeline_model::{InstancePhase, InstanceTrack};

const STYLE: &str = include_str!("page.css");

const PHASES: [InstancePhase; 8] = [
    InstancePhase::Created,
    InstancePhase::Starting,
    InstancePhase::Ready,
    InstancePhase::InRotation,
    InstancePhase::Draining,
    InstancePhase::Failed,
    InstancePhase::OutOfRotation,
    InstancePhase::Stopped,
];

/// The HTML page of a run.
pub fn page(records: &[EventRecord]) -> String {
    let timeline = Timeline::from_records(records);
    let title = escape(&timeline.title);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title} · compose-zd</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
    );
    let class = match (timeline.failed, timeline.lossy) {
        (true, _) => "failed",
        (false, true) => "lossy",
        (false, false) => "good",
    };
    for result in &timeline.results {
        let _ = writeln!(html, "<p class=\"{class}\">{}</p>", escape(result));
    }
    for line in &timeline.witness {
        let _ = writeln!(html, "<p>{}</p>", escape(line));
    }
    let _ = writeln!(html, "<p class=\"quiet\">{} · {}</p>", escape(&timeline.started), label(timeline.end));
    if !timeline.tracks.is_empty() {
        html.push_str(&legend(&timeline));
        html.push_str(&draw(&timeline, DESKTOP, "desk"));
        html.push_str(&draw(&timeline, PHONE, "phone"));
        html.push_str(&table(&timeline));
    }
    for warning in &timeline.warnings {
        let _ = writeln!(html, "<p class=\"quiet\">warning: {}</p>", escape(warning));
    }
    html.push_str("</main>\n</body>\n</html>\n");
    html
}

/// Colours that occur in the drawing.
fn legend(timeline: &Timeline) -> String {
    let used =
        |phase: &&InstancePhase| timeline.tracks.iter().any(|t| t.phases.iter().any(|(_, p)| p == *phase));
    let item = |phase: &InstancePhase| {
        format!("<span><i class=\"{}\"></i>{}</span>", css_class(*phase), phase.label())
    };
    let items: Vec<String> = PHASES.iter().filter(used).map(item).collect();
    format!("<p class=\"key\">{}</p>\n", items.join(" "))
}

/// The bars as a table, for screen readers.
fn table(timeline: &Timeline) -> String {
    let mut html =
        String::from("<table>\n<thead><tr><th>instance</th><th>phases</th></tr></thead>\n<tbody>\n");
    for track in &timeline.tracks {
        let kind = if track.new { "new" } else { "old" };
        let _ = writeln!(
            html,
            "<tr><td>{} <small>{kind}</small></td><td>{}</td></tr>",
            escape(&track.name),
            escape(&phases_in_words(track, timeline))
        );
    }
    html.push_str("</tbody>\n</table>\n");
    html
}

fn phases_in_words(track: &InstanceTrack, timeline: &Timeline) -> String {
    let phase_text = |(from, to, phase): (_, _, InstancePhase)| match phase {
        InstancePhase::Removed => format!("removed at {} s", two_decimals(from)),
        _ => format!("{} {}–{} s", phase.label(), two_decimals(from), two_decimals(to)),
    };
    spans(track, timeline.end).into_iter().map(phase_text).collect::<Vec<_>>().join(", ")
}

/// Foreign text without markup and without invisible characters.
pub fn escape(text: &str) -> String {
    let mut safe = String::new();
    for c in printable(text).chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}
