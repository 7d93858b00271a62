//! A witness and servers on this machine.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use super::*;

/// Answers every request with a status that can be changed.
struct Server {
    status: Arc<AtomicU16>,
    url: String,
}

impl Server {
    fn new(status: u16, head: &'static str) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let status = Arc::new(AtomicU16::new(status));
        let now = Arc::clone(&status);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let status = now.load(Ordering::Relaxed);
                let _ = write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\n{head}\r\n");
            }
        });
        Server { status, url }
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    fn address(&self) -> WitnessUrl {
        WitnessUrl { url: self.url.parse().unwrap(), host: None, connect: None }
    }
}

/// An address at which nothing listens.
fn nowhere() -> WitnessUrl {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    WitnessUrl { url, host: None, connect: None }
}

const LONG: Duration = Duration::from_secs(20);

/// A witness that probes these URLs.
fn started(urls: &[UrlCandidates]) -> Witness {
    let witness = Witness::default();
    let settings = WitnessSettings { rate: 100, ..WitnessSettings::default() };
    witness.start(urls, &settings, Duration::from_secs(3)).unwrap();
    witness
}

fn until(description: &str, is_done: impl Fn() -> bool) {
    let waited = wait::until(POLL, LONG, &StopSignal::default(), || Ok::<_, ()>(is_done().then_some(())));
    assert_eq!(waited, Ok(WaitResult::Done(())), "{description}");
}

/// Waits for a reason for a rollback. Losses before the confirmation of the change are counted, but are no reason.
fn wait_for_rollback_reason(witness: &Witness) -> Error {
    let found = Mutex::default();
    until("a reason for a rollback", || {
        *found.lock().unwrap() = witness.rollback_reason();
        found.lock().unwrap().is_some()
    });
    found.into_inner().unwrap().unwrap()
}

fn finish_one(witness: &Witness) -> ProbeReport {
    let mut all = witness.finish();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[test]
fn no_url_is_probed_before_the_start() {
    let witness = Witness::default();
    witness.rotation_change().confirm();
    drop(witness.instance_stop());
    assert_eq!((witness.rollback_reason(), witness.finish()), (None, vec![]));
}

#[test]
fn the_answers_of_a_url_are_counted_until_the_end() {
    let server = Server::new(200, "x-version: 1\r\n");
    let witness = started(&[vec![server.address()]]);
    witness.wait_for_answers(LONG, &StopSignal::default()).unwrap();
    server.answer(500);
    until("it loses", || witness.counter()().lost > 0);
    let ProbeReport { url, summary, samples, switch } = finish_one(&witness);
    assert_eq!((url, summary.sent, switch), (server.url.clone(), samples.len(), None));
    assert_eq!(summary.lost, samples.iter().filter(|s| s.lost).count());
    assert!(summary.lost > 0 && summary.losses.keys().eq(["500"]), "{summary}");
    assert_eq!(summary.versions.keys().collect::<Vec<_>>(), ["1"]);
    assert!(samples[0].at >= Duration::from_secs(3), "times are the report's");
}

#[test]
fn losses_after_a_change_of_the_rotation_are_a_rollback_reason_once() {
    let server = Server::new(200, "");
    let witness = started(&[vec![server.address()]]);
    witness.wait_for_answers(LONG, &StopSignal::default()).unwrap();
    let change = witness.rotation_change();
    server.answer(502);
    assert_eq!(witness.rollback_reason(), None);
    change.confirm();
    let error = wait_for_rollback_reason(&witness);
    assert!(error.message.contains("(502 ×") && error.message.contains("none of "), "{error}");
    assert_eq!(witness.rollback_reason(), None, "it was reported");
    server.answer(200);
    witness.rotation_change().confirm();
    let good = |w: &Witness| w.counter()().sent - w.counter()().lost;
    let before = good(&witness);
    until("good answers", || good(&witness) > before + BURST);
    assert_eq!(witness.rollback_reason(), None);
    let ProbeReport { summary, switch, .. } = finish_one(&witness);
    assert!(switch.is_some() && summary.before.lost == 0 && summary.after.sent >= BURST, "{summary:?}");
}

#[test]
fn a_url_that_never_answered_is_dismissed_and_named() {
    let good = Server::new(200, "");
    let bad = Server::new(503, "");
    let witness = started(&[vec![good.address()], vec![bad.address()], vec![nowhere()]]);
    until("all were probed", || witness.probes().iter().all(|p| p.has_samples()));
    let named = witness.dismiss_silent();
    let answers: Vec<&str> = named.iter().map(|(_, answers)| answers.rsplit(' ').next().unwrap()).collect();
    assert_eq!(answers, ["503", "refused"]);
    assert_eq!(named[0].0, bad.url);
    assert!(witness.dismiss_silent().is_empty(), "they are reported once");
    until("only the others are counted", || witness.counter()().lost == 0);
    assert_eq!(finish_one(&witness).url, good.url);
}

#[test]
fn a_required_url_without_an_answer_is_an_error() {
    let witness = started(&[vec![Server::new(503, "").address()]]);
    let error = witness.wait_for_answers(Duration::ZERO, &StopSignal::default()).unwrap_err();
    assert_eq!(error.exit.code(), 1);
    assert!(error.hint.unwrap().contains("--witness-url"));
}

#[test]
fn the_first_address_that_answers_without_a_redirect_is_chosen() {
    let redirecting = || Server::new(301, "location: https://127.0.0.1/\r\n");
    let (redirect, bad, good) = (redirecting(), Server::new(503, ""), Server::new(200, ""));
    let urls =
        |addresses: &[&WitnessUrl]| vec![addresses.iter().map(|p| (*p).clone()).collect::<UrlCandidates>()];
    let all = urls(&[&redirect.address(), &nowhere(), &bad.address(), &good.address()]);
    let witness = started(&all);
    until("it has chosen", || witness.counter()().sent > 0);
    assert_eq!(finish_one(&witness).url, good.url);
    let witness = started(&urls(&[&nowhere(), &redirect.address(), &bad.address()]));
    until("it has chosen", || witness.counter()().sent > 0);
    assert_eq!(finish_one(&witness).url, redirect.url, "better than nothing");
}

#[test]
fn ignored_losses_are_no_rollback_reason() {
    let server = Server::new(200, "");
    let witness = started(&[vec![server.address()]]);
    witness.wait_for_answers(LONG, &StopSignal::default()).unwrap();
    let change = witness.rotation_change();
    server.answer(502);
    change.confirm();
    wait_for_rollback_reason(&witness);
    server.answer(200);
    let all = witness.counter()().sent;
    until("what was under way has ended", || witness.counter()().sent > all + BURST);
    witness.ignore_losses_so_far();
    assert_eq!(witness.rollback_reason(), None);
    server.answer(502);
    until("more losses", || witness.rollback_reason().is_some());
}
