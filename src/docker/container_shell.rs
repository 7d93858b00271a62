//! Shells that are kept open in containers, one in each container that is queried more than once.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::session::{PendingCommand, Session, SessionError};
use super::{AbortCheck, CommandResult, Docker, Exec, ExecAbort, SIGNAL_POLL};

/// After this long without an answer the container's state is checked: a paused container neither answers nor ends.
const STATE_CHECK: Duration = Duration::from_secs(3);

/// After this many shells in a row that ended without an answer the container gets no further one.
const MAX_FAILURES: u32 = 3;

/// Kept shells by container.
#[derive(Default)]
pub struct ShellPool(Mutex<BTreeMap<String, Arc<Mutex<Shell>>>>);

#[derive(Default)]
struct Shell {
    session: Option<Session>,
    failures: u32,
}

impl ShellPool {
    fn shell_in(&self, container: &str) -> Arc<Mutex<Shell>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(container.into()).or_default().clone()
    }
}

impl Docker {
    /// Opens shells in these containers for later queries, without waiting for them.
    pub fn open_shells(&self, containers: &[String]) {
        for container in containers {
            let shell = self.shells.shell_in(container);
            let mut shell = shell.lock().unwrap_or_else(PoisonError::into_inner);
            if shell.session.is_none() && shell.failures < MAX_FAILURES {
                shell.session = self.open_shell(container).ok();
            }
        }
    }

    /// Runs a command in the kept shell of its container, which is opened if there is none. `None` if the shell
    /// cannot run or has not answered: the command may have run then. Every command to a proxy can be repeated.
    pub(super) fn exec_in_shell(
        &self,
        exec: &Exec,
        abort_check: AbortCheck,
    ) -> Result<Option<Result<CommandResult, ExecAbort>>> {
        let shell = self.shells.shell_in(&exec.container);
        let mut shell = shell.lock().unwrap_or_else(PoisonError::into_inner);
        if shell.failures >= MAX_FAILURES {
            return Ok(None);
        }
        let Some(mut session) = shell.session.take().or_else(|| self.open_shell(&exec.container).ok()) else {
            shell.failures += 1;
            return Ok(None);
        };
        let Ok(pending) = session.run(&exec.argv) else {
            shell.failures += 1;
            return Ok(None);
        };
        let result = self.await_in_shell(&session, pending, &exec.container, abort_check)?;
        match &result {
            Some(Ok(_)) => *shell = Shell { session: Some(session), failures: 0 },
            // The command may still run in that shell.
            Some(Err(_)) => {}
            None => shell.failures += 1,
        }
        Ok(result)
    }

    /// Waits while the container runs and the engine answers, unless `abort_check` returns a reason to stop.
    fn await_in_shell(
        &self,
        session: &Session,
        mut pending: PendingCommand,
        container: &str,
        abort_check: AbortCheck,
    ) -> Result<Option<Result<CommandResult, ExecAbort>>> {
        let mut last_check = Instant::now();
        loop {
            match session.answer(&mut pending, SIGNAL_POLL) {
                Ok(result) => return Ok(Some(Ok(result))),
                Err(SessionError::Closed) => return Ok(None),
                Err(SessionError::TimedOut) => {}
            }
            if let Some(abort) = abort_check() {
                return Ok(Some(Err(abort)));
            }
            if last_check.elapsed() >= STATE_CHECK {
                last_check = Instant::now();
                let containers = self.inspect(&[container.into()])?;
                if containers.first().is_none_or(|c| c.state.status != "running") {
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
