//! Variables of an HAProxy configuration: only those within double quotes count.
//! Source: HAProxy's configuration manual, 2.3 "Environment variables" and 2.4 "Conditional blocks".

use std::collections::BTreeMap;

use super::config::{bare, words};

/// A configuration with the values of its variables; one whose value is not known stays as it is written.
pub fn expanded(text: &str, environment: &BTreeMap<String, String>) -> String {
    let mut known = environment.clone();
    let mut conditions = 0_usize;
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = expand(line, &known);
        match *words(&line) {
            [".if", ..] => conditions += 1,
            [".endif", ..] => conditions = conditions.saturating_sub(1),
            [verb @ ("setenv" | "presetenv"), name, value] => {
                let (name, value) = (bare(name), bare(value));
                match conditions {
                    0 if verb == "presetenv" => _ = known.entry(name).or_insert(value),
                    0 => _ = known.insert(name, value),
                    // It has one value or the other.
                    _ => _ = known.remove(&name),
                }
            }
            ["unsetenv", ref names @ ..] => names.iter().for_each(|name| _ = known.remove(&bare(name))),
            ["resetenv", ref names @ ..] => {
                known.retain(|known, _| names.iter().any(|name| bare(name) == *known))
            }
            _ => {}
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// A line with the values of those variables that are known.
fn expand(line: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut quote = None;
    let mut rest = line;
    while let Some(char) = rest.chars().next() {
        let value = (char == '$' && quote == Some('"')).then(|| variable(rest, known)).flatten();
        if let Some((value, length)) = value {
            out.push_str(&value);
            rest = &rest[length..];
            continue;
        }
        let escaped = char == '\\' && quote != Some('\'');
        let length =
            char.len_utf8() + if escaped { rest.chars().nth(1).map_or(0, char::len_utf8) } else { 0 };
        match (quote, char) {
            (None, '#') => break,
            (None, '"' | '\'') => quote = Some(char),
            (Some(open), _) if open == char => quote = None,
            _ => {}
        }
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out
}

/// The value of the variable that a text begins with, and the length of its name there: `$NAME`, `${NAME}` or
/// `${NAME-default}`.
fn variable(text: &str, known: &BTreeMap<String, String>) -> Option<(String, usize)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let inner = text.strip_prefix("${").and_then(|rest| rest.split_once('}')).map(|(inner, _)| inner);
    let Some(inner) = inner else {
        let name: String = text[1..].chars().take_while(|c| is_name(*c)).collect();
        return Some((known.get(&name)?.clone(), name.len() + 1));
    };
    let (name, default) =
        inner.split_once('-').map_or((inner, None), |(name, default)| (name, Some(default)));
    let value = known.get(name.trim_end_matches("[*]")).cloned();
    Some((value.or(default.map(String::from))?, inner.len() + 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded_with(text: &str, environment: &[(&str, &str)]) -> String {
        let known = environment.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        expanded(text, &known)
    }

    #[test]
    fn a_variable_counts_within_double_quotes_only() {
        let line = |text: &str| expanded_with(text, &[("APP", "app"), ("EMPTY", "")]);
        assert_eq!(line(r#"server a "${APP}:80""#), r#"server a "app:80""#);
        assert_eq!(line(r#"server a "$APP:80" "${NONE-x}""#), r#"server a "app:80" "x""#);
        assert_eq!(line(r#"server "a$EMPTY" b"#), r#"server "a" b"#);
        for kept in
            [r"server a ${APP}:80", r"server a '${APP}:80'", r#"server a "\${APP}""#, r#"server a "${NONE}""#]
        {
            assert_eq!(line(kept), kept);
        }
        assert_eq!(line(r#"server a "${APP"#), r#"server a "${APP"#);
    }

    #[test]
    fn a_configuration_sets_variables_of_its_own_and_under_a_condition_their_value_is_not_known() {
        let text = |head: &str| expanded_with(&format!("{head}\nserver a \"$APP\""), &[("APP", "before")]);
        let last = |head: &str| text(head).lines().last().unwrap().to_string();
        assert_eq!(last("setenv APP app"), "server a \"app\"");
        assert_eq!(last("presetenv APP app"), "server a \"before\"");
        assert_eq!(last(".if defined(X)\nsetenv APP app\n.endif"), "server a \"$APP\"");
        assert_eq!(last("unsetenv APP"), "server a \"$APP\"");
        assert_eq!(last("resetenv OTHER"), "server a \"$APP\"");
        assert_eq!(last("resetenv APP"), "server a \"before\"");
    }
}
