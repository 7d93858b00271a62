//! The witness with a URL given by the user, and its effect on the exit code.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// URL of a server that gives this many good answers, and then bad ones.
fn server_failing_after(good: usize) -> String {
    server_failing_at(good..usize::MAX)
}

/// URL of a server that gives one good answer, then a few bad ones, then good ones.
fn server_failing_briefly() -> String {
    server_failing_at(1..15)
}

/// URL of a server whose answers with these numbers are bad.
fn server_failing_at(bad: std::ops::Range<usize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let count = AtomicUsize::new(0);
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let is_bad = bad.contains(&count.fetch_add(1, Ordering::Relaxed));
            let status = if is_bad { "502 No" } else { "200 OK" };
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    url
}

/// URL of a closed port.
fn closed_port_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/", listener.local_addr().unwrap())
}

#[test]
fn lost_requests_are_a_warning_and_an_error_with_strict() {
    let url = server_failing_briefly();
    let fake = FakeDocker::new();
    let run = fake.run(&format!("deploy app --witness-rate 100 --witness-url {url}")).success();
    says(&run, &[&format!("witness {url}: "), "warning: the witness lost ", "(502 ×"]);
    let url = server_failing_briefly();
    let fake = FakeDocker::new();
    let run = fake.run(&format!("deploy app --strict --witness-rate 100 --witness-url {url}")).code(6);
    says(&run, &["error: release 1 serves, but the witness lost ", "hint: "]);
    assert!(fake.changes().ends_with("start new\nstop old\nrm old\n"), "{}", fake.changes());
}

#[test]
fn a_public_url_that_stops_answering_fails_the_deploy() {
    let fake = FakeDocker::new();
    let url = server_failing_after(1);
    let run = fake.run(&format!("deploy app --witness-rate 100 --witness-url {url}")).code(4);
    says(&run, &["has given no good answer for 3.", "→ 502", "hint: act now"]);
    assert!(fake.changes().ends_with("stop old\nstart old\nstop new\nrm new\n"), "{}", fake.changes());
}

fn stdout_of(fake: &FakeDocker, words: &str) -> String {
    String::from_utf8_lossy(&fake.run(words).success().get_output().stdout).into()
}

#[test]
fn status_and_history_show_what_a_deploy_lost() {
    let fake = FakeDocker::new();
    let url = server_failing_briefly();
    fake.run(&format!("deploy app --witness-rate 100 --witness-url {url}")).success();
    let (history, status) = (stdout_of(&fake, "history"), stdout_of(&fake, "status"));
    assert!(history.contains("*app: app:1") && history.contains("deployed with losses"), "{history}");
    assert!(status.contains("release 1: while it was deployed, the witness lost "), "{status}");
    let json = stdout_of(&fake, "history --output json");
    assert!(json.contains(r#""result":"deployed""#) && !json.contains(r#""lost":0"#), "{json}");
}

#[test]
fn a_failed_rollback_is_shown_as_not_serving() {
    let fake = FakeDocker::new();
    fake.run("deploy app --no-witness").success();
    fake.write("hashes", "app next\n");
    fake.container("new", "app-3", "created", "next");
    let url = server_failing_after(1);
    fake.run(&format!("deploy app --witness-rate 100 --witness-url {url}")).code(4);
    let (history, status) = (stdout_of(&fake, "history"), stdout_of(&fake, "status"));
    for output in [&history, &status] {
        assert!(output.contains("release 2 failed, and the previous release does not serve"), "{output}");
        assert!(!output.contains("*app") && !output.contains("killed"), "{output}");
    }
    let row = status.lines().find(|line| line.starts_with("app ")).expect(&status);
    assert_eq!(row.split_whitespace().nth(1), Some("unknown"), "{status}");
}

#[test]
fn quiet_reports_only_losses_of_the_witness() {
    let fake = FakeDocker::new();
    let url = server_failing_briefly();
    let run = fake.run(&format!("deploy app --quiet --witness-rate 100 --witness-url {url}")).success();
    says(&run, &["warning: the witness lost "]);
    assert!(!stderr(&run).contains("longest gap"), "{}", stderr(&run));
    let url = server_failing_after(usize::MAX);
    let fake = FakeDocker::new();
    let run = fake.run(&format!("deploy app --quiet --strict --witness-url {url}")).success();
    assert!(!stderr(&run).contains("witness"), "{}", stderr(&run));
}

#[test]
fn a_url_that_never_answered_is_reported_and_refused_with_strict() {
    let fake = FakeDocker::new();
    let run = fake.run(&format!("deploy app --strict --witness-url {}", closed_port_url())).code(1);
    says(&run, &["gets no answer from", "→ refused", "nothing was changed", "hint: "]);
    assert_eq!(fake.changes(), "");
    let run = fake.run(&format!("deploy app --witness-url {}", closed_port_url())).success();
    says(&run, &["did not answer before the switch", "→ refused"]);
    assert!(!stderr(&run).contains(" lost, "), "{}", stderr(&run));
}

#[test]
fn a_deploy_without_a_url_reports_once_that_it_has_no_witness() {
    let fake = FakeDocker::new();
    let run = fake.run("deploy app").success();
    assert_eq!(stderr(&run).matches("no witness: ").count(), 1, "{}", stderr(&run));
    let fake = FakeDocker::new();
    let run = fake.run("deploy app --no-witness").success();
    assert!(!stderr(&run).contains("witness"), "{}", stderr(&run));
    let url = server_failing_after(1);
    let fake = FakeDocker::new();
    let run = fake.run(&format!("deploy app --no-witness --witness-url {url}")).success();
    assert!(!stderr(&run).contains("witness"), "{}", stderr(&run));
    let run = FakeDocker::new().run("deploy app --no-witness --strict").code(2);
    says(&run, &["`--strict` needs the witness", "hint: "]);
}

#[test]
fn a_first_deploy_has_no_witness() {
    let fake = FakeDocker::new();
    fs::remove_file(fake.path("containers/old")).unwrap();
    let run = fake.run(&format!("deploy app --strict --witness-url {}", closed_port_url())).success();
    says(&run, &["no witness: nothing serves yet"]);
}
