//! `providers.docker.constraints`: which containers a Traefik takes at all, where several share an engine.

use super::labels::Labels;

/// Whether the labels match; none where that cannot be told without more than labels and equality.
pub fn matches(expression: &str, labels: &Labels) -> Option<bool> {
    if expression.trim().is_empty() {
        return Some(true);
    }
    let mut parser = ConstraintParser { rest: expression.trim(), labels, depth: 0 };
    let value = parser.any()?;
    parser.rest.is_empty().then_some(value).flatten()
}

/// Each step gives nothing for what is no expression, and an unknown value for what is one it cannot evaluate.
struct ConstraintParser<'a> {
    rest: &'a str,
    labels: &'a Labels,
    /// How many brackets and negations are open.
    depth: usize,
}

/// Deeper than anybody writes; without an end the stack would have one.
const DEEPEST: usize = 64;

type TriState = Option<bool>;

impl<'a> ConstraintParser<'a> {
    fn skip(&mut self, word: &str) -> bool {
        let after = self.rest.strip_prefix(word).map(str::trim_start);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn any(&mut self) -> Option<TriState> {
        let mut value = self.all()?;
        while self.skip("||") {
            value = or(value, self.all()?);
        }
        Some(value)
    }

    fn all(&mut self) -> Option<TriState> {
        let mut value = self.one()?;
        while self.skip("&&") {
            // By De Morgan, so that an unknown value does not hide a `false`.
            value = or(value.map(|v| !v), self.one()?.map(|v| !v)).map(|v| !v);
        }
        Some(value)
    }

    fn one(&mut self) -> Option<TriState> {
        self.depth += 1;
        let value = if self.depth > DEEPEST { None } else { self.inner() };
        self.depth -= 1;
        value
    }

    fn inner(&mut self) -> Option<TriState> {
        if self.skip("!") {
            return Some(self.one()?.map(|v| !v));
        }
        if self.skip("(") {
            let value = self.any()?;
            return self.skip(")").then_some(value);
        }
        let regex = self.skip("LabelRegex");
        if !regex && !self.skip("Label") {
            return None;
        }
        let (name, value) = self.arguments()?;
        let equal = self.labels.get(name).map_or("", String::as_str) == value;
        Some((!regex).then_some(equal))
    }

    /// ``(`name`, `value`)``
    fn arguments(&mut self) -> Option<(&'a str, &'a str)> {
        let open = self.skip("(");
        let name = self.quoted().filter(|_| open)?;
        let comma = self.skip(",");
        let value = self.quoted().filter(|_| comma)?;
        self.skip(")").then_some((name, value))
    }

    fn quoted(&mut self) -> Option<&'a str> {
        let quote = self.rest.chars().next().filter(|c| ['`', '"'].contains(c))?;
        let (text, after) = self.rest[1..].split_once(quote)?;
        self.rest = after.trim_start();
        Some(text)
    }
}

fn or(one: TriState, other: TriState) -> TriState {
    match (one, other) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_evaluated_as_far_as_labels_tell() {
        let labels: Labels = [("a".to_string(), "1".to_string())].into();
        let matches = |expression: &str| matches(expression, &labels);
        assert_eq!(matches(""), Some(true));
        assert_eq!(matches("Label(`a`, `1`)"), Some(true));
        assert_eq!(matches("Label(`a`,\"2\")"), Some(false));
        assert_eq!(matches("!Label(`a`, `2`) && (Label(`b`, `x`) || Label(`a`, `1`))"), Some(true));
        assert_eq!(matches("Label(`b`, ``)"), Some(true));
    }

    #[test]
    fn what_cannot_be_evaluated_is_unknown_unless_the_rest_decides() {
        let labels = Labels::new();
        let matches = |expression: &str| matches(expression, &labels);
        assert_eq!(matches("LabelRegex(`a`, `x.*`)"), None);
        assert_eq!(matches("LabelRegex(`a`, `x.*`) && Label(`a`, `1`)"), Some(false));
        assert_eq!(matches("LabelRegex(`a`, `x.*`) || !Label(`a`, `1`)"), Some(true));
        assert_eq!(matches("Tag(`a`)"), None);
        assert_eq!(matches("Label(`a`, ``) nonsense"), None);
        assert_eq!(matches(&format!("{}Label(`a`, ``)", "!".repeat(20))), Some(true));
        assert_eq!(matches(&"!".repeat(1_000_000)), None);
        assert_eq!(matches(&"(".repeat(1_000_000)), None);
    }
}
