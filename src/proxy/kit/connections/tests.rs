use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::proxy::kit::sock_diag;
use crate::wait::{self, StopSignal};

fn connection(traffic: Traffic) -> Connection {
    let address = |text: &str| text.parse().unwrap();
    Connection { local: address("10.0.0.2:41000"), remote: address("10.0.0.3:3000"), traffic: Some(traffic) }
}

/// Connection after an answer that came 2 s ago, at once after its request.
fn answered() -> Traffic {
    Traffic {
        sent: 90,
        received: 200,
        last_sent: 2004,
        last_received: 2000,
        last_ack: 2000,
        ..Traffic::default()
    }
}

fn parsed(text: &str) -> Vec<Connection> {
    parse(Some(&CommandResult { stdout: text.into(), ..CommandResult::default() }))
}

fn verdict(traffic: Traffic) -> Verdict {
    Judge::default().judge(&connection(traffic), false, Instant::now())
}

#[test]
fn a_connection_is_busy_by_each_rule() {
    let cases = [
        ("opening", Traffic { is_opening: true, ..answered() }),
        ("unacknowledged", Traffic { pending: 1, ..answered() }),
        ("first request", Traffic { received: 0, last_sent: 2000, last_received: 2100, ..answered() }),
        ("request after an answer", Traffic { last_sent: 1500, last_ack: 1450, ..answered() }),
        ("just answered", Traffic { last_sent: 999, last_received: 990, last_ack: 990, ..answered() }),
    ];
    for (name, traffic) in cases {
        assert_eq!(verdict(traffic), Verdict::Busy, "{name}");
    }
    assert_eq!(verdict(answered()), Verdict::Idle);
}

#[test]
fn an_answer_and_the_next_request_in_one_tick_differ_from_an_idle_tie() {
    let tie = |last_ack| Traffic { last_sent: 2000, last_received: 2000, last_ack, ..answered() };
    assert_eq!(verdict(tie(2000)), Verdict::Idle, "the last acknowledgement came with the answer");
    for delayed in [1999, 1956, 1750] {
        assert_eq!(verdict(tie(delayed)), Verdict::Busy, "acknowledged after {} ms", 2000 - delayed);
    }
    assert_eq!(verdict(tie(1700)), Verdict::Idle, "a probe of an idle connection");
}

/// The kernel of the instance repeated the last part of the answer, because the proxy delayed its acknowledgement.
#[test]
fn the_side_of_the_instance_tells_a_repeated_answer_from_an_open_request() {
    let tie = connection(Traffic { last_sent: 2000, last_received: 2000, last_ack: 1992, ..answered() });
    let verdict = |last_sent, last_received| {
        let Connection { local: remote, remote: local, .. } = tie;
        let traffic = Some(Traffic { last_sent, last_received, ..Traffic::default() });
        let all = with_answers(vec![tie.clone()], &[Connection { local, remote, traffic }]);
        Judge::default().judge(&all[0], false, Instant::now())
    };
    assert_eq!(verdict(1992, 2000), Verdict::Idle, "sent after the request");
    assert_eq!(verdict(2000, 2000), Verdict::Busy, "an answer and the next request in one tick");
    assert_eq!(verdict(2004, 2000), Verdict::Busy, "received after the answer");
    let alone = with_answers(vec![tie.clone()], &[connection(answered())]);
    assert_eq!(alone, [tie], "the instance has no such connection");
}

#[test]
fn a_stream_is_busy_between_its_parts() {
    let (mut judge, start) = (Judge::default(), Instant::now());
    let mut sample = |seconds: u64, received, sent, quiet| {
        let traffic = Traffic { sent, received, last_received: quiet, last_sent: 60_000, ..answered() };
        judge.judge(&connection(traffic), false, start + Duration::from_secs(seconds))
    };
    let mut parts = |sent, from: u64| -> Vec<Verdict> {
        (0..5).map(|part| sample(from + part, 200 + part, sent, 1500)).collect()
    };
    assert_eq!(parts(90, 0)[..4], [Verdict::Idle; 4], "too few parts");
    assert_eq!(sample(5, 204, 90, 29_000), Verdict::Busy, "a pause");
    assert_eq!(sample(6, 204, 90, 31_000), Verdict::Idle, "the stream has ended");
    assert_eq!(sample(7, 205, 91, 1500), Verdict::Idle, "the answer to another request");
}

#[test]
fn a_connection_that_may_be_a_silent_stream_is_not_called_idle() {
    let known = Judge::default().judge(&connection(answered()), true, Instant::now());
    assert_eq!(known, Verdict::Unknown(Some(Duration::from_secs(2))));
    let old = Traffic { last_sent: 100_000, last_received: 99_000, last_ack: 99_000, ..answered() };
    assert_eq!(verdict(old), Verdict::Unknown(Some(Duration::from_secs(99))), "no pool keeps it so long");
    let untimed = Connection { traffic: None, ..connection(answered()) };
    assert_eq!(Judge::default().judge(&untimed, false, Instant::now()), Verdict::Unknown(None));
}

#[test]
fn a_connection_is_one_line() {
    let busy = connection(Traffic { is_opening: true, pending: 7, ..answered() });
    assert_eq!(busy.to_string(), "10.0.0.2:41000 10.0.0.3:3000 1 7 90 200 2004 2000 2000 0");
    let answered = connection(Traffic { is_answered: true, ..answered() });
    let ipv6 = Connection { local: "[fd00::1]:80".parse().unwrap(), traffic: None, ..busy.clone() };
    for connection in [busy, answered, ipv6] {
        assert_eq!(parsed(&connection.to_string()), [connection]);
    }
    for broken in ["", "a b", "10.0.0.2:1 10.0.0.3:2 1", "10.0.0.2:1 10.0.0.3:2 1 2 3 4 5 6 7 -1"] {
        assert_eq!(parsed(broken), [], "{broken}");
    }
    assert_eq!(parsed("10.0.0.2:1 10.0.0.3:2 0 99999999999 3 4 5 6 7 0"), []);
}

/// Clients of a server on this machine. Each has had fast answers, and then at once the request that is open.
struct Clients {
    listener: TcpListener,
    pairs: Vec<(TcpStream, TcpStream)>,
}

impl Clients {
    fn with_open_request(count: usize) -> Clients {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.set_nodelay(true).unwrap();
            (client, listener.accept().unwrap().0)
        };
        let mut pairs: Vec<_> = (0..count).map(|_| pair()).collect();
        for (number, (client, server)) in pairs.iter_mut().enumerate() {
            for _ in 0..number {
                client.write_all(b"request").unwrap();
                server.read_exact(&mut [0; 7]).unwrap();
                server.write_all(b"answer").unwrap();
                client.read_exact(&mut [0; 6]).unwrap();
            }
            client.write_all(b"request").unwrap();
            server.read_exact(&mut [0; 7]).unwrap();
        }
        Clients { listener, pairs }
    }

    fn answer(&mut self) {
        for (client, server) in &mut self.pairs {
            server.write_all(b"answer").unwrap();
            client.read_exact(&mut [0; 6]).unwrap();
        }
    }

    fn busy(&self, judge: &mut Judge) -> usize {
        let to = self.listener.local_addr().unwrap();
        let connections = sock_diag::connections_of(std::process::id()).unwrap();
        let own = connections.iter().filter(|c| c.remote == to);
        own.filter(|c| judge.judge(c, false, Instant::now()) == Verdict::Busy).count()
    }
}

#[test]
fn a_slow_request_after_fast_ones_is_busy_until_its_answer() {
    const COUNT: usize = 12;
    let (mut clients, mut judge) = (Clients::with_open_request(COUNT), Judge::default());
    let poll = |limit, poll: &mut dyn FnMut() -> Option<()>| {
        let poll = || Ok::<_, Infallible>(poll());
        let Ok(result) = wait::until(Duration::from_millis(50), limit, &StopSignal::default(), poll);
        result
    };
    poll(Duration::from_millis(1800), &mut || {
        assert_eq!(clients.busy(&mut judge), COUNT, "an open request is in flight");
        None
    });
    clients.answer();
    let idle = poll(Duration::from_secs(30), &mut || (clients.busy(&mut judge) == 0).then_some(()));
    assert_eq!(idle, wait::WaitResult::Done(()));
}
