//! Real shells, and texts that try to break out of a script.

use super::*;

/// Texts that try to run a command in a script.
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

/// Output of a script, which must not create `owned`.
#[track_caller]
pub fn run(script: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let output =
        std::process::Command::new("sh").args(["-c", script]).current_dir(dir.path()).output().unwrap();
    assert!(!dir.path().join("owned").exists(), "{script}");
    String::from_utf8(output.stdout).unwrap()
}

/// Asserts that a script for a container runs no part of a text. The script runs on this machine without any
/// programs and signals, and writes only below a temporary folder.
#[track_caller]
pub fn runs_no_injected_command(script: &str) {
    let script = script.replace("/tmp/", "./").replace("/dev/shm/", "./").replace("/etc/", "./");
    let dir = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new("/bin/sh");
    let prelude = "kill() { :; }\nsleep() { :; }\n";
    command.args(["-c", &format!("{prelude}{script}")]).current_dir(dir.path()).env("PATH", "/nonexistent");
    let output = command.stdin(std::process::Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(!errors.contains("syntax error") && !errors.contains("unterminated"), "{errors}\n{script}");
    assert!(!dir.path().join("owned").exists(), "{script}");
}

#[test]
fn an_injected_command_is_found() {
    let output = std::panic::catch_unwind(|| runs_no_injected_command("cat x; : >owned"));
    assert!(output.is_err());
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
