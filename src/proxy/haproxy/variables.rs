//! Variables of an HAProxy configuration, which are expanded only within double quotes.
//! Source: HAProxy's configuration manual, 2.3 "Environment variables" and 2.4 "Conditional blocks".

use std::collections::BTreeMap;

use super::words::{bare, characters, words};

/// Variables up to a line of the configuration.
#[derive(Debug, Default)]
pub struct Variables {
    values: BTreeMap<String, String>,
    /// Number of `.if` blocks around the line.
    conditions: usize,
}

impl From<BTreeMap<String, String>> for Variables {
    fn from(values: BTreeMap<String, String>) -> Self {
        Variables { values, conditions: 0 }
    }
}

impl Variables {
    pub fn is_conditional(&self) -> bool {
        self.conditions > 0
    }

    /// Replaces the variables of the next line by their values; a variable with an unknown value stays as it is written.
    pub fn expand(&mut self, line: &str) -> String {
        let line = self.expanded(line);
        match *words(&line) {
            [".if", ..] => self.conditions += 1,
            [".endif", ..] => self.conditions = self.conditions.saturating_sub(1),
            [verb @ ("setenv" | "presetenv"), name, value] => self.set(bare(name), bare(value), verb),
            ["unsetenv", ref names @ ..] => names.iter().for_each(|name| _ = self.values.remove(&bare(name))),
            ["resetenv", ref names @ ..] => {
                self.values.retain(|variable, _| names.iter().any(|name| bare(name) == *variable));
            }
            _ => {}
        }
        line
    }

    fn set(&mut self, name: String, value: String, verb: &str) {
        if self.is_conditional() {
            self.values.remove(&name); // the value depends on the condition
        } else if verb == "setenv" || !self.values.contains_key(&name) {
            self.values.insert(name, value);
        }
    }

    fn expanded(&self, line: &str) -> String {
        let mut out = String::new();
        let mut end = 0;
        for (at, char, quote) in characters(line) {
            if at < end {
                continue;
            }
            let value = (char == '$' && quote == Some('"')).then(|| self.value(&line[at..])).flatten();
            let (text, length) = value.unwrap_or_else(|| (char.to_string(), char.len_utf8()));
            out += &text;
            end = at + length;
        }
        out
    }

    /// Value of the variable at the beginning of a text, and the length of the reference: `$NAME`, `${NAME}` or
    /// `${NAME-default}`.
    fn value(&self, text: &str) -> Option<(String, usize)> {
        if let Some((inner, _)) = text.strip_prefix("${").and_then(|rest| rest.split_once('}')) {
            let (name, default) =
                inner.split_once('-').map_or((inner, None), |(name, default)| (name, Some(default)));
            let value = self.values.get(name.trim_end_matches("[*]")).map(String::as_str);
            return Some((value.or(default)?.into(), inner.len() + 3));
        }
        let name = text[1..].split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()?;
        Some((self.values.get(name)?.clone(), name.len() + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded_with(text: &str, environment: &[(&str, &str)]) -> String {
        let values: BTreeMap<String, String> =
            environment.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let mut variables = Variables::from(values);
        text.lines().map(|line| variables.expand(line)).collect::<Vec<_>>().join("\n")
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
