//! `cargo xtask corpus`: real programs on real clients, leaky and healthy, and what connleak says of
//! each, as a table.
//!
//! The scenarios are data in `tracer/tests/corpus`; its fast ones are part of `cargo xtask test`.

use anyhow::Result;

use crate::setup::Group;
use crate::test;

/// Run leaky and healthy programs on all clients and print what connleak says of each
#[derive(clap::Args)]
pub struct Options {
    /// Only the scenarios that are part of every test
    #[arg(long)]
    fast: bool,
    /// Only scenarios whose client or name contains one of these words
    words: Vec<String>,
}

/// Prints the table; an error when a bug is missed or a healthy program accused.
pub fn run(options: &Options) -> Result<()> {
    // What is part of every test needs no more than the tests.
    let group = if options.fast { Group::Real } else { Group::Corpus };
    let fast = options.fast.then(|| "--fast".to_owned());
    let arguments: Vec<String> = fast.into_iter().chain(options.words.iter().cloned()).collect();
    test::corpus(group, &arguments)
}
