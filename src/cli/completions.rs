//! `completions`: a script that makes a shell complete commands and flags.

use crate::cli::Cli;
use crate::error::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Print a completion script for your shell.
#[derive(Args)]
#[command(after_help = "Example:\n  moviola completions bash > ~/.local/share/bash-completion/completions/moviola")]
pub struct Completions {
    shell: Shell,
}

impl Completions {
    pub fn run(&self) -> Result<()> {
        clap_complete::generate(self.shell, &mut Cli::command(), "moviola", &mut std::io::stdout());
        Ok(())
    }
}
