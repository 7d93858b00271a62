use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::TOPICS;
use super::chapter::{man_page, plain};
use crate::cli::Cli;
use crate::error::Exit;
use crate::model::{FlagLayers, Project};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn manual() -> String {
    TOPICS.map(|(_, text)| text).join("\n")
}

fn readme() -> String {
    fs::read_to_string(Path::new(ROOT).join("README.md")).expect("a README")
}

/// Files below a folder with this end of their names.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path, end) } else { vec![path] })
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect()
}

/// The text contains the word as a whole.
fn has_word(text: &str, word: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(inside) && !text[at + word.len()..].starts_with(inside))
}

#[test]
fn every_topic_is_a_chapter_and_not_a_command() {
    let topics: BTreeSet<_> = TOPICS.iter().map(|(topic, _)| topic.to_string()).collect();
    let stems = files(&Path::new(ROOT).join("src/manual"), ".md");
    let stems =
        stems.iter().filter_map(|path| path.file_stem()).map(|stem| stem.to_string_lossy().into_owned());
    assert_eq!(topics, stems.collect());
    let command = Cli::command();
    let commands = command.get_subcommands().map(|command| command.get_name());
    let planned = ["up", "plan", "audit", "help"];
    commands.chain(planned).for_each(|command| assert!(!topics.contains(command), "{command}"));
    for (topic, text) in TOPICS {
        assert!(text.starts_with("# ") && !text.contains("\n# "), "{topic}: one title, in the first line");
    }
}

/// Command lines of a text: lines of its `sh` blocks, lines behind a prompt, and code in sentences.
fn command_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut fence = None;
    for line in text.lines() {
        let line = line.trim();
        match (line.strip_prefix("```"), fence) {
            (Some(language), None) => fence = Some(language),
            (Some(_), Some(_)) => fence = None,
            (None, Some("sh")) => lines.push(line.to_string()),
            (None, Some(_)) => lines.extend(line.strip_prefix("$ ").map(String::from)),
            (None, None) => lines.extend(line.split('`').skip(1).step_by(2).map(String::from)),
        }
    }
    lines
}

/// Words of each call of the program in a command line.
fn calls(line: &str) -> Vec<Vec<String>> {
    let line = line.replace("docker zd ", "compose-zd ");
    let (line, _) = line.split_once(" #").unwrap_or((&line, ""));
    let parts = line.split(['|', '>', ';']).flat_map(|part| part.split("&&"));
    let parts = parts.map(|part| part.trim().trim_end_matches(" 2"));
    let calls = parts.filter(|part| part.starts_with("compose-zd "));
    calls.map(|call| shlex::split(call).expect("words")).collect()
}

#[test]
fn every_command_line_in_the_manual_is_valid() {
    let text = manual() + &readme();
    let calls: Vec<_> = command_lines(&text).iter().flat_map(|line| calls(line)).collect();
    assert!(calls.len() > 40, "{calls:?}");
    for words in calls {
        let named = words.iter().map(|word| match word.as_str() {
            "COMMAND" => "deploy",
            "TOPIC" | "WORD" => "update",
            word => word,
        });
        let refused = Cli::try_parse_from(named).err().map(|error| error.kind());
        let is_help = |kind| matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        assert!(refused.is_none_or(is_help), "{words:?}: {refused:?}");
    }
}

#[test]
fn every_flag_is_in_the_manual() {
    let manual = manual();
    let command = Cli::command();
    let commands = command.get_subcommands().filter(|command| !command.is_hide_set());
    let flags = commands
        .chain([&command])
        .flat_map(|command| command.get_arguments())
        .filter_map(|arg| arg.get_long());
    let missing: BTreeSet<_> = flags.filter(|flag| !has_word(&manual, &format!("--{flag}"))).collect();
    assert_eq!(missing, BTreeSet::new());
}

/// Keys that the error for an unknown key lists.
fn known_keys(zd: &str) -> Vec<String> {
    let yaml = format!("name: p\n{zd}\n");
    let wrong = Project::read(&yaml, "f", &FlagLayers::default()).expect_err(zd);
    let (_, keys) =
        wrong.message.split_once(", expected ").unwrap_or_else(|| panic!("{zd}: {}", wrong.message));
    keys.split('`').skip(1).step_by(2).map(String::from).collect()
}

#[test]
fn every_key_is_in_the_manual() {
    let manual = manual();
    let of_service = ["no: 1", "health: {no: 1}", "drain: {no: 1}", "proxy: {no: 1}", "before: {no: 1}"]
        .map(|zd| format!("services: {{app: {{image: x, x-zd: {{{zd}}}}}}}"));
    let of_project =
        ["no: 1", "witness: {no: 1}"].map(|zd| format!("services: {{app: {{image: x}}}}\nx-zd: {{{zd}}}"));
    let keys: BTreeSet<_> = of_service.iter().chain(&of_project).flat_map(|zd| known_keys(zd)).collect();
    assert!(keys.len() > 20, "{keys:?}");
    let missing: Vec<_> = keys.iter().filter(|key| !manual.contains(&format!("{key}:"))).collect();
    assert_eq!(missing, Vec::<&String>::new());
}

/// Blocks of YAML in a text.
fn yaml_blocks(text: &str) -> impl Iterator<Item = &str> {
    text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next())
}

#[test]
fn every_block_of_settings_in_the_manual_is_valid() {
    let text = manual() + &readme();
    let others =
        ["migrate", "warm", "service_one", "service_two"].map(|name| format!("  {name}: {{ image: x }}\n"));
    let services = format!("services:\n{}", others.concat());
    assert!(yaml_blocks(&text).count() > 4);
    for block in yaml_blocks(&text) {
        let block = if block.contains("services:\n") { block.into() } else { format!("services:\n{block}") };
        let block = block.replace("services:\n", &services).replace("  app:\n", "  app:\n    image: x\n");
        let read = Project::read(&format!("name: p\n{block}"), "f", &FlagLayers::default());
        assert!(read.is_ok(), "{:?}\n{block}", read.err());
    }
}

#[test]
fn every_exit_code_is_in_the_manual() {
    let exits = [
        Exit::Unchanged,
        Exit::Usage,
        Exit::StillServing,
        Exit::Outage,
        Exit::Locked,
        Exit::RequestsLost,
        Exit::LostLock,
    ];
    let codes = exits.map(Exit::code).into_iter().chain([
        0,
        Exit::Interrupted(2).code(),
        Exit::Interrupted(15).code(),
    ]);
    let (_, text) = TOPICS.iter().find(|(topic, _)| *topic == "exit-codes").expect("a chapter");
    let table: String = text.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next()).collect();
    codes.for_each(|code| assert!(has_word(&table, &code.to_string()), "{code}"));
}

/// Names of rules in the sources.
fn rules_of(source: &str) -> Vec<String> {
    let at = [
        ".rule(",
        "refused(",
        "=> &",
        "Finding::loss(",
        "Finding::note(",
        "Finding::usage(",
        "Finding::unchanged(",
        "early_end_finding(",
    ];
    let rests = at.iter().flat_map(|call| source.split(call).skip(1));
    let rests = rests.map(|rest| rest.trim_start().trim_start_matches('&'));
    let names = rests.filter_map(|rest| rest.strip_prefix('"')?.split('"').next());
    // Rules of proxies in a stack are alone in their line.
    let alone = source.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","));
    let of_swarm = alone.filter(|name| name.starts_with("swarm-") && !name.contains(' '));
    names.filter(|name| name.contains('-')).chain(of_swarm).map(String::from).collect()
}

#[test]
fn every_rule_is_in_its_chapter_and_the_chapter_has_no_other() {
    let (_, chapter) = TOPICS.iter().find(|(topic, _)| *topic == "rules").expect("a chapter");
    let sources = files(&Path::new(ROOT).join("src"), ".rs");
    let sources = sources.iter().filter(|path| !path.to_string_lossy().contains("test"));
    let source: String = sources.filter_map(|path| fs::read_to_string(path).ok()).collect();
    let folders = fs::read_dir(Path::new(ROOT).join("fixtures/check")).expect("fixtures").flatten();
    let folders = folders.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name());
    let folders =
        folders.map(|name| name.to_string_lossy().split('.').next().unwrap_or_default().to_string());
    let rules: BTreeSet<_> =
        rules_of(&source).into_iter().chain(folders.filter(|name| name != "none")).collect();
    assert!(rules.len() > 60, "{rules:?}");
    let missing: Vec<_> = rules.iter().filter(|rule| !has_word(chapter, rule)).collect();
    assert_eq!(missing, Vec::<&String>::new(), "not in the chapter");
    let listed =
        chapter.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('`').nth(1));
    let unknown: Vec<_> = listed.filter(|rule| !source.contains(&format!("\"{rule}\""))).collect();
    assert_eq!(unknown, Vec::<&str>::new(), "not in the sources");
}

#[test]
fn every_relative_link_has_a_target() {
    let chapters = files(&Path::new(ROOT).join("src/manual"), ".md");
    let fixtures = files(&Path::new(ROOT).join("fixtures"), "README.md");
    for file in chapters.iter().chain(&fixtures).chain([&Path::new(ROOT).join("README.md")]) {
        let text = fs::read_to_string(file).expect("a text");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let target = target.split('#').next().unwrap_or_default();
            let path = file.parent().expect("a folder").join(target);
            assert!(path.exists(), "{}: {target}", file.display());
        }
    }
}

#[test]
fn the_readme_is_a_front_page() {
    assert!(readme().lines().count() <= 250);
    let unlinked: Vec<_> =
        TOPICS.iter().filter(|(topic, _)| !readme().contains(&format!("](src/manual/{topic}.md)"))).collect();
    assert!(unlinked.is_empty(), "{unlinked:?}");
}

const SAMPLE: &str = "\
# Title of `it`

A paragraph that
goes on, with **bold** and [releases](releases.md) or [that](jobs.md).

- one
- an item
  goes on:

  ```sh
  compose-zd deploy
    .x \\
  ```

## Part

| key | says |
|---|---|
| `a` | b |
";

#[test]
fn a_chapter_is_formatted_for_a_terminal() {
    let expected = "\
Title of `it`

  A paragraph that goes on, with
  bold and `docker zd help
  releases` or that (`docker zd
  help jobs`).

  - one
  - an item goes on:

      docker zd deploy
        .x \\

Part

  key  says
  `a`  b
";
    assert_eq!(plain(SAMPLE, "docker zd", 34), expected);
    assert!(plain(SAMPLE, "docker zd", 10).contains("\n  `a`\n      b\n"));
}

#[test]
fn a_chapter_is_a_page_of_section_7() {
    let expected = "\
.TH compose-zd-x 7
.SH NAME
compose\\-zd\\-x \\- Title of it
.SH DESCRIPTION
.PP
A paragraph that goes on, with \\fBbold\\fR and \\fBcompose\\-zd\\-releases\\fR(7) or that (\\fBcompose\\-zd\\-jobs\\fR(7)).
.IP \\(bu 4
one
.IP \\(bu 4
an item goes on:
.PP
.RS 4
.nf
compose\\-zd deploy
  .x \\e
.fi
.RE
.SH Part
.PP
.RS 4
.nf
key  says
`a`  b
.fi
.RE
";
    assert_eq!(man_page("x", SAMPLE), expected);
}
