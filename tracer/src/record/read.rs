//! Reads a recording, one event at a time.
//!
//! May import `model`, `report` (for the header) and `serde_json`. Total: any bytes in, events or
//! an error that names the file, the line and what to do.

use std::io::{self, BufRead, Read};

use serde::Deserialize;

use super::{End, Foot, Head, SCHEMA};
use crate::{
    model::{Event, MonoNanos},
    report::{CaptureHeader, Ending},
};

/// Longest line believed.
pub const MAX_LINE_BYTES: u64 = 4 << 20;

/// Most events read from one recording: a day at a thousand events a second.
pub const MAX_EVENTS: u64 = 86_400_000;

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read {name}: {source}")]
    Io { name: String, source: io::Error },
    #[error("{name} is empty: give a file that `connleak capture --record` wrote")]
    Empty { name: String },
    #[error(
        "{name} is not a connleak recording: its first line has no schema \"{SCHEMA}\" ({source}); \
         give a file that `connleak capture --record` wrote"
    )]
    NotARecording { name: String, source: serde_json::Error },
    #[error(
        "{name} has the format {found:?}, this connleak reads \"{SCHEMA}\": use the version of \
         connleak that wrote it"
    )]
    Schema { name: String, found: String },
    #[error(
        "{name}, line {line}: not an event ({source}); the file is damaged or from a newer \
         connleak: cut it before this line to read the part before"
    )]
    Malformed { name: String, line: u64, source: serde_json::Error },
    #[error("{name}, line {line}: longer than {MAX_LINE_BYTES} bytes; the file is damaged")]
    LineTooLong { name: String, line: u64 },
    #[error("{name}: more than {MAX_EVENTS} events; split the capture")]
    TooManyEvents { name: String },
    #[error("{name}, line {line}: something follows the end of the recording; remove it")]
    AfterTheEnd { name: String, line: u64 },
}

/// A recording being read.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    name: String,
    header: CaptureHeader,
    line: u64,
    events: u64,
    last: MonoNanos,
    end: Option<End>,
    /// The last line was cut.
    cut: bool,
    buffer: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header. `name` is what errors call the input.
    ///
    /// # Errors
    ///
    /// When the input cannot be read or does not begin like a recording of this version.
    pub fn open(input: R, name: impl Into<String>) -> Result<Self, ReadError> {
        let name = name.into();
        let mut reader = Self {
            input,
            name: name.clone(),
            header: CaptureHeader {
                tool_version: String::new(),
                hostname: None,
                kernel: None,
                started_unix_ms: 0,
                started_at: MonoNanos(0),
                threshold: 0,
                target: String::new(),
                coverage: Vec::new(),
            },
            line: 0,
            events: 0,
            last: MonoNanos(0),
            end: None,
            cut: false,
            buffer: Vec::new(),
        };
        if !reader.next_line()? {
            return Err(ReadError::Empty { name });
        }
        let not_ours = |source| ReadError::NotARecording { name: name.clone(), source };
        // The name first: a newer header may not parse as ours.
        let Named { schema } = serde_json::from_slice(&reader.buffer).map_err(not_ours)?;
        if schema != SCHEMA {
            return Err(ReadError::Schema { name, found: schema });
        }
        let head: Head = serde_json::from_slice(&reader.buffer).map_err(not_ours)?;
        reader.last = head.capture.started_at;
        reader.header = head.capture;
        Ok(reader)
    }

    /// The capture's header.
    #[must_use]
    pub const fn header(&self) -> &CaptureHeader {
        &self.header
    }

    /// The next event; `None` at the end.
    ///
    /// # Errors
    ///
    /// When the input cannot be read or is no recording from here on.
    pub fn next_event(&mut self) -> Result<Option<Event>, ReadError> {
        if self.end.is_some() || self.cut || !self.next_line()? {
            return Ok(None);
        }
        match serde_json::from_slice::<Event>(&self.buffer) {
            Ok(event) => {
                self.events += 1;
                if self.events > MAX_EVENTS {
                    return Err(ReadError::TooManyEvents { name: self.name.clone() });
                }
                self.last = self.last.max(event.at());
                Ok(Some(event))
            }
            Err(source) => self.end_of_events(source),
        }
    }

    /// A line that is no event: the footer, a line cut at the end of the file, or an error.
    fn end_of_events(&mut self, source: serde_json::Error) -> Result<Option<Event>, ReadError> {
        if let Ok(Foot { end }) = serde_json::from_slice(&self.buffer) {
            self.end = Some(end);
            let line = self.line + 1;
            if self.next_line()? {
                return Err(ReadError::AfterTheEnd { name: self.name.clone(), line });
            }
            return Ok(None);
        }
        if !self.buffer.ends_with(b"\n") {
            self.cut = true;
            return Ok(None);
        }
        Err(ReadError::Malformed { name: self.name.clone(), line: self.line, source })
    }

    /// How the capture ended. To be asked after the last event.
    #[must_use]
    pub fn ending(&self) -> Ending {
        let (at, coverage, events) = match &self.end {
            Some(end) => (end.at, end.coverage.clone(), Some(end.events)),
            None => (self.last, Vec::new(), None),
        };
        let incomplete = match events {
            None => Some(format!(
                "{} ends without its last line: the capture was killed or the file was cut after \
                 {} events.",
                self.name, self.events
            )),
            Some(events) if events != self.events => Some(format!(
                "{} should have {events} events and has {}: lines are missing.",
                self.name, self.events
            )),
            Some(_) => None,
        };
        Ending { at, coverage, incomplete }
    }

    /// Reads a line with its newline into the buffer; false at the end of the input.
    fn next_line(&mut self) -> Result<bool, ReadError> {
        self.buffer.clear();
        let read = (&mut self.input)
            .take(MAX_LINE_BYTES + 1)
            .read_until(b'\n', &mut self.buffer)
            .map_err(|source| ReadError::Io { name: self.name.clone(), source })?;
        if read == 0 {
            return Ok(false);
        }
        self.line += 1;
        if self.buffer.len() as u64 > MAX_LINE_BYTES {
            return Err(ReadError::LineTooLong { name: self.name.clone(), line: self.line });
        }
        Ok(true)
    }
}

/// Any file with a schema.
#[derive(Deserialize)]
struct Named {
    schema: String,
}

#[cfg(test)]
mod tests {
    use super::{super::Writer, *};

    fn header() -> CaptureHeader {
        CaptureHeader {
            tool_version: "0.1.0".to_owned(),
            hostname: None,
            kernel: Some("6.1.0".to_owned()),
            started_unix_ms: 1_700_000_000_000,
            started_at: MonoNanos(5),
            threshold: 30_000_000_000,
            target: "everything".to_owned(),
            coverage: vec!["all".to_owned()],
        }
    }

    fn ticks(count: u64) -> Vec<Event> {
        (0..count).map(|n| Event::Tick { at: MonoNanos(10 + n) }).collect()
    }

    fn written(events: &[Event]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &header()).unwrap();
        for event in events {
            writer.event(event).unwrap();
        }
        writer.finish(MonoNanos(99), &["late".to_owned()]).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<(Vec<Event>, Ending), ReadError> {
        let mut reader = Reader::open(bytes, "a.jsonl")?;
        let mut events = Vec::new();
        while let Some(event) = reader.next_event()? {
            events.push(event);
        }
        Ok((events, reader.ending()))
    }

    #[track_caller]
    fn fails(bytes: &[u8], expected: &str) {
        let error = read(bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("a.jsonl"), "{error}");
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = written(&ticks(3));
        let (events, ending) = read(&bytes).unwrap();
        assert_eq!(events, ticks(3));
        assert_eq!(
            ending,
            Ending { at: MonoNanos(99), coverage: vec!["late".to_owned()], incomplete: None }
        );
        assert_eq!(*Reader::open(&bytes[..], "a").unwrap().header(), header());
    }

    #[test]
    fn a_recording_cut_anywhere_after_its_header_is_incomplete_not_an_error() {
        let bytes = written(&ticks(3));
        let start = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for end in start..bytes.len() - 1 {
            let (events, ending) = read(&bytes[..end]).unwrap();
            assert!(events.len() <= 3 && ticks(3).starts_with(&events));
            assert!(ending.incomplete.is_some(), "cut at {end}");
        }
    }

    #[test]
    fn missing_lines_make_it_incomplete() {
        let text = String::from_utf8(written(&ticks(3))).unwrap();
        let without: Vec<_> = text.lines().filter(|line| !line.contains(":11}")).collect();
        let (events, ending) = read((without.join("\n") + "\n").as_bytes()).unwrap();
        assert_eq!(events.len(), 2);
        assert!(ending.incomplete.unwrap().contains("3 events and has 2"));
    }

    #[test]
    fn bad_input_is_refused_with_the_file_the_line_and_what_to_do() {
        fails(b"", "is empty");
        fails(b"hello\n", "not a connleak recording");
        fails(b"{\"a\":1}\n", "not a connleak recording");
        fails(b"{\"schema\":\"connleak.recording/9\"}\n", "use the version");
        fails(b"{\"schema\":\"connleak.recording/1\"}\n", "missing field");
        let mut bytes = written(&ticks(2));
        bytes.extend_from_slice(b"{}\n");
        fails(&bytes, "line 5: something follows");
        let text = String::from_utf8(written(&ticks(2))).unwrap();
        fails(text.replacen("\"tick\"", "\"tock\"", 1).as_bytes(), "line 2: not an event");
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut bytes = written(&[]);
        let start = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        bytes.truncate(start);
        bytes.resize(start + MAX_LINE_BYTES as usize + 2, b' ');
        fails(&bytes, "line 2: longer than");
    }
}
