//! Audit of the host: versions, and memory for old and new instances together.

use std::collections::BTreeMap;

use anyhow::Result;

use super::ProjectCheck;
use crate::check::memory::{self, HostMemory, MemoryDemand, MemoryNeed};
use crate::check::version;
use crate::docker::inspect::Container;
use crate::finding::Finding;
use crate::observe;

impl ProjectCheck<'_> {
    /// Findings on versions and memory. Each item of `instances` is a service, with the number of its running and of
    /// its starting instances.
    pub fn audit_host(&self, instances: Vec<(String, u64, u64)>) -> Result<Vec<Finding>> {
        let compose = self.docker().compose_version()?;
        if self.containers.is_none() {
            return Ok(version::findings(compose.as_deref(), None));
        }
        let host = self.docker().info()?;
        let mut findings = version::findings(compose.as_deref(), Some(&host.server_version));
        let used = self.memory_used(&instances)?;
        let demands = instances.into_iter().filter_map(|(service, running, starting)| {
            let definition = &self.project().services[&service];
            let (limit, reserved) = (definition.memory_limit(), definition.memory_reserved());
            let need = memory_need(limit, reserved, used.get(&service).copied())?;
            Some(MemoryDemand { service, running, starting, need })
        });
        let demands: Vec<MemoryDemand> = demands.collect();
        let is_remote = self.docker().engine_address().is_remote();
        let meminfo = std::fs::read_to_string("/proc/meminfo").ok().filter(|_| !is_remote);
        let available = meminfo.and_then(|text| memory::parse_meminfo(&text));
        findings.extend(memory::finding(&demands, HostMemory { total: host.memory(), available }));
        Ok(findings)
    }

    /// Memory of the largest running instance, by service.
    fn memory_used(&self, instances: &[(String, u64, u64)]) -> Result<BTreeMap<String, u64>> {
        let services: Vec<&str> = instances.iter().map(|(s, ..)| s.as_str()).collect();
        let running = self.containers().iter().filter(|c| c.is_running());
        let running = running.filter(|c| observe::is_member(self.project(), c, &services));
        let by_id: BTreeMap<&str, &Container> = running.map(|c| (c.id.as_str(), c)).collect();
        let ids: Vec<String> = by_id.keys().map(|id| id.to_string()).collect();
        // An instance may exit meanwhile; then the limits are used.
        let stats = self.docker().memory_used(&ids).unwrap_or_default();
        let mut largest: BTreeMap<String, u64> = BTreeMap::new();
        for (id, text) in &stats {
            let service = by_id.get(id.as_str()).and_then(|c| c.compose()).map(|(_, s)| s.to_string());
            if let (Some(service), Some(bytes)) = (service, memory::parse_docker_stats(text)) {
                let max = largest.entry(service).or_default();
                *max = bytes.max(*max);
            }
        }
        Ok(largest)
    }
}

/// Memory that one instance needs. A limit counts only while no instance runs, because then nothing is measured.
fn memory_need(limit: Option<u64>, reserved: Option<u64>, used: Option<u64>) -> Option<MemoryNeed> {
    let measured = used.max(reserved).map(MemoryNeed::Measured);
    match (limit.map(MemoryNeed::Limit), used) {
        (Some(limit), None) => Some(limit),
        (limit, _) => measured.or(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_or_reserved_memory_precedes_a_limit() {
        assert_eq!(memory_need(None, None, None), None);
        assert_eq!(memory_need(Some(9), Some(3), None), Some(MemoryNeed::Limit(9)));
        assert_eq!(memory_need(Some(9), Some(3), Some(2)), Some(MemoryNeed::Measured(3)));
        assert_eq!(memory_need(Some(9), None, Some(2)), Some(MemoryNeed::Measured(2)));
        assert_eq!(memory_need(None, Some(3), None), Some(MemoryNeed::Measured(3)));
    }
}
