//! Start of the witness on Swarm: selects the public URLs and starts to probe them. The witness only reports losses; Swarm
//! and the watch decide on a rollback.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::prepare::PreparedStack;
use super::{SwarmDeploy, stack_proxies};
use crate::docker::types::Node;
use crate::engine::compose::probe_urls::{configured_url, is_wanted, unknown_url};
use crate::report::{Event, Warning};
use crate::swarm::published_urls;
use crate::witness::UrlCandidates;

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
        let file = &prepared.file;
        let (settings, strict) = (&self.request.project.witness, self.rollout.witness.strict);
        if !is_wanted(settings, strict)? {
            return Ok(());
        }
        if !file.services.iter().any(|s| self.before.services.contains_key(s)) {
            self.report.event(Event::NoWitness { reason: "no service of the stack runs yet".into() });
            return Ok(());
        }
        let urls: Vec<UrlCandidates> = match configured_url(settings) {
            Some(url) => vec![vec![url]],
            None => self.derive_urls(prepared)?,
        };
        match (urls.is_empty(), strict) {
            (true, true) => return Err(unknown_url().into()),
            (true, false) => {
                let why = "the public URL is not known (`x-zd.witness.url` or `--witness-url` names it)";
                self.report.event(Event::NoWitness { reason: why.into() });
                return Ok(());
            }
            _ => {}
        }
        let report = self.report;
        let on_count = move |count| report.probe_count(count);
        self.witness.start(&urls, settings, self.report.elapsed(), on_count)?;
        let limit = if strict { STRICT_FIRST_ANSWER } else { OPTIONAL_FIRST_ANSWER };
        let answered = self.witness.wait_for_answers(limit, self.stop);
        if strict {
            answered?;
        }
        for (url, outcome) in self.witness.dismiss_silent() {
            match settings.url {
                Some(_) => self.report.warn(&Warning::WitnessSilent { url, outcome }),
                None => self.report.event(Event::NoWitness { reason: outcome }),
            }
        }
        Ok(())
    }

    /// Public URLs, derived from the published ports and the proxies of the stack.
    fn derive_urls(&self, PreparedStack { file, nodes, .. }: &PreparedStack) -> Result<Vec<UrlCandidates>> {
        let settings = &self.request.project.witness;
        let text = self.request.snapshot.text();
        let project: Value = serde_json::from_str(&text)?;
        let overrides = (settings.host.as_deref(), settings.path.as_deref());
        let is_here = !self.docker().is_remote();
        let local = is_here.then_some(IpAddr::from(Ipv4Addr::LOCALHOST));
        let addresses_of = |node: &Node| -> Vec<IpAddr> {
            let address = node.address().and_then(|a| a.parse().ok());
            address.into_iter().chain(local.filter(|_| node.id == nodes.this_id)).collect()
        };
        let addresses = |service: &str, is_host_mode: bool| {
            let runs_on = |node: &&Node| {
                let service = self.before.services.get(service);
                service.is_some_and(|s| s.tasks.iter().any(|t| t.runs() && t.node_id == node.id))
            };
            // Every node publishes a port of the ingress mesh.
            let is_probed =
                |node: &&Node| if is_host_mode { runs_on(node) } else { node.id == nodes.this_id };
            let by_node = nodes.all.iter().filter(is_probed).map(addresses_of);
            by_node.filter(|addresses| !addresses.is_empty()).collect()
        };
        Ok(published_urls::url_candidates(
            &project,
            self.stack_name(),
            &file.services,
            &stack_proxies(&text)?,
            &addresses,
            overrides,
        ))
    }
}
