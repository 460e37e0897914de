//! Where output goes and how it looks: files, terminals, colour, logging, broken pipes.
//!
//! May import `args` and `report`. Invariant: text that may hold what a traced process chose is made printable
//! before it reaches a terminal.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::Path;

use anyhow::Context as _;

use super::args::{Color, Format, OutputArgs};
use crate::report::{Report, TextOptions, write_json, write_text};

/// Opens the report's destination: a file, or the standard output.
///
/// # Errors
///
/// When the file cannot be created.
pub fn open(args: &OutputArgs) -> anyhow::Result<Box<dyn Write>> {
    match &args.output {
        Some(path) => Ok(Box::new(create(path)?)),
        None => Ok(Box::new(BufWriter::new(io::stdout()))),
    }
}

/// Writes a report as asked for.
///
/// # Errors
///
/// When it cannot be written.
pub fn write_report(
    report: &Report,
    args: &OutputArgs,
    mut out: Box<dyn Write>,
) -> anyhow::Result<()> {
    match args.format {
        Format::Text => {
            let options = TextOptions { color: colored(args), stacks: true };
            write_text(report, options, &mut out)?;
        }
        Format::Json => write_json(report, &mut out)?,
    }
    out.flush()?;
    Ok(())
}

/// Creates a file for writing.
///
/// # Errors
///
/// When it cannot be created; the message names it.
pub fn create(path: &Path) -> anyhow::Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(BufWriter::new(file))
}

/// Whether text is to be coloured.
#[must_use]
fn colored(args: &OutputArgs) -> bool {
    match args.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            // https://no-color.org: set and not empty.
            let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            !refused && args.output.is_none() && io::stdout().is_terminal()
        }
    }
}

/// Control characters made visible.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Whether an error is only that nobody reads the output any more.
#[must_use]
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

struct StderrLog;

impl log::Log for StderrLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        // Libraries are quiet unless the most is asked for.
        let ours = record.target().starts_with("tracer") || record.target().starts_with("connleak");
        if self.enabled(record.metadata()) && (ours || log::max_level() >= log::LevelFilter::Trace)
        {
            let level = record.level().as_str().to_lowercase();
            eprintln!("connleak: {level}: {}", printable(&record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// Sends the `log` crate's records to stderr.
pub fn init_log(verbose: u8) {
    static LOG: StderrLog = StderrLog;
    let level = match verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        2 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    };
    if log::set_logger(&LOG).is_ok() {
        log::set_max_level(level);
    }
}
