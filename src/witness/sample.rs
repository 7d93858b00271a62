//! One probe, its outcome, and the rule for a loss. Pure.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::StatusRanges;

/// Outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeOutcome {
    /// A complete answer with this status.
    Status(u16),
    /// The connection failed.
    Refused,
    /// The connection ended before the answer did.
    #[serde(alias = "cut")]
    CutOff,
    TimedOut,
    /// Clients do not accept the certificate.
    Untrusted,
}

impl fmt::Display for ProbeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProbeOutcome::Status(code) => write!(f, "{code}"),
            ProbeOutcome::Refused => f.write_str("refused"),
            ProbeOutcome::CutOff => f.write_str("cut off"),
            ProbeOutcome::TimedOut => f.write_str("timed out"),
            ProbeOutcome::Untrusted => f.write_str("certificate not accepted"),
        }
    }
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

/// Rule for what counts as a good answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LossCriteria {
    /// Statuses of `x-zd.witness.expect`.
    pub expect: Option<StatusRanges>,
    /// Status of the first answer below 500.
    pub usual_status: Option<u16>,
}

impl LossCriteria {
    /// True for an incomplete answer, and for a status outside `expect`. Without `expect`, statuses from 500 on are
    /// losses. Statuses from 400 to 499 are losses if the first answer was below 400: a proxy without a route
    /// answers 404.
    pub fn is_loss(&self, outcome: ProbeOutcome) -> bool {
        match (outcome, &self.expect) {
            (ProbeOutcome::Status(code), Some(expect)) => !expect.contains(code),
            (ProbeOutcome::Status(code), None) => {
                code >= 500 || (code >= 400 && self.usual_status.is_some_and(|usual| usual < 400))
            }
            _ => true,
        }
    }

    /// Remembers the first answer.
    pub fn record(&mut self, outcome: ProbeOutcome) {
        if let (ProbeOutcome::Status(code @ ..500), None) = (outcome, self.usual_status) {
            self.usual_status = Some(code);
        }
    }
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

    const ALL: [ProbeOutcome; 9] = [
        ProbeOutcome::Status(200),
        ProbeOutcome::Status(302),
        ProbeOutcome::Status(404),
        ProbeOutcome::Status(500),
        ProbeOutcome::Status(503),
        ProbeOutcome::Refused,
        ProbeOutcome::CutOff,
        ProbeOutcome::TimedOut,
        ProbeOutcome::Untrusted,
    ];

    fn lost(criteria: &LossCriteria) -> String {
        ALL.iter().map(|o| if criteria.is_loss(*o) { 'x' } else { '.' }).collect()
    }

    #[test]
    fn a_loss_depends_on_expect_or_else_on_the_first_answer() {
        let usual = |code| LossCriteria { usual_status: Some(code), ..LossCriteria::default() };
        let expect = |codes| LossCriteria { expect: StatusRanges::parse(codes), usual_status: Some(404) };
        assert_eq!(lost(&LossCriteria::default()), "...xxxxxx");
        assert_eq!(lost(&usual(200)), "..xxxxxxx");
        assert_eq!(lost(&usual(301)), "..xxxxxxx");
        assert_eq!(lost(&usual(401)), "...xxxxxx");
        assert_eq!(lost(&expect("200-399")), "..xxxxxxx");
        assert_eq!(lost(&expect("404,503")), "xx.x.xxxx");
    }

    #[test]
    fn the_first_answer_is_the_first_below_500() {
        let mut criteria = LossCriteria::default();
        for outcome in [
            ProbeOutcome::Refused,
            ProbeOutcome::Status(503),
            ProbeOutcome::Status(404),
            ProbeOutcome::Status(200),
        ] {
            criteria.record(outcome);
        }
        assert_eq!(criteria.usual_status, Some(404));
    }

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
