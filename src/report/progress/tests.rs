use super::super::event::InitialInstance;
use super::*;

fn names(names: &str) -> Vec<String> {
    names.split_whitespace().map(String::from).collect()
}

fn found(name: &str) -> InitialInstance {
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

/// One new instance beside an old one, a second an event.
fn board(events: &[Event]) -> Progress {
    let mut board = Progress::default();
    let proxies = names("lb");
    board.apply(
        Duration::ZERO,
        &Event::Deploying { target: "app".into(), proxies, instances: vec![found("app-1")] },
    );
    for (event, second) in events.iter().zip(1..) {
        board.apply(Duration::from_secs(second), event);
    }
    board
}

fn halfway() -> Progress {
    board(&[
        Event::Created { names: names("app-2") },
        Event::Started { names: names("app-2") },
        Event::Ready { name: "app-2".into(), answer: String::new() },
        step(5, "route"),
    ])
}

fn text(board: &Progress, width: usize, height: usize) -> Vec<String> {
    board.lines(Duration::from_millis(5500), width, height).into_iter().map(|(_, text)| text).collect()
}

#[test]
fn a_wide_terminal_shows_the_whole_and_each_instance() {
    assert_eq!(
        text(&halfway(), 80, 20),
        [
            "deploying app  [=====>    ]  5 of 8: switching the proxy  5.5s",
            "1/1 app-2  ready → in rotation     [=======>  ]  2.5s",
            "1/1 app-1  in rotation",
        ]
    );
}

#[test]
fn a_narrow_terminal_shows_the_same_without_bars() {
    assert_eq!(
        text(&halfway(), 40, 20),
        ["5/8 switching the proxy  5.5s", "1/1 app-2  ready → in rotation  2.5s", "1/1 app-1  in rotation",]
    );
    assert_eq!(
        text(&halfway(), 20, 20),
        ["5/8 switching the p…", "1/1 app-2  ready  2…", "1/1 app-1  in rotat…"]
    );
}

#[test]
fn no_line_is_wider_and_there_are_no_more_than_fit() {
    for width in 1..100 {
        for height in 1..8 {
            let lines = text(&halfway(), width, height);
            assert!(lines.len() <= height, "{height}: {lines:?}");
            assert!(lines.iter().all(|l| l.chars().count() <= width), "{width}: {lines:?}");
        }
    }
}

#[test]
fn where_there_is_no_room_those_at_work_come_first() {
    let mut board = Progress::default();
    let instances = (1..=20).map(|n| found(&format!("app-{n}"))).collect();
    board.apply(Duration::ZERO, &Event::Deploying { target: "app".into(), proxies: names("lb"), instances });
    board.apply(Duration::ZERO, &Event::Draining { names: names("app-19") });
    let lines = text(&board, 80, 4);
    assert!(lines[1].starts_with("19/20 app-19  draining → stopped"), "{lines:?}");
    assert!(lines[2].starts_with(" 1/20 app-1 "), "{lines:?}");
    assert_eq!(lines[3], "… and 18 more: 18 in rotation");
}

#[test]
fn the_way_back_is_shown_as_such() {
    let mut board = halfway();
    board.apply(Duration::from_secs(5), &Event::RollingBack);
    let lines = board.lines(Duration::from_secs(5), 80, 20);
    assert_eq!(lines[0].0, LineStyle::Back);
    assert!(lines[0].1.starts_with("going back app"), "{lines:?}");
}

#[test]
fn a_lost_request_of_the_witness_is_seen() {
    let mut board = halfway();
    board.witnessed(58, 0);
    assert_eq!(
        board.lines(Duration::ZERO, 80, 20).pop(),
        Some((LineStyle::Good, "witness: 58 sent, 0 lost".into()))
    );
    board.witnessed(60, 1);
    assert_eq!(
        board.lines(Duration::ZERO, 80, 20).pop(),
        Some((LineStyle::Bad, "witness: 60 sent, 1 lost".into()))
    );
}

#[test]
fn a_swarm_shows_how_many_tasks_of_each_service_run() {
    let mut board = Progress::default();
    board.apply(Duration::ZERO, &Event::DeployingStack { stack: "demo".into(), services: names("vote") });
    board.apply(
        Duration::ZERO,
        &Event::TaskRunning { name: "vote.1".into(), node: "n1".into(), running: 1, desired: 2 },
    );
    assert_eq!(text(&board, 80, 20), ["deploying demo  5.5s", "1/2 vote  [=====>    ]"]);
}
