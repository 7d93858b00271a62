//! Plan with a bridge: a temporary endpoint in the place of an instance beside which no second one can run. Where the
//! instance owns a published port, the bridge is a stand-in of the new version, which serves. Else the bridge is a relay, in
//! which requests wait for the new instance.

use std::fmt;

use super::{
    Cause, DesiredService, Instance, InstanceKey, InstanceState, Observed, PlanBuilder, Step, Unplannable,
    is_different, keys,
};

/// Temporary endpoint in the place of the only instance of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bridge {
    /// A new instance without the fixed ports of the host, which serves.
    StandIn,
    /// A program of ours, in which requests wait for the new instance.
    Relay,
}

impl fmt::Display for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bridge::StandIn => "stand-in",
            Bridge::Relay => "relay",
        })
    }
}

impl PlanBuilder<'_> {
    /// Replaces the only instance of a service, the owner. A bridge of a killed run that gets requests keeps them until
    /// the new owner is ready. All other bridges are removed first.
    pub(super) fn replace_owner(
        &mut self,
        desired: &DesiredService,
        kind: Bridge,
    ) -> Result<(), Unplannable> {
        if desired.replicas > 1 {
            return Err(several_owners(desired));
        }
        let observed = self.observed;
        let (bridges, owners): (Vec<&Instance>, Vec<&Instance>) =
            observed.of(&desired.service).partition(|i| i.is_bridge);
        let (arriving, leaving) = self.split(desired, &owners);
        let is_monitored =
            desired.follows_unfinished && owners.iter().any(|i| i.is_young(desired.policy.monitor));
        if !arriving.is_empty() || is_monitored {
            self.window = self.window.max(desired.policy.monitor);
        }
        let outgoing: Vec<InstanceKey> = leaving.iter().filter(|k| self.is_live(k)).cloned().collect();
        let (mut used, unused) = self.used_bridge(&bridges, &arriving, &outgoing);
        if !arriving.is_empty() {
            self.remove_bridges(&unused, &outgoing);
            if used.is_empty() && outgoing.iter().any(|k| self.inside.contains(k)) {
                used = vec![self.bring_up_bridge(desired, kind)];
            }
            self.create(desired, &arriving);
            self.route(&used, &outgoing, Cause::Replaced);
            self.take_down(&outgoing, Cause::Replaced);
            self.bring_up(&arriving, Cause::NotYetReady);
            self.route(&arriving, &used, Cause::Admit);
        } else {
            self.route(&[], &[&used[..], &outgoing].concat(), Cause::Replaced);
        }
        let live = used.iter().chain(&outgoing).filter(|k| self.is_live(k)).cloned().collect();
        self.retire_later(live, Cause::Replaced, false);
        self.kept.extend(leaving.into_iter().chain(used));
        Ok(())
    }

    /// Bridge of a killed run that serves on, and the bridges to remove before anything else. Without arriving instances all
    /// bridges leave at the end. An unready bridge serves on only if no owner can.
    fn used_bridge(
        &self,
        bridges: &[&Instance],
        arriving: &[InstanceKey],
        outgoing: &[InstanceKey],
    ) -> (Vec<InstanceKey>, Vec<InstanceKey>) {
        let can_owner_serve = outgoing.iter().any(|k| self.ready.contains(k));
        let is_usable = |i: &&&Instance| i.serves() && (i.ready || !can_owner_serve);
        let serving = bridges.iter().find(is_usable).map(|i| &i.key);
        let all = keys(bridges.iter().copied()).into_iter();
        all.partition(|key| arriving.is_empty() || serving == Some(key))
    }

    /// Creates a bridge and waits until it is ready. Returns its key.
    fn bring_up_bridge(&mut self, desired: &DesiredService, kind: Bridge) -> InstanceKey {
        let (service, key) = (desired.service.clone(), format!("{}+0", desired.service));
        self.added.push((service.clone(), 1));
        let total = self.count(&service);
        let cause = Cause::Bridge(kind);
        self.push(Step::CreateBridge { service, key: key.clone(), kind, total }, cause);
        let bridge = vec![key];
        self.bring_up(&bridge, cause);
        bridge.into_iter().next().expect("one bridge")
    }

    /// Stops and removes bridges. If one gets requests, a ready owner gets them instead.
    fn remove_bridges(&mut self, unused: &[InstanceKey], owners: &[InstanceKey]) {
        if unused.iter().any(|k| self.inside.contains(k)) {
            let ready: Vec<InstanceKey> = owners.iter().filter(|k| self.ready.contains(k)).cloned().collect();
            self.route(&ready, unused, Cause::Leftover);
        }
        self.take_down(unused, Cause::Leftover);
        self.remove(unused, Cause::Leftover);
    }

    /// Returns to the owner that served at the start. A bridge serves while the new owner stops and the old one starts
    /// again. If no owner can return, a ready new owner stays, else the bridge.
    pub(super) fn undo_bridge(&mut self, start: &Observed) {
        let (bridges, owners): (Vec<&Instance>, Vec<&Instance>) =
            self.observed.instances.iter().partition(|i| i.is_bridge);
        let has_served = start.serving().next().is_some();
        let ready =
            |all: &[&Instance]| first(all, &|i| has_served && i.state == InstanceState::Running && i.ready);
        let back = first(&owners, &|i| i.can_return(start)).or_else(|| ready(&owners));
        let Some(back) = back.or_else(|| ready(&bridges)) else {
            return self.remove_added(start, None);
        };
        let others = |all: &[&Instance]| {
            keys(all.iter().copied()).into_iter().filter(|key| *key != back).collect::<Vec<_>>()
        };
        if !self.is_live(&back) {
            // A stopped bridge starts again only for an owner with requests. One that ended by itself would end again.
            let is_needed = others(&owners).iter().any(|k| self.inside.contains(k) && self.ready.contains(k));
            let is_stopped = |i: &Instance| i.state == InstanceState::Exited && !i.has_failed;
            let stopped = || first(&bridges, &|i| is_needed && is_stopped(i));
            self.serve_by_bridge(ready(&bridges).or_else(stopped), &others(&owners));
            self.bring_up(std::slice::from_ref(&back), Cause::Failed);
        }
        let leaving = [others(&owners), others(&bridges)].concat();
        self.route(std::slice::from_ref(&back), &leaving, Cause::Failed);
        self.take_down(&leaving, Cause::Failed);
        self.remove_added(start, Some(&back));
    }

    /// Stops the owners, after a bridge has their requests. Without a bridge they stop at once: nothing else can get the
    /// requests that they would be drained of.
    fn serve_by_bridge(&mut self, bridge: Option<InstanceKey>, owners: &[InstanceKey]) {
        let bridge = Vec::from_iter(bridge);
        if bridge.iter().any(|k| !self.is_live(k)) {
            self.bring_up(&bridge, Cause::Failed);
        }
        self.route(&bridge, owners, Cause::Failed);
        self.take_down(owners, Cause::Failed);
    }

    /// Removes what a plan has added since the start, and stops what it has started, except `staying`.
    fn remove_added(&mut self, start: &Observed, staying: Option<&InstanceKey>) {
        let leaving = |fits: &dyn Fn(&Instance) -> bool| {
            let all = keys(self.observed.instances.iter().filter(|i| fits(i)));
            all.into_iter().filter(|k| staying != Some(k)).collect::<Vec<_>>()
        };
        let added =
            leaving(&|i| i.is_bridge || start.get(&i.key).is_none_or(|before| is_different(before, i)));
        let started = leaving(&|i| start.get(&i.key).is_some_and(|before| !before.is_live()));
        self.take_down(&[&added[..], &started].concat(), Cause::Failed);
        self.remove(&added, Cause::Failed);
    }
}

/// Key of the best fitting instance: a running one in rotation before others.
fn first(all: &[&Instance], fits: &dyn Fn(&Instance) -> bool) -> Option<InstanceKey> {
    let mut fitting: Vec<&Instance> = all.iter().copied().filter(|i| fits(i)).collect();
    fitting.sort_by_key(|i| (i.state != InstanceState::Running, !i.routed));
    fitting.first().map(|i| i.key.clone())
}

fn several_owners(desired: &DesiredService) -> Unplannable {
    Unplannable {
        service: desired.service.clone(),
        reason: "publishes a fixed host port, which only one instance can have",
        fix: "run one instance, or put a proxy in front and remove the host port",
    }
}
