//! Parsing of `docker compose config`, with errors that name the key.

use serde_yaml::Value;

use super::ConfigError;
use super::Project;

/// Parses the output of `docker compose config`. The output holds secrets, so messages name keys and never values.
///
/// # Errors
/// The first key that Compose does not print so.
pub fn read(yaml: &str, source: &str) -> Result<Project, ConfigError> {
    let invalid_key =
        |message: String, hint: String| ConfigError { message: format!("{source}: {message}"), hint };
    let value: Value = serde_yaml::from_str(yaml).map_err(|e| {
        let at = e.location().map(|l| format!(" (line {}, column {})", l.line(), l.column()));
        invalid_key(
            format!("the output of `docker compose config` is no YAML{}", at.unwrap_or_default()),
            "check the file with `docker compose config --quiet`".into(),
        )
    })?;
    if !value.is_mapping() {
        return Err(invalid_key("the file is empty".into(), "add services under `services`".into()));
    }
    let services = value.get("services").and_then(Value::as_mapping).into_iter().flatten();
    if let Some(name) = services.filter(|(_, s)| s.is_null()).find_map(|(name, _)| name.as_str()) {
        let key = format!("services.{name}");
        return Err(invalid_key(
            format!("`{key}` has neither `image` nor `build`"),
            format!("correct or remove `{key}`"),
        ));
    }
    let project = serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        let text = e.into_inner().to_string();
        if let Some(hint) = text.strip_prefix(INVALID) {
            return invalid_key(format!("`{path}` is invalid"), hint.into());
        }
        let message = without_values(&text);
        match path.as_str() {
            "." => invalid_key(message, "add the missing key; `docker compose config` must print it".into()),
            key => invalid_key(format!("`{key}`: {message}"), format!("correct or remove `{key}`")),
        }
    })?;
    check(&project, source)?;
    Ok(project)
}

/// Marks an error of serde whose text is the hint for an invalid key.
const INVALID: &str = "\u{1}";

/// The error of an invalid key.
pub fn invalid<E: serde::de::Error>(hint: &str) -> E {
    E::custom(format!("{INVALID}{hint}"))
}

/// A message of serde without the value.
fn without_values(message: &str) -> String {
    let Some((what, rest)) = message.split_once(": ") else { return message.into() };
    let kind = rest.split([' ', ',']).next().unwrap_or_default();
    match (what, rest.rsplit_once(", expected ")) {
        ("invalid type" | "invalid value", Some((_, expected))) => {
            plain_message(&format!("{what}: {kind}, expected {expected}"))
        }
        _ => plain_message(message),
    }
}

/// Message of serde, in terms of YAML.
pub fn plain_message(message: &str) -> String {
    let words = [
        ("expected u16", "expected a whole number up to 65535"),
        ("expected u32", "expected a whole number"),
        ("expected usize", "expected a whole number"),
        ("expected a Value::Tagged enum", "expected a word"),
        ("expected an array of length 2", "expected two names"),
        (": sequence", ": a list"),
        (": map", ": a map"),
        ("expected a sequence", "expected a list"),
        ("expected a string", "expected a text"),
        (": string", ": a text"),
        (": unit value", ": nothing"),
    ];
    words.iter().fold(message.to_string(), |message, (serde, plain)| message.replace(serde, plain))
}

/// Checks names. Compose prints only valid ones, but docker or a shell could misread others.
///
/// # Errors
/// A name that is no option-safe path component.
fn check(project: &Project, source: &str) -> Result<(), ConfigError> {
    let invalid = |key: String, reason: &str| ConfigError {
        message: format!("{source}: `{}` {reason}", printable(&key)),
        hint: "a name has letters, digits, `_`, `-` and `.`, and begins with a letter or a digit".into(),
    };
    if !is_name(&project.name) {
        return Err(invalid("name".into(), "is no valid project name"));
    }
    for (name, service) in &project.services {
        if !is_name(name) {
            return Err(invalid(format!("services.{name}"), "is no valid service name"));
        }
        let image = service.image_in_file.as_deref().unwrap_or("x");
        let is_reference =
            image.starts_with(|c: char| c.is_ascii_alphanumeric()) && !image.contains(|c: char| c <= ' ');
        if !is_reference {
            return Err(invalid(format!("services.{name}.image"), "is no valid image reference"));
        }
    }
    Ok(())
}

/// A valid service name of Compose that docker cannot mistake for a flag.
pub fn is_name(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(inside)
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}
