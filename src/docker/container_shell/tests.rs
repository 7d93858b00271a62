//! A session with a shell of this machine in place of a container's.

use super::*;
use crate::process::Command;

fn session() -> Session {
    let ((inner, stdin), (stdout, out), (stderr, err)) =
        (io::pipe().unwrap(), io::pipe().unwrap(), io::pipe().unwrap());
    Command::new(&["sh".into()]).start(inner, out, Some(err)).unwrap();
    Session::new(stdin, stdout, stderr)
}

fn argv(script: &str, more: &[&str]) -> Vec<String> {
    ["sh", "-c", script].iter().chain(more).map(ToString::to_string).collect()
}

/// Runs commands one after the other, and returns the last result.
fn run_all(commands: &[Vec<String>]) -> Result<CommandResult, NoAnswer> {
    let mut last = (CommandResult::default(), session());
    for argv in commands {
        last = last.1.run(argv, || None)?;
    }
    Ok(last.0)
}

#[test]
fn each_command_has_its_own_answer() {
    let mut session = session();
    for (script, code, stdout, stderr) in [
        ("echo one; echo two >&2; exit 3", 3, "one\n", "two\n"),
        ("printf 'no end'", 0, "no end", ""),
        ("x=1; cd /; true", 0, "", ""),
        ("echo \"$x\"; cat", 0, "\n", ""),
    ] {
        let (result, next) = session.run(&argv(script, &[]), || None).unwrap();
        assert_eq!(result, CommandResult { code: Some(code), stdout: stdout.into(), stderr: stderr.into() });
        session = next;
    }
}

#[test]
fn text_in_an_argument_is_never_run_as_a_command() {
    for text in crate::shell::tests::HOSTILE {
        let output = run_all(&[argv("printf %s \"$1\"", &["sh", text])]).unwrap().stdout;
        assert_eq!(output, text.split('\0').next().unwrap());
    }
}

#[test]
fn long_output_is_complete() {
    assert_eq!(run_all(&[argv("seq 200000", &[])]).unwrap().stdout.lines().count(), 200_000);
}

#[test]
fn a_late_answer_may_still_arrive_and_an_ended_shell_gives_none() {
    assert_eq!(run_all(&[argv("sleep 0.5; echo late", &[])]).unwrap().stdout, "late\n");
    assert!(matches!(run_all(&[argv("kill -9 $PPID", &[])]), Err(NoAnswer::Closed)));
    let aborted = session().run(&argv("sleep 5", &[]), || Some(NoAnswer::Aborted(Abort::Signal(15))));
    assert!(matches!(aborted, Err(NoAnswer::Aborted(Abort::Signal(15)))));
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
