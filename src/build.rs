//! Build script: passes the revision to `--version`, from git or from `cargo package`, if one is known. A missing
//! revision never fails the build.

use std::fs;
use std::path::Path;
use std::process::Command;

fn main() {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let revision = git_revision(&root).or_else(|| package_revision(&root));
    let text = revision.map_or(version.clone(), |revision| format!("{version} ({revision})"));
    println!("cargo::rustc-env=ZD_VERSION={text}");
    // Every change below makes the working copy dirty, and cargo rebuilds for it anyway.
    ["src", "Cargo.toml", "Cargo.lock"].iter().for_each(|path| println!("cargo::rerun-if-changed={path}"));
    watched_paths(&root).iter().for_each(|path| println!("cargo::rerun-if-changed={path}"));
}

/// Revision of this package's own git repository. An enclosing repository does not count.
fn git_revision(root: &str) -> Option<String> {
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if fs::canonicalize(&top).ok()? != fs::canonicalize(root).ok()? {
        return None;
    }
    let revision = git(root, &["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(root, &["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { revision } else { format!("{revision}, changed") })
}

/// Revision that `cargo package` stored in the package.
fn package_revision(root: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new(root).join(".cargo_vcs_info.json")).ok()?;
    let (_, rest) = text.split_once("\"sha1\": \"")?;
    let revision: String = rest.chars().take_while(char::is_ascii_hexdigit).take(12).collect();
    (!revision.is_empty()).then_some(revision)
}

/// Files of git that change with `HEAD`. A missing file would make cargo run this script on every build.
fn watched_paths(root: &str) -> Vec<String> {
    let branch = git(root, &["symbolic-ref", "--quiet", "HEAD"]);
    let names = ["HEAD", "logs/HEAD", "packed-refs"].map(String::from).into_iter().chain(branch);
    let paths = names.filter_map(|name| git(root, &["rev-parse", "--git-path", &name]));
    paths.filter(|path| Path::new(root).join(path).exists()).collect()
}

/// Runs git without the repository that a hook has in its environment.
fn git(root: &str, words: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.args(words).current_dir(root);
    ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"].iter().for_each(|name| _ = command.env_remove(name));
    let output = command.env("GIT_OPTIONAL_LOCKS", "0").output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().into())
}
