//! An HAProxy that a reload retired: it finishes what it has, by the rotation before, and is in no count of the one that took
//! its place. The runtime API does not reach it, so that only its connections tell of its requests.

use std::time::Duration;

use super::Endpoint;
use crate::proxy::{InFlight, hex, is_written};

/// How long a client that kept its connection may still send a request, which goes by the rotation before.
pub const LINGER: Duration = Duration::from_secs(10);

/// Workers that started within this time, in seconds, are of one configuration (`nbproc`, before 2.5).
const TOGETHER: f64 = 0.2;

/// Prints every HAProxy of the container with its parent and start in ticks of 10 ms, the uptime, and where there are several,
/// the connections to these addresses.
pub fn question(endpoints: &[Endpoint]) -> String {
    let remotes: Vec<String> = endpoints.iter().flat_map(|e| &e.addresses).map(hex).collect();
    let connections = match remotes.is_empty() {
        true => String::new(),
        false => format!(
            "[ $n -lt 2 ] || grep -hoE ' (0000000000000000FFFF0000)?({}):[0-9A-F]{{4}} 0[1238] ' /proc/net/tcp /proc/net/tcp6 \
             2>/dev/null | sed 's/^ /@connection /'\n",
            remotes.join("|")
        ),
    };
    format!(
        "n=0
for f in /proc/[0-9]*/stat; do
  read -r s < $f || continue
  case $s in *' (haproxy) '[!ZX]*) ;; *) continue ;; esac
  p=${{s%% *}}; set -- ${{s##*) }}
  echo \"@process $p $2 ${{20}}\"; n=$((n+1))
done 2>/dev/null
read -r up rest < /proc/uptime && echo \"@uptime $up\"
{connections}"
    )
}

/// What is known of a retired HAProxy.
pub struct Retired {
    /// How long ago another one took its place.
    quiet: Duration,
    /// Address of each connection, as the kernel writes it.
    remotes: Vec<String>,
}

impl Retired {
    /// None where none lives.
    pub fn parse(text: &str) -> Option<Retired> {
        let of = |mark: &'static str| text.lines().filter_map(move |line| line.strip_prefix(mark));
        let processes: Vec<(u32, u32, f64)> = of("@process ").filter_map(process).collect();
        let uptime: f64 = of("@uptime ").next()?.trim().parse().ok()?;
        // A master takes no requests.
        let works = |pid: u32| !processes.iter().any(|(_, parent, _)| *parent == pid);
        let mut starts: Vec<f64> = processes.iter().filter(|p| works(p.0)).map(|p| p.2 / 100.0).collect();
        starts.sort_by(f64::total_cmp);
        let (first, last) = (starts.first()?, starts.last()?);
        (last - first > TOGETHER).then(|| Retired {
            quiet: Duration::try_from_secs_f64(uptime - last).unwrap_or_default(),
            remotes: of("@connection ").filter_map(|l| l.split(':').next()).map(String::from).collect(),
        })
    }

    /// Its requests are among the connections, with idle ones of both.
    pub fn in_flight(&self, endpoint: &Endpoint, exact: usize) -> InFlight {
        let is_its = |remote: &&String| endpoint.addresses.iter().any(|a| is_written(remote, a));
        match self.remotes.iter().filter(is_its).count() {
            0 => InFlight::Exact(exact),
            open => InFlight::AtMost { exact, open, quiet: self.quiet },
        }
    }
}

/// Reads `27 1 90421`: process, parent and start.
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
    fn connections_count_while_a_worker_lives_that_a_reload_retired() {
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
        // Without a master, each is started beside the last (`-sf`).
        assert!(Retired::parse("@process 8 1 1000\n@process 27 1 90000\n@uptime 912.50\n").is_some());
    }

    #[test]
    fn a_master_and_workers_that_started_together_are_no_retired_ones() {
        for alive in [
            "@process 1 0 1000\n@process 8 1 1001\n",
            "@process 1 0 1\n@process 8 1 50\n@process 9 1 55\n",
            "",
        ] {
            assert!(Retired::parse(&format!("{alive}@uptime 912.50\n")).is_none(), "{alive}");
        }
        // The master is as old as the container, also where its first worker is gone.
        assert!(Retired::parse("@process 1 0 1000\n@process 27 1 90000\n@uptime 912.50\n").is_none());
    }
}
