//! Real folders, some of which belong to others: those need root, as a CI has.

use std::os::unix::fs::{chown, symlink};

use super::*;

/// A state folder below a project's, all made by whoever runs the test.
fn state() -> (tempfile::TempDir, PathBuf, [PathBuf; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join(".compose-zd");
    let below = [state.join("shop"), state.join("shop/releases")];
    make(&below[1], true).unwrap();
    (dir, state, below)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn a_folder_of_ours_that_is_open_is_closed_with_its_files_and_a_folder_of_the_user_is_not() {
    let (dir, state, [project, _]) = state();
    let file = project.join("wanted.json");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    symlink("/etc/hosts", project.join("link")).unwrap();
    for path in [&state, &project, &dir.path().to_path_buf()] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let outside = mode(Path::new("/etc/hosts"));
    make(&project, true).unwrap();
    make(&state, is_ours(&state)).unwrap();
    make(dir.path(), is_ours(dir.path())).unwrap();
    assert_eq!([mode(&state), mode(&project), mode(&file), mode(dir.path())], [0o700, 0o700, 0o600, 0o777]);
    assert_eq!(mode(Path::new("/etc/hosts")), outside);
}

#[test]
fn a_folder_that_its_owner_shares_with_a_group_stays_so_and_what_is_made_in_it_is_shared_too() {
    let (_dir, state, [project, releases]) = state();
    fs::set_permissions(&state, Permissions::from_mode(0o2770)).unwrap();
    fs::remove_dir_all(&project).unwrap();
    make(&state, is_ours(&state)).unwrap();
    make(&project, true).unwrap();
    make(&releases, true).unwrap();
    assert_eq!([mode(&state), mode(&project), mode(&releases)], [0o770; 3]);
    assert_eq!(file_mode(&releases), 0o660);
    for open in [0o2775, 0o770] {
        fs::set_permissions(&state, Permissions::from_mode(open)).unwrap();
        make(&state, is_ours(&state)).unwrap();
        assert_eq!((mode(&state), file_mode(&state)), (0o700, 0o600), "{open:o} is open");
    }
}

#[test]
fn our_own_state_is_trusted_wherever_it_ends() {
    let (_dir, state, below) = state();
    guard(&state, &below).unwrap();
    fs::remove_dir_all(&below[0]).unwrap();
    guard(&state, &below).unwrap();
    fs::remove_dir_all(&state).unwrap();
    guard(&state, &below).unwrap();
}

#[test]
fn a_link_is_refused_wherever_it_stands() {
    for place in 0..3 {
        let (dir, state, below) = state();
        let path = [&state, &below[0], &below[1]][place];
        let aside = dir.path().join("aside");
        fs::rename(path, &aside).unwrap();
        symlink(&aside, path).unwrap();
        let error = guard(&state, &below).unwrap_err();
        assert!(error.message.contains(&format!(
            "`{}` is a symbolic link to `{}`",
            path.display(),
            aside.display()
        )));
        assert!(error.hint.unwrap().contains("`--state-dir`"));
    }
}

#[test]
fn a_strangers_folder_or_file_is_refused_and_the_project_owners_is_not() {
    if !rustix::process::geteuid().is_root() {
        return; // nobody else may give a file away
    }
    for place in 0..4 {
        let (dir, state, below) = state();
        fs::write(below[1].join("0001.yml"), "").unwrap();
        let path =
            [state.clone(), below[0].clone(), below[1].clone(), below[1].join("0001.yml")][place].clone();
        chown(&path, Some(4242), None).unwrap();
        let error = guard(&state, &below).unwrap_err();
        assert!(
            error.message.starts_with(&format!("`{}` belongs to the user with the id 4242", path.display()))
        );
        assert!(error.hint.unwrap().contains(&format!("`chown -R root {}`", path.display())));
        chown(dir.path(), Some(4242), None).unwrap();
        guard(&state, &below).unwrap();
    }
}

#[test]
fn the_owner_of_the_project_counts_for_the_folder_of_another_engine_too() {
    let (_dir, state, _) = state();
    let engine = state.join("@far");
    let below = [engine.join("shop"), engine.join("shop/releases")];
    make(&below[1], true).unwrap();
    guard(&engine, &below).unwrap();
    fs::rename(&state, state.with_file_name("aside")).unwrap();
    symlink("aside", &state).unwrap();
    assert!(guard(&engine, &below).unwrap_err().message.contains("/.compose-zd` is a symbolic link"));
}
