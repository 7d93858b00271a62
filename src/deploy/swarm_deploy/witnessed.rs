//! The witness of a rollout on Swarm. It only tells: what goes back, and when, is Swarm's and the watch's.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::prepare::PreparedStack;
use super::{SwarmDeploy, stack_proxies};
use crate::deploy::probe_urls::{is_wanted, own_place, unknown_url};
use crate::report::{Event, Warning};
use crate::swarm::placement::PlacementNode;
use crate::swarm::published_urls;
use crate::witness::UrlCandidates;

/// How long every URL has to give its first answer, where it has to.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// How long it has otherwise: Swarm itself needs longer for anything.
const SOON: Duration = Duration::from_millis(500);

impl SwarmDeploy<'_> {
    /// Has the public URLs asked from here on. With `--strict` each of them has to answer first; without it one that was
    /// only guessed and does not answer is left alone without a word.
    ///
    /// # Errors
    /// With `--strict`: no URL to ask, or no answer.
    pub fn call_witness(&self, prepared: &PreparedStack) -> Result<()> {
        let file = &prepared.file;
        let (settings, strict) = (&self.request.project.witness, self.rollout.witness.strict);
        if !is_wanted(settings, strict)? {
            return Ok(());
        }
        if !file.services.iter().any(|s| self.before.services.contains_key(s)) {
            self.report.event(Event::NoWitness { why: "nothing serves yet that could be lost".into() });
            return Ok(());
        }
        let urls: Vec<UrlCandidates> = match own_place(settings) {
            Some(place) => vec![vec![place]],
            None => self.derived(prepared)?,
        };
        match (urls.is_empty(), strict) {
            (true, true) => return Err(unknown_url().into()),
            (true, false) => {
                let why = "the public URL is not known (`x-zd.witness.url` or `--witness-url` names it)";
                self.report.event(Event::NoWitness { why: why.into() });
                return Ok(());
            }
            _ => {}
        }
        let report = self.report;
        let tell = move |count| report.witnessed(count);
        self.witness.start(&urls, settings, self.report.elapsed(), tell)?;
        let limit = if strict { FIRST_ANSWER } else { SOON };
        let answered = self.witness.wait_for_answers(limit, self.stop);
        if strict {
            answered?;
        }
        for (url, said) in self.witness.dismiss_silent() {
            match settings.url {
                Some(_) => self.report.warn(&Warning::Silent { url, said }),
                None => self.report.event(Event::NoWitness { why: said }),
            }
        }
        Ok(())
    }

    fn derived(&self, PreparedStack { file, nodes, .. }: &PreparedStack) -> Result<Vec<UrlCandidates>> {
        let settings = &self.request.project.witness;
        let text = self.request.snapshot.text();
        let project: Value = serde_json::from_str(&text)?;
        let asked = (settings.host.as_deref(), settings.path.as_deref());
        let is_here = !self.docker().is_remote();
        let local = is_here.then_some(IpAddr::from(Ipv4Addr::LOCALHOST));
        let ways = |node: &PlacementNode| -> Vec<IpAddr> {
            let address = node.address().and_then(|a| a.parse().ok());
            address.into_iter().chain(local.filter(|_| node.id == nodes.this)).collect()
        };
        let addresses = |service: &str, is_of_node: bool| {
            let runs_on = |node: &&PlacementNode| {
                let mut tasks = self.before.tasks_of(service).filter(|t| t.runs());
                tasks.any(|t| t.node == node.hostname())
            };
            // Every node leads to a port of the mesh.
            let is_asked =
                |node: &&PlacementNode| if is_of_node { runs_on(node) } else { node.id == nodes.this };
            let asked = nodes.all.iter().filter(is_asked).map(ways);
            asked.filter(|ways| !ways.is_empty()).collect()
        };
        Ok(published_urls::places(
            &project,
            self.name(),
            &file.services,
            &stack_proxies(&text)?,
            &addresses,
            asked,
        ))
    }
}
