use super::*;

const STAT: &str = "42 (a )b( c) S 1 42 42 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 1 0 777 1 2 3";

fn process(pid: u32) -> ProcessId {
    ProcessId { pid, started: "777".into(), boot: "b".into(), namespace: "n".into() }
}

fn stat(pid: u32) -> Option<String> {
    (pid == 42).then(|| STAT.to_string())
}

#[test]
fn a_process_is_alive_while_its_number_and_start_match() {
    assert_eq!(process(42).liveness(&process(1), stat, never), Liveness::Alive);
    assert_eq!(process(43).liveness(&process(1), stat, never), Liveness::Dead);
    let earlier = ProcessId { started: "776".into(), ..process(42) };
    assert_eq!(earlier.liveness(&process(1), stat, never), Liveness::Dead);
}

fn never(_: u32) -> bool {
    false
}

#[test]
fn a_hidden_process_is_not_taken_for_dead() {
    let hidden = |_| None;
    assert_eq!(process(42).liveness(&process(1), hidden, |_| true), Liveness::NotVisible);
    assert_eq!(process(42).liveness(&process(1), hidden, never), Liveness::Dead);
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    assert!(process_exists(child.id()) && process_exists(std::process::id()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!process_exists(child.id()) && !process_exists(0));
}

#[test]
fn a_zombie_is_dead() {
    let zombie = |_| Some(STAT.replace(") S", ") Z"));
    assert_eq!(process(42).liveness(&process(1), zombie, |_| true), Liveness::Dead);
}

#[test]
fn a_process_of_another_namespace_or_machine_is_not_visible() {
    let elsewhere = ProcessId { namespace: "m".into(), ..process(42) };
    assert_eq!(elsewhere.liveness(&process(1), stat, never), Liveness::NotVisible);
    let other = ProcessId { boot: "c".into(), ..process(43) };
    assert_eq!(other.liveness(&process(1), stat, never), Liveness::NotVisible);
    assert_eq!(ProcessId::default().liveness(&ProcessId::default(), stat, never), Liveness::NotVisible);
}

#[test]
fn a_command_of_a_run_is_found_by_its_mark() {
    let run = ProcessId { pid: 1, started: "no other test's".into(), ..ProcessId::default() };
    assert!(!run.has_orphans());
    let mut child =
        std::process::Command::new("sleep").arg("60").env(RUN_VARIABLE, run.run_mark()).spawn().unwrap();
    // Between fork and exec the child has the environment of this process.
    while !run.has_orphans() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!run.has_orphans());
}

#[test]
fn this_process_is_alive() {
    assert_eq!(LockOwner::current("deploy", "me@here".into()).liveness(), Liveness::Alive);
}

#[test]
fn an_owner_is_read_as_it_was_written() {
    let owner = LockOwner::current("deploy a\"b\n", "me@here".into());
    assert_eq!(LockOwner::parse(&owner.to_json()), owner);
    assert_eq!(LockOwner::parse("what is this").to_string(), "`another program` by an unknown user");
}

#[test]
fn an_age_is_right_in_every_time_zone() {
    let seconds = |a: &str, b: &str| age(a, b).map(|d| d.as_secs());
    assert_eq!(seconds("2026-01-02T03:04:05Z", "2026-01-02T03:05:05.123456789Z"), Some(60));
    assert_eq!(seconds("2026-01-02T04:04:05+01:00", "2026-01-02T03:04:35Z"), Some(30));
    assert_eq!(seconds("2026-01-01T21:34:05-05:30", "2026-01-02T03:04:06Z"), Some(1));
    assert_eq!(seconds("2026-01-02T03:04:05Z", "2026-01-02T03:04:00Z"), Some(0));
    assert_eq!(seconds("yesterday", "2026-01-02T03:04:00Z"), None);
    assert_eq!(seconds("ä", "2026-01-02T03:04:00Z"), None);
}
