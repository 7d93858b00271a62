//! The live display on a terminal: a few lines below the printed ones, which are erased and drawn again.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use console::Term;

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
    drawing: Mutex<Drawing>,
    /// Counts the requests of the witness.
    probes: OnceLock<Box<dyn Fn() -> LossCount + Send + Sync>>,
}

/// Contents of the display, and what the screen shows of them.
#[derive(Default)]
struct Drawing {
    progress: Progress,
    /// Columns of each drawn line.
    columns: Vec<usize>,
}

impl ProgressDisplay {
    /// Creates the display; none if stderr is no terminal that can move its cursor.
    pub fn on_stderr(start: Instant) -> Option<ProgressDisplay> {
        let can_move_cursor = Term::stderr().features().is_attended() && !is_dumb();
        can_move_cursor.then(|| ProgressDisplay {
            start,
            ticker: Ticker::default(),
            drawing: Mutex::default(),
            probes: OnceLock::new(),
        })
    }

    fn drawing(&self) -> MutexGuard<'_, Drawing> {
        self.drawing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn apply(&'static self, at: Duration, event: &Event) {
        let had_begun = self.drawing().progress.has_begun();
        self.drawing().progress.apply(at, event);
        if !had_begun && self.is_on() {
            thread::spawn(|| self.ticker.each(TICK, || self.draw("")));
        }
        self.draw("");
    }

    /// Shows the requests of the witness, which `count` returns.
    pub fn show_probes(&self, count: impl Fn() -> LossCount + Send + Sync + 'static) {
        let _ = self.probes.set(Box::new(count));
    }

    /// The display is on the screen.
    pub fn is_on(&self) -> bool {
        self.drawing().progress.has_begun() && !self.ticker.has_ended()
    }

    /// Prints a line above the display; false if nothing is displayed.
    pub fn print(&self, text: &str) -> bool {
        let on = self.is_on();
        self.draw(&format!("{text}\n"));
        on
    }

    fn draw(&self, above: &str) {
        let mut drawing = self.drawing();
        if drawing.progress.has_begun() && !self.ticker.has_ended() {
            drawing.progress.witness = self.probes.get().map(|count| count());
            let frame = drawing.frame(self.start.elapsed(), Term::stderr().size(), above);
            let _ = Term::stderr().write_str(&frame);
        }
    }

    /// Removes the display.
    pub fn close(&self) {
        let mut drawing = self.drawing();
        let _ = Term::stderr().write_str(&drawing.erase(Term::stderr().size().1.into()));
        self.ticker.end();
    }
}

impl Drawing {
    /// Output that replaces the drawn lines by `above` and the current lines.
    fn frame(&mut self, now: Duration, (height, width): (u16, u16), above: &str) -> String {
        let height = usize::from(height).saturating_sub(LINES_ABOVE).max(1);
        let lines = self.progress.lines(now, usize::from(width).saturating_sub(1), height);
        let erased = self.erase(width.into());
        self.columns = lines.iter().map(|(_, text)| console::measure_text_width(text)).collect();
        let lines = lines.iter().map(|(style, text)| format!("{}\n", style.apply_to(text)));
        format!("{erased}{above}{}", lines.collect::<String>())
    }

    /// Output that erases the drawn lines. The terminal may have another width since, and folds longer lines.
    fn erase(&mut self, width: usize) -> String {
        let columns = std::mem::take(&mut self.columns);
        match columns.iter().map(|c| c.div_ceil(width.max(1)).max(1)).sum::<usize>() {
            0 => String::new(),
            rows => format!("\u{1b}[{rows}A\r\u{1b}[J"),
        }
    }
}

/// The terminal can only print.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty())
}

#[cfg(test)]
mod tests {
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

    /// A drawing, and the screen of its terminal.
    struct Screen(Drawing, vt100::Parser);

    impl Screen {
        fn new(names: &[&str]) -> Screen {
            let mut drawing = Drawing::default();
            drawing.progress.apply(Duration::ZERO, &deploying(names));
            Screen(drawing, vt100::Parser::new(10, 80, 0))
        }

        fn draw(&mut self, width: u16, above: &str) -> String {
            let frame = self.0.frame(Duration::ZERO, (10, width), above);
            self.write(&frame)
        }

        fn erase(&mut self, width: u16) -> String {
            let erased = self.0.erase(width.into());
            self.write(&erased)
        }

        fn write(&mut self, text: &str) -> String {
            self.1.process(text.replace('\n', "\r\n").as_bytes());
            self.1.screen().contents().trim_end().into()
        }
    }

    #[test]
    fn the_display_stays_below_printed_lines_and_is_removed_at_the_end() {
        let mut screen = Screen::new(&["app-1"]);
        let shown = "deploying app  0.0s\n1/1 app-1  in rotation";
        assert_eq!(screen.draw(80, ""), shown);
        assert_eq!(screen.draw(80, "warning: one\n"), format!("warning: one\n{shown}"));
        assert_eq!(screen.draw(80, ""), format!("warning: one\n{shown}"));
        assert_eq!(screen.draw(80, "two\n"), format!("warning: one\ntwo\n{shown}"));
        assert_eq!(screen.erase(80), "warning: one\ntwo");
        assert_eq!(screen.erase(80), "warning: one\ntwo");
    }

    #[test]
    fn all_lines_are_erased_even_if_a_narrower_window_folds_them() {
        let mut screen = Screen::new(&["app-1", &"app-".repeat(12)]);
        screen.write("above\n");
        screen.draw(80, "");
        assert_eq!(screen.erase(80), "above");
        let erase = |columns: &[usize], width| {
            Drawing { columns: columns.to_vec(), ..Drawing::default() }.erase(width)
        };
        assert_eq!(erase(&[80, 10, 0], 80), "\u{1b}[3A\r\u{1b}[J");
        assert_eq!(erase(&[80, 10, 0], 40), "\u{1b}[4A\r\u{1b}[J");
        assert_eq!(erase(&[81], 40), "\u{1b}[3A\r\u{1b}[J");
        assert_eq!(erase(&[], 40), "");
    }
}
