//! Shell completions: the scripts of the shells, and the answers to them. A script asks this program at every Tab, so
//! that services and releases are those that exist.

use std::ffi::OsString;
use std::sync::Arc;

use anyhow::Result;
use clap::{Arg, Command, FromArgMatches};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate, complete};
use clap_complete::{Shell, generate};

use crate::configuration::{Configuration, connect};
use crate::context::ProjectHandle;
use crate::model::FlagLayers;
use crate::model::args::{ComposeArgs, StateArgs};
use crate::release::ReleaseRecord;
use crate::report::{Report, ReportOptions, Verbosity};

/// First word of a request for candidates.
const REQUEST: &str = "__complete";

/// Completions of a shell, for the program `compose-zd`.
pub fn script(mut cli: Command, shell: Shell) -> Result<String> {
    Ok(match shell {
        Shell::Bash => include_str!("completions/bash.sh").into(),
        Shell::Zsh => include_str!("completions/zsh.sh").into(),
        Shell::Fish => include_str!("completions/fish.fish").into(),
        _ => {
            let mut text = Vec::new();
            generate(shell, &mut cli, "compose-zd", &mut text);
            String::from_utf8(text)?
        }
    })
}

/// Reader of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Bash,
    Zsh,
    Fish,
    /// Docker's client, which asks for the plugin and leaves the name of the program out.
    Docker,
}

/// Request for the candidates of the last word.
#[derive(Debug, PartialEq, Eq)]
pub struct CompletionRequest {
    reader: Reader,
    /// Words of the command line, with the name of the program.
    words: Vec<OsString>,
}

impl CompletionRequest {
    /// Parses the arguments of the program: `__complete READER WORDS…`.
    pub fn parse(arguments: &[OsString]) -> Option<CompletionRequest> {
        let [program, request, reader, words @ ..] = arguments else { return None };
        let reader = match reader.to_str().filter(|_| request == REQUEST)? {
            "bash" => Reader::Bash,
            "zsh" => Reader::Zsh,
            "fish" => Reader::Fish,
            "zd" => Reader::Docker,
            _ => return None,
        };
        let words = match reader {
            Reader::Bash => joined(words),
            Reader::Docker => [std::slice::from_ref(program), words].concat(),
            Reader::Zsh | Reader::Fish => words.to_vec(),
        };
        Some(CompletionRequest { reader, words })
    }

    /// Answer as the reader expects it, one candidate a line.
    pub fn answer(&self, cli: Command) -> String {
        let lines = self.candidates(cli).into_iter().map(|(value, help)| self.line(&value, &help) + "\n");
        let lines: String = lines.collect();
        // Docker's client reads the last line as flags; 4 is "no file names".
        if self.reader == Reader::Docker { lines + ":4\n" } else { lines }
    }

    fn line(&self, value: &str, help: &str) -> String {
        match self.reader {
            // Bash replaces only the part after the last `=`, and shows no help.
            Reader::Bash => {
                let last = self.words.last().map(|word| word.to_string_lossy()).unwrap_or_default();
                let kept = last.rfind('=').map_or(0, |at| at + 1);
                value.get(kept..).unwrap_or_default().to_string()
            }
            Reader::Zsh if help.is_empty() => value.replace(':', "\\:"),
            Reader::Zsh => format!("{}:{help}", value.replace(':', "\\:")),
            Reader::Fish | Reader::Docker if help.is_empty() => value.into(),
            Reader::Fish | Reader::Docker => format!("{value}\t{help}"),
        }
    }

    /// Candidates of the last word, each with its help. Flags are candidates of a word that begins with `-`, or if there
    /// is nothing else.
    fn candidates(&self, cli: Command) -> Vec<(String, String)> {
        let Some((last, earlier)) = self.words.split_last() else { return Vec::new() };
        let mut cli = with_values(cli, Arc::from(self.words.clone()));
        let folder = std::env::current_dir().ok();
        let found =
            complete(&mut cli, self.words.clone(), earlier.len(), folder.as_deref()).unwrap_or_default();
        let texts = found.into_iter().filter(|c| !c.is_hide_set()).map(|candidate| {
            let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
            (
                candidate.get_value().to_string_lossy().into_owned(),
                help.lines().next().unwrap_or_default().into(),
            )
        });
        let given = |value: &str| earlier.iter().skip(1).any(|word| word == value);
        let texts: Vec<(String, String)> = texts.filter(|(value, _)| !given(value)).collect();
        let is_flag = |(value, _): &(String, String)| value.starts_with('-');
        let wants_flags = last.to_string_lossy().starts_with('-') || texts.iter().all(is_flag);
        texts.into_iter().filter(|text| wants_flags || !is_flag(text)).collect()
    }
}

/// Words of bash, which splits `--image=app` into three.
fn joined(words: &[OsString]) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    let mut follows_sign = false;
    for word in words {
        match joined.last_mut() {
            Some(last) if follows_sign || word == "=" => last.push(word),
            _ => joined.push(word.clone()),
        }
        follows_sign = word == "=";
    }
    joined
}

/// Adds the values of this project to the command line: services and releases.
fn with_values(cli: Command, words: Arc<[OsString]>) -> Command {
    let line = cli.clone().ignore_errors(true);
    let with_value = |arg: Arg, values: fn(&Line) -> Result<Vec<CompletionCandidate>>| {
        let line = Line { cli: line.clone(), words: words.clone() };
        arg.add(ArgValueCandidates::new(move || values(&line).unwrap_or_default()))
    };
    let is_release = |arg: &Arg| arg.get_value_names().is_some_and(|names| names[0] == "RELEASE");
    cli.mut_subcommands(|command| {
        command.mut_args(|arg| match arg.get_id().as_str() {
            "services" => with_value(arg, |line| line.services("")),
            "image" | "scale" => with_value(arg, |line| line.services("=")),
            _ if is_release(&arg) => with_value(arg, Line::releases),
            _ => arg,
        })
    })
}

/// Command line so far, whose flags name the project.
struct Line {
    cli: Command,
    words: Arc<[OsString]>,
}

impl Line {
    fn flags(&self) -> Result<(ComposeArgs, StateArgs)> {
        let matches = self.cli.clone().try_get_matches_from(self.words.iter())?;
        let state = matches.subcommand().and_then(|(_, matches)| StateArgs::from_arg_matches(matches).ok());
        Ok((ComposeArgs::from_arg_matches(&matches)?, state.unwrap_or_default()))
    }

    /// Services and pairs of the Compose file.
    fn services(&self, suffix: &str) -> Result<Vec<CompletionCandidate>> {
        let (compose, _) = self.flags()?;
        let mut docker = connect(&compose, silent())?;
        let (yaml, _) = docker.config()?;
        let project = Configuration::of_file(docker, &yaml, &compose, FlagLayers::default())?.project;
        let pairs = project.pairs.iter().map(|pair| (&pair.name, format!("pair {}", pair.sides.join(", "))));
        let services = project.services.iter().map(|(name, service)| (name, service.image.clone()));
        let candidate = |(name, help): (&String, String)| {
            CompletionCandidate::new(format!("{name}{suffix}")).help(Some(help.into()))
        };
        Ok(pairs.chain(services).map(candidate).collect())
    }

    /// Releases of the project, newest first.
    fn releases(&self) -> Result<Vec<CompletionCandidate>> {
        let (compose, state) = self.flags()?;
        let journal = ProjectHandle::open_recorded(&compose, &state, silent())?.journal;
        let candidate = |(order, record): (usize, &ReleaseRecord)| {
            let help = format!("{} {}", record.started, record.outcome);
            CompletionCandidate::new(record.number.to_string())
                .help(Some(help.into()))
                .display_order(Some(order))
        };
        Ok(journal.history.newest_first().enumerate().map(candidate).collect())
    }
}

/// A report that prints nothing: a shell shows whatever is printed in the middle of the command line.
fn silent() -> Report {
    Report::new(ReportOptions { verbosity: Verbosity::Silent, ..ReportOptions::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;

    fn parse(line: &str) -> Option<CompletionRequest> {
        CompletionRequest::parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    fn answer(line: &str) -> String {
        parse(line).expect("a request").answer(Cli::described("compose-zd"))
    }

    #[test]
    fn a_request_has_a_reader_and_the_words_of_a_line() {
        let words = |line: &str| {
            let request = parse(line)?;
            Some(request.words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(words("x __complete bash compose-zd dep").as_deref(), Some("compose-zd dep"));
        assert_eq!(
            words("x __complete bash compose-zd deploy --image = ap").as_deref(),
            Some("compose-zd deploy --image=ap")
        );
        assert_eq!(words("x __complete bash compose-zd --image = ").as_deref(), Some("compose-zd --image="));
        assert_eq!(words("docker-zd __complete zd dep").as_deref(), Some("docker-zd dep"));
        for other in ["x", "x deploy", "x __complete", "x __complete tcsh a", "x deploy bash a"] {
            assert_eq!(words(other), None, "{other}");
        }
    }

    #[test]
    fn commands_have_no_flags_among_them_and_hidden_ones_are_left_out() {
        let commands = answer("x __complete fish compose-zd ");
        assert!(commands.contains("\ndeploy\tReplace services"), "{commands}");
        assert!(!commands.contains("--file") && !commands.contains("metadata"), "{commands}");
        assert_eq!(answer("x __complete fish compose-zd __"), "");
        assert_eq!(
            answer("x __complete zsh compose-zd rollb"),
            "rollback:Restore an earlier release, configuration and images, without losing a request\n"
        );
        assert_eq!(answer("docker-zd __complete zd hist").lines().last(), Some(":4"));
    }

    #[test]
    fn flags_follow_their_command_and_are_offered_once() {
        assert_eq!(answer("x __complete bash compose-zd deploy --force --no-b"), "--no-build\n");
        assert_eq!(answer("x __complete bash compose-zd deploy --forc"), "--force\n");
        assert_eq!(answer("x __complete bash compose-zd deploy --force --forc"), "");
        assert_eq!(answer("x __complete bash compose-zd deploy --output = j"), "json\n");
        assert_eq!(answer("x __complete fish compose-zd deploy --output=j"), "--output=json\n");
        for command in ["schema", "completions", "man", "help"] {
            assert_eq!(answer(&format!("x __complete bash compose-zd {command} --proj")), "", "{command}");
        }
        assert!(answer("x __complete bash compose-zd completions ").starts_with("bash\n"));
    }
}
