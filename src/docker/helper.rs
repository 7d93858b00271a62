//! Helper containers, which run beside a proxy during a rollout, and signals to containers.

use std::time::Duration;

use anyhow::Result;

use super::{CommandResult, Docker};

/// Label of a helper that carries a route of a proxy, with the project and service of the route.
pub const PIN: &str = "compose-zd.pin";

/// Container that runs beside a proxy until it is removed or ends. Its image has to be on the engine already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Helper {
    /// Name of the container; empty for a name of the engine's own.
    pub name: String,
    pub image: String,
    /// Network of the helper; empty for the engine's default.
    pub network: String,
    /// Labels, whose values may be secret.
    pub labels: Vec<(String, String)>,
    /// Program instead of the image's own; empty for the image's own.
    pub entrypoint: String,
    /// Further options of `docker run`.
    pub options: Vec<String>,
    pub command: Vec<String>,
}

impl Helper {
    /// Words after `docker run`. A helper never starts again: after a restart of the engine its work is over. The
    /// healthcheck of an image would be one of another program.
    fn words(&self) -> Vec<String> {
        let mut words = ["--pull", "never", "--restart", "no", "--no-healthcheck"].map(String::from).to_vec();
        let settings =
            [("--name", &self.name), ("--network", &self.network), ("--entrypoint", &self.entrypoint)];
        let given = settings.into_iter().filter(|(_, value)| !value.is_empty());
        words.extend(given.flat_map(|(flag, value)| [flag.to_string(), value.clone()]));
        words.extend(self.options.iter().cloned());
        words.push(self.image.clone());
        words.extend(self.command.iter().cloned());
        words
    }

    /// Words of `docker run`, which reads the labels from standard input: other users of this machine can read the
    /// arguments of a process.
    fn run_words(&self, mode: &str) -> Vec<String> {
        let labels = ["--label-file", "/dev/stdin"].into_iter().filter(|_| !self.labels.is_empty());
        let start = ["run", mode].into_iter().chain(labels);
        start.map(String::from).chain(self.words()).collect()
    }

    /// Labels as a file for docker, which has one label a line. A line break in a value becomes a space.
    fn label_file(&self) -> String {
        let line = |(key, value): &(String, String)| format!("{key}={}\n", value.replace(['\r', '\n'], " "));
        self.labels.iter().map(line).collect()
    }
}

impl Docker {
    /// Starts a helper container.
    pub fn start_helper(&self, helper: &Helper) -> Result<()> {
        self.check_lease()?;
        let words = helper.run_words("--detach");
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let result = self.run_argv(&self.docker_words(&words), Some(helper.label_file().as_bytes()), None)?;
        self.checked_result(&words, result).map(drop)
    }

    /// Runs a helper container to its end, at most for `limit`, and removes it.
    pub fn run_helper(&self, helper: &Helper, limit: Duration) -> Result<Option<CommandResult>> {
        let words = helper.run_words("--rm");
        let argv = self.docker_words(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let command = self.command(&argv).stdin(Some(helper.label_file().into_bytes()));
        self.run_user_command(&super::shown_words(&argv[1..]), &command, limit)
    }

    /// Stops and removes a helper container, unless the engine is removing it already, because it has ended.
    pub fn remove_helper(&self, name: &str) -> Result<()> {
        self.check_lease()?;
        let words = ["rm", "--force", "--volumes", name];
        let result = self.run(&words)?;
        let is_gone = ["no such container", "already in progress"]
            .iter()
            .any(|text| result.stderr.to_lowercase().contains(text));
        if is_gone { Ok(()) } else { self.checked_result(&words, result).map(drop) }
    }

    /// Sends a signal to the main process of a container.
    pub fn signal_container(&self, container: &str, signal: &str) -> Result<()> {
        self.check_lease()?;
        self.checked(&["kill", "--signal", signal, container]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_pulls_no_image_and_never_starts_again() {
        let helper = Helper {
            name: "relay".into(),
            image: "busybox".into(),
            network: "front".into(),
            labels: vec![("compose-zd.helper".into(), "p".into()), ("long".into(), "a\nb".into())],
            entrypoint: "sleep".into(),
            options: vec!["--rm".into()],
            command: vec!["9".into()],
        };
        let expected = "--pull never --restart no --no-healthcheck --name relay --network front --entrypoint sleep \
                        --rm busybox 9";
        assert_eq!(helper.words().join(" "), expected);
        assert_eq!(helper.label_file(), "compose-zd.helper=p\nlong=a b\n");
        let plain = Helper { image: "busybox".into(), ..Helper::default() };
        assert_eq!(plain.words().join(" "), "--pull never --restart no --no-healthcheck busybox");
    }
}
