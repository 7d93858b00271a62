//! Compose as a plugin of docker's client, found in the folders that the client searches. Starting the plugin
//! without the client saves two processes a command, which take longer than Compose itself: the client, and a first
//! start of the plugin that queries its metadata.

use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Variable that tells a plugin the name of the client that started it. Without the variable, the plugin parses its
/// words as those of a standalone program (`ReexecEnvvar` of docker/cli's plugin manager).
pub const ORIGINAL_COMMAND: &str = "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND";

/// `defaultSystemPluginDirs` of docker/cli's plugin manager.
const SYSTEM_FOLDERS: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// The field of the client's `config.json` that matters here.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PluginConfig {
    cli_plugins_extra_dirs: Vec<PathBuf>,
}

/// Plugin that docker's client starts with these flags; `None` if the client may start another one.
pub fn find(flags: &[String]) -> Option<PathBuf> {
    find_any(flags).filter(|plugin| is_executable(plugin) && !is_script(plugin))
}

/// Plugin that the client would start if the file were executable.
pub fn find_not_executable(flags: &[String]) -> Option<PathBuf> {
    find_any(flags).filter(|plugin| !is_executable(plugin))
}

/// First plugin in the client's order. The client uses no other one, even if the first is unusable.
fn find_any(flags: &[String]) -> Option<PathBuf> {
    if flags.iter().any(|flag| flag.starts_with("--config")) {
        return None;
    }
    let folder = env::var_os("DOCKER_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".docker")))?;
    let text = fs::read_to_string(folder.join("config.json")).ok();
    first_plugin(&folders(&folder, text.as_deref())?)
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|about| about.permissions().mode() & 0o111 != 0)
}

/// True if the program is docker's own client. A script in its place (podman's, one that calls `sudo` or `ssh`), or a
/// renamed program behind a link, may do anything with its arguments.
pub fn is_docker_cli(client: &Path) -> bool {
    let is_named_docker = |path: &Path| path.file_name().is_some_and(|name| name == "docker");
    let Some((path, mode)) = client.canonicalize().ok().and_then(|p| {
        let mode = p.metadata().ok()?.permissions().mode();
        Some((p, mode))
    }) else {
        return false;
    };
    // A setuid or setgid client gives its rights to the plugin, which compose-zd cannot.
    let has_extra_rights = mode & 0o6000 != 0;
    is_named_docker(&path) && !has_extra_rights && !is_script(&path)
}

fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_err() || start == *b"#!"
}

/// Folders that docker's client searches for plugins, in its order; `None` if its configuration is not understood.
fn folders(client_folder: &Path, config: Option<&str>) -> Option<Vec<PathBuf>> {
    let config: PluginConfig =
        config.map_or(Some(PluginConfig::default()), |text| serde_json::from_str(text).ok())?;
    let client_folder = client_folder.join("cli-plugins");
    Some(
        config
            .cli_plugins_extra_dirs
            .into_iter()
            .chain([client_folder])
            .chain(SYSTEM_FOLDERS.map(PathBuf::from))
            .collect(),
    )
}

fn first_plugin(folders: &[PathBuf]) -> Option<PathBuf> {
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
    fn only_dockers_own_client_is_bypassed() {
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
        let accepted = ["a/docker", "links/docker"].map(|name| is_docker_cli(&at(name)));
        assert_eq!(accepted, [true; 2]);
        let refused =
            ["script/docker", "lent/docker", "shim/docker", "none/docker"].map(|n| is_docker_cli(&at(n)));
        assert_eq!(refused, [false; 4]);
        assert_eq!(find(&["--config=x".into()]), None);
    }

    #[test]
    fn folders_are_searched_in_the_order_of_the_client() {
        let client_folder = Path::new("/home/u/.docker");
        let found =
            folders(client_folder, Some(r#"{"auths": {}, "cliPluginsExtraDirs": ["/opt/p"]}"#)).unwrap();
        assert_eq!(found[..2], [PathBuf::from("/opt/p"), "/home/u/.docker/cli-plugins".into()]);
        assert_eq!(found[2..], SYSTEM_FOLDERS.map(PathBuf::from));
        assert_eq!(folders(client_folder, None).unwrap().len(), 5);
        assert_eq!(folders(client_folder, Some("{")), None);
    }

    #[test]
    fn the_first_plugin_counts_even_if_it_is_unusable() {
        let dir = tempfile::tempdir().unwrap();
        let folders = ["empty", "one", "two"].map(|name| dir.path().join(name));
        assert_eq!(first_plugin(&folders), None);
        program(&folders[2].join("docker-compose"), "\x7fELF", 0o755);
        assert_eq!(first_plugin(&folders), Some(folders[2].join("docker-compose")));
        let plugin = folders[1].join("docker-compose");
        program(&plugin, "#!/bin/sh\n", 0o644);
        assert_eq!(first_plugin(&folders), Some(plugin.clone()));
        assert!(is_script(&plugin) && !is_executable(&plugin));
    }
}
