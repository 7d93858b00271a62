//! What is made of the command line's own description: shell completions and manual pages.

use std::path::Path;

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::fault::Fault;

/// A shell's completions, under the name that the program is called by.
pub fn completions(shell: Shell) -> Result<String> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "compose-zd", &mut text);
    Ok(String::from_utf8(text)?)
}

/// The manual page of the program itself.
pub fn page() -> Result<String> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text)?;
    Ok(String::from_utf8(text)?)
}

/// Writes a manual page for the program and for each of its commands; there may be pages already.
///
/// # Errors
/// A folder that is not there or cannot be written.
pub fn write_pages(folder: &Path) -> Result<()> {
    let shown = folder.display();
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .map_err(|e| Fault::unchanged(format!("no manual pages in `{shown}`: {e}")))?;
    Ok(())
}
