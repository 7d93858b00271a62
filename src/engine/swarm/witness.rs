//! Start of the witness on Swarm: selects the public URLs and starts to probe them. The witness only reports losses; Swarm
//! and the watch decide on a rollback.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::SwarmDeploy;
use super::prepare::PreparedStack;
use crate::docker::types::Node;
use crate::report::{Event, Warning};
use crate::swarm::proxy_config::StackProxy;
use crate::swarm::published_urls::PublishedPorts;
use crate::witness::UrlCandidates;
use crate::witness::urls::{configured_url, is_wanted, unknown_url};

/// Limit for the first answer of every URL with `--strict`.
const STRICT_FIRST_ANSWER: Duration = Duration::from_secs(5);

/// Limit for the first answer without `--strict`. Shorter than any step of Swarm, so a silent URL costs little time.
const OPTIONAL_FIRST_ANSWER: Duration = Duration::from_millis(500);

impl SwarmDeploy<'_> {
    /// Starts to probe the public URLs. With `--strict` each URL must answer first. Without it, a derived URL that does not
    /// answer is dropped silently.
    ///
    /// # Errors
    /// With `--strict`: no URL is known, or one does not answer.
    pub fn start_witness(&self, prepared: &PreparedStack) -> Result<()> {
        let (settings, strict) = (&self.config().project.witness, self.context.args.witness.strict);
        if !is_wanted(settings, strict)? {
            return Ok(());
        }
        if !prepared.file.services.iter().any(|s| self.before.services.contains_key(s)) {
            self.no_witness("no service of the stack runs yet".into());
            return Ok(());
        }
        let urls = match configured_url(settings) {
            Some(url) => vec![vec![url]],
            None => self.derive_urls(prepared)?,
        };
        if !urls.is_empty() {
            return self.probe(&urls);
        }
        if strict {
            return Err(unknown_url().into());
        }
        self.no_witness(
            "the public URL is not known (`x-zd.witness.url` or `--witness-url` names it)".into(),
        );
        Ok(())
    }

    fn no_witness(&self, reason: String) {
        self.report().event(Event::NoWitness { reason });
    }

    fn probe(&self, urls: &[UrlCandidates]) -> Result<()> {
        let (settings, report) = (&self.config().project.witness, self.report());
        self.witness.start(urls, settings, report.elapsed())?;
        report.show_probes(self.witness.counter());
        if self.context.args.witness.strict {
            self.witness.wait_for_answers(STRICT_FIRST_ANSWER, self.context.stop)?;
        } else {
            let _ = self.witness.wait_for_answers(OPTIONAL_FIRST_ANSWER, self.context.stop);
        }
        for (url, outcome) in self.witness.dismiss_silent() {
            match settings.url {
                Some(_) => report.warn(&Warning::WitnessSilent { url, outcome }),
                None => self.no_witness(outcome),
            }
        }
        Ok(())
    }

    /// Public URLs, derived from the published ports and the proxies of the stack.
    fn derive_urls(&self, PreparedStack { file, nodes, .. }: &PreparedStack) -> Result<Vec<UrlCandidates>> {
        let settings = &self.config().project.witness;
        let project: Value = serde_json::from_str(&self.config().snapshot.text())?;
        let local = (!self.docker().is_remote()).then_some(IpAddr::from(Ipv4Addr::LOCALHOST));
        let addresses_of = |node: &Node| -> Vec<IpAddr> {
            let address = node.address().and_then(|a| a.parse().ok());
            address.into_iter().chain(local.filter(|_| node.id == nodes.this_id)).collect()
        };
        let addresses = |service: &str, is_host_mode: bool| {
            let service = self.before.services.get(service);
            let runs_on = |node: &Node| {
                service.is_some_and(|s| s.tasks.iter().any(|t| t.runs() && t.node_id == node.id))
            };
            // Every node publishes a port of the ingress mesh.
            let is_probed =
                |node: &&Node| if is_host_mode { runs_on(node) } else { node.id == nodes.this_id };
            let by_node = nodes.all.iter().filter(is_probed).map(addresses_of);
            by_node.filter(|addresses| !addresses.is_empty()).collect()
        };
        let ports = PublishedPorts {
            project: &project,
            stack: self.stack_name(),
            proxies: &StackProxy::detect_all(&project),
            addresses: &addresses,
            host: settings.host.as_deref(),
            path: settings.path.as_deref(),
        };
        Ok(ports.url_candidates(&file.services))
    }
}
