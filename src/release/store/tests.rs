//! Real folders: what is written, for whom, and what is said about files that cannot be read.

use std::os::unix::fs::PermissionsExt;

use super::super::RolloutKind;
use super::super::tests::{placed, record};
use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&dir.path().join("state"), "shop").unwrap();
    (dir, store)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn wanted(number: u32) -> InProgress {
    InProgress {
        format: FORMAT,
        number,
        kind: RolloutKind::Rollback { to: 1 },
        services: vec!["app".into()],
        replaced: vec!["id".into()],
        restart: [("id".into(), "always".into())].into(),
        last_good: Some(2),
        paused: true,
    }
}

#[test]
fn a_history_has_an_id_of_its_own_that_stays_where_its_folder_is_moved() {
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
    assert_eq!(moved.id().len(), 8, "what is no id is not used");
}

fn numbers(store: &Store) -> Vec<u32> {
    store.history().unwrap().records.iter().map(|r| r.number).collect()
}

#[test]
fn nothing_is_there_until_something_is_written() {
    let (dir, store) = store();
    assert_eq!(store.history().unwrap(), ReleaseHistory::default());
    assert_eq!(store.wanted().unwrap(), None);
    store.clear_wanted().unwrap();
    store.prune(&Retention::default()).unwrap();
    assert_eq!(projects(&dir.path().join("state")).unwrap(), [""; 0]);
    assert!(!dir.path().join("state").exists());
}

#[test]
fn what_is_written_is_read_back() {
    let (dir, store) = store();
    let (second, tenth) = (record(2, &[("app", placed("a", 2))]), record(10_000, &[]));
    store.write(&tenth).unwrap();
    store.write(&second).unwrap();
    assert_eq!(store.history().unwrap().records, [second, tenth]);
    store.write_config(2, "services: {}\n").unwrap();
    assert_eq!(store.config(2).unwrap(), "services: {}\n");
    store.set_wanted(&wanted(3)).unwrap();
    assert_eq!(store.wanted().unwrap(), Some(wanted(3)));
    store.clear_wanted().unwrap();
    assert_eq!(store.wanted().unwrap(), None);
    assert_eq!(projects(&dir.path().join("state")).unwrap(), ["shop"]);
}

#[test]
fn everything_is_for_its_owner_alone_and_not_for_git() {
    let (dir, store) = store();
    store.write(&record(7, &[])).unwrap();
    store.write_config(7, "").unwrap();
    store.set_wanted(&wanted(8)).unwrap();
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
    Store::new(dir.path(), "shop").unwrap().write(&record(1, &[])).unwrap();
    assert!(!dir.path().join(".gitignore").exists());
}

#[test]
fn a_file_is_replaced_as_a_whole_and_for_its_owner_alone() {
    let (_dir, store) = store();
    store.write_config(1, "one").unwrap();
    let path = store.config_path(1);
    fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let before = File::open(&path).unwrap();
    // Left behind by a write that was killed, with permissions of its own.
    fs::write(path.with_file_name(temporary("0001.yml")), "half").unwrap();
    store.write_config(1, "two").unwrap();
    assert_eq!(io::read_to_string(before).unwrap(), "one");
    assert_eq!((store.config(1).unwrap().as_str(), mode(&path)), ("two", 0o600));
}

#[test]
fn pruning_leaves_what_is_kept_and_what_is_not_ours() {
    let (_dir, store) = store();
    for number in 1..=4 {
        store.write_config(number, "").unwrap();
        store.write(&record(number, &[])).unwrap();
    }
    let half = store.releases().join(temporary("0005.yml"));
    let theirs = ["notes.txt", "7.json", "0002.json.broken"].map(|n| store.releases().join(n));
    theirs.iter().chain([&half]).for_each(|path| fs::write(path, "secret").unwrap());
    let kept = Retention { records: [3, 4].into(), configs: [4].into(), ..Retention::default() };
    store.prune(&kept).unwrap();
    assert_eq!(numbers(&store), [3, 4]);
    assert!(store.config(3).is_err() && store.config(4).is_ok());
    assert!(theirs.iter().all(|path| path.exists()) && !half.exists());
}

#[test]
fn a_configuration_goes_again_unless_something_began_with_it() {
    let (_dir, store) = store();
    for number in 1..=3 {
        store.write_config(number, "services: {}").unwrap();
    }
    store.write(&record(1, &[("app", placed("x", 1))])).unwrap();
    store.set_wanted(&wanted(2)).unwrap();
    (1..=4).for_each(|number| store.remove_draft(number).unwrap());
    assert_eq!([1, 2, 3].map(|number| store.config_path(number).exists()), [true, true, false]);
}

/// What is said of a release file that this makes.
#[track_caller]
fn said(make: impl Fn(&Path)) -> UnreadableFile {
    let (_dir, store) = store();
    store.prepare().unwrap();
    make(&store.path(7, "json"));
    let history = store.history().unwrap();
    let damage = history.unreadable(7).expect("it is damaged").clone();
    let error = Error::from(&damage);
    assert!(error.message.contains("shop/releases/0007.json` cannot be used: "), "{error}");
    assert!(error.hint.as_ref().unwrap().contains("mv "), "{error}");
    assert_eq!(error.exit.code(), if damage.newer { 2 } else { 1 });
    assert_eq!((history.next_number(None), history.current()), (8, None));
    damage
}

fn said_of(content: &[u8]) -> String {
    said(|path| fs::write(path, content).unwrap()).why
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_a_way_on() {
    assert_eq!(said_of(b""), "it is empty");
    assert_eq!(said_of(b"\n \n"), "it is empty");
    assert_eq!(said_of(b"[]"), "it has no `format`");
    assert!(said_of(b"\xff\xfe\0").contains("expected value"));
    assert!(said_of(b"{\"format\": 1, \"by\": \"\xff\"}").contains("invalid unicode code point"));
    assert!(said_of("[".repeat(100_000).as_bytes()).contains("recursion limit"));
    assert!(said_of(br#"{"format": 1}"#).contains("missing field"));
    let other = ReleaseRecord { project: "other".into(), ..record(7, &[]) };
    assert_eq!(said_of(&serde_json::to_vec(&other).unwrap()), "it is of the project `other`");
    assert_eq!(said_of(&serde_json::to_vec(&record(6, &[])).unwrap()), "it is release 6");
}

#[test]
fn what_has_the_name_of_a_file_and_is_none_is_not_followed_waited_for_or_read_without_end() {
    let linked = |to: &'static str| move |path: &Path| std::os::unix::fs::symlink(to, path).unwrap();
    assert_eq!(said(linked("nowhere")).why, "it is a symbolic link to nowhere, which is never ours");
    assert_eq!(said(linked("/dev/zero")).why, "it is a symbolic link, which is never ours");
    assert_eq!(said(linked("0007.json")).why, "it is a symbolic link to nowhere, which is never ours");
    assert_eq!(said(|path| fs::create_dir(path).unwrap()).why, "it is a folder");
    let pipe = |path: &Path| {
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::RWXU, 0).unwrap();
    };
    assert_eq!(said(pipe).why, "it is no regular file");
    let endless = |path: &Path| File::create(path).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(said(endless).why, "it is larger than 16 MiB");
}

#[test]
fn a_file_of_a_newer_version_is_said_to_be_one() {
    let damage = said(|path| fs::write(path, br#"{"format": 2, "new": true}"#).unwrap());
    assert_eq!(damage.why, "it has the format 2; this version knows those up to 1");
    assert!(damage.newer && Error::from(&damage).hint.unwrap().starts_with("use the newer compose-zd"));
}

#[test]
fn a_file_that_is_cut_short_anywhere_is_damaged() {
    let whole = serde_json::to_vec(&record(7, &[("app", placed("a", 7))])).unwrap();
    for end in 0..whole.len() {
        said_of(&whole[..end]);
    }
}

#[test]
fn one_damaged_release_leaves_the_others() {
    let (_dir, store) = store();
    for number in [1, 2, 4] {
        store.write(&record(number, &[])).unwrap();
    }
    fs::write(store.path(3, "json"), "{").unwrap();
    assert_eq!(numbers(&store), [1, 2, 4]);
    assert_eq!(store.history().unwrap().damaged().map(|(n, _)| n).collect::<Vec<_>>(), [3]);
}

#[test]
fn a_number_is_not_used_again_because_its_record_was_moved_away() {
    let (_dir, store) = store();
    store.write(&record(1, &[])).unwrap();
    fs::write(store.path(2, "json.broken"), "{").unwrap();
    let history = store.history().unwrap();
    assert_eq!((numbers(&store), history.damaged().count(), history.next_number(None)), (vec![1], 0, 3));
    fs::write(store.releases().join("4294967295.json"), "{").unwrap();
    assert_eq!(store.history().unwrap().next_number(None), 3);
}

#[test]
fn a_wanted_file_that_cannot_be_read_is_named_and_goes_out_of_the_way() {
    let (_dir, store) = store();
    store.prepare().unwrap();
    let path = store.wanted_path();
    let text = |text: &'static str| move |path: &Path| fs::write(path, text).unwrap();
    let folder = |path: &Path| fs::create_dir_all(path.join("full")).unwrap();
    let link = |path: &Path| std::os::unix::fs::symlink("nowhere", path).unwrap();
    let makers: [&dyn Fn(&Path); 4] = [&text("{\"format\": 9}"), &text(""), &folder, &link];
    for (make, number) in makers.into_iter().zip(1..) {
        make(&path);
        assert!(store.wanted().unwrap_err().to_string().contains("shop/wanted.json`"));
        store.set_wanted_aside().unwrap();
        store.set_wanted(&wanted(number)).unwrap();
        assert_eq!(store.wanted().unwrap(), Some(wanted(number)));
        assert!(store.folder().join(format!("wanted.json.broken-{number}")).symlink_metadata().is_ok());
        store.clear_wanted().unwrap();
    }
}

#[test]
fn a_draft_keeps_its_number_while_it_is_not_known_whether_a_rollout_began_with_it() {
    let (_dir, store) = store();
    store.write(&record(1, &[])).unwrap();
    store.write_config(2, "services: {}").unwrap();
    assert_eq!(store.history().unwrap().next_number(None), 2);
    fs::write(store.wanted_path(), "{").unwrap();
    assert_eq!(store.history().unwrap().next_number(None), 3);
    store.remove_draft(2).unwrap();
    assert!(store.config_path(2).exists());
}

#[test]
fn a_configuration_that_is_not_kept_or_no_text_says_nothing_of_its_content() {
    let (_dir, store) = store();
    assert_eq!(store.config(7).unwrap_err().message, "the configuration of release 7 is not kept");
    store.write_config(7, "").unwrap();
    fs::write(store.config_path(7), b"password: hunter2 \xff").unwrap();
    let error = store.config(7).unwrap_err().to_string();
    assert!(error.contains("0007.yml") && !error.contains("hunter2"), "{error}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named_with_a_way_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    // Root may write anywhere, but not below a file.
    for state in [file.clone(), file.join("below")] {
        let store = Store::new(&state, "shop").unwrap();
        let error = store.write(&record(1, &[])).unwrap_err();
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
