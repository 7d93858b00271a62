//! Conversion of a chapter from Markdown to terminal text and to a manual page. Pure.

use console::measure_text_width;

use crate::plugin::with_program;

/// Maximum columns of a line of prose.
const WIDEST: usize = 100;
/// Tables with more columns are figures, and stay tables at any width.
const FEW: usize = 5;

#[derive(Debug, PartialEq)]
enum Block {
    Heading(usize, String),
    Paragraph { indent: usize, text: String },
    Item { indent: usize, mark: String, text: String },
    Code { indent: usize, lines: Vec<String> },
    Table(Vec<Vec<String>>),
}

/// A chapter as text of at most `width` columns. A link to another chapter becomes `PROGRAM help TOPIC`.
pub fn plain(chapter: &str, program: &str, width: usize) -> String {
    let width = width.min(WIDEST);
    let inline = |text: &str| {
        let text = linked(text, |topic| format!("`{program} help {topic}`"));
        with_program(&without_marks(&text), program)
    };
    let mut page = String::new();
    let mut is_in_list = false;
    for block in blocks(chapter) {
        let is_item = matches!(block, Block::Item { .. });
        page += if page.is_empty() || (is_item && is_in_list) { "" } else { "\n" };
        is_in_list = is_item;
        page += &match block {
            Block::Heading(_, text) => format!("{}\n", inline(&text)),
            Block::Paragraph { indent, text } => wrap(&inline(&text), indent + 2, indent + 2, "", width),
            Block::Item { indent, mark, text } => {
                let hang = indent + 3 + mark.chars().count();
                wrap(&inline(&text), indent + 2, hang, &mark, width)
            }
            Block::Code { indent, lines } => indented(&commands_of(&lines, program), indent + 4),
            Block::Table(rows) => plain_table(&rows_of(&rows, inline), width),
        };
    }
    page
}

/// Lines of code whose commands begin with this name of the program.
fn commands_of(lines: &[String], program: &str) -> Vec<String> {
    let command = |line: &String| {
        let start = line.strip_prefix("$ ").map_or(0, |_| 2);
        match line[start..].strip_prefix("compose-zd ") {
            Some(arguments) => format!("{}{program} {arguments}", &line[..start]),
            None => line.clone(),
        }
    };
    lines.iter().map(command).collect()
}

/// A chapter as a page of section 7, in roff.
pub fn man_page(topic: &str, chapter: &str) -> String {
    let inline = |text: &str| bold(&escape(&linked(text, |topic| format!("**compose-zd-{topic}**(7)"))));
    let title = super::title(chapter).replace('`', "");
    let mut page =
        format!(".TH compose-zd-{topic} 7\n.SH NAME\ncompose\\-zd\\-{topic} \\- {}\n", escape(&title));
    for block in blocks(chapter) {
        page += &match block {
            Block::Heading(1, _) => ".SH DESCRIPTION\n".into(),
            Block::Heading(_, text) => format!(".SH {}\n", inline(&text)),
            Block::Paragraph { indent: 0, text } => format!(".PP\n{}\n", inline(&text)),
            Block::Paragraph { text, .. } => format!(".IP\n{}\n", inline(&text)),
            Block::Item { indent, mark, text } => {
                let mark = if mark == "-" { "\\(bu".into() } else { mark };
                let item = format!(".IP {mark} 4\n{}\n", inline(&text));
                if indent == 0 { item } else { format!(".RS 4\n{item}.RE\n") }
            }
            Block::Code { lines, .. } => literal(&lines),
            Block::Table(rows) => roff_table(&rows_of(&rows, without_marks), &rows, inline),
        };
    }
    page
}

fn blocks(chapter: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut rest: Vec<&str> = chapter.lines().collect();
    rest.reverse();
    while let Some(line) = rest.pop() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if text.starts_with("```") {
            blocks.push(code(indent, &mut rest));
        } else if text.starts_with('#') {
            let level = text.chars().take_while(|c| *c == '#').count();
            blocks.push(Block::Heading(level, text[level..].trim().into()));
        } else if text.starts_with('|') {
            table_row(text, &mut blocks);
        } else if let Some((mark, text)) = marker(text) {
            blocks.push(Block::Item { indent, mark: mark.into(), text: joined(text, &mut rest) });
        } else if indent >= 4 {
            let mut lines = vec![line[4..].to_string()];
            while let Some(line) = rest.pop_if(|line| line.starts_with("    ")) {
                lines.push(line[4..].into());
            }
            blocks.push(Block::Code { indent: 0, lines });
        } else if !text.is_empty() && !text.starts_with("![") {
            blocks.push(Block::Paragraph { indent, text: joined(text, &mut rest) });
        }
    }
    blocks
}

/// Lines up to the closing fence, without the indent of the opening one.
fn code(indent: usize, rest: &mut Vec<&str>) -> Block {
    let mut lines = Vec::new();
    while let Some(line) = rest.pop()
        && !line.trim_start().starts_with("```")
    {
        lines.push(line.get(indent..).unwrap_or_default().to_string());
    }
    Block::Code { indent, lines }
}

fn table_row(line: &str, blocks: &mut Vec<Block>) {
    let cells: Vec<String> =
        line.trim().trim_matches('|').split('|').map(|cell| cell.trim().into()).collect();
    let is_rule = cells.iter().all(|cell| !cell.is_empty() && cell.chars().all(|c| "-:".contains(c)));
    match blocks.last_mut() {
        Some(Block::Table(_)) if is_rule => (),
        Some(Block::Table(rows)) => rows.push(cells),
        _ => blocks.push(Block::Table(vec![cells])),
    }
}

/// Mark of a list item (`-`, `1.`) and its text.
fn marker(text: &str) -> Option<(&str, &str)> {
    let (mark, rest) = text.split_once(' ')?;
    let number =
        mark.strip_suffix('.').is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()));
    (mark == "-" || number).then_some((mark, rest.trim_start()))
}

/// A line with the lines that continue its paragraph.
fn joined(first: &str, rest: &mut Vec<&str>) -> String {
    let mut text = first.to_string();
    let continues = |line: &&str| {
        let line = line.trim_start();
        !line.is_empty()
            && !line.starts_with(['#', '|'])
            && !line.starts_with("```")
            && marker(line).is_none()
    };
    while rest.last().is_some_and(continues) {
        text = format!("{text} {}", rest.pop().unwrap_or_default().trim());
    }
    text
}

/// Text without the addresses of its links. A link to another chapter is followed, or replaced, by the command from `open`.
fn linked(text: &str, open: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, words, address, after)) = link(rest) {
        let topic = address.strip_suffix(".md").filter(|topic| !topic.contains('/'));
        out += before;
        out += &match topic {
            Some(topic) if topic == words => open(topic),
            Some(topic) => format!("{words} ({})", open(topic)),
            None => words.into(),
        };
        rest = after;
    }
    out + rest
}

/// The first link of a text, as the text before, its words, its address and the text after.
fn link(text: &str) -> Option<(&str, &str, &str, &str)> {
    let middle = text.find("](")?;
    let start = text[..middle].rfind('[')?;
    let end = middle + text[middle..].find(')')?;
    Some((&text[..start], &text[start + 1..middle], &text[middle + 2..end], &text[end + 1..]))
}

/// Text without the marks of bold.
fn without_marks(text: &str) -> String {
    text.replace("**", "")
}

fn rows_of(rows: &[Vec<String>], inline: impl Fn(&str) -> String) -> Vec<Vec<String>> {
    rows.iter().map(|row| row.iter().map(|cell| inline(cell)).collect()).collect()
}

/// Rows as columns if they fit, else a block for each row with the headings of its cells.
fn plain_table(rows: &[Vec<String>], width: usize) -> String {
    match aligned(rows, width) {
        Some(lines) => indented(&lines, 2),
        None => {
            let entries = rows.iter().skip(1).map(|row| {
                let (name, cells) = described(&rows[0], row);
                let cells = cells.iter().map(|cell| wrap(cell, 6, 6, "", width));
                wrap(&name, 2, 2, "", width) + &cells.collect::<String>()
            });
            entries.collect::<Vec<_>>().join("\n")
        }
    }
}

/// The first cell, and the other cells, with their headings if there are several.
fn described(head: &[String], row: &[String]) -> (String, Vec<String>) {
    let cells = head.iter().zip(row).skip(1).filter(|(_, cell)| !cell.is_empty());
    let is_plain = head.len() == 2;
    let named = |(head, cell): (&String, &String)| {
        if is_plain || head.is_empty() { cell.clone() } else { format!("{head}: {cell}") }
    };
    (row[0].clone(), cells.map(named).collect())
}

fn aligned(rows: &[Vec<String>], width: usize) -> Option<Vec<String>> {
    let columns = rows[0].len();
    let widest =
        |n: usize| rows.iter().map(|row| row.get(n).map_or(0, |c| measure_text_width(c))).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(widest).collect();
    if columns <= FEW && widths.iter().sum::<usize>() + 2 * columns > width {
        return None;
    }
    let pad = |(cell, width): (&String, &usize)| {
        format!("{cell}{}  ", " ".repeat(width - measure_text_width(cell)))
    };
    let line =
        |row: &Vec<String>| row.iter().zip(&widths).map(pad).collect::<String>().trim_end().to_string();
    Some(rows.iter().map(line).collect())
}

/// Words in lines of at most `width` columns; longer words stay whole. The first line begins with the mark.
fn wrap(text: &str, first: usize, hang: usize, mark: &str, width: usize) -> String {
    let mut lines = vec![format!("{}{mark}", " ".repeat(first))];
    let mut is_empty = mark.is_empty();
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("the first line");
        if !is_empty && measure_text_width(line) + 1 + measure_text_width(word) > width {
            lines.push(format!("{}{word}", " ".repeat(hang)));
        } else {
            *line += &if is_empty { word.to_string() } else { format!(" {word}") };
        }
        is_empty = false;
    }
    lines.join("\n") + "\n"
}

fn indented(lines: &[String], by: usize) -> String {
    lines.iter().map(|line| format!("{}{line}\n", " ".repeat(if line.is_empty() { 0 } else { by }))).collect()
}

fn literal(lines: &[String]) -> String {
    let lines: String = lines.iter().map(|line| format!("{}\n", guarded(&escape(line)))).collect();
    format!(".PP\n.RS 4\n.nf\n{lines}.fi\n.RE\n")
}

fn roff_table(shown: &[Vec<String>], rows: &[Vec<String>], inline: impl Fn(&str) -> String) -> String {
    match aligned(shown, 72) {
        Some(lines) => literal(&lines),
        None => rows.iter().skip(1).fold(String::new(), |page, row| {
            let (name, cells) = described(&rows[0], row);
            let cells: String = cells.iter().map(|cell| format!("{}\n.br\n", inline(cell))).collect();
            format!("{page}.TP\n{}\n{cells}", inline(&name))
        }),
    }
}

/// Text without requests and escapes of roff, with hyphens that can be copied.
fn escape(text: &str) -> String {
    guarded(&text.replace('\\', "\\e").replace('-', "\\-"))
}

/// Protects a line that begins with a control character of roff.
fn guarded(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.into() }
}

/// Bold for code and for bold text of Markdown.
fn bold(text: &str) -> String {
    let mut is_bold = false;
    let mut out = String::new();
    for (n, part) in text.replace("**", "`").split('`').enumerate() {
        if n > 0 {
            is_bold = !is_bold;
            out += if is_bold { "\\fB" } else { "\\fR" };
        }
        out += part;
    }
    out
}
