//! A command to run in a container, and its words.

use std::time::Duration;

use super::shown_words;

/// A command to run in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exec {
    pub container: String,
    pub argv: Vec<String>,
    /// What it reads; nothing is read without.
    pub stdin: Option<String>,
    pub options: Vec<String>,
    /// Variables that it gets. They may be secret, so docker is told their names only, and finds the values in its own
    /// environment: everybody on this machine can read the arguments of a process.
    pub variables: Vec<(String, String)>,
    /// Its words are the user's and may hold secrets: none but the first is shown.
    pub private: bool,
    /// Limit of its time, where it is not that of a question.
    pub limit: Option<Duration>,
    /// The image of a container of its own, which lives as long as the command and shares the network of `container`,
    /// whose settings it may write; those are read-only in `container` itself.
    pub beside: Option<String>,
}

impl Exec {
    /// A script for the container's own `sh`.
    pub fn sh(container: &str, script: impl Into<String>) -> Self {
        Exec::new(container, vec!["sh".into(), "-c".into(), script.into()])
    }

    pub fn new(container: &str, argv: Vec<String>) -> Self {
        Exec { container: container.into(), argv, ..Exec::default() }
    }

    /// A command of the user's.
    pub fn of_user(container: &str, argv: Vec<String>) -> Self {
        Exec { private: true, ..Exec::new(container, argv) }
    }

    /// The same for at most this long.
    pub fn within(self, limit: Duration) -> Self {
        Exec { limit: Some(limit), ..self }
    }

    /// A script for the `sh` of an image, which may change the network settings of a container.
    pub fn beside(container: &str, image: &str, script: impl Into<String>) -> Self {
        Exec { beside: Some(image.into()), ..Exec::sh(container, script) }
    }

    /// The command for people, of which `argv` is the whole.
    pub(super) fn shown(&self, argv: &[String]) -> String {
        match self.private {
            true => format!("{} …", shown_words(&argv[1..argv.len().saturating_sub(self.argv.len()) + 1])),
            false => shown_words(&argv[1..]),
        }
    }

    pub(super) fn words(&self) -> Vec<String> {
        match &self.beside {
            Some(image) => self.words_beside(image),
            None => self.words_inside(),
        }
    }

    fn words_beside(&self, image: &str) -> Vec<String> {
        let network = format!("container:{}", self.container);
        let [program, arguments @ ..] = &self.argv[..] else {
            return Vec::new();
        };
        let mut words = ["run", "--rm", "--pull", "never", "--network", &network].map(String::from).to_vec();
        words.extend(["--security-opt", "systempaths=unconfined", "--user", "0"].map(String::from));
        words.extend(["--entrypoint", program, image].map(String::from));
        words.extend(arguments.iter().cloned());
        words
    }

    fn words_inside(&self) -> Vec<String> {
        let mut words = vec!["exec".to_string()];
        words.extend(self.stdin.is_some().then(|| "-i".to_string()));
        words.extend(self.options.iter().cloned());
        words.extend(env_words(&self.variables));
        words.push(self.container.clone());
        words.extend(self.argv.iter().cloned());
        words
    }
}

/// Flags that pass variables on; docker finds their values in its own environment.
pub(super) fn env_words(variables: &[(String, String)]) -> impl Iterator<Item = String> {
    let told = |(name, value): &(String, String)| match is_dockers_own(name) {
        true => format!("{name}={value}"),
        false => name.clone(),
    };
    variables.iter().flat_map(move |variable| ["--env".to_string(), told(variable)])
}

/// Variables that the docker client goes by itself: such a one is told in full.
pub(super) fn is_dockers_own(name: &str) -> bool {
    let own = ["PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK"];
    let name = name.to_uppercase();
    own.contains(&name.as_str())
        || ["DOCKER", "OTEL", "LD_", "GO"].iter().any(|p| name.starts_with(p))
        || name.ends_with("_PROXY")
}
