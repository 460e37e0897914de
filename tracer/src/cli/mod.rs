//! The command line: what was typed, what it means, and the exit codes.
//!
//! May import everything. `args` is what was typed; each command is a file of its own.

pub mod args;
mod capture;
mod doctor;
mod output;
mod probes;
mod report;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};

/// Nothing found.
pub const EXIT_NOTHING: u8 = 0;
/// Findings.
pub const EXIT_FINDINGS: u8 = 1;
/// Could not run, or the result is incomplete.
pub const EXIT_FAILED: u8 = 2;

/// Runs the command that was typed.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; usage errors are, and exit like any other.
            let code = if error.use_stderr() { EXIT_FAILED } else { EXIT_NOTHING };
            // Nothing can be done when the terminal is gone.
            let _gone = error.print();
            return ExitCode::from(code);
        }
    };
    output::init_log(cli.verbose);
    let result = match cli.command {
        Command::Capture(args) => capture::run(&args, cli.verbose),
        Command::Report(args) => report::run(&args),
        Command::Probes(args) => probes::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) if output::is_broken_pipe(&error) => ExitCode::from(EXIT_NOTHING),
        Err(error) => {
            eprintln!("connleak: {}", output::printable(&format!("{error:#}")));
            ExitCode::from(EXIT_FAILED)
        }
    }
}
