//! Properties of the parsers: output of Compose is parsed as intended, and no input causes a panic.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseResult;
use serde_json::{Value, json};

use super::*;
use crate::fuzz::{corpus, damaged, damaged_json, holds, json_value, same};

fn read(yaml: &str) -> Result<Project, ConfigError> {
    Project::read(yaml, "compose.yaml", &FlagLayers::default())
}

/// Calls all queries of a project.
fn query_all(yaml: &str) -> TestCaseResult {
    if let Ok(project) = read(yaml) {
        for service in project.services.values() {
            let _ = (service.needs(&project), project.pair(&service.name));
            service.post_start.iter().for_each(|hook| drop((hook.exec_options(), hook.command.argv())));
            let _ = (
                service.update.tolerated_failures(3),
                service.rollback.tolerated_failures(usize::from(u16::MAX)),
            );
        }
    }
    if let Ok(mut snapshot) = ResolvedProject::parse(yaml) {
        snapshot.set_image("app", "app:2");
        snapshot.set_environment("app", [("A", "$b")].into_iter());
        snapshot.copy_services(&["app"], &snapshot.clone());
        let text = snapshot.text();
        let again =
            ResolvedProject::parse(&text).map(|s| s.text()).map_err(|w| TestCaseError::fail(w.message))?;
        same(&again, &text)?;
    }
    Ok(())
}

#[test]
fn no_text_causes_a_panic() {
    holds(damaged(corpus("compose")), |text| query_all(&text));
}

#[test]
fn no_value_causes_a_panic() {
    let as_json = |yaml: &String| {
        let value: Value = serde_yaml::from_str(yaml).expect("a sample is YAML");
        value.to_string()
    };
    holds(damaged_json(corpus("compose").iter().map(as_json).collect()), |json| query_all(&json.to_string()));
}

/// The format of `time.Duration.String` in Go, which Compose prints.
fn go(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let decimal = |unit: u128, name: &str| {
        let fraction = format!("{:0width$}", nanos % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        format!("{}{point}{fraction}{name}", nanos / unit)
    };
    match nanos {
        0 => "0s".into(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => decimal(1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
            let fraction = format!("{:09}", rest % 1_000_000_000);
            let fraction = fraction.trim_end_matches('0');
            let point = if fraction.is_empty() { "" } else { "." };
            let seconds = format!("{}{point}{fraction}s", rest / 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// Durations of every size, up to a month.
fn duration() -> impl Strategy<Value = Duration> {
    let shift = (0u32..42, any::<u64>()).prop_map(|(bits, n)| Duration::from_nanos(n >> (22 + bits % 42)));
    let whole = (0u64..2_600_000).prop_map(Duration::from_secs);
    let milli = (0u64..10_000_000).prop_map(Duration::from_millis);
    prop_oneof![shift, whole, milli]
}

const TEXT: &str = "[a-zA-Z0-9 _:#&*!|>'\"%@`$=,.\\[\\]{}~é-]{0,12}";

/// The intended service.
#[derive(Debug, Clone)]
struct Truth {
    scale: Option<u32>,
    environment: BTreeMap<String, Option<String>>,
    labels: BTreeMap<String, String>,
    ports: Vec<(u16, Option<u16>, &'static str)>,
    expose: Vec<(u16, u16)>,
    test: Option<Vec<String>>,
    update: Option<(u32, Duration, Duration, &'static str, &'static str)>,
    health: Option<(u16, Duration, Duration, String)>,
    drain: Option<(Duration, Vec<String>)>,
}

fn truth() -> impl Strategy<Value = Truth> {
    let ports = prop::collection::vec((1u16.., prop::option::of(1u16..), select(&["tcp", "udp"][..])), 0..3);
    let expose = prop::collection::vec((1u16..60_000, 0u16..4), 0..3);
    let actions =
        (select(&["pause", "continue", "rollback"][..]), select(&["start-first", "stop-first"][..]));
    let update = prop::option::of((0u32..9, duration(), duration(), actions))
        .prop_map(|u| u.map(|(p, d, m, (action, order))| (p, d, m, action, order)));
    let longer = || duration().prop_map(|d| d + Duration::from_nanos(1));
    let health = prop::option::of((1u16.., longer(), longer(), "/[a-zA-Z0-9_:&=,.~*'$-]{0,12}"));
    let drain =
        prop::option::of((duration(), prop::collection::vec("[a-z][a-zA-Z0-9 _:#&*!|>=,.-]{0,12}", 1..3)));
    let texts = (
        prop::collection::btree_map("K_[A-Za-z_]{1,8}", prop::option::of(TEXT), 0..4),
        prop::collection::btree_map("[a-z.$]{1,8}", TEXT, 0..4),
        prop::option::of(prop::collection::vec(TEXT, 1..4)),
    );
    (prop::option::of(0u32..99), texts, ports, expose, update, health, drain).prop_map(
        |(scale, (environment, labels, test), ports, expose, update, health, drain)| Truth {
            scale,
            environment,
            labels,
            ports,
            expose,
            test,
            update,
            health,
            drain,
        },
    )
}

/// Compose prints every `$` doubled.
fn doubled(text: &str) -> String {
    text.replace('$', "$$")
}

/// Converts a name of a file to the form that Compose prints, or keeps the name.
type Name = fn(&str) -> String;

/// A service as in a file, or as Compose prints it.
fn written(truth: &Truth, name: Name) -> Value {
    let mut service = json!({"image": "app:1", "networks": {"default": null}});
    let mut set = |key: &str, value: Value| service[key] = value;
    truth.scale.iter().for_each(|n| set("scale", json!(n)));
    let environment: BTreeMap<_, _> =
        truth.environment.iter().map(|(k, v)| (k, v.as_deref().map(doubled))).collect();
    set("environment", json!(environment));
    let labels: BTreeMap<_, _> = truth.labels.iter().map(|(k, v)| (name(k), doubled(v))).collect();
    set("labels", json!(labels));
    let port = |(target, published, protocol): &(u16, Option<u16>, &str)| match published {
        Some(published) => {
            json!({"mode": "ingress", "target": target, "published": published.to_string(), "protocol": protocol})
        }
        None => json!({"mode": "ingress", "target": target, "protocol": protocol}),
    };
    set("ports", truth.ports.iter().map(port).collect());
    let expose = |(from, more): &(u16, u16)| match more {
        0 => json!(from.to_string()),
        _ => json!(format!("{from}-{}", from + more)),
    };
    set("expose", truth.expose.iter().map(expose).collect());
    if let Some(test) = &truth.test {
        set("healthcheck", json!({"test": test.iter().map(|w| doubled(w)).collect::<Vec<_>>()}));
    }
    if let Some((parallelism, delay, monitor, action, order)) = &truth.update {
        set(
            "deploy",
            json!({"update_config": {"parallelism": parallelism, "delay": go(*delay), "monitor": go(*monitor),
            "failure_action": action, "max_failure_ratio": 0.25, "order": order}}),
        );
    }
    let mut zd = json!({});
    if let Some((port, interval, deadline, path)) = &truth.health {
        zd["health"] = json!({"port": port, "interval": go(*interval), "deadline": go(*deadline), "path": doubled(path)});
    }
    if let Some((timeout, command)) = &truth.drain {
        let command: Vec<String> = command.iter().map(|w| doubled(w)).collect();
        zd["drain"] = json!({"timeout": go(*timeout), "command": command});
    }
    set("x-zd", zd);
    service
}

fn project(truths: &[Truth], name: Name) -> String {
    let services = truths.iter().enumerate().map(|(n, truth)| (format!("s{n}"), written(truth, name)));
    let services: Value = Value::Object(services.collect());
    let project = json!({"name": "p", "services": services, "networks": {"default": {"name": "p_default"}}});
    serde_yaml::to_string(&project).expect("YAML")
}

fn is_read(yaml: &str, truths: &[Truth]) -> TestCaseResult {
    let project = read(yaml).map_err(|w| TestCaseError::fail(format!("{w:?}")))?;
    same(&project.services.len(), &truths.len())?;
    truths
        .iter()
        .enumerate()
        .try_for_each(|(n, truth)| is_as_meant(&project.services[&format!("s{n}")], truth))
}

/// Runs only in `scripts/fuzz` with an installed Compose, because each call is slow.
#[test]
fn a_project_is_parsed_as_the_installed_compose_prints_it() {
    if std::env::vars().all(|(key, _)| !key.starts_with("COMPOSE_ZD_FUZZ_")) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let config = |yaml: &str| {
        std::fs::write(folder.path().join("compose.yaml"), yaml).expect("it can be written");
        crate::process::run_program(&["docker", "compose", "config"], folder.path(), &[]).ok()
    };
    holds(prop::collection::vec(truth(), 1..24), |mut truths| {
        // Compose refuses another first word.
        truths.iter_mut().flat_map(|t| &mut t.test).for_each(|test| test[0] = "CMD".into());
        // Compose omits a monitor of 0, so that the default applies.
        let watched = |m: &mut Duration| *m = (*m).max(Duration::from_nanos(1));
        truths.iter_mut().flat_map(|t| &mut t.update).for_each(|update| watched(&mut update.2));
        let Some(done) = config(&project(&truths, str::to_owned)) else {
            return Ok(());
        };
        prop_assert!(done.ok(), "{}", done.stderr_or_stdout());
        is_read(&done.stdout, &truths)
    });
}

#[test]
fn a_project_is_parsed_as_compose_prints_it() {
    holds(prop::collection::vec(truth(), 1..3), |truths| is_read(&project(&truths, doubled), &truths));
}

fn is_as_meant(app: &Service, truth: &Truth) -> TestCaseResult {
    same(&app.replicas(), &truth.scale)?;
    let set = truth.environment.iter().filter_map(|(k, v)| Some((k.clone(), v.clone()?)));
    same(&app.environment, &set.collect())?;
    same(&app.labels, &truth.labels)?;
    let range = |(from, more): &(u16, u16)| (*from..=from + more).map(|p| format!("{p}/tcp"));
    let ports = truth.ports.iter().map(|(port, _, protocol)| format!("{port}/{protocol}"));
    let exposed: BTreeSet<String> = truth.expose.iter().flat_map(range).chain(ports).collect();
    same(&app.exposed().into_iter().collect(), &exposed)?;
    same(&app.fixed_ports(), &truth.ports.iter().filter_map(|(_, p, _)| Some((*p)?.to_string())).collect())?;
    same(&app.healthcheck(), &truth.test)?;
    same(&app.networks, &vec!["p_default".to_string()])?;
    if let Some((parallelism, delay, monitor, action, order)) = truth.update {
        let read = app.update;
        same(&(read.parallelism, read.delay, read.monitor), &(parallelism, delay, monitor))?;
        same(&(word(&read.action), read.order.as_ref().map(word)), &(action.into(), Some(order.into())))?;
        same(&read.max_failure_ratio, &0.25)?;
    }
    if let Some((port, interval, deadline, path)) = &truth.health {
        let http = app.settings.http.clone().expect("a probe");
        same(&(http.port, &http.path), &(Some(*port), path))?;
        same(&(app.settings.timing.interval, app.settings.timing.deadline), &(*interval, *deadline))?;
    }
    let drain = truth.drain.clone().map_or((Duration::from_secs(30), None), |(t, c)| (t, Some(c)));
    same(&(app.settings.drain_timeout, app.settings.drain_command.clone()), &drain)
}

/// Any `x-zd` is parsed, or refused with the name of its key.
#[test]
fn an_invalid_key_of_x_zd_is_named_in_the_error() {
    let keys = ["health", "drain", "proxy", "before", "after", "pairs", "keep", "engine"];
    let below = prop::collection::btree_map(
        select(&["path", "port", "timeout", "expect", "interval", "tune"][..]),
        json_value(),
        0..3,
    );
    let value = prop_oneof![1 => json_value(), 1 => below.prop_map(|m| json!(m))];
    holds((select(keys.to_vec()), value, any::<bool>()), |(key, value, of_service)| {
        let zd = json!({key: value});
        let services = if of_service { json!({"app": {"x-zd": zd}}) } else { json!({"app": {}}) };
        let mut project = json!({"name": "p", "services": services});
        if !of_service {
            project["x-zd"] = zd;
        }
        if let Err(wrong) = read(&project.to_string()) {
            prop_assert!(wrong.message.contains(&format!("x-zd.{key}")), "{wrong:?}");
            prop_assert!(wrong.message.starts_with("compose.yaml: ") && !wrong.hint.is_empty(), "{wrong:?}");
        }
        Ok(())
    });
}

#[test]
fn printed_codes_are_parsed_again() {
    let ranges = prop::collection::vec((100u16..600, 100u16..600, any::<bool>()), 1..4);
    holds((ranges, 0u16..700), |(ranges, code)| {
        let ranges: Vec<(u16, u16)> =
            ranges.into_iter().map(|(a, b, one)| if one { (a, a) } else { (a.min(b), a.max(b)) }).collect();
        let text: Vec<String> =
            ranges.iter().map(|(a, b)| if a == b { format!(" {a}") } else { format!("{a} - {b}") }).collect();
        let codes = StatusRanges::parse(&text.join(",")).expect("codes");
        same(&codes.contains(code), &ranges.iter().any(|(a, b)| (*a..=*b).contains(&code)))?;
        same(&StatusRanges::parse(&codes.to_string()), &Some(codes))
    });
}
