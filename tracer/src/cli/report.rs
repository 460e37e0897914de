//! `connleak report`: a recording, rendered again. Needs no rights and no kernel.
//!
//! May import `record`, the model and the report.

use std::fs::File;
use std::io::BufReader;

use anyhow::Context as _;

use super::{
    args::ReportArgs,
    capture::settings,
    output::{open, write_report},
};
use crate::{
    model::Tracker,
    record::Reader,
    report::{Report, exit_code},
};

/// Runs it.
///
/// # Errors
///
/// When the file is no recording.
pub fn run(args: &ReportArgs) -> anyhow::Result<u8> {
    let name = args.file.display().to_string();
    let file = File::open(&args.file).with_context(|| format!("cannot open {name}"))?;
    let mut reader = Reader::open(BufReader::new(file), name)?;
    let mut tracker = Tracker::new(settings(reader.header().threshold));
    while let Some(event) = reader.next_event()? {
        tracker.apply(&event);
    }
    let report = Report::build(&tracker, reader.header(), &reader.ending());
    write_report(&report, &args.output, open(&args.output)?)?;
    Ok(exit_code(&report))
}
