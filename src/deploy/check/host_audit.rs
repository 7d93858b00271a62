//! What the machine has and can do: versions, and memory for two generations.

use std::collections::BTreeMap;

use anyhow::Result;

use super::ProjectCheck;
use crate::check::memory::{self, HostMemory, MemoryDemand, MemoryNeed};
use crate::check::{Finding, version};
use crate::deploy::observe;
use crate::docker::inspect::Container;
use crate::model::CommandSpec;

impl ProjectCheck<'_> {
    /// What is found of the whole.
    pub fn audit_host(&self, crowds: Vec<(String, u64, u64)>) -> Result<Vec<Finding>> {
        let compose = self.docker().compose_version()?;
        if self.containers.is_none() {
            return Ok(version::findings(compose.as_deref(), None));
        }
        let machine = self.docker().host_info()?;
        let mut findings = version::findings(compose.as_deref(), Some(&machine.version));
        let used = self.memory_used(&crowds)?;
        let known = crowds.into_iter().filter_map(|(service, running, starting)| {
            let process = &self.project().services[&service].process;
            let need = memory_need(process, used.get(&service).copied())?;
            Some(MemoryDemand { service, running, starting, need })
        });
        let known: Vec<MemoryDemand> = known.collect();
        let elsewhere = self.docker().engine_address().is_remote();
        let meminfo = std::fs::read_to_string("/proc/meminfo").ok().filter(|_| !elsewhere);
        let available = meminfo.and_then(|text| memory::parse_available(&text));
        findings.extend(memory::finding(&known, HostMemory { total: machine.memory, available }));
        Ok(findings)
    }

    /// The most that any instance of a service takes now, by service.
    fn memory_used(&self, crowds: &[(String, u64, u64)]) -> Result<BTreeMap<String, u64>> {
        let services: Vec<&str> = crowds.iter().map(|(s, ..)| s.as_str()).collect();
        let running = self.containers().iter().filter(|c| c.is_running());
        let running = running.filter(|c| observe::is_member(self.project(), c, &services));
        let by_id: BTreeMap<&str, &Container> = running.map(|c| (c.id.as_str(), c)).collect();
        let ids: Vec<String> = by_id.keys().map(|id| id.to_string()).collect();
        // One may end in this moment; then the limits have to do.
        let told = self.docker().memory_used(&ids).unwrap_or_default();
        let mut most: BTreeMap<String, u64> = BTreeMap::new();
        for (id, text) in &told {
            let service = by_id.get(id.as_str()).and_then(|c| c.compose()).map(|(_, s)| s.to_string());
            if let (Some(service), Some(bytes)) = (service, memory::parse_used(text)) {
                let largest = most.entry(service).or_default();
                *largest = bytes.max(*largest);
            }
        }
        Ok(most)
    }
}

/// What is measured or reserved goes before a limit, which is no need.
fn memory_need(process: &CommandSpec, used: Option<u64>) -> Option<MemoryNeed> {
    let taken = used.max(process.memory_reserved).map(MemoryNeed::Measured);
    match (process.memory_limit.map(MemoryNeed::Limit), used) {
        // Nothing runs yet, and it may take all that it is given.
        (Some(limit), None) => Some(limit),
        (limit, _) => taken.or(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_or_reserved_is_needed_and_a_limit_is_the_most() {
        let of = |limit, reserved, used| {
            let process =
                CommandSpec { memory_limit: limit, memory_reserved: reserved, ..CommandSpec::default() };
            memory_need(&process, used)
        };
        assert_eq!(of(None, None, None), None);
        assert_eq!(of(Some(9), Some(3), None), Some(MemoryNeed::Limit(9)));
        assert_eq!(of(Some(9), Some(3), Some(2)), Some(MemoryNeed::Measured(3)));
        assert_eq!(of(Some(9), None, Some(2)), Some(MemoryNeed::Measured(2)));
        assert_eq!(of(None, Some(3), None), Some(MemoryNeed::Measured(3)));
    }
}
