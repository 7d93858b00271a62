//! Proxies of a project that do not run yet, as far as the file describes them.

use std::sync::Arc;

use anyhow::Result;
use serde::Deserialize;
use serde_json::Value;

use super::audit_report::Unknown;
use crate::configuration::Configuration;
use crate::docker::inspect::Image;
use crate::model::Service;
use crate::observe::DesiredVersion;
use crate::observe::container_files::{MountSource, PlannedMount, mounted_file};
use crate::preflight::proxies;
use crate::proxy::{self, MountedFile, Proxy};
use crate::targets;

/// One proxy of the file.
struct ConfiguredProxy {
    service: String,
    proxy: Arc<dyn Proxy>,
    /// The configuration is among the mounted files.
    is_known: bool,
    mounts: Vec<PlannedMount>,
}

/// Proxies of the file that do not run.
#[derive(Default)]
pub struct ConfiguredProxies(Vec<ConfiguredProxy>);

/// The program and the arguments of a service. Without the image, all words of the file count as arguments, as in most
/// files.
fn command_of(service: &Service, image: Option<&Image>) -> (String, Vec<String>) {
    let from_image = image.map(|i| i.config.clone()).unwrap_or_default();
    let mut words = service.command_line(&from_image.entrypoint, &from_image.cmd);
    if image.is_none() && service.entrypoint.is_none() {
        return (String::new(), words);
    }
    if words.is_empty() { (String::new(), words) } else { (words.remove(0), words) }
}

/// Volume or config of a service in the resolved file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Mount {
    #[serde(rename = "type")]
    kind: String,
    /// Folder or file on this machine, or the name of a volume or config.
    source: String,
    target: String,
    read_only: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Mounts {
    volumes: Vec<Mount>,
    configs: Vec<Mount>,
}

impl Mount {
    /// A volume or a folder; `None` for a temporary file system.
    fn of_volume(self) -> Option<PlannedMount> {
        let source = match self.kind.as_str() {
            "bind" => MountSource::Disk(self.source.into()),
            "volume" => MountSource::Unknown,
            _ => return None,
        };
        Some(PlannedMount { target: self.target, read_only: self.read_only, source })
    }

    /// A config as the file or text that it stands for.
    fn of_config(self, project: &Value) -> PlannedMount {
        let config = &project["configs"][&self.source];
        let target = if self.target.is_empty() { format!("/{}", self.source) } else { self.target };
        let file = config["file"].as_str().filter(|file| !file.is_empty());
        let source = match (file, config["content"].as_str()) {
            (Some(file), _) => MountSource::Disk(file.into()),
            (None, Some(text)) => MountSource::Text(text.replace("$$", "$")),
            (None, None) => MountSource::Unknown,
        };
        PlannedMount { target, read_only: true, source }
    }
}

fn mounts(service: &Value, project: &Value) -> Vec<PlannedMount> {
    let Mounts { volumes, configs } = serde_json::from_value(service.clone()).unwrap_or_default();
    let volumes = volumes.into_iter().filter_map(Mount::of_volume);
    volumes.chain(configs.into_iter().map(|grant| grant.of_config(project))).collect()
}

impl ConfiguredProxies {
    /// Finds the services of the file that are proxies and do not run.
    ///
    /// # Errors
    /// A project that cannot be written as JSON.
    pub fn find(
        request: &Configuration,
        wanted: &DesiredVersion,
        runs: &dyn Fn(&str) -> bool,
    ) -> Result<ConfiguredProxies> {
        let text: Value = serde_json::from_str(&request.snapshot.text())?;
        let project = &request.project;
        let previews: Vec<_> = project.services.values().map(|s| wanted.preview(&project.name, s)).collect();
        let listening = targets::listening_services(project, &previews, |s| proxy::is_proxy_image(&s.image));
        let configured = |service: &Service| {
            let name = |service: &str| format!("{}-{service}-1", project.name);
            let links: Vec<String> = service.links().iter().map(|link| name(link)).collect();
            let preview = wanted.preview(&project.name, service);
            let mut container = preview.named(&name(&service.name)).linked(&links);
            container.config.image = service.image.clone();
            (container.path, container.args) = command_of(service, wanted.images.get(&service.name));
            let mut proxy = proxy::detect(&[container]).pop()?;
            let mounts = mounts(&text["services"][&service.name], &text);
            let is_known = proxy.learn_files(&|path| mounted_file(&mounts, path));
            if proxy.routes_nowhere() {
                return None;
            }
            proxy.learn_services(&listening);
            Some(ConfiguredProxy { service: service.name.clone(), proxy: proxy.into(), is_known, mounts })
        };
        let down = project.services.values().filter(|s| !runs(&s.name));
        Ok(ConfiguredProxies(down.filter_map(configured).collect()))
    }

    pub fn has(&self, service: &str) -> bool {
        self.0.iter().any(|configured| configured.service == service)
    }

    /// Proxies with a known configuration.
    pub fn known(&self) -> impl Iterator<Item = &Arc<dyn Proxy>> {
        self.0.iter().filter(|configured| configured.is_known).map(|configured| &configured.proxy)
    }

    /// A proxy with an unknown configuration shares a network with the service.
    pub fn may_route_to(&self, service: &Service) -> bool {
        let mut others = self.0.iter().filter(|p| !p.is_known && p.service != service.name);
        others.any(|other| other.proxy.container().is_some_and(|c| proxies::shares_network(c, service)))
    }

    /// The mounted file of a proxy at a path.
    pub fn mounted_file(&self, proxy: &dyn Proxy, path: &str) -> Option<MountedFile> {
        let configured = self.0.iter().find(|p| p.proxy.name() == proxy.name())?;
        mounted_file(&configured.mounts, path)
    }

    /// Facts that the file does not contain.
    pub fn unknown(&self) -> Vec<Unknown> {
        let unknown = |configured: &ConfiguredProxy| {
            let reason = if configured.is_known {
                "it does not run, so only the file was checked"
            } else {
                "it does not run, and its configuration is not in the file"
            };
            Unknown::new(&configured.proxy.name(), reason)
        };
        self.0.iter().map(unknown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_mounted_file_is_found_in_files_folders_volumes_and_inline_configs() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/a.cfg"), "a").unwrap();
        std::fs::write(dir.path().join("b.cfg"), "b").unwrap();
        let service = json!({
            "volumes": [
                {"type": "bind", "source": path("etc"), "target": "/etc/lb", "read_only": true},
                {"type": "volume", "source": "v", "target": "/dynamic"},
            ],
            "configs": [{"source": "b", "target": "/b.cfg"}, {"source": "c", "target": "/c.cfg"}],
        });
        let project = json!({"configs": {"b": {"file": path("b.cfg")}, "c": {"content": "$$c"}}});
        let mounts = mounts(&service, &project);
        let found = |path: &str| mounted_file(&mounts, path).map(|g| (g.text, g.read_only));
        assert_eq!(found("/etc/lb/a.cfg"), Some(("a".into(), true)));
        assert_eq!(found("/etc/lb"), Some(("a.cfg\n".into(), true)));
        assert_eq!(found(""), Some(("dynamic\nb.cfg\nc.cfg\n".into(), false)));
        assert_eq!((found("/b.cfg"), found("/c.cfg")), (Some(("b".into(), true)), Some(("$c".into(), true))));
        assert_eq!(found("/dynamic"), Some((String::new(), false)));
        assert_eq!((found("/etc/lb/none.cfg"), found("/etc/lbx"), found("/dynamic/x")), (None, None, None));
    }
}
