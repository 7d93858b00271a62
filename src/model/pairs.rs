//! Pairs: two services of one app, declared in `x-zd.pairs` or recognised by their names.

use std::collections::{BTreeMap, BTreeSet};

use super::ConfigError;
use super::Service;
use super::compose::is_name;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub name: String,
    pub sides: [String; 2],
}

/// Declared pairs, then recognised ones.
///
/// # Errors
/// A declared pair that does not name two services.
pub fn find_pairs(
    services: &BTreeMap<String, Service>,
    declared: BTreeMap<String, [String; 2]>,
    source: &str,
) -> Result<Vec<Pair>, ConfigError> {
    let mut pairs = Vec::new();
    for (name, sides) in declared {
        check_pair(services, &name, &sides, source)?;
        let other = pairs.iter().find(|p: &&Pair| p.sides.iter().any(|side| sides.contains(side)));
        if let Some(other) = other {
            return Err(ConfigError {
                message: format!(
                    "{source}: `x-zd.pairs.{name}` shares a side with the pair `{}`",
                    other.name
                ),
                hint: "name each service in one pair only".into(),
            });
        }
        pairs.push(Pair { name, sides });
    }
    let declared: BTreeSet<String> = pairs.iter().flat_map(|p| p.sides.clone()).collect();
    let free = |s: &String| !declared.contains(s);
    let recognised = services.keys().filter_map(|first| recognised_pair(services, first));
    pairs.extend(recognised.filter(|p| p.sides.iter().all(free)));
    Ok(pairs)
}

fn check_pair(
    services: &BTreeMap<String, Service>,
    name: &str,
    sides: &[String; 2],
    source: &str,
) -> Result<(), ConfigError> {
    let invalid = |message: String, hint: &str| {
        Err(ConfigError { message: format!("{source}: `x-zd.pairs.{name}`: {message}"), hint: hint.into() })
    };
    if !is_name(name) {
        return invalid("the name is not valid".into(), "name it with letters, digits, `_`, `-` and `.`");
    }
    if services.contains_key(name) && !sides.iter().any(|side| side == name) {
        return invalid("a service has this name".into(), "give the pair another name");
    }
    if sides[0] == sides[1] {
        return invalid("both sides are the same service".into(), "name two services");
    }
    match sides.iter().find(|s| !services.contains_key(*s)) {
        Some(side) => {
            invalid(format!("the project has no service `{side}`"), "name two services of this file")
        }
        None => Ok(()),
    }
}

/// Pair of this first side by name: `X_a`/`X_b`, `X-a`/`X-b`, `X_blue`/`X_green` or `X-blue`/`X-green`.
fn recognised_pair(services: &BTreeMap<String, Service>, first: &str) -> Option<Pair> {
    let endings = [("_a", "_b"), ("-a", "-b"), ("_blue", "_green"), ("-blue", "-green")];
    let (name, second) = endings.iter().find_map(|(one, other)| {
        let name = first.strip_suffix(one).filter(|n| !n.is_empty())?;
        Some((name.to_string(), format!("{name}{other}")))
    })?;
    let same = same_app(&services[first], services.get(&second)?);
    let sides = [first.to_string(), second];
    (same && !services.contains_key(&name)).then_some(Pair { name, sides })
}

/// Both services have the same `VIRTUAL_HOST`, image or build, for example because they extend one base.
fn same_app(a: &Service, b: &Service) -> bool {
    let value = |s: &Service, key: &str| s.environment.get(key).cloned().filter(|value| !value.is_empty());
    let is_same = |key: &str| value(a, key).is_some() && value(a, key) == value(b, key);
    let same_host = ["VIRTUAL_HOST", "VIRTUAL_HOST_MULTIPORTS"].into_iter().any(is_same);
    let same_image = a.image == b.image;
    let same_build = a.build.is_some() && a.build == b.build;
    same_host || same_image || same_build
}
