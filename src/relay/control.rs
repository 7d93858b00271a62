//! Control of a running relay by another process of its container: one order, one answer.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as BlockingListener, UnixStream as BlockingStream};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::RelayStatus;
use super::ledger::Ledger;

/// Limit for an order and its answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Longest order.
const MAX_ORDER: u64 = 4096;

/// Order for a relay, one line of JSON. The answer is the state of the relay before it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    Status,
    /// Without an address, connections wait again.
    Forward {
        to: Option<IpAddr>,
        /// Ports of the target that differ from those of the relay.
        ports: BTreeMap<u16, u16>,
    },
}

/// Socket of this name in the abstract namespace, which needs no file.
///
/// # Errors
/// Another relay runs in this network.
pub fn bind(name: &str) -> io::Result<UnixListener> {
    let listener = BlockingListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Answers orders.
pub async fn serve(listener: UnixListener, ledger: Rc<Ledger>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(spawn_local(answer(stream, Rc::clone(&ledger)))),
            Err(_) => tokio::time::sleep_until(tokio::time::Instant::now() + super::POLL).await,
        }
    }
}

async fn answer(stream: UnixStream, ledger: Rc<Ledger>) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut order = tokio::io::BufReader::new(read.take(MAX_ORDER));
    drop(timeout(LIMIT, order.read_line(&mut line)).await);
    let Ok(order) = serde_json::from_str(&line) else { return };
    let status = ledger.status();
    if let Order::Forward { to, ports } = order {
        ledger.forward(to, ports);
    }
    let text = serde_json::to_string(&status).unwrap_or_default() + "\n";
    drop(timeout(LIMIT, write.write_all(text.as_bytes())).await);
}

/// Sends an order to the relay with this socket.
///
/// # Errors
/// No relay answers.
pub fn query(name: &str, order: &Order) -> Result<RelayStatus> {
    let mut stream = BlockingStream::connect_addr(&SocketAddr::from_abstract_name(name)?)
        .context("no relay listens in this network")?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all((serde_json::to_string(order)? + "\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).context("the relay does not answer")?;
    serde_json::from_str(&line).context("the answer of the relay cannot be read")
}
