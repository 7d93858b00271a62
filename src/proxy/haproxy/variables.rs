//! Variables of an HAProxy configuration, which are expanded only within double quotes.
//! Source: HAProxy's configuration manual, 2.3 "Environment variables" and 2.4 "Conditional blocks".

use std::collections::BTreeMap;

use super::config::{bare, words};

/// Replaces the variables of a configuration by their values; a variable with an unknown value stays as it is
/// written.
pub fn expand_variables(text: &str, environment: &BTreeMap<String, String>) -> String {
    let mut variables = environment.clone();
    let mut conditions = 0_usize;
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = expand_line(line, &variables);
        match *words(&line) {
            [".if", ..] => conditions += 1,
            [".endif", ..] => conditions = conditions.saturating_sub(1),
            [verb @ ("setenv" | "presetenv"), name, value] => {
                let (name, value) = (bare(name), bare(value));
                match conditions {
                    0 if verb == "presetenv" => _ = variables.entry(name).or_insert(value),
                    0 => _ = variables.insert(name, value),
                    // The value depends on the condition.
                    _ => _ = variables.remove(&name),
                }
            }
            ["unsetenv", ref names @ ..] => names.iter().for_each(|name| _ = variables.remove(&bare(name))),
            ["resetenv", ref names @ ..] => {
                variables.retain(|variable, _| names.iter().any(|name| bare(name) == *variable))
            }
            _ => {}
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// Replaces the known variables of a line by their values.
fn expand_line(line: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut quote = None;
    let mut rest = line;
    while let Some(char) = rest.chars().next() {
        let value = (char == '$' && quote == Some('"')).then(|| variable(rest, variables)).flatten();
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

/// Value of the variable at the beginning of a text, and the length of the reference: `$NAME`, `${NAME}` or
/// `${NAME-default}`.
fn variable(text: &str, variables: &BTreeMap<String, String>) -> Option<(String, usize)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let inner = text.strip_prefix("${").and_then(|rest| rest.split_once('}')).map(|(inner, _)| inner);
    let Some(inner) = inner else {
        let name: String = text[1..].chars().take_while(|c| is_name(*c)).collect();
        return Some((variables.get(&name)?.clone(), name.len() + 1));
    };
    let (name, default) =
        inner.split_once('-').map_or((inner, None), |(name, default)| (name, Some(default)));
    let value = variables.get(name.trim_end_matches("[*]")).cloned();
    Some((value.or(default.map(String::from))?, inner.len() + 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded_with(text: &str, environment: &[(&str, &str)]) -> String {
        let variables = environment.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        expand_variables(text, &variables)
    }

    #[test]
    fn a_variable_is_expanded_within_double_quotes_only() {
        let line = |text: &str| expanded_with(text, &[("APP", "app"), ("EMPTY", "")]);
        assert_eq!(line(r#"server a "${APP}:80""#), r#"server a "app:80""#);
        assert_eq!(line(r#"server a "$APP:80" "${NONE-x}""#), r#"server a "app:80" "x""#);
        assert_eq!(line(r#"server "a$EMPTY" b"#), r#"server "a" b"#);
        for unchanged in
            [r"server a ${APP}:80", r"server a '${APP}:80'", r#"server a "\${APP}""#, r#"server a "${NONE}""#]
        {
            assert_eq!(line(unchanged), unchanged);
        }
        assert_eq!(line(r#"server a "${APP"#), r#"server a "${APP"#);
    }

    #[test]
    fn a_configuration_sets_variables_whose_value_is_unknown_under_a_condition() {
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
