//! Real folders: the files, their permissions, and the errors for files that cannot be read.

use std::os::unix::fs::PermissionsExt;

use super::super::RolloutKind;
use super::super::tests::{record, service_release};
use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&dir.path().join("state"), "shop").unwrap();
    (dir, store)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn in_progress(number: u32) -> InProgress {
    InProgress {
        format: FORMAT,
        number,
        kind: RolloutKind::Rollback { to: 1 },
        services: vec!["app".into()],
        replaced: vec!["id".into()],
        restart: [("id".into(), "always".into())].into(),
        last_good: Some(2),
        paused: true,
        undoing: false,
    }
}

#[test]
fn a_history_keeps_its_unique_id_when_its_folder_is_moved() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|folder| Store::new(&dir.path().join(folder), "p").unwrap());
    assert_ne!(one.id(), two.id(), "two checkouts");
    let before = one.id();
    one.prepare().unwrap();
    assert_eq!(one.id(), before);
    fs::rename(dir.path().join("one"), dir.path().join("three")).unwrap();
    let moved = Store::new(&dir.path().join("three"), "p").unwrap();
    assert_eq!(moved.id(), before);
    fs::write(moved.folder().join("history-id"), "../../x").unwrap();
    assert_eq!(moved.id().len(), 8, "an invalid id is not used");
}

fn numbers(store: &Store) -> Vec<u32> {
    store.history().unwrap().records.iter().map(|r| r.number).collect()
}

#[test]
fn no_file_exists_before_the_first_write() {
    let (dir, store) = store();
    assert_eq!(store.history().unwrap(), ReleaseHistory::default());
    assert_eq!(store.in_progress().unwrap(), None);
    store.clear_in_progress().unwrap();
    store.prune(&Retention::default()).unwrap();
    assert_eq!(projects(&dir.path().join("state")).unwrap(), [""; 0]);
    assert!(!dir.path().join("state").exists());
}

#[test]
fn written_files_are_read_back() {
    let (dir, store) = store();
    let (second, tenth) = (record(2, &[("app", service_release("a", 2))]), record(10_000, &[]));
    store.write_record(&tenth).unwrap();
    store.write_record(&second).unwrap();
    assert_eq!(store.history().unwrap().records, [second, tenth]);
    store.write_config(2, "services: {}\n").unwrap();
    assert_eq!(store.config(2).unwrap(), "services: {}\n");
    store.write_in_progress(&in_progress(3)).unwrap();
    assert_eq!(store.in_progress().unwrap(), Some(in_progress(3)));
    store.clear_in_progress().unwrap();
    assert_eq!(store.in_progress().unwrap(), None);
    let run = ProjectRun { format: FORMAT, to: Some(1), ..ProjectRun::default() };
    fs::create_dir_all(store.project_run_path()).unwrap();
    store.write_project_run(&run).unwrap();
    assert_eq!(store.project_run().unwrap(), Some(run), "the folder in its place is set aside");
    store.clear_project_run().unwrap();
    assert_eq!(store.project_run().unwrap(), None);
    assert_eq!(projects(&dir.path().join("state")).unwrap(), ["shop"]);
}

#[test]
fn all_files_are_for_their_owner_alone_and_ignored_by_git() {
    let (dir, store) = store();
    store.write_record(&record(7, &[])).unwrap();
    store.write_config(7, "").unwrap();
    store.write_in_progress(&in_progress(8)).unwrap();
    let state = dir.path().join("state");
    let folders = ["", "shop", "shop/releases"].map(|f| mode(&state.join(f)));
    assert_eq!(folders, [0o700; 3]);
    let files = ["shop/releases/0007.json", "shop/releases/0007.yml", "shop/wanted.json"];
    assert_eq!(files.map(|f| mode(&state.join(f))), [0o600; 3]);
    assert_eq!(fs::read_to_string(state.join(".gitignore")).unwrap(), "*\n");
    let left: Vec<String> =
        names_in(&store.releases()).unwrap().into_iter().filter(|n| is_temporary(n)).collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn a_folder_that_holds_other_things_gets_no_gitignore() {
    let (dir, _) = store();
    fs::write(dir.path().join("compose.yaml"), "").unwrap();
    Store::new(dir.path(), "shop").unwrap().write_record(&record(1, &[])).unwrap();
    assert!(!dir.path().join(".gitignore").exists());
}

#[test]
fn a_file_is_replaced_as_a_whole_and_for_its_owner_alone() {
    let (_dir, store) = store();
    store.write_config(1, "one").unwrap();
    let path = store.config_path(1);
    fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let before = File::open(&path).unwrap();
    // A write that was killed leaves such a file behind, with permissions of its own.
    fs::write(path.with_file_name(temporary("0001.yml")), "half").unwrap();
    store.write_config(1, "two").unwrap();
    assert_eq!(io::read_to_string(before).unwrap(), "one");
    assert_eq!((store.config(1).unwrap().as_str(), mode(&path)), ("two", 0o600));
}

#[test]
fn pruning_leaves_retained_files_and_files_of_others() {
    let (_dir, store) = store();
    for number in 1..=4 {
        store.write_config(number, "").unwrap();
        store.write_record(&record(number, &[])).unwrap();
    }
    let half = store.releases().join(temporary("0005.yml"));
    let others = ["notes.txt", "7.json", "0002.json.broken"].map(|n| store.releases().join(n));
    others.iter().chain([&half]).for_each(|path| fs::write(path, "secret").unwrap());
    let retained = Retention { records: [3, 4].into(), configs: [4].into(), ..Retention::default() };
    store.prune(&retained).unwrap();
    assert_eq!(numbers(&store), [3, 4]);
    assert!(store.config(3).is_err() && store.config(4).is_ok());
    assert!(others.iter().all(|path| path.exists()) && !half.exists());
}

#[test]
fn a_draft_is_removed_unless_a_rollout_began_with_it() {
    let (_dir, store) = store();
    for number in 1..=3 {
        store.write_config(number, "services: {}").unwrap();
    }
    store.write_record(&record(1, &[("app", service_release("x", 1))])).unwrap();
    store.write_in_progress(&in_progress(2)).unwrap();
    (1..=4).for_each(|number| store.remove_draft(number).unwrap());
    assert_eq!([1, 2, 3].map(|number| store.config_path(number).exists()), [true, true, false]);
}

/// Error for a release file that `make` creates.
#[track_caller]
fn unreadable_file(make: impl Fn(&Path)) -> UnreadableFile {
    let (_dir, store) = store();
    store.prepare().unwrap();
    make(&store.path(7, "json"));
    let history = store.history().unwrap();
    let file = history.unreadable(7).expect("it is unreadable").clone();
    let error = Error::from(&file);
    assert!(error.message.contains("shop/releases/0007.json` cannot be used: "), "{error}");
    assert!(error.hint.as_ref().unwrap().contains("mv "), "{error}");
    assert_eq!(error.exit.code(), if file.is_newer { 2 } else { 1 });
    assert_eq!((history.next_number(None), history.current()), (8, None));
    file
}

fn reason_for(content: &[u8]) -> String {
    unreadable_file(|path| fs::write(path, content).unwrap()).reason
}

#[test]
fn an_unreadable_file_is_named_with_a_hint() {
    assert_eq!(reason_for(b""), "it is empty");
    assert_eq!(reason_for(b"\n \n"), "it is empty");
    assert_eq!(reason_for(b"[]"), "it has no `format`");
    assert!(reason_for(b"\xff\xfe\0").contains("expected value"));
    assert!(reason_for(b"{\"format\": 1, \"by\": \"\xff\"}").contains("invalid unicode code point"));
    assert!(reason_for("[".repeat(100_000).as_bytes()).contains("recursion limit"));
    assert!(reason_for(br#"{"format": 1}"#).contains("missing field"));
    let other = ReleaseRecord { project: "other".into(), ..record(7, &[]) };
    assert_eq!(reason_for(&serde_json::to_vec(&other).unwrap()), "it belongs to the project `other`");
    assert_eq!(reason_for(&serde_json::to_vec(&record(6, &[])).unwrap()), "it is release 6");
}

#[test]
fn links_pipes_and_endless_files_are_refused() {
    let linked = |to: &'static str| move |path: &Path| std::os::unix::fs::symlink(to, path).unwrap();
    assert_eq!(
        unreadable_file(linked("nowhere")).reason,
        "it is a symbolic link to nowhere, and compose-zd creates none"
    );
    assert_eq!(
        unreadable_file(linked("/dev/zero")).reason,
        "it is a symbolic link, and compose-zd creates none"
    );
    assert_eq!(
        unreadable_file(linked("0007.json")).reason,
        "it is a symbolic link to nowhere, and compose-zd creates none"
    );
    assert_eq!(unreadable_file(|path| fs::create_dir(path).unwrap()).reason, "it is a folder");
    let pipe = |path: &Path| {
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::RWXU, 0).unwrap();
    };
    assert_eq!(unreadable_file(pipe).reason, "it is no regular file");
    let endless = |path: &Path| File::create(path).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(unreadable_file(endless).reason, "it is larger than 16 MiB");
}

#[test]
fn a_file_of_a_newer_version_is_reported_as_such() {
    let file = unreadable_file(|path| fs::write(path, br#"{"format": 2, "new": true}"#).unwrap());
    assert_eq!(file.reason, "it has the format 2; this version reads formats up to 1");
    assert!(file.is_newer && Error::from(&file).hint.unwrap().starts_with("use the newer compose-zd"));
}

#[test]
fn a_truncated_file_is_unreadable() {
    let whole = serde_json::to_vec(&record(7, &[("app", service_release("a", 7))])).unwrap();
    for end in 0..whole.len() {
        reason_for(&whole[..end]);
    }
}

#[test]
fn one_unreadable_release_leaves_the_others() {
    let (_dir, store) = store();
    for number in [1, 2, 4] {
        store.write_record(&record(number, &[])).unwrap();
    }
    fs::write(store.path(3, "json"), "{").unwrap();
    assert_eq!(numbers(&store), [1, 2, 4]);
    assert_eq!(store.history().unwrap().unreadable_records().map(|(n, _)| n).collect::<Vec<_>>(), [3]);
}

#[test]
fn a_number_is_not_reused_after_its_record_was_moved_away() {
    let (_dir, store) = store();
    store.write_record(&record(1, &[])).unwrap();
    fs::write(store.path(2, "json.broken"), "{").unwrap();
    let history = store.history().unwrap();
    assert_eq!(
        (numbers(&store), history.unreadable_records().count(), history.next_number(None)),
        (vec![1], 0, 3)
    );
    fs::write(store.releases().join("4294967295.json"), "{").unwrap();
    assert_eq!(store.history().unwrap().next_number(None), 3);
}

#[test]
fn an_unreadable_wanted_file_is_named_and_moved_away() {
    let (_dir, store) = store();
    store.prepare().unwrap();
    let path = store.in_progress_path();
    let text = |text: &'static str| move |path: &Path| fs::write(path, text).unwrap();
    let folder = |path: &Path| fs::create_dir_all(path.join("full")).unwrap();
    let link = |path: &Path| std::os::unix::fs::symlink("nowhere", path).unwrap();
    let makers: [&dyn Fn(&Path); 4] = [&text("{\"format\": 9}"), &text(""), &folder, &link];
    for (make, number) in makers.into_iter().zip(1..) {
        make(&path);
        assert!(store.in_progress().unwrap_err().to_string().contains("shop/wanted.json`"));
        store.set_in_progress_aside().unwrap();
        store.write_in_progress(&in_progress(number)).unwrap();
        assert_eq!(store.in_progress().unwrap(), Some(in_progress(number)));
        assert!(store.folder().join(format!("wanted.json.broken-{number}")).symlink_metadata().is_ok());
        store.clear_in_progress().unwrap();
    }
}

#[test]
fn a_draft_keeps_its_number_if_a_rollout_may_have_begun_with_it() {
    let (_dir, store) = store();
    store.write_record(&record(1, &[])).unwrap();
    store.write_config(2, "services: {}").unwrap();
    assert_eq!(store.history().unwrap().next_number(None), 2);
    fs::write(store.in_progress_path(), "{").unwrap();
    assert_eq!(store.history().unwrap().next_number(None), 3);
    store.remove_draft(2).unwrap();
    assert!(store.config_path(2).exists());
}

#[test]
fn an_error_about_a_configuration_shows_none_of_its_content() {
    let (_dir, store) = store();
    assert_eq!(store.config(7).unwrap_err().message, "the configuration of release 7 is not kept");
    store.write_config(7, "").unwrap();
    fs::write(store.config_path(7), b"password: hunter2 \xff").unwrap();
    let error = store.config(7).unwrap_err().to_string();
    assert!(error.contains("0007.yml") && !error.contains("hunter2"), "{error}");
}

#[test]
fn what_a_killed_run_left_half_done_is_removed() {
    let (_dir, store) = store();
    store.remove_unfinished(1).unwrap();
    store.write_config(3, "begun").unwrap();
    store.write_in_progress(&in_progress(3)).unwrap();
    store.write_config(4, "not begun").unwrap();
    let folder = store.folder();
    for name in [".wanted.json.tmp", "releases/.0004.yml.tmp", "releases/.0002.json.tmp"] {
        fs::write(folder.join(name), "").unwrap();
    }
    fs::write(folder.join(".history-id.tmp"), "of a run that waits").unwrap();
    store.remove_unfinished(4).unwrap();
    assert_eq!(names_in(&folder.join("releases")).unwrap(), ["0003.yml"]);
    assert!(!folder.join(".wanted.json.tmp").exists());
    assert!(folder.join("wanted.json").exists() && folder.join(".history-id.tmp").exists());
}

#[test]
fn a_folder_that_cannot_be_written_is_named_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    // Root may write anywhere, except below a file.
    for state in [file.clone(), file.join("below")] {
        let store = Store::new(&state, "shop").unwrap();
        let error = store.write_record(&record(1, &[])).unwrap_err();
        assert!(error.message.contains(&format!("cannot write `{}", file.display())), "{error}");
        assert!(error.hint.unwrap().contains("`--state-dir`"));
        assert!(store.history().unwrap_err().message.starts_with("cannot read"));
    }
}

#[test]
fn a_project_is_one_folder_of_its_own() {
    for name in ["", ".", "..", ".hidden", "a/b", "/a", "a\0b"] {
        assert!(Store::new(Path::new("state"), name).is_err(), "{name:?}");
    }
    let folder = Store::new(Path::new("state"), "a_b-1").unwrap().folder();
    assert_eq!(folder, Path::new("state/a_b-1"));
}

#[test]
fn files_are_numbered_so_that_they_sort() {
    assert_eq!(["7", "12345"].map(|n| file_name(n.parse().unwrap(), "json")), ["0007.json", "12345.json"]);
    assert_eq!(number_of("0007.json", "json"), Some(7));
    for other in
        ["7.json", "0007.yml", "0007.json.broken", ".0007.json.tmp", "00007.json", "+007.json", "x.json"]
    {
        assert_eq!(number_of(other, "json"), None, "{other}");
    }
}
