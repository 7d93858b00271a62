//! Proxies of a project that do not run yet, as far as the file describes them.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use serde_json::Value;

use crate::configuration::Configuration;
use crate::docker::inspect::Image;
use crate::model::Service;
use crate::observe::DesiredVersion;
use crate::proxy::{self, MountedFile, Proxy};
use crate::swarm::proxy_config::mounted_files;

/// One proxy of the file.
struct ConfiguredProxy {
    service: String,
    proxy: Arc<dyn Proxy>,
    /// The configuration is among the mounted files.
    is_known: bool,
    files: Vec<(String, MountedFile, String)>,
}

/// Proxies of the file that do not run.
pub struct ConfiguredProxies(Vec<ConfiguredProxy>);

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
    let down = project.services.values().filter(|s| !runs(&s.name));
    let configured_proxy = |service: &Service| {
        let name = format!("{}-{}-1", project.name, service.name);
        let links: Vec<String> = service.links().iter().map(|l| format!("{}-{l}-1", project.name)).collect();
        let mut container = wanted.preview(&project.name, service).named(&name).linked(&links);
        container.config.image = service.image.clone();
        (container.path, container.args) = command_of(service, wanted.images.get(&service.name));
        let mut proxy = proxy::detect(&[container]).pop()?;
        let files = files(&text["services"][&service.name], &text);
        let is_known = proxy.learn_files(&|path| mounted_file(&files, path));
        Some(ConfiguredProxy { service: service.name.clone(), proxy: proxy.into(), is_known, files })
    };
    Ok(ConfiguredProxies(down.filter_map(configured_proxy).collect()))
}

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

/// Mounted files of a service: path in the container, contents, and path on this machine.
fn files(service: &Value, project: &Value) -> Vec<(String, MountedFile, String)> {
    let mounts = service["volumes"].as_array();
    let is_read_only = |target: &str| {
        let mut mounts = mounts.into_iter().flatten().filter(|m| m["target"].as_str() == Some(target));
        mounts.any(|m| m["read_only"].as_bool() == Some(true))
    };
    let on_disk = mounted_files(service, project).into_iter().map(|(target, source)| {
        let text = std::fs::read_to_string(&source).unwrap_or_default();
        let read_only = is_read_only(&target) || !is_mount(service, &target);
        (target, MountedFile { text, read_only }, source)
    });
    let volumes = mounts.into_iter().flatten().filter(|m| m["type"].as_str() == Some("volume"));
    let volumes = volumes.filter_map(|m| {
        let target = m["target"].as_str()?.to_string();
        let given = MountedFile { text: String::new(), read_only: is_read_only(&target) };
        Some((target, given, String::new()))
    });
    on_disk.chain(volumes).chain(inline_configs(service, project)).collect()
}

fn is_mount(service: &Value, target: &str) -> bool {
    let mounts = service["volumes"].as_array().into_iter().flatten();
    mounts.into_iter().any(|m| m["target"].as_str() == Some(target))
}

/// Configs with their text in the file.
fn inline_configs(service: &Value, project: &Value) -> Vec<(String, MountedFile, String)> {
    let grants = service["configs"].as_array().into_iter().flatten();
    let text = |grant: &Value| {
        let source = grant["source"].as_str()?;
        let text = project["configs"][source]["content"].as_str()?.replace("$$", "$");
        let target = grant["target"].as_str().map_or_else(|| format!("/{source}"), String::from);
        Some((target, MountedFile { text, read_only: true }, String::new()))
    };
    grants.filter_map(text).collect()
}

/// The mounted file at a path, or the file of a mounted folder.
fn mounted_file(files: &[(String, MountedFile, String)], path: &str) -> Option<MountedFile> {
    if let Some((_, given, _)) = files.iter().find(|(target, ..)| target == path) {
        return Some(given.clone());
    }
    let mut parents: Vec<&(String, MountedFile, String)> =
        files.iter().filter(|(target, ..)| Path::new(path).starts_with(target)).collect();
    parents.sort_by_key(|(target, ..)| target.len());
    let (target, folder, source) = parents.pop().filter(|(.., source)| !source.is_empty())?;
    let inside = Path::new(source).join(Path::new(path).strip_prefix(target).ok()?);
    let text = if inside.is_dir() { String::new() } else { std::fs::read_to_string(inside).ok()? };
    Some(MountedFile { text, read_only: folder.read_only })
}

impl ConfiguredProxies {
    pub fn has(&self, service: &str) -> bool {
        self.0.iter().any(|configured| configured.service == service)
    }

    /// Proxies with a known configuration.
    pub fn known(&self) -> impl Iterator<Item = &Arc<dyn Proxy>> {
        self.0.iter().filter(|configured| configured.is_known).map(|configured| &configured.proxy)
    }

    /// A proxy with an unknown configuration shares a network with the service.
    pub fn may_route_to(&self, service: &Service) -> bool {
        let reaches = |configured: &ConfiguredProxy| {
            service.networks.iter().any(|n| configured.proxy.container().networks().any(|o| o == n))
        };
        self.0.iter().any(|configured| {
            !configured.is_known && configured.service != service.name && reaches(configured)
        })
    }

    /// The mounted file of a proxy at a path.
    pub fn mounted_file(&self, proxy: &dyn Proxy, path: &str) -> Option<MountedFile> {
        let configured = self.0.iter().find(|p| p.proxy.container().name() == proxy.container().name())?;
        mounted_file(&configured.files, path)
    }

    /// Notes on facts that the file does not contain.
    pub fn notes(&self) -> Vec<String> {
        let note = |configured: &ConfiguredProxy| {
            if configured.is_known {
                format!("{}: does not run, so only the file was checked", configured.proxy.name())
            } else {
                format!("{}: does not run, and its configuration is not in the file", configured.proxy.name())
            }
        };
        self.0.iter().map(note).collect()
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
        let files = files(&service, &project);
        let found = |path: &str| mounted_file(&files, path).map(|g| (g.text, g.read_only));
        assert_eq!(found("/etc/lb/a.cfg"), Some(("a".into(), true)));
        assert_eq!(found("/etc/lb"), Some((String::new(), true)));
        assert_eq!((found("/b.cfg"), found("/c.cfg")), (Some(("b".into(), true)), Some(("$c".into(), true))));
        assert_eq!(found("/dynamic"), Some((String::new(), false)));
        assert_eq!((found("/etc/lb/none.cfg"), found("/etc/lbx"), found("/dynamic/x")), (None, None, None));
    }
}
