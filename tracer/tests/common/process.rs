//! A started program: its lines as they come, and its end.
//!
//! May import `std` only. Invariant: the program and all its descendants that stayed in its process
//! group are gone when the [`Process`] is dropped.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Lines of one pipe, read by a thread so that waiting for one can have a deadline.
pub struct Lines {
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while matches!(pipe.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                if sender.send(text).is_err() {
                    break;
                }
                line.clear();
            }
        });
        Self { lines, seen: Vec::new() }
    }

    /// The next line, or `None` at the end of the output. Panics when `within` has passed.
    pub fn next(&mut self, within: Duration) -> Option<String> {
        match self.lines.recv_timeout(within) {
            Ok(line) => {
                self.seen.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("no line within {within:?}; so far:\n{}", self.seen.join("\n"))
            }
        }
    }

    /// Reads up to the first line that contains `wanted`. Panics when there is none.
    pub fn until(&mut self, wanted: &str, within: Duration) -> String {
        let end = Instant::now() + within;
        loop {
            match self.next(end.saturating_duration_since(Instant::now())) {
                Some(line) if line.contains(wanted) => return line,
                Some(_) => {}
                None => panic!("ended without «{wanted}»; it said:\n{}", self.seen.join("\n")),
            }
        }
    }

    /// Everything to the end of the output, with what was read before.
    pub fn rest(&mut self, within: Duration) -> String {
        let end = Instant::now() + within;
        while self.next(end.saturating_duration_since(Instant::now())).is_some() {}
        self.seen.join("\n")
    }
}

/// A started program.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    pub stdout: Lines,
    pub stderr: Lines,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} did not start: {error}"));
        Self {
            stdin: child.stdin.take(),
            stdout: Lines::of(child.stdout.take().expect("piped")),
            stderr: Lines::of(child.stderr.take().expect("piped")),
            child,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("open until it is closed");
        writeln!(stdin, "{line}").expect("the program reads its input");
    }

    pub fn signal(&self, signal: &str) {
        kill(signal, &self.pid().to_string());
    }

    /// Closes the program's input and waits for the end of its output, which is its own end.
    pub fn finish(&mut self, within: Duration) -> (String, String, ExitStatus) {
        drop(self.stdin.take());
        let stdout = self.stdout.rest(within);
        let stderr = self.stderr.rest(within);
        (stdout, stderr, self.child.wait().expect("our child"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // The group outlives its leader while one of its children lives.
        kill("KILL", &format!("-{}", self.pid()));
        // It was killed, or had ended before: either way this returns.
        drop(self.child.wait());
    }
}

fn kill(signal: &str, target: &str) {
    // That it has already ended is no failure.
    let result =
        Command::new("kill").args(["-s", signal, "--", target]).stderr(Stdio::null()).status();
    assert!(result.is_ok(), "kill cannot be run: {result:?}");
}

/// The process id of a process's one child.
pub fn only_child(pid: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    children.expect("running").trim().parse().expect("one child")
}

/// Runs to the end and gives the standard output. Panics when it fails.
pub fn output(command: &mut Command) -> String {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?} did not start: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// Copies a program, by a process of its own: a descriptor that is open for writing would be
/// inherited by whatever another test starts at that moment, and nothing executes a file as long
/// as somebody may write it.
pub fn copy_program(from: &OsStr, to: &Path) {
    output(Command::new("cp").arg(from).arg(to));
}
