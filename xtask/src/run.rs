//! `cargo xtask run -- ARGS`: build as the user, elevate only the built binary.

use std::ffi::OsString;
use std::process::exit;

use anyhow::{Context as _, Result};
use xtask::sh;

use crate::build;

/// Build, then run `connleak` with these arguments as root
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    build: build::Options,
    /// Arguments of connleak
    #[arg(last = true)]
    args: Vec<OsString>,
}

/// Runs `connleak` and ends with its exit code.
pub fn run(options: &Options) -> Result<()> {
    let binary = build::connleak(options.build)?;
    let mut command =
        sh::elevated(&binary).context("connleak needs root, and there is no sudo to get it")?;
    let status = command
        .args(&options.args)
        .status()
        .with_context(|| format!("cannot start {}", sh::shown(&command)))?;
    exit(status.code().unwrap_or(2))
}
