//! Real shells, and texts that nobody may get into a script.

use super::*;

/// What nobody may put into a script.
pub const HOSTILE: [&str; 12] = [
    "a b",
    "it's",
    "\"quoted\"",
    "; : >owned",
    "$(: >owned)",
    "`: >owned`",
    "one\n: >owned",
    "--help",
    "& : >owned #",
    "a\\'b",
    "*",
    "",
];

/// What a shell prints of a script, which finds nothing else to do.
#[track_caller]
pub fn run(script: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let done =
        std::process::Command::new("sh").args(["-c", script]).current_dir(dir.path()).output().unwrap();
    assert!(!dir.path().join("owned").exists(), "{script}");
    String::from_utf8(done.stdout).unwrap()
}

/// That a script for a container does nothing of what stands in a text: it is run here, where none of its programs
/// are found, no process gets a signal and what it writes to is elsewhere.
#[track_caller]
pub fn does_nothing_of_its_own(script: &str) {
    let script = script.replace("/tmp/", "./").replace("/dev/shm/", "./").replace("/etc/", "./");
    let dir = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new("/bin/sh");
    let prelude = "kill() { :; }\nsleep() { :; }\n";
    command.args(["-c", &format!("{prelude}{script}")]).current_dir(dir.path()).env("PATH", "/nonexistent");
    let done = command.stdin(std::process::Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).to_lowercase();
    assert!(!said.contains("syntax error") && !said.contains("unterminated"), "{said}\n{script}");
    assert!(!dir.path().join("owned").exists(), "{script}");
}

#[test]
fn what_would_do_something_is_found() {
    let done = std::panic::catch_unwind(|| does_nothing_of_its_own("cat x; : >owned"));
    assert!(done.is_err());
}

#[test]
fn a_shell_reads_the_text_back() {
    for text in HOSTILE {
        assert_eq!(run(&format!("printf '%s' {}", word(text))), text);
    }
    assert_eq!(run(&format!("printf '%s' {}", word("cut\0; : >owned"))), "cut");
}

#[test]
fn a_plain_word_stays_readable() {
    assert_eq!(path(Path::new("/srv/shop/.compose-zd")), "/srv/shop/.compose-zd");
    assert_eq!((file("/etc/x"), file("-x")), ("/etc/x".into(), "./-x".into()));
    assert_eq!(words(&["a".into(), "b c".into()]), "a 'b c'");
}
