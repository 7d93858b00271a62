//! Whether there is memory for two generations of what is deployed at a time.

use super::finding::{Finding, Scope};

/// What one instance takes, in bytes, by what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryNeed {
    /// As much as the largest that runs takes now, or as the file reserves.
    Measured(u64),
    /// At most.
    Limit(u64),
}

/// The instances of a service during a deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryDemand {
    pub service: String,
    pub running: u64,
    /// How many start beside them.
    pub starting: u64,
    pub need: MemoryNeed,
}

/// The memory of the engine's machine, in bytes, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostMemory {
    pub total: Option<u64>,
    /// What programs can still get.
    pub available: Option<u64>,
}

/// Judges everything that is deployed at a time.
pub fn finding(crowds: &[MemoryDemand], memory: HostMemory) -> Option<Finding> {
    too_little(crowds, memory).or_else(|| possibly_too_little(crowds, memory))
}

fn too_little(crowds: &[MemoryDemand], memory: HostMemory) -> Option<Finding> {
    let new = |c: &MemoryDemand| match c.need {
        MemoryNeed::Measured(bytes) => c.starting.saturating_mul(bytes),
        MemoryNeed::Limit(_) => 0,
    };
    let all = |c: &MemoryDemand| match c.need {
        MemoryNeed::Measured(bytes) => c.running.saturating_add(c.starting).saturating_mul(bytes),
        MemoryNeed::Limit(_) => 0,
    };
    // Of another machine only the whole is known.
    let (needed, there, of) = match (memory.available, memory.total) {
        (Some(available), _) => (sum(crowds, new), available, "are free"),
        (None, Some(total)) => (sum(crowds, all), total, "are there"),
        (None, None) => return None,
    };
    let says = format!(
        "new instances beside the old ones take {}, and {} {of}",
        human_size(needed),
        human_size(there)
    );
    (needed > there).then(|| Finding::no(RULE, Scope::default(), says, fix(crowds)))
}

fn possibly_too_little(crowds: &[MemoryDemand], memory: HostMemory) -> Option<Finding> {
    let most = |c: &MemoryDemand| match c.need {
        MemoryNeed::Measured(bytes) | MemoryNeed::Limit(bytes) => {
            c.running.max(c.starting).saturating_add(c.starting).saturating_mul(bytes)
        }
    };
    let (needed, total) = (sum(crowds, most), memory.total?);
    let says = format!(
        "two generations may take up to {} by their limits, and the machine has {}",
        human_size(needed),
        human_size(total)
    );
    (needed > total).then(|| Finding::note(RULE, Scope::default(), says, fix(crowds)))
}

const RULE: &str = "too-little-memory";

fn sum(crowds: &[MemoryDemand], bytes: impl Fn(&MemoryDemand) -> u64) -> u64 {
    crowds.iter().map(bytes).fold(0, u64::saturating_add)
}

/// Smaller batches help the service of which most start at a time.
fn fix(crowds: &[MemoryDemand]) -> String {
    let largest = crowds.iter().max_by_key(|c| c.starting).filter(|c| c.starting > 1);
    match largest {
        Some(crowd) => format!(
            "start fewer at a time: `services.{}.deploy.update_config.parallelism: 1`; or give the machine more memory",
            crowd.service
        ),
        None if crowds.len() > 1 => {
            "deploy the services one after the other (by name), or give the machine more memory".into()
        }
        None => "give the machine more memory, or the service less (`mem_limit`)".into(),
    }
}

fn human_size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    match mib >= 1024.0 {
        true => format!("{:.1} GiB", mib / 1024.0),
        false => format!("{mib:.0} MiB"),
    }
}

/// Reads `12.5MiB / 23.5GiB` of `docker stats`.
pub fn parse_used(text: &str) -> Option<u64> {
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

/// Reads `MemAvailable` of `/proc/meminfo`, in bytes.
pub fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Severity;

    const GIB: u64 = 1 << 30;

    fn crowd(running: u64, starting: u64, need: MemoryNeed) -> MemoryDemand {
        MemoryDemand { service: "app".into(), running, starting, need }
    }

    fn judge(crowds: &[MemoryDemand], total: u64, available: Option<u64>) -> Option<Severity> {
        let memory = HostMemory { total: Some(total * GIB), available: available.map(|a| a * GIB) };
        finding(crowds, memory).map(|f| f.severity)
    }

    #[test]
    fn what_starts_has_to_fit_into_what_is_free() {
        let taken = |running, starting| [crowd(running, starting, MemoryNeed::Measured(GIB))];
        assert_eq!(judge(&taken(3, 3), 8, Some(3)), None);
        assert_eq!(judge(&taken(3, 3), 8, Some(2)), Some(Severity::No));
        assert_eq!(judge(&taken(3, 1), 8, Some(2)), None, "in batches");
        assert_eq!(judge(&taken(0, 3), 8, Some(3)), None);
        let two = [crowd(1, 1, MemoryNeed::Measured(GIB)), crowd(1, 1, MemoryNeed::Measured(GIB))];
        assert_eq!(judge(&two, 8, Some(1)), Some(Severity::No), "both at a time");
    }

    #[test]
    fn of_another_machine_only_the_whole_is_known() {
        let taken = [crowd(3, 3, MemoryNeed::Measured(GIB))];
        assert_eq!((judge(&taken, 6, None), judge(&taken, 5, None)), (None, Some(Severity::No)));
        assert_eq!(finding(&taken, HostMemory::default()), None);
    }

    #[test]
    fn a_limit_is_no_need() {
        let limited = |running| [crowd(running, 2, MemoryNeed::Limit(GIB))];
        assert_eq!(judge(&limited(2), 4, Some(0)), None);
        assert_eq!(judge(&limited(2), 3, Some(3)), Some(Severity::Note));
        assert_eq!(judge(&limited(0), 3, Some(3)), Some(Severity::Note), "of which none runs yet");
        assert_eq!(
            judge(&[crowd(1, u64::MAX, MemoryNeed::Limit(u64::MAX))], 3, Some(3)),
            Some(Severity::Note)
        );
    }

    #[test]
    fn the_fix_is_about_what_starts_at_a_time() {
        let many = [crowd(3, 3, MemoryNeed::Measured(GIB))];
        assert!(fix(&many).contains("`services.app.deploy.update_config.parallelism: 1`"));
        let one = crowd(1, 1, MemoryNeed::Measured(GIB));
        assert!(fix(&[one.clone(), one.clone()]).contains("one after the other"));
        assert!(fix(&[one]).contains("more memory"));
    }

    #[test]
    fn memory_is_read_as_docker_and_the_kernel_print_it() {
        assert_eq!(parse_used("792KiB / 23.54GiB"), Some(792 << 10));
        assert_eq!(parse_used("1.5GiB / 2GiB"), Some(3 << 29));
        assert_eq!([parse_used("0B / 0B"), parse_used("-- / --"), parse_used("")], [Some(0), None, None]);
        assert_eq!(parse_available("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(parse_available("MemTotal: 9 kB"), None);
        assert_eq!([human_size(5 << 20), human_size(3 << 29)], ["5 MiB", "1.5 GiB"]);
    }
}
