//! Compose as docker's client starts it: a plugin of its own, found in the folders that the client looks into. To start
//! it without the client saves two processes a command, which take longer than Compose does: the client itself, and a
//! first start of the plugin that asks it what it is.

use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Tells a plugin that docker's client has started it, and by which name; without it the plugin takes its words for those
/// of a standalone program (`ReexecEnvvar` of docker/cli's plugin manager).
pub const CALLED_BY: &str = "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND";

/// `defaultSystemPluginDirs` of docker/cli's plugin manager.
const SYSTEM: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// Part of the client's `config.json`.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PluginConfig {
    cli_plugins_extra_dirs: Vec<PathBuf>,
}

/// The plugin that docker's client starts with these flags; none where it may start another.
pub fn find(flags: &[String]) -> Option<PathBuf> {
    there(flags).filter(|plugin| is_executable(plugin) && !is_script(plugin))
}

/// The plugin that the client would start if it were allowed to.
pub fn without_its_x_bit(flags: &[String]) -> Option<PathBuf> {
    there(flags).filter(|plugin| !is_executable(plugin))
}

/// The first there is: the client takes no other where that one is of no use.
fn there(flags: &[String]) -> Option<PathBuf> {
    if flags.iter().any(|flag| flag.starts_with("--config")) {
        return None;
    }
    let own = env::var_os("DOCKER_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from);
    let own = own.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".docker")))?;
    let text = fs::read_to_string(own.join("config.json")).ok();
    first(&folders(&own, text.as_deref())?)
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|about| about.permissions().mode() & 0o111 != 0)
}

/// Whether it is docker's own client. A script in its place (podman's, one that calls `sudo` or `ssh`), or a program by
/// another name that takes this one, may do anything with the words it gets.
pub fn is_dockers(client: &Path) -> bool {
    let is_so_called = |path: &Path| path.file_name().is_some_and(|name| name == "docker");
    let Some((path, mode)) = client.canonicalize().ok().and_then(|p| {
        let mode = p.metadata().ok()?.permissions().mode();
        Some((p, mode))
    }) else {
        return false;
    };
    // With the rights of another user or group the plugin would have them, too.
    let is_lent = mode & 0o6000 != 0;
    is_so_called(&path) && !is_lent && !is_script(&path)
}

fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_err() || start == *b"#!"
}

/// Where docker's client looks for plugins, in its order; none where its configuration is not understood.
fn folders(own: &Path, config: Option<&str>) -> Option<Vec<PathBuf>> {
    let config: PluginConfig =
        config.map_or(Some(PluginConfig::default()), |text| serde_json::from_str(text).ok())?;
    let own = own.join("cli-plugins");
    Some(config.cli_plugins_extra_dirs.into_iter().chain([own]).chain(SYSTEM.map(PathBuf::from)).collect())
}

fn first(folders: &[PathBuf]) -> Option<PathBuf> {
    folders.iter().map(|f| f.join("docker-compose")).find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &Path, text: &str, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_dockers_own_client_is_gone_around() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        program(&at("a/docker"), "\x7fELF", 0o755);
        program(&at("podman"), "\x7fELF", 0o755);
        program(&at("script/docker"), "#!/bin/sh\nexec sudo docker \"$@\"\n", 0o755);
        program(&at("lent/docker"), "\x7fELF", 0o2755);
        fs::create_dir(at("links")).unwrap();
        std::os::unix::fs::symlink(at("a/docker"), at("links/docker")).unwrap();
        fs::create_dir(at("shim")).unwrap();
        std::os::unix::fs::symlink(at("podman"), at("shim/docker")).unwrap();
        let taken = ["a/docker", "links/docker"].map(|name| is_dockers(&at(name)));
        assert_eq!(taken, [true; 2]);
        let left = ["script/docker", "lent/docker", "shim/docker", "none/docker"].map(|n| is_dockers(&at(n)));
        assert_eq!(left, [false; 4]);
        assert_eq!(find(&["--config=x".into()]), None);
    }

    #[test]
    fn the_folders_are_those_of_the_client_in_its_order() {
        let own = Path::new("/home/u/.docker");
        let found = folders(own, Some(r#"{"auths": {}, "cliPluginsExtraDirs": ["/opt/p"]}"#)).unwrap();
        assert_eq!(found[..2], [PathBuf::from("/opt/p"), "/home/u/.docker/cli-plugins".into()]);
        assert_eq!(found[2..], SYSTEM.map(PathBuf::from));
        assert_eq!(folders(own, None).unwrap().len(), 5);
        assert_eq!(folders(own, Some("{")), None);
    }

    #[test]
    fn the_first_plugin_counts_also_where_it_is_of_no_use() {
        let dir = tempfile::tempdir().unwrap();
        let folders = ["empty", "one", "two"].map(|name| dir.path().join(name));
        assert_eq!(first(&folders), None);
        program(&folders[2].join("docker-compose"), "\x7fELF", 0o755);
        assert_eq!(first(&folders), Some(folders[2].join("docker-compose")));
        let plugin = folders[1].join("docker-compose");
        program(&plugin, "#!/bin/sh\n", 0o644);
        assert_eq!(first(&folders), Some(plugin.clone()));
        assert!(is_script(&plugin) && !is_executable(&plugin));
    }
}
