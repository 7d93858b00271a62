//! The live display on a terminal: a few lines below the printed ones, which are erased and drawn again.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::event::Event;
use super::probes::LossCount;
use super::progress::Progress;
use crate::wait::Ticker;

/// Interval between two drawings.
const TICK: Duration = Duration::from_millis(200);

/// Lines of the terminal that stay free for earlier output.
const LINES_ABOVE: usize = 2;

/// Display on stderr, which lives until the process ends.
pub struct ProgressDisplay {
    start: Instant,
    ticker: Ticker,
    progress: Mutex<Progress>,
    /// All lines are one message of a bar.
    bar: ProgressBar,
    /// Counts the requests of the witness.
    probes: OnceLock<Box<dyn Fn() -> LossCount + Send + Sync>>,
}

impl ProgressDisplay {
    /// Creates the display; none if stderr is no terminal that can move its cursor.
    pub fn on_stderr(start: Instant) -> Option<ProgressDisplay> {
        let can_move_cursor = Term::stderr().features().is_attended() && !is_dumb();
        can_move_cursor.then(|| ProgressDisplay::new(start, ProgressDrawTarget::stderr()))
    }

    fn new(start: Instant, target: ProgressDrawTarget) -> ProgressDisplay {
        let style = ProgressStyle::with_template("{msg}").expect("a valid template");
        ProgressDisplay {
            start,
            ticker: Ticker::default(),
            progress: Mutex::default(),
            bar: ProgressBar::with_draw_target(None, target).with_style(style),
            probes: OnceLock::new(),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws the display again and again, at first to show that the run has begun.
    pub fn open(&'static self) {
        self.progress().is_preparing = true;
        thread::spawn(|| self.ticker.each(TICK, || self.draw(Term::stderr().size())));
    }

    pub fn apply(&self, at: Duration, event: &Event) {
        self.progress().apply(at, event);
        self.draw(Term::stderr().size());
    }

    /// Removes the line of the preparation, because a child process writes to the terminal itself.
    pub fn end_preparation(&self) {
        let mut progress = self.progress();
        if progress.is_preparing {
            progress.is_preparing = false;
            self.bar.finish_and_clear();
            self.bar.reset();
        }
    }

    /// Shows the requests of the witness, which `count` returns.
    pub fn show_probes(&self, count: impl Fn() -> LossCount + Send + Sync + 'static) {
        let _ = self.probes.set(Box::new(count));
    }

    /// The display is on the screen.
    pub fn is_on(&self) -> bool {
        self.progress().has_begun() && !self.ticker.has_ended()
    }

    /// Prints a line above the display; false if nothing is displayed.
    pub fn print(&self, text: &str) -> bool {
        let is_drawn = self.progress().has_contents() && !self.ticker.has_ended();
        if is_drawn {
            self.bar.println(text);
        }
        is_drawn
    }

    fn draw(&self, (height, width): (u16, u16)) {
        let mut progress = self.progress();
        if progress.has_contents() && !self.ticker.has_ended() {
            progress.witness = self.probes.get().map(|count| count());
            let height = usize::from(height).saturating_sub(LINES_ABOVE).max(1);
            let lines = progress.lines(self.start.elapsed(), usize::from(width).saturating_sub(1), height);
            let lines = lines.iter().map(|(style, text)| style.apply_to(text).to_string());
            self.bar.set_message(lines.collect::<Vec<_>>().join("\n"));
        }
    }

    /// Removes the display.
    pub fn close(&self) {
        let _progress = self.progress();
        self.ticker.end();
        self.bar.finish_and_clear();
    }
}

/// The terminal can only print.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty())
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;

    use super::*;
    use crate::report::event::InitialInstance;

    fn deploying(names: &[&str]) -> Event {
        let instance = |name: &&str| InitialInstance {
            name: name.to_string(),
            new: false,
            running: true,
            in_rotation: true,
        };
        let instances = names.iter().map(instance).collect();
        Event::Deploying { target: "app".into(), proxies: vec!["lb".into()], instances }
    }

    #[test]
    fn the_display_stays_below_printed_lines_and_is_removed_at_the_end() {
        let screen = InMemoryTerm::new(10, 80);
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let display = ProgressDisplay::new(Instant::now(), target);
        assert!(!display.print("nothing is displayed yet"));
        display.progress().apply(Duration::ZERO, &deploying(&["app-1"]));
        let shown = "deploying app  0.0s\nold 1/1 app-1  in rotation";
        display.draw((10, 80));
        assert_eq!(screen.contents(), shown);
        assert!(display.print("warning: one"));
        assert_eq!(screen.contents(), format!("warning: one\n{shown}"));
        display.draw((10, 80));
        assert!(display.print("two"));
        assert_eq!(screen.contents(), format!("warning: one\ntwo\n{shown}"));
        display.close();
        assert_eq!(screen.contents(), "warning: one\ntwo");
        assert!(!display.is_on());
    }
}
