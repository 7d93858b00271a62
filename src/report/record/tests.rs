use std::collections::BTreeSet;

use super::super::changes::{KeyChange, ServiceChange, Way};
use super::super::event::{Answer, ImageChange, InitialInstance, StepEvent, former};
use super::super::plan::{PlannedCommand, PlannedStep};
use super::*;
use crate::report::probes::{ProbeOutcome, ProbeReport, Sample, SwitchWindow, WitnessSummary};

fn report() -> ProbeReport {
    let sample = |ms, outcome, version: Option<&str>| Sample {
        at: Duration::from_millis(ms),
        took: Duration::from_millis(3),
        outcome,
        lost: version.is_none(),
        version: version.map(String::from),
    };
    let samples = vec![
        sample(0, ProbeOutcome::Status(200), Some("1")),
        sample(100, ProbeOutcome::CutOff, None),
        sample(200, ProbeOutcome::Status(502), None),
    ];
    let switch = Some(SwitchWindow { from_ms: 50, to_ms: 150 });
    ProbeReport { url: "http://a/".into(), summary: WitnessSummary::new(&samples, switch), switch, samples }
}

/// One of every event. The schema test fails until a new event is here.
fn every() -> Vec<Event> {
    let names = || vec!["app-1".to_string()];
    let text = || "x".to_string();
    let second = Duration::from_millis(1500);
    vec![
        Event::Deploying {
            target: text(),
            proxies: names(),
            instances: vec![InitialInstance { name: text(), new: true, running: true, in_rotation: false }],
        },
        Event::Images {
            project: text(),
            by: text(),
            images: vec![ImageChange { service: text(), from: names(), to: text() }],
        },
        Event::ServiceChange(ServiceChange {
            service: text(),
            way: Way::Scale { from: 1, to: 2 },
            reasons: names(),
            diff: vec![KeyChange { key: text(), old: None, new: Some(text()) }],
        }),
        Event::StartingServices(names().into()),
        Event::Recreating(names().into()),
        Event::ServicesUp(names().into()),
        Event::Prepared(text().into()),
        Event::WouldPrepare(text().into()),
        Event::Plan {
            target: text(),
            steps: vec![PlannedStep {
                verb: text(),
                names: names(),
                text: text(),
                reason: text(),
                actions: vec![PlannedCommand::Command(names()), PlannedCommand::Note(text())],
            }],
        },
        Event::Step(StepEvent {
            target: text(),
            number: 1,
            steps: 2,
            batch: 1,
            batches: 1,
            verb: "gate".into(),
            names: names(),
            rolling_back: false,
        }),
        Event::Created(names().into()),
        Event::Started(names().into()),
        Event::Ready(Answer { name: text(), answer: text() }),
        Event::NotReady(Answer { name: text(), answer: text() }),
        Event::Exited(names().into()),
        Event::Routed { in_rotation: names(), out_of_rotation: Vec::new() },
        Event::Draining(names().into()),
        Event::Drained(names().into()),
        Event::Holding(names().into()),
        Event::Held { requests: 2, longest: second, refused: 0 },
        Event::Stopped(names().into()),
        Event::Removed(names().into()),
        Event::StartingDependencies(names().into()),
        Event::Building(names().into()),
        Event::Pulling(names().into()),
        Event::RollingBack,
        Event::Interrupted,
        Event::Delayed { seconds: second },
        Event::Monitoring {
            names: names(),
            in_service: second,
            old_instances: names(),
            proxied: true,
            seconds: second,
        },
        Event::Failed(names().into()),
        Event::OneByOne { targets: names(), seconds: second },
        Event::StoppingFirst(text().into()),
        Event::Dependents { rolled: names(), restarted: names() },
        Event::Restarting(names().into()),
        Event::JobRunning(text().into()),
        Event::JobDone(text().into()),
        Event::LeftAlone(names().into()),
        Event::ImageOverrideEnded { service: text(), image: text(), previous_image: text(), release: 1 },
        Event::Imported { release: 1, services: names() },
        Event::NotImported(names().into()),
        Event::Unchanged { release: 1, restored_release: None },
        Event::NewerInFile { file: text(), services: names() },
        Event::Paused,
        Event::WaitingForLock(text().into()),
        Event::LockTakenOver(text().into()),
        Event::Recovering { release: 1 },
        Event::CompletingUndo { release: 2, restored_release: 1 },
        Event::DeployingStack { stack: text(), services: names() },
        Event::SwarmRollback(names().into()),
        Event::SwarmJobDone { service: text(), tasks: 2 },
        Event::TaskRunning { name: text(), node: text(), running: 1, desired: 2 },
        Event::NoWitness { reason: text() },
        Event::Witness(Box::new(report())),
        Event::Deployed {
            target: text(),
            serving: names(),
            release: 2,
            restored_release: Some(1),
            in_service: second,
            seconds: second,
        },
        Event::Warning { kind: text(), message: text() },
        Event::Command { arguments: text(), seconds: second },
        Event::Output { line: text() },
        Event::Error { exit: 3, message: text(), details: names(), hint: None },
    ]
}

fn schema() -> Value {
    serde_json::from_str(SCHEMA_TEXT).unwrap()
}

fn lines() -> Vec<Value> {
    let line =
        |event| serde_json::from_str(&EventRecord::now(Duration::from_millis(1234), event).line()).unwrap();
    every().into_iter().map(line).collect()
}

#[test]
fn the_schema_describes_every_event_and_no_other() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for line in lines() {
        let errors: Vec<String> = validator.iter_errors(&line).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{line}: {errors:?}");
    }
    let written: BTreeSet<String> =
        lines().iter().map(|l| l["event"].as_str().unwrap().to_string()).collect();
    let schema = schema();
    let others = ["line", "summary", "status", "history", "check"];
    let described = schema["$defs"].as_object().unwrap().keys().filter(|k| !others.contains(&k.as_str()));
    assert_eq!(written, described.cloned().collect());
    let references = schema["$defs"]["line"]["oneOf"].as_array().unwrap().iter();
    let named = references.map(|r| r["$ref"].as_str().unwrap().trim_start_matches("#/$defs/").to_string());
    assert_eq!(written, named.collect());
}

#[test]
fn the_schema_refuses_a_missing_field_and_a_field_of_another_type() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for line in lines() {
        for key in line.as_object().unwrap().keys() {
            let mut without = line.clone();
            without.as_object_mut().unwrap().remove(key);
            assert!(!validator.is_valid(&without), "{line} without {key}");
            let mut other = line.clone();
            other[key] = json!({"a": 1});
            assert!(!validator.is_valid(&other), "{line} with another {key}");
        }
    }
}

#[test]
fn an_event_is_read_back_as_it_was_written() {
    let entries: Vec<EventRecord> =
        every().into_iter().map(|e| EventRecord::now(Duration::from_millis(1234), e)).collect();
    let text: String = entries.iter().map(|e| e.line() + "\n").collect();
    assert_eq!(read(text.as_bytes()), entries);
}

#[test]
fn a_line_that_is_cut_short_or_of_a_newer_version_is_skipped() {
    let entry = EventRecord::now(Duration::ZERO, Event::RollingBack);
    let text =
        format!("{}\n{{\"v\":1,\"event\":\"landed\"}}\n\n\u{0}\n{}", entry.line(), &entry.line()[..20]);
    assert_eq!(read(text.as_bytes()), [entry]);
}

/// Every renamed event of [`every`], as older versions wrote it.
const FORMER: &str = r#"
{"event":"deploying","target":"x","proxies":["app-1"],"instances":[{"name":"x","new":true,"runs":true,"in_rotation":false}]}
{"event":"prepared","what":"x"}
{"event":"would_prepare","what":"x"}
{"event":"plan","target":"x","steps":[{"verb":"x","names":["app-1"],"text":"x","cause":"x","does":[{"command":["app-1"]},{"note":"x"}]}]}
{"event":"step","target":"x","number":1,"of":2,"batch":1,"batches":1,"verb":"gate","names":["app-1"],"back":false}
{"event":"died","names":["app-1"]}
{"event":"routed","inside":["app-1"],"outside":[]}
{"event":"idle","names":["app-1"]}
{"event":"starting_needed","services":["app-1"]}
{"event":"going_back"}
{"event":"monitoring","names":["app-1"],"after":1.5,"beside":["app-1"],"proxied":true,"seconds":1.5}
{"event":"stop_first","service":"x"}
{"event":"running","service":"x"}
{"event":"ran","service":"x"}
{"event":"back_to_file","service":"x","image":"x","ran":"x","release":1}
{"event":"adopted","release":1,"services":["app-1"]}
{"event":"not_adopted","services":["app-1"]}
{"event":"release","release":1,"back_to":null}
{"event":"waiting","holder":"x"}
{"event":"took_over","holder":"x"}
{"event":"sending","stack":"x","services":["app-1"]}
{"event":"own_way_back","services":["app-1"]}
{"event":"job_completed","service":"x","tasks":2}
{"event":"task_runs","name":"x","node":"x","current":1,"wanted":2}
{"event":"no_witness","why":"x"}
{"event":"deployed","target":"x","serving":["app-1"],"release":2,"back_to":1,"in_service":1.5,"seconds":1.5}
{"event":"warning","kind":"x","text":"x"}
{"event":"command","words":"x","seconds":1.5}
"#;

/// Reads lines of older versions, which have a time as well.
fn read_former(lines: &str) -> Vec<Event> {
    let text = lines.replace("{\"event\"", r#"{"v":1,"time":"2026-01-01T00:00:00.000Z","at":1.234,"event""#);
    read(text.as_bytes()).into_iter().map(|record| record.event).collect()
}

#[test]
fn a_journal_of_an_older_version_stays_readable() {
    let events = read_former(FORMER);
    assert_eq!(events.len(), FORMER.lines().count() - 1);
    let every = every();
    for event in events {
        assert!(every.contains(&event), "{event:?}");
    }
}

#[test]
fn a_witness_of_an_older_journal_stays_readable() {
    let line = EventRecord::now(Duration::ZERO, Event::Witness(Box::new(report()))).line();
    let former = line.replace("\"unanswered\"", "\"open\"").replace("\"cut_off\"", "\"cut\"");
    assert_ne!(former, line);
    assert_eq!(read(former.as_bytes())[0].event, Event::Witness(Box::new(report())));
}

#[test]
fn a_former_verb_or_kind_is_read_as_the_current_one() {
    for (former, current) in former::VERBS {
        let line = format!(
            r#"{{"event":"step","target":"x","number":1,"of":2,"batch":1,"batches":1,"verb":"{former}","names":[],"back":true}}"#
        );
        let events = read_former(&line);
        assert!(matches!(&events[..], [Event::Step(step)] if step.verb == current), "{events:?}");
    }
    for (former, current) in former::KINDS {
        let events = read_former(&format!(r#"{{"event":"warning","kind":"{former}","text":"x"}}"#));
        let expected = Event::Warning { kind: current.into(), message: "x".into() };
        assert_eq!(events, [expected]);
    }
}
