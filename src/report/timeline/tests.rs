use super::super::event::{Answer, ImageChange, InitialInstance};
use super::*;
use crate::report::probes::{ProbeOutcome, ProbeReport, WitnessSummary};

fn names(names: &str) -> Vec<String> {
    names.split_whitespace().map(String::from).collect()
}

/// One event each second.
fn records(events: Vec<Event>) -> Vec<EventRecord> {
    let record = |(event, n)| EventRecord::now(Duration::from_secs(n), event);
    events.into_iter().zip(0..).map(record).collect()
}

fn deploy() -> Vec<Event> {
    let instance =
        |name: &str| InitialInstance { name: name.into(), new: false, running: true, in_rotation: true };
    vec![
        Event::Deploying { target: "app".into(), proxies: names("lb"), instances: vec![instance("app-1")] },
        Event::Created(names("app-2").into()),
        Event::Started(names("app-2").into()),
        Event::Ready(Answer { name: "app-2".into(), answer: "200".into() }),
        Event::Routed { in_rotation: names("app-2"), out_of_rotation: names("app-1") },
        Event::Stopped(names("app-1").into()),
        Event::Removed(names("app-1").into()),
        Event::Deployed {
            target: "app".into(),
            serving: names("app-2"),
            release: 2,
            restored_release: None,
            in_service: Duration::from_secs(4),
            seconds: Duration::from_secs(7),
        },
    ]
}

#[test]
fn new_instances_are_above_old_ones() {
    let timeline = Timeline::from_records(&records(deploy()));
    let names: Vec<&str> = timeline.tracks.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["app-2", "app-1"]);
    assert_eq!(timeline.markers, [Marker { at: Duration::from_secs(4), label: "switch" }]);
    assert!(!timeline.failed);
}

#[test]
fn a_bar_lasts_from_one_phase_to_the_next() {
    let timeline = Timeline::from_records(&records(deploy()));
    let bars = |n: usize| {
        let all = spans(&timeline.tracks[n], timeline.end);
        let text = |(from, to, phase): &(Duration, Duration, InstancePhase)| {
            format!("{} {}-{}", phase, from.as_secs(), to.as_secs())
        };
        all.iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(bars(0), ["created 1-2", "starting 2-3", "ready 3-4", "in rotation 4-7"]);
    assert_eq!(bars(1), ["in rotation 0-4", "draining 4-5", "stopped 5-6", "removed 6-7"]);
}

#[test]
fn the_page_names_project_images_user_and_day() {
    let images = vec![ImageChange::new("app", [("shop:42".into(), "a".into())], ("shop:43", "b"))];
    let begin = Event::Images { project: "shop".into(), by: "ann@build".into(), images };
    let timeline = Timeline::from_records(&records([vec![begin], deploy()].concat()));
    assert_eq!(
        (timeline.title.as_str(), &timeline.images[..]),
        ("shop / app", &["`app`: shop:42 → shop:43".to_string()][..])
    );
    assert_eq!(timeline.by, "ann@build");
    assert_eq!(day_and_time("2026-11-03T07:05:09.123Z"), "3 November 2026, 07:05 UTC");
    assert_eq!(day_and_time("soon"), "soon");
}

#[test]
fn the_chart_begins_with_the_rollout() {
    let mut events = vec![Event::Building(names("app").into()), Event::Building(names("app").into())];
    events.extend(deploy());
    let timeline = Timeline::from_records(&records(events));
    assert_eq!((timeline.preparation.as_secs(), timeline.end.as_secs()), (2, 7));
    assert_eq!(timeline.markers, [Marker { at: Duration::from_secs(4), label: "switch" }]);
}

#[test]
fn images_of_one_name_differ_by_their_ids() {
    let change =
        |to_id| ImageChange::new("app", [("shop".into(), "sha256:0123456789abcdef".into())], ("shop", to_id));
    assert_eq!(
        change("sha256:fedcba9876543210").to_string(),
        "`app`: shop (0123456789ab) → shop (fedcba987654)"
    );
    assert_eq!(change("sha256:0123456789abcdef").to_string(), "`app`: shop");
    assert_eq!(ImageChange::new("app", [], ("shop", "")).to_string(), "`app`: shop");
}

#[test]
fn the_page_has_no_external_resources_and_no_scripts() {
    let page = page(&records(deploy()));
    for bad in ["<script", "http://", "https://", "@import", "url(", " src=", "<link", "onload"] {
        assert!(!page.contains(bad), "{bad}");
    }
    assert!(page.contains("in rotation 4.00–7.00 s"), "{page}");
    assert_eq!(page.matches("<i class=\"in-rotation\" style=").count(), 2, "two bars");
}

#[test]
fn foreign_text_is_escaped() {
    let mut events = deploy();
    events.push(Event::Warning { kind: "loss".into(), message: "<script>alert(1)</script>\u{202e}".into() });
    events.push(Event::Deploying {
        target: "\"><img src=x onerror=alert(1)>".into(),
        proxies: Vec::new(),
        instances: vec![InitialInstance { name: "<b>".into(), new: false, running: true, in_rotation: true }],
    });
    let page = page(&records(events));
    assert!(!page.contains("<script>") && !page.contains("<img") && !page.contains("<b>"), "{page}");
    assert!(!page.contains('\u{202e}'));
}

#[test]
fn a_failure_is_shown_as_the_result() {
    let mut events = deploy();
    events.pop();
    events.push(Event::RollingBack);
    events.push(Event::Error {
        exit: 3,
        message: "`app`: no".into(),
        details: vec!["last lines of app-2:".into(), "  <no> database".into()],
        hint: Some("see".into()),
    });
    let page = page(&records(events.clone()));
    assert!(
        page.contains("<pre>last lines of app-2:\n  &#60;no&#62; database</pre>")
            && page.contains("hint: see"),
        "{page}"
    );
    assert!(page.contains("<p class=\"failed\"><code>app</code>: no</p>"), "{page}");
    let timeline = Timeline::from_records(&records(events));
    assert!(timeline.failed);
    assert_eq!(timeline.results, ["`app`: no"]);
    assert_eq!(timeline.markers.last().map(|m| m.label), Some("rollback"));
}

#[test]
fn a_release_that_lost_requests_is_not_shown_as_good() {
    let result = |events: Vec<Event>| {
        let page = page(&records(events));
        let line = page.lines().find(|line| line.contains("is deployed as release 2")).unwrap();
        line.split('"').nth(1).unwrap().to_string()
    };
    let witness = |lost| {
        let summary = WitnessSummary { sent: 58, lost, ..WitnessSummary::default() };
        Event::Witness(Box::new(ProbeReport {
            url: "http://a/".into(),
            summary,
            switch: None,
            samples: Vec::new(),
        }))
    };
    let with = |event| deploy().into_iter().chain([event]).collect::<Vec<_>>();
    assert_eq!(result(with(witness(0))), "good");
    assert_eq!(result(with(witness(3))), "lossy");
    let cut = Event::Warning { kind: "drain_timeout".into(), message: "cut".into() };
    assert_eq!(result(with(cut)), "lossy");
}

#[test]
fn a_swarm_task_that_exited_is_not_in_rotation_until_the_next_one_runs() {
    let runs = |running| Event::TaskRunning { name: "vote.1".into(), node: "n".into(), running, desired: 2 };
    let timeline = Timeline::from_records(&records(vec![
        runs(1),
        Event::Exited(names("vote.1 vote.9").into()),
        runs(1),
        runs(1),
    ]));
    assert_eq!(timeline.tracks.len(), 1);
    let phases: Vec<_> = timeline.tracks[0].phases.iter().map(|(at, phase)| (at.as_secs(), *phase)).collect();
    assert_eq!(
        phases,
        [(0, InstancePhase::InRotation), (1, InstancePhase::Failed), (2, InstancePhase::InRotation)]
    );
}

#[test]
fn a_run_without_a_deploy_has_a_page() {
    assert!(page(&[]).contains("nothing was deployed"));
}

#[test]
fn a_lost_request_is_a_cross_and_an_answered_one_a_dot() {
    let mut timeline = Timeline::from_records(&records(deploy()));
    let sample = |at, outcome, lost| Sample {
        at: Duration::from_secs(at),
        took: Duration::from_millis(20),
        outcome,
        lost,
        version: None,
    };
    let answer = ProbeOutcome::Status(200);
    timeline.samples =
        vec![sample(1, answer, false), sample(2, answer, false), sample(3, ProbeOutcome::Status(503), true)];
    let drawn = chart::draw(&timeline);
    assert_eq!((drawn.matches("class=\"dot\"").count(), drawn.matches("class=\"lost\"").count()), (2, 1));
    assert!(drawn.contains("lost at 3 s: 503"));
}
