//! The built `connleak`, as its user runs it.
//!
//! May import `std`, `xtask` and its neighbours.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

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
        Self::watch_port(server.port(), more)
    }

    pub fn watch_port(port: u16, more: &[&str]) -> Self {
        let (port, threshold) = (port.to_string(), format!("{}s", Self::THRESHOLD.as_secs()));
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

    /// As service managers and container engines do.
    pub fn terminate(&self) {
        self.process.signal("TERM");
    }

    /// Has it do nothing until [`Self::resume`], as on a machine that is very busy.
    pub fn pause(&self) {
        self.process.signal("STOP");
    }

    pub fn resume(&self) {
        self.process.signal("CONT");
    }

    /// Waits until the kernel side was told to watch this process.
    pub fn until_watched(&self, pid: u32) {
        let bpftool = |arguments: &[&str]| {
            let mut command = Command::new("bpftool");
            let output = command.arg("map").args(arguments).output();
            output.expect("bpftool is installed")
        };
        let objects = self.kernel_objects().into_iter();
        let mut maps = objects.filter(|(kind, _)| *kind == "map").map(|(_, id)| id.to_string());
        let processes = maps.find(|id| {
            let shown = bpftool(&["show", "id", id]).stdout;
            String::from_utf8_lossy(&shown).contains(" name PROCS ")
        });
        let processes = processes.expect("the map of processes");
        let key = pid.to_ne_bytes().map(|byte| byte.to_string());
        let mut lookup = vec!["lookup", "id", &processes, "key"];
        lookup.extend(key.iter().map(String::as_str));
        let end = Instant::now() + deadline();
        while !bpftool(&lookup).status.success() {
            assert!(Instant::now() < end, "process {pid} is not watched");
        }
    }

    /// Ends it without a chance to clean up.
    pub fn kill(mut self) {
        self.process.signal("KILL");
        self.process.finish(deadline());
    }

    /// What the kernel says of each of its descriptors.
    pub fn descriptors(&self) -> Vec<String> {
        let dir = format!("/proc/{}/fdinfo", self.process.pid());
        let entries = fs::read_dir(dir).expect("running");
        // One closed in the meantime is nothing.
        let text = |entry: std::io::Result<fs::DirEntry>| {
            fs::read_to_string(entry.expect("readable").path()).unwrap_or_default()
        };
        entries.map(text).collect()
    }

    /// What its descriptors keep in the kernel: kind and id.
    pub fn kernel_objects(&self) -> BTreeSet<(&'static str, u32)> {
        let mut objects = BTreeSet::new();
        for text in self.descriptors() {
            for line in text.lines() {
                for (key, kind) in [("prog_id:", "prog"), ("map_id:", "map"), ("link_id:", "link")]
                {
                    if let Some(id) = line.strip_prefix(key) {
                        objects.insert((kind, id.trim().parse().expect("a number")));
                    }
                }
            }
        }
        objects
    }

    /// Waits for the end of the capture.
    pub fn finish(mut self) -> Output {
        // A capture's own duration comes on top of what anything may take.
        finished(&mut self.process, Duration::from_secs(60) + deadline())
    }

    /// Lets everything be silent for longer than the threshold, then has the report.
    pub fn finish_after_silence(self) -> Output {
        Self::silence();
        self.interrupt();
        self.finish()
    }

    /// Lets everything be silent for longer than the threshold.
    pub fn silence() {
        // Not a wait for something to happen: that nothing happens for so long is what is tested.
        // The tracer looks four times a second; a second covers that and a busy machine.
        thread::sleep(Self::THRESHOLD + Duration::from_secs(1));
    }
}

fn finished(process: &mut Process, within: Duration) -> Output {
    let (stdout, stderr, status) = process.finish(within);
    Output { stdout, stderr, exit: status.code() }
}
