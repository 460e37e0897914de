//! Recorded event streams: written by `capture --record`, read by `report`.
//!
//! May import `model`, `report` (for the header) and `serde_json`; readers and writers are
//! arguments. The format is JSON lines: a header, one event a line, a footer. Invariants: reading
//! what was written gives the same events; a recording without its footer is readable and known to
//! be incomplete; memory does not grow with the recording.

mod read;
mod write;

use std::io::BufRead;

use serde::{Deserialize, Serialize};

use crate::{
    model::{MonoNanos, Settings, Tracker},
    report::{CaptureHeader, Report},
};

pub use read::{MAX_EVENTS, MAX_LINE_BYTES, ReadError, Reader};
pub use write::Writer;

/// Name and version of the recording format.
pub const SCHEMA: &str = "connleak.recording/1";

/// The report of a recording: the same as that of the capture that wrote it.
///
/// # Errors
///
/// When the input cannot be read or is no recording.
pub fn replay<R: BufRead>(mut reader: Reader<R>) -> Result<Report, ReadError> {
    let mut tracker = Tracker::new(Settings::new(reader.header().threshold));
    while let Some(event) = reader.next_event()? {
        tracker.apply(&event);
    }
    Ok(Report::build(&tracker, reader.header(), &reader.ending()))
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    schema: String,
    capture: CaptureHeader,
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
struct Foot {
    end: End,
}

#[derive(Debug, Serialize, Deserialize)]
struct End {
    at: MonoNanos,
    /// Events written: fewer lines than this are a damaged file.
    events: u64,
    /// What was learned about coverage on the way.
    coverage: Vec<String>,
}
