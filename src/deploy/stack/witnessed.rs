//! The witness of a rollout on Swarm. It only tells: what goes back, and when, is Swarm's and the watch's.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::{Swarm, fronts};
use crate::deploy::witnessed::{is_wanted, own_place, unknown_url};
use crate::report::{Event, Warning};
use crate::swarm::file::StackFile;
use crate::swarm::public;
use crate::witness::Places;

/// How long every URL has to give its first answer, where it has to.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// How long it has otherwise: Swarm itself needs longer for anything.
const SOON: Duration = Duration::from_millis(500);

impl Swarm<'_> {
    /// Has the public URLs asked from here on. With `--strict` each of them has to answer first; without it one that was
    /// only guessed and does not answer is left alone without a word.
    ///
    /// # Errors
    /// With `--strict`: no URL to ask, or no answer.
    pub fn call_witness(&self, file: &StackFile) -> Result<()> {
        let (settings, strict) = (&self.definition.project.witness, self.rollout.witness.strict);
        if !is_wanted(settings, strict)? {
            return Ok(());
        }
        if !file.services.iter().any(|s| self.before.services.contains_key(s)) {
            self.report.event(Event::NoWitness { why: "nothing serves yet that could be lost".into() });
            return Ok(());
        }
        let urls: Vec<Places> = match own_place(settings) {
            Some(place) => vec![vec![place]],
            None => self.derived(file)?,
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

    fn derived(&self, file: &StackFile) -> Result<Vec<Places>> {
        let settings = &self.definition.project.witness;
        let text = self.definition.snapshot.text();
        let project: Value = serde_json::from_str(&text)?;
        let asked = (settings.host.as_deref(), settings.path.as_deref());
        let places = public::places(&project, self.name(), &file.services, &fronts(&text)?, asked);
        let is_elsewhere = !places.is_empty() && self.docker().is_elsewhere();
        Ok(places.into_iter().filter(|_| !is_elsewhere).map(|place| vec![place]).collect())
    }
}
