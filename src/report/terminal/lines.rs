//! A terminal on which every line of indicatif's ends with a newline. indicatif (0.18.6) fills a line with spaces to the
//! right edge instead: once the window is wider, lines run into each other, it goes up too far, and wipes what was printed
//! above; and what is copied out of the window is one line.

use std::fmt::{self, Debug};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::TermLike;

/// Clears from the cursor to the end of the screen.
const CLEAR_SCREEN_REST: &str = "\u{1b}[J";

/// Wraps a terminal. What indicatif writes comes in pairs: a line, and what fills it.
pub struct TerminalLines<T> {
    term: T,
    state: Mutex<DrawState>,
}

#[derive(Default)]
struct DrawState {
    /// Columns of each line of this drawing, and of the one before.
    drawn: Vec<usize>,
    before: Vec<usize>,
    /// The drawing before had one line to draw over, or none; the next call tells.
    may_be_one: bool,
    /// A drawing was finished, so that the next move is to where it began.
    finished: bool,
    /// A line was written, and its filler comes next.
    filler_next: bool,
    /// The cursor is at the end of a line, below which the next one goes.
    line_ended: bool,
}

impl<T: TermLike> TerminalLines<T> {
    pub fn on(term: T) -> TerminalLines<T> {
        TerminalLines { term, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, DrawState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes to where the last of the lines before began, this many of them, and wipes what stands from there on.
    fn wipe(&self, state: &mut DrawState, lines: usize) -> io::Result<()> {
        state.may_be_one = false;
        let above = state.before.len().saturating_sub(lines);
        let up = rows(&state.before[above..], self.term.width().into()).saturating_sub(1);
        if up > 0 {
            self.term.move_cursor_up(up)?;
        }
        self.term.write_str("\r")?;
        self.term.write_str(CLEAR_SCREEN_REST)
    }
}

/// How many rows lines take on a terminal of this width; a terminal folds what was there when it gets narrower.
fn rows(columns: &[usize], width: usize) -> usize {
    columns.iter().map(|c| c.div_ceil(width.max(1)).max(1)).sum()
}

impl<T> Debug for TerminalLines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lines")
    }
}

impl<T: TermLike> TermLike for TerminalLines<T> {
    fn width(&self) -> u16 {
        self.term.width()
    }

    fn height(&self) -> u16 {
        self.term.height()
    }

    /// The first move of a drawing goes to where the last one began, on a window that may have another width by now.
    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        let mut state = self.state();
        if !std::mem::take(&mut state.finished) {
            return self.term.move_cursor_up(n);
        }
        state.before = std::mem::take(&mut state.drawn);
        state.may_be_one = n == 0;
        if n > 0 { self.wipe(&mut state, n + 1) } else { Ok(()) }
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.term.move_cursor_down(n)
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.term.move_cursor_right(n)
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.term.move_cursor_left(n)
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.term.write_line(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        let mut state = self.state();
        if text == "\r" {
            state.line_ended = false;
            return if state.may_be_one { self.wipe(&mut state, 1) } else { self.term.write_str(text) };
        }
        state.may_be_one = false;
        if std::mem::take(&mut state.filler_next) {
            state.line_ended = true;
            return Ok(());
        }
        if std::mem::take(&mut state.line_ended) {
            self.term.write_str("\r\n")?;
        }
        state.drawn.push(console::measure_text_width(text));
        state.filler_next = true;
        self.term.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        let mut state = self.state();
        state.line_ended = false;
        if state.may_be_one { self.wipe(&mut state, 1) } else { self.term.clear_line() }
    }

    fn flush(&self) -> io::Result<()> {
        self.state().finished = true;
        self.term.flush()
    }
}

#[cfg(test)]
mod tests {
    use indicatif::{InMemoryTerm, ProgressBar, ProgressDrawTarget, ProgressStyle};

    use super::*;

    fn bar(term: &InMemoryTerm) -> ProgressBar {
        let target = ProgressDrawTarget::term_like(Box::new(TerminalLines::on(term.clone())));
        let bar = ProgressBar::with_draw_target(None, target);
        bar.with_style(ProgressStyle::with_template("{msg}").unwrap())
    }

    #[test]
    fn lines_stand_below_each_other_and_are_drawn_over() {
        let term = InMemoryTerm::new(8, 20);
        let bar = bar(&term);
        for message in ["one\ntwo", "a longer line\nb", "c\n\u{1b}[32md\u{1b}[0m\ne", "f"] {
            bar.set_message(message);
            bar.tick();
            let plain = console::strip_ansi_codes(message).into_owned();
            assert_eq!(term.contents(), plain);
        }
        bar.println("above");
        assert_eq!(term.contents(), "above\nf");
        bar.set_message("x\ny");
        bar.println("again");
        assert_eq!(term.contents(), "above\nagain\nx\ny");
        bar.finish_and_clear();
        assert_eq!(term.contents(), "above\nagain");
    }

    #[test]
    fn every_line_ends_with_a_newline_and_not_with_spaces() {
        let term = InMemoryTerm::new(8, 20);
        let bar = bar(&term);
        bar.set_message("one\ntwo");
        bar.tick();
        let moves = term.moves_since_last_check();
        assert!(moves.contains("\\r\\n") && !moves.contains("   "), "{moves}");
    }

    #[test]
    fn a_line_that_fills_the_row_takes_one() {
        let term = InMemoryTerm::new(8, 10);
        let bar = bar(&term);
        bar.println("above");
        for _ in 0..3 {
            bar.set_message("0123456789\nabc");
            bar.tick();
        }
        assert_eq!(term.contents(), "above\n0123456789\nabc");
    }

    #[test]
    fn lines_are_folded_when_the_window_gets_narrower() {
        assert_eq!(
            [rows(&[80, 10, 0], 80), rows(&[80, 10, 0], 40), rows(&[81], 40), rows(&[], 40)],
            [3, 4, 3, 0]
        );
    }
}
