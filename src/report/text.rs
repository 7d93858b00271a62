//! Text that is safe to print on a terminal, and tables.

/// Text without control characters, which could move the cursor, change the title or hide text. Much of the text is
/// foreign: answers, log lines, names, output of docker.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| matches!(c, '\n' | '\t') || !(c.is_control() || is_invisible(*c))).collect()
}

/// Invisible characters, and those that change the direction of text. With them two different texts would look the same.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

pub fn table(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let head: Vec<String> = head.iter().map(|h| h.to_string()).collect();
    let one_line = |row: &Vec<String>| row.iter().map(|cell| printable(cell).replace('\n', " ")).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(one_line).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(&rows).collect();
    let widest = |n: usize| all.iter().filter_map(|row| row.get(n)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|n| widest(n).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    all.into_iter().map(line).collect()
}

/// A table of at most `width` columns. The widest column is cut first; if that is not enough, each row becomes a block.
pub fn table_within(head: &[&str], rows: &[Vec<String>], width: usize) -> Vec<String> {
    let lines = table(head, rows);
    let width_of = |lines: &[String]| lines.iter().map(|l| console::measure_text_width(l)).max().unwrap_or(0);
    let excess = width_of(&lines).saturating_sub(width);
    if excess == 0 {
        return lines;
    }
    let cell = |row: &Vec<String>, n: usize| row.get(n).map_or(0, |c| c.chars().count());
    let widest = |n: &usize| rows.iter().map(|row| cell(row, *n)).max().unwrap_or(0);
    let longest = (0..head.len()).max_by_key(widest).unwrap_or(0);
    let room = widest(&longest).saturating_sub(excess);
    if room < MIN_CELL_WIDTH.max(head.get(longest).map_or(0, |h| h.len())) {
        return rows.iter().flat_map(|row| block(head, row, width)).collect();
    }
    let cut = |row: &Vec<String>| {
        let mut row = row.clone();
        if let Some(cell) = row.get_mut(longest) {
            *cell = fit(cell, room);
        }
        row
    };
    table(head, &rows.iter().map(cut).collect::<Vec<_>>())
}

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
        assert_eq!(table(&["X", "Y"], &rows), ["X    Y", "a b  c"]);
    }

    #[test]
    fn a_table_is_cut_to_the_terminal_and_becomes_blocks_if_that_is_not_enough() {
        let rows = [vec!["app".to_string(), "registry.example/team/shop:42".into(), "in".into()]];
        let head = ["SERVICE", "IMAGE", "ROTATION"];
        let lines = |width| table_within(&head, &rows, width);
        assert_eq!(lines(100), table(&head, &rows));
        assert_eq!(
            lines(40),
            ["SERVICE  IMAGE                  ROTATION", "app      registry.example/tea…  in"]
        );
        assert_eq!(lines(24), ["SERVICE   app", "IMAGE     registry.exam…", "ROTATION  in", ""]);
    }

    #[test]
    fn a_line_is_cut_to_the_width_of_the_terminal() {
        assert_eq!(
            [fit("abcd", 4), fit("abcd", 3), fit("日本", 3), fit("a\nb", 9)],
            ["abcd", "ab…", "日…", "a b"]
        );
    }
}
