//! Proxies of a project that do not run yet, as far as the file describes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use serde::Deserialize;
use serde_json::Value;

use super::audit_report::Unknown;
use crate::configuration::Configuration;
use crate::docker::inspect::Image;
use crate::model::Service;
use crate::observe::DesiredVersion;
use crate::preflight::proxies;
use crate::proxy::{self, MountedFile, Proxy};

/// One proxy of the file.
struct ConfiguredProxy {
    service: String,
    proxy: Arc<dyn Proxy>,
    /// The configuration is among the mounted files.
    is_known: bool,
    mounts: Vec<Mount>,
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
    /// Text of a config without a file.
    #[serde(skip)]
    text: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Mounts {
    volumes: Vec<Mount>,
    configs: Vec<Mount>,
}

impl Mount {
    fn on_disk(&self) -> Option<PathBuf> {
        (self.kind == "bind").then(|| PathBuf::from(&self.source))
    }

    /// A config as the file or text that it stands for.
    fn of_config(grant: Mount, project: &Value) -> Mount {
        let config = &project["configs"][&grant.source];
        let target = if grant.target.is_empty() { format!("/{}", grant.source) } else { grant.target };
        let file = config["file"].as_str().unwrap_or_default();
        let kind = if file.is_empty() { "config" } else { "bind" };
        let text = config["content"].as_str().map(|text| text.replace("$$", "$"));
        Mount { kind: kind.into(), source: file.into(), target, read_only: true, text }
    }
}

fn mounts(service: &Value, project: &Value) -> Vec<Mount> {
    let Mounts { volumes, configs } = serde_json::from_value(service.clone()).unwrap_or_default();
    let volumes = volumes.into_iter().filter(|m| ["bind", "volume"].contains(&m.kind.as_str()));
    volumes.chain(configs.into_iter().map(|grant| Mount::of_config(grant, project))).collect()
}

/// The mounted file at a path, the file of a mounted folder, or the names of the files that are mounted in a folder.
fn mounted_file(mounts: &[Mount], path: &str) -> Option<MountedFile> {
    let above = mounts.iter().filter(|mount| Path::new(path).starts_with(&mount.target));
    let Some(mount) = above.max_by_key(|mount| mount.target.len()) else {
        let names = mounts.iter().filter_map(|mount| {
            let (folder, name) = mount.target.rsplit_once('/')?;
            (folder == path).then(|| format!("{name}\n"))
        });
        let text: String = names.collect();
        return (!text.is_empty()).then_some(MountedFile { text, read_only: false });
    };
    let text = match mount.on_disk() {
        _ if mount.target == path && mount.text.is_some() => mount.text.clone()?,
        Some(folder) if mount.target == path && folder.is_dir() => names_in(&folder),
        Some(file) if mount.target == path => std::fs::read_to_string(file).unwrap_or_default(),
        Some(folder) => {
            let inside = folder.join(Path::new(path).strip_prefix(&mount.target).ok()?);
            if inside.is_dir() { names_in(&inside) } else { std::fs::read_to_string(inside).ok()? }
        }
        None => Some(String::new()).filter(|_| mount.target == path)?,
    };
    Some(MountedFile { text, read_only: mount.read_only })
}

/// Names of the files in a folder, one a line.
fn names_in(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        files.map(|file| file.file_name().to_string_lossy().into_owned() + "\n").collect();
    names.sort();
    names.concat()
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
