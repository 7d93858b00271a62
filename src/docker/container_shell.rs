//! The shells that are kept open in containers, one in each that is asked more than once.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::session::{PendingCommand, Session, SessionError};
use super::{AbortCheck, CommandResult, Docker, Exec, ExecAbort, HEARD};

/// After this long without an answer it is looked whether the container still runs: a paused one does not answer, and
/// does not end either.
const LOOK: Duration = Duration::from_secs(3);

/// A container in which so many shells in a row ended without an answer has none to keep.
const MISSES: u32 = 3;

/// By container.
#[derive(Default)]
pub struct ShellPool(Mutex<BTreeMap<String, Arc<Mutex<Shell>>>>);

#[derive(Default)]
struct Shell {
    session: Option<Session>,
    misses: u32,
}

impl ShellPool {
    fn of(&self, container: &str) -> Arc<Mutex<Shell>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(container.into()).or_default().clone()
    }
}

impl Docker {
    /// Opens shells in these containers, which are going to be asked; it is not waited for.
    pub fn open_shells(&self, containers: &[String]) {
        for container in containers {
            let shell = self.shells.of(container);
            let mut shell = shell.lock().unwrap_or_else(PoisonError::into_inner);
            if shell.session.is_none() && shell.misses < MISSES {
                shell.session = self.open_shell(container).ok();
            }
        }
    }

    /// Gives a command to the shell that is kept in its container, opened where there is none; `None` where it has not
    /// answered, or cannot: whether it has done anything is not known then, and every command to a proxy can be repeated.
    pub(super) fn exec_in_shell(
        &self,
        exec: &Exec,
        is_cut: AbortCheck,
    ) -> Result<Option<Result<CommandResult, ExecAbort>>> {
        let shell = self.shells.of(&exec.container);
        let mut shell = shell.lock().unwrap_or_else(PoisonError::into_inner);
        if shell.misses >= MISSES {
            return Ok(None);
        }
        let Some(mut session) = shell.session.take().or_else(|| self.open_shell(&exec.container).ok()) else {
            shell.misses += 1;
            return Ok(None);
        };
        let Ok(asked) = session.run(&exec.argv) else {
            shell.misses += 1;
            return Ok(None);
        };
        let done = self.answer_in_shell(&session, asked, &exec.container, is_cut)?;
        match &done {
            Some(Ok(_)) => *shell = Shell { session: Some(session), misses: 0 },
            // What it was given may still run there.
            Some(Err(_)) => {}
            None => shell.misses += 1,
        }
        Ok(done)
    }

    /// As long as the container runs and the engine answers, unless it is cut.
    fn answer_in_shell(
        &self,
        session: &Session,
        mut asked: PendingCommand,
        container: &str,
        is_cut: AbortCheck,
    ) -> Result<Option<Result<CommandResult, ExecAbort>>> {
        let mut looked = Instant::now();
        loop {
            match session.answer(&mut asked, HEARD) {
                Ok(done) => return Ok(Some(Ok(done))),
                Err(SessionError::Gone) => return Ok(None),
                Err(SessionError::Late) => {}
            }
            if let Some(cut) = is_cut() {
                return Ok(Some(Err(cut)));
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                let now = self.inspect(&[container.into()])?;
                if now.first().is_none_or(|c| c.state.status != "running") {
                    return Ok(None);
                }
            }
        }
    }

    fn open_shell(&self, container: &str) -> io::Result<Session> {
        let ((inner, stdin), (stdout, out), (stderr, err)) = (io::pipe()?, io::pipe()?, io::pipe()?);
        self.start_shell(container, inner, out, err)?;
        Ok(Session::new(stdin, stdout, stderr))
    }
}
