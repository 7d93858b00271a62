use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

use super::control::{Order, query};
use super::*;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);
const BOUNDS: Bounds = Bounds { connections: 100, bytes: 1 << 20, hold: LONG };
const APP: [u8; 4] = [127, 0, 0, 2];
const OTHER_APP: [u8; 4] = [127, 0, 0, 3];
const HOLD_AGAIN: Order = Order::Forward { to: None, ports: BTreeMap::new() };
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Relay on 127.0.0.1. Its targets are other addresses of the loopback network with the same port.
struct RunningRelay {
    port: u16,
    name: String,
    end: Option<oneshot::Sender<()>>,
    run: JoinHandle<Result<()>>,
}

impl RunningRelay {
    async fn start(bounds: Bounds, lifetime: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let name = format!("zd-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let (end, ended) = oneshot::channel();
        let socket = name.clone();
        let run = spawn_local(async move {
            relay(vec![listener], &socket, bounds, lifetime, async { drop(ended.await) }).await
        });
        let relay = RunningRelay { port, name, end: Some(end), run };
        relay.reaches(|_| true).await;
        relay
    }

    async fn app(&self, address: [u8; 4]) -> TcpListener {
        TcpListener::bind((IpAddr::from(address), self.port)).await.unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    /// Connection that has sent a text.
    async fn send(&self, text: &str) -> TcpStream {
        let mut client = self.connect().await;
        client.write_all(text.as_bytes()).await.unwrap();
        client
    }

    async fn order(&self, order: Order) -> Option<RelayStatus> {
        let name = self.name.clone();
        spawn_blocking(move || query(&name, &order).ok()).await.unwrap()
    }

    async fn forward(&self, address: [u8; 4]) {
        self.order(Order::Forward { to: Some(address.into()), ports: BTreeMap::new() }).await.unwrap();
    }

    /// Waits for a state.
    async fn reaches(&self, is_reached: impl Fn(&RelayStatus) -> bool) -> RelayStatus {
        loop {
            if let Some(status) = self.order(Order::Status).await
                && is_reached(&status)
            {
                return status;
            }
            tokio::task::yield_now().await;
        }
    }

    fn end(&mut self) {
        self.end.take().unwrap().send(()).unwrap();
    }
}

/// Runs a test that has to end.
fn run_test(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { timeout(LONG, test).await.expect("the test hangs") });
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn read_request(stream: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

async fn accept_one(app: &TcpListener) -> TcpStream {
    app.accept().await.unwrap().0
}

fn is_refusal(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 503 ")
        && answer.contains("\r\nRetry-After: 1\r\n")
        && answer.contains("\r\nConnection: close\r\n")
}

#[test]
fn a_held_request_gets_the_answer_of_the_target_also_after_the_client_ended_its_writes() {
    run_test(async {
        let relay = RunningRelay::start(BOUNDS, LONG).await;
        let app = relay.app(APP).await;
        let request = "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody";
        let mut client = relay.send(request).await;
        client.shutdown().await.unwrap();
        let status = relay.reaches(|status| status.waiting == 1).await;
        assert_eq!((status.held_total, status.held_bytes), (1, request.len()));
        assert_eq!(status.forwarding_to, None);

        relay.forward(APP).await;
        let mut server = accept_one(&app).await;
        assert_eq!(read_all(&mut server).await, request);
        server.write_all(b"answer").await.unwrap();
        drop(server);
        assert_eq!(read_all(&mut client).await, "answer");
        let status = relay.reaches(|status| status.waiting == 0).await;
        assert_eq!((status.held_total, status.held_bytes, status.refused), (1, 0, 0));
        assert_eq!(status.forwarding_to, Some(APP.into()));
    });
}

#[test]
fn later_connections_are_forwarded_at_once_and_to_the_newest_target() {
    run_test(async {
        let relay = RunningRelay::start(BOUNDS, LONG).await;
        let (app, other) = (relay.app(APP).await, relay.app(OTHER_APP).await);
        relay.forward(APP).await;
        let _client = relay.connect().await;
        let mut server = accept_one(&app).await;
        server.write_all(b"the server speaks first").await.unwrap();
        relay.forward(OTHER_APP).await;
        let _second = relay.send(GET).await;
        let mut server = accept_one(&other).await;
        assert_eq!(read_request(&mut server, GET.len()).await, GET);
        assert_eq!(relay.reaches(|_| true).await.held_total, 0);
    });
}

#[test]
fn without_a_target_connections_wait_again() {
    run_test(async {
        let relay = RunningRelay::start(BOUNDS, LONG).await;
        let other = relay.app(OTHER_APP).await;
        relay.forward(APP).await;
        let _first = relay.send(GET).await;
        relay.reaches(|status| status.waiting == 1).await;
        assert_eq!(relay.order(HOLD_AGAIN).await.unwrap().forwarding_to, Some(APP.into()));
        let _second = relay.send(GET).await;
        relay.reaches(|status| status.waiting == 2 && status.forwarding_to.is_none()).await;
        relay.forward(OTHER_APP).await;
        for _ in 0..2 {
            let mut server = accept_one(&other).await;
            assert_eq!(read_request(&mut server, GET.len()).await, GET);
        }
    });
}

#[test]
fn the_next_request_of_a_connection_does_not_go_to_a_former_target() {
    run_test(async {
        let relay = RunningRelay::start(BOUNDS, LONG).await;
        let (app, other) = (relay.app(APP).await, relay.app(OTHER_APP).await);
        relay.forward(APP).await;
        let mut client = relay.send(GET).await;
        let mut server = accept_one(&app).await;
        read_request(&mut server, GET.len()).await;
        relay.order(HOLD_AGAIN).await.unwrap();
        assert_eq!(relay.reaches(|_| true).await.leaving, 1, "the answer is missing");
        server.write_all(b"one").await.unwrap();
        assert_eq!(read_request(&mut client, 3).await, "one");
        relay.reaches(|status| status.leaving == 0).await;

        client.write_all(GET.as_bytes()).await.unwrap();
        relay.reaches(|status| status.waiting == 1 && status.held_bytes == GET.len()).await;
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0, "the former target gets nothing more");
        relay.forward(OTHER_APP).await;
        let mut server = accept_one(&other).await;
        assert_eq!(read_request(&mut server, GET.len()).await, GET);
        server.write_all(b"two").await.unwrap();
        assert_eq!(read_request(&mut client, 3).await, "two");
    });
}

#[test]
fn the_rest_of_a_request_still_goes_to_a_former_target() {
    run_test(async {
        let relay = RunningRelay::start(BOUNDS, LONG).await;
        let app = relay.app(APP).await;
        let head = "PUT / HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n";
        let mut client = relay.send(head).await;
        relay.forward(APP).await;
        let mut server = accept_one(&app).await;
        read_request(&mut server, head.len()).await;
        server.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        read_request(&mut client, 25).await;
        relay.order(HOLD_AGAIN).await.unwrap();
        for part in ["GET ", "a", "body"] {
            client.write_all(part.as_bytes()).await.unwrap();
            assert_eq!(read_request(&mut server, part.len()).await, part);
        }
    });
}

#[test]
fn several_requests_follow_each_other_on_a_forwarded_connection() {
    run_test(async {
        let relay = RunningRelay::start(BOUNDS, LONG).await;
        let app = relay.app(APP).await;
        let mut client = relay.send(GET).await;
        relay.forward(APP).await;
        let mut server = accept_one(&app).await;
        for answer in ["one", "two"] {
            assert_eq!(read_request(&mut server, GET.len()).await, GET);
            server.write_all(answer.as_bytes()).await.unwrap();
            assert_eq!(read_request(&mut client, 3).await, answer);
            client.write_all(GET.as_bytes()).await.unwrap();
        }
    });
}

#[test]
fn a_target_that_refuses_is_tried_again() {
    run_test(async {
        let relay = RunningRelay::start(BOUNDS, LONG).await;
        relay.forward(APP).await;
        let _client = relay.send(GET).await;
        relay.reaches(|status| status.waiting == 1).await;
        let app = relay.app(APP).await;
        let mut server = accept_one(&app).await;
        assert_eq!(read_request(&mut server, GET.len()).await, GET);
    });
}

#[test]
fn a_target_may_listen_at_another_port_than_the_relay() {
    run_test(async {
        let relay = RunningRelay::start(BOUNDS, LONG).await;
        let app = TcpListener::bind((IpAddr::from(APP), 0)).await.unwrap();
        let other = relay.app(OTHER_APP).await;
        let _client = relay.send(GET).await;
        relay.reaches(|status| status.waiting == 1).await;
        let ports = BTreeMap::from([(relay.port, app.local_addr().unwrap().port())]);
        relay.order(Order::Forward { to: Some(APP.into()), ports }).await.unwrap();
        let mut server = accept_one(&app).await;
        assert_eq!(read_request(&mut server, GET.len()).await, GET);
        relay.forward(OTHER_APP).await;
        let _client = relay.send(GET).await;
        let mut server = accept_one(&other).await;
        assert_eq!(read_request(&mut server, GET.len()).await, GET);
    });
}

#[test]
fn a_body_longer_than_the_held_bytes_arrives_whole() {
    run_test(async {
        let relay = RunningRelay::start(BOUNDS, LONG).await;
        let app = relay.app(APP).await;
        let body = "x".repeat(3 << 20);
        let request = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let (mut read, mut write) = relay.connect().await.into_split();
        let sent = request.clone();
        spawn_local(async move { write.write_all(sent.as_bytes()).await });
        let held = relay.reaches(|status| status.held_bytes == connection::MAX_FIRST_BYTES).await;
        assert_eq!(held.waiting, 1);
        relay.forward(APP).await;
        let mut server = accept_one(&app).await;
        assert!(read_request(&mut server, request.len()).await == request);
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = String::new();
        read.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    });
}

#[test]
fn the_answer_of_a_server_that_does_not_read_the_request_reaches_the_client() {
    run_test(async {
        let relay = RunningRelay::start(BOUNDS, LONG).await;
        let app = relay.app(APP).await;
        relay.forward(APP).await;
        let mut client = relay.connect().await;
        let mut server = accept_one(&app).await;
        let body = vec![b'x'; 100 << 10];
        client.write_all(&body).await.unwrap();
        server.readable().await.unwrap();
        server.write_all(b"HTTP/1.1 413 \r\n\r\n").await.unwrap();
        // Unread bytes make this a reset.
        drop(server);
        drop(client.write_all(&body).await);
        assert_eq!(read_all(&mut client).await, "HTTP/1.1 413 \r\n\r\n");
    });
}

#[test]
fn a_request_that_waited_too_long_gets_503_and_another_protocol_is_closed() {
    run_test(async {
        let relay = RunningRelay::start(Bounds { hold: SHORT, ..BOUNDS }, LONG).await;
        let (mut http, mut half, mut silent, mut tls) = (
            relay.send(GET).await,
            relay.send("GET /").await,
            relay.connect().await,
            relay.send("\u{16}\u{3}\u{1}").await,
        );
        assert!(is_refusal(&read_all(&mut http).await));
        assert!(is_refusal(&read_all(&mut half).await));
        assert_eq!([read_all(&mut silent).await, read_all(&mut tls).await], ["", ""]);
        let status = relay.reaches(|status| status.waiting == 0).await;
        assert_eq!((status.held_total, status.refused), (3, 3));
        assert!(Duration::from_millis(status.longest_ms) >= SHORT / 2);
    });
}

#[test]
fn a_request_over_the_number_of_connections_gets_503_at_once() {
    run_test(async {
        let relay = RunningRelay::start(Bounds { connections: 2, ..BOUNDS }, LONG).await;
        let held = [relay.send(GET).await, relay.send(GET).await];
        relay.reaches(|status| status.waiting == 2).await;
        assert!(is_refusal(&read_all(&mut relay.send(GET).await).await));
        assert_eq!(relay.reaches(|_| true).await.refused, 1);
        drop(held);
    });
}

#[test]
fn a_request_over_the_number_of_bytes_gets_503_at_once() {
    run_test(async {
        let relay = RunningRelay::start(Bounds { bytes: 2 * GET.len(), ..BOUNDS }, LONG).await;
        let held = [relay.send(GET).await, relay.send(GET).await];
        relay.reaches(|status| status.waiting == 2).await;
        assert!(is_refusal(&read_all(&mut relay.send(GET).await).await));
        let status = relay.reaches(|status| status.waiting == 2).await;
        assert_eq!((status.held_bytes, status.refused), (2 * GET.len(), 1));
        drop(held);
    });
}

#[test]
fn a_client_that_leaves_is_not_forwarded() {
    run_test(async {
        let relay = RunningRelay::start(BOUNDS, LONG).await;
        let app = relay.app(APP).await;
        drop(relay.connect().await);
        drop(relay.send("GET /").await);
        let reset = relay.send(GET).await;
        let _stays = relay.send(GET).await;
        relay.reaches(|status| status.waiting == 2).await;
        reset.set_zero_linger().unwrap();
        drop(reset);
        relay.reaches(|status| status.waiting == 1).await;
        relay.forward(APP).await;
        let mut server = accept_one(&app).await;
        assert_eq!(read_request(&mut server, GET.len()).await, GET);
        relay.reaches(|status| status.waiting == 0).await;
        assert!(timeout(SHORT, app.accept()).await.is_err(), "a second connection");
    });
}

#[test]
fn a_full_buffer_does_not_hide_a_reset() {
    run_test(async {
        let relay = RunningRelay::start(BOUNDS, LONG).await;
        let client = relay.send(&"x".repeat(2 * connection::MAX_FIRST_BYTES)).await;
        relay.reaches(|status| status.held_bytes == connection::MAX_FIRST_BYTES).await;
        client.set_zero_linger().unwrap();
        drop(client);
        relay.reaches(|status| status.waiting == 0 && status.held_bytes == 0).await;
    });
}

#[test]
fn the_reset_of_a_client_ends_the_connection_of_its_server() {
    run_test(async {
        let relay = RunningRelay::start(BOUNDS, LONG).await;
        let app = relay.app(APP).await;
        let client = relay.send(GET).await;
        relay.forward(APP).await;
        let mut server = accept_one(&app).await;
        read_request(&mut server, GET.len()).await;
        client.set_zero_linger().unwrap();
        drop(client);
        let end = server.read(&mut [0]).await;
        assert!(!matches!(end, Ok(1..)), "{end:?}");
        // A write shows that the other direction has ended, too.
        while server.write_all(b"event").await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn at_the_end_of_its_lifetime_a_relay_refuses_what_it_holds_and_ends() {
    run_test(async {
        let relay = RunningRelay::start(BOUNDS, SHORT).await;
        let mut client = relay.send(GET).await;
        assert!(is_refusal(&read_all(&mut client).await));
        relay.run.await.unwrap().unwrap();
        assert!(TcpStream::connect(("127.0.0.1", relay.port)).await.is_err());
    });
}

#[test]
fn a_signal_ends_a_relay_after_its_busy_connections_and_does_not_wait_for_idle_ones() {
    run_test(async {
        let mut relay = RunningRelay::start(BOUNDS, LONG).await;
        let app = relay.app(APP).await;
        relay.forward(APP).await;
        let mut idle = relay.send(GET).await;
        let mut server_of_idle = accept_one(&app).await;
        read_request(&mut server_of_idle, GET.len()).await;
        server_of_idle.write_all(b"answer").await.unwrap();
        assert_eq!(read_request(&mut idle, 6).await, "answer");
        let mut busy = relay.send(GET).await;
        let mut server = accept_one(&app).await;
        read_request(&mut server, GET.len()).await;
        relay.end();
        assert_eq!(read_all(&mut idle).await, "", "the idle connection ends first");
        assert!(!relay.run.is_finished());
        server.write_all(b"late").await.unwrap();
        assert_eq!(read_all(&mut busy).await, "late");
        relay.run.await.unwrap().unwrap();
    });
}

#[test]
fn a_status_comes_only_from_a_relay_that_listens() {
    let name = format!("zd-test-none-{}", std::process::id());
    let error = query(&name, &Order::Status).unwrap_err();
    assert_eq!(error.to_string(), "no relay listens in this network");
    run_test(async {
        let relay = RunningRelay::start(BOUNDS, LONG).await;
        let garbage = relay.name.clone();
        let answer = spawn_blocking(move || {
            use std::io::{Read, Write};
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(garbage).unwrap();
            let mut stream = std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
            stream.write_all(b"nonsense\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(answer.await.unwrap(), "");
        let status = serde_json::to_string(&relay.reaches(|_| true).await).unwrap();
        assert_eq!(
            status,
            r#"{"waiting":0,"held_total":0,"longest_ms":0,"refused":0,"held_bytes":0,"forwarding_to":null,"leaving":0}"#
        );
    });
}
