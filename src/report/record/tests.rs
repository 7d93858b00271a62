use std::collections::BTreeSet;

use super::super::event::{InitialInstance, StepEvent};
use super::super::plan::{PlannedCommand, PlannedStep};
use super::*;
use crate::witness::{ProbeOutcome, ProbeReport, Sample, SwitchWindow, WitnessSummary};

fn seen() -> ProbeReport {
    let sample = |ms, outcome, version: Option<&str>| Sample {
        at: Duration::from_millis(ms),
        took: Duration::from_millis(3),
        outcome,
        lost: version.is_none(),
        version: version.map(String::from),
    };
    let samples = vec![
        sample(0, ProbeOutcome::Status(200), Some("1")),
        sample(100, ProbeOutcome::Cut, None),
        sample(200, ProbeOutcome::Status(502), None),
    ];
    let switch = Some(SwitchWindow { from_ms: 50, to_ms: 150 });
    ProbeReport { url: "http://a/".into(), summary: WitnessSummary::new(&samples, switch), switch, samples }
}

/// One of every event. A new one has to be added here: the schema test asks for it.
fn every() -> Vec<Event> {
    let names = || vec!["app-1".to_string()];
    let text = || "x".to_string();
    let second = Duration::from_millis(1500);
    vec![
        Event::Deploying {
            target: text(),
            proxies: names(),
            instances: vec![InitialInstance { name: text(), new: true, runs: true, in_rotation: false }],
        },
        Event::Prepared { what: text() },
        Event::WouldPrepare { what: text() },
        Event::Plan {
            target: text(),
            steps: vec![PlannedStep {
                verb: text(),
                names: names(),
                text: text(),
                cause: text(),
                does: vec![PlannedCommand::Command(names()), PlannedCommand::Note(text())],
            }],
        },
        Event::Step(StepEvent {
            target: text(),
            number: 1,
            of: 2,
            batch: 1,
            batches: 1,
            verb: "gate".into(),
            names: names(),
            back: false,
        }),
        Event::Created { names: names() },
        Event::Started { names: names() },
        Event::Ready { name: text(), answer: text() },
        Event::NotReady { name: text(), answer: text() },
        Event::Died { names: names() },
        Event::Routed { inside: names(), outside: Vec::new() },
        Event::Draining { names: names() },
        Event::Idle { names: names() },
        Event::Stopped { names: names() },
        Event::Removed { names: names() },
        Event::StartingNeeded { services: names() },
        Event::Building { services: names() },
        Event::Pulling { services: names() },
        Event::GoingBack,
        Event::Interrupted,
        Event::Delayed { seconds: second },
        Event::Monitoring { names: names(), after: second, beside: names(), proxied: true, seconds: second },
        Event::Failed { names: names() },
        Event::OneByOne { targets: names(), seconds: second },
        Event::StopFirst { service: text() },
        Event::Dependents { rolled: names(), restarted: names() },
        Event::Restarting { services: names() },
        Event::Running { service: text() },
        Event::Ran { service: text() },
        Event::LeftAlone { services: names() },
        Event::BackToFile { service: text(), image: text(), ran: text(), release: 1 },
        Event::Adopted { release: 1, services: names() },
        Event::NotAdopted { services: names() },
        Event::Release { release: 1, back_to: None },
        Event::Paused,
        Event::Waiting { holder: text() },
        Event::TookOver { holder: text() },
        Event::Recovering { release: 1 },
        Event::Sending { stack: text(), services: names() },
        Event::OwnWayBack { services: names() },
        Event::JobCompleted { service: text(), tasks: 2 },
        Event::TaskRuns { name: text(), node: text(), current: 1, wanted: 2 },
        Event::NoWitness { why: text() },
        Event::Witness(Box::new(seen())),
        Event::Deployed {
            target: text(),
            serving: names(),
            release: 2,
            back_to: Some(1),
            in_service: second,
            seconds: second,
        },
        Event::Warning { kind: text(), text: text() },
        Event::Command { words: text(), seconds: second },
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
fn every_event_is_described_by_the_schema_and_no_other() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for line in lines() {
        let errors: Vec<String> = validator.iter_errors(&line).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{line}: {errors:?}");
    }
    let told: BTreeSet<String> = lines().iter().map(|l| l["event"].as_str().unwrap().to_string()).collect();
    let schema = schema();
    let described =
        schema["$defs"].as_object().unwrap().keys().filter(|k| !["line", "summary"].contains(&k.as_str()));
    assert_eq!(told, described.cloned().collect());
    let of_a_line = schema["$defs"]["line"]["oneOf"].as_array().unwrap().iter();
    let named = of_a_line.map(|r| r["$ref"].as_str().unwrap().trim_start_matches("#/$defs/").to_string());
    assert_eq!(told, named.collect());
}

#[test]
fn a_field_that_is_missing_or_of_another_type_is_not_described() {
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
fn what_was_written_down_is_read_back() {
    let entries: Vec<EventRecord> =
        every().into_iter().map(|e| EventRecord::now(Duration::from_millis(1234), e)).collect();
    let text: String = entries.iter().map(|e| e.line() + "\n").collect();
    assert_eq!(read(text.as_bytes()), entries);
}

#[test]
fn a_line_that_was_cut_short_or_is_of_a_newer_version_is_passed_over() {
    let entry = EventRecord::now(Duration::ZERO, Event::GoingBack);
    let text =
        format!("{}\n{{\"v\":1,\"event\":\"landed\"}}\n\n\u{0}\n{}", entry.line(), &entry.line()[..20]);
    assert_eq!(read(text.as_bytes()), [entry]);
}
