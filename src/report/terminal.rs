//! The board on a real terminal: indicatif draws it, keeps what is printed above it, and knows when the size changes.

mod lines;

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use console::{Style, Term};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::event::Event;
use super::progress::{LineStyle, Progress, ProgressLine};
use lines::TerminalLines;

/// How often times are drawn anew.
const TICK: Duration = Duration::from_millis(200);

/// Where a terminal does not tell its size.
const SIZE: (u16, u16) = (24, 80);

/// Lines that are left to what was printed before.
const LEFT: usize = 2;

pub struct ProgressDisplay {
    bar: ProgressBar,
    board: Arc<Mutex<Progress>>,
}

impl ProgressDisplay {
    /// On stderr, where that is a terminal that can move its cursor.
    pub fn on_stderr(start: Instant) -> Option<ProgressDisplay> {
        let size = || Term::stderr().size_checked().unwrap_or(SIZE);
        let able = Term::stderr().features().is_attended() && !is_dumb();
        let target = || ProgressDrawTarget::term_like(Box::new(TerminalLines::on(Term::buffered_stderr())));
        able.then(|| ProgressDisplay::on(target(), start, size))
    }

    fn on(
        target: ProgressDrawTarget,
        start: Instant,
        size: impl Fn() -> (u16, u16) + Clone + Send + Sync + 'static,
    ) -> ProgressDisplay {
        let board: Arc<Mutex<Progress>> = Arc::default();
        let shown = Arc::clone(&board);
        let draw = move |_: &ProgressState, to: &mut dyn Write| {
            let (height, width) = size();
            let board = shown.lock().unwrap_or_else(PoisonError::into_inner);
            if board.has_begun() {
                let height = usize::from(height).saturating_sub(LEFT).max(1);
                let lines = board.lines(start.elapsed(), usize::from(width).saturating_sub(1), height);
                let _ = to.write_str(&lines.iter().map(coloured).collect::<Vec<_>>().join("\n"));
            }
        };
        let style = ProgressStyle::with_template("{board}").expect("a template of one key");
        let bar = ProgressBar::with_draw_target(None, target).with_style(style.with_key("board", draw));
        ProgressDisplay { bar, board }
    }

    pub fn apply(&self, at: Duration, event: &Event) {
        let begun = {
            let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
            board.apply(at, event);
            board.has_begun()
        };
        if begun {
            self.bar.enable_steady_tick(TICK);
            self.bar.tick();
        }
    }

    /// What the witness has counted so far; it is drawn with the next tick.
    pub fn witnessed(&self, sent: usize, lost: usize) {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).witnessed(sent, lost);
    }

    /// The board is on the screen.
    pub fn is_on(&self) -> bool {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).has_begun() && !self.bar.is_finished()
    }

    /// A line above the board; false where there is no board.
    pub fn print(&self, text: &str) -> bool {
        let on = self.is_on();
        if on {
            self.bar.println(text);
        }
        on
    }

    /// Takes the board away.
    pub fn close(&self) {
        self.bar.finish_and_clear();
    }
}

/// Whether a terminal says that it cannot do more than print.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty())
}

/// Without colour where `NO_COLOR` is set.
fn coloured((tone, text): &ProgressLine) -> String {
    let style = Style::new().for_stderr();
    let style = match tone {
        LineStyle::Plain => return text.clone(),
        LineStyle::Good => style.green(),
        LineStyle::Moving => style.cyan(),
        LineStyle::Back => style.yellow(),
        LineStyle::Gone => style.dim(),
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
        let found = InitialInstance { name: "app-1".into(), new: false, running: true, in_rotation: true };
        Event::Deploying { target: "app".into(), proxies: vec!["lb".into()], instances: vec![found] }
    }

    fn screen(term: &InMemoryTerm) -> ProgressDisplay {
        let (height, width) = (10, term.width());
        let target = ProgressDrawTarget::term_like(Box::new(TerminalLines::on(term.clone())));
        ProgressDisplay::on(target, Instant::now(), move || (height, width))
    }

    #[test]
    fn the_board_stands_below_what_is_printed_and_goes_at_the_end() {
        let term = InMemoryTerm::new(10, 80);
        let screen = screen(&term);
        assert!(!screen.print("no board yet"));
        screen.apply(Duration::ZERO, &deploying());
        assert!(screen.print("warning: one"));
        screen.bar.tick();
        let lines: Vec<String> = term.contents().lines().map(String::from).collect();
        assert_eq!(lines[0], "warning: one");
        assert!(lines[1].starts_with("deploying app  0."), "{lines:?}");
        assert!(lines[2].starts_with("1/1 app-1  in rotation"), "{lines:?}");
        screen.close();
        assert_eq!(term.contents(), "warning: one");
        assert!(!screen.is_on());
    }
}
