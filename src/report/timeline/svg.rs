//! SVG drawing of a timeline. The page has two: one for desktops and one for phones.

use std::fmt::Write;
use std::time::Duration;

use super::axis::{self, TimeAxis};
use super::page::escape;
use super::{SampleDot, Timeline, spans};
use crate::report::timeline_model::{InstancePhase, InstanceTrack};

/// Sizes in units of the drawing; a unit is a pixel at the intended width.
#[derive(Debug, Clone, Copy)]
pub struct SvgLayout {
    pub width: f64,
    /// True if names are to the left of their bars, false if above.
    pub names_beside_bars: bool,
    /// Maximum number of ticks.
    pub ticks: usize,
}

pub const DESKTOP: SvgLayout = SvgLayout { width: 920.0, names_beside_bars: true, ticks: 10 };
pub const PHONE: SvgLayout = SvgLayout { width: 360.0, names_beside_bars: false, ticks: 5 };

const BAR_HEIGHT: f64 = 16.0;
const TEXT_HEIGHT: f64 = 12.0;
const GAP: f64 = 8.0;
/// Space above the first bar, for the labels of the markers.
const TOP_MARGIN: f64 = 22.0;
const WITNESS_HEIGHT: f64 = 96.0;
/// Approximate width of a letter.
const LETTER_WIDTH: f64 = 7.0;
/// Longer names are cut.
const MAX_NAME_LETTERS: usize = 24;

impl SvgLayout {
    fn row_height(&self) -> f64 {
        if self.names_beside_bars { BAR_HEIGHT + GAP } else { TEXT_HEIGHT + 4.0 + BAR_HEIGHT + GAP }
    }

    fn axis(&self, timeline: &Timeline) -> TimeAxis {
        let longest =
            timeline.tracks.iter().map(|t| t.name.chars().count()).max().unwrap_or(0).min(MAX_NAME_LETTERS);
        let left =
            if self.names_beside_bars { (longest as f64 * LETTER_WIDTH + 12.0).max(60.0) } else { 12.0 };
        // Half of the label of the last tick is beyond the axis.
        TimeAxis { left, width: self.width - left - 20.0, end: timeline.end }
    }
}

/// Draws the timeline as an `svg` element with this CSS class.
pub fn draw(timeline: &Timeline, layout: SvgLayout, class: &str) -> String {
    let axis = layout.axis(timeline);
    let bars = TOP_MARGIN + layout.row_height() * timeline.tracks.len() as f64;
    let witness = if timeline.dots.is_empty() { 0.0 } else { WITNESS_HEIGHT + 2.0 * GAP + TEXT_HEIGHT };
    let bottom = bars + witness;
    let (width, height) = (layout.width, bottom + 24.0);
    let mut svg = format!(
        "<svg class=\"{class}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">\n",
        escape(&format!("timeline of {}; the table below has the same contents", timeline.title))
    );
    draw_grid(&mut svg, &axis, bottom, layout.ticks);
    draw_markers(&mut svg, timeline, &axis, bottom);
    for (n, track) in timeline.tracks.iter().enumerate() {
        draw_row(&mut svg, track, &axis, (TOP_MARGIN + layout.row_height() * n as f64, layout), timeline.end);
    }
    if !timeline.dots.is_empty() {
        draw_dots(&mut svg, &timeline.dots, &axis, bars + TEXT_HEIGHT + GAP);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_grid(svg: &mut String, axis: &TimeAxis, bottom: f64, ticks: usize) {
    for at in axis.ticks(ticks) {
        let x = axis.x(at);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP_MARGIN}\" y2=\"{bottom:.1}\"/>"
        );
        let y = bottom + 16.0;
        let _ = writeln!(svg, "<text class=\"tick\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", axis::label(at));
    }
}

/// Vertical lines across all bars. A label is left out if it would overlap the previous one.
fn draw_markers(svg: &mut String, timeline: &Timeline, axis: &TimeAxis, bottom: f64) {
    let mut free_from = 0.0;
    for marker in &timeline.markers {
        let x = axis.x(marker.at);
        let _ = writeln!(
            svg,
            "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP_MARGIN}\" y2=\"{bottom:.1}\"><title>{} at {}</title></line>",
            marker.label,
            axis::label(marker.at)
        );
        let half = marker.label.len() as f64 * LETTER_WIDTH / 2.0;
        let middle = x.clamp(half, axis.left + axis.width + 20.0 - half);
        if middle - half >= free_from {
            let _ = writeln!(svg, "<text class=\"what\" x=\"{middle:.1}\" y=\"14\">{}</text>", marker.label);
            free_from = middle + half + GAP;
        }
    }
}

fn draw_row(
    svg: &mut String,
    track: &InstanceTrack,
    axis: &TimeAxis,
    (top, layout): (f64, SvgLayout),
    end: Duration,
) {
    let name = escape(&shortened(&track.name));
    let (bar, baseline, x) = if layout.names_beside_bars {
        (top, top + BAR_HEIGHT - 4.0, 4.0)
    } else {
        (top + TEXT_HEIGHT + 4.0, top + TEXT_HEIGHT - 2.0, axis.left)
    };
    let class = if track.new { "name new" } else { "name" };
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{baseline:.1}\">{name}</text>");
    for (from, to, phase) in spans(track, end) {
        if phase == InstancePhase::Removed {
            continue;
        }
        let (x, width) = (axis.x(from), (axis.x(to) - axis.x(from)).max(1.5));
        // Phases in which the instance does not run are thin.
        let thin = matches!(phase, InstancePhase::Stopped | InstancePhase::Created);
        let (y, height) = if thin { (bar + BAR_HEIGHT / 3.0, BAR_HEIGHT / 3.0) } else { (bar, BAR_HEIGHT) };
        let _ = writeln!(
            svg,
            "<rect class=\"{}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\"><title>{} {}: {} to {}</title></rect>",
            css_class(phase),
            escape(&track.name),
            phase.label(),
            axis::label(from),
            axis::label(to)
        );
    }
}

/// Latencies on a logarithmic scale, 1 ms at the bottom; lost requests are crosses at the top.
fn draw_dots(svg: &mut String, dots: &[SampleDot], axis: &TimeAxis, top: f64) {
    let longest = dots.iter().map(|d| d.took).max().unwrap_or_default().max(Duration::from_millis(100));
    let y = |took| top + WITNESS_HEIGHT - WITNESS_HEIGHT * axis::log_height(took, longest);
    for (n, ms) in [1u64, 10, 100, 1000, 10_000].into_iter().enumerate() {
        let took = Duration::from_millis(ms);
        if took <= longest {
            let (y, to) = (y(took), axis.left + axis.width);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{:.1}\" x2=\"{to:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                axis.left
            );
            let label = if ms < 1000 { format!("{ms} ms") } else { format!("{} s", ms / 1000) };
            let label = if n == 0 { format!("{label} witness") } else { label };
            let _ = writeln!(
                svg,
                "<text class=\"level\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                axis.left + 3.0,
                y - 3.0
            );
        }
    }
    for dot in dots {
        let x = axis.x(dot.at);
        match &dot.lost {
            None => {
                let _ =
                    writeln!(svg, "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{:.1}\" r=\"2\"/>", y(dot.took));
            }
            Some(outcome) => {
                let (left, right, upper, lower) = (x - 4.0, x + 4.0, top - 4.0, top + 4.0);
                let _ = writeln!(
                    svg,
                    "<path class=\"lost\" d=\"M{left:.1} {upper:.1}L{right:.1} {lower:.1}M{left:.1} {lower:.1}L{right:.1} {upper:.1}\"><title>lost at {}: {}</title></path>",
                    axis::label(dot.at),
                    escape(outcome)
                );
            }
        }
    }
}

fn shortened(name: &str) -> String {
    if name.chars().count() > MAX_NAME_LETTERS {
        name.chars().take(MAX_NAME_LETTERS - 1).chain(['…']).collect()
    } else {
        name.into()
    }
}

/// CSS class of a phase.
pub fn css_class(phase: InstancePhase) -> &'static str {
    match phase {
        InstancePhase::OutOfRotation => "out-of-rotation",
        InstancePhase::Created => "created",
        InstancePhase::Starting => "starting",
        InstancePhase::Ready => "ready",
        InstancePhase::InRotation => "inside",
        InstancePhase::Draining => "draining",
        InstancePhase::Failed => "failed",
        InstancePhase::Stopped | InstancePhase::Removed => "stopped",
    }
}
