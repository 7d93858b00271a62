//! Memory for old and new instances of the services that are deployed together.

use crate::finding::Finding;

/// Memory of one instance, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryNeed {
    /// Use of the largest running instance, or the reservation of the file.
    Measured(u64),
    /// Upper limit.
    Limit(u64),
}

impl MemoryNeed {
    /// Need of one instance; `used` is that of the largest running one. A limit counts only while no instance runs,
    /// because then nothing is measured.
    pub fn new(limit: Option<u64>, reserved: Option<u64>, used: Option<u64>) -> Option<MemoryNeed> {
        let measured = used.max(reserved).map(MemoryNeed::Measured);
        let limit = limit.map(MemoryNeed::Limit);
        if used.is_none() { limit.or(measured) } else { measured }
    }
}

/// Instances of a service during a deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryDemand {
    pub service: String,
    pub running: u64,
    /// New instances that start beside the running ones.
    pub starting: u64,
    pub need: MemoryNeed,
}

/// Memory of the host of the engine, in bytes, as far as known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostMemory {
    pub total: Option<u64>,
    /// Memory that programs can still allocate.
    pub available: Option<u64>,
}

/// Compares the memory of all services that are deployed together with that of the host.
pub fn finding(demands: &[MemoryDemand], memory: HostMemory) -> Option<Finding> {
    too_little(demands, memory).or_else(|| possibly_too_little(demands, memory))
}

fn too_little(demands: &[MemoryDemand], memory: HostMemory) -> Option<Finding> {
    let measured = |demand: &MemoryDemand| match demand.need {
        MemoryNeed::Measured(bytes) => bytes,
        MemoryNeed::Limit(_) => 0,
    };
    // On a remote host only the total is known.
    let (needed, present) = match memory.available {
        Some(available) => (sum(demands, |d| d.starting.saturating_mul(measured(d))), available),
        None => {
            let all = |d: &MemoryDemand| d.running.saturating_add(d.starting).saturating_mul(measured(d));
            (sum(demands, all), memory.total?)
        }
    };
    let (need, has) = (human_size(needed), human_size(present));
    let message = match memory.available {
        Some(_) => format!("new instances beside the old ones need {need}, and {has} are free"),
        None => format!("old and new instances together need {need}, and the host has {has}"),
    };
    (needed > present).then(|| Finding::loss(RULE, message, fix(demands)))
}

fn possibly_too_little(demands: &[MemoryDemand], memory: HostMemory) -> Option<Finding> {
    let most = |d: &MemoryDemand| {
        let (MemoryNeed::Measured(bytes) | MemoryNeed::Limit(bytes)) = d.need;
        d.running.max(d.starting).saturating_add(d.starting).saturating_mul(bytes)
    };
    let (needed, total) = (sum(demands, most), memory.total?);
    let message = format!(
        "old and new instances together may need up to {} (by their limits), and the host has {}",
        human_size(needed),
        human_size(total)
    );
    (needed > total).then(|| Finding::note(RULE, message, fix(demands)))
}

const RULE: &str = "too-little-memory";

fn sum(demands: &[MemoryDemand], bytes: impl Fn(&MemoryDemand) -> u64) -> u64 {
    demands.iter().map(bytes).fold(0, u64::saturating_add)
}

/// Fix: smaller batches for the service that starts most instances at a time.
fn fix(demands: &[MemoryDemand]) -> String {
    let largest = demands.iter().max_by_key(|c| c.starting).filter(|c| c.starting > 1);
    match largest {
        Some(demand) => format!(
            "start fewer at a time: `services.{}.deploy.update_config.parallelism: 1`; or give the host more memory",
            demand.service
        ),
        None if demands.len() > 1 => {
            "deploy the services one after the other (`--one-by-one`), or give the host more memory".into()
        }
        None => "give the host more memory, or lower the `mem_limit` of the service".into(),
    }
}

/// Size in words.
pub fn human_size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib >= 1024.0 { format!("{:.1} GiB", mib / 1024.0) } else { format!("{mib:.0} MiB") }
}

/// Parses `12.5MiB / 23.5GiB` from `docker stats`.
pub fn parse_docker_stats(text: &str) -> Option<u64> {
    let first = text.split('/').next()?.trim();
    let at = first.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = first.split_at(at);
    let factor: f64 = match unit {
        "B" => 1.0,
        "KiB" | "kB" => 1024.0,
        "MiB" | "MB" => 1_048_576.0,
        "GiB" | "GB" => 1_073_741_824.0,
        "TiB" | "TB" => 1_099_511_627_776.0,
        _ => return None,
    };
    number.trim().parse::<f64>().ok().map(|n| (n * factor) as u64)
}

/// Parses `MemAvailable` from `/proc/meminfo`, in bytes.
pub fn parse_meminfo(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;

    const GIB: u64 = 1 << 30;

    fn demand(running: u64, starting: u64, need: MemoryNeed) -> MemoryDemand {
        MemoryDemand { service: "app".into(), running, starting, need }
    }

    fn severity_of(demands: &[MemoryDemand], total: u64, available: Option<u64>) -> Option<Severity> {
        let memory = HostMemory { total: Some(total * GIB), available: available.map(|a| a * GIB) };
        finding(demands, memory).map(|f| f.severity)
    }

    #[test]
    fn new_instances_must_fit_into_the_free_memory() {
        let taken = |running, starting| [demand(running, starting, MemoryNeed::Measured(GIB))];
        assert_eq!(severity_of(&taken(3, 3), 8, Some(3)), None);
        assert_eq!(severity_of(&taken(3, 3), 8, Some(2)), Some(Severity::Loss));
        assert_eq!(severity_of(&taken(3, 1), 8, Some(2)), None, "in batches");
        assert_eq!(severity_of(&taken(0, 3), 8, Some(3)), None);
        let two = [demand(1, 1, MemoryNeed::Measured(GIB)), demand(1, 1, MemoryNeed::Measured(GIB))];
        assert_eq!(severity_of(&two, 8, Some(1)), Some(Severity::Loss), "both at a time");
    }

    #[test]
    fn on_a_remote_host_only_the_total_is_known() {
        let taken = [demand(3, 3, MemoryNeed::Measured(GIB))];
        assert_eq!(
            (severity_of(&taken, 6, None), severity_of(&taken, 5, None)),
            (None, Some(Severity::Loss))
        );
        assert_eq!(finding(&taken, HostMemory::default()), None);
    }

    #[test]
    fn a_limit_gives_only_a_note() {
        let limited = |running| [demand(running, 2, MemoryNeed::Limit(GIB))];
        assert_eq!(severity_of(&limited(2), 4, Some(0)), None);
        assert_eq!(severity_of(&limited(2), 3, Some(3)), Some(Severity::Note));
        assert_eq!(severity_of(&limited(0), 3, Some(3)), Some(Severity::Note), "of which none runs yet");
        assert_eq!(
            severity_of(&[demand(1, u64::MAX, MemoryNeed::Limit(u64::MAX))], 3, Some(3)),
            Some(Severity::Note)
        );
    }

    #[test]
    fn the_fix_depends_on_the_number_of_instances_that_start_together() {
        let many = [demand(3, 3, MemoryNeed::Measured(GIB))];
        assert!(fix(&many).contains("`services.app.deploy.update_config.parallelism: 1`"));
        let one = demand(1, 1, MemoryNeed::Measured(GIB));
        assert!(fix(&[one.clone(), one.clone()]).contains("one after the other"));
        assert!(fix(&[one]).contains("more memory"));
    }

    #[test]
    fn memory_is_parsed_as_docker_and_the_kernel_print_it() {
        assert_eq!(parse_docker_stats("792KiB / 23.54GiB"), Some(792 << 10));
        assert_eq!(parse_docker_stats("1.5GiB / 2GiB"), Some(3 << 29));
        assert_eq!(
            [parse_docker_stats("0B / 0B"), parse_docker_stats("-- / --"), parse_docker_stats("")],
            [Some(0), None, None]
        );
        assert_eq!(parse_meminfo("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(parse_meminfo("MemTotal: 9 kB"), None);
        assert_eq!([human_size(5 << 20), human_size(3 << 29)], ["5 MiB", "1.5 GiB"]);
    }

    #[test]
    fn measured_or_reserved_memory_precedes_a_limit() {
        let need = MemoryNeed::new;
        assert_eq!(need(None, None, None), None);
        assert_eq!(need(Some(9), Some(3), None), Some(MemoryNeed::Limit(9)));
        assert_eq!(need(Some(9), Some(3), Some(2)), Some(MemoryNeed::Measured(3)));
        assert_eq!(need(Some(9), None, Some(2)), Some(MemoryNeed::Measured(2)));
        assert_eq!(need(None, Some(3), None), Some(MemoryNeed::Measured(3)));
    }
}
