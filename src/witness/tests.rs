//! A witness and a server on this machine.

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

    fn says(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    fn place(&self) -> WitnessUrl {
        WitnessUrl { url: self.url.parse().unwrap(), host: None, connect: None }
    }
}

/// Nobody listens there.
fn nowhere() -> WitnessUrl {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    WitnessUrl { url, host: None, connect: None }
}

const LONG: Duration = Duration::from_secs(20);

/// A witness that asks these, and what it has counted so far.
struct Asking {
    witness: Witness,
    count: Arc<Mutex<ProbeCount>>,
}

impl std::ops::Deref for Asking {
    type Target = Witness;

    fn deref(&self) -> &Witness {
        &self.witness
    }
}

impl Asking {
    fn count(&self) -> ProbeCount {
        *self.count.lock().unwrap()
    }
}

fn started(urls: &[UrlCandidates]) -> Asking {
    let asking = Asking { witness: Witness::default(), count: Arc::default() };
    let settings = WitnessSettings { rate: 100, ..WitnessSettings::default() };
    let told = Arc::clone(&asking.count);
    let tell = move |count| *told.lock().unwrap() = count;
    asking.witness.start(urls, &settings, Duration::from_secs(3), tell).unwrap();
    asking
}

fn until(what: &str, done: impl Fn() -> bool) {
    let waited = wait::until(POLL, LONG, &StopSignal::default(), || Ok::<_, ()>(done().then_some(())));
    assert_eq!(waited, Ok(WaitResult::Done(())), "{what}");
}

/// Waited for, because what was lost before the change was done counts among the lost and is none.
fn objection(witness: &Witness) -> Error {
    let told = Mutex::default();
    until("an objection", || {
        *told.lock().unwrap() = witness.objection();
        told.lock().unwrap().is_some()
    });
    told.into_inner().unwrap().unwrap()
}

fn seen(witness: &Witness) -> ProbeReport {
    let mut all = witness.end();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[test]
fn nobody_is_asked_before_it_starts() {
    let witness = Witness::default();
    witness.route().done();
    drop(witness.stop());
    assert_eq!((witness.objection(), witness.end()), (None, vec![]));
}

#[test]
fn what_a_url_answers_is_counted_until_the_end() {
    let server = Server::new(200, "x-version: 1\r\n");
    let witness = started(&[vec![server.place()]]);
    witness.wait_for_answers(LONG, &StopSignal::default()).unwrap();
    server.says(500);
    until("it loses", || witness.count().lost > 0);
    let ProbeReport { url, summary, samples, switch } = seen(&witness);
    assert_eq!((url, summary.sent, switch), (server.url.clone(), samples.len(), None));
    assert_eq!(summary.lost, samples.iter().filter(|s| s.lost).count());
    assert!(summary.lost > 0 && summary.losses.keys().eq(["500"]), "{summary}");
    assert_eq!(summary.versions.keys().collect::<Vec<_>>(), ["1"]);
    assert!(samples[0].at >= Duration::from_secs(3), "times are the report's");
}

#[test]
fn losses_after_a_change_of_the_rotation_are_an_objection_once() {
    let server = Server::new(200, "");
    let witness = started(&[vec![server.place()]]);
    witness.wait_for_answers(LONG, &StopSignal::default()).unwrap();
    let act = witness.route();
    server.says(502);
    assert_eq!(witness.objection(), None);
    act.done();
    let error = objection(&witness);
    assert!(error.message.contains("(502 ×") && error.message.contains("none of "), "{error}");
    assert_eq!(witness.objection(), None, "it was told");
    server.says(200);
    witness.route().done();
    let good = |w: &Asking| w.count().sent - w.count().lost;
    let before = good(&witness);
    until("good answers", || good(&witness) > before + BURST);
    assert_eq!(witness.objection(), None);
    let ProbeReport { summary, switch, .. } = seen(&witness);
    assert!(switch.is_some() && summary.before.lost == 0 && summary.after.sent >= BURST, "{summary:?}");
}

#[test]
fn who_never_answered_is_dismissed_and_named() {
    let good = Server::new(200, "");
    let bad = Server::new(503, "");
    let witness = started(&[vec![good.place()], vec![bad.place()], vec![nowhere()]]);
    until("all were asked", || witness.probes().iter().all(|p| p.has_ended_any()));
    let named = witness.dismiss_silent();
    let said: Vec<&str> = named.iter().map(|(_, said)| said.rsplit(' ').next().unwrap()).collect();
    assert_eq!(said, ["503", "refused"]);
    assert_eq!(named[0].0, bad.url);
    assert!(witness.dismiss_silent().is_empty(), "they are told once");
    until("only the others are counted", || witness.count().lost == 0);
    assert_eq!(seen(&witness).url, good.url);
}

#[test]
fn who_has_to_be_answered_and_is_not_refuses() {
    let witness = started(&[vec![Server::new(503, "").place()]]);
    let error = witness.wait_for_answers(Duration::ZERO, &StopSignal::default()).unwrap_err();
    assert_eq!(error.exit.code(), 1);
    assert!(error.hint.unwrap().contains("--witness-url"));
}

#[test]
fn of_several_ways_the_first_is_taken_that_answers_and_does_not_send_clients_on() {
    let sends_on = || Server::new(301, "location: https://127.0.0.1/\r\n");
    let (redirect, bad, good) = (sends_on(), Server::new(503, ""), Server::new(200, ""));
    let urls = |places: &[&WitnessUrl]| vec![places.iter().map(|p| (*p).clone()).collect::<UrlCandidates>()];
    let all = urls(&[&redirect.place(), &nowhere(), &bad.place(), &good.place()]);
    let witness = started(&all);
    until("it has chosen", || witness.count().sent > 0);
    assert_eq!(seen(&witness).url, good.url);
    let witness = started(&urls(&[&nowhere(), &redirect.place(), &bad.place()]));
    until("it has chosen", || witness.count().sent > 0);
    assert_eq!(seen(&witness).url, redirect.url, "better than nothing");
}

#[test]
fn what_is_forgiven_is_no_objection_any_more() {
    let server = Server::new(200, "");
    let witness = started(&[vec![server.place()]]);
    witness.wait_for_answers(LONG, &StopSignal::default()).unwrap();
    let act = witness.route();
    server.says(502);
    act.done();
    objection(&witness);
    server.says(200);
    let all = witness.count().sent;
    until("what was under way has ended", || witness.count().sent > all + BURST);
    witness.ignore_losses_so_far();
    assert_eq!(witness.objection(), None);
    server.says(502);
    until("more losses", || witness.objection().is_some());
}
