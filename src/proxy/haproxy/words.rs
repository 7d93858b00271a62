//! Words of a line of the configuration, with their quotes and comments.

/// Characters of a line before its comment: position, character, and the quote around it. An escaped character counts
/// as quoted by a backslash. Quoted or escaped characters neither end a word nor begin a comment.
pub fn characters(line: &str) -> impl Iterator<Item = (usize, char, Option<char>)> {
    let mut quote = None;
    let mut escaped = false;
    line.char_indices().map_while(move |(at, char)| {
        let around = if escaped { Some('\\') } else { quote };
        match (around, char) {
            (Some('\\'), _) => escaped = false,
            (None, '#') => return None,
            (None | Some('"'), '\\') => escaped = true,
            (Some(open), _) if open == char => quote = None,
            (None, '"' | '\'') => quote = Some(char),
            _ => {}
        }
        Some((at, char, around))
    })
}

/// The words of a line as they are written.
pub fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut start, mut end) = (None, 0);
    for (at, char, quote) in characters(line) {
        end = at + char.len_utf8();
        if quote.is_none() && matches!(char, ' ' | '\t' | '\r') {
            words.extend(start.take().map(|from| &line[from..at]));
        } else {
            start.get_or_insert(at);
        }
    }
    words.extend(start.map(|from| &line[from..end]));
    words
}

/// A word without its quotes.
pub fn bare(word: &str) -> String {
    word.replace(['"', '\''], "")
}
