use super::super::event::InitialInstance;
use super::*;
use crate::witness::{ProbeReport, WitnessSummary};

fn names(names: &str) -> Vec<String> {
    names.split_whitespace().map(String::from).collect()
}

/// A second an event.
fn entries(events: Vec<Event>) -> Vec<EventRecord> {
    let entry = |(event, n)| EventRecord::now(Duration::from_secs(n), event);
    events.into_iter().zip(0..).map(entry).collect()
}

fn deploy() -> Vec<Event> {
    let found =
        |name: &str| InitialInstance { name: name.into(), new: false, running: true, in_rotation: true };
    vec![
        Event::Deploying { target: "app".into(), proxies: names("lb"), instances: vec![found("app-1")] },
        Event::Created { names: names("app-2") },
        Event::Started { names: names("app-2") },
        Event::Ready { name: "app-2".into(), answer: "200".into() },
        Event::Routed { in_rotation: names("app-2"), out_of_rotation: names("app-1") },
        Event::Stopped { names: names("app-1") },
        Event::Removed { names: names("app-1") },
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
fn new_instances_stand_above_those_that_go() {
    let timeline = Timeline::of(&entries(deploy()));
    let names: Vec<&str> = timeline.tracks.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["app-2", "app-1"]);
    assert_eq!(timeline.marks, [Marker { at: Duration::from_secs(4), what: "switch" }]);
    assert!(!timeline.failed);
}

#[test]
fn a_bar_lasts_from_one_phase_to_the_next() {
    let timeline = Timeline::of(&entries(deploy()));
    let of = |n: usize| {
        let all = spans(&timeline.tracks[n], timeline.end);
        let text = |(from, to, phase): &(Duration, Duration, InstancePhase)| {
            format!("{} {}-{}", phase.words(), from.as_secs(), to.as_secs())
        };
        all.iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(of(0), ["created 1-2", "starting 2-3", "ready 3-4", "in rotation 4-7"]);
    assert_eq!(of(1), ["in rotation 0-4", "draining 4-5", "stopped 5-6", "removed 6-7"]);
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_runs_nothing() {
    let page = page(&entries(deploy()));
    for bad in ["<script", "http://", "https://", "@import", "url(", " src=", "<link", "onload"] {
        assert!(!page.contains(bad), "{bad}");
    }
    assert!(page.contains("in rotation 4.00–7.00 s"), "{page}");
    assert_eq!(page.matches("<svg").count(), 2);
    assert_eq!(page.matches("<rect class=\"inside\"").count(), 4, "two bars, drawn twice");
}

#[test]
fn what_others_wrote_is_text() {
    let mut events = deploy();
    events.push(Event::Warning { kind: "loss".into(), message: "<script>alert(1)</script>\u{202e}".into() });
    events.push(Event::Deploying {
        target: "\"><img src=x onerror=alert(1)>".into(),
        proxies: Vec::new(),
        instances: vec![InitialInstance { name: "<b>".into(), new: false, running: true, in_rotation: true }],
    });
    let page = page(&entries(events));
    assert!(!page.contains("<script>") && !page.contains("<img") && !page.contains("<b>"), "{page}");
    assert!(!page.contains('\u{202e}'));
}

#[test]
fn a_failure_is_the_result() {
    let mut events = deploy();
    events.pop();
    events.push(Event::RollingBack);
    events.push(Event::Error { exit: 3, message: "`app`: no".into(), details: Vec::new(), hint: None });
    let timeline = Timeline::of(&entries(events));
    assert!(timeline.failed);
    assert_eq!(timeline.results, ["`app`: no"]);
    assert_eq!(timeline.marks.last().map(|m| m.what), Some("going back"));
}

#[test]
fn a_release_that_lost_requests_is_not_shown_as_good() {
    let result = |events: Vec<Event>| {
        let page = page(&entries(events));
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
fn a_task_of_a_swarm_that_died_is_not_in_rotation_until_the_next_one_runs() {
    let runs = |current| Event::TaskRunning {
        name: "vote.1".into(),
        node: "n".into(),
        running: current,
        desired: 2,
    };
    let timeline = Timeline::of(&entries(vec![
        runs(1),
        Event::Exited { names: names("vote.1 vote.9") },
        runs(1),
        runs(1),
    ]));
    assert_eq!(timeline.tracks.len(), 1);
    let phases: Vec<_> = timeline.tracks[0].spans.iter().map(|(at, phase)| (at.as_secs(), *phase)).collect();
    assert_eq!(
        phases,
        [(0, InstancePhase::InRotation), (1, InstancePhase::Failed), (2, InstancePhase::InRotation)]
    );
}

#[test]
fn a_run_that_deployed_nothing_has_a_page_all_the_same() {
    assert!(page(&[]).contains("nothing was deployed"));
}

#[test]
fn a_lost_request_is_a_cross_and_an_answered_one_a_dot() {
    let mut timeline = Timeline::of(&entries(deploy()));
    let dot = |at, lost: Option<&str>| SampleDot {
        at: Duration::from_secs(at),
        took: Duration::from_millis(20),
        lost: lost.map(String::from),
    };
    timeline.dots = vec![dot(1, None), dot(2, None), dot(3, Some("503"))];
    let drawn = svg::draw(&timeline, svg::DESK, "desk");
    assert_eq!((drawn.matches("class=\"dot\"").count(), drawn.matches("class=\"lost\"").count()), (2, 1));
    assert!(drawn.contains("lost at 3 s: 503"));
}
