//! Quotes any text as one word of a shell.

use std::path::Path;

/// Shell function that is false if a program did not run, by its exit code. Either a signal ended the program (as
/// busybox's wget does in some builds), or the program or its libraries are missing; scripts then try the next
/// program.
pub const RUNS_FUNCTION: &str = "runs() { case $1 in 126|127|132|134|135|136|139) return 1 ;; esac; }\n";

/// Quotes a text for `sh`. A process argument cannot hold a NUL, so a NUL ends the text.
pub fn word(text: &str) -> String {
    let text = text.split('\0').next().unwrap_or_default();
    shlex::try_quote(text).expect("a text without NUL").into_owned()
}

/// Quotes a file name, so that no command takes it for a flag.
pub fn file(name: &str) -> String {
    if name.starts_with('-') { word(&format!("./{name}")) } else { word(name) }
}
/// Quotes several words and joins them with spaces.
/// Several words, with a space between them.
pub fn words<'a>(texts: impl IntoIterator<Item = &'a String>) -> String {
    texts.into_iter().map(|text| word(text)).collect::<Vec<_>>().join(" ")
}
/// Quotes a path for a person to type.
/// The same of a path, to be typed.
pub fn path(path: &Path) -> String {
    word(&path.to_string_lossy())
}

#[cfg(test)]
pub mod tests;
