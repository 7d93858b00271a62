//! Bytes of a forwarded connection in both directions, and the end of a connection.

use std::cell::Cell;
use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::first_bytes::FirstBytes;
use super::ledger::Orders;
use super::poll_until;

/// Bytes that are copied at a time.
const COPY_SIZE: usize = 16 << 10;

/// Quiet time after an answer, after which a connection counts as idle.
const QUIET: Duration = Duration::from_secs(1);

/// Limits for what a client may still send after its last answer. A close with unread bytes resets the connection, and
/// the client loses the answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

/// Answer for a request over a bound.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
Content-Length: 0\r\n\r\n";

/// End of one direction.
#[derive(Debug, PartialEq, Eq)]
enum PumpEnd {
    Eof,
    ReadFailed,
    WriteFailed,
}

/// Last bytes of a connection.
struct Activity {
    at: Cell<Instant>,
    is_request: Cell<bool>,
}

impl Activity {
    fn record(&self, is_request: bool) {
        self.at.set(Instant::now());
        self.is_request.set(is_request);
    }

    /// Every request is answered, as far as the order of bytes shows.
    fn is_idle(&self) -> bool {
        !self.is_request.get() && self.at.get().elapsed() >= QUIET
    }
}

/// Copies both ways until both sides have ended. A side that ends its writes still gets the rest of the other.
pub async fn splice(
    mut client: TcpStream,
    mut server: TcpStream,
    first: Vec<u8>,
    mut orders: watch::Receiver<Orders>,
) {
    for side in [&client, &server] {
        // Small answers are not to wait for an acknowledgement.
        drop(side.set_nodelay(true));
    }
    let activity = Activity { at: Cell::new(Instant::now()), is_request: Cell::new(!first.is_empty()) };
    let (client_read, mut client_write) = client.split();
    let (server_read, mut server_write) = server.split();
    let up = async {
        let end = pump(&client_read, &mut server_write, first, || activity.record(true)).await;
        // A client that reset its connection gets no answer, so the server's side ends, too.
        if end == PumpEnd::ReadFailed { Err(()) } else { Ok(()) }
    };
    let down = async {
        pump(&server_read, &mut client_write, Vec::new(), || activity.record(false)).await;
        Ok(())
    };
    let idle_at_the_end = async {
        if orders.wait_for(|orders| orders.closing).await.is_ok() {
            poll_until(|| activity.is_idle()).await;
        }
    };
    let has_ended = tokio::select! {
        end = async { tokio::try_join!(up, down) } => end.is_ok(),
        () = idle_at_the_end => true,
    };
    if has_ended {
        linger(client).await;
    }
}

/// Copies one direction, and then ends the writes of its receiver.
async fn pump(from: &ReadHalf<'_>, to: &mut WriteHalf<'_>, mut rest: Vec<u8>, record: impl Fn()) -> PumpEnd {
    let end = loop {
        if to.write_all(&rest).await.is_err() {
            return PumpEnd::WriteFailed;
        }
        rest = Vec::new();
        if from.readable().await.is_err() {
            break PumpEnd::ReadFailed;
        }
        match copy_once(from, to) {
            Ok(None) => {}
            Ok(Some(unsent)) => {
                record();
                rest = unsent;
            }
            Err(end) => break end,
        }
    };
    drop(to.shutdown().await);
    end
}

/// Copies what has arrived, and returns the bytes that the receiver does not take yet. `None` if nothing has arrived.
/// The buffer is on the stack, so a quiet connection needs no memory for one.
fn copy_once(from: &ReadHalf<'_>, to: &WriteHalf<'_>) -> Result<Option<Vec<u8>>, PumpEnd> {
    let mut buffer = [0; COPY_SIZE];
    let length = match from.try_read(&mut buffer) {
        Ok(0) => return Err(PumpEnd::Eof),
        Ok(length) => length,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
        Err(_) => return Err(PumpEnd::ReadFailed),
    };
    // An error comes again at the next write.
    let sent = to.try_write(&buffer[..length]).unwrap_or(0);
    Ok(Some(buffer[sent..length].to_vec()))
}

/// Ends a held connection: a request gets 503, another protocol nothing.
pub async fn refuse(mut client: TcpStream, first: FirstBytes) {
    if first != FirstBytes::Other && client.write_all(REFUSAL).await.is_err() {
        return;
    }
    linger(client).await;
}

/// Ends the writes, and reads what the client still sends.
async fn linger(mut client: TcpStream) {
    drop(client.shutdown().await);
    let rest = async {
        let mut left = LINGER_BYTES;
        while left > 0 && client.readable().await.is_ok() {
            match client.try_read(&mut [0; COPY_SIZE]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
                Ok(length) => left = left.saturating_sub(length),
            }
        }
    };
    drop(timeout(LINGER, rest).await);
}
