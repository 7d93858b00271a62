//! Changes that a deploy makes to a service of a stack, in words. Compares the definition in the stack's file with the
//! spec that Swarm has. Pure; never shows values of variables.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::definition::{self, Differences, strings, text};
use super::observed::{StackService, items};
use super::stack_file::names_in;

/// Input of a comparison: a service of a stack file, and the names of its image and networks.
pub struct ServiceDiff<'a> {
    pub stack: &'a str,
    pub file: &'a Value,
    pub service: &'a str,
    /// Name of the image in the project.
    pub image: &'a str,
    /// Names of networks by id.
    pub networks: &'a BTreeMap<String, String>,
}

impl ServiceDiff<'_> {
    fn desired(&self) -> &Value {
        &self.file["services"][self.service]
    }

    /// Changes in words; `current` is the service in Swarm.
    pub fn describe(&self, current: Option<&StackService>) -> String {
        let deploy = &self.desired()["deploy"];
        let replicas = deploy["replicas"].as_u64().unwrap_or(1);
        let mode = deploy["mode"].as_str().unwrap_or("replicated");
        let Some(service) = current else {
            return match mode {
                "replicated" => format!("create {replicas} tasks of {}", self.image),
                mode => format!("create the service ({mode}) with {}", self.image),
            };
        };
        if service.spec.is_job() {
            return format!("run the job again with {}", self.image);
        }
        let Differences { replacing, in_place } = self.differences(service);
        let replacing = replacing.into_iter().map(String::from);
        let changed = self.image_change(service).into_iter().chain(self.environment_change(service));
        let replacing: Vec<String> = changed.chain(replacing).collect();
        let scaled = service.spec.replicas().filter(|n| *n != replicas);
        let all = [
            (!replacing.is_empty()).then(|| format!("replace the tasks: {}", replacing.join("; "))),
            scaled.map(|n| format!("scale from {n} to {replicas} tasks")),
            (!in_place.is_empty())
                .then(|| format!("change without replacing tasks: {}", in_place.join(", "))),
        ];
        let all: Vec<String> = all.into_iter().flatten().collect();
        if all.is_empty() { "nothing changes".into() } else { all.join(", and ") }
    }

    fn differences(&self, current: &StackService) -> Differences {
        Differences::between(&self.resolved(), &definition::definition(&current.spec, self.networks))
    }

    /// Flags of `docker service update` that bring the service to the state in the file.
    ///
    /// # Errors
    /// Names of the changes without a flag. Variables have none, because the list of processes would show their values.
    pub fn update_flags(&self, current: &StackService) -> Result<Vec<String>, Vec<String>> {
        let deploy = &self.desired()["deploy"];
        let has_networks = current.spec.value()["TaskTemplate"]["Networks"].is_array();
        let Differences { replacing, in_place } = self.differences(current);
        let others = in_place.iter().filter(|name| !name.ends_with("_config"));
        // Compose gives every service a network. A service without a network in Swarm stays without one.
        let unsupported = replacing.iter().filter(|name| **name != "networks" || has_networks);
        let unsupported = unsupported.chain(others).map(|name| name.to_string());
        let unsupported: Vec<String> = unsupported.chain(self.environment_change(current)).collect();
        if !unsupported.is_empty() {
            return Err(unsupported);
        }
        let image = self.image_change(current).map(|_| format!("--image={}", text(&self.desired()["image"])));
        let scaled = deploy["replicas"].as_u64().filter(|n| current.spec.replicas().is_some_and(|m| m != *n));
        let scaled = scaled.map(|n| format!("--replicas={n}"));
        let mut flags: Vec<String> = image.into_iter().chain(scaled).collect();
        for (kind, key) in [("update", "update_config"), ("rollback", "rollback_config")] {
            let section = deploy[key].as_object().into_iter().flatten().filter(|_| in_place.contains(&key));
            flags.extend(
                section.map(|(key, value)| format!("--{kind}-{}={}", key.replace('_', "-"), text(value))),
            );
        }
        Ok(flags)
    }

    /// Change of the image, if any; Swarm adds the digest that it resolved.
    fn image_change(&self, service: &StackService) -> Option<String> {
        let (current, desired) = (service.spec.image(), text(&self.desired()["image"]));
        let tag = current.split('@').next().unwrap_or_default();
        let same = desired == current || tag == desired || tag == format!("{desired}:latest");
        let short = |image: &str| match image.strip_prefix("sha256:") {
            Some(id) => id.chars().take(12).collect(),
            None => image.to_string(),
        };
        // A tag that was built again names two images, so the id is added.
        let to = match desired.strip_prefix("sha256:") {
            Some(_) => format!("{} ({})", self.image, short(&desired)),
            None => desired.clone(),
        };
        (!same).then(|| format!("image {} → {to}", short(tag)))
    }

    fn environment_change(&self, service: &StackService) -> Option<String> {
        let current = service.spec.environment();
        let pairs = self.desired()["environment"].as_object().into_iter().flatten();
        let set = pairs.filter(|(_, value)| !value.is_null());
        let desired: BTreeMap<&str, String> = set.map(|(name, value)| (name.as_str(), text(value))).collect();
        let names: BTreeSet<&str> = desired.keys().chain(current.keys()).copied().collect();
        let differs = |name: &&str| desired.get(name).map(String::as_str) != current.get(name).copied();
        let changed: Vec<&str> = names.into_iter().filter(differs).collect();
        (!changed.is_empty()).then(|| format!("environment {}", changed.join(", ")))
    }

    /// Definition in the file, with the names that its objects have in Swarm.
    fn resolved(&self) -> Value {
        let mut service = self.desired().clone();
        if service["healthcheck"]["disable"] == true {
            service["healthcheck"] = json!({ "test": ["NONE"] });
        }
        for kind in ["configs", "secrets"] {
            let names = names_in(&service, kind).into_iter().map(|key| self.full_name(kind, &key));
            service[kind] = names.map(|name| json!({ "source": name })).collect();
        }
        let mut networks = names_in(&service, "networks");
        if networks.is_empty() {
            networks.push("default".into());
        }
        service["networks"] = networks.iter().map(|key| self.full_name("networks", key)).collect();
        let volumes = items(&service["volumes"]).map(|mount| match mount["source"].as_str() {
            Some(source) if mount["type"] == "volume" => {
                let mut mount = mount.clone();
                mount["source"] = self.full_name("volumes", source).into();
                mount
            }
            _ => mount.clone(),
        });
        let tmpfs = strings(&service["tmpfs"]).into_iter();
        let tmpfs = tmpfs.map(|mount| json!({ "type": "tmpfs", "target": mount.split(':').next() }));
        service["volumes"] = volumes.chain(tmpfs).collect();
        service
    }

    fn full_name(&self, kind: &str, key: &str) -> String {
        let own = self.file[kind][key]["name"].as_str().map(String::from);
        let is_external = self.file[kind][key]["external"].as_bool() == Some(true);
        own.unwrap_or_else(|| if is_external { key.into() } else { format!("{}_{key}", self.stack) })
    }
}

#[cfg(test)]
mod tests;
