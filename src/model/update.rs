//! `deploy.update_config` and `deploy.rollback_config`: batches, failures and the action after a failure. The rules are
//! those of SwarmKit (`updater.go`, `api/defaults/service.go`).

use std::time::Duration;

use serde::Deserialize;
use serde_yaml::Value;

use super::Order;
use super::settings::{TOO_LONG, is_too_long};

/// Action after more failures than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureAction {
    /// Stop, until the user resumes or rolls back.
    Pause,
    /// Continue in spite of failures.
    Continue,
    /// Restore the old release.
    Rollback,
}

/// Settings of an update or a rollback.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// Instances replaced at a time; 0 is all at once.
    pub parallelism: u32,
    /// Time between two batches.
    pub delay: Duration,
    /// Time after the switch in which failures count and the old instances keep running; 0 does not watch.
    pub monitor: Duration,
    pub action: FailureAction,
    /// Share of the replaced instances that may fail, from 0 to 1.
    pub max_failure_ratio: f64,
    pub order: Option<Order>,
}

/// Settings of the file or of flags; all are optional.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpdateLayer {
    pub parallelism: Option<u32>,
    pub delay: Option<Duration>,
    pub monitor: Option<Duration>,
    pub action: Option<FailureAction>,
    pub max_failure_ratio: Option<f64>,
    pub order: Option<Order>,
}

/// An invalid key and a hint.
type InvalidKey = (&'static str, String);

impl Update {
    /// Without any configuration: all at once, and a rollback after the first failure.
    const PLAIN: Update = Update {
        parallelism: 0,
        delay: Duration::ZERO,
        monitor: Duration::from_secs(5),
        action: FailureAction::Rollback,
        max_failure_ratio: 0.0,
        order: None,
    };

    /// Defaults of SwarmKit for a file with the block (`api/defaults/service.go`), except for the order.
    const SWARM: Update = Update { parallelism: 1, action: FailureAction::Pause, ..Update::PLAIN };

    /// Flags override the block of the file, which overrides its defaults.
    pub fn resolve(file: Option<&UpdateLayer>, flags: &UpdateLayer) -> Update {
        let base = if file.is_some() { Update::SWARM } else { Update::PLAIN };
        flags.over(file.map_or(base, |layer| layer.over(base)))
    }

    /// Settings of a rollback. By default its batches are those of the update, because a host without memory for larger
    /// batches has no memory for a larger rollback either.
    pub fn resolve_rollback(file: Option<&UpdateLayer>, flags: &UpdateLayer, forward: &Update) -> Update {
        let resolved = Update::resolve(file, flags).without_second_rollback();
        if file.is_some() || flags.parallelism.is_some() {
            resolved
        } else {
            Update { parallelism: forward.parallelism, ..resolved }
        }
    }

    /// A failed rollback pauses instead of a second rollback.
    fn without_second_rollback(self) -> Update {
        match self.action {
            FailureAction::Rollback => Update { action: FailureAction::Pause, ..self },
            _ => self,
        }
    }

    /// Tolerated failures, in the precision of SwarmKit.
    fn within_ratio(&self, slots: usize) -> usize {
        let within = |failed: &usize| *failed as f32 / slots as f32 <= self.max_failure_ratio as f32;
        (0..=slots).rev().find(within).unwrap_or(0)
    }

    /// Number of instances that may fail: the update ends once `failed / slots` exceeds the ratio.
    pub fn tolerated_failures(&self, slots: usize) -> usize {
        match self.action {
            FailureAction::Continue => usize::MAX,
            _ => self.within_ratio(slots),
        }
    }

    /// The update of `slots` instances continues after this number of failures. At least one instance must succeed, or
    /// there is no new release.
    pub fn continues_after(&self, failed: usize, slots: usize) -> bool {
        failed <= self.tolerated_failures(slots) && failed < slots
    }
}

impl UpdateLayer {
    fn over(&self, base: Update) -> Update {
        Update {
            parallelism: self.parallelism.unwrap_or(base.parallelism),
            delay: self.delay.unwrap_or(base.delay),
            monitor: self.monitor.unwrap_or(base.monitor),
            action: self.action.unwrap_or(base.action),
            max_failure_ratio: self.max_failure_ratio.unwrap_or(base.max_failure_ratio),
            order: self.order.or(base.order),
        }
    }

    /// Parses the block of a file. Compose has checked the types of its own keys.
    pub fn read(raw: &RawUpdate) -> Result<UpdateLayer, InvalidKey> {
        Ok(UpdateLayer {
            parallelism: raw.parallelism,
            delay: raw.delay.as_deref().map(|text| duration("delay", text)).transpose()?,
            monitor: raw.monitor.as_deref().map(|text| duration("monitor", text)).transpose()?,
            action: raw.failure_action.as_deref().map(action).transpose()?,
            max_failure_ratio: raw.max_failure_ratio.as_ref().map(ratio).transpose()?,
            order: raw.order.as_deref().map(order).transpose()?,
        })
    }
}

/// The block as Compose prints it.
#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "a map of keys")]
pub struct RawUpdate {
    parallelism: Option<u32>,
    delay: Option<String>,
    monitor: Option<String>,
    failure_action: Option<String>,
    max_failure_ratio: Option<Value>,
    order: Option<String>,
}

fn duration(key: &'static str, text: &str) -> Result<Duration, InvalidKey> {
    match humantime::parse_duration(text) {
        Ok(duration) if is_too_long(&duration) => Err((key, TOO_LONG.into())),
        Ok(duration) => Ok(duration),
        Err(_) => Err((key, format!("`{text}` is no duration such as `500ms` or `1m30s`"))),
    }
}

fn action(text: &str) -> Result<FailureAction, InvalidKey> {
    FailureAction::parse(text).ok_or(("failure_action", "set it to `pause`, `continue` or `rollback`".into()))
}

fn order(text: &str) -> Result<Order, InvalidKey> {
    Order::parse(text).ok_or(("order", "set it to `start-first` or `stop-first`".into()))
}

fn ratio(value: &Value) -> Result<f64, InvalidKey> {
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
    number
        .filter(|r| (0.0..=1.0).contains(r))
        .ok_or(("max_failure_ratio", "set it to a number from 0 to 1, such as 0.25".into()))
}

impl FailureAction {
    pub fn parse(text: &str) -> Option<FailureAction> {
        match text {
            "pause" => Some(FailureAction::Pause),
            "continue" => Some(FailureAction::Continue),
            "rollback" => Some(FailureAction::Rollback),
            _ => None,
        }
    }

    /// The value in files and flags.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureAction::Pause => "pause",
            FailureAction::Continue => "continue",
            FailureAction::Rollback => "rollback",
        }
    }
}

impl Order {
    pub fn parse(text: &str) -> Option<Order> {
        match text {
            "start-first" => Some(Order::StartFirst),
            "stop-first" => Some(Order::StopFirst),
            _ => None,
        }
    }

    /// The value in files and flags.
    pub fn as_str(self) -> &'static str {
        match self {
            Order::StartFirst => "start-first",
            Order::StopFirst => "stop-first",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<UpdateLayer, InvalidKey> {
        UpdateLayer::read(&serde_yaml::from_str(yaml).unwrap())
    }

    #[test]
    fn a_block_has_the_defaults_of_swarm_and_no_block_has_others() {
        let none = Update::resolve(None, &UpdateLayer::default());
        assert_eq!((none.parallelism, none.action), (0, FailureAction::Rollback));
        assert_eq!(none.monitor, Duration::from_secs(5));
        let empty = read("{}").unwrap();
        let block = Update::resolve(Some(&empty), &UpdateLayer::default());
        assert_eq!((block.parallelism, block.action), (1, FailureAction::Pause));
        assert_eq!((block.delay, block.monitor), (Duration::ZERO, Duration::from_secs(5)));
        assert_eq!((block.max_failure_ratio, block.order), (0.0, None));
    }

    #[test]
    fn every_key_is_parsed_and_a_flag_overrides_it() {
        let file = read(
            "{parallelism: 2, delay: 1m30s, monitor: 2s, failure_action: continue, max_failure_ratio: 0.5, order: stop-first}",
        )
        .unwrap();
        let read = Update::resolve(Some(&file), &UpdateLayer::default());
        let expected = Update {
            parallelism: 2,
            delay: Duration::from_secs(90),
            monitor: Duration::from_secs(2),
            action: FailureAction::Continue,
            max_failure_ratio: 0.5,
            order: Some(Order::StopFirst),
        };
        assert_eq!(read, expected);
        let flags = UpdateLayer { parallelism: Some(3), ..UpdateLayer::default() };
        assert_eq!(Update::resolve(Some(&file), &flags), Update { parallelism: 3, ..expected });
        assert_eq!(Update::resolve(None, &flags), Update { parallelism: 3, ..Update::PLAIN });
    }

    #[test]
    fn an_invalid_value_names_its_key() {
        let cases = [
            ("{delay: soon}", "delay"),
            ("{monitor: '-'}", "monitor"),
            ("{monitor: 8761h}", "monitor"),
            ("{failure_action: panic}", "failure_action"),
            ("{max_failure_ratio: 1.5}", "max_failure_ratio"),
            ("{max_failure_ratio: -0.1}", "max_failure_ratio"),
            ("{order: first}", "order"),
        ];
        for (yaml, key) in cases {
            assert_eq!(read(yaml).unwrap_err().0, key, "{yaml}");
        }
    }

    /// `failures / slots > ratio`, strictly, ends an update.
    #[test]
    fn the_ratio_limits_the_failures() {
        let tolerated =
            |ratio, slots| Update { max_failure_ratio: ratio, ..Update::SWARM }.tolerated_failures(slots);
        let cases = [
            (0.0, 6, 0),
            (0.34, 6, 2),
            (0.5, 6, 3),
            (0.5, 5, 2),
            (1.0, 4, 4),
            (0.1, 6, 0),
            (0.3, 10, 3),
            (0.5, 0, 0),
        ];
        for (ratio, slots, expected) in cases {
            assert_eq!(tolerated(ratio, slots), expected, "{ratio} of {slots}");
        }
        let continuing = Update { action: FailureAction::Continue, ..Update::SWARM };
        assert_eq!(continuing.tolerated_failures(1), usize::MAX);
        assert_eq!([5, 6].map(|failed| continuing.continues_after(failed, 6)), [true, false]);
        let third = Update { max_failure_ratio: 0.34, ..Update::SWARM };
        assert_eq!([2, 3].map(|failed| third.continues_after(failed, 6)), [true, false]);
        let all = Update { max_failure_ratio: 1.0, ..Update::SWARM };
        assert_eq!([3, 4].map(|failed| all.continues_after(failed, 4)), [true, false]);
    }

    #[test]
    fn a_rollback_uses_the_batches_of_the_update_by_default() {
        let forward = Update { parallelism: 2, ..Update::SWARM };
        let none = UpdateLayer::default();
        let four = UpdateLayer { parallelism: Some(4), ..UpdateLayer::default() };
        let parallelism = |file, flags| Update::resolve_rollback(file, flags, &forward).parallelism;
        assert_eq!(parallelism(None, &none), 2);
        assert_eq!(parallelism(Some(&none), &none), 1);
        assert_eq!(parallelism(Some(&four), &none), 4);
        assert_eq!(parallelism(None, &four), 4);
    }

    #[test]
    fn a_rollback_is_never_rolled_back() {
        let action = |action| Update { action, ..Update::PLAIN }.without_second_rollback().action;
        assert_eq!(action(FailureAction::Rollback), FailureAction::Pause);
        assert_eq!(action(FailureAction::Continue), FailureAction::Continue);
    }
}
