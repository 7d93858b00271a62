use super::read::Reading;
use super::*;

const SOURCE: &str = "/srv/p/app.conf";
const PATH: &str = "/etc/app.conf";
/// Moment at which the process read its files.
const READ_AT: f64 = 1000.5;

fn reading(digest: &str, modified: f64) -> Reading {
    let digest = Some(digest.to_string()).filter(|digest| !digest.is_empty());
    Reading { size: 9, modified, digest }
}

fn running(reading: Option<Reading>, root: &str) -> RunningFiles {
    RunningFiles {
        files: reading.map(|reading| (PATH.to_string(), reading)).into_iter().collect(),
        entries: Vec::new(),
        roots: [(PATH.to_string(), root.to_string())].into(),
    }
}

fn change(running: &RunningFiles, on_disk: OnDisk) -> Option<ChangeKind> {
    let mount = BindMount { source: SOURCE, destination: PATH, is_writable: false };
    change_of(&mount, running, &on_disk, READ_AT)
}

#[test]
fn a_mounted_file_is_compared_by_its_text_and_then_by_its_time() {
    let old = || reading("a", 900.0);
    for (in_container, on_disk, expected) in [
        (old(), OnDisk::Found(old()), None),
        (reading("a", 1000.4), OnDisk::Found(reading("a", 1000.4)), None),
        // Edited in place: both are one file.
        (reading("b", 1000.6), OnDisk::Found(reading("b", 1000.6)), Some(ChangeKind::Edited)),
        // Another file with another text, of any age, or with the same text.
        (old(), OnDisk::Found(reading("b", 2000.0)), Some(ChangeKind::Replaced)),
        (old(), OnDisk::Found(reading("b", 900.0)), Some(ChangeKind::Replaced)),
        (old(), OnDisk::Found(Reading { size: 8, ..old() }), Some(ChangeKind::Replaced)),
        (old(), OnDisk::Found(reading("a", 2000.0)), None),
        // Too large for a digest: its time decides.
        (reading("", 900.0), OnDisk::Found(reading("", 900.9)), None),
        (reading("", 900.0), OnDisk::Found(reading("", 901.0)), Some(ChangeKind::Replaced)),
        (reading("", 2000.0), OnDisk::Found(reading("", 2000.0)), Some(ChangeKind::Edited)),
        (old(), OnDisk::Missing, Some(ChangeKind::Missing)),
        (old(), OnDisk::Unknown, None),
        (reading("a", 2000.0), OnDisk::Unknown, Some(ChangeKind::Edited)),
    ] {
        let case = format!("{in_container:?} {on_disk:?}");
        assert_eq!(change(&running(Some(in_container), SOURCE), on_disk), expected, "{case}");
    }
    // A socket, or a folder.
    assert_eq!(change(&running(None, SOURCE), OnDisk::Missing), None);
}

#[test]
fn the_kernel_tells_of_a_replaced_file_where_the_machine_is_not_visible() {
    for (root, expected) in [
        (SOURCE, None),
        ("/p/app.conf", None),
        ("/@/srv/p/app.conf", None),
        ("/srv/p/app.conf//deleted", Some(ChangeKind::Replaced)),
        ("/srv/p/app.conf.bak", Some(ChangeKind::Replaced)),
    ] {
        let running = running(Some(reading("a", 900.0)), root);
        assert_eq!(change(&running, OnDisk::Unknown), expected, "{root}");
    }
}

fn changed(path: &str, kind: ChangeKind) -> FileChange {
    FileChange { path: path.into(), source: Some(format!("/srv{path}")), kind }
}

#[test]
fn a_proxy_is_reloaded_only_if_a_reload_reads_all_changed_files() {
    let paths = [
        ("/etc/nginx", ReadBy::Reload),
        ("/etc/nginx/templates", ReadBy::Start),
        ("/dynamic", ReadBy::Watch),
    ];
    let files = ProxyFiles {
        paths: paths.map(|(path, read_by)| (path.to_string(), read_by)).into(),
        others: ReadBy::Reload,
        reload: None,
    };
    let edited = |path: &str| changed(path, ChangeKind::Edited);
    let way_of = |changes: &[FileChange], obstacle: Option<&str>| match way(&files, changes, obstacle) {
        Some(ProxyWay::Recreate(why)) => why,
        way => format!("{way:?}"),
    };
    let (main, watched) = (edited("/etc/nginx/nginx.conf"), edited("/dynamic/a.yml"));
    assert_eq!(way_of(&[], None), "None");
    assert_eq!(way_of(&[main.clone(), watched.clone()], None), "Some(Reload)");
    assert_eq!(way_of(std::slice::from_ref(&watched), Some("no master")), "Some(Watched)");
    assert!(way_of(&[main.clone(), watched.clone()], Some("no master")).ends_with(", and no master"));
    assert!(
        way_of(&[main, edited("/etc/nginx/templates/a")], None)
            .ends_with("reads this file only when it starts")
    );
    for kind in [ChangeKind::Replaced, ChangeKind::Missing, ChangeKind::Text] {
        let change = changed("/dynamic/a.yml", kind);
        assert_eq!(way_of(&[watched.clone(), change.clone()], None), change.to_string());
    }
}

#[test]
fn files_that_the_machine_itself_changes_are_notes() {
    let is_system =
        ["/etc/localtime", "/etc/hosts", "/dev/shm/x", "/etc/localtime2", "/srv/etc/hosts", "/etc/app.conf"];
    assert_eq!(is_system.map(is_system_file), [true, true, true, false, false, false]);
}

#[test]
fn a_changed_file_may_name_a_service() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("default.conf");
    std::fs::write(&path, "proxy_pass http://api:3000; # my-app").unwrap();
    let change =
        FileChange { source: Some(path.display().to_string()), ..changed("/etc/c", ChangeKind::Edited) };
    let mentions = |name: &str| mentions(std::slice::from_ref(&change), &[name.to_string()]);
    assert_eq!(["api", "app", "ap", "3000"].map(mentions), [true, false, false, true]);
    let gone = changed("/etc/none", ChangeKind::Missing);
    assert!(!super::mentions(&[gone], &["api".into()]));
}

#[test]
fn a_file_in_a_mounted_folder_has_a_path_on_the_machine() {
    let mount = |source, destination| BindMount { source, destination, is_writable: false };
    let mounts = [mount("/srv/nginx/", "/etc/nginx"), mount("/srv/sites", "/etc/nginx/conf.d/")];
    let source = |path: &str| source_of(&mounts, path).unwrap_or_default();
    assert_eq!(source("/etc/nginx/nginx.conf"), "/srv/nginx/nginx.conf");
    assert_eq!(source("/etc/nginx/conf.d/a.conf"), "/srv/sites/a.conf");
    assert_eq!((source("/etc/nginx"), source("/etc/other")), ("/srv/nginx".into(), String::new()));
}

#[test]
fn a_service_reports_each_changed_file_once() {
    let of = |path, kind| FileReport { changes: vec![changed(path, kind)], notes: Vec::new() };
    let mut report = FileReport::default();
    report.add(of("/b", ChangeKind::Edited));
    report.add(of("/a", ChangeKind::Replaced));
    report.add(of("/b", ChangeKind::Edited));
    report.add(of("/a", ChangeKind::Edited));
    assert_eq!(report.changes, [changed("/a", ChangeKind::Replaced), changed("/b", ChangeKind::Edited)]);
}
