//! Misbehaving instances: none keeps a probe beyond its time, or fills the memory.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::super::probe::default_health;
use super::*;
use crate::model::ComposeFlags;
use crate::model::{HttpHealth, StatusRanges};

/// Timeout that is long enough for a normal answer on a busy machine.
const LONG: Duration = Duration::from_secs(10);

/// Timeout for instances that never answer.
const SHORT: Duration = Duration::from_millis(300);

/// Time that no probe may take, however busy the machine is.
const TOO_LONG: Duration = Duration::from_secs(20);

/// Serves connections with this answer, each on a thread of its own, until the client closes the connection.
fn serving(answer: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = answer(&mut stream);
            });
        }
    });
    port
}

/// Result of a probe at this port; the probe has to end in time.
#[track_caller]
fn probe(port: u16, body: Option<&str>, timeout: Duration) -> ProbeResult {
    let docker = Docker::for_test("docker".into(), ComposeFlags::default());
    let prober = Prober::new(&docker, timeout).unwrap();
    let health = HttpHealth {
        body: body.map(String::from),
        expect: StatusRanges::parse("200-399").unwrap(),
        ..default_health()
    };
    let container = serde_json::from_str(
        r#"{"State": {"Status": "running"}, "NetworkSettings": {"Networks": {"n": {"IPAddress": "127.0.0.1"}}}}"#,
    )
    .unwrap();
    let start = Instant::now();
    let answer = prober
        .probe(&ReadinessProbe::Http(HttpProbe { health, port, proxy: None }), &container)
        .expect("an origin");
    assert!(start.elapsed() < TOO_LONG, "{answer:?}");
    assert_eq!(*prober.last_origin.lock().unwrap(), Some(ProbeOrigin::Host), "{answer:?}");
    answer
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\n";

#[test]
fn a_silent_instance_times_out() {
    let silent = serving(|_| {
        thread::park_timeout(TOO_LONG);
        Ok(())
    });
    let answer = probe(silent, None, SHORT);
    assert_eq!(
        (answer.ready, answer.text.ends_with("→ no answer in time")),
        (false, true),
        "{}",
        answer.text
    );
}

#[test]
fn garbage_is_no_answer() {
    for garbage in [
        &b"\x1b]0;owned\x07\xff\xfe\0\r\n\r\n"[..],
        b"220 smtp.example ESMTP\r\n",
        b"HTTP/9.9 abc\r\n\r\n",
        b"",
    ] {
        let port = serving(move |stream| stream.write_all(garbage));
        assert!(!probe(port, None, LONG).ready);
    }
}

#[test]
fn heads_without_an_end_are_no_answer() {
    let one_header = serving(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nx: ")?;
        (0..1 << 14).try_for_each(|_| stream.write_all(&[b'x'; 1 << 16]))
    });
    assert!(!probe(one_header, None, LONG).ready);
    let many_headers = serving(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        (0..u32::MAX).try_for_each(|n| write!(stream, "x-{n}: y\r\n"))
    });
    assert!(!probe(many_headers, None, LONG).ready);
    let on_its_way =
        serving(|stream| (0..u32::MAX).try_for_each(|_| stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")));
    assert!(!probe(on_its_way, None, SHORT).ready);
}

#[test]
fn an_endless_body_is_searched_at_its_start() {
    let plain = || {
        serving(|stream| {
            stream.write_all(OK)?;
            stream.write_all(b"\r\nit is \xff ok ")?;
            (0..u32::MAX).try_for_each(|_| stream.write_all(&[b'x'; 1 << 16]))
        })
    };
    assert!(probe(plain(), Some("ok"), LONG).ready);
    assert!(!probe(plain(), Some("never"), LONG).ready);
    let chunked = serving(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")?;
        (0..u32::MAX).try_for_each(|_| stream.write_all(b"8;x=y\r\nxxxxxxxx\r\n"))
    });
    assert!(probe(chunked, Some("ok"), LONG).ready);
}

#[test]
fn at_most_64_kib_of_a_body_are_read() {
    let after = |count: usize| {
        serving(move |stream| {
            stream.write_all(OK)?;
            stream.write_all(b"\r\n")?;
            stream.write_all(&vec![b'x'; count])?;
            stream.write_all(b"ok")
        })
    };
    assert!(probe(after((64 << 10) - 2), Some("ok"), LONG).ready);
    assert!(!probe(after((64 << 10) - 1), Some("ok"), LONG).ready);
}

#[test]
fn a_dripping_body_ends_with_the_timeout() {
    let drip = serving(|stream| {
        stream.write_all(OK)?;
        stream.write_all(b"\r\n")?;
        (0..1000).try_for_each(|_| {
            thread::park_timeout(Duration::from_millis(100));
            stream.write_all(b".")
        })
    });
    assert!(!probe(drip, Some("never"), SHORT).ready);
    let head = serving(|stream| {
        stream.write_all(OK)?;
        (0..1000).try_for_each(|_| {
            thread::park_timeout(Duration::from_millis(100));
            stream.write_all(b".")
        })
    });
    assert!(!probe(head, None, SHORT).ready);
}

#[test]
fn a_redirect_is_an_answer_and_is_not_followed() {
    let elsewhere = serving(|stream| stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"));
    let port = serving(move |stream| {
        let head = "HTTP/1.1 302 Found\r\nconnection: close\r\ncontent-length: 0";
        write!(stream, "{head}\r\nlocation: http://127.0.0.1:{elsewhere}/\r\n\r\n")
    });
    assert!(probe(port, None, LONG).ready);
    assert!(!probe(port, Some("ok"), LONG).ready);
}

#[test]
fn a_compressed_body_is_not_decompressed() {
    // The gzip of `ok`; a bomb would be a larger one.
    let packed = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\xcf\x06\0\x47\xdd\xdc\x79\x02\0\0\0";
    let port = serving(move |stream| {
        stream.write_all(OK)?;
        stream.write_all(b"content-encoding: gzip\r\n\r\n")?;
        stream.write_all(packed)
    });
    assert!(probe(port, None, LONG).ready);
    assert!(!probe(port, Some("ok"), LONG).ready);
}
