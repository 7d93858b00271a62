//! The page around the drawing: results, legend and table.

use std::time::Duration;

use strum::VariantArray;

use super::chart::{css_class, draw, label};
use super::escape;
use super::{Timeline, spans};
use crate::report::record::EventRecord;
use crate::report::timeline_model::{InstancePhase, InstanceTrack};

const STYLE: &str = include_str!("page.css");

/// The HTML page of a run.
pub fn page(records: &[EventRecord]) -> String {
    let timeline = Timeline::from_records(records);
    let title = escape(&timeline.title);
    let contents = contents(&timeline);
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · compose-zd</title>
<style>
{STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{contents}</main>
</body>
</html>
"#
    )
}

fn contents(timeline: &Timeline) -> String {
    let class = match (timeline.failed, timeline.lossy) {
        (true, _) => "failed",
        (false, true) => "lossy",
        (false, false) => "good",
    };
    let drawn = match timeline.tracks.is_empty() {
        true => String::new(),
        false => legend(timeline) + &draw(timeline) + &table(timeline),
    };
    let started = format!("{} · {}", timeline.started, label(timeline.end));
    let warnings = timeline.warnings.iter().map(|warning| format!("warning: {warning}"));
    paragraphs(class, timeline.results.iter().cloned())
        + &paragraphs("witness", timeline.witness.iter().cloned())
        + &paragraphs("quiet", [started])
        + &drawn
        + &paragraphs("quiet", warnings)
}

fn paragraphs(class: &str, texts: impl IntoIterator<Item = String>) -> String {
    texts.into_iter().map(|text| format!("<p class=\"{class}\">{}</p>\n", escape(&text))).collect()
}

/// Colours that occur in the drawing.
fn legend(timeline: &Timeline) -> String {
    let has = |track: &InstanceTrack, phase| track.phases.iter().any(|(_, p)| *p == phase);
    let is_drawn = |phase: &&InstancePhase| {
        **phase != InstancePhase::Removed && timeline.tracks.iter().any(|track| has(track, **phase))
    };
    let item =
        |phase: &InstancePhase| format!(r#"<span><i class="{}"></i>{phase}</span>"#, css_class(*phase));
    let items: Vec<String> = InstancePhase::VARIANTS.iter().filter(is_drawn).map(item).collect();
    format!("<p class=\"key\">{}</p>\n", items.join(" "))
}

/// The bars as a table, for screen readers.
fn table(timeline: &Timeline) -> String {
    let row = |track: &InstanceTrack| {
        let (name, kind) = (escape(&track.name), if track.new { "new" } else { "old" });
        format!("<tr><td>{name} <small>{kind}</small></td><td>{}</td></tr>\n", phases(track, timeline.end))
    };
    let rows: String = timeline.tracks.iter().map(row).collect();
    format!(
        "<table>\n<thead><tr><th>instance</th><th>phases</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
    )
}

/// `ready 2.71–2.74 s, in rotation 2.74–7.05 s`; two decimals distinguish short phases.
fn phases(track: &InstanceTrack, end: Duration) -> String {
    let text = |(from, to, phase): (Duration, Duration, InstancePhase)| {
        let (from, to) = (from.as_secs_f64(), to.as_secs_f64());
        match phase {
            InstancePhase::Removed => format!("removed at {from:.2} s"),
            _ => format!("{phase} {from:.2}–{to:.2} s"),
        }
    };
    spans(track, end).into_iter().map(text).collect::<Vec<_>>().join(", ")
}
