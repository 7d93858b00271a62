//! The first process of a service in the file: command, stop signal, restart policy and memory.

use std::time::Duration;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandSpec {
    /// Replaces the entrypoint and the command of the image.
    pub entrypoint: Option<Vec<String>>,
    pub command: Option<Vec<String>>,
    /// The init of Docker is process 1 and passes signals on.
    pub init: bool,
    pub stop_signal: Option<String>,
    pub stop_grace: Option<Duration>,
    /// `restart`, else the condition of `deploy.restart_policy`.
    pub restart: Option<String>,
    /// Bytes.
    pub memory_limit: Option<u64>,
    pub memory_reserved: Option<u64>,
}

impl CommandSpec {
    /// The whole command line, given entrypoint and command of the image.
    pub fn command_line(&self, entrypoint: &[String], command: &[String]) -> Vec<String> {
        let own_command = self.command.clone().filter(|c| !c.is_empty());
        match &self.entrypoint {
            Some(own) if !own.is_empty() => [own.clone(), own_command.unwrap_or_default()].concat(),
            _ => [entrypoint.to_vec(), own_command.unwrap_or(command.to_vec())].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entrypoint_replaces_the_command_of_the_image() {
        let list = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        let some = |text: &str| Some(text).filter(|t| !t.is_empty()).map(list);
        let words = |entrypoint: &str, command: &str| {
            let own = CommandSpec {
                entrypoint: some(entrypoint),
                command: some(command),
                ..CommandSpec::default()
            };
            own.command_line(&list("e"), &list("c")).join(" ")
        };
        assert_eq!(
            [words("", ""), words("x", ""), words("", "y"), words("x", "y")],
            ["e c", "x", "e y", "x y"]
        );
    }
}
