//! Notifications: the summary of a rollout for the receivers of the file (`x-zd.notify`).

use std::thread;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use serde_json::Value;

use crate::http;
use crate::mask;
use crate::model::{Receiver, ReceiverList};
use crate::process;
use crate::report::{Report, Warning};

/// Longest time for one receiver.
const LIMIT: Duration = Duration::from_secs(10);

/// Sends the summary of a run to all receivers at the same time, unless the run did nothing. A failure is a warning.
pub fn send(receivers: &ReceiverList, summary: Value, report: Report) {
    let is_idle = summary["deployed"].as_array().is_none_or(Vec::is_empty) && summary["error"].is_null();
    if is_idle {
        return;
    }
    let text = message(&receivers.project, summary).to_string();
    thread::scope(|scope| {
        let text = &text;
        let send = |receiver| scope.spawn(move || send_to(receiver, text, receivers));
        let sent: Vec<_> = receivers.all.iter().map(|receiver| (receiver, send(receiver))).collect();
        for (receiver, thread) in sent {
            if let Err(reason) = thread.join().unwrap_or_else(|_| Err("it panicked".into())) {
                let receiver = receiver.to_string();
                report.warn(&Warning::NotificationFailed { receiver, reason });
            }
        }
    });
}

fn send_to(receiver: &Receiver, text: &str, list: &ReceiverList) -> Result<(), String> {
    match receiver {
        Receiver::Url(url) => {
            // The error of a request names the URL.
            let client = http::outside_client(LIMIT).build().map_err(|e| e.without_url().to_string())?;
            let request =
                client.post(url.clone()).header(CONTENT_TYPE, "application/json").body(text.to_string());
            let answer = request.send().map_err(|error| http::reason(&error.without_url()))?;
            let status = answer.status();
            if status.is_success() { Ok(()) } else { Err(format!("it answered {}", status.as_u16())) }
        }
        Receiver::Command(command) => {
            let ended = process::run_shell(command, &list.folder, text, LIMIT).map_err(|e| e.to_string())?;
            match ended {
                None => Err(format!("it ran longer than {}", humantime::format_duration(LIMIT))),
                Some(result) if result.ok() => Ok(()),
                Some(result) => Err(match result.code {
                    Some(code) => format!("it exited with code {code}"),
                    None => "a signal ended it".into(),
                }),
            }
        }
    }
}

/// The summary with the project and one sentence, which chat services show. The log lines of an error stay here,
/// because they may hold secrets.
fn message(project: &str, mut summary: Value) -> Value {
    if let Some(error) = summary["error"].as_object_mut() {
        error.insert("details".into(), Value::Array(Vec::new()));
    }
    summary["project"] = project.into();
    summary["text"] = sentence(project, &summary).into();
    mask_urls(&mut summary);
    summary
}

/// `shop: FAILED (exit 3): …`, or `shop: app is deployed as release 7`.
fn sentence(project: &str, summary: &Value) -> String {
    if let Some(error) = summary["error"]["message"].as_str() {
        return format!("{project}: FAILED (exit {}): {error}", summary["exit"]);
    }
    let deployed = summary["deployed"].as_array().into_iter().flatten().map(|deployed| {
        let (target, release) = (deployed["target"].as_str().unwrap_or_default(), &deployed["release"]);
        match deployed["restored_release"].as_u64() {
            Some(restored) => format!("{target} is back on release {restored} (as release {release})"),
            None => format!("{target} is deployed as release {release}"),
        }
    });
    format!("{project}: {}", deployed.collect::<Vec<_>>().join(", "))
}

fn mask_urls(value: &mut Value) {
    match value {
        Value::String(text) => *text = mask::urls(text),
        Value::Array(values) => values.iter_mut().for_each(mask_urls),
        Value::Object(values) => values.values_mut().for_each(mask_urls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_begins_with_the_failure_and_has_no_secret() {
        let error =
            json!({"message": "`app` → GET http://u:p@a/?k=v", "details": ["DB_PASSWORD=x"], "hint": null});
        let failed = message("shop", json!({"ok": false, "exit": 3, "deployed": [], "error": error}));
        assert_eq!(failed["text"], "shop: FAILED (exit 3): `app` → GET http://…@a/?k=…");
        assert!(!failed.to_string().contains("PASSWORD") && failed["project"] == "shop", "{failed}");
    }

    #[test]
    fn a_message_of_a_success_names_each_release() {
        let deployed = json!([{"target": "app", "release": 7, "restored_release": null},
            {"target": "web", "release": 7, "restored_release": 5}]);
        let text = message("shop", json!({"exit": 0, "deployed": deployed, "error": null}))["text"].clone();
        assert_eq!(text, "shop: app is deployed as release 7, web is back on release 5 (as release 7)");
    }
}
