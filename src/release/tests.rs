//! Next release, target of a rollback, and pruning, by tables of short histories.

use super::*;

pub fn service_release(content: &str, since: u32) -> ServiceRelease {
    ServiceRelease {
        image: "app:latest".into(),
        image_id: format!("sha256:{content}"),
        digests: Vec::new(),
        config_hash: content.into(),
        replicas: 2,
        since,
        by_flag: false,
    }
}

pub fn record(number: u32, services: &[(&str, ServiceRelease)]) -> ReleaseRecord {
    ReleaseRecord {
        format: FORMAT,
        number,
        project: "shop".into(),
        kind: RolloutKind::Deploy,
        outcome: RolloutOutcome::Deployed,
        reason: None,
        services: services
            .iter()
            .map(|(name, service_release)| (name.to_string(), service_release.clone()))
            .collect(),
        deployed: Vec::new(),
        git: None,
        by: "ada@far".into(),
        command: "compose-zd deploy".into(),
        started: "2026-11-21T12:00:00Z".into(),
        seconds: 1.5,
        cut: 0,
        witness: None,
        project_changes: Default::default(),
    }
}

/// Parses a history with one release a word, from number 1 on: the content of `app`, then that of `db`; `!` marks a
/// failed release, `-` a missing service. An unchanged content keeps its `since`.
pub fn history(words: &str) -> ReleaseHistory {
    let mut records: Vec<ReleaseRecord> = Vec::new();
    for (number, word) in (1..).zip(words.split_whitespace()) {
        let before = records.last();
        let service = |(name, content): (&'static str, char)| {
            let new = service_release(&content.to_string(), number);
            let unchanged =
                before.and_then(|r| r.services.get(name)).filter(|unchanged| unchanged.same_content(&new));
            (content != '-').then(|| (name, unchanged.cloned().unwrap_or(new)))
        };
        let services: Vec<_> = ["app", "db"].into_iter().zip(word.chars()).filter_map(service).collect();
        let outcome = if word.ends_with('!') { RolloutOutcome::Failed } else { RolloutOutcome::Deployed };
        records.push(ReleaseRecord { outcome, ..record(number, &services) });
    }
    ReleaseHistory::new(records)
}

fn previous(words: &str, services: &[&str]) -> Option<u32> {
    let services: Vec<String> = services.iter().map(|s| s.to_string()).collect();
    history(words).previous(&services).map(|r| r.number)
}

#[test]
fn a_rollback_goes_to_the_newest_good_release_that_differs() {
    let table = [
        ("", None),
        ("ax", None),
        ("ax!", None),
        ("ax bx", Some(1)),
        ("ax bx bx", Some(1)),
        ("ax bx!", None),
        ("ax bx! cx", Some(1)),
        ("ax bx cx!", Some(1)),
        ("ax bx cx", Some(2)),
        ("ax ay", Some(1)),
        ("ax a-", Some(1)),
        ("a- ax", Some(1)),
    ];
    for (words, expected) in table {
        assert_eq!(previous(words, &[]), expected, "{words}");
    }
}

#[test]
fn a_rollback_of_a_rollback_returns() {
    assert_eq!(previous("ax bx", &[]), Some(1));
    assert_eq!(previous("ax bx ax", &[]), Some(2));
    assert_eq!(previous("ax bx ax bx", &[]), Some(3));
    assert_eq!(previous("ax bx ax! ax bx! bx", &[]), Some(4));
}

#[test]
fn every_rollback_of_every_short_history_is_undone_by_the_next() {
    let contents = ["ax", "bx", "cx", "ay", "bx!", "by!"];
    let triples = contents.iter().flat_map(|a| contents.iter().map(move |b| (a, b)));
    for words in triples.flat_map(|(a, b)| contents.iter().map(move |c| format!("{a} {b} {c}"))) {
        let history = history(&words);
        let (Some(current), Some(target)) = (history.current(), history.previous(&[])) else { continue };
        let mut records = history.records.to_vec();
        records.push(ReleaseRecord { number: 4, ..target.clone() });
        let after = ReleaseHistory::new(records);
        let next_target = after.previous(&[]).unwrap();
        assert!(next_target.same_content(current), "{words}");
    }
}

#[test]
fn one_service_goes_back_to_the_newest_release_where_it_differs() {
    let table = [
        ("ax bx", "app", Some(1)),
        ("ax bx", "db", None),
        ("ax ay by", "app", Some(2)),
        ("ax ay by", "db", Some(1)),
        ("ax ay! by", "db", Some(1)),
        ("a- bx", "db", None),
        ("ax b- bx", "db", None),
        ("ax b- by", "db", Some(1)),
        ("ax bx", "none", None),
    ];
    for (words, service, expected) in table {
        assert_eq!(previous(words, &[service]), expected, "{words}, {service}");
    }
    assert_eq!(previous("ax b- by", &["app", "db"]), Some(1));
    assert_eq!(previous("ax bx b-", &["db"]), Some(2));
}

#[test]
fn content_differs_by_image_or_number_of_instances_and_not_by_name() {
    let base = service_release("a", 1);
    let renamed = ServiceRelease { image: "other".into(), since: 4, by_flag: true, ..base.clone() };
    assert!(base.same_content(&ServiceRelease { digests: vec!["d".into()], ..renamed }));
    assert!(!base.same_content(&ServiceRelease { replicas: 3, ..base.clone() }));
    assert!(!base.same_content(&ServiceRelease { image_id: "sha256:b".into(), ..base.clone() }));
    assert!(!base.same_content(&ServiceRelease { config_hash: "b".into(), ..base.clone() }));
}

#[test]
fn the_current_release_is_the_newest_good_one() {
    let current = |words: &str| history(words).current().map(|r| r.number);
    assert_eq!(
        [current(""), current("ax!"), current("ax bx"), current("ax bx!")],
        [None, None, Some(2), Some(1)]
    );
    assert_eq!(history("ax bx! cx").good_numbers(), [3, 1]);
    assert_eq!(history("ax bx!").get(2).map(ReleaseRecord::is_good), Some(false));
}

#[test]
fn no_number_is_used_twice() {
    let in_progress = |number| InProgress {
        format: FORMAT,
        number,
        kind: RolloutKind::Deploy,
        services: Vec::new(),
        replaced: Vec::new(),
        restart: BTreeMap::new(),
        last_good: None,
        paused: false,
        undoing: false,
    };
    assert_eq!(history("").next_number(None), 1);
    assert_eq!(history("ax bx!").next_number(None), 3);
    assert_eq!(history("ax").next_number(Some(&in_progress(5))), 6);
    assert_eq!(history("ax bx").next_number(Some(&in_progress(1))), 3);
}

/// Records, configurations and images that stay: the numbers, and `app` or `db` with the release of its image.
fn retained(words: &str, keep: usize) -> (Vec<u32>, Vec<u32>, String) {
    let retained = history(words).retention(keep);
    let images: Vec<String> =
        retained.images.iter().map(|(service, since)| format!("{service}{since}")).collect();
    (retained.records.into_iter().collect(), retained.configs.into_iter().collect(), images.join(" "))
}

#[test]
fn the_newest_releases_stay_and_the_target_of_a_rollback() {
    let all =
        |records: &[u32], configs: &[u32], images: &str| (records.to_vec(), configs.to_vec(), images.into());
    assert_eq!(retained("", 5), all(&[], &[], ""));
    assert_eq!(retained("ax!", 5), all(&[1], &[], ""));
    assert_eq!(retained("ax bx", 5), all(&[1, 2], &[1, 2], "app1 app2 db1"));
    assert_eq!(retained("ax bx cx", 2), all(&[2, 3], &[2, 3], "app2 app3 db1"));
    assert_eq!(retained("ax bx", 1), all(&[2], &[2], "app2 db1"));
    assert_eq!(retained("ax bx", 0), all(&[2], &[2], "app2 db1"));
    assert_eq!(retained("ax bx ax bx", 2), all(&[3, 4], &[3, 4], "app3 app4 db1"));
    assert_eq!(
        retained("ax bx bx bx", 2),
        all(&[1, 2, 3, 4], &[1, 4], "app1 app2 db1"),
        "a rollback returns to 1"
    );
    assert_eq!(retained("ax ax ax", 5), all(&[1, 2, 3], &[1, 2, 3], "app1 db1"));
    assert_eq!(retained("ax bx! cx", 5), all(&[1, 2, 3], &[1, 3], "app1 app3 db1"));
    assert_eq!(retained("ax bx cx!", 1), all(&[2, 3], &[2], "app2 db1"));
    assert_eq!(retained("ax bx ax", 5), all(&[1, 2, 3], &[1, 2, 3], "app1 app2 app3 db1"));
}

#[test]
fn a_release_to_return_to_has_its_configuration_and_images() {
    let contents = ["ax", "bx", "cx", "a-", "bx!"];
    let triples = contents.iter().flat_map(|a| contents.iter().map(move |b| (a, b)));
    let quadruples = triples.flat_map(|(a, b)| contents.iter().map(move |c| format!("{a} {b} {c}")));
    for (words, keep) in quadruples.flat_map(|w| (1..4).map(move |keep| (w.clone(), keep))) {
        let history = history(&words);
        let retained = history.retention(keep);
        let rest: Vec<ReleaseRecord> =
            history.records.iter().filter(|r| retained.records.contains(&r.number)).cloned().collect();
        let rest = ReleaseHistory::new(rest);
        assert_eq!(rest.current(), history.current(), "{words}");
        assert!(retained.configs.is_subset(&retained.records), "{words}");
        assert_eq!(rest.retention(keep), retained, "{words}: pruning twice is pruning once");
        if keep > 1 {
            let number = |h: &ReleaseHistory| h.previous(&[]).map(|r| r.number);
            assert_eq!(number(&rest), number(&history), "{words}");
            assert!(number(&rest).is_none_or(|n| retained.configs.contains(&n)), "{words}");
        }
        let images = retained.configs.iter().flat_map(|n| rest.get(*n).unwrap().images());
        assert_eq!(images.collect::<BTreeSet<_>>(), retained.images, "{words}");
        let held: Vec<_> =
            rest.retained_services(&retained).map(|(service, p)| (service.to_string(), p.since)).collect();
        assert_eq!(held, retained.images.iter().cloned().collect::<Vec<_>>(), "{words}");
    }
}

#[test]
fn records_that_no_rollback_returns_to_are_limited() {
    let words = format!("ax bx {}", "cx! ".repeat(300));
    let (records, configs, _) = retained(&words, 5);
    assert_eq!((records.len(), configs), (MAX_RECORDS + 2, vec![1, 2]));
    assert_eq!(records[2], 103);
}

#[test]
fn a_record_reads_back_as_it_was_written() {
    let git = WorkingCopy { revision: "f00".into(), branch: None, dirty: true };
    let release = ReleaseRecord {
        kind: RolloutKind::Rollback { to: 3 },
        git: Some(git),
        ..record(7, &[("app", service_release("a", 3))])
    };
    let text = serde_json::to_string(&release).unwrap();
    assert_eq!(serde_json::from_str::<ReleaseRecord>(&text).unwrap(), release);
    assert!(text.contains(r#""kind":{"rollback":{"to":3}},"outcome":"deployed""#), "{text}");
}
