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
    let warnings = timeline.warnings.iter().map(|warning| format!("warning: {warning}"));
    paragraphs("images", timeline.images.iter().cloned())
        + &paragraphs(class, timeline.results.iter().cloned())
        + &details(&timeline.details)
        + &paragraphs("quiet", timeline.hint.iter().map(|hint| format!("hint: {hint}")))
        + &paragraphs("witness", timeline.witness.iter().cloned())
        + &paragraphs("quiet", [circumstances(timeline)])
        + &drawn
        + &paragraphs("quiet", warnings)
}

/// `root@build · 30 November 2026, 17:34 UTC · 9.6 s after 12 s of preparation`
fn circumstances(timeline: &Timeline) -> String {
    let preparation = (timeline.preparation >= Duration::from_secs(1))
        .then(|| format!(" after {} of preparation", label(timeline.preparation)));
    let took = label(timeline.end) + &preparation.unwrap_or_default();
    let parts = [timeline.by.as_str(), &timeline.started, &took];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" · ")
}

fn details(lines: &[String]) -> String {
    if lines.is_empty() { String::new() } else { format!("<pre>{}</pre>\n", escape(&lines.join("\n"))) }
}

fn paragraphs(class: &str, texts: impl IntoIterator<Item = String>) -> String {
    texts.into_iter().map(|text| format!("<p class=\"{class}\">{}</p>\n", with_code(&text))).collect()
}

/// Escaped text in which the parts between backticks are code.
fn with_code(text: &str) -> String {
    let parts: Vec<String> = text.split('`').map(escape).collect();
    let is_closed = parts.len() % 2 == 1;
    let part = |(n, part): (usize, &String)| match n % 2 {
        1 if is_closed => format!("<code>{part}</code>"),
        1 => format!("`{part}"),
        _ => part.clone(),
    };
    parts.iter().enumerate().map(part).collect()
}

/// Colours and marks that occur in the drawing.
fn legend(timeline: &Timeline) -> String {
    let has = |track: &InstanceTrack, phase| track.phases.iter().any(|(_, p)| *p == phase);
    let is_drawn = |phase: &&InstancePhase| {
        **phase != InstancePhase::Removed && timeline.tracks.iter().any(|track| has(track, **phase))
    };
    let item =
        |phase: &InstancePhase| format!(r#"<span><i class="{}"></i>{phase}</span>"#, css_class(*phase));
    let has_sample = |lost: bool| timeline.samples.iter().any(|sample| sample.lost == lost);
    let answered =
        has_sample(false).then(|| r#"<span><i class="dot"></i>answered request</span>"#.to_string());
    let lost = has_sample(true).then(|| r#"<span><i class="lost">×</i>lost request</span>"#.to_string());
    let items = InstancePhase::VARIANTS.iter().filter(is_drawn).map(item).chain(answered).chain(lost);
    let items: Vec<String> = items.collect();
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

/// Shortest phase that two decimals show.
const SHORTEST: Duration = Duration::from_millis(5);

/// `ready 2.71–2.74 s, in rotation 2.74–7.05 s`. The last phase is shown also if it is shorter.
fn phases(track: &InstanceTrack, end: Duration) -> String {
    let is_shown = |(from, to, phase): &(Duration, Duration, InstancePhase)| {
        *phase == InstancePhase::Removed || *to >= end || *to - *from >= SHORTEST
    };
    let text = |(from, to, phase): (Duration, Duration, InstancePhase)| {
        let (from, to) = (from.as_secs_f64(), to.as_secs_f64());
        match phase {
            InstancePhase::Removed => format!("removed at {from:.2} s"),
            _ => format!("{phase} {from:.2}–{to:.2} s"),
        }
    };
    spans(track, end).into_iter().filter(is_shown).map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_leaves_out_phases_without_a_duration() {
        use InstancePhase::{Created, InRotation, Ready, Removed, Starting};
        let phase = |ms, phase| (Duration::from_millis(ms), phase);
        let mut track = InstanceTrack::new("app-2", true, Duration::ZERO, Created);
        track.phases.extend([
            phase(2, Starting),
            phase(900, Ready),
            phase(900, InRotation),
            phase(2000, Removed),
        ]);
        let end = Duration::from_secs(2);
        assert_eq!(phases(&track, end), "starting 0.00–0.90 s, in rotation 0.90–2.00 s, removed at 2.00 s");
        track.phases.pop();
        track.phases.push(phase(2000, Ready));
        assert!(phases(&track, end).ends_with("ready 2.00–2.00 s"), "the last phase");
    }
}
