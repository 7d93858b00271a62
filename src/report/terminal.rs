//! The live display on a terminal. indicatif draws it below the printed lines, and follows changes of the size.

mod lines;

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use console::{Style, Term};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::event::Event;
use super::progress::{LineStyle, Progress, ProgressLine};
use lines::TerminalLines;

/// Interval between two drawings.
const TICK: Duration = Duration::from_millis(200);

/// Lines and columns of a terminal with an unknown size.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// Lines of the terminal that stay free for earlier output.
const LINES_ABOVE: usize = 2;

pub struct ProgressDisplay {
    bar: ProgressBar,
    progress: Arc<Mutex<Progress>>,
}

impl ProgressDisplay {
    /// Creates the display on stderr; none if stderr is no terminal that can move its cursor.
    pub fn on_stderr(start: Instant) -> Option<ProgressDisplay> {
        let size = || Term::stderr().size_checked().unwrap_or(DEFAULT_SIZE);
        let can_move_cursor = Term::stderr().features().is_attended() && !is_dumb();
        let target = || ProgressDrawTarget::term_like(Box::new(TerminalLines::on(Term::buffered_stderr())));
        can_move_cursor.then(|| ProgressDisplay::on(target(), start, size))
    }

    fn on(
        target: ProgressDrawTarget,
        start: Instant,
        size: impl Fn() -> (u16, u16) + Clone + Send + Sync + 'static,
    ) -> ProgressDisplay {
        let progress: Arc<Mutex<Progress>> = Arc::default();
        let shown = Arc::clone(&progress);
        let draw = move |_: &ProgressState, to: &mut dyn Write| {
            let (height, width) = size();
            let progress = shown.lock().unwrap_or_else(PoisonError::into_inner);
            if progress.has_begun() {
                let height = usize::from(height).saturating_sub(LINES_ABOVE).max(1);
                let lines = progress.lines(start.elapsed(), usize::from(width).saturating_sub(1), height);
                let _ = to.write_str(&lines.iter().map(coloured).collect::<Vec<_>>().join("\n"));
            }
        };
        let style = ProgressStyle::with_template("{progress}").expect("a template of one key");
        let bar = ProgressBar::with_draw_target(None, target).with_style(style.with_key("progress", draw));
        ProgressDisplay { bar, progress }
    }

    pub fn apply(&self, at: Duration, event: &Event) {
        let begun = {
            let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.apply(at, event);
            progress.has_begun()
        };
        if begun {
            self.bar.enable_steady_tick(TICK);
            self.bar.tick();
        }
    }

    /// Sets the requests of the witness; the next tick draws them.
    pub fn set_probe_count(&self, sent: usize, lost: usize) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).set_probe_count(sent, lost);
    }

    /// The display is on the screen.
    pub fn is_on(&self) -> bool {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).has_begun() && !self.bar.is_finished()
    }

    /// Prints a line above the display; false if nothing is displayed.
    pub fn print(&self, text: &str) -> bool {
        let on = self.is_on();
        if on {
            self.bar.println(text);
        }
        on
    }

    /// Removes the display.
    pub fn close(&self) {
        self.bar.finish_and_clear();
    }
}

/// The terminal can only print.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty())
}

/// The line in its colour; `NO_COLOR` switches colours off.
fn coloured((line_style, text): &ProgressLine) -> String {
    let style = Style::new().for_stderr();
    let style = match line_style {
        LineStyle::Plain => return text.clone(),
        LineStyle::Good => style.green(),
        LineStyle::Changing => style.cyan(),
        LineStyle::RollingBack => style.yellow(),
        LineStyle::Dim => style.dim(),
        LineStyle::Bad => style.red(),
    };
    style.apply_to(text).to_string()
}

#[cfg(test)]
mod tests {
    use indicatif::{InMemoryTerm, TermLike};

    use super::*;
    use crate::report::event::InitialInstance;

    fn deploying() -> Event {
        let instance = InitialInstance { name: "app-1".into(), new: false, running: true, in_rotation: true };
        Event::Deploying { target: "app".into(), proxies: vec!["lb".into()], instances: vec![instance] }
    }

    fn display(term: &InMemoryTerm) -> ProgressDisplay {
        let (height, width) = (10, term.width());
        let target = ProgressDrawTarget::term_like(Box::new(TerminalLines::on(term.clone())));
        ProgressDisplay::on(target, Instant::now(), move || (height, width))
    }

    #[test]
    fn the_display_stays_below_printed_lines_and_is_removed_at_the_end() {
        let term = InMemoryTerm::new(10, 80);
        let display = display(&term);
        assert!(!display.print("nothing displayed yet"));
        display.apply(Duration::ZERO, &deploying());
        assert!(display.print("warning: one"));
        display.bar.tick();
        let lines: Vec<String> = term.contents().lines().map(String::from).collect();
        assert_eq!(lines[0], "warning: one");
        assert!(lines[1].starts_with("deploying app  0."), "{lines:?}");
        assert!(lines[2].starts_with("1/1 app-1  in rotation"), "{lines:?}");
        display.close();
        assert_eq!(term.contents(), "warning: one");
        assert!(!display.is_on());
    }
}
