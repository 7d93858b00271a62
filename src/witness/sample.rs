//! One probe, what came of it, and whether that is a loss. Pure.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::StatusRanges;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeOutcome {
    /// An answer with this status, read to its end.
    Status(u16),
    /// No connection.
    Refused,
    /// The connection ended before the answer did.
    Cut,
    TimedOut,
    /// Its certificate is not one that clients accept.
    Untrusted,
}

impl fmt::Display for ProbeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProbeOutcome::Status(code) => write!(f, "{code}"),
            ProbeOutcome::Refused => f.write_str("refused"),
            ProbeOutcome::Cut => f.write_str("cut off"),
            ProbeOutcome::TimedOut => f.write_str("timed out"),
            ProbeOutcome::Untrusted => f.write_str("certificate not accepted"),
        }
    }
}

/// One request, sent once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When it was sent, since the start of the report.
    #[serde(rename = "at_ms", with = "millis")]
    pub at: Duration,
    /// Until the end of the answer, or until it was lost.
    #[serde(rename = "took_ms", with = "millis")]
    pub took: Duration,
    pub outcome: ProbeOutcome,
    pub lost: bool,
    /// As a header of the answer told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl Sample {
    /// When its answer ended.
    pub fn end(&self) -> Duration {
        self.at + self.took
    }
}

/// What counts as an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LossCriteria {
    /// Asked for by `x-zd.witness.expect`.
    pub expect: Option<StatusRanges>,
    /// The status of the first answer below 500.
    pub usual: Option<u16>,
}

impl LossCriteria {
    /// Lost is what got no whole answer, and what was answered by a status that is not among those asked for; where none
    /// are, by 500 and more, and by 400 to 499 where the first answer was below 400: a proxy without a route for it says
    /// 404.
    pub fn loses(&self, outcome: ProbeOutcome) -> bool {
        match (outcome, &self.expect) {
            (ProbeOutcome::Status(code), Some(expect)) => !expect.contains(code),
            (ProbeOutcome::Status(code), None) => {
                code >= 500 || (code >= 400 && self.usual.is_some_and(|usual| usual < 400))
            }
            _ => true,
        }
    }

    /// Takes the first answer in.
    pub fn record(&mut self, outcome: ProbeOutcome) {
        if let (ProbeOutcome::Status(code @ ..500), None) = (outcome, self.usual) {
            self.usual = Some(code);
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

    pub fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(super::in_millis(*time))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
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
        ProbeOutcome::Cut,
        ProbeOutcome::TimedOut,
        ProbeOutcome::Untrusted,
    ];

    fn lost(terms: &LossCriteria) -> String {
        ALL.iter().map(|o| if terms.loses(*o) { 'x' } else { '.' }).collect()
    }

    #[test]
    fn what_is_lost_goes_by_what_was_asked_for_else_by_the_first_answer() {
        let usual = |code| LossCriteria { usual: Some(code), ..LossCriteria::default() };
        let expect = |codes| LossCriteria { expect: StatusRanges::parse(codes), usual: Some(404) };
        assert_eq!(lost(&LossCriteria::default()), "...xxxxxx");
        assert_eq!(lost(&usual(200)), "..xxxxxxx");
        assert_eq!(lost(&usual(301)), "..xxxxxxx");
        assert_eq!(lost(&usual(401)), "...xxxxxx");
        assert_eq!(lost(&expect("200-399")), "..xxxxxxx");
        assert_eq!(lost(&expect("404,503")), "xx.x.xxxx");
    }

    #[test]
    fn the_first_answer_is_the_first_below_500() {
        let mut terms = LossCriteria::default();
        for outcome in [
            ProbeOutcome::Refused,
            ProbeOutcome::Status(503),
            ProbeOutcome::Status(404),
            ProbeOutcome::Status(200),
        ] {
            terms.record(outcome);
        }
        assert_eq!(terms.usual, Some(404));
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
