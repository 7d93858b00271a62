//! Commands that a dry run lists instead of running them, in the form that a person types.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Docker, Exec};

/// List of commands that a client did not run.
#[derive(Debug, Clone, Default)]
pub struct CommandList {
    commands: Arc<Mutex<Vec<Vec<String>>>>,
    /// Names of containers by id: docker accepts both, and people read names.
    names: Arc<BTreeMap<String, String>>,
}

impl CommandList {
    pub fn new(names: BTreeMap<String, String>) -> CommandList {
        CommandList { names: Arc::new(names), ..CommandList::default() }
    }

    /// Removes and returns the commands so far.
    pub fn take(&self) -> Vec<Vec<String>> {
        mem::take(&mut *self.commands.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, mut argv: Vec<String>) {
        // The folder of the program means nothing on another machine.
        if let Some(name) = argv[0].rsplit('/').next().map(String::from) {
            argv[0] = name;
        }
        let named = argv.into_iter().map(|word| self.names.get(&word).cloned().unwrap_or(word)).collect();
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).push(named);
    }
}

impl Docker {
    /// The same client, which lists the changes of a rollout instead of making them.
    pub fn listing(&self, list: CommandList) -> Docker {
        Docker { list: Some(list), ..self.clone() }
    }

    /// True for a client that only lists changes.
    pub fn only_lists(&self) -> bool {
        self.list.is_some()
    }

    /// True if a command is listed instead of run.
    pub(super) fn lists(&self, words: &[&str]) -> bool {
        self.list.as_ref().is_some_and(|list| {
            list.push(self.docker_words(words));
            true
        })
    }

    /// Like [`Docker::lists`], for a command of Compose.
    pub(super) fn lists_compose(&self, words: &[String]) -> bool {
        self.list.as_ref().is_some_and(|list| {
            list.push(self.compose_words(&words.iter().map(String::as_str).collect::<Vec<_>>()));
            true
        })
    }

    /// Like [`Docker::lists`], for a command in a container. The arguments of a user's own command may hold secrets and
    /// are left out.
    pub(super) fn lists_exec(&self, exec: &Exec) -> bool {
        let mut words = exec.words();
        if exec.private {
            words.truncate(words.len().saturating_sub(exec.argv.len()) + 1);
            words.push("…".into());
        }
        self.lists(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }
}
