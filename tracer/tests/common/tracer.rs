//! The built `connleak`, as its user runs it.
//!
//! May import `std`, `xtask` and its neighbours.

use std::process::Command;
use std::thread;
use std::time::Duration;

use xtask::postgres::Server;

use super::deadline;
use super::process::Process;
use super::report::Report;

/// What a finished run left.
#[derive(Debug)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    /// `None` when a signal ended it.
    pub exit: Option<i32>,
}

impl Output {
    /// The JSON report. Panics when there is none, with what was said instead.
    pub fn report(&self) -> Report {
        Report::parse(&self.stdout).unwrap_or_else(|error| panic!("no report: {error}\n{self:#?}"))
    }
}

/// The binary under test.
pub fn connleak() -> Command {
    Command::new(env!("CARGO_BIN_EXE_connleak"))
}

/// Runs to the end.
pub fn run(command: &mut Command) -> Output {
    finished(&mut Process::start(command), deadline())
}

/// A running capture.
pub struct Tracer {
    process: Process,
}

impl Tracer {
    /// Silence that counts, in these tests.
    pub const THRESHOLD: Duration = Duration::from_secs(1);

    /// Captures what talks to this server, until it is interrupted; watches when this returns.
    pub fn watch(server: &Server) -> Self {
        Self::watch_with(server, &["--format", "json"])
    }

    pub fn watch_with(server: &Server, more: &[&str]) -> Self {
        let (port, threshold) =
            (server.port().to_string(), format!("{}s", Self::THRESHOLD.as_secs()));
        let usual = ["capture", "--port", &port, "--threshold", &threshold, "--duration", "600s"];
        Self::start(connleak().args(usual).args(more))
    }

    /// Starts a capture and waits until it watches.
    pub fn start(command: &mut Command) -> Self {
        let mut process = Process::start(command);
        process.stderr.until("connleak: watching", deadline());
        Self { process }
    }

    /// Waits until it has said this on its standard error.
    pub fn until_said(&mut self, wanted: &str) {
        self.process.stderr.until(wanted, deadline());
    }

    /// As Ctrl-C does.
    pub fn interrupt(&self) {
        self.process.signal("INT");
    }

    /// Ends it without a chance to clean up.
    pub fn kill(mut self) {
        self.process.signal("KILL");
        self.process.finish(deadline());
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for the end of the capture.
    pub fn finish(mut self) -> Output {
        // A capture's own duration comes on top of what anything may take.
        finished(&mut self.process, Duration::from_secs(60) + deadline())
    }

    /// Lets everything be silent for longer than the threshold, then has the report.
    pub fn finish_after_silence(self) -> Output {
        // Not a wait for something to happen: that nothing happens for so long is what is tested.
        // The tracer looks four times a second; a second covers that and a busy machine.
        thread::sleep(Self::THRESHOLD + Duration::from_secs(1));
        self.interrupt();
        self.finish()
    }
}

fn finished(process: &mut Process, within: Duration) -> Output {
    let (stdout, stderr, status) = process.finish(within);
    Output { stdout, stderr, exit: status.code() }
}
