//! Which revision is deployed, and by whom: what `git` and the system say about it, and nothing when they do not.

use std::ffi::OsString;
use std::path::Path;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::docker::{CommandResult, run_program};

/// What a working copy stood at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkingCopy {
    pub revision: String,
    /// None on a detached `HEAD`.
    #[serde(default)]
    pub branch: Option<String>,
    /// Tracked files differ from the revision.
    #[serde(default)]
    pub dirty: bool,
}

/// What a hook is told of its own repository, which is another one than that of the project.
const PLACES: [&str; 7] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_PREFIX",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
];

type Environment = Vec<(&'static str, Option<OsString>)>;

/// The revision of the repository that a folder is in, else of the one whose hook this is (`GIT_DIR`, with a work tree
/// elsewhere); none without git, a repository or a commit, or where git trusts neither.
pub fn look(dir: &Path) -> Option<WorkingCopy> {
    let hook = PLACES[..2].iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
    look_with(dir, &hook.collect::<Vec<_>>())
}

fn look_with(dir: &Path, hook: &[(&'static str, OsString)]) -> Option<WorkingCopy> {
    let own = environment(&[]);
    let head = ["rev-parse", "--verify", "--quiet", "HEAD^{commit}"];
    let done = git(dir, &own, &head)?;
    if done.ok() {
        return read(dir, &own, &done);
    }
    let outside = done.stderr.contains("not a git repository");
    if !outside || hook.iter().all(|(name, _)| *name != "GIT_DIR") {
        return None;
    }
    let hook = environment(hook);
    let done = git(dir, &hook, &head)?;
    done.ok().then(|| read(dir, &hook, &done))?
}

fn read(dir: &Path, environment: &Environment, head: &CommandResult) -> Option<WorkingCopy> {
    let branch = git(dir, environment, &["symbolic-ref", "--quiet", "--short", "HEAD"])?;
    // Without a work tree (a bare repository) it fails, and nothing is known to differ.
    let words = ["status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty"];
    let status = git(dir, environment, &words)?;
    Some(WorkingCopy {
        revision: head.stdout.trim().into(),
        branch: branch.ok().then(|| branch.stdout.trim().into()),
        dirty: status.ok() && !status.stdout.trim().is_empty(),
    })
}

/// Nothing asks, writes or fetches. Paths of the hook are read from where we stand, as git would not: it stands in the
/// folder of the project.
fn environment(hook: &[(&'static str, OsString)]) -> Environment {
    let path = |name| {
        let (_, path) = hook.iter().find(|(n, _)| n == name)?;
        std::path::absolute(path).ok().map(OsString::from)
    };
    let quiet = [
        ("LC_ALL", "C"),
        ("GIT_OPTIONAL_LOCKS", "0"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_NO_LAZY_FETCH", "1"),
    ];
    let places = PLACES.iter().map(|name| (*name, path(name)));
    places.chain(quiet.map(|(name, value)| (name, Some(value.into())))).collect()
}

fn git(dir: &Path, environment: &Environment, words: &[&str]) -> Option<CommandResult> {
    let mut argv = vec!["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"];
    argv.extend(words);
    run_program(&argv, dir, environment).ok()
}

/// Who deploys, as `user@host`: behind `sudo` the one who called it.
pub fn user_and_host() -> String {
    static WHO: LazyLock<String> = LazyLock::new(|| {
        let said = |argv: &[&str]| {
            let done = run_program(argv, Path::new("/"), &[]).ok().filter(CommandResult::ok);
            done.map(|d| d.stdout).unwrap_or_default()
        };
        named(&said(&["id", "-un"]), std::env::var("SUDO_USER").ok().as_deref(), &said(&["uname", "-n"]))
    });
    WHO.clone()
}

fn named(user: &str, sudo: Option<&str>, host: &str) -> String {
    let user = match (printable(user), sudo.map(printable)) {
        (user, Some(caller)) if user == "root" && !caller.is_empty() => caller,
        (user, _) => user,
    };
    let or_unknown = |text: String| if text.is_empty() { "unknown".into() } else { text };
    format!("{}@{}", or_unknown(user), or_unknown(printable(host)))
}

/// Nothing that could move a terminal's cursor or break a line.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !c.is_whitespace()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    /// Runs `git` as somebody, in a folder of the test.
    fn run(dir: &Path, words: &str) {
        let argv: Vec<&str> = "git -c user.name=a -c user.email=a@b -c init.defaultBranch=main"
            .split(' ')
            .chain(words.split(' '))
            .collect();
        let done = run_program(&argv, dir, &environment(&[])).unwrap();
        assert!(done.ok(), "{words}: {}", done.stderr);
    }

    fn repository() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), "init --quiet");
        fs::write(dir.path().join("file"), "one").unwrap();
        run(dir.path(), "add file");
        run(dir.path(), "commit --quiet --message one");
        dir
    }

    fn at(dir: &Path) -> Option<WorkingCopy> {
        look_with(dir, &[])
    }

    #[test]
    fn a_working_copy_is_read_from_any_of_its_folders() {
        let dir = repository();
        let below = dir.path().join("below");
        fs::create_dir(&below).unwrap();
        let git = at(&below).unwrap();
        assert_eq!((git.revision.len(), git.branch.as_deref(), git.dirty), (40, Some("main"), false));
    }

    #[test]
    fn tracked_changes_make_it_dirty_and_new_files_do_not() {
        let dir = repository();
        fs::write(dir.path().join("new"), "").unwrap();
        assert!(!at(dir.path()).unwrap().dirty);
        fs::write(dir.path().join("file"), "two").unwrap();
        assert!(at(dir.path()).unwrap().dirty);
    }

    #[test]
    fn a_detached_head_has_no_branch() {
        let dir = repository();
        run(dir.path(), "checkout --quiet --detach");
        assert_eq!(at(dir.path()).unwrap().branch, None);
    }

    #[test]
    fn no_repository_or_no_commit_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(at(dir.path()), None);
        run(dir.path(), "init --quiet");
        assert_eq!(at(dir.path()), None);
        assert_eq!(at(Path::new("/no/such/folder")), None);
    }

    #[test]
    fn a_hook_of_a_bare_repository_deploys_its_revision() {
        let (source, bare, tree) = (repository(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        run(bare.path(), &format!("clone --quiet --bare {} .", source.path().display()));
        let hook = [("GIT_DIR", OsString::from(bare.path()))];
        let git = look_with(tree.path(), &hook).unwrap();
        assert_eq!(git, at(source.path()).unwrap());
    }

    #[test]
    fn the_project_s_own_repository_comes_before_the_one_of_the_hook() {
        let (own, other) = (repository(), repository());
        run(other.path(), "commit --quiet --allow-empty --message two");
        let hook = [("GIT_DIR", OsString::from(other.path().join(".git")))];
        assert_eq!(look_with(own.path(), &hook), at(own.path()));
        assert_ne!(at(own.path()), at(other.path()));
    }

    #[test]
    fn a_repository_without_commits_is_not_taken_for_the_one_of_the_hook() {
        let (own, other) = (tempfile::tempdir().unwrap(), repository());
        run(own.path(), "init --quiet");
        let hook = [("GIT_DIR", OsString::from(other.path().join(".git")))];
        assert_eq!(look_with(own.path(), &hook), None);
    }

    #[test]
    fn nothing_that_the_repository_names_is_run() {
        let dir = repository();
        run(dir.path(), "config core.fsmonitor ./ran");
        let trap = dir.path().join("ran");
        fs::write(&trap, "#!/bin/sh\ntouch was-run\n").unwrap();
        fs::set_permissions(&trap, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert!(at(dir.path()).is_some());
        assert!(!dir.path().join("was-run").exists());
    }

    #[test]
    fn the_one_behind_sudo_is_named() {
        assert_eq!(named("ada\n", None, "far\n"), "ada@far");
        assert_eq!(named("root\n", Some("ada"), "far"), "ada@far");
        assert_eq!(named("root", Some(""), "far"), "root@far");
        assert_eq!(named("bob", Some("ada"), "far"), "bob@far");
        assert_eq!(named("a\u{1b}[31mda", None, ""), "a[31mda@unknown");
    }

    #[test]
    fn somebody_is_always_named() {
        assert!(
            user_and_host().split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
        );
    }

    mod properties {
        use proptest::prelude::*;

        use super::*;

        #[test]
        fn whatever_the_system_says_a_name_is_one_word() {
            crate::fuzz::holds(
                (any::<String>(), any::<Option<String>>(), any::<String>()),
                |(user, sudo, host)| {
                    let name = named(&user, sudo.as_deref(), &host);
                    prop_assert!(!name.contains(|c: char| c.is_control() || c.is_whitespace()), "{name:?}");
                    prop_assert!(name.len() >= 3 && name.contains('@'), "{name:?}");
                    Ok(())
                },
            );
        }
    }
}
