//! `help` and `man`, from the description of the command line and the chapters of the manual.

use std::io;
use std::path::Path;

use anyhow::Result;
use clap::Command;

use crate::error::Error;
use crate::manual::{self, TOPICS, title};
use crate::plugin::program;
use crate::process;
use crate::report::Report;

/// The manual page `compose-zd(1)`.
pub fn page(cli: Command) -> Result<String> {
    let mut text = Vec::new();
    clap_mangen::Man::new(cli).render(&mut text)?;
    Ok(String::from_utf8(text)?)
}

/// Writes a manual page for each command into `man1`, and one for each topic into `man7`. Existing pages are replaced.
pub fn write_pages(cli: Command, folder: &Path) -> Result<()> {
    let shown = folder.display();
    write_all(cli, folder)
        .map_err(|e| Error::unchanged(format!("cannot write the manual pages to `{shown}`: {e}")))?;
    Ok(())
}

fn write_all(cli: Command, folder: &Path) -> io::Result<()> {
    let (commands, topics) = (folder.join("man1"), folder.join("man7"));
    std::fs::create_dir_all(&commands)?;
    std::fs::create_dir_all(&topics)?;
    clap_mangen::generate_to(cli, commands)?;
    TOPICS.iter().try_for_each(|(topic, text)| {
        std::fs::write(topics.join(format!("compose-zd-{topic}.7")), manual::man_page(topic, text))
    })
}

/// Shows the help of a command, a chapter, or the list of both. For a command clap prints the help and exits.
pub fn help(cli: Command, word: Option<&str>, report: &Report) {
    let chapter = word.and_then(|word| TOPICS.iter().find(|(topic, _)| *topic == word));
    match (word, chapter) {
        (None, _) => report.print_page(&list(&cli)),
        (_, Some((_, text))) => show(&manual::plain(text, program(), report.width().unwrap_or(80)), report),
        (Some(word), None) => {
            cli.bin_name(program()).display_name(program()).get_matches_from(["compose-zd", word, "--help"]);
        }
    }
}

/// Shows a text in a pager on a terminal: `$PAGER`, else `less`.
fn show(text: &str, report: &Report) {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let pager = std::env::var("PAGER").unwrap_or("less".into());
    if is_dumb || pager.trim().is_empty() || report.width().is_none() || !process::page(&pager, text) {
        report.print_page(text);
    }
}

/// The list of commands and topics.
fn list(cli: &Command) -> String {
    let line = |word: &str, about: &str| format!("  {word:<13} {about}\n");
    let about = |command: &Command| command.get_about().map(ToString::to_string).unwrap_or_default();
    let shown = cli.get_subcommands().filter(|command| !command.is_hide_set());
    let commands: String = shown.map(|command| line(command.get_name(), &about(command))).collect();
    let topics: String =
        TOPICS.iter().map(|(topic, text)| line(topic, &title(text).replace('`', ""))).collect();
    format!("Commands:\n{commands}\nTopics:\n{topics}\n`{} help WORD` shows one.\n", program())
}
