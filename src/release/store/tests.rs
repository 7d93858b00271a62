//! Real folders: what is written, for whom, and what is said about files that cannot be read.

use std::os::unix::fs::PermissionsExt;

use super::super::Kind;
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

fn wanted(number: u32) -> Wanted {
    Wanted {
        format: FORMAT,
        number,
        kind: Kind::Rollback { to: 1 },
        services: vec!["app".into()],
        replaced: vec!["id".into()],
        last_good: Some(2),
        paused: true,
    }
}

fn numbers(store: &Store) -> Vec<u32> {
    store.history().unwrap().records.iter().map(|r| r.number).collect()
}

#[test]
fn nothing_is_there_until_something_is_written() {
    let (dir, store) = store();
    assert_eq!(store.history().unwrap(), History::default());
    assert_eq!(store.wanted().unwrap(), None);
    store.clear_wanted().unwrap();
    store.prune(&Kept::default()).unwrap();
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
    let kept = Kept { records: [3, 4].into(), configs: [4].into(), ..Kept::default() };
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

/// What is said of a release file with this content.
fn said(content: &[u8]) -> Fault {
    let (_dir, store) = store();
    store.prepare().unwrap();
    fs::write(store.path(7, "json"), content).unwrap();
    let fault = store.history().unwrap_err();
    assert!(fault.message.contains("shop/releases/0007.json`"), "{fault}");
    assert!(fault.hint.as_ref().unwrap().contains("mv "), "{fault}");
    assert_eq!(fault.exit.code(), 1);
    fault
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_a_way_on() {
    assert_eq!(said(b"").details, ["it is empty"]);
    assert_eq!(said(b"\n \n").details, ["it is empty"]);
    assert_eq!(said(b"[]").details, ["it has no `format`"]);
    assert!(said(b"\xff\xfe\0").details[0].contains("expected value"));
    assert!(said(br#"{"format": 1}"#).details[0].contains("missing field"));
    assert!(
        said(br#"{"format": 2, "new": true}"#)
            .message
            .contains("has the format 2; this version knows those up to 1")
    );
    let other = Record { project: "other".into(), ..record(7, &[]) };
    assert_eq!(said(&serde_json::to_vec(&other).unwrap()).details, ["it is of the project `other`"]);
    assert_eq!(said(&serde_json::to_vec(&record(6, &[])).unwrap()).details, ["it is release 6"]);
}

#[test]
fn a_file_that_is_cut_short_anywhere_is_an_error() {
    let whole = serde_json::to_vec(&record(7, &[("app", placed("a", 7))])).unwrap();
    for end in 0..whole.len() {
        said(&whole[..end]);
    }
}

#[test]
fn a_broken_release_that_was_moved_away_is_done_without() {
    let (_dir, store) = store();
    store.write(&record(1, &[])).unwrap();
    fs::write(store.path(2, "json"), "{").unwrap();
    assert!(store.history().is_err());
    fs::rename(store.path(2, "json"), store.path(2, "json.broken")).unwrap();
    assert_eq!(numbers(&store), [1]);
}

#[test]
fn a_broken_wanted_file_is_named() {
    let (_dir, store) = store();
    store.prepare().unwrap();
    fs::write(store.wanted_path(), "{\"format\": 9}").unwrap();
    assert!(store.wanted().unwrap_err().message.contains("shop/wanted.json`"));
}

#[test]
fn a_configuration_that_is_not_kept_or_no_text_says_nothing_of_its_content() {
    let (_dir, store) = store();
    assert_eq!(store.config(7).unwrap_err().message, "the configuration of release 7 is not kept");
    store.write_config(7, "").unwrap();
    fs::write(store.config_path(7), b"password: hunter2 \xff").unwrap();
    let fault = store.config(7).unwrap_err().to_string();
    assert!(fault.contains("0007.yml") && !fault.contains("hunter2"), "{fault}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named_with_a_way_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    // Root may write anywhere, but not below a file.
    for state in [file.clone(), file.join("below")] {
        let store = Store::new(&state, "shop").unwrap();
        let fault = store.write(&record(1, &[])).unwrap_err();
        assert!(fault.message.contains(&format!("cannot write `{}", file.display())), "{fault}");
        assert!(fault.hint.unwrap().contains("`--state-dir`"));
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
