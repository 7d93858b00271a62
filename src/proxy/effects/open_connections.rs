//! Answer to a query for open connections: by the kernel with their times where this process may enter the network
//! namespace, or by a helper container; else by the table of the container.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;

use super::{Namespace, succeeded};
use crate::docker::{CommandResult, Docker, Exec, Helper};
use crate::proxy::kit::connections::{self, Connection, Remote, Traffic};
use crate::proxy::kit::{sock_diag, sockets};

const TABLES: &str = "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null; true";

/// Limit for a helper container.
const HELPER_LIMIT: Duration = Duration::from_secs(30);

/// Open connections from the namespace to these instances, a line each. With `by_helper`, a helper container reads the
/// times that this process may not read.
///
/// # Errors
/// Docker cannot be started. The result holds the failure of its command.
pub fn answer(docker: &Docker, of: &Namespace, to: &[Remote], by_helper: bool) -> Result<CommandResult> {
    let found = match of {
        _ if to.is_empty() => Vec::new(),
        Namespace::Process(pid) => to_instances(*pid, to),
        Namespace::Container { id, pid } if is_process_of(*pid, id) => to_instances(*pid, to),
        Namespace::Container { id, .. } => {
            let table = docker.query(&Exec::sh(id, TABLES))?;
            if !table.ok() {
                return Ok(table);
            }
            among(sockets::connections(&table.stdout), to)
        }
    };
    let lacks_times = found.iter().any(|c| c.traffic.is_none());
    let timed = match of {
        Namespace::Container { id, .. } if lacks_times && by_helper => timed_by_helper(docker, id),
        _ => None,
    };
    Ok(succeeded(timed.map_or(found, |all| among(all, to)).iter().map(|c| format!("{c}\n")).collect()))
}

/// Connections of a container, by a helper in its network; `None` where no helper can run.
fn timed_by_helper(docker: &Docker, container: &str) -> Option<Vec<Connection>> {
    let helper = Helper {
        image: docker.prepared_helper_image()?,
        network: format!("container:{container}"),
        command: ["__helper", "connections"].map(String::from).to_vec(),
        ..Helper::default()
    };
    let result = docker.run_helper(&helper, docker.scaled(HELPER_LIMIT)).ok()?;
    result.filter(CommandResult::ok).map(|result| connections::parse(Some(&result)))
}

fn among(connections: Vec<Connection>, to: &[Remote]) -> Vec<Connection> {
    connections.into_iter().filter(|c| to.iter().any(|remote| remote.has(c))).collect()
}

/// Connections from a process of this machine to instances, which run on it too. The side of an instance is read only
/// where this side cannot tell whether a request has its answer.
fn to_instances(pid: u32, to: &[Remote]) -> Vec<Connection> {
    let found = among(of_process(pid), to);
    let is_tie = |c: &&Connection| c.traffic.as_ref().is_some_and(Traffic::is_tie);
    let ties: Vec<&Connection> = found.iter().filter(is_tie).collect();
    let asked = to.iter().filter(|remote| remote.pid > 0 && ties.iter().any(|tie| remote.has(tie)));
    let pids: BTreeSet<u32> = asked.map(|remote| remote.pid).collect();
    let of_instances: Vec<Connection> = pids.into_iter().flat_map(of_process).collect();
    connections::with_answers(found, &of_instances)
}

/// Open connections of clients to these ports of an instance, by a process of it on this machine. Its own connections to
/// itself do not count.
pub fn accepted(pid: u32, ports: &[u16]) -> Vec<Connection> {
    let is_accepted = |c: &Connection| ports.contains(&c.local.port()) && !c.local.ip().is_loopback();
    of_process(pid).into_iter().filter(is_accepted).collect()
}

/// Without the right to enter the namespace, its table is still readable.
fn of_process(pid: u32) -> Vec<Connection> {
    sock_diag::connections_of(pid).unwrap_or_else(|_| sockets::connections(&sockets::table_of(pid)))
}

/// True if the process runs on this machine, and in this container. The engine may run on another machine, where the
/// number means another process.
fn is_process_of(pid: u32, container: &str) -> bool {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    !container.is_empty() && groups.contains(container)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;
    use crate::model::ComposeFlags;

    fn answer_of(program: &str, of: Namespace, to: &[SocketAddr]) -> CommandResult {
        let to: Vec<Remote> =
            to.iter().map(|address| Remote { address: *address, pid: std::process::id() }).collect();
        let docker = Docker::for_test(program.into(), ComposeFlags::default());
        answer(&docker, &of, &to, false).unwrap()
    }

    #[test]
    fn open_connections_are_listed_with_their_traffic() {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (first, second) = (listen(), listen());
        let to = [&first, &second].map(|listener| listener.local_addr().unwrap());
        let own = || Namespace::Process(std::process::id());
        let remotes = |to: &[SocketAddr]| {
            let found = connections::parse(Some(&answer_of("false", own(), to)));
            assert!(found.iter().all(|c| c.traffic.is_some()), "{found:?}");
            found.into_iter().map(|c| c.remote).collect::<Vec<_>>()
        };
        assert_eq!(remotes(&to), []);
        let client = TcpStream::connect(to[1]).unwrap();
        assert_eq!(remotes(&to), [to[1]]);
        assert_eq!(remotes(&to[..1]), []);
        let any_port = SocketAddr::new(to[1].ip(), 0);
        assert!(remotes(&[any_port]).contains(&to[1]));
        assert_eq!(remotes(&[]), []);
        drop(client);
    }

    #[test]
    fn the_table_of_a_container_is_read_in_the_container() {
        // A shorter id may be part of the name of a control group that the test runs in.
        let id = "0123456789abcdef".repeat(4);
        let of = || Namespace::Container { id: id.clone(), pid: std::process::id() };
        let to = ["10.0.0.1:0".parse().unwrap()];
        assert!(answer_of("true", of(), &to).ok(), "the process is not of this container");
        assert!(!answer_of("false", of(), &to).ok());
        assert!(!is_process_of(std::process::id(), ""));
    }
}
