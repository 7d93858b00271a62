//! An HAProxy process that a reload retired. It finishes its open requests by the previous rotation. The
//! counters of its successor do not include them, and the runtime API does not reach it, so only its
//! connections reveal its requests.

use std::time::Duration;

use super::Endpoint;
use crate::proxy::InFlight;
use crate::proxy::kit::sockets;

/// Time for which a client with an open connection may still send a request, which goes to the previous
/// rotation.
pub const LATE_REQUEST_GRACE: Duration = Duration::from_secs(10);

/// Workers that started within this many seconds of each other have the same configuration (`nbproc`, before
/// 2.5).
const SAME_START: f64 = 0.2;

/// Script that prints the uptime, and each HAProxy process of the container with its parent and start in ticks
/// of 10 ms. If several processes run, the script also prints the connections to these addresses.
pub fn process_script(endpoints: &[Endpoint]) -> String {
    let connections = sockets::listing(&sockets::remotes(endpoints));
    format!(
        "n=0
for f in /proc/[0-9]*/stat; do
  read -r s < $f || continue
  case $s in *' (haproxy) '[!ZX]*) ;; *) continue ;; esac
  p=${{s%% *}}; set -- ${{s##*) }}
  echo \"@process $p $2 ${{20}}\"; n=$((n+1))
done 2>/dev/null
read -r up rest < /proc/uptime && echo \"@uptime $up\"
[ $n -lt 2 ] || {connections} | sed 's/^ /@connection /'
"
    )
}

/// State of a retired HAProxy process.
pub struct Retired {
    /// Time since its successor started.
    quiet: Duration,
    /// Remote address of each connection, as the kernel prints it.
    remotes: Vec<String>,
}

impl Retired {
    /// None where no retired process runs.
    pub fn parse(text: &str) -> Option<Retired> {
        let marked = |mark: &'static str| text.lines().filter_map(move |line| line.strip_prefix(mark));
        let processes: Vec<(u32, u32, f64)> = marked("@process ").filter_map(process).collect();
        let uptime: f64 = marked("@uptime ").next()?.trim().parse().ok()?;
        // A master process gets no requests.
        let is_worker = |pid: u32| !processes.iter().any(|(_, parent, _)| *parent == pid);
        let mut starts: Vec<f64> = processes.iter().filter(|p| is_worker(p.0)).map(|p| p.2 / 100.0).collect();
        starts.sort_by(f64::total_cmp);
        let (first, last) = (starts.first()?, starts.last()?);
        (last - first > SAME_START).then(|| Retired {
            quiet: Duration::try_from_secs_f64(uptime - last).unwrap_or_default(),
            remotes: marked("@connection ").filter_map(|l| l.split(':').next()).map(String::from).collect(),
        })
    }

    /// Requests to an endpoint: the exact count of the successor, and all connections, which may also be idle
    /// or the successor's.
    pub fn in_flight(&self, endpoint: &Endpoint, exact: usize) -> InFlight {
        match sockets::count(&self.remotes, endpoint) {
            0 => InFlight::Exact(exact),
            open => InFlight::AtMost { exact, open, quiet: self.quiet },
        }
    }
}

/// Parses `27 1 90421`: process, parent and start.
fn process(line: &str) -> Option<(u32, u32, f64)> {
    let mut words = line.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTIONS: &str =
        "@connection 050013AC:0BB8 01\n@connection 0000000000000000FFFF0000050013AC:0BB8 01\n";

    fn endpoint(address: &str) -> Endpoint {
        Endpoint { addresses: vec![address.parse().unwrap()], ..Endpoint::default() }
    }

    #[test]
    fn connections_count_while_a_retired_worker_runs() {
        let text = format!(
            "@process 1 0 1000\n@process 8 1 1000\n@process 27 1 90000\n@uptime 912.50\n{CONNECTIONS}"
        );
        let retired = Retired::parse(&text).unwrap();
        let quiet = Duration::from_millis(12_500);
        assert_eq!(
            retired.in_flight(&endpoint("172.19.0.5"), 3),
            InFlight::AtMost { exact: 3, open: 2, quiet }
        );
        assert_eq!(retired.in_flight(&endpoint("172.19.0.6"), 3), InFlight::Exact(3));
        // Without a master, each process starts beside the last (`-sf`).
        assert!(Retired::parse("@process 8 1 1000\n@process 27 1 90000\n@uptime 912.50\n").is_some());
    }

    #[test]
    fn a_master_and_workers_that_started_together_are_not_retired() {
        for processes in [
            "@process 1 0 1000\n@process 8 1 1001\n",
            "@process 1 0 1\n@process 8 1 50\n@process 9 1 55\n",
            "",
        ] {
            assert!(Retired::parse(&format!("{processes}@uptime 912.50\n")).is_none(), "{processes}");
        }
        // The master is as old as the container, even if its first worker is gone.
        assert!(Retired::parse("@process 1 0 1000\n@process 27 1 90000\n@uptime 912.50\n").is_none());
    }
}
