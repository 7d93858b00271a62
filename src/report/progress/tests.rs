use super::super::event::{Answer, InitialInstance};
use super::*;

fn names(names: &str) -> Vec<String> {
    names.split_whitespace().map(String::from).collect()
}

fn instance(name: &str) -> InitialInstance {
    InitialInstance { name: name.into(), new: false, running: true, in_rotation: true }
}

fn step(number: usize, verb: &str) -> Event {
    let (target, names) = ("app".into(), Vec::new());
    let verb = verb.into();
    Event::Step(StepEvent {
        target,
        number,
        steps: 8,
        batch: 1,
        batches: 1,
        verb,
        names,
        rolling_back: false,
    })
}

/// Display of a deploy that replaces `app-1`, with one event each second.
fn progress(events: &[Event]) -> Progress {
    let mut progress = Progress::default();
    let proxies = names("lb");
    progress.apply(
        Duration::ZERO,
        &Event::Deploying { target: "app".into(), proxies, instances: vec![instance("app-1")] },
    );
    for (event, second) in events.iter().zip(1..) {
        progress.apply(Duration::from_secs(second), event);
    }
    progress
}

fn halfway() -> Progress {
    progress(&[
        Event::Created(names("app-2").into()),
        Event::Started(names("app-2").into()),
        Event::Ready(Answer { name: "app-2".into(), answer: String::new() }),
        step(5, "route"),
    ])
}

fn text(progress: &Progress, width: usize, height: usize) -> Vec<String> {
    progress.lines(Duration::from_millis(5500), width, height).into_iter().map(|(_, text)| text).collect()
}

#[test]
fn a_wide_terminal_shows_the_deploy_and_each_instance() {
    assert_eq!(
        text(&halfway(), 80, 20),
        [
            "deploying app  [=====>    ]  5 of 8: switching the proxy  5.5s",
            "new 1/1 app-2  ready → in rotation     [=======>  ]  2.5s",
            "old 1/1 app-1  in rotation",
        ]
    );
}

#[test]
fn an_instance_that_is_not_ready_has_its_last_answer_below() {
    let answer = |answer: &str| Event::NotReady(Answer { name: "app-2".into(), answer: answer.into() });
    let created = Event::Created(names("app-2").into());
    let waiting =
        progress(&[created, Event::Started(names("app-2").into()), answer("refused"), answer("→ 503")]);
    assert_eq!(text(&waiting, 80, 20)[3..], ["  app-2: → 503"]);
    assert_eq!(text(&waiting, 80, 3).len(), 3);
    let mut ready = waiting.clone();
    ready.apply(Duration::ZERO, &Event::Ready(Answer { name: "app-2".into(), answer: String::new() }));
    assert_eq!(text(&ready, 80, 20).len(), 3);
}

#[test]
fn before_the_first_target_the_display_shows_that_the_run_has_begun() {
    let preparing = Progress { is_preparing: true, ..Progress::default() };
    assert_eq!(text(&preparing, 80, 20), ["reading the project  5.5s"]);
}

#[test]
fn a_narrow_terminal_shows_the_same_without_bars() {
    assert_eq!(
        text(&halfway(), 40, 20),
        [
            "5/8 switching the proxy  5.5s",
            "new 1/1 app-2  ready → in rotation  2.5s",
            "old 1/1 app-1  in rotation",
        ]
    );
    assert_eq!(
        text(&halfway(), 20, 20),
        ["5/8 switching the p…", "new 1/1 app-2  read…", "old 1/1 app-1  in r…"]
    );
}

#[test]
fn the_lines_fit_the_terminal() {
    for width in 1..100 {
        for height in 1..8 {
            let lines = text(&halfway(), width, height);
            assert!(lines.len() <= height, "{height}: {lines:?}");
            assert!(lines.iter().all(|l| l.chars().count() <= width), "{width}: {lines:?}");
        }
    }
}

#[test]
fn active_instances_come_first_if_not_all_fit() {
    let mut progress = Progress::default();
    let instances = (1..=20).map(|n| instance(&format!("app-{n}"))).collect();
    progress
        .apply(Duration::ZERO, &Event::Deploying { target: "app".into(), proxies: names("lb"), instances });
    progress.apply(Duration::ZERO, &Event::Draining(names("app-19").into()));
    let lines = text(&progress, 80, 4);
    assert!(lines[1].starts_with("old 19/20 app-19  draining → stopped"), "{lines:?}");
    assert!(lines[2].starts_with("old  1/20 app-1 "), "{lines:?}");
    assert_eq!(lines[3], "… and 18 more: 18 in rotation");
}

#[test]
fn a_rollback_is_shown_as_one() {
    let mut progress = halfway();
    progress.apply(Duration::from_secs(5), &Event::RollingBack);
    let lines = progress.lines(Duration::from_secs(5), 80, 20);
    assert_eq!(lines[0].0, plain().yellow());
    assert!(lines[0].1.starts_with("rolling back app"), "{lines:?}");
}

#[test]
fn a_lost_request_of_the_witness_is_shown() {
    let mut progress = halfway();
    progress.witness = Some(LossCount { sent: 58, lost: 0 });
    assert_eq!(
        progress.lines(Duration::ZERO, 80, 20).pop(),
        Some((plain().green(), "witness: 58 sent, 0 lost".into()))
    );
    progress.witness = Some(LossCount { sent: 60, lost: 1 });
    assert_eq!(
        progress.lines(Duration::ZERO, 80, 20).pop(),
        Some((plain().red(), "witness: 60 sent, 1 lost".into()))
    );
}

#[test]
fn a_swarm_shows_how_many_tasks_of_each_service_run() {
    let mut progress = Progress::default();
    progress.apply(Duration::ZERO, &Event::DeployingStack { stack: "demo".into(), services: names("vote") });
    progress.apply(
        Duration::ZERO,
        &Event::TaskRunning { name: "vote.1".into(), node: "n1".into(), running: 1, desired: 2 },
    );
    assert_eq!(text(&progress, 80, 20), ["deploying demo  5.5s", "1/2 vote  [=====>    ]"]);
}
