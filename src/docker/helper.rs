//! Helper containers, which run beside a proxy during a rollout, and signals to containers.

use anyhow::Result;

use super::Docker;

/// Container that runs beside a proxy until it is removed. Its image has to be on the engine already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Helper {
    pub name: String,
    pub image: String,
    /// Network of the helper; empty for the engine's default.
    pub network: String,
    pub labels: Vec<(String, String)>,
    pub command: Vec<String>,
}

impl Helper {
    fn words(&self) -> Vec<String> {
        let mut words =
            ["run", "--detach", "--pull", "never", "--name", &self.name].map(String::from).to_vec();
        if !self.network.is_empty() {
            words.extend(["--network".into(), self.network.clone()]);
        }
        words
            .extend(self.labels.iter().flat_map(|(key, value)| ["--label".into(), format!("{key}={value}")]));
        words.push(self.image.clone());
        words.extend(self.command.iter().cloned());
        words
    }
}

impl Docker {
    /// Starts a helper container.
    pub fn start_helper(&self, helper: &Helper) -> Result<()> {
        self.check_lease()?;
        let words = helper.words();
        self.checked(&words.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
    }

    /// Stops and removes a helper container.
    pub fn remove_helper(&self, name: &str) -> Result<()> {
        self.run_on_all(&["rm", "--force", "--volumes"], &[name.into()])
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
    fn a_helper_runs_detached_and_pulls_no_image() {
        let helper = Helper {
            name: "relay".into(),
            image: "busybox".into(),
            network: "front".into(),
            labels: vec![("compose-zd.helper".into(), "p".into())],
            command: vec!["sleep".into(), "9".into()],
        };
        let expected = "run --detach --pull never --name relay --network front --label compose-zd.helper=p busybox sleep 9";
        assert_eq!(helper.words().join(" "), expected);
        let plain = Helper { network: String::new(), ..Helper::default() };
        assert!(!plain.words().contains(&"--network".to_string()));
    }
}
