//! Bytes of a forwarded connection in both directions, and the end of a connection.

use std::io::ErrorKind;
use std::mem;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::activity::Activity;
use super::first_bytes::FirstBytes;
use super::ledger::{Forwarded, Ledger};
use super::poll_until;

/// Bytes that are copied at a time.
const COPY_SIZE: usize = 16 << 10;

/// Limits for what a client may still send after its last answer. A close with unread bytes resets the connection, and
/// the client loses the answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

/// Answer for a request over a bound.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
Content-Length: 0\r\n\r\n";

/// End of a forwarded connection.
pub enum SpliceEnd {
    /// Both sides have ended, or the relay ends.
    Ended,
    /// The client reset its side.
    Reset,
    /// The server is a former target, and these bytes begin the next request.
    NextRequest(Vec<u8>),
}

/// End of one direction.
enum PumpEnd {
    Eof,
    ReadFailed,
    WriteFailed,
    /// These bytes are not for the receiver.
    Diverted(Vec<u8>),
}

/// Copies both ways until both sides have ended. A side that ends its writes still gets the rest of the other.
pub async fn splice(
    client: &mut TcpStream,
    mut server: TcpStream,
    target: IpAddr,
    first: Vec<u8>,
    ledger: &Rc<Ledger>,
) -> SpliceEnd {
    for side in [&*client, &server] {
        // Small answers are not to wait for an acknowledgement.
        drop(side.set_nodelay(true));
    }
    let forwarded = Forwarded::new(ledger, Activity::new(target, !first.is_empty()));
    let activity = &forwarded.activity;
    let (client_read, mut client_write) = client.split();
    let (server_read, mut server_write) = server.split();
    let accepts_request = |bytes: &[u8]| {
        let is_accepted = !(forwarded.is_former() && activity.begins_request(bytes));
        if is_accepted {
            activity.record_request();
        }
        is_accepted
    };
    let up = async {
        match pump(&client_read, &mut server_write, first, accepts_request).await {
            // A client that reset its connection gets no answer, so the server's side ends, too.
            PumpEnd::ReadFailed => Err(SpliceEnd::Reset),
            PumpEnd::Diverted(bytes) => Err(SpliceEnd::NextRequest(bytes)),
            PumpEnd::Eof | PumpEnd::WriteFailed => Ok(()),
        }
    };
    let accepts_answer = |bytes: &[u8]| {
        activity.record_answer(bytes);
        true
    };
    let down = async {
        pump(&server_read, &mut client_write, Vec::new(), accepts_answer).await;
        Ok(())
    };
    let mut orders = ledger.orders();
    let idle_at_the_end = async {
        if orders.wait_for(|orders| orders.closing).await.is_ok() {
            poll_until(|| activity.is_idle()).await;
        }
    };
    tokio::select! {
        end = async { tokio::try_join!(up, down) } => end.err().unwrap_or(SpliceEnd::Ended),
        () = idle_at_the_end => SpliceEnd::Ended,
    }
}

/// Copies one direction, and then ends the writes of its receiver.
async fn pump(
    from: &ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    mut rest: Vec<u8>,
    accepts: impl Fn(&[u8]) -> bool,
) -> PumpEnd {
    let end = loop {
        if to.write_all(&mem::take(&mut rest)).await.is_err() {
            return PumpEnd::WriteFailed;
        }
        if from.readable().await.is_err() {
            break PumpEnd::ReadFailed;
        }
        match copy_once(from, to, &accepts) {
            Ok(unsent) => rest = unsent,
            Err(diverted @ PumpEnd::Diverted(_)) => return diverted,
            Err(end) => break end,
        }
    };
    drop(to.shutdown().await);
    end
}

/// Copies what has arrived, and returns the bytes that the receiver does not take yet. The buffer is on the stack, so a
/// quiet connection needs no memory for one.
fn copy_once(
    from: &ReadHalf<'_>,
    to: &WriteHalf<'_>,
    accepts: &impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>, PumpEnd> {
    let mut buffer = [0; COPY_SIZE];
    let bytes = match from.try_read(&mut buffer) {
        Ok(0) => return Err(PumpEnd::Eof),
        Ok(length) => &buffer[..length],
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Vec::new()),
        Err(_) => return Err(PumpEnd::ReadFailed),
    };
    if !accepts(bytes) {
        return Err(PumpEnd::Diverted(bytes.to_vec()));
    }
    // An error comes again at the next write.
    let sent = to.try_write(bytes).unwrap_or(0);
    Ok(bytes[sent..].to_vec())
}

/// Ends a held connection: a request gets 503, another protocol nothing.
pub async fn refuse(mut client: TcpStream, first: FirstBytes) {
    if first != FirstBytes::Other && client.write_all(REFUSAL).await.is_err() {
        return;
    }
    linger(client).await;
}

/// Ends the writes, and reads what the client still sends.
pub async fn linger(mut client: TcpStream) {
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
