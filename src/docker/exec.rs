//! Command in a container, and the arguments of `docker exec` or `docker run` that start it.

use std::time::Duration;

use super::shown_words;

/// Command that runs in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exec {
    pub container: String,
    pub argv: Vec<String>,
    /// Standard input of the command.
    pub stdin: Option<String>,
    /// Options of `docker exec`.
    pub options: Vec<String>,
    /// Environment of the command. The values may be secret: docker gets only their names as arguments, because
    /// other users of this machine can read the arguments of a process. Docker finds the values in its own
    /// environment.
    pub variables: Vec<(String, String)>,
    /// True for a user's own command, which may hold secrets: only its first word is shown.
    pub private: bool,
    /// Time limit of the command; `None` for the default.
    pub limit: Option<Duration>,
    /// Image of a sidecar: a temporary container that runs the command in the network of `container`. The sidecar may
    /// write the settings of the network, which are read-only in `container`.
    pub sidecar_image: Option<String>,
}

impl Exec {
    /// Script for the `sh` in the container.
    pub fn sh(container: &str, script: impl Into<String>) -> Self {
        Exec::new(container, vec!["sh".into(), "-c".into(), script.into()])
    }

    pub fn new(container: &str, argv: Vec<String>) -> Self {
        Exec { container: container.into(), argv, ..Exec::default() }
    }

    /// A user's own command.
    pub fn user_command(container: &str, argv: Vec<String>) -> Self {
        Exec { private: true, ..Exec::new(container, argv) }
    }

    /// The same command with a time limit.
    pub fn with_limit(self, limit: Duration) -> Self {
        Exec { limit: Some(limit), ..self }
    }

    /// Script in a sidecar, which may change the network settings of `container`. `image` has to have `sh`.
    pub fn sidecar(container: &str, image: &str, script: impl Into<String>) -> Self {
        Exec { sidecar_image: Some(image.into()), ..Exec::sh(container, script) }
    }

    /// The command for display; `argv` is the whole command line.
    pub(super) fn shown(&self, argv: &[String]) -> String {
        if self.private {
            format!("{} …", shown_words(&argv[1..argv.len().saturating_sub(self.argv.len()) + 1]))
        } else {
            shown_words(&argv[1..])
        }
    }

    pub(super) fn words(&self) -> Vec<String> {
        match &self.sidecar_image {
            Some(image) => self.sidecar_words(image),
            None => self.exec_words(),
        }
    }

    fn sidecar_words(&self, image: &str) -> Vec<String> {
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

    fn exec_words(&self) -> Vec<String> {
        let mut words = vec!["exec".to_string()];
        words.extend(self.stdin.is_some().then(|| "-i".to_string()));
        words.extend(self.options.iter().cloned());
        words.extend(env_words(&self.variables));
        words.push(self.container.clone());
        words.extend(self.argv.iter().cloned());
        words
    }
}

/// Flags that pass environment variables to the command. Docker takes their values from its own environment.
pub(super) fn env_words(variables: &[(String, String)]) -> impl Iterator<Item = String> {
    let assignment = |(name, value): &(String, String)| {
        if is_read_by_docker(name) { format!("{name}={value}") } else { name.clone() }
    };
    variables.iter().flat_map(move |variable| ["--env".to_string(), assignment(variable)])
}

/// True for a variable that docker's client reads itself. Its value is passed as an argument, so that the client does not
/// read it.
pub(super) fn is_read_by_docker(name: &str) -> bool {
    let names = ["PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK"];
    let name = name.to_uppercase();
    names.contains(&name.as_str())
        || ["DOCKER", "OTEL", "LD_", "GO"].iter().any(|p| name.starts_with(p))
        || name.ends_with("_PROXY")
}
