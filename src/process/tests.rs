use std::io::Write;
use std::sync::Mutex;

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
    assert_eq!(process(42).liveness_seen_by(&process(1), stat, never), Liveness::Alive);
    assert_eq!(process(43).liveness_seen_by(&process(1), stat, never), Liveness::Dead);
    let earlier = ProcessId { started: "776".into(), ..process(42) };
    assert_eq!(earlier.liveness_seen_by(&process(1), stat, never), Liveness::Dead);
}

fn never(_: u32) -> bool {
    false
}

#[test]
fn a_hidden_process_is_not_taken_for_dead() {
    let hidden = |_| None;
    assert_eq!(process(42).liveness_seen_by(&process(1), hidden, |_| true), Liveness::NotVisible);
    assert_eq!(process(42).liveness_seen_by(&process(1), hidden, never), Liveness::Dead);
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    assert!(process_exists(child.id()) && process_exists(std::process::id()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!process_exists(child.id()) && !process_exists(0));
}

#[test]
fn a_zombie_is_dead() {
    let zombie = |_| Some(STAT.replace(") S", ") Z"));
    assert_eq!(process(42).liveness_seen_by(&process(1), zombie, |_| true), Liveness::Dead);
}

#[test]
fn a_process_of_another_namespace_or_machine_is_not_visible() {
    let elsewhere = ProcessId { namespace: "m".into(), ..process(42) };
    assert_eq!(elsewhere.liveness_seen_by(&process(1), stat, never), Liveness::NotVisible);
    let other = ProcessId { boot: "c".into(), ..process(43) };
    assert_eq!(other.liveness_seen_by(&process(1), stat, never), Liveness::NotVisible);
    assert_eq!(
        ProcessId::default().liveness_seen_by(&ProcessId::default(), stat, never),
        Liveness::NotVisible
    );
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
    assert_eq!(ProcessId::current().liveness(), Liveness::Alive);
}

#[test]
fn a_program_runs_in_its_folder_with_only_the_given_variables() {
    let script = "echo $PWD $ONE ${PATH-none}; exit 3";
    let environment = [("ONE", Some("1".into())), ("PATH", None)];
    let result = run_program(&["/bin/sh", "-c", script], Path::new("/"), &environment).unwrap();
    assert_eq!(
        (result.code, result.stdout.split(' ').take(2).collect::<Vec<_>>()),
        (Some(3), vec!["/", "1"])
    );
    assert!(run_program(&["no-such-program"], Path::new("/"), &[]).is_err());
}

#[test]
fn a_command_is_limited_in_time_and_output() {
    let run = |script: &str, limit| {
        let (command, start) = (Command::new(&["sh", "-c", script].map(String::from)), Instant::now());
        command.output(64 << 10, || (start.elapsed() >= Duration::from_millis(limit)).then_some(())).unwrap()
    };
    let endless = run("yes; echo end", 60_000).unwrap();
    assert_eq!(endless.stdout.len(), 64 << 10);
    let both = run("yes >&2; echo end", 60_000).unwrap();
    assert_eq!((both.stdout.as_str(), both.stderr.len()), ("end\n", 64 << 10));
    assert_eq!(run("echo a; sleep 60", 200), Err(()));
    let left_behind = run("sleep 60 & echo a; exit 3", 60_000).unwrap();
    assert_eq!((left_behind.code, left_behind.stdout.as_str()), (Some(3), "a\n"));
}

fn lines(bytes: &[u8]) -> Vec<String> {
    let received: Arc<Mutex<Vec<String>>> = Arc::default();
    let (reader, mut writer) = io::pipe().unwrap();
    let sink = Arc::clone(&received);
    let closed = forward_lines(reader, Arc::new(move |line| sink.lock().unwrap().push(line.into())));
    writer.write_all(bytes).unwrap();
    drop(writer);
    assert!(closed.recv().is_err(), "it ends with the pipe");
    received.lock().unwrap().clone()
}

#[test]
fn output_is_forwarded_line_by_line_and_a_long_line_is_split() {
    assert_eq!(lines(b"one\r\ntwo\n\nlast"), ["one", "two", "", "last"]);
    let long = vec![b'x'; MAX_LINE as usize + 1];
    assert_eq!(lines(&long).iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE as usize, 1]);
}
