//! Writes a recording as it happens.
//!
//! May import `model`, `report` (for the header) and `serde_json`.

use std::io::{self, Write};

use super::{End, Foot, Head, SCHEMA};
use crate::{
    model::{Event, MonoNanos},
    report::CaptureHeader,
};

/// A recording under way. Without [`finish`](Self::finish) it stays without its footer, and readers
/// call it incomplete.
#[must_use = "a recording that is not finished is read as incomplete"]
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    events: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a recording. `out` should be buffered.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn new(mut out: W, header: &CaptureHeader) -> io::Result<Self> {
        line(&mut out, &Head { schema: SCHEMA.to_owned(), capture: header.clone() })?;
        Ok(Self { out, events: 0 })
    }

    /// Appends an event.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        line(&mut self.out, event)?;
        self.events += 1;
        Ok(())
    }

    /// Appends the footer and flushes.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn finish(mut self, at: MonoNanos, coverage: &[String]) -> io::Result<W> {
        let end = End { at, events: self.events, coverage: coverage.to_vec() };
        line(&mut self.out, &Foot { end })?;
        self.out.flush()?;
        Ok(self.out)
    }
}

fn line(out: &mut impl Write, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}
