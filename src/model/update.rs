//! `deploy.update_config` and `deploy.rollback_config`: batches, failures and the action after a failure. The rules are
//! those of SwarmKit (`updater.go`, `api/defaults/service.go`).

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Deserializer};

use super::compose::invalid;
use super::settings::{Layer, TOO_LONG, is_bounded, layer, text_or_number};

/// Action after more failures than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailureAction {
    // Stop, until the user resumes or rolls back.
    Pause,
    // Continue in spite of failures.
    Continue,
    // Restore the old release.
    Rollback,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Order {
    #[default]
    StartFirst,
    StopFirst,
}

layer! {
    /// Replacement of instances, with the flags of `docker service update` and the keys of Compose.
    #[derive(Args)]
    #[command(next_help_heading = "Update (deploy.update_config)")]
    pub struct UpdateLayer {
        /// Instances to replace at a time; 0 is all at once [default: 0, or 1 if the file has an update_config]
        #[arg(id = "update-parallelism", long, env = "COMPOSE_ZD_UPDATE_PARALLELISM", value_name = "N")]
        pub parallelism: Option<u32>,
        /// Time between two batches [default: 0s]
        #[arg(id = "update-delay", long, env = "COMPOSE_ZD_UPDATE_DELAY", value_name = "DURATION",
              value_parser = duration)]
        #[serde(deserialize_with = "duration_in_file")]
        pub delay: Option<Duration>,
        /// Time to watch new instances before the old ones stop; 0s does not watch [default: 5s]
        #[arg(id = "update-monitor", long, env = "COMPOSE_ZD_UPDATE_MONITOR", value_name = "DURATION",
              value_parser = duration)]
        #[serde(deserialize_with = "duration_in_file")]
        pub monitor: Option<Duration>,
        /// Action if more instances fail than allowed [default: rollback, or pause if the file has an update_config]
        #[arg(id = "update-failure-action", long, env = "COMPOSE_ZD_UPDATE_FAILURE_ACTION", value_name = "ACTION")]
        #[serde(rename = "failure_action", deserialize_with = "word_in_file")]
        pub action: Option<FailureAction>,
        /// Share of the instances that may fail, from 0 to 1 [default: 0]
        #[arg(id = "update-max-failure-ratio", long, env = "COMPOSE_ZD_UPDATE_MAX_FAILURE_RATIO", value_name = "RATIO",
              value_parser = ratio)]
        #[serde(deserialize_with = "ratio_in_file")]
        pub max_failure_ratio: Option<f64>,
        /// start-first or stop-first [default: start-first]
        #[arg(id = "update-order", long, env = "COMPOSE_ZD_UPDATE_ORDER", value_name = "ORDER")]
        #[serde(deserialize_with = "word_in_file")]
        pub order: Option<Order>,
    }
}

/// Flags of a rollback: those of an update, with other names and defaults.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Rollback (deploy.rollback_config)")]
pub struct RollbackConfigArgs {
    /// Instances to restore at a time; 0 is all at once [default: the update parallelism, or 1 if the file has a
    /// rollback_config]
    #[arg(id = "rollback-parallelism", long, env = "COMPOSE_ZD_ROLLBACK_PARALLELISM", value_name = "N")]
    parallelism: Option<u32>,
    /// Time between two batches [default: 0s]
    #[arg(id = "rollback-delay", long, env = "COMPOSE_ZD_ROLLBACK_DELAY", value_name = "DURATION",
          value_parser = duration)]
    delay: Option<Duration>,
    /// Time to watch restored instances before the others stop; 0s does not watch [default: 5s]
    #[arg(id = "rollback-monitor", long, env = "COMPOSE_ZD_ROLLBACK_MONITOR", value_name = "DURATION",
          value_parser = duration)]
    monitor: Option<Duration>,
    /// Action if more instances fail than allowed; a rollback is never rolled back [default: pause]
    #[arg(id = "rollback-failure-action", long, env = "COMPOSE_ZD_ROLLBACK_FAILURE_ACTION", value_name = "ACTION",
          value_parser = PossibleValuesParser::new(["pause", "continue"]).try_map(|w| FailureAction::from_str(&w, false)))]
    action: Option<FailureAction>,
    /// Share of the instances that may fail, from 0 to 1 [default: 0]
    #[arg(id = "rollback-max-failure-ratio", long, env = "COMPOSE_ZD_ROLLBACK_MAX_FAILURE_RATIO", value_name = "RATIO",
          value_parser = ratio)]
    max_failure_ratio: Option<f64>,
    /// start-first or stop-first [default: start-first]
    #[arg(id = "rollback-order", long, env = "COMPOSE_ZD_ROLLBACK_ORDER", value_name = "ORDER")]
    order: Option<Order>,
}

impl RollbackConfigArgs {
    pub fn layer(&self) -> UpdateLayer {
        let RollbackConfigArgs { parallelism, delay, monitor, action, max_failure_ratio, order } = *self;
        UpdateLayer { parallelism, delay, monitor, action, max_failure_ratio, order }
    }
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

impl Default for Update {
    fn default() -> Self {
        Update::PLAIN
    }
}

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
        let layer = flags.over(file.unwrap_or(&UpdateLayer::default()));
        Update {
            parallelism: layer.parallelism.unwrap_or(base.parallelism),
            delay: layer.delay.unwrap_or(base.delay),
            monitor: layer.monitor.unwrap_or(base.monitor),
            action: layer.action.unwrap_or(base.action),
            max_failure_ratio: layer.max_failure_ratio.unwrap_or(base.max_failure_ratio),
            order: layer.order,
        }
    }

    /// Settings of a rollback. By default its batches are those of the update, because a host without memory for larger
    /// batches has no memory for a larger rollback either. Its order is that of the update, too: two instances that must not
    /// run at the same time must not do so in a rollback.
    pub fn resolve_rollback(file: Option<&UpdateLayer>, flags: &UpdateLayer, forward: &Update) -> Update {
        let own = Update::resolve(file, flags).without_second_rollback();
        let has_batches = file.is_some() || flags.parallelism.is_some();
        let parallelism = if has_batches { own.parallelism } else { forward.parallelism };
        Update { parallelism, order: own.order.or(forward.order), ..own }
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

/// A duration of the command line, which may be zero.
/// Parses a flag: a duration as in Compose, which may be zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|e| format!("{e}; expected a duration such as 0s, 500ms or 1m30s"))
}

fn ratio(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|r| (0.0..=1.0).contains(r));
    number.ok_or("expected a number from 0 to 1, such as 0.25".into())
}

fn duration_in_file<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
    match humantime::parse_duration(&text) {
        Ok(duration) if is_bounded(Some(duration)) => Ok(Some(duration)),
        Ok(_) => Err(invalid(TOO_LONG)),
        Err(_) => Err(invalid(&format!("`{text}` is no duration such as `500ms` or `1m30s`"))),
    }
}

fn ratio_in_file<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let parsed = text_or_number(from)?.map(|text| ratio(&text)).transpose();
    parsed.map_err(|_| invalid("set it to a number from 0 to 1, such as 0.25"))
}

/// One of the words of an enum.
fn word_in_file<'de, D: Deserializer<'de>, T: ValueEnum>(from: D) -> Result<Option<T>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
    let words: Vec<String> = T::value_variants().iter().map(|value| format!("`{}`", word(value))).collect();
    let (last, others) = words.split_last().expect("an enum with values");
    let hint = format!("set it to {} or {last}", others.join(", "));
    T::from_str(&text, false).map(Some).map_err(|_| invalid(&hint))
}

/// Word of a value in files and flags.
pub fn word<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error is the path of the key.
    fn read(yaml: &str) -> Result<UpdateLayer, String> {
        let value: serde_yaml::Value = serde_yaml::from_str(yaml).unwrap();
        serde_path_to_error::deserialize(value).map_err(|error| error.path().to_string())
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
            assert_eq!(read(yaml).unwrap_err(), key, "{yaml}");
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
    fn a_rollback_has_the_order_of_the_update_by_default() {
        let forward = Update { order: Some(Order::StopFirst), ..Update::SWARM };
        let none = UpdateLayer::default();
        let start_first = UpdateLayer { order: Some(Order::StartFirst), ..UpdateLayer::default() };
        let order = |file, flags| Update::resolve_rollback(file, flags, &forward).order;
        assert_eq!([order(None, &none), order(Some(&none), &none)], [Some(Order::StopFirst); 2]);
        assert_eq!(
            [order(Some(&start_first), &none), order(None, &start_first)],
            [Some(Order::StartFirst); 2]
        );
        assert_eq!(Update::resolve_rollback(None, &none, &Update::PLAIN).order, None);
    }

    #[test]
    fn a_rollback_is_never_rolled_back() {
        let action = |action| Update { action, ..Update::PLAIN }.without_second_rollback().action;
        assert_eq!(action(FailureAction::Rollback), FailureAction::Pause);
        assert_eq!(action(FailureAction::Continue), FailureAction::Continue);
    }
}
