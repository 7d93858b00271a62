//! Dry run: the steps of a plan by the code that executes them, with a client that only lists its commands.

use anyhow::Result;

use super::Rollout;
use crate::docker::CommandList;
use crate::observed::InstanceKey;
use crate::plan::Plan;
use crate::proxy::{Goal, Proxy};
use crate::report::plan::PlannedCommand;

impl Rollout<'_> {
    /// Commands and notes of each step. The rollout has to have a client that puts its changes on `list`.
    pub fn list_steps(mut self, plan: &Plan, list: &CommandList) -> Result<Vec<Vec<PlannedCommand>>> {
        let steps = plan.steps().into_iter().map(|(step, _)| {
            self.step(step)?;
            let commands = list.take().into_iter().map(PlannedCommand::Command);
            Ok(commands.chain(self.notes.take().into_iter().map(PlannedCommand::Note)).collect())
        });
        steps.collect()
    }

    /// True if the rollout only lists its commands.
    pub(super) fn is_dry_run(&self) -> bool {
        self.context.docker.only_lists()
    }

    pub(super) fn note(&self, text: String) {
        self.notes.borrow_mut().push(text);
    }

    /// Lists the first change towards a goal. The change of a proxy that has to be queried first is not known, because
    /// its current state has no new instances.
    pub(super) fn list_goal(&self, proxy: &dyn Proxy, goal: &Goal) -> Result<()> {
        if !proxy.abilities().is_blind {
            self.note(format!("the command for {} depends on its state at that moment", proxy.name()));
            return Ok(());
        }
        let (_, next) = proxy.advance(&[], goal)?;
        for change in next.changes() {
            match change.exec() {
                Some(exec) => drop(self.context.docker.exec(exec)?),
                None => self.note(format!("{} is changed outside its container", proxy.name())),
            }
        }
        Ok(())
    }

    pub(super) fn note_confirmations(&self) {
        let proxies = self.context.proxies.iter();
        proxies.for_each(|p| self.note(format!("then {} is queried until it confirms", p.name())));
    }

    pub(super) fn note_readiness(&self, key: &InstanceKey) -> Result<()> {
        if self.is_relay(key) {
            self.note("wait until the relay listens".into());
            return Ok(());
        }
        let timing = &self.service(key).settings.timing;
        self.note(format!(
            "wait for {}, every {} for at most {}",
            self.candidate(key)?.probe,
            humantime::format_duration(timing.interval),
            humantime::format_duration(timing.deadline)
        ));
        Ok(())
    }

    pub(super) fn note_drain(&self, key: &InstanceKey) {
        let limit = humantime::format_duration(self.service(key).settings.drain_timeout);
        self.note(format!("then wait until no request is in flight, for at most {limit}"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use super::*;
    use crate::docker::Docker;
    use crate::docker::inspect::Container;
    use crate::health::monitor::Monitor;
    use crate::model::{ComposeFlags, FlagLayers, Project, ResolvedProject};
    use crate::observed::Observed;
    use crate::report::{Report, ReportOptions};
    use crate::rollout::restart::RestartPolicies;
    use crate::rollout::{HoldLog, RolloutContext};
    use crate::wait::StopSignal;
    use crate::witness::Witness;

    fn container(id: &str, status: &str) -> Container {
        let text = format!(
            r#"{{"Id": "{id}", "Name": "/p-{id}", "State": {{"Status": "{status}"}}, "Config": {{"Labels": {{
               "com.docker.compose.project": "p", "com.docker.compose.service": "app"}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_planned_instance_in_rotation_does_not_count_as_dead() {
        let docker =
            Docker::for_test("false".into(), ComposeFlags::default()).listing(CommandList::default());
        let yaml = "name: p\nservices: {app: {image: a}}";
        let snapshot = ResolvedProject::parse(yaml).unwrap();
        let project = Project::read(yaml, "compose.yaml", &FlagLayers::default()).unwrap();
        let context = RolloutContext {
            docker: &docker,
            project: &project,
            snapshot: (&snapshot, Path::new("/")),
            proxies: &[],
            report: Report::new(ReportOptions::default()),
            target: "app",
            witness: &Witness::default(),
            monitor: &Monitor::default(),
            runs_jobs: true,
            completed: &BTreeSet::new(),
            policies: &RestartPolicies::new(),
            stop: &StopSignal::default(),
            holds: &HoldLog::default(),
        };
        let observed = Observed { instances: Vec::new(), proxied: true };
        let names = ["app-1", "app-2"].map(String::from);
        let containers =
            names.iter().zip(["running", ""]).map(|(name, status)| (name.clone(), container(name, status)));
        let containers: BTreeMap<InstanceKey, Container> = containers.collect();
        let mut rollout = Rollout::new(context, StopSignal::default(), &observed, containers);
        rollout.inside = names.to_vec();
        assert!(!rollout.drop_dead_instances().unwrap());
        assert_eq!(rollout.inside, names);
    }
}
