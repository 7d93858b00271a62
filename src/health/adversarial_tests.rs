//! Instances that answer as nobody should: none keeps a probe beyond its time, or fills the memory.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::super::probe::answers;
use super::*;
use crate::docker::ComposeFlags;
use crate::model::{HttpHealth, StatusRanges};

/// Long enough for an honest answer on a busy machine.
const PATIENT: Duration = Duration::from_secs(10);

/// For what never answers.
const SHORT: Duration = Duration::from_millis(300);

/// What no probe may take, whatever the machine is busy with.
const FAR_TOO_LONG: Duration = Duration::from_secs(20);

/// Serves one connection after the other like this, each on a thread of its own; a peer that has gone ends it.
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

/// What a probe at this port makes of it, and that it comes to an end.
#[track_caller]
fn ask(port: u16, body: Option<&str>, timeout: Duration) -> ProbeResult {
    let docker = Docker::at("docker".into(), ComposeFlags::default());
    let asker = Prober::new(&docker, timeout).unwrap();
    let health = HttpHealth {
        body: body.map(String::from),
        expect: StatusRanges::parse("200-399").unwrap(),
        ..answers()
    };
    let container = serde_json::from_str(
        r#"{"State": {"Status": "running"}, "NetworkSettings": {"Networks": {"n": {"IPAddress": "127.0.0.1"}}}}"#,
    )
    .unwrap();
    let start = Instant::now();
    let answer = asker
        .probe(&ReadinessProbe::Http(HttpProbe { health, port, via: None }), &container)
        .expect("a way to ask");
    assert!(start.elapsed() < FAR_TOO_LONG, "{answer:?}");
    assert_eq!(*asker.known.lock().unwrap(), Some(ProbeOrigin::Here), "{answer:?}");
    answer
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\n";

#[test]
fn no_answer_at_all_is_none_in_time() {
    let silent = serving(|_| {
        thread::park_timeout(FAR_TOO_LONG);
        Ok(())
    });
    let answer = ask(silent, None, SHORT);
    assert_eq!(
        (answer.ready, answer.text.ends_with("→ no answer in time")),
        (false, true),
        "{}",
        answer.text
    );
}

#[test]
fn what_is_no_http_is_no_answer() {
    for garbage in [
        &b"\x1b]0;owned\x07\xff\xfe\0\r\n\r\n"[..],
        b"220 smtp.example ESMTP\r\n",
        b"HTTP/9.9 abc\r\n\r\n",
        b"",
    ] {
        let port = serving(move |stream| stream.write_all(garbage));
        assert!(!ask(port, None, PATIENT).ready);
    }
}

#[test]
fn heads_without_an_end_are_no_answer() {
    let one_header = serving(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nx: ")?;
        (0..1 << 14).try_for_each(|_| stream.write_all(&[b'x'; 1 << 16]))
    });
    assert!(!ask(one_header, None, PATIENT).ready);
    let many_headers = serving(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        (0..u32::MAX).try_for_each(|n| write!(stream, "x-{n}: y\r\n"))
    });
    assert!(!ask(many_headers, None, PATIENT).ready);
    let on_its_way =
        serving(|stream| (0..u32::MAX).try_for_each(|_| stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")));
    assert!(!ask(on_its_way, None, SHORT).ready);
}

#[test]
fn of_a_body_without_an_end_the_beginning_is_searched() {
    let plain = || {
        serving(|stream| {
            stream.write_all(OK)?;
            stream.write_all(b"\r\nit is \xff ok ")?;
            (0..u32::MAX).try_for_each(|_| stream.write_all(&[b'x'; 1 << 16]))
        })
    };
    assert!(ask(plain(), Some("ok"), PATIENT).ready);
    assert!(!ask(plain(), Some("never"), PATIENT).ready);
    let chunked = serving(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")?;
        (0..u32::MAX).try_for_each(|_| stream.write_all(b"8;x=y\r\nxxxxxxxx\r\n"))
    });
    assert!(ask(chunked, Some("ok"), PATIENT).ready);
}

#[test]
fn no_more_of_a_body_than_64_kib_is_read() {
    let after = |count: usize| {
        serving(move |stream| {
            stream.write_all(OK)?;
            stream.write_all(b"\r\n")?;
            stream.write_all(&vec![b'x'; count])?;
            stream.write_all(b"ok")
        })
    };
    assert!(ask(after((64 << 10) - 2), Some("ok"), PATIENT).ready);
    assert!(!ask(after((64 << 10) - 1), Some("ok"), PATIENT).ready);
}

#[test]
fn a_body_that_drips_ends_with_the_time_of_the_probe() {
    let drip = serving(|stream| {
        stream.write_all(OK)?;
        stream.write_all(b"\r\n")?;
        (0..1000).try_for_each(|_| {
            thread::park_timeout(Duration::from_millis(100));
            stream.write_all(b".")
        })
    });
    assert!(!ask(drip, Some("never"), SHORT).ready);
    let head = serving(|stream| {
        stream.write_all(OK)?;
        (0..1000).try_for_each(|_| {
            thread::park_timeout(Duration::from_millis(100));
            stream.write_all(b".")
        })
    });
    assert!(!ask(head, None, SHORT).ready);
}

#[test]
fn a_redirect_is_an_answer_and_is_not_followed() {
    let elsewhere = serving(|stream| stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"));
    let port = serving(move |stream| {
        let head = "HTTP/1.1 302 Found\r\nconnection: close\r\ncontent-length: 0";
        write!(stream, "{head}\r\nlocation: http://127.0.0.1:{elsewhere}/\r\n\r\n")
    });
    assert!(ask(port, None, PATIENT).ready);
    assert!(!ask(port, Some("ok"), PATIENT).ready);
}

#[test]
fn what_is_packed_is_not_unpacked() {
    // The gzip of `ok`; a bomb would be a larger one.
    let packed = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\xcf\x06\0\x47\xdd\xdc\x79\x02\0\0\0";
    let port = serving(move |stream| {
        stream.write_all(OK)?;
        stream.write_all(b"content-encoding: gzip\r\n\r\n")?;
        stream.write_all(packed)
    });
    assert!(ask(port, None, PATIENT).ready);
    assert!(!ask(port, Some("ok"), PATIENT).ready);
}
