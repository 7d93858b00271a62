//! Real folders, some of which belong to other users; those tests need root, as in CI.

use std::os::unix::fs::{chown, symlink};

use super::*;

/// A state folder below a project's, created by the user who runs the test.
fn state() -> (tempfile::TempDir, PathBuf, [PathBuf; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join(".compose-zd");
    let below = [state.join("shop"), state.join("shop/releases")];
    create_folder(&below[1], true).unwrap();
    (dir, state, below)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn an_open_folder_of_ours_is_restricted_with_its_files_and_a_users_folder_is_not() {
    let (dir, state, [project, _]) = state();
    let file = project.join("wanted.json");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    symlink("/etc/hosts", project.join("link")).unwrap();
    for path in [&state, &project, &dir.path().to_path_buf()] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let outside = mode(Path::new("/etc/hosts"));
    create_folder(&project, true).unwrap();
    create_folder(&state, is_own_folder(&state)).unwrap();
    create_folder(dir.path(), is_own_folder(dir.path())).unwrap();
    assert_eq!([mode(&state), mode(&project), mode(&file), mode(dir.path())], [0o700, 0o700, 0o600, 0o777]);
    assert_eq!(mode(Path::new("/etc/hosts")), outside);
}

#[test]
fn a_folder_shared_with_a_group_stays_shared_with_its_new_files() {
    let (_dir, state, [project, releases]) = state();
    fs::set_permissions(&state, Permissions::from_mode(0o2770)).unwrap();
    fs::remove_dir_all(&project).unwrap();
    create_folder(&state, is_own_folder(&state)).unwrap();
    create_folder(&project, true).unwrap();
    create_folder(&releases, true).unwrap();
    assert_eq!([mode(&state), mode(&project), mode(&releases)], [0o770; 3]);
    assert_eq!(file_mode(&releases), 0o660);
    for open in [0o2775, 0o770] {
        fs::set_permissions(&state, Permissions::from_mode(open)).unwrap();
        create_folder(&state, is_own_folder(&state)).unwrap();
        assert_eq!((mode(&state), file_mode(&state)), (0o700, 0o600), "{open:o} is open");
    }
}

#[test]
fn our_own_state_is_trusted_whatever_parts_exist() {
    let (_dir, state, below) = state();
    check_owners(&state, &below).unwrap();
    fs::remove_dir_all(&below[0]).unwrap();
    check_owners(&state, &below).unwrap();
    fs::remove_dir_all(&state).unwrap();
    check_owners(&state, &below).unwrap();
}

#[test]
fn a_link_at_any_level_is_refused() {
    for level in 0..3 {
        let (dir, state, below) = state();
        let path = [&state, &below[0], &below[1]][level];
        let aside = dir.path().join("aside");
        fs::rename(path, &aside).unwrap();
        symlink(&aside, path).unwrap();
        let error = check_owners(&state, &below).unwrap_err();
        assert!(error.message.contains(&format!(
            "`{}` is a symbolic link to `{}`",
            path.display(),
            aside.display()
        )));
        assert!(error.hint.unwrap().contains("`--state-dir`"));
    }
}

#[test]
fn another_users_folder_or_file_is_refused_and_the_project_owners_is_not() {
    if !rustix::process::geteuid().is_root() {
        return; // only root may change the owner of a file
    }
    for level in 0..4 {
        let (dir, state, below) = state();
        fs::write(below[1].join("0001.yml"), "").unwrap();
        let path =
            [state.clone(), below[0].clone(), below[1].clone(), below[1].join("0001.yml")][level].clone();
        chown(&path, Some(4242), None).unwrap();
        let error = check_owners(&state, &below).unwrap_err();
        assert!(
            error.message.starts_with(&format!("`{}` belongs to the user with the id 4242", path.display()))
        );
        assert!(error.hint.unwrap().contains(&format!("`chown -R root {}`", path.display())));
        chown(dir.path(), Some(4242), None).unwrap();
        check_owners(&state, &below).unwrap();
    }
}

#[test]
fn the_projects_owner_counts_for_the_folder_of_another_engine_too() {
    let (_dir, state, _) = state();
    let engine = state.join("@far");
    let below = [engine.join("shop"), engine.join("shop/releases")];
    create_folder(&below[1], true).unwrap();
    check_owners(&engine, &below).unwrap();
    fs::rename(&state, state.with_file_name("aside")).unwrap();
    symlink("aside", &state).unwrap();
    assert!(check_owners(&engine, &below).unwrap_err().message.contains("/.compose-zd` is a symbolic link"));
}
