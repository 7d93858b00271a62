use std::process::Command;

use super::*;

fn service() -> PinnedService {
    let names = ["app", "web.internal"].map(String::from).into();
    PinnedService { project: "p".into(), service: "app.x".into(), names }
}

#[test]
fn a_pin_of_another_service_is_not_read() {
    let lines = ["10.0.0.1 app # compose-zd p/app.x2", "10.0.0.2 app # compose-zd p/app", "10.0.0.3 app"];
    assert_eq!(Pins::parse(lines.into_iter(), &service()), None);
    let own = ["# since 7 was 10.0.0.1,::1 # compose-zd p/app.x", "10.0.0.4 app # compose-zd p/app.x"];
    let expected = Pins {
        since: 7,
        was: ["10.0.0.1", "::1"].map(|a| a.parse().unwrap()).into(),
        now: ["10.0.0.4".parse().unwrap()].into(),
        is_reloaded: false,
    };
    assert_eq!(Pins::parse(own.into_iter().chain(lines), &service()), Some(expected.clone()));
    let mark = ["# reloaded # compose-zd p/app.x"];
    let reloaded = Pins { is_reloaded: true, ..expected };
    assert_eq!(Pins::parse(own.into_iter().chain(mark), &service()), Some(reloaded));
}

#[test]
fn processes_that_started_after_the_change_have_the_pins() {
    let pins = |since| Pins { since, ..Pins::default() };
    let table = [
        (0, &[5, 6][..], Loaded::Now),
        (9, &[5, 9], Loaded::Before),
        (9, &[5, 10], Loaded::Mixed),
        (9, &[10, 11], Loaded::Now),
        (9, &[], Loaded::Before),
    ];
    for (since, started, expected) in table {
        assert_eq!(pins(since).loaded(started), expected, "{since} {started:?}");
    }
}

#[test]
fn the_scripts_are_valid() {
    let addresses = ["10.0.0.4".parse().unwrap()].into();
    for script in [
        watcher_script(&service(), "is_loaded() { true; }"),
        pin_script(&service(), &addresses, &addresses, true),
        unpin_script(&service()),
    ] {
        let checked = Command::new("sh").args(["-n", "-c", &script]).output().expect("a shell");
        assert!(checked.status.success(), "{script}{}", String::from_utf8_lossy(&checked.stderr));
    }
}
