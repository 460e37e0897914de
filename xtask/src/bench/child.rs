//! A child that says when it is ready, does what it is told line by line, and ends with us.
//!
//! May import `std` only. Invariant: a child is waited for before its value is gone.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::sh;

/// A running child.
pub struct Talking {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Talking {
    /// Starts it and waits for its line `ready`.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut talking = Self::begin(command)?;
        talking.ready()?;
        Ok(talking)
    }

    /// Starts it; [`Self::ready`] waits.
    pub fn begin(command: &mut Command) -> Result<Self> {
        let name = sh::shown(command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("its standard output is a pipe")?;
        Ok(Self { name, child, stdin, stdout: BufReader::new(stdout) })
    }

    /// Waits for its first line, `ready` or `ready PID`.
    pub fn ready(&mut self) -> Result<()> {
        let line = self.line()?;
        ensure!(line.split(' ').next() == Some("ready"), "{} said: {line}", self.name);
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a line and gives the answer.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        let stdin = self.stdin.as_mut().context("its standard input is a pipe")?;
        writeln!(stdin, "{line}").with_context(|| format!("telling {}", self.name))?;
        self.line()
    }

    /// Sends a command that is answered with `done` or `done COMMAND`.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        let answer = self.ask(command)?;
        ensure!(answer.split(' ').next() == Some("done"), "{} said: {answer}", self.name);
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line);
        if read.with_context(|| format!("reading from {}", self.name))? == 0 {
            bail!("{} ended early", self.name);
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Talking {
    fn drop(&mut self) {
        drop(self.stdin.take());
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
