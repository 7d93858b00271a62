//! Evaluation of `providers.docker.constraints`, the expression by which one of several Traefiks on an engine selects
//! its containers.

use regex_lite::Regex;

use super::labels::Labels;

/// True if the labels match the expression; `None` if the expression or a regular expression in it cannot be parsed.
pub fn matches(expression: &str, labels: &Labels) -> Option<bool> {
    if expression.trim().is_empty() {
        return Some(true);
    }
    let mut parser = ConstraintParser { rest: expression.trim(), labels, depth: 0 };
    let value = parser.disjunction()?;
    parser.rest.is_empty().then_some(value).flatten()
}

/// Names of the labels in an expression.
pub fn label_names(expression: &str) -> Vec<String> {
    let calls = expression.match_indices('(').filter(|(at, _)| {
        let before = expression[..*at].trim_end();
        before.ends_with("Label") || before.ends_with("LabelRegex")
    });
    let name = |(at, _): (usize, &str)| {
        let rest = expression[at + 1..].trim_start();
        let quote = rest.chars().next().filter(|c| ['`', '"'].contains(c))?;
        Some(rest[1..].split_once(quote)?.0.to_string())
    };
    calls.filter_map(name).collect()
}

/// Recursive parser. Each method returns `None` for an invalid expression, and `Some(None)` for a value that it cannot
/// evaluate.
struct ConstraintParser<'a> {
    rest: &'a str,
    labels: &'a Labels,
    /// Number of open brackets and negations.
    depth: usize,
}

/// Limit of the depth, against a stack overflow.
const MAX_DEPTH: usize = 64;

/// Value of an expression; `None` if it cannot be evaluated.
type TriState = Option<bool>;

impl<'a> ConstraintParser<'a> {
    /// Skips a word, and returns true, if the rest begins with it.
    fn accept(&mut self, word: &str) -> bool {
        let rest = self.rest.strip_prefix(word).map(str::trim_start);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn disjunction(&mut self) -> Option<TriState> {
        let mut value = self.conjunction()?;
        while self.accept("||") {
            value = or(value, self.conjunction()?);
        }
        Some(value)
    }

    fn conjunction(&mut self) -> Option<TriState> {
        let mut value = self.term()?;
        while self.accept("&&") {
            // De Morgan's law, so that an unknown value does not hide a `false`.
            value = or(value.map(|v| !v), self.term()?.map(|v| !v)).map(|v| !v);
        }
        Some(value)
    }

    fn term(&mut self) -> Option<TriState> {
        self.depth += 1;
        let value = if self.depth > MAX_DEPTH { None } else { self.term_within_depth() };
        self.depth -= 1;
        value
    }

    fn term_within_depth(&mut self) -> Option<TriState> {
        if self.accept("!") {
            return Some(self.term()?.map(|v| !v));
        }
        if self.accept("(") {
            let value = self.disjunction()?;
            return self.accept(")").then_some(value);
        }
        let is_regex = self.accept("LabelRegex");
        if !is_regex && !self.accept("Label") {
            return None;
        }
        let (name, value) = self.arguments()?;
        let label = self.labels.get(name).map_or("", String::as_str);
        // Anywhere in the label. Source: Traefik, pkg/provider/constraints.
        Some(if is_regex { Regex::new(value).ok().map(|r| r.is_match(label)) } else { Some(label == value) })
    }

    /// ``(`name`, `value`)``
    fn arguments(&mut self) -> Option<(&'a str, &'a str)> {
        let open = self.accept("(");
        let name = self.quoted().filter(|_| open)?;
        let comma = self.accept(",");
        let value = self.quoted().filter(|_| comma)?;
        self.accept(")").then_some((name, value))
    }

    fn quoted(&mut self) -> Option<&'a str> {
        let quote = self.rest.chars().next().filter(|c| ['`', '"'].contains(c))?;
        let (text, after) = self.rest[1..].split_once(quote)?;
        self.rest = after.trim_start();
        Some(text)
    }
}

fn or(left: TriState, right: TriState) -> TriState {
    match (left, right) {
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
    fn the_labels_of_an_expression_are_named() {
        let names = label_names("!Label(`a`, `(x`) && (LabelRegex( \"b\" , `.*`) || Tag(`c`))");
        assert_eq!(names, ["a", "b"]);
        assert!(label_names("Label(a, `b`) Label(`").is_empty());
    }

    #[test]
    fn a_regex_matches_anywhere_in_the_label() {
        let labels: Labels = [("stage".to_string(), "shop-live".to_string())].into();
        let matches = |expression: &str| matches(expression, &labels);
        assert_eq!(matches("LabelRegex(`stage`, `live|next`)"), Some(true));
        assert_eq!(matches("LabelRegex(`stage`, `^live$`)"), Some(false));
        assert_eq!(matches("LabelRegex(`none`, `^$`)"), Some(true));
    }

    #[test]
    fn what_cannot_be_parsed_is_unknown_unless_the_rest_decides() {
        let labels = Labels::new();
        let matches = |expression: &str| matches(expression, &labels);
        assert_eq!(matches("LabelRegex(`a`, `x(`)"), None);
        assert_eq!(matches("LabelRegex(`a`, `x(`) && Label(`a`, `1`)"), Some(false));
        assert_eq!(matches("LabelRegex(`a`, `x(`) || !Label(`a`, `1`)"), Some(true));
        assert_eq!(matches("Tag(`a`)"), None);
        assert_eq!(matches("Label(`a`, ``) nonsense"), None);
        assert_eq!(matches(&format!("{}Label(`a`, ``)", "!".repeat(20))), Some(true));
        assert_eq!(matches(&"!".repeat(1_000_000)), None);
        assert_eq!(matches(&"(".repeat(1_000_000)), None);
    }
}
