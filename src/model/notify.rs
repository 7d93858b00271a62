//! Receivers of the result of a rollout (`x-zd.notify`).

use std::fmt;
use std::path::PathBuf;

use reqwest::Url;
use serde_yaml::Value;

use super::ConfigError;
use super::settings::unescape_dollars;

/// Receiver of the JSON summary. Its text in messages has no secret: no path of a URL, and no argument of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receiver {
    /// Gets the summary by POST.
    Url(Url),
    /// Command line for the shell; gets the summary on stdin.
    Command(String),
}

/// Receivers of a project.
#[derive(Debug, Default)]
pub struct ReceiverList {
    pub project: String,
    /// Folder in which commands run.
    pub folder: PathBuf,
    pub all: Vec<Receiver>,
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Receiver::Url(url) => write!(f, "{}://{}/…", url.scheme(), url.host_str().unwrap_or_default()),
            Receiver::Command(command) => {
                let program = command.split_whitespace().next().unwrap_or_default();
                write!(f, "`{} …`", program.rsplit('/').next().unwrap_or_default())
            }
        }
    }
}

/// Parses `x-zd.notify`: a list of URLs and commands, or one of them.
///
/// # Errors
/// Another value. The message does not show it, because it may hold a secret.
pub fn read(value: Option<&Value>, source: &str) -> Result<Vec<Receiver>, ConfigError> {
    let entries = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Sequence(entries)) => entries.as_slice(),
        Some(entry) => std::slice::from_ref(entry),
    };
    let receivers = entries.iter().map(|entry| receiver(&unescape_dollars(entry.as_str()?)));
    receivers.collect::<Option<Vec<_>>>().ok_or_else(|| ConfigError {
        message: format!("{source}: `x-zd.notify` is invalid"),
        hint:
            "set it to a list of URLs, such as `https://hooks.example/deploys`, and of commands for the shell"
                .into(),
    })
}

fn receiver(text: &str) -> Option<Receiver> {
    let is_url = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
    match text.trim() {
        "" => None,
        url if is_url && (cfg!(feature = "tls") || url.starts_with("http:")) => {
            Url::parse(url).ok().map(Receiver::Url)
        }
        _ if is_url => None,
        command => Some(Receiver::Command(command.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(yaml: &str) -> Option<Vec<String>> {
        let value: Value = serde_yaml::from_str(yaml).unwrap();
        read(Some(&value), "f").ok().map(|all| all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_list_has_urls_and_commands_whose_text_has_no_secret() {
        let list = shown("['https://u:p@hooks.example/T0/secret?k=v', 'bin/tell --token $$SECRET']");
        assert_eq!(list.unwrap(), ["https://hooks.example/…", "`tell …`"]);
        assert_eq!(shown("http://a:80/x").unwrap(), ["http://a/…"]);
        assert_eq!(shown("~").unwrap(), [""; 0]);
        for wrong in ["3", "[1]", "['']", "{url: a}", "['http://']"] {
            assert_eq!(shown(wrong), None, "{wrong}");
        }
    }
}
