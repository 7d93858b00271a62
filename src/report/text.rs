//! Text as a terminal may get it, and columns of it.

/// Text as a terminal may get it. Much of it comes from others (an answer, a log line, a name, what docker says), and
/// what is no character would move the cursor, change the title or hide what stands there.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| matches!(c, '\n' | '\t') || !(c.is_control() || turns_text(*c))).collect()
}

/// Changes the direction of the text after it, or is nothing to be seen: two texts would look the same.
fn turns_text(c: char) -> bool {
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

/// At most `width` columns of a line.
pub fn fit(line: &str, width: usize) -> String {
    console::truncate_str(&printable(line).replace('\n', " "), width, "…").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_others_steers_the_terminal() {
        let told = "a\u{1b}[2J\u{1b}]0;t\u{7}b\r\nc\td\u{9b}31m\u{8}\u{7f}\0\u{202e}e\u{200b}\u{feff}é→";
        assert_eq!(printable(told), "a[2J]0;tb\nc\td31meé→");
    }

    #[test]
    fn a_cell_of_a_table_stays_on_its_line() {
        let rows = [vec!["a\nb\u{1b}".to_string(), "c".into()]];
        assert_eq!(table(&["X", "Y"], &rows), ["X    Y", "a b  c"]);
    }

    #[test]
    fn a_line_is_cut_where_the_terminal_ends() {
        assert_eq!(
            [fit("abcd", 4), fit("abcd", 3), fit("日本", 3), fit("a\nb", 9)],
            ["abcd", "ab…", "日…", "a b"]
        );
    }
}
