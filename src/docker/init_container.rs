//! Init containers (Compose's `pre_start`). Each runs to its end beside a container that is created and not
//! started, with the volumes and networks of that container. Source: docker/compose pull request 13862.

use anyhow::Result;

use super::exec::env_words;
use super::{Docker, shown_words, with_variables};
use crate::error::Error;
use crate::process::Command;

/// Label by which Compose finds the containers that it may remove.
pub(super) const HOOK: &str = "com.docker.compose.hook";

/// Init container to run.
pub struct InitContainer<'a> {
    pub project: &'a str,
    pub service: &'a str,
    pub image: &'a str,
    pub command: &'a [String],
    /// Further options of `docker create`.
    pub options: Vec<String>,
    pub variables: Vec<(String, String)>,
    /// Full id of the container whose volumes the init container gets.
    pub volumes_from: &'a str,
    /// Names of networks as the engine has them.
    pub networks: &'a [String],
}

impl InitContainer<'_> {
    fn words(&self) -> Vec<String> {
        let label = |key: &str, value: &str| ["--label".to_string(), format!("{key}={value}")];
        let mut words = vec!["create".to_string()];
        words.extend(label("com.docker.compose.project", self.project));
        words.extend(label("com.docker.compose.service", self.service));
        words.extend(label(HOOK, "pre_start"));
        words.extend(["--volumes-from".to_string(), self.volumes_from.to_string()]);
        words.extend(self.networks.first().into_iter().flat_map(|n| ["--network".to_string(), n.clone()]));
        words.extend(self.options.iter().cloned());
        words.extend(env_words(&self.variables));
        words.push(self.image.to_string());
        words.extend(self.command.iter().cloned());
        words
    }
}

impl Docker {
    /// Runs an init container to its end and shows the output. Returns true if it succeeded.
    pub fn run_init_container(&self, init: &InitContainer) -> Result<bool> {
        self.check_lease()?;
        let words = init.words();
        let argv = self.docker_words(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let command = with_variables(self.command(&argv), &init.variables);
        // The arguments are the user's and may hold secrets.
        let shown = shown_words(&argv[1..=argv.len() - 1 - init.command.len()]);
        let created = self.run_command(&format!("{shown} …"), &command, None)?;
        if !created.ok() {
            return Err(Error::unchanged("cannot create an init container")
                .detail(created.stderr_or_stdout())
                .into());
        }
        let id = created.stdout.lines().last().unwrap_or_default().trim().to_string();
        let attached = self.start_attached(&id, init);
        let removed = self.checked(&["rm", "--force", "--volumes", &id]);
        let succeeded = attached?;
        removed?;
        Ok(succeeded)
    }

    fn start_attached(&self, id: &str, init: &InitContainer) -> Result<bool> {
        for network in init.networks.iter().skip(1) {
            self.checked(&["network", "connect", network, id])?;
        }
        let argv = self.docker_words(&["start", "--attach", id]);
        // In a process group of its own: the first Ctrl-C must not cut off a database migration.
        self.show(&argv, Command::new(&argv))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_container_has_the_volumes_and_networks_of_the_instance_and_no_secret_argument() {
        let networks = ["p_default".to_string(), "db".to_string()];
        let init = InitContainer {
            project: "p",
            service: "app",
            image: "app:2",
            command: &["/migrate".to_string()],
            options: vec!["--user".into(), "root".into()],
            variables: vec![("KEY".into(), "secret".into())],
            volumes_from: "abc",
            networks: &networks,
        };
        assert_eq!(
            init.words().join(" "),
            "create --label com.docker.compose.project=p --label com.docker.compose.service=app --label \
             com.docker.compose.hook=pre_start --volumes-from abc --network p_default --user root --env KEY app:2 /migrate"
        );
    }
}
