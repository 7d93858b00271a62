//! The page around the drawing: what came of it, the key to the colours, and the same in words.

use std::fmt::Write;

use super::axis::{exact, label};
use super::svg::{DESK, PHONE, class_of, draw};
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
    InstancePhase::Aside,
    InstancePhase::Stopped,
];

/// The page of what happened.
pub fn page(entries: &[EventRecord]) -> String {
    let timeline = Timeline::of(entries);
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
        html.push_str(&key(&timeline));
        html.push_str(&draw(&timeline, DESK, "desk"));
        html.push_str(&draw(&timeline, PHONE, "phone"));
        html.push_str(&table(&timeline));
    }
    for warning in &timeline.warnings {
        let _ = writeln!(html, "<p class=\"quiet\">warning: {}</p>", escape(warning));
    }
    html.push_str("</main>\n</body>\n</html>\n");
    html
}

/// The colours that the drawing has.
fn key(timeline: &Timeline) -> String {
    let used =
        |phase: &&InstancePhase| timeline.tracks.iter().any(|t| t.spans.iter().any(|(_, p)| p == *phase));
    let item = |phase: &InstancePhase| {
        format!("<span><i class=\"{}\"></i>{}</span>", class_of(*phase), phase.words())
    };
    let items: Vec<String> = PHASES.iter().filter(used).map(item).collect();
    format!("<p class=\"key\">{}</p>\n", items.join(" "))
}

/// What the bars say, for those who do not see them.
fn table(timeline: &Timeline) -> String {
    let mut html = String::from(
        "<table>\n<thead><tr><th>instance</th><th>what it went through</th></tr></thead>\n<tbody>\n",
    );
    for track in &timeline.tracks {
        let kind = if track.new { "new" } else { "old" };
        let _ = writeln!(
            html,
            "<tr><td>{} <small>{kind}</small></td><td>{}</td></tr>",
            escape(&track.name),
            escape(&words(track, timeline))
        );
    }
    html.push_str("</tbody>\n</table>\n");
    html
}

fn words(track: &InstanceTrack, timeline: &Timeline) -> String {
    let one = |(from, to, phase): (_, _, InstancePhase)| match phase {
        InstancePhase::Removed => format!("removed at {} s", exact(from)),
        _ => format!("{} {}–{} s", phase.words(), exact(from), exact(to)),
    };
    spans(track, timeline.end).into_iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Text of others as text: no markup, and nothing that cannot be seen.
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
