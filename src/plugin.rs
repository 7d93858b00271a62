//! Plugin of docker's client: the words that docker starts a plugin with, and the metadata that docker reads. Pure.
//!
//! Docker starts `docker-zd` with its own words: `docker --context far zd deploy` becomes
//! `docker-zd --context far zd deploy`. compose-zd does not end with docker's client: a deploy outlives a terminal that
//! closes, with docker as without. Ctrl-C reaches compose-zd through the terminal.

use std::ffi::OsString;
use std::path::Path;

/// Name of the plugin after `docker`.
const NAME: &str = "zd";

/// Docker's own flags that have a value; all others have none.
const WITH_VALUE: [&str; 10] = [
    "--config",
    "--context",
    "-c",
    "--host",
    "-H",
    "--log-level",
    "-l",
    "--tlscacert",
    "--tlscert",
    "--tlskey",
];

/// Words of docker, sorted by their receiver.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PluginInvocation {
    /// Words of compose-zd, after the program's name.
    pub words: Vec<OsString>,
    /// Docker's flags that compose-zd does not have, which go to every docker command.
    pub docker: Vec<String>,
}

/// Name that the user called the program by: `docker zd` if it runs as a plugin.
pub fn program() -> &'static str {
    if is_plugin(std::env::args_os().next().as_ref()) { "docker zd" } else { "compose-zd" }
}

/// A message whose commands begin with this name of the program.
pub fn with_program(message: &str, program: &str) -> String {
    message.replace("`compose-zd ", &format!("`{program} "))
}

/// True if the program has the name of the plugin.
pub fn is_plugin(program: Option<&OsString>) -> bool {
    let name = program.and_then(|p| Path::new(p).file_stem()).and_then(|n| n.to_str());
    name.is_some_and(|n| n == format!("docker-{NAME}"))
}

/// Parses docker's words. They stay unchanged if docker's client did not start the plugin (`docker-zd deploy`).
pub fn parse_invocation(words: Vec<OsString>) -> PluginInvocation {
    let texts: Vec<String> = words.iter().map(|w| w.to_string_lossy().into_owned()).collect();
    let (flags, rest) = split_docker_flags(&texts[1.min(texts.len())..]);
    let index = texts.len() - rest.len();
    let (prefix, rest_at) = match rest {
        [name, ..] if name == NAME => (None, index + 1),
        [help, name, ..] if help == "help" && name == NAME => (Some("help"), index + 2),
        _ => return PluginInvocation { words, docker: Vec::new() },
    };
    let (own, docker): (Vec<_>, Vec<_>) = flags.into_iter().partition(|flag| names_engine(flag));
    let own = own.into_iter().flatten().map(OsString::from);
    let program = words[..1].iter().cloned();
    let help = prefix.map(OsString::from);
    PluginInvocation {
        words: program.chain(help).chain(own).chain(words[rest_at..].iter().cloned()).collect(),
        docker: docker.into_iter().flatten().collect(),
    }
}

/// Splits docker's leading flags, each with its value, from the other words.
fn split_docker_flags(words: &[String]) -> (Vec<Vec<String>>, &[String]) {
    let mut flags = Vec::new();
    let mut rest = words;
    while let [flag, tail @ ..] = rest
        && flag.starts_with('-')
    {
        let length = if WITH_VALUE.contains(&flag.as_str()) { 2.min(rest.len()) } else { 1 };
        flags.push(long_form(&rest[..length]));
        rest = if length == 2 { &tail[1..] } else { tail };
    }
    (flags, rest)
}

/// Replaces `-c` by its long name, because compose-zd has no `-c`.
fn long_form(words: &[String]) -> Vec<String> {
    match words {
        [flag, value] if flag == "-c" => vec!["--context".into(), value.clone()],
        [flag] if flag.len() > 2 && flag.starts_with("-c") => {
            vec!["--context".into(), flag[2..].trim_start_matches('=').into()]
        }
        _ => words.to_vec(),
    }
}

/// True for flags that name the engine. compose-zd has them too, and keeps the releases of engines apart by them.
fn names_engine(flag: &[String]) -> bool {
    let name = flag[0].split('=').next().unwrap_or_default();
    ["--context", "--host"].contains(&name) || (name.starts_with("-H") && !name.starts_with("--"))
}

/// Metadata that docker reads before it lists or starts a plugin.
pub fn metadata(version: &str) -> String {
    serde_json::json!({
        "SchemaVersion": "0.1.0",
        "Vendor": "compose-zd",
        "Version": version,
        "ShortDescription": "Replace Compose services without losing a request",
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> (String, String) {
        let invocation = parse_invocation(line.split(' ').map(OsString::from).collect());
        let own: Vec<_> = invocation.words.iter().map(|w| w.to_string_lossy()).collect();
        (own.join(" "), invocation.docker.join(" "))
    }

    #[test]
    fn dockers_leading_flags_are_separated_from_ours() {
        let cases = [
            ("docker-zd zd deploy app", "docker-zd deploy app", ""),
            ("docker-zd zd", "docker-zd", ""),
            ("docker-zd zd zd", "docker-zd zd", ""),
            ("docker-zd --context far zd status", "docker-zd --context far status", ""),
            ("docker-zd -c zd zd status", "docker-zd --context zd status", ""),
            ("docker-zd --context=far zd status", "docker-zd --context=far status", ""),
            ("docker-zd -H tcp://a:1 zd status -H b", "docker-zd -H tcp://a:1 status -H b", ""),
            ("docker-zd -H=tcp://a:1 zd x", "docker-zd -H=tcp://a:1 x", ""),
            ("docker-zd -c=far zd x", "docker-zd --context far x", ""),
            ("docker-zd -l debug -D zd deploy", "docker-zd deploy", "-l debug -D"),
            (
                "docker-zd --config /c --tls=false -c far zd x",
                "docker-zd --context far x",
                "--config /c --tls=false",
            ),
            ("docker-zd help zd", "docker-zd help", ""),
            ("docker-zd help zd deploy", "docker-zd help deploy", ""),
            ("docker-zd zd --help", "docker-zd --help", ""),
            ("docker-zd deploy zd", "docker-zd deploy zd", ""),
            ("docker-zd docker-cli-plugin-metadata", "docker-zd docker-cli-plugin-metadata", ""),
            ("docker-zd -c", "docker-zd -c", ""),
        ];
        for (line, ours, docker) in cases {
            assert_eq!(parse(line), (ours.into(), docker.into()), "{line}");
        }
    }

    #[test]
    fn a_program_is_the_plugin_by_its_name_only() {
        let is = |name: &str| is_plugin(Some(&name.into()));
        assert!(is("docker-zd") && is("/usr/libexec/docker/cli-plugins/docker-zd") && is("docker-zd.exe"));
        assert!(!is("compose-zd") && !is("docker-zdx") && !is("zd") && !is_plugin(None));
    }

    #[test]
    fn commands_in_a_message_begin_with_the_name_of_the_program() {
        let message = "run `compose-zd recover`; compose-zd keeps `.compose-zd`";
        assert_eq!(with_program(message, "compose-zd"), message);
        let as_plugin = "run `docker zd recover`; compose-zd keeps `.compose-zd`";
        assert_eq!(with_program(message, "docker zd"), as_plugin);
    }

    #[test]
    fn docker_can_read_the_metadata() {
        let metadata: serde_json::Value = serde_json::from_str(&metadata("1.2.3 (abc)")).unwrap();
        assert_eq!(
            (&metadata["SchemaVersion"], &metadata["Version"]),
            (&"0.1.0".into(), &"1.2.3 (abc)".into())
        );
    }
}
