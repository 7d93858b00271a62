//! A terminal wrapper that ends every line of indicatif with a newline. indicatif (0.18.6) fills a line with spaces to
//! the right edge instead. In a wider window such lines run into each other, and indicatif moves up too far and erases
//! earlier output. Copied text would be one line.

use std::fmt::{self, Debug};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::TermLike;

/// Clears from the cursor to the end of the screen.
const CLEAR_SCREEN_REST: &str = "\u{1b}[J";

/// Wraps a terminal. indicatif writes each line as a pair: its text, then its filler.
pub struct TerminalLines<T> {
    term: T,
    state: Mutex<DrawState>,
}

#[derive(Default)]
struct DrawState {
    /// Columns of each line of this drawing.
    drawn: Vec<usize>,
    /// The same for the previous drawing.
    previous: Vec<usize>,
    /// The previous drawing had one line or none; the next call shows which.
    previous_has_one_line_at_most: bool,
    /// A drawing is complete, so the next move goes to its first line.
    finished: bool,
    /// A line was written; its filler comes next.
    filler_next: bool,
    /// The cursor is at the end of a line; the next line goes below.
    line_ended: bool,
}

impl<T: TermLike> TerminalLines<T> {
    pub fn on(term: T) -> TerminalLines<T> {
        TerminalLines { term, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, DrawState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves to the start of the last `lines` lines of the previous drawing, and clears the rest of the screen.
    fn wipe(&self, state: &mut DrawState, lines: usize) -> io::Result<()> {
        state.previous_has_one_line_at_most = false;
        let skipped = state.previous.len().saturating_sub(lines);
        let up = rows(&state.previous[skipped..], self.term.width().into()).saturating_sub(1);
        if up > 0 {
            self.term.move_cursor_up(up)?;
        }
        self.term.write_str("\r")?;
        self.term.write_str(CLEAR_SCREEN_REST)
    }
}

/// Rows of the terminal that lines of these widths take; a narrower terminal folds them.
fn rows(columns: &[usize], width: usize) -> usize {
    columns.iter().map(|c| c.div_ceil(width.max(1)).max(1)).sum()
}

impl<T> Debug for TerminalLines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TerminalLines")
    }
}

impl<T: TermLike> TermLike for TerminalLines<T> {
    fn width(&self) -> u16 {
        self.term.width()
    }

    fn height(&self) -> u16 {
        self.term.height()
    }

    /// The first move of a drawing goes to the start of the previous one. The width may have changed since.
    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        let mut state = self.state();
        if !std::mem::take(&mut state.finished) {
            return self.term.move_cursor_up(n);
        }
        state.previous = std::mem::take(&mut state.drawn);
        state.previous_has_one_line_at_most = n == 0;
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
            return if state.previous_has_one_line_at_most {
                self.wipe(&mut state, 1)
            } else {
                self.term.write_str(text)
            };
        }
        state.previous_has_one_line_at_most = false;
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
        if state.previous_has_one_line_at_most { self.wipe(&mut state, 1) } else { self.term.clear_line() }
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
    fn lines_are_below_each_other_and_are_redrawn() {
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
    fn a_narrower_window_folds_lines() {
        assert_eq!(
            [rows(&[80, 10, 0], 80), rows(&[80, 10, 0], 40), rows(&[81], 40), rows(&[], 40)],
            [3, 4, 3, 0]
        );
    }
}
