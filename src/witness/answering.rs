//! A public URL that answers, for a later check that it answers again.

use super::client::WitnessClient;
use crate::mask;
use crate::model::{StatusRanges, WitnessSettings};
use crate::proxy::public_route::WitnessUrl;
use crate::report::probes::ProbeOutcome;

/// URL that has answered.
pub struct AnsweringUrl {
    client: WitnessClient,
    /// Status of the answer.
    pub status: u16,
    expect: Option<StatusRanges>,
}

impl AnsweringUrl {
    /// Sends one request; `None` without a good answer.
    pub fn find(url: &WitnessUrl, settings: &WitnessSettings) -> Option<AnsweringUrl> {
        let clients = WitnessClient::clients_for(url, settings).ok()?;
        clients.into_iter().find_map(|client| match client.get().outcome {
            ProbeOutcome::Status(status) if is_good(None, status, settings.expect.as_ref()) => {
                Some(AnsweringUrl { client, status, expect: settings.expect.clone() })
            }
            _ => None,
        })
    }

    /// Sends one request, and returns its outcome if it is no good answer.
    pub fn failure(&self) -> Option<ProbeOutcome> {
        let outcome = self.client.get().outcome;
        let is_answer = matches!(outcome, ProbeOutcome::Status(status)
            if is_good(Some(self.status), status, self.expect.as_ref()));
        (!is_answer).then_some(outcome)
    }

    /// The URL without its secrets.
    pub fn url(&self) -> String {
        mask::urls(self.client.target.url.as_str())
    }
}

/// True for a status in `expect`. Without `expect`, statuses from 500 on are failures, and so is a 404 after an answer
/// below 400: some proxies answer 404 without a route. Other statuses, such as a 401, may be what the user wants.
fn is_good(before: Option<u16>, now: u16, expect: Option<&StatusRanges>) -> bool {
    match expect {
        Some(expect) => expect.contains(now),
        None => now < 500 && !(now == 404 && before.is_some_and(|before| before < 400)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_a_proxy_without_a_route_is_no_answer() {
        let good = |before, now| is_good(before, now, None);
        for status in [200, 301, 401, 404] {
            assert!(good(None, status), "{status}");
        }
        for status in [500, 502, 503, 504] {
            assert!(!good(None, status) && !good(Some(200), status) && !good(Some(404), status), "{status}");
        }
        for (before, now, is_answer) in
            [(200, 200, true), (200, 302, true), (200, 401, true), (301, 404, false), (200, 404, false)]
        {
            assert_eq!(good(Some(before), now), is_answer, "{before} {now}");
        }
        assert!(good(Some(404), 404) && good(Some(401), 404));
    }

    #[test]
    fn only_the_expected_statuses_count() {
        let expect = StatusRanges::parse("200,503").unwrap();
        for (now, is_answer) in [(200, true), (503, true), (204, false), (302, false)] {
            assert_eq!(is_good(Some(200), now, Some(&expect)), is_answer, "{now}");
        }
    }
}
