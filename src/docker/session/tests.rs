//! Against a shell of this machine, where containers have theirs.

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
    let mut asked = session.run(argv)?;
    session.answer(&mut asked, Duration::from_secs(20))
}

#[test]
fn each_command_has_its_own_answer() {
    let mut session = session();
    let done = |code, stdout: &str, stderr: &str| {
        Ok(CommandResult { code: Some(code), stdout: stdout.into(), stderr: stderr.into() })
    };
    assert_eq!(run(&mut session, &argv("echo one; echo two >&2; exit 3", &[])), done(3, "one\n", "two\n"));
    assert_eq!(run(&mut session, &argv("printf 'no end'", &[])), done(0, "no end", ""));
    assert_eq!(run(&mut session, &argv("x=1; cd /; true", &[])), done(0, "", ""));
    assert_eq!(run(&mut session, &argv("echo \"$x\"; cat", &[])), done(0, "\n", ""));
}

#[test]
fn whatever_stands_in_a_command_is_no_command_of_the_shells() {
    let mut session = session();
    for text in crate::shell::tests::HOSTILE {
        let told = run(&mut session, &argv("printf %s \"$1\"", &["sh", text])).unwrap().stdout;
        assert_eq!(told, text.split('\0').next().unwrap());
    }
}

#[test]
fn much_output_comes_whole() {
    let mut session = session();
    let told = run(&mut session, &argv("seq 200000", &[])).unwrap().stdout;
    assert_eq!(told.lines().count(), 200_000);
}

#[test]
fn a_shell_that_is_gone_gives_no_answer_and_a_late_one_may_still_come() {
    let mut session = session();
    let mut asked = session.run(&argv("sleep 0.2; echo late", &[])).unwrap();
    assert_eq!(session.answer(&mut asked, Duration::ZERO), Err(SessionError::Late));
    assert_eq!(session.answer(&mut asked, Duration::from_secs(20)).unwrap().stdout, "late\n");
    assert_eq!(run(&mut session, &argv("kill -9 $PPID", &[])), Err(SessionError::Gone));
    assert_eq!(run(&mut session, &argv("true", &[])), Err(SessionError::Gone));
}

#[test]
fn only_a_plain_script_is_given_to_a_shell_that_is_kept() {
    let script = Exec::sh("c", "true");
    assert!(takes(&script));
    assert!(!takes(&Exec::new("c", argv("true", &[])[..1].to_vec())));
    assert!(!takes(&Exec::of_user("c", argv("true", &[]))));
    assert!(!takes(&Exec::beside("c", "image", "true")));
    assert!(!takes(&Exec { stdin: Some(String::new()), ..script.clone() }));
    assert!(!takes(&Exec { options: vec!["--user".into()], ..script.clone() }));
    assert!(!takes(&Exec { variables: vec![("A".into(), "b".into())], ..script }));
}
