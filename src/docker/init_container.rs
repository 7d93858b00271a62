//! Init containers (Compose's `pre_start`): run to their end beside a container that is created and not started, with its
//! volumes and on its networks. Source: docker/compose pull request 13862.

use anyhow::Result;

use super::exec::env_words;
use super::{Docker, expression, shown_words, with_variables};
use crate::error::Error;

/// The label by which Compose knows what it may remove.
pub(super) const HOOK: &str = "com.docker.compose.hook";

/// One that is to run.
pub struct InitContainer<'a> {
    pub project: &'a str,
    pub service: &'a str,
    pub image: &'a str,
    pub command: &'a [String],
    /// Of `docker create`.
    pub options: Vec<String>,
    pub variables: Vec<(String, String)>,
    /// The full id of the container whose volumes it gets.
    pub beside: &'a str,
    /// Names as the engine knows them.
    pub networks: &'a [String],
}

impl InitContainer<'_> {
    fn words(&self) -> Vec<String> {
        let label = |key: &str, value: &str| ["--label".to_string(), format!("{key}={value}")];
        let mut words = vec!["create".to_string()];
        words.extend(label("com.docker.compose.project", self.project));
        words.extend(label("com.docker.compose.service", self.service));
        words.extend(label(HOOK, "pre_start"));
        words.extend(["--volumes-from".to_string(), self.beside.to_string()]);
        words.extend(self.networks.first().into_iter().flat_map(|n| ["--network".to_string(), n.clone()]));
        words.extend(self.options.iter().cloned());
        words.extend(env_words(&self.variables));
        words.push(self.image.to_string());
        words.extend(self.command.iter().cloned());
        words
    }
}

impl Docker {
    /// Runs an init container to its end, its output shown; whether it succeeded.
    ///
    /// # Errors
    /// One that cannot be made or started.
    pub fn run_init_container(&self, init: &InitContainer) -> Result<bool> {
        self.check_lease()?;
        let words = init.words();
        let argv = self.docker_words(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let command = with_variables(expression(&argv), &init.variables);
        // Its words are the user's and may hold secrets.
        let shown = shown_words(&argv[1..=argv.len() - 1 - init.command.len()]);
        let made = self.run_command(&format!("{shown} …"), command, None)?;
        if !made.ok() {
            return Err(Error::unchanged("an init container cannot be made")
                .seen(made.stderr_or_stdout())
                .into());
        }
        let id = made.stdout.lines().last().unwrap_or_default().trim().to_string();
        let done = self.start_attached(&id, init);
        let removed = self.checked(&["rm", "--force", "--volumes", &id]);
        let worked = done?;
        removed?;
        Ok(worked)
    }

    fn start_attached(&self, id: &str, init: &InitContainer) -> Result<bool> {
        for network in init.networks.iter().skip(1) {
            self.checked(&["network", "connect", network, id])?;
        }
        let argv = self.docker_words(&["start", "--attach", id]);
        // In a process group of its own: what it does to a database is not cut short by a first Ctrl-C.
        self.run_streaming(&argv, expression(&argv))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_volumes_and_the_networks_of_the_instance_and_no_value_in_its_words() {
        let networks = ["p_default".to_string(), "db".to_string()];
        let init = InitContainer {
            project: "p",
            service: "app",
            image: "app:2",
            command: &["/migrate".to_string()],
            options: vec!["--user".into(), "root".into()],
            variables: vec![("KEY".into(), "secret".into())],
            beside: "abc",
            networks: &networks,
        };
        assert_eq!(
            init.words().join(" "),
            "create --label com.docker.compose.project=p --label com.docker.compose.service=app --label \
             com.docker.compose.hook=pre_start --volumes-from abc --network p_default --user root --env KEY app:2 /migrate"
        );
    }
}
