//! `connleak capture` as a measured child.
//!
//! May import its neighbours. Invariant: it is waited for before its value is gone.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::NamedTempFile;
use xtask::sh;

use super::statistics::Programs;
use super::{Bench, processor};

/// Silence after which a connection is a finding; a tenth of it after which its stack is resolved.
pub const THRESHOLD: Duration = Duration::from_secs(10);

/// A capture that watches.
pub struct Tracer {
    child: Child,
    /// From its start to its word that it watches.
    pub start: Duration,
    report: NamedTempFile,
    said: Option<JoinHandle<String>>,
}

impl Tracer {
    /// Starts a capture of these ports and waits until it watches.
    pub fn watch(bench: &Bench, ports: &[u16], more: &[&str]) -> Result<Self> {
        let report = NamedTempFile::new()?;
        let mut command = Command::new(&bench.connleak);
        command.args(["capture", "-v", "--duration", "1h", "--format", "json"]);
        command.arg("--threshold").arg(format!("{}s", THRESHOLD.as_secs()));
        command.arg("--output").arg(report.path()).args(more);
        for port in ports {
            command.args(["--port", &port.to_string()]);
        }
        let begin = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", sh::shown(&command)))?;
        let mut stderr = BufReader::new(child.stderr.take().context("its stderr is a pipe")?);
        let mut tracer = Self { child, start: Duration::ZERO, report, said: None };
        let mut before = String::new();
        while !before.contains("connleak: watching") {
            if stderr.read_line(&mut before)? == 0 {
                bail!("connleak does not watch; it said:\n{before}");
            }
        }
        tracer.start = begin.elapsed();
        tracer.said = Some(thread::spawn(move || {
            let mut said = String::new();
            // Cut short when it is killed, and then nobody reads it.
            let _cut = stderr.read_to_string(&mut said);
            said
        }));
        Ok(tracer)
    }

    /// Its programs' run-time statistics.
    pub fn programs(&self) -> Result<Programs> {
        Programs::of(self.child.id())
    }

    /// Processor time so far.
    pub fn used(&self) -> Result<Duration> {
        processor::used(self.child.id())
    }

    /// Resident memory: all of it, and the part that is not the kernel's maps.
    pub fn resident(&self) -> Result<Resident> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes: Option<u64> =
                line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            Ok(kilobytes.with_context(|| format!("{path} has no {name}"))? * 1024)
        };
        Ok(Resident { all: field("VmRSS:")?, own: field("RssAnon:")? })
    }

    /// Ends the capture as Ctrl-C does.
    pub fn finish(mut self) -> Result<Finished> {
        sh::run(Command::new("kill").args(["-INT", &self.child.id().to_string()]))?;
        let status = self.child.wait()?;
        let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        // 1 is findings: silent connections are part of what is measured.
        ensure!(matches!(status.code(), Some(0 | 1)), "connleak ended with {status}:\n{said}");
        let report = fs::read(self.report.path()).context("reading connleak's report")?;
        let report = serde_json::from_slice(&report).context("reading connleak's report")?;
        Ok(Finished { report, said })
    }
}

/// What a capture left.
pub struct Finished {
    pub report: serde_json::Value,
    /// On its standard error, since it watched.
    pub said: String,
}

impl Finished {
    /// # Errors
    /// When the tracer lost anything.
    pub fn nothing_lost(&self) -> Result<()> {
        let lost = &self.report["capture"]["lost"];
        ensure!(lost.as_object().is_some_and(serde_json::Map::is_empty), "lost: {lost}");
        Ok(())
    }
}

/// Bytes of resident memory.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    pub all: u64,
    /// Without the mapped files and maps.
    pub own: u64,
}

impl Drop for Tracer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
