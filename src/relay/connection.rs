//! One connection of a relay: held, then forwarded or refused.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::first_bytes::{FirstBytes, classify};
use super::ledger::{Ledger, OpenConnection, Orders, Place};
use super::splice::{SpliceEnd, linger, refuse, splice};

/// Most bytes that are read of a connection before it is forwarded.
pub const MAX_FIRST_BYTES: usize = 16 << 10;

/// Bytes that are read at a time.
const READ_SIZE: usize = 4 << 10;

/// Interval between two attempts to reach the target.
const RETRY: Duration = Duration::from_millis(50);

/// Limit for one attempt to reach the target.
const DIAL_LIMIT: Duration = Duration::from_secs(1);

/// Time for a client without a place to send its first bytes.
const FIRST_BYTES_LIMIT: Duration = Duration::from_secs(1);

/// End of a hold.
enum HoldEnd {
    Forward(TcpStream, IpAddr),
    Refuse,
    /// The client has left.
    Gone,
}

/// Serves an accepted connection to its end.
pub async fn serve(mut client: TcpStream, port: u16, ledger: Rc<Ledger>) {
    let _open = OpenConnection::new(&ledger);
    let mut held = HeldBytes::default();
    loop {
        let Some(mut place) = Place::take(&ledger) else {
            drop(timeout(FIRST_BYTES_LIMIT, held.read_first(&client)).await);
            ledger.refuse();
            return refuse(client, classify(&held.bytes)).await;
        };
        let end = hold(&client, port, &ledger, &mut held, &mut place).await;
        let has_request = place.has_request();
        drop(place);
        match end {
            HoldEnd::Gone => return,
            HoldEnd::Refuse => {
                if has_request {
                    ledger.refuse();
                }
                return refuse(client, classify(&held.bytes)).await;
            }
            HoldEnd::Forward(server, target) => {
                match splice(&mut client, server, target, held.bytes, &ledger).await {
                    // The next request of the client does not go to a former target.
                    SpliceEnd::NextRequest(bytes) => held = HeldBytes { bytes, is_whole: false },
                    SpliceEnd::Ended => return linger(client).await,
                    SpliceEnd::Reset => return,
                }
            }
        }
    }
}

/// Holds a connection until its target accepts it, or it has to be refused.
async fn hold(
    client: &TcpStream,
    port: u16,
    ledger: &Ledger,
    held: &mut HeldBytes,
    place: &mut Place,
) -> HoldEnd {
    let deadline = Instant::now() + ledger.bounds().hold;
    let mut all_orders = ledger.orders();
    if !held.bytes.is_empty() && !place.add(held.bytes.len()) {
        return HoldEnd::Refuse;
    }
    loop {
        let orders: Orders = all_orders.borrow_and_update().clone();
        if let Some(target) = orders.target {
            let dial = TcpStream::connect(SocketAddr::new(target, orders.port_of_target(port)));
            if let Ok(Ok(server)) = timeout(DIAL_LIMIT, dial).await {
                return HoldEnd::Forward(server, target);
            }
        } else if orders.closing {
            return HoldEnd::Refuse;
        }
        let retry = orders.target.map_or(deadline, |_| deadline.min(Instant::now() + RETRY));
        tokio::select! {
            _ = all_orders.changed() => {}
            () = sleep_until(retry) => {}
            end = held.read(client, place) => return end,
        }
        if Instant::now() >= deadline {
            return HoldEnd::Refuse;
        }
    }
}

/// Bytes of a connection that is held.
#[derive(Default)]
struct HeldBytes {
    bytes: Vec<u8>,
    /// The client sends no more.
    is_whole: bool,
}

impl HeldBytes {
    /// Reads until the hold has to end.
    async fn read(&mut self, client: &TcpStream, place: &mut Place) -> HoldEnd {
        while !self.is_whole && self.bytes.len() < MAX_FIRST_BYTES {
            match self.read_some(client).await {
                Some(0) => {
                    let is_complete = classify(&self.bytes) != FirstBytes::Partial;
                    if self.bytes.is_empty() || !is_complete {
                        return HoldEnd::Gone;
                    }
                    self.is_whole = true;
                }
                Some(length) => {
                    if !place.add(length) {
                        return HoldEnd::Refuse;
                    }
                }
                None => return HoldEnd::Gone,
            }
        }
        // Nothing more is read. A reset still ends the hold.
        drop(client.ready(Interest::ERROR).await);
        HoldEnd::Gone
    }

    /// Reads the first bytes of a connection that has no place.
    async fn read_first(&mut self, client: &TcpStream) {
        self.read_some(client).await;
    }

    /// Reads once. `None` after a reset.
    async fn read_some(&mut self, client: &TcpStream) -> Option<usize> {
        loop {
            client.readable().await.ok()?;
            let mut buffer = [0; READ_SIZE];
            let size = READ_SIZE.min(MAX_FIRST_BYTES - self.bytes.len());
            match client.try_read(&mut buffer[..size]) {
                Ok(length) => {
                    self.bytes.extend(&buffer[..length]);
                    return Some(length);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }
}
