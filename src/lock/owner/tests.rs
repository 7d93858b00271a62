use super::*;

const STAT: &str = "42 (a )b( c) S 1 42 42 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 1 0 777 1 2 3";

fn process(pid: u32) -> ProcessId {
    ProcessId { pid, started: "777".into(), boot: "b".into(), namespace: "n".into() }
}

fn stat(pid: u32) -> Option<String> {
    (pid == 42).then(|| STAT.to_string())
}

#[test]
fn a_process_lives_as_long_as_its_number_is_its_own() {
    assert_eq!(process(42).life(&process(1), stat, nothing), Liveness::Lives);
    assert_eq!(process(43).life(&process(1), stat, nothing), Liveness::Dead);
    let earlier = ProcessId { started: "776".into(), ..process(42) };
    assert_eq!(earlier.life(&process(1), stat, nothing), Liveness::Dead);
}

fn nothing(_: u32) -> bool {
    false
}

#[test]
fn a_process_that_is_hidden_is_not_taken_for_dead() {
    let hidden = |_| None;
    assert_eq!(process(42).life(&process(1), hidden, |_| true), Liveness::Elsewhere);
    assert_eq!(process(42).life(&process(1), hidden, nothing), Liveness::Dead);
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    assert!(exists(child.id()) && exists(std::process::id()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!exists(child.id()) && !exists(0));
}

#[test]
fn a_zombie_is_dead() {
    let zombie = |_| Some(STAT.replace(") S", ") Z"));
    assert_eq!(process(42).life(&process(1), zombie, |_| true), Liveness::Dead);
}

#[test]
fn a_process_of_another_namespace_or_machine_cannot_be_seen() {
    let elsewhere = ProcessId { namespace: "m".into(), ..process(42) };
    assert_eq!(elsewhere.life(&process(1), stat, nothing), Liveness::Elsewhere);
    let other = ProcessId { boot: "c".into(), ..process(43) };
    assert_eq!(other.life(&process(1), stat, nothing), Liveness::Elsewhere);
    assert_eq!(ProcessId::default().life(&ProcessId::default(), stat, nothing), Liveness::Elsewhere);
}

#[test]
fn a_command_of_a_run_is_known_by_its_mark() {
    let run = ProcessId { pid: 1, started: "no other test's".into(), ..ProcessId::default() };
    assert!(!run.has_orphans());
    let mut child = std::process::Command::new("sleep").arg("60").env(RUN, run.mark()).spawn().unwrap();
    // Between fork and exec it has the environment of this process.
    while !run.has_orphans() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!run.has_orphans());
}

#[test]
fn this_process_lives() {
    assert_eq!(LockOwner::this("deploy", "me@here".into()).life(), Liveness::Lives);
}

#[test]
fn a_holder_is_read_as_it_was_written() {
    let holder = LockOwner::this("deploy a\"b\n", "me@here".into());
    assert_eq!(LockOwner::read(&holder.text()), holder);
    assert_eq!(LockOwner::read("what is this").to_string(), "`something else` by somebody");
}

#[test]
fn an_age_is_told_whatever_zone_the_clock_is_in() {
    let seconds = |a: &str, b: &str| age(a, b).map(|d| d.as_secs());
    assert_eq!(seconds("2026-01-02T03:04:05Z", "2026-01-02T03:05:05.123456789Z"), Some(60));
    assert_eq!(seconds("2026-01-02T04:04:05+01:00", "2026-01-02T03:04:35Z"), Some(30));
    assert_eq!(seconds("2026-01-01T21:34:05-05:30", "2026-01-02T03:04:06Z"), Some(1));
    assert_eq!(seconds("2026-01-02T03:04:05Z", "2026-01-02T03:04:00Z"), Some(0));
    assert_eq!(seconds("yesterday", "2026-01-02T03:04:00Z"), None);
    assert_eq!(seconds("ä", "2026-01-02T03:04:00Z"), None);
}
