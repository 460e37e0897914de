//! Files that are deleted and processes that end before the report: what was seen keeps its names.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use xtask::{clients, sh, workspace};

use crate::common::client::{Client, GO, Kind, NODE, leak_line_in};
use crate::common::server;
use crate::common::tracer::Tracer;

/// A program, and a leak of seven in it.
struct Leaky {
    kind: Kind,
    /// What is copied, run from there and deleted: a program or a directory of scripts.
    files: PathBuf,
    commands: &'static [&'static str],
    function: &'static str,
    source: &'static str,
    shape: &'static str,
}

fn all() -> [Leaky; 3] {
    [
        Leaky {
            kind: NODE,
            files: clients::sources().join("node"),
            commands: &["leak forgotten 7"],
            function: "forgottenRelease",
            source: "node/leaks.js",
            shape: "forgotten",
        },
        Leaky {
            kind: GO,
            files: workspace::target().join("clients/go/client"),
            commands: &["leak rows 7"],
            function: "main.leakRows",
            source: "go/leaks.go",
            shape: "rows",
        },
        Leaky {
            kind: Kind::C,
            files: clients::c_dir().join("client"),
            commands: &["leak forgotten 3", "later", "leak forgotten 4"],
            function: "forget_connection",
            source: "c/main.c",
            shape: "forgotten",
        },
    ]
}

impl Leaky {
    /// The same command with the copied files.
    fn command(&self, copy: &Path) -> Command {
        let usual = self.kind.command();
        let moved = |word: &OsString| match Path::new(word).strip_prefix(&self.files) {
            Ok(rest) if rest.as_os_str().is_empty() => copy.into(),
            Ok(rest) => copy.join(rest).into_os_string(),
            Err(_) => word.clone(),
        };
        let mut command = Command::new(moved(&usual.get_program().to_owned()));
        command.args(usual.get_args().map(|word| moved(&word.to_owned())));
        command.envs(usual.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    /// Leaks, and is found after its files are deleted, and after it has ended, if it is to end.
    fn is_found_when_gone(&self, ends: bool) {
        let server = server();
        let directory = tempfile::tempdir().expect("a directory");
        let copy = directory.path().join(self.files.file_name().expect("a name"));
        copy_all(&self.files, &copy);
        let mut client = Client::spawn(self.command(&copy).envs(server.environment()));
        let pid = client.pid().to_string();
        let tracer = Tracer::watch_with(&server, &["--format", "json", "--pid", &pid]);
        for command in self.commands {
            client.run(command);
        }
        if ends {
            Tracer::silence();
            client.quit();
        }
        directory.close().expect("it is ours");
        let output = if ends { tracer.finish() } else { tracer.finish_after_silence() };
        let report = output.report();
        let finding = report.only_accusation();
        let whole = &report.0;
        assert_eq!((finding.verdict(), finding.count()), ("leak", 7), "{whole:#}");
        assert_eq!(finding.function(), Some(self.function), "{whole:#}");
        let file = finding.file().unwrap_or_default();
        assert!(file.ends_with(self.source), "{file} is not {}: {whole:#}", self.source);
        assert_eq!(finding.line(), Some(leak_line_in(self.source, self.shape)), "{whole:#}");
        let ended = finding.0["ended_by_exit"].as_u64();
        assert_eq!(ended, Some(if ends { 7 } else { 0 }), "{whole:#}");
    }
}

/// By another process: while this one had a program open to write it, a fork for another test would
/// keep it open, and the kernel refuses to run it then.
fn copy_all(from: &Path, to: &Path) {
    sh::run(Command::new("cp").arg("-r").args([from, to])).expect("copied");
}

#[test]
fn programs_and_scripts_that_are_deleted_keep_their_names() {
    all().iter().for_each(|leaky| leaky.is_found_when_gone(false));
}

#[test]
fn processes_that_have_ended_keep_their_names() {
    all().iter().for_each(|leaky| leaky.is_found_when_gone(true));
}
