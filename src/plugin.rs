//! As a plugin of docker's client: how docker calls one, and what it wants to know of it. Pure.
//!
//! Docker starts `docker-zd` with the words that it got itself: `docker --context far zd deploy` becomes
//! `docker-zd --context far zd deploy`. Its end does not end us: a deploy outlives a terminal that goes away, as it does
//! without docker, and Ctrl-C reaches us by the terminal.

use std::ffi::OsString;
use std::path::Path;

/// The name behind `docker`.
const NAME: &str = "zd";

/// Docker's own flags that have a value; all others stand alone.
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

/// What docker called us with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PluginInvocation {
    /// What is ours, with the program's name in front.
    pub words: Vec<OsString>,
    /// Docker's flags that we have none for, which go to every docker command.
    pub docker: Vec<String>,
}

/// Whether a program's own name is that of the plugin.
pub fn is_plugin(program: Option<&OsString>) -> bool {
    let name = program.and_then(|p| Path::new(p).file_stem()).and_then(|n| n.to_str());
    name.is_some_and(|n| n == format!("docker-{NAME}"))
}

/// What a call by docker means; as it stands where docker's client was not between (`docker-zd deploy`).
pub fn call(words: Vec<OsString>) -> PluginInvocation {
    let texts: Vec<String> = words.iter().map(|w| w.to_string_lossy().into_owned()).collect();
    let (flags, rest) = globals(&texts[1.min(texts.len())..]);
    let at = texts.len() - rest.len();
    let (before, after) = match rest {
        [name, ..] if name == NAME => (None, at + 1),
        [help, name, ..] if help == "help" && name == NAME => (Some("help"), at + 2),
        _ => return PluginInvocation { words, docker: Vec::new() },
    };
    let (ours, docker): (Vec<_>, Vec<_>) = flags.into_iter().partition(|flag| is_ours(flag));
    let ours = ours.into_iter().flatten().map(OsString::from);
    let program = words[..1].iter().cloned();
    let help = before.map(OsString::from);
    PluginInvocation {
        words: program.chain(help).chain(ours).chain(words[after..].iter().cloned()).collect(),
        docker: docker.into_iter().flatten().collect(),
    }
}

/// Docker's flags in front, each with its value, and what follows.
fn globals(words: &[String]) -> (Vec<Vec<String>>, &[String]) {
    let mut flags = Vec::new();
    let mut rest = words;
    while let [flag, tail @ ..] = rest
        && flag.starts_with('-')
    {
        let length = if WITH_VALUE.contains(&flag.as_str()) { 2.min(rest.len()) } else { 1 };
        flags.push(named(&rest[..length]));
        rest = if length == 2 { &tail[1..] } else { tail };
    }
    (flags, rest)
}

/// We have the long name of `-c` only.
fn named(words: &[String]) -> Vec<String> {
    match words {
        [flag, value] if flag == "-c" => vec!["--context".into(), value.clone()],
        [flag] if flag.len() > 2 && flag.starts_with("-c") => {
            vec!["--context".into(), flag[2..].trim_start_matches('=').into()]
        }
        _ => words.to_vec(),
    }
}

/// The flags that name the engine are flags of ours: releases are kept apart by them.
fn is_ours(flag: &[String]) -> bool {
    let name = flag[0].split('=').next().unwrap_or_default();
    ["--context", "--host"].contains(&name) || (name.starts_with("-H") && !name.starts_with("--"))
}

/// What docker asks of a plugin before it lists or calls it.
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

    fn called(line: &str) -> (String, String) {
        let call = call(line.split(' ').map(OsString::from).collect());
        let ours: Vec<_> = call.words.iter().map(|w| w.to_string_lossy()).collect();
        (ours.join(" "), call.docker.join(" "))
    }

    #[test]
    fn dockers_flags_in_front_are_told_from_ours() {
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
            assert_eq!(called(line), (ours.into(), docker.into()), "{line}");
        }
    }

    #[test]
    fn it_is_a_plugin_by_its_name_only() {
        let is = |name: &str| is_plugin(Some(&name.into()));
        assert!(is("docker-zd") && is("/usr/libexec/docker/cli-plugins/docker-zd") && is("docker-zd.exe"));
        assert!(!is("compose-zd") && !is("docker-zdx") && !is("zd") && !is_plugin(None));
    }

    #[test]
    fn docker_reads_the_metadata() {
        let told: serde_json::Value = serde_json::from_str(&metadata("1.2.3 (abc)")).unwrap();
        assert_eq!((&told["SchemaVersion"], &told["Version"]), (&"0.1.0".into(), &"1.2.3 (abc)".into()));
    }
}
