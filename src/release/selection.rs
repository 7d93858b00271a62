//! Selection of the recorded release that a rollback restores, and of its services.

use std::collections::BTreeSet;

use super::journal::Journal;
use super::{
    ProjectChanges, ProjectRun, ReleaseHistory, ReleaseRecord, RolloutOutcome, ServiceRelease, UnreadableFile,
};
use crate::error::Error;

/// Release to restore, and the services to restore.
#[derive(Debug, Clone)]
pub struct Selection<'a> {
    pub record: &'a ReleaseRecord,
    pub services: Vec<String>,
    /// Changes of the rollback besides its rollout, which undo those of `up`.
    pub changes: ProjectChanges,
}

/// Chooses the release of a rollback: the given number; else the current one, if a rollout of these services did
/// not finish; else the one before. Without names, the services of the last rollout.
///
/// # Errors
/// No release to restore; the hint lists those that exist.
pub fn choose<'a>(
    journal: &'a Journal,
    services: &[String],
    to: Option<u32>,
) -> Result<Selection<'a>, Error> {
    let history = &journal.history;
    let Some(current) = history.current() else {
        return choose_without_current(journal, services, to);
    };
    if to.is_none() {
        require_readable_unfinished(journal)?;
    }
    let open = journal.project_run.as_ref().filter(|_| services.is_empty() && to.is_none());
    if let Some((run, before)) = open.and_then(|run| Some((run, journal.release_before(run)?))) {
        return choose_before_run(journal, run, before, current);
    }
    let unfinished: &[String] = journal.in_progress.as_ref().map_or(&[], |h| &h.services);
    // Every unfinished service is restored too, or it would stay half replaced.
    let is_about_it = services.is_empty() || services.iter().any(|s| unfinished.contains(s));
    let goes_to_current = is_about_it && !unfinished.is_empty();
    let last = last_deployed(history, current);
    let affected = if services.is_empty() { &last } else { services };
    let chosen = match to {
        Some(number) => restorable_release(journal, number)?,
        None if goes_to_current => current,
        None if services.is_empty() && !current.project_changes.is_empty() => {
            let of_project = history.previous(&[]);
            previous_release(journal, &[], of_project)?
        }
        None => {
            let of_services = history.previous(affected).filter(|_| !affected.is_empty());
            previous_release(journal, affected, of_services)?
        }
    };
    let undoes = chosen.number == current.number && !unfinished.is_empty();
    let mut named = match (services.is_empty() && !undoes, to) {
        // The unfinished services are unknown, so all are restored.
        (true, Some(_)) if journal.unreadable_in_progress.is_some() => {
            chosen.services.keys().cloned().collect()
        }
        (true, Some(_)) => changed_services(chosen, current),
        (true, None) => last.into_iter().filter(|s| chosen.services.contains_key(s)).collect(),
        (false, _) => services.to_vec(),
    };
    let more = unfinished.iter().filter(|s| is_about_it && chosen.services.contains_key(*s));
    let more: Vec<String> = more.filter(|s| !named.contains(s)).cloned().collect();
    named.extend(more);
    let mut changes = changes_to_undo(history, chosen, current);
    if !services.is_empty() {
        (changes.started, changes.removed) = Default::default();
    }
    named.extend(changes.started.iter().filter(|s| !named.contains(s)).cloned().collect::<Vec<_>>());
    changes.recreated.retain(|service| named.contains(service));
    Ok(Selection { changes, ..selection(journal, chosen, named)? })
}

/// Chooses the release before a run of the project that did not end, and what undoes its changes.
///
/// # Errors
/// It has changed nothing that a rollback undoes, so an older release would be one too far.
fn choose_before_run<'a>(
    journal: &'a Journal,
    run: &ProjectRun,
    before: &ReleaseRecord,
    current: &ReleaseRecord,
) -> Result<Selection<'a>, Error> {
    let record = restorable_release(journal, before.number)?;
    let is_in_it = |service: &&String| record.services.contains_key(*service);
    let differs = |(name, release): &(&String, &ServiceRelease)| {
        !current.services.get(*name).is_some_and(|now| now.same_content(release))
    };
    let ProjectChanges { started, recreated, removed } = &run.changes;
    let rolled = record.services.iter().filter(differs).map(|(name, _)| name);
    let unfinished = journal.in_progress.iter().flat_map(|rollout| &rollout.services);
    let all = rolled.chain(unfinished).chain(recreated).chain(removed).filter(is_in_it);
    let services: BTreeSet<String> = all.cloned().collect();
    let changes = ProjectChanges {
        started: removed.iter().filter(is_in_it).cloned().collect(),
        recreated: recreated.iter().filter(is_in_it).cloned().collect(),
        removed: started.iter().filter(|s| !is_in_it(s)).cloned().collect(),
    };
    if services.is_empty() && changes.is_empty() {
        let (command, number) = (run.command(), before.number);
        return Err(Error::unchanged(format!(
            "`{command}` did not end, and has changed nothing since release {number} that a rollback undoes"
        ))
        .hint(format!(
            "`compose-zd {command}` continues it; name an older release with `--to`: {}",
            list_restorable(journal)
        )));
    }
    Ok(Selection { changes, ..selection(journal, record, services.into_iter().collect())? })
}

/// Changes that undo those of `up` since a release: services that it removed start, and those that it started go.
fn changes_to_undo(
    history: &ReleaseHistory,
    chosen: &ReleaseRecord,
    current: &ReleaseRecord,
) -> ProjectChanges {
    let since = || history.newest_first().filter(|r| r.is_good() && r.number > chosen.number);
    let all = |of: fn(&ProjectChanges) -> &Vec<String>| -> BTreeSet<String> {
        since().flat_map(|r| of(&r.project_changes)).cloned().collect()
    };
    let (added, gone) = (all(|changes| &changes.started), all(|changes| &changes.removed));
    let is_missing = |s: &String| chosen.services.contains_key(s) && !current.services.contains_key(s);
    let is_new = |s: &String| !chosen.services.contains_key(s) && current.services.contains_key(s);
    ProjectChanges {
        started: gone.into_iter().filter(is_missing).collect(),
        recreated: all(|changes| &changes.recreated).into_iter().collect(),
        removed: added.into_iter().filter(is_new).collect(),
    }
}

/// Release of a rollback without arguments; `None` if it would be refused.
pub fn default_release(journal: &Journal) -> Option<u32> {
    choose(journal, &[], None).ok().map(|selection| selection.record.number)
}

/// Chooses the release without a current one: only a given number is accepted.
fn choose_without_current<'a>(
    journal: &'a Journal,
    services: &[String],
    to: Option<u32>,
) -> Result<Selection<'a>, Error> {
    match (journal.history.unreadable_records().next(), to) {
        (None, _) => Err(Error::usage(format!(
            "no release of `{}` is recorded in {}",
            journal.project,
            journal.folder().display()
        ))
        .hint("`compose-zd deploy` records one; `--state-dir` names another folder")),
        (Some((number, unreadable)), None) => Err(unreadable_error(
            journal,
            unreadable,
            &format!("release {number} may be the one that serves"),
        )),
        (Some(_), Some(number)) => {
            let chosen = restorable_release(journal, number)?;
            let all = || chosen.services.keys().cloned().collect();
            selection(journal, chosen, if services.is_empty() { all() } else { services.to_vec() })
        }
    }
}

/// Selection of these services.
///
/// # Errors
/// The release lacks one of them.
fn selection<'a>(
    journal: &Journal,
    chosen: &'a ReleaseRecord,
    named: Vec<String>,
) -> Result<Selection<'a>, Error> {
    match named.iter().find(|s| !chosen.services.contains_key(*s)) {
        Some(service) => Err(Error::usage(format!("release {} has no service `{service}`", chosen.number))
            .hint(list_restorable(journal))),
        None => Ok(Selection { record: chosen, services: named, changes: ProjectChanges::default() }),
    }
}

/// The release found before the current one, for these services. An unreadable one in between may be it, so no older one
/// is chosen.
fn previous_release<'a>(
    journal: &'a Journal,
    services: &[String],
    found: Option<&'a ReleaseRecord>,
) -> Result<&'a ReleaseRecord, Error> {
    let between = journal.history.unreadable_since(found.map_or(0, |r| r.number));
    match (between, found) {
        (Some((number, unreadable)), _) => {
            Err(unreadable_error(journal, unreadable, &format!("release {number} may be the one to restore")))
        }
        (None, None) => Err(no_previous_release(journal, services)),
        (None, Some(found)) => match journal.snapshot(found.number) {
            Ok(_) => Ok(found),
            Err(error) => Err(error.hint(format!("name another with `--to`: {}", list_restorable(journal)))),
        },
    }
}

/// Fails if the record of an unfinished rollout is unreadable, because its services are unknown.
pub fn require_readable_unfinished(journal: &Journal) -> Result<(), Error> {
    journal.unreadable_in_progress.iter().try_for_each(|unreadable| {
        Err(unreadable_error(journal, unreadable, "the services of an unfinished rollout are in it"))
    })
}

fn unreadable_error(journal: &Journal, unreadable: &UnreadableFile, so: &str) -> Error {
    Error::unchanged(format!("{unreadable}, and {so}"))
        .hint(format!("name the release to restore with `--to`: {}", list_restorable(journal)))
}

/// Services of the last rollout, without the ones that it added.
fn last_deployed(history: &ReleaseHistory, current: &ReleaseRecord) -> Vec<String> {
    let was_there = |service: &&String| history.previous(std::slice::from_ref(service)).is_some();
    current.deployed.iter().filter(was_there).cloned().collect()
}

/// Recorded release that can be restored.
pub fn restorable_release(journal: &Journal, number: u32) -> Result<&ReleaseRecord, Error> {
    let refuse =
        |why: &str| Err(Error::usage(format!("release {number} {why}")).hint(list_restorable(journal)));
    match journal.history.get(number) {
        None => match journal.history.unreadable(number) {
            Some(unreadable) => {
                Err(unreadable_error(journal, unreadable, "another release has to be restored"))
            }
            None => refuse("is not recorded"),
        },
        Some(record) if record.outcome != RolloutOutcome::Deployed => refuse("was never deployed completely"),
        Some(record) if !journal.config_path(number).exists() => {
            Err(Error::usage(format!("the configuration of release {} is no longer kept", record.number))
                .hint(list_restorable(journal)))
        }
        Some(record) => Ok(record),
    }
}

fn no_previous_release(journal: &Journal, services: &[String]) -> Error {
    let whose = match services {
        [] => format!("`{}`", journal.project),
        some => some.iter().map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", "),
    };
    Error::usage(format!("there is no release of {whose} before the current one"))
        .hint(list_restorable(journal))
}

/// List of the releases that can be restored.
fn list_restorable(journal: &Journal) -> String {
    let kept: Vec<String> = journal
        .history
        .good_numbers()
        .into_iter()
        .filter(|n| journal.config_path(*n).exists())
        .map(|n| n.to_string())
        .collect();
    if kept.is_empty() { "no release is kept".into() } else { format!("kept releases: {}", kept.join(", ")) }
}

/// Services of a release that differ from the current one; all, if none does.
fn changed_services(chosen: &ReleaseRecord, current: &ReleaseRecord) -> Vec<String> {
    let differs = |(name, release): &(&String, &ServiceRelease)| {
        current.services.get(*name).is_some_and(|now| !now.same_content(release))
    };
    let names: Vec<String> = chosen.services.iter().filter(differs).map(|(name, _)| name.clone()).collect();
    if names.is_empty() { chosen.services.keys().cloned().collect() } else { names }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::release::state_location::StateLocation;
    use crate::release::store::Store;
    use crate::release::{FORMAT, RolloutKind};

    #[test]
    fn a_release_that_only_added_a_service_has_none_before_it() {
        let goes = |releases: &[&str]| default_release(&journal(releases).1);
        assert_eq!(goes(&["app1", "app1 web1"]), None, "`web` is new, and nothing else was deployed");
        assert_eq!(goes(&["app1", "app2 web1"]), Some(1));
        assert_eq!(goes(&["app1", "app1 web1", "app1 web2"]), Some(2));
        assert_eq!(goes(&["app1"]), None);
    }

    /// Journal of releases such as `app1 db1`, oldest first: service and version.
    fn journal(releases: &[&str]) -> (tempfile::TempDir, Journal) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "p").unwrap();
        let mut before: BTreeMap<String, ServiceRelease> = BTreeMap::new();
        for (words, number) in releases.iter().zip(1..) {
            let services: BTreeMap<String, ServiceRelease> =
                words.split(' ').map(|w| service_release(w, number)).collect();
            let changed = services.iter().filter(|(s, p)| !before.get(*s).is_some_and(|b| b.same_content(p)));
            let deployed = changed.map(|(s, _)| s.clone()).collect();
            store.write_config(number, "services: {}").unwrap();
            store.write_record(&record(number, services.clone(), deployed)).unwrap();
            before = services;
        }
        let journal =
            Journal::open(&StateLocation { state_dir: dir.path().into(), engine: None }, "p").unwrap();
        (dir, journal)
    }

    fn service_release(word: &str, since: u32) -> (String, ServiceRelease) {
        let (service, version) = word.split_at(word.len() - 1);
        let release = ServiceRelease {
            image: format!("{service}:{version}"),
            image_id: format!("sha256:{version}"),
            digests: Vec::new(),
            config_hash: "h".into(),
            replicas: 1,
            since,
            by_flag: false,
        };
        (service.into(), release)
    }

    fn record(
        number: u32,
        services: BTreeMap<String, ServiceRelease>,
        deployed: Vec<String>,
    ) -> ReleaseRecord {
        ReleaseRecord {
            format: FORMAT,
            number,
            project: "p".into(),
            kind: RolloutKind::Deploy,
            outcome: RolloutOutcome::Deployed,
            reason: None,
            services,
            deployed,
            git: None,
            by: "me".into(),
            command: String::new(),
            started: String::new(),
            seconds: 0.0,
            cut: 0,
            witness: None,
            project_changes: Default::default(),
        }
    }

    /// Chosen release and services, as `1: app`.
    fn chosen(journal: &Journal, services: &[&str], to: Option<u32>) -> String {
        let services: Vec<String> = services.iter().map(|s| s.to_string()).collect();
        match choose(journal, &services, to) {
            Ok(found) => format!("{}: {}", found.record.number, found.services.join(" ")),
            Err(error) => error.message,
        }
    }

    #[test]
    fn without_a_name_the_last_rollout_is_undone() {
        let (_dir, journal) = journal(&["app1 db1", "app2 db1", "app2 db2"]);
        assert_eq!(chosen(&journal, &[], None), "2: db");
        assert_eq!(chosen(&journal, &["app"], None), "1: app");
        assert_eq!(chosen(&journal, &[], Some(1)), "1: app db");
    }

    #[test]
    fn a_new_service_has_no_release_to_restore() {
        let (_dir, journal) = journal(&["app1", "app1 worker1"]);
        assert_eq!(chosen(&journal, &[], None), "there is no release of `p` before the current one");
        assert_eq!(
            chosen(&journal, &["worker"], None),
            "there is no release of `worker` before the current one"
        );
    }

    #[test]
    fn a_new_service_beside_a_changed_one_stays() {
        let (_dir, journal) = journal(&["app1", "app2 worker1"]);
        assert_eq!(chosen(&journal, &[], None), "1: app");
    }

    #[test]
    fn a_rollback_of_up_undoes_its_other_changes() {
        let (_dir, mut journal) = journal(&["app1 db1 old1", "app2 db2 cache1"]);
        let mut records: Vec<ReleaseRecord> = journal.history.newest_first().cloned().collect();
        let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        records[0].project_changes =
            ProjectChanges { started: words("cache"), recreated: words("db"), removed: words("old") };
        journal.history = ReleaseHistory::new(records);
        let expected =
            ProjectChanges { started: words("old"), recreated: words("db"), removed: words("cache") };
        for to in [None, Some(1)] {
            let found = choose(&journal, &[], to).unwrap();
            assert_eq!((found.services, found.changes), (words("app db old"), expected.clone()));
        }
        let of = |services: &[&str]| {
            let services: Vec<String> = services.iter().map(|s| s.to_string()).collect();
            choose(&journal, &services, None).unwrap().changes
        };
        assert_eq!(of(&["app"]), ProjectChanges::default());
        assert_eq!(of(&["db"]), ProjectChanges { recreated: words("db"), ..ProjectChanges::default() });
    }

    #[test]
    fn a_run_of_the_project_that_did_not_end_is_undone_to_the_release_before_it() {
        let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        let changes = |started: &str, recreated: &str, removed: &str| ProjectChanges {
            started: words(started),
            recreated: words(recreated),
            removed: words(removed),
        };
        let run = |changes: ProjectChanges| ProjectRun {
            format: FORMAT,
            before: Some(2),
            command_line: "compose-zd up".into(),
            changes,
            ..ProjectRun::default()
        };
        let (_dir, mut journal) = journal(&["app1 db1", "app2 db1 old1"]);
        journal.project_run = Some(run(changes("cache", "db", "old")));
        let found = choose(&journal, &[], None).unwrap();
        assert_eq!((found.record.number, found.services), (2, words("db old")));
        assert_eq!(found.changes, changes("old", "db", "cache"));
        assert_eq!(chosen(&journal, &["app"], None), "1: app", "a name means that service alone");
        journal.project_run = Some(run(ProjectChanges::default()));
        let refused = choose(&journal, &[], None).unwrap_err();
        assert!(refused.message.contains("`up` did not end, and has changed nothing"), "{}", refused.message);

        // Its rollout is recorded as release 3; then another run made release 4.
        let mut records: Vec<ReleaseRecord> = journal.history.newest_first().cloned().collect();
        let services: BTreeMap<String, ServiceRelease> =
            ["app3", "db1", "old1"].map(|word| service_release(word, 3)).into();
        let own =
            ReleaseRecord { command: "compose-zd up".into(), ..record(3, services.clone(), words("app")) };
        records.push(own);
        journal.history = ReleaseHistory::new(records.clone());
        journal.project_run = Some(run(changes("cache", "", "")));
        let found = choose(&journal, &[], None).unwrap();
        assert_eq!(
            (found.record.number, found.services, found.changes),
            (2, words("app"), changes("", "", "cache"))
        );
        records.push(record(4, services, words("app")));
        journal.history = ReleaseHistory::new(records);
        assert!(journal.release_before(journal.project_run.as_ref().unwrap()).is_none());
    }

    #[test]
    fn a_number_that_is_not_kept_is_refused() {
        let (_dir, journal) = journal(&["app1", "app2"]);
        assert_eq!(chosen(&journal, &[], Some(9)), "release 9 is not recorded");
        assert_eq!(list_restorable(&journal), "kept releases: 2, 1");
    }

    #[test]
    fn an_unfinished_rollout_is_undone_to_the_last_good_release() {
        let (dir, journal) = journal(&["app1 db1", "app2 db1"]);
        let store = Store::new(dir.path(), "p").unwrap();
        let in_progress = crate::release::InProgress {
            format: FORMAT,
            number: 3,
            kind: RolloutKind::Deploy,
            services: vec!["db".into()],
            replaced: Vec::new(),
            restart: BTreeMap::new(),
            last_good: Some(2),
            paused: true,
            undoing: false,
        };
        store.write_in_progress(&in_progress).unwrap();
        let journal = journal.reopen().unwrap();
        assert_eq!(chosen(&journal, &[], None), "2: db");
        assert_eq!(chosen(&journal, &["db"], None), "2: db");
        assert_eq!(chosen(&journal, &["app"], None), "1: app");
        assert_eq!(chosen(&journal, &[], Some(1)), "1: app db");
    }

    /// Journal after one of its files has this text.
    fn with(dir: &tempfile::TempDir, journal: &Journal, name: &str, text: &str) -> Journal {
        std::fs::write(dir.path().join("p").join(name), text).unwrap();
        journal.reopen().unwrap()
    }

    #[test]
    fn no_release_before_an_unreadable_one_is_chosen() {
        let (dir, journal) = journal(&["app1 db1", "app2 db1", "app3 db1"]);
        let middle = with(&dir, &journal, "releases/0002.json", "{");
        assert!(chosen(&middle, &[], None).contains("0002.json` cannot be used"));
        assert!(chosen(&middle, &["app"], None).ends_with("release 2 may be the one to restore"));
        assert_eq!(chosen(&middle, &[], Some(1)), "1: app");
        assert!(chosen(&middle, &[], Some(2)).contains("0002.json` cannot be used"));
        assert_eq!(list_restorable(&middle), "kept releases: 3, 1");
        let newest = with(&dir, &middle, "releases/0003.json", "");
        assert!(chosen(&newest, &[], None).ends_with("release 3 may be the one that serves"));
        assert_eq!(chosen(&newest, &[], Some(1)), "1: app db");
        assert_eq!(chosen(&newest, &["db"], Some(1)), "1: db");
        assert_eq!(chosen(&newest, &["missing"], Some(1)), "release 1 has no service `missing`");
        assert_eq!(newest.next_number(), 4);
    }

    #[test]
    fn an_older_unreadable_release_does_not_matter() {
        let (dir, journal) = journal(&["app1", "app2", "app3"]);
        let journal = with(&dir, &journal, "releases/0001.json", "{");
        assert_eq!(chosen(&journal, &[], None), "2: app");
    }

    #[test]
    fn an_unknown_unfinished_rollout_is_undone_by_number_and_completely() {
        let (dir, journal) = journal(&["app1 db1", "app2 db1"]);
        let journal = with(&dir, &journal, "wanted.json", "{");
        assert!(chosen(&journal, &[], None).contains("wanted.json` cannot be used"));
        assert!(chosen(&journal, &["db"], None).contains("wanted.json` cannot be used"));
        assert_eq!(chosen(&journal, &[], Some(1)), "1: app db");
        assert_eq!(chosen(&journal, &["db"], Some(1)), "1: db");
        assert!(journal.follows_unfinished());
    }

    #[test]
    fn a_release_without_its_configuration_is_not_chosen_by_itself() {
        let (dir, journal) = journal(&["app1", "app2"]);
        for text in ["", "{", "name: q\nservices: {}"] {
            let journal = with(&dir, &journal, "releases/0001.yml", text);
            assert!(chosen(&journal, &[], None).contains("0001.yml` cannot be used"), "{text}");
        }
        std::fs::remove_file(dir.path().join("p/releases/0001.yml")).unwrap();
        assert_eq!(chosen(&journal, &[], None), "the configuration of release 1 is not kept");
    }

    #[test]
    fn without_the_current_configuration_other_services_come_from_the_file() {
        let (dir, journal) = journal(&["app1 db1"]);
        let new = "{\"services\": {\"app\": {\"image\": \"new\"}, \"db\": {\"image\": \"new\"}}}";
        let journal = with(&dir, &journal, "releases/0001.yml", "{");
        assert!(journal.merged_config(new, &["app"]).unwrap().contains("new"));
    }
}
