//! Text of others as one word of a shell, whatever is in it.

use std::path::Path;

/// A function of a script: whether a program ran, by its exit code. Where it did not, a signal ended it (as busybox's wget
/// ends itself in some builds), or it or its libraries are missing; the next one is tried then.
pub const RUNS: &str = "runs() { case $1 in 126|127|132|134|135|136|139) return 1 ;; esac; }\n";

/// A word that `sh` reads as exactly this text. No argument of a process has a NUL, so one ends the text here too.
pub fn word(text: &str) -> String {
    let text = text.split('\0').next().unwrap_or_default();
    shlex::try_quote(text).expect("there is no NUL in it").into_owned()
}

/// The same of the name of a file, which no command takes for a flag.
pub fn file(name: &str) -> String {
    match name.starts_with('-') {
        true => word(&format!("./{name}")),
        false => word(name),
    }
}

/// Several words, with a space between them.
pub fn words<'a>(texts: impl IntoIterator<Item = &'a String>) -> String {
    texts.into_iter().map(|text| word(text)).collect::<Vec<_>>().join(" ")
}

/// The same of a path, to be typed.
pub fn path(path: &Path) -> String {
    word(&path.to_string_lossy())
}

#[cfg(test)]
pub mod tests;
