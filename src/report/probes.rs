//! Results of the witness, as data: single requests, and their summary.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use derive_more::{Add, Display, Sum};
use serde::{Deserialize, Serialize};

/// Result of the witness for one URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    pub url: String,
    pub summary: WitnessSummary,
    pub switch: Option<SwitchWindow>,
    pub samples: Vec<Sample>,
}

/// Number of requests sent and lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Add, Sum)]
pub struct LossCount {
    pub sent: usize,
    pub lost: usize,
}

impl LossCount {
    pub fn of<'s>(samples: impl IntoIterator<Item = &'s Sample>) -> LossCount {
        let count = |s: &Sample| LossCount { sent: 1, lost: usize::from(s.lost) };
        samples.into_iter().map(count).sum()
    }
}

/// Outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Display)]
#[serde(rename_all = "snake_case")]
pub enum ProbeOutcome {
    /// A complete answer with this status.
    Status(u16),
    /// The connection failed.
    #[display("refused")]
    Refused,
    /// The connection ended before the answer did.
    #[serde(alias = "cut")]
    #[display("cut off")]
    CutOff,
    #[display("timed out")]
    TimedOut,
    /// Clients do not accept the certificate.
    #[display("certificate not accepted")]
    Untrusted,
}

/// One request, sent once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Time of sending, since the start of the report.
    #[serde(rename = "at_ms", with = "millis")]
    pub at: Duration,
    /// Time until the end of the answer, or until the loss.
    #[serde(rename = "took_ms", with = "millis")]
    pub took: Duration,
    pub outcome: ProbeOutcome,
    pub lost: bool,
    /// Version in a header of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl Sample {
    /// Time at which the answer ended.
    pub fn end(&self) -> Duration {
        self.at + self.took
    }
}

/// Time in which requests moved from the old release to the new: from the first change of the rotation to the
/// confirmation of the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchWindow {
    pub from_ms: u64,
    pub to_ms: u64,
}

/// Results of a witness.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessSummary {
    pub sent: usize,
    pub lost: usize,
    /// Losses by kind: `refused`, `cut off`, `timed out`, or the status.
    pub losses: BTreeMap<String, usize>,
    /// Probes without an answer at the end; they count neither as sent nor as lost.
    #[serde(alias = "open")]
    pub unanswered: usize,
    /// Probes that were skipped because too many were open.
    pub unsent: usize,
    /// Good answers that came late, because the requests waited for the replacement.
    #[serde(default)]
    pub late: usize,
    /// Longest time without a good answer, since the first good answer.
    pub longest_gap_ms: Option<u64>,
    pub before: ProbeStats,
    pub during: ProbeStats,
    pub after: ProbeStats,
    /// Number of good answers by version, if a header has the version.
    pub versions: BTreeMap<String, usize>,
}

/// Probes sent before, during or after the switch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeStats {
    pub sent: usize,
    pub lost: usize,
    /// Percentile of the good answers.
    pub p50_ms: Option<u64>,
    pub p99_ms: Option<u64>,
}

impl WitnessSummary {
    /// `p50/p99 4/9ms before, 5/12ms during, 4/8ms after; versions 1: 40 %, 2: 60 %`: what is known of these.
    pub fn details(&self) -> String {
        let phases = [("before", &self.before), ("during", &self.during), ("after", &self.after)];
        let percentiles =
            phases.iter().filter_map(|(name, p)| Some(format!("{}/{}ms {name}", p.p50_ms?, p.p99_ms?)));
        let percentiles: Vec<String> = percentiles.collect();
        let times = (!percentiles.is_empty()).then(|| format!("p50/p99 {}", percentiles.join(", ")));
        let versions = (!self.versions.is_empty()).then(|| format!("versions {}", self.version_shares()));
        times.into_iter().chain(versions).collect::<Vec<_>>().join("; ")
    }

    /// `1: 40 %, 2: 60 %`
    fn version_shares(&self) -> String {
        let all: usize = self.versions.values().sum();
        let share =
            |(version, count): (&String, &usize)| format!("{version}: {} %", count * 100 / all.max(1));
        self.versions.iter().map(share).collect::<Vec<_>>().join(", ")
    }
}

/// `0 of 58 lost, longest gap 104ms`
impl fmt::Display for WitnessSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} lost", self.lost, self.sent)?;
        if self.lost > 0 {
            write!(f, " ({})", loss_breakdown(&self.losses))?;
        }
        for (count, description) in [
            (self.late, "late because of the hold"),
            (self.unanswered, "still open"),
            (self.unsent, "skipped because too many were open"),
        ] {
            if count > 0 {
                write!(f, ", {count} {description}")?;
            }
        }
        match self.longest_gap_ms {
            Some(gap) => write!(f, ", longest gap {gap}ms"),
            None => Ok(()),
        }
    }
}

/// `500 ×3, cut off ×1`, most first.
pub fn loss_breakdown(losses: &BTreeMap<String, usize>) -> String {
    let mut all: Vec<(&String, &usize)> = losses.iter().collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    all.iter().map(|(kind, count)| format!("{kind} ×{count}")).collect::<Vec<_>>().join(", ")
}

/// Whole milliseconds, rounded.
pub fn in_millis(time: Duration) -> u64 {
    (time + Duration::from_micros(500)).as_millis() as u64
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(super::in_millis(*time))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_written_in_milliseconds_and_read_again() {
        let sample = Sample {
            at: Duration::from_millis(1200),
            took: Duration::from_micros(3600),
            outcome: ProbeOutcome::Status(200),
            lost: false,
            version: None,
        };
        let text = serde_json::to_string(&sample).unwrap();
        assert_eq!(text, r#"{"at_ms":1200,"took_ms":4,"outcome":{"status":200},"lost":false}"#);
        let read: Sample = serde_json::from_str(&text).unwrap();
        assert_eq!(read, Sample { took: Duration::from_millis(4), ..sample });
    }
}
