//! Audit of the host: versions, and memory for old and new instances together.

use std::collections::BTreeMap;

use anyhow::Result;

use super::ProjectFacts;
use crate::finding::Finding;
use crate::preflight::memory::{self, HostMemory, MemoryDemand, MemoryNeed};
use crate::preflight::versions;

impl ProjectFacts<'_> {
    /// Findings on versions and memory, for services that start so many instances at the same time.
    pub fn audit_host(&self, starting: Vec<(String, usize)>) -> Result<Vec<Finding>> {
        let docker = &self.request.docker;
        let compose = docker.compose_version()?;
        if !self.has_engine {
            return Ok(versions::findings(compose.as_deref(), None));
        }
        let host = docker.info()?;
        let services: Vec<&str> = starting.iter().map(|(service, _)| service.as_str()).collect();
        let used = self.memory_used(&services);
        let demand = |(service, starting): &(String, usize)| {
            let definition = &self.project.services[service];
            let (limit, reserved) = (definition.memory_limit(), definition.memory_reserved());
            let need = MemoryNeed::new(limit, reserved, used.get(service.as_str()).copied())?;
            let (service, running) = (service.clone(), self.running_count(service) as u64);
            Some(MemoryDemand { service, running, starting: *starting as u64, need })
        };
        let demands: Vec<MemoryDemand> = starting.iter().filter_map(demand).collect();
        let is_remote = docker.engine_address().is_remote();
        let meminfo = std::fs::read_to_string("/proc/meminfo").ok().filter(|_| !is_remote);
        let available = meminfo.and_then(|text| memory::parse_meminfo(&text));
        let mut findings = versions::findings(compose.as_deref(), Some(&host.server_version));
        findings.extend(memory::finding(&demands, HostMemory { total: host.memory(), available }));
        Ok(findings)
    }

    /// Memory of the largest running instance, by service.
    fn memory_used<'s>(&self, services: &[&'s str]) -> BTreeMap<&'s str, u64> {
        let instances = services.iter().flat_map(|service| self.running(service).map(move |c| (*service, c)));
        let by_id: BTreeMap<&str, &'s str> = instances.map(|(s, c)| (c.id.as_str(), s)).collect();
        let ids: Vec<String> = by_id.keys().map(ToString::to_string).collect();
        // An instance may exit meanwhile; then the limits are used.
        let stats = self.request.docker.memory_used(&ids).unwrap_or_default();
        let mut largest = BTreeMap::new();
        for (id, text) in &stats {
            if let (Some(service), Some(bytes)) = (by_id.get(id.as_str()), memory::parse_docker_stats(text)) {
                largest.entry(*service).and_modify(|max: &mut u64| *max = bytes.max(*max)).or_insert(bytes);
            }
        }
        largest
    }
}
