//! A session with a shell of this machine in place of a container's.

use std::io;

use super::*;
use crate::docker::shell_of_this_machine;

fn session() -> Session {
    let ((inner, stdin), (stdout, out), (stderr, err)) =
        (io::pipe().unwrap(), io::pipe().unwrap(), io::pipe().unwrap());
    shell_of_this_machine(inner, out, err);
    Session::new(stdin, stdout, stderr)
}

fn argv(script: &str, more: &[&str]) -> Vec<String> {
    ["sh", "-c", script].iter().chain(more).map(ToString::to_string).collect()
}

fn run(session: &mut Session, argv: &[String]) -> Result<CommandResult, SessionError> {
    let mut pending = session.run(argv)?;
    session.answer(&mut pending, Duration::from_secs(20))
}

#[test]
fn each_command_has_its_own_answer() {
    let mut session = session();
    let result = |code, stdout: &str, stderr: &str| {
        Ok(CommandResult { code: Some(code), stdout: stdout.into(), stderr: stderr.into() })
    };
    assert_eq!(run(&mut session, &argv("echo one; echo two >&2; exit 3", &[])), result(3, "one\n", "two\n"));
    assert_eq!(run(&mut session, &argv("printf 'no end'", &[])), result(0, "no end", ""));
    assert_eq!(run(&mut session, &argv("x=1; cd /; true", &[])), result(0, "", ""));
    assert_eq!(run(&mut session, &argv("echo \"$x\"; cat", &[])), result(0, "\n", ""));
}

#[test]
fn text_in_an_argument_is_never_run_as_a_command() {
    let mut session = session();
    for text in crate::shell::tests::HOSTILE {
        let output = run(&mut session, &argv("printf %s \"$1\"", &["sh", text])).unwrap().stdout;
        assert_eq!(output, text.split('\0').next().unwrap());
    }
}

#[test]
fn long_output_is_complete() {
    let mut session = session();
    let output = run(&mut session, &argv("seq 200000", &[])).unwrap().stdout;
    assert_eq!(output.lines().count(), 200_000);
}

#[test]
fn a_late_answer_may_still_arrive_and_an_ended_shell_gives_none() {
    let mut session = session();
    let mut pending = session.run(&argv("sleep 0.2; echo late", &[])).unwrap();
    assert_eq!(session.answer(&mut pending, Duration::ZERO), Err(SessionError::TimedOut));
    assert_eq!(session.answer(&mut pending, Duration::from_secs(20)).unwrap().stdout, "late\n");
    assert_eq!(run(&mut session, &argv("kill -9 $PPID", &[])), Err(SessionError::Closed));
    assert_eq!(run(&mut session, &argv("true", &[])), Err(SessionError::Closed));
}

#[test]
fn only_a_plain_script_runs_in_a_kept_shell() {
    let script = Exec::sh("c", "true");
    assert!(can_run(&script));
    assert!(!can_run(&Exec::new("c", argv("true", &[])[..1].to_vec())));
    assert!(!can_run(&Exec::user_command("c", argv("true", &[]))));
    assert!(!can_run(&Exec::sidecar("c", "image", "true")));
    assert!(!can_run(&Exec { stdin: Some(String::new()), ..script.clone() }));
    assert!(!can_run(&Exec { options: vec!["--user".into()], ..script.clone() }));
    assert!(!can_run(&Exec { variables: vec![("A".into(), "b".into())], ..script }));
}
