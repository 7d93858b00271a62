//! An HAProxy process that a reload retired. It finishes its open requests by the previous rotation. The
//! counters of its successor do not include them, and the runtime API does not reach it, so only its
//! connections reveal its requests.

use std::time::Duration;

/// Time for which a client with an open connection may still send a request, which goes to the previous
/// rotation.
pub const LATE_REQUEST_GRACE: Duration = Duration::from_secs(10);

/// Workers that started within this many seconds of each other have the same configuration (`nbproc`, before
/// 2.5).
const SAME_START: f64 = 0.2;

/// Script that prints the uptime, and each HAProxy process of the container with its parent and start in ticks
/// of 10 ms.
pub const PROCESS_SCRIPT: &str = "for f in /proc/[0-9]*/stat; do
  read -r s < $f || continue
  case $s in *' (haproxy) '[!ZX]*) ;; *) continue ;; esac
  p=${s%% *}; set -- ${s##*) }
  echo \"@process $p $2 ${20}\"
done 2>/dev/null
read -r up rest < /proc/uptime && echo \"@uptime $up\"
";

/// Time since the successor of a retired process started; `None` where no retired process runs.
pub fn retired_for(text: &str) -> Option<Duration> {
    let marked = |mark: &'static str| text.lines().filter_map(move |line| line.strip_prefix(mark));
    let processes: Vec<(u32, u32, f64)> = marked("@process ").filter_map(process).collect();
    let uptime: f64 = marked("@uptime ").next()?.trim().parse().ok()?;
    // A master process gets no requests.
    let is_worker = |pid: u32| !processes.iter().any(|(_, parent, _)| *parent == pid);
    let mut starts: Vec<f64> = processes.iter().filter(|p| is_worker(p.0)).map(|p| p.2 / 100.0).collect();
    starts.sort_by(f64::total_cmp);
    let (first, last) = (starts.first()?, starts.last()?);
    (last - first > SAME_START).then(|| Duration::try_from_secs_f64(uptime - last).unwrap_or_default())
}

/// Parses `27 1 90421`: process, parent and start.
fn process(line: &str) -> Option<(u32, u32, f64)> {
    let mut words = line.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_with_a_successor_is_retired() {
        let text = "@process 1 0 1000\n@process 8 1 1000\n@process 27 1 90000\n@uptime 912.50\n";
        assert_eq!(retired_for(text), Some(Duration::from_millis(12_500)));
        // Without a master, each process starts beside the last (`-sf`).
        let text = "@process 8 1 1000\n@process 27 1 90000\n@uptime 912.50\n";
        assert_eq!(retired_for(text), Some(Duration::from_millis(12_500)));
    }

    #[test]
    fn a_master_and_workers_that_started_together_are_not_retired() {
        for processes in [
            "@process 1 0 1000\n@process 8 1 1001\n",
            "@process 1 0 1\n@process 8 1 50\n@process 9 1 55\n",
            "",
        ] {
            assert!(retired_for(&format!("{processes}@uptime 912.50\n")).is_none(), "{processes}");
        }
        // The master is as old as the container, even if its first worker is gone.
        assert!(retired_for("@process 1 0 1000\n@process 27 1 90000\n@uptime 912.50\n").is_none());
    }
}
