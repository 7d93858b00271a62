//! State files that are damaged, belong to another project or engine, or are readable by other users.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

const FOLDER: &str = ".compose-zd/p";

impl FakeDocker {
    /// A project with two releases, the second of which serves.
    fn with_releases() -> FakeDocker {
        let fake = FakeDocker::new();
        fake.write("hashes", "app other\n");
        fake.run("deploy app").success();
        fake.write("hashes", "app wanted\n");
        fake.run("deploy app").success();
        assert_eq!(fake.release_files(), ["0001.json", "0002.json"]);
        fake.write("calls", "");
        fake
    }

    fn state(&self, name: &str) -> PathBuf {
        self.path(FOLDER).join(name)
    }

    fn release_files(&self) -> Vec<String> {
        let names = fs::read_dir(self.state("releases")).unwrap().map(|e| e.unwrap().file_name());
        let mut names: Vec<String> =
            names.map(|n| n.into_string().unwrap()).filter(|n| n.ends_with("json")).collect();
        names.sort();
        names
    }
}

/// A change that damages a file.
type Damage = fn(&Path);

const DAMAGE_CASES: [(&str, Damage); 9] = [
    ("empty", |path| fs::write(path, "").unwrap()),
    ("cut short", |path| {
        let text = fs::read(path).unwrap();
        fs::write(path, &text[..text.len() / 2]).unwrap();
    }),
    ("garbage", |path| fs::write(path, "%PDF-1.7 \u{1b}[31m").unwrap()),
    ("not UTF-8", |path| fs::write(path, b"{\"format\": 1, \"by\": \"\xff\xfe\"}").unwrap()),
    ("another project's", |path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, text.replace("\"project\": \"p\"", "\"project\": \"q\"")).unwrap();
    }),
    ("another release", |path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, text.replace("\"number\": ", "\"number\": 4")).unwrap();
    }),
    ("a folder", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
    ("a dangling link", |path| {
        fs::remove_file(path).unwrap();
        symlink("nowhere", path).unwrap();
    }),
    ("a device", |path| {
        fs::remove_file(path).unwrap();
        symlink("/dev/zero", path).unwrap();
    }),
];

#[test]
fn a_damaged_newest_release_blocks_rollbacks_but_no_deploy() {
    for (what, damage) in DAMAGE_CASES {
        let fake = FakeDocker::with_releases();
        damage(&fake.state("releases/0002.json"));
        let named = ["0002.json` cannot be used", "mv "];
        says(&fake.run("history").success(), &named);
        let run = fake.run("status").success();
        says(&run, &named);
        assert!(String::from_utf8_lossy(&run.get_output().stdout).contains("unknown"), "{what}");
        let run = fake.run("rollback").code(1);
        says(
            &run,
            &[
                "0002.json` cannot be used",
                "release 2 may be the one that serves",
                "`--to`: kept releases: 1",
            ],
        );
        assert_eq!(fake.changes(), "", "{what}");
        says(&fake.run("deploy app").success(), &named);
        assert_eq!(fake.release_files(), ["0001.json", "0002.json", "0003.json"], "{what}");
        let run = fake.run("rollback").code(1);
        says(&run, &["release 2 may be the one to restore", "`--to`: kept releases: 3, 1"]);
        assert_eq!(fake.changes(), "", "{what}");
    }
}

#[test]
fn a_damaged_older_release_blocks_only_rollbacks_to_it() {
    let fake = FakeDocker::with_releases();
    fs::write(fake.state("releases/0001.json"), "{").unwrap();
    says(&fake.run("rollback").code(1), &["release 1 may be the one to restore"]);
    says(&fake.run("rollback --to 1").code(1), &["0001.json` cannot be used", "kept releases: 2"]);
    let run = fake.run("deploy app --force").success();
    says(&run, &["0001.json` cannot be used", "no old release is removed"]);
    assert!(fake.state("releases/0001.yml").exists());
}

#[test]
fn the_number_of_a_moved_release_is_not_used_again() {
    let fake = FakeDocker::with_releases();
    fs::write(fake.state("releases/0002.json"), "{").unwrap();
    fs::rename(fake.state("releases/0002.json"), fake.state("releases/0002.json.broken")).unwrap();
    let run = fake.run("deploy app --force").success();
    assert!(!stderr(&run).contains("cannot be used"), "{}", stderr(&run));
    assert!(fake.release_files().contains(&"0003.json".into()), "{:?}", fake.release_files());
}

#[test]
fn a_damaged_wanted_file_blocks_no_deploy_and_no_rollback_to_a_number() {
    for (what, damage) in DAMAGE_CASES {
        let fake = FakeDocker::with_releases();
        let path = fake.state("wanted.json");
        fs::copy(fake.state("releases/0001.json"), &path).unwrap();
        damage(&path);
        if ["another project's", "another release"].contains(&what) {
            continue; // a whole release record is no valid `wanted.json`: the same case as `empty`
        }
        says(&fake.run("status").success(), &["wanted.json` cannot be used"]);
        for words in ["rollback", "deploy --resume", "recover"] {
            let run = fake.run(words).code(1);
            says(
                &run,
                &[
                    "wanted.json` cannot be used",
                    "the services of an unfinished rollout",
                    "`--to`: kept releases: 2, 1",
                ],
            );
        }
        assert_eq!(fake.changes(), "", "{what}");
        says(&fake.run("deploy app").success(), &["wanted.json` cannot be used"]);
        assert!(path.symlink_metadata().is_err(), "{what}");
        assert!(fake.state("wanted.json.broken-1").symlink_metadata().is_ok(), "{what}");
        fake.run("rollback --dry-run --to 1").success();
    }
}

#[test]
fn state_of_a_newer_version_is_shown_and_never_changed() {
    for file in ["releases/0002.json", "wanted.json"] {
        let fake = FakeDocker::with_releases();
        fs::write(fake.state(file), "{\"format\": 2, \"all\": \"new\"}").unwrap();
        for words in ["deploy app", "deploy --resume", "rollback", "rollback --to 1"] {
            says(
                &fake.run(words).code(2),
                &["has the format 2; this version reads formats up to 1", "newer compose-zd"],
            );
        }
        for words in ["status", "history"] {
            says(&fake.run(words).success(), &["has the format 2", "newer compose-zd"]);
        }
        assert_eq!(fake.changes(), "");
    }
}

#[test]
fn a_missing_or_damaged_release_config_blocks_rollbacks_but_no_deploy() {
    let damages: [(&str, Damage); 5] = [
        ("gone", |path| fs::remove_file(path).unwrap()),
        ("empty", |path| fs::write(path, "").unwrap()),
        ("cut short", |path| {
            let text = fs::read(path).unwrap();
            fs::write(path, &text[..text.len() / 2]).unwrap();
        }),
        ("another project's", |path| fs::write(path, "name: q\nservices: {app: {image: hunter2}}").unwrap()),
        ("a folder", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let fake = FakeDocker::with_releases();
        damage(&fake.state("releases/0001.yml"));
        let run = fake.run("rollback").code(1);
        says(&run, &["0001.yml`", "hint: name another with `--to`: kept releases: 2"]);
        assert!(!stderr(&run).contains("hunter2"), "{what}");
        assert_eq!(fake.changes(), "", "{what}");
        let fake = FakeDocker::with_releases();
        damage(&fake.state("releases/0002.yml"));
        says(
            &fake.run("deploy app --force").success(),
            &["the new release lists only the services that this run deploys"],
        );
        assert!(fake.release_files().contains(&"0003.json".into()), "{what}");
    }
}

#[test]
fn state_files_are_private_whatever_the_umask() {
    for umask in ["000", "077", "277"] {
        let fake = FakeDocker::new();
        let tool = snapbox::cmd::cargo_bin!("compose-zd").display().to_string();
        Command::new("sh")
            .args(["-c", &format!("umask {umask}; exec {tool} deploy app")])
            .current_dir(fake.dir.path())
            .env("PATH", format!("{}:/usr/bin:/bin", fake.path("bin").display()))
            .env("FAKE", fake.dir.path())
            .assert()
            .success();
        let mode = |name: &str| fs::metadata(fake.state(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(["..", "", "releases"].map(mode), [0o700; 3], "{umask}");
        assert_eq!(["releases/0001.json", "releases/0001.yml"].map(mode), [0o600; 2], "{umask}");
    }
}

#[test]
fn the_next_deploy_makes_an_open_state_folder_private() {
    let fake = FakeDocker::with_releases();
    for name in ["..", "", "releases", "releases/0001.yml"] {
        fs::set_permissions(fake.state(name), PermissionsExt::from_mode(0o777)).unwrap();
    }
    fake.run("deploy app --force").success();
    let mode = |name: &str| fs::metadata(fake.state(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(["..", "", "releases", "releases/0001.yml"].map(mode), [0o700, 0o700, 0o700, 0o600]);
}

#[test]
fn root_refuses_state_behind_a_link_or_owned_by_another_user() {
    let root = fs::metadata(FakeDocker::new().path("bin"))
        .is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        return;
    }
    let fake = FakeDocker::with_releases();
    let aside = fake.path("aside");
    fs::rename(fake.path(".compose-zd"), &aside).unwrap();
    symlink(&aside, fake.path(".compose-zd")).unwrap();
    for words in ["deploy app", "status", "history", "rollback"] {
        says(&fake.run(words).code(1), &[".compose-zd` is a symbolic link to `", "`--state-dir`"]);
    }
    fs::remove_file(fake.path(".compose-zd")).unwrap();
    fs::rename(&aside, fake.path(".compose-zd")).unwrap();
    std::os::unix::fs::chown(fake.state("releases/0001.yml"), Some(4242), None).unwrap();
    for words in ["deploy app", "status", "history", "rollback"] {
        says(&fake.run(words).code(1), &["0001.yml` belongs to the user with the id 4242", "chown -R root"]);
    }
    assert_eq!(fake.changes(), "");
}

/// Output of `history`.
fn history(fake: &FakeDocker, flags: &str) -> String {
    let run = fake.run(format!("{flags}history").trim()).success();
    String::from_utf8_lossy(&run.get_output().stdout).into_owned()
}

/// Replaces the containers by an outdated one, so that the next deploy has something to do.
fn reset_containers(fake: &FakeDocker) {
    fs::remove_dir_all(fake.path("containers")).unwrap();
    fs::create_dir(fake.path("containers")).unwrap();
    fake.container("containers/old", "app-1", "running", "other");
}

#[test]
fn an_engine_has_one_history_under_every_name() {
    let fake = FakeDocker::new();
    fake.write("engine-id", "AB:CD/here\n");
    fake.run("deploy app").success();
    let own = history(&fake, "");
    assert!(own.contains("deployed"), "{own}");
    assert_eq!(history(&fake, "--context staging "), own);
    assert_eq!(history(&fake, "--host tcp://127.0.0.1:2375 "), own);
    reset_containers(&fake);
    fake.run("--context staging deploy app").success();
    assert!(fake.path(".compose-zd/p/releases/0002.json").exists());
    assert!(!fake.path(".compose-zd/@staging").exists());
}

/// `docker context use` changes the engine behind the same command line.
#[test]
fn a_context_that_moved_to_another_engine_gets_a_new_history() {
    let fake = FakeDocker::new();
    fake.write("image", r#"{"Id": "sha256:wanted", "Config": {}}"#);
    fake.write("engine-id", "AB:CD/staging\n");
    fake.run("deploy app").success();
    reset_containers(&fake);
    fake.run("deploy app").success();
    let staging = history(&fake, "");

    fake.write("engine-id", "EF:01/production\n");
    reset_containers(&fake);
    let before = fs::read_to_string(fake.path("calls")).unwrap();
    says(&fake.run("rollback").code(2), &["no release of `p` is recorded", "@production-EF01"]);
    let after = fs::read_to_string(fake.path("calls")).unwrap();
    assert!(!after[before.len()..].contains("compose up "), "{after}");
    fake.run("deploy app").success();
    assert!(fake.path(".compose-zd/@production-EF01/p/releases/0001.json").exists());

    fake.write("engine-id", "AB:CD/staging\n");
    assert_eq!(history(&fake, ""), staging);
}

#[test]
fn an_engine_without_a_stable_id_gets_one() {
    let fake = FakeDocker::new();
    fake.write("restless", "");
    fake.run("deploy app").success();
    reset_containers(&fake);
    fake.run("--context other deploy app").success();
    assert!(fake.path(".compose-zd/p/releases/0002.json").exists());
    assert!(fake.path("volumes/compose-zd.engine").exists());
}

/// The folder of an earlier version does not name its engine.
#[test]
fn state_of_an_earlier_version_is_adopted_by_the_engine_with_its_images() {
    let fake = FakeDocker::new();
    fake.run("deploy app").success();
    assert!(!fake.path(".compose-zd/p/engine.json").exists());
    let before = history(&fake, "");
    fake.write("engine-id", "AB:CD/here\n");
    assert_eq!(history(&fake, ""), before);
    reset_containers(&fake);
    fake.run("deploy app").success();
    let mark = fs::read_to_string(fake.path(".compose-zd/p/engine.json")).unwrap();
    assert!(mark.contains("AB:CD") && fake.path(".compose-zd/p/releases/0002.json").exists(), "{mark}");
}

/// With an `env_file`, the hash in the label of a container differs from that of `config --hash`.
#[test]
fn an_unchanged_service_with_an_env_file_is_not_deployed_again() {
    let fake = FakeDocker::new();
    fake.write("compose.yaml", "services: {app: {image: app:1, env_file: app.env}}");
    fake.write("hashes", "app unread\n");
    fake.write("hashes-resolved", "app wanted\n");
    fake.run("deploy app").success();
    let record = fs::read_to_string(fake.state("releases/0001.json")).unwrap();
    assert!(record.contains("\"config_hash\": \"wanted\""), "{record}");
    let run = fake.run("deploy app").success();
    assert!(
        String::from_utf8_lossy(&run.get_output().stdout).contains("nothing has to change"),
        "{}",
        stderr(&run)
    );
    assert_eq!(fake.release_files(), ["0001.json"]);
}

#[test]
fn an_engine_without_an_id_changes_nothing() {
    let fake = FakeDocker::new();
    fake.write("engine-id", "AB:CD/here\n");
    fake.run("deploy app").success();
    fake.fail("info --format {{.ID}}", "no answer");
    fake.write("calls", "");
    for command in ["deploy app --force", "rollback"] {
        says(&fake.run(command).code(1), &["the engine reports no ID", "docker info"]);
    }
    assert!(!fake.changes().contains("up --no-start"), "{}", fake.changes());
}

#[test]
fn prune_keeps_images_in_use_and_reports_only_real_removals() {
    let fake = FakeDocker::new();
    fake.write("keepers", "keeper\n");
    let keeper = r#"{"Id": "keeper", "Config": {"Image": "compose-zd/p-app:r1", "Labels": {"compose-zd.keeps": "p"}}}"#;
    fake.write("containers/keeper", keeper);
    let pruned = || {
        let run = fake.run("prune").success();
        (String::from_utf8_lossy(&run.get_output().stdout).into_owned(), stderr(&run))
    };
    assert!(pruned().0.contains("`p` keeps its images: it has "));
    fake.write("down", "");
    fake.write("services", "web\n");
    assert!(pruned().0.contains("`p` keeps its images: it is a stack of the Swarm"));
    assert!(fake.path("containers/keeper").exists());

    fs::remove_file(fake.path("services")).unwrap();
    fake.write("in-use", "");
    let (output, warned) = pruned();
    assert!(
        !output.contains("removed") && warned.contains("`compose-zd/p-app:r1` stays: conflict"),
        "{output}{warned}"
    );
    fs::remove_file(fake.path("in-use")).unwrap();
    fake.write("containers/keeper", keeper);
    assert_eq!(pruned().0, "removed `compose-zd/p-app:r1`\n");
    assert!(!fake.path("containers/keeper").exists());
}
