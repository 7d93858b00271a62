//! Revision that is deployed, and the user who deploys, as `git` and the system report them; absent if they do not.

use std::ffi::OsString;
use std::path::Path;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::process::{CommandResult, run_program};

/// State of a working copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkingCopy {
    pub revision: String,
    /// `None` on a detached `HEAD`.
    #[serde(default)]
    pub branch: Option<String>,
    /// True if tracked files differ from the revision.
    #[serde(default)]
    pub dirty: bool,
}

/// Variables that git sets in a hook for the repository of the hook, which is not that of the project.
const LOCATION_VARIABLES: [&str; 7] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_PREFIX",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
];

type Environment = Vec<(&'static str, Option<OsString>)>;

/// Revision of the repository that a folder is in, else of the repository whose hook runs (`GIT_DIR`, with a
/// separate work tree). `None` without git, a repository or a commit, or if git does not trust the repository.
pub fn working_copy(dir: &Path) -> Option<WorkingCopy> {
    let hook = LOCATION_VARIABLES[..2].iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
    working_copy_with(dir, &hook.collect::<Vec<_>>())
}

fn working_copy_with(dir: &Path, hook: &[(&'static str, OsString)]) -> Option<WorkingCopy> {
    let environment_of_project = environment(&[]);
    let head = ["rev-parse", "--verify", "--quiet", "HEAD^{commit}"];
    let result = git(dir, &environment_of_project, &head)?;
    if result.ok() {
        return read_working_copy(dir, &environment_of_project, &result);
    }
    let is_outside = result.stderr.contains("not a git repository");
    if !is_outside || hook.iter().all(|(name, _)| *name != "GIT_DIR") {
        return None;
    }
    let hook = environment(hook);
    let result = git(dir, &hook, &head)?;
    result.ok().then(|| read_working_copy(dir, &hook, &result))?
}

fn read_working_copy(dir: &Path, environment: &Environment, head: &CommandResult) -> Option<WorkingCopy> {
    let branch = git(dir, environment, &["symbolic-ref", "--quiet", "--short", "HEAD"])?;
    // Git fails without a work tree (a bare repository); then no difference is known.
    let words = ["status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty"];
    let status = git(dir, environment, &words)?;
    Some(WorkingCopy {
        revision: head.stdout.trim().into(),
        branch: branch.ok().then(|| branch.stdout.trim().into()),
        dirty: status.ok() && !status.stdout.trim().is_empty(),
    })
}

/// Environment for git without prompts, writes or fetches. Git would resolve a hook's relative paths in the folder
/// of the project, so they are made absolute in the current folder first.
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
    let locations = LOCATION_VARIABLES.iter().map(|name| (*name, path(name)));
    locations.chain(quiet.map(|(name, value)| (name, Some(value.into())))).collect()
}

fn git(dir: &Path, environment: &Environment, words: &[&str]) -> Option<CommandResult> {
    let mut argv = vec!["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"];
    argv.extend(words);
    run_program(&argv, dir, environment).ok()
}

/// User who deploys, as `user@host`; behind `sudo`, the user who called it.
pub fn user_and_host() -> String {
    static USER: LazyLock<String> = LazyLock::new(|| {
        let output_of = |argv: &[&str]| {
            let result = run_program(argv, Path::new("/"), &[]).ok().filter(CommandResult::ok);
            result.map(|result| result.stdout).unwrap_or_default()
        };
        user_at_host(
            &output_of(&["id", "-un"]),
            std::env::var("SUDO_USER").ok().as_deref(),
            &output_of(&["uname", "-n"]),
        )
    });
    USER.clone()
}

fn user_at_host(user: &str, sudo: Option<&str>, host: &str) -> String {
    let user = match (printable(user), sudo.map(printable)) {
        (user, Some(caller)) if user == "root" && !caller.is_empty() => caller,
        (user, _) => user,
    };
    let or_unknown = |text: String| if text.is_empty() { "unknown".into() } else { text };
    format!("{}@{}", or_unknown(user), or_unknown(printable(host)))
}

/// Removes characters that could move a terminal's cursor or break a line.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !c.is_whitespace()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    /// Runs `git` with a user of its own, in a folder of the test.
    fn run(dir: &Path, words: &str) {
        let argv: Vec<&str> = "git -c user.name=a -c user.email=a@b -c init.defaultBranch=main"
            .split(' ')
            .chain(words.split(' '))
            .collect();
        let result = run_program(&argv, dir, &environment(&[])).unwrap();
        assert!(result.ok(), "{words}: {}", result.stderr);
    }

    fn repository() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), "init --quiet");
        fs::write(dir.path().join("file"), "one").unwrap();
        run(dir.path(), "add file");
        run(dir.path(), "commit --quiet --message one");
        dir
    }

    fn read(dir: &Path) -> Option<WorkingCopy> {
        working_copy_with(dir, &[])
    }

    #[test]
    fn a_working_copy_is_read_from_any_of_its_folders() {
        let dir = repository();
        let below = dir.path().join("below");
        fs::create_dir(&below).unwrap();
        let git = read(&below).unwrap();
        assert_eq!((git.revision.len(), git.branch.as_deref(), git.dirty), (40, Some("main"), false));
    }

    #[test]
    fn tracked_changes_make_a_copy_dirty_and_new_files_do_not() {
        let dir = repository();
        fs::write(dir.path().join("new"), "").unwrap();
        assert!(!read(dir.path()).unwrap().dirty);
        fs::write(dir.path().join("file"), "two").unwrap();
        assert!(read(dir.path()).unwrap().dirty);
    }

    #[test]
    fn a_detached_head_has_no_branch() {
        let dir = repository();
        run(dir.path(), "checkout --quiet --detach");
        assert_eq!(read(dir.path()).unwrap().branch, None);
    }

    #[test]
    fn without_a_repository_or_a_commit_there_is_no_working_copy() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), None);
        run(dir.path(), "init --quiet");
        assert_eq!(read(dir.path()), None);
        assert_eq!(read(Path::new("/no/such/folder")), None);
    }

    #[test]
    fn a_hook_of_a_bare_repository_deploys_its_revision() {
        let (source, bare, tree) = (repository(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        run(bare.path(), &format!("clone --quiet --bare {} .", source.path().display()));
        let hook = [("GIT_DIR", OsString::from(bare.path()))];
        let git = working_copy_with(tree.path(), &hook).unwrap();
        assert_eq!(git, read(source.path()).unwrap());
    }

    #[test]
    fn the_project_s_own_repository_comes_before_the_one_of_the_hook() {
        let (own, other) = (repository(), repository());
        run(other.path(), "commit --quiet --allow-empty --message two");
        let hook = [("GIT_DIR", OsString::from(other.path().join(".git")))];
        assert_eq!(working_copy_with(own.path(), &hook), read(own.path()));
        assert_ne!(read(own.path()), read(other.path()));
    }

    #[test]
    fn a_repository_without_commits_is_not_taken_for_the_one_of_the_hook() {
        let (own, other) = (tempfile::tempdir().unwrap(), repository());
        run(own.path(), "init --quiet");
        let hook = [("GIT_DIR", OsString::from(other.path().join(".git")))];
        assert_eq!(working_copy_with(own.path(), &hook), None);
    }

    #[test]
    fn no_program_that_the_repository_names_is_run() {
        let dir = repository();
        run(dir.path(), "config core.fsmonitor ./ran");
        let trap = dir.path().join("ran");
        fs::write(&trap, "#!/bin/sh\ntouch was-run\n").unwrap();
        fs::set_permissions(&trap, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert!(read(dir.path()).is_some());
        assert!(!dir.path().join("was-run").exists());
    }

    #[test]
    fn the_user_behind_sudo_is_named() {
        assert_eq!(user_at_host("ada\n", None, "far\n"), "ada@far");
        assert_eq!(user_at_host("root\n", Some("ada"), "far"), "ada@far");
        assert_eq!(user_at_host("root", Some(""), "far"), "root@far");
        assert_eq!(user_at_host("bob", Some("ada"), "far"), "bob@far");
        assert_eq!(user_at_host("a\u{1b}[31mda", None, ""), "a[31mda@unknown");
    }

    #[test]
    fn a_user_is_always_named() {
        assert!(
            user_and_host().split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
        );
    }

    mod properties {
        use proptest::prelude::*;

        use super::*;

        #[test]
        fn any_name_of_the_system_becomes_one_word() {
            crate::fuzz::holds(
                (any::<String>(), any::<Option<String>>(), any::<String>()),
                |(user, sudo, host)| {
                    let name = user_at_host(&user, sudo.as_deref(), &host);
                    prop_assert!(!name.contains(|c: char| c.is_control() || c.is_whitespace()), "{name:?}");
                    prop_assert!(name.len() >= 3 && name.contains('@'), "{name:?}");
                    Ok(())
                },
            );
        }
    }
}
