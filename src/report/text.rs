//! Text that is safe to print on a terminal, and tables.

use std::iter;

use console::{Alignment, measure_text_width, pad_str};

/// Text without control characters, which could move the cursor, change the title or hide text. Much of the text is
/// foreign: answers, log lines, names, output of docker.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| matches!(c, '\n' | '\t') || !(c.is_control() || is_invisible(*c))).collect()
}

/// Invisible characters, and those that change the direction of text. With them two different texts would look the same.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// A table of at most `width` columns. The widest column is cut first; if that is not enough, each row becomes a block.
pub fn table(head: &[&str], rows: &[Vec<String>], width: usize) -> Vec<String> {
    let one_line = |row: &Vec<String>| row.iter().map(|cell| fit(cell, usize::MAX)).collect();
    let titles = head.iter().map(|title| title.to_string()).collect();
    let lines: Vec<Vec<String>> = iter::once(titles).chain(rows.iter().map(one_line)).collect();
    let width_of = |n: usize| lines.iter().filter_map(|l| l.get(n)).map(|c| measure_text_width(c)).max();
    let mut widths: Vec<usize> = (0..head.len()).map(|n| width_of(n).unwrap_or(0)).collect();
    let excess = (widths.iter().sum::<usize>() + GAP.len() * (head.len() - 1)).saturating_sub(width);
    let widest = (0..head.len()).max_by_key(|n| widths[*n]).unwrap_or(0);
    widths[widest] = widths[widest].saturating_sub(excess);
    if excess > 0 && widths[widest] < MIN_CELL_WIDTH.max(head[widest].len()) {
        return rows.iter().flat_map(|row| block(head, row, width)).collect();
    }
    let line = |cells: &Vec<String>| {
        let cells = cells.iter().zip(&widths);
        let cells: Vec<_> =
            cells.map(|(cell, width)| pad_str(cell, *width, Alignment::Left, Some("…"))).collect();
        cells.join(GAP).trim_end().to_string()
    };
    lines.iter().map(line).collect()
}

/// Columns and rows without those optional columns that have no room, the first ones first.
pub fn without_optional<'h>(
    head: &[&'h str],
    rows: &[Vec<String>],
    optional: &[&str],
    width: usize,
) -> (Vec<&'h str>, Vec<Vec<String>>) {
    let (mut head, mut rows) = (head.to_vec(), rows.to_vec());
    for name in optional {
        let lines = table(&head, &rows, usize::MAX);
        let is_too_wide = lines.iter().any(|line| measure_text_width(line) > width);
        if let Some(at) = head.iter().position(|title| title == name).filter(|_| is_too_wide) {
            head.remove(at);
            rows.iter_mut().for_each(|row| _ = row.remove(at));
        }
    }
    (head, rows)
}

/// Space between two columns.
const GAP: &str = "  ";

/// Shortest cell after a cut; less would be useless.
const MIN_CELL_WIDTH: usize = 12;

/// A row as lines, each with the heading of its column.
fn block(head: &[&str], row: &[String], width: usize) -> Vec<String> {
    let head_width = head.iter().map(|h| h.len()).max().unwrap_or(0);
    let cells = head.iter().zip(row).filter(|(_, cell)| !cell.is_empty());
    let lines = cells.map(|(head, cell)| fit(&format!("{head:<head_width$}  {cell}"), width));
    lines.chain([String::new()]).collect()
}

/// At most `width` columns of a line.
pub fn fit(line: &str, width: usize) -> String {
    console::truncate_str(&printable(line).replace('\n', " "), width, "…").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_control_the_terminal() {
        let foreign = "a\u{1b}[2J\u{1b}]0;t\u{7}b\r\nc\td\u{9b}31m\u{8}\u{7f}\0\u{202e}e\u{200b}\u{feff}é→";
        assert_eq!(printable(foreign), "a[2J]0;tb\nc\td31meé→");
    }

    #[test]
    fn a_cell_of_a_table_stays_on_its_line() {
        let rows = [vec!["a\nb\u{1b}".to_string(), "c".into()]];
        assert_eq!(table(&["X", "Y"], &rows, 80), ["X    Y", "a b  c"]);
    }

    #[test]
    fn a_table_is_cut_to_the_terminal_and_becomes_blocks_if_that_is_not_enough() {
        let rows = [vec!["app".to_string(), "registry.example/team/shop:42".into(), "in".into()]];
        let head = ["SERVICE", "IMAGE", "ROTATION"];
        let lines = |width| table(&head, &rows, width);
        assert_eq!(
            lines(100),
            [
                "SERVICE  IMAGE                          ROTATION",
                "app      registry.example/team/shop:42  in"
            ]
        );
        assert_eq!(
            lines(40),
            ["SERVICE  IMAGE                  ROTATION", "app      registry.example/tea…  in"]
        );
        assert_eq!(lines(24), ["SERVICE   app", "IMAGE     registry.exam…", "ROTATION  in", ""]);
    }

    #[test]
    fn optional_columns_are_left_out_one_by_one() {
        let rows = [["app", "x", "12345678"].map(String::from).to_vec()];
        let head = |width| without_optional(&["A", "B", "C"], &rows, &["C", "B"], width).0;
        assert_eq!([head(16), head(15), head(5)], [vec!["A", "B", "C"], vec!["A", "B"], vec!["A"]]);
        assert_eq!(without_optional(&["A", "B", "C"], &rows, &["C", "B"], 9).1, [["app", "x"]]);
    }

    #[test]
    fn a_line_is_cut_to_the_width_of_the_terminal() {
        assert_eq!(
            [fit("abcd", 4), fit("abcd", 3), fit("日本", 3), fit("a\nb", 9)],
            ["abcd", "ab…", "日…", "a b"]
        );
    }
}
