//! The resolved project as a text that Compose can be given again: with other images, or with the parts of two releases.
//! Written as JSON, which is YAML: a string that only looks like a number or a date stays one.

use serde_yaml::{Mapping, Value};

use super::ConfigError;

/// Top-level maps that services refer to.
const SHARED: [&str; 4] = ["networks", "volumes", "secrets", "configs"];

/// A resolved project that is changed as a whole.
#[derive(Clone)]
pub struct ResolvedProject(Value);

impl ResolvedProject {
    /// Reads what `docker compose config` printed, or an earlier snapshot. The text holds secrets, so no message shows it.
    ///
    /// # Errors
    /// A text that is no project.
    pub fn read(yaml: &str) -> Result<ResolvedProject, ConfigError> {
        let value: Option<Value> = serde_yaml::from_str(yaml).ok();
        // A name that is no text cannot be written.
        let value = value.filter(|v| serde_json::to_value(v).is_ok());
        let project = value.filter(|v| v.get("services").is_some_and(Value::is_mapping));
        project.map(ResolvedProject).ok_or_else(|| ConfigError {
            message: "there are no `services` in the resolved project".into(),
            hint: "it has to be what `docker compose config` printed".into(),
        })
    }

    pub fn text(&self) -> String {
        serde_json::to_string_pretty(&self.0).expect("what was read as a project can be written")
    }

    /// The project's name.
    pub fn project(&self) -> Option<&str> {
        self.0.get("name")?.as_str()
    }

    /// The image of a service, as the file names it.
    pub fn image(&self, service: &str) -> Option<&str> {
        self.0.get("services")?.get(service)?.get("image")?.as_str()
    }

    /// Gives a service another image, which is not built.
    pub fn set_image(&mut self, service: &str, reference: &str) {
        let Some(Value::Mapping(service)) = self.part("services").and_then(|s| s.get_mut(service)) else {
            return;
        };
        service.insert("image".into(), reference.into());
        service.remove("build");
    }

    /// A config, secret, network or volume.
    pub fn shared(&self, kind: &str, key: &str) -> Option<&Value> {
        self.0.get(kind)?.get(key)
    }

    /// Gives a config, secret, network or volume another definition.
    pub fn set_shared(&mut self, kind: &str, key: &str, value: Value) {
        if let Some(part) = self.part(kind) {
            part.insert(key.into(), value);
        }
    }

    /// Keys of a top-level map.
    pub fn keys(&self, kind: &str) -> Vec<String> {
        let part = self.0.get(kind).and_then(Value::as_mapping);
        part.into_iter().flatten().filter_map(|(key, _)| Some(key.as_str()?.to_string())).collect()
    }

    /// Gives a service exactly this environment; a variable that is passed on and has no value (`KEY:`) stays.
    pub fn set_environment<'p>(&mut self, service: &str, pairs: impl Iterator<Item = (&'p str, &'p str)>) {
        let Some(Value::Mapping(service)) = self.part("services").and_then(|s| s.get_mut(service)) else {
            return;
        };
        let before = service.get("environment").and_then(Value::as_mapping);
        let unset = before.into_iter().flatten().filter(|(_, value)| value.is_null());
        let mut environment: Mapping = unset.map(|(name, value)| (name.clone(), value.clone())).collect();
        let doubled = |text: &str| Value::from(text.replace('$', "$$"));
        environment.extend(pairs.map(|(name, value)| (name.into(), doubled(value))));
        service.insert("environment".into(), environment.into());
    }

    /// Whether a service is defined as another snapshot has it.
    pub fn has_same(&self, service: &str, other: &ResolvedProject) -> bool {
        let of =
            |snapshot: &ResolvedProject| snapshot.0.get("services").and_then(|s| s.get(service)).cloned();
        of(self).is_some() && of(self) == of(other)
    }

    /// Whether a service is given a variable, whatever it is.
    pub fn has_variable(&self, service: &str, name: &str) -> bool {
        let environment = self.0.get("services").and_then(|s| s.get(service)?.get("environment"));
        environment.is_some_and(|all| all.get(name).is_some())
    }

    /// Takes these services, and what they refer to, as another snapshot has them.
    pub fn copy_services(&mut self, services: &[&str], other: &ResolvedProject) {
        for name in services {
            let theirs = other.0.get("services").and_then(|s| s.get(*name)).cloned();
            if let (Some(theirs), Some(ours)) = (theirs, self.part("services")) {
                ours.insert((*name).into(), theirs);
            }
        }
        for key in SHARED {
            self.complete(key, other);
        }
    }

    /// What is named in the other's map and missing in ours.
    fn complete(&mut self, key: &str, other: &ResolvedProject) {
        let Some(Value::Mapping(theirs)) = other.0.get(key) else {
            return;
        };
        let Some(ours) = self.part(key) else {
            return;
        };
        for (name, value) in theirs {
            if !ours.contains_key(name) {
                ours.insert(name.clone(), value.clone());
            }
        }
    }

    /// A top-level map, made where there is none.
    fn part(&mut self, key: &str) -> Option<&mut Mapping> {
        let root = self.0.as_mapping_mut()?;
        root.entry(key.into()).or_insert_with(|| Value::Mapping(Mapping::new())).as_mapping_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> ResolvedProject {
        ResolvedProject::read(yaml).unwrap_or_else(|wrong| panic!("{wrong:?}"))
    }

    #[test]
    fn a_string_that_looks_like_something_else_stays_a_string() {
        let words = ["1_000", "2001-01-01", "012", "yes", "1e3", "0x10", "~", "a$$b"];
        let environment: Vec<String> = words.iter().map(|w| format!("{{K: \"{w}\"}}")).collect();
        let text = read(&format!("services: {{app: {{environment: [{}]}}}}", environment.join(", "))).text();
        for word in words {
            assert!(text.contains(&format!("\"K\": \"{word}\"")), "{word}: {text}");
        }
    }

    #[test]
    fn an_environment_keeps_what_is_passed_on_without_a_value() {
        let mut snapshot = read("services: {app: {image: a, environment: {OPTIONS: , OLD: 1}}}");
        snapshot.set_environment("app", [("NEW", "a$b")].into_iter());
        let text = snapshot.text();
        assert!(text.contains("\"OPTIONS\": null") && text.contains("\"NEW\": \"a$$b\""), "{text}");
        assert!(!text.contains("OLD") && snapshot.has_variable("app", "OPTIONS"));
        assert!(!snapshot.has_variable("app", "OLD"));
    }

    #[test]
    fn another_image_is_not_built() {
        let mut snapshot = read("services: {app: {build: {context: .}}, db: {image: d}}");
        assert_eq!((snapshot.image("app"), snapshot.image("db")), (None, Some("d")));
        snapshot.set_image("app", "a:2");
        snapshot.set_image("nobody", "x");
        assert_eq!(snapshot.image("app"), Some("a:2"));
        assert!(!snapshot.text().contains("build") && !snapshot.text().contains("nobody"));
    }

    #[test]
    fn services_come_with_what_they_refer_to() {
        let mut new = read("services: {app: {image: a:2}, db: {image: d:2}}\nnetworks: {n: {name: new}}");
        let old = read(
            "services: {app: {image: a:1}, db: {image: d:1}}\nnetworks: {n: {name: old}, m: {name: m}}\nvolumes: {v: {}}",
        );
        new.copy_services(&["db", "nobody"], &old);
        assert_eq!((new.image("app"), new.image("db")), (Some("a:2"), Some("d:1")));
        let again = read(&new.text());
        let name = |n: &str| again.0["networks"][n]["name"].as_str().map(String::from);
        assert_eq!((name("n").as_deref(), name("m").as_deref()), (Some("new"), Some("m")));
        assert!(again.0["volumes"].get("v").is_some());
    }

    #[test]
    fn an_environment_is_taken_as_it_is() {
        let mut snapshot = read("services: {app: {environment: {A: one, B: two}}}");
        snapshot.set_environment("app", [("A", "$1"), ("C", "x=y")].into_iter());
        let again = read(&snapshot.text());
        let environment = &again.0["services"]["app"]["environment"];
        assert_eq!((environment["A"].as_str(), environment["C"].as_str()), (Some("$$1"), Some("x=y")));
        assert!(environment.get("B").is_none());
    }

    #[test]
    fn what_is_no_project_is_refused() {
        for text in ["", "a", "services: 3", "{", "name: x", "services: {}\n? [a]\n: b", "services: {~: {}}"]
        {
            assert!(ResolvedProject::read(text).is_err(), "{text}");
        }
    }
}
