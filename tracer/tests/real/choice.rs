//! Which processes are watched: by name, by container.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;
use xtask::postgres::{Config, Server};

use crate::FOUND;
use crate::common::client::{Client, GO, Kind, through};
use crate::common::report::Report;
use crate::common::tracer::Tracer;
use crate::common::{deadline, process, server, server_with};

/// Everyone who is accused, with how many connections.
fn accused(report: &Report) -> BTreeSet<(u64, u64)> {
    report.accusations().iter().map(|finding| (finding.pid(), finding.count())).collect()
}

/// A client by another name: the kernel names a process after the path it was started by, which
/// here is a link in this directory.
fn named(directory: &Path, name: &str, program: &Path, server: &Server) -> Command {
    let link = directory.join(name);
    if !link.exists() {
        symlink(program, &link).expect("the directory is ours");
    }
    let mut command = Command::new(link);
    command.envs(server.environment());
    command
}

/// The program of a client that is one file.
fn program(kind: Kind) -> PathBuf {
    kind.command().get_program().into()
}

#[test]
fn processes_of_a_name_are_watched_and_no_others() {
    let (server, directory) = (server(), TempDir::new().expect("a temporary directory"));
    let start = |name: &str, program: &Path| {
        Client::spawn(&mut named(directory.path(), name, program, &server))
    };
    let mut process = start("shop-billing", &program(GO));
    let mut healthy = start("shop-billing", &program(GO));
    // The name of a process is cut, that of its executable is not.
    let copy = directory.path().join("shop-invoices-that-are-sent-by-mail");
    process::copy_program(program(GO).as_os_str(), &copy);
    let mut executable = start("otherwise", &copy);
    let mut other = start("shop-orders", &program(GO));
    let names = ["--name", "shop-billing", "--name", "shop-invoices-that-are-sent-by-mail"];
    let tracer = Tracer::watch_with(&server, &[&["--format", "json"][..], &names].concat());
    process.run("leak rows 3");
    healthy.run("healthy rows 3");
    executable.run("leak rows 5");
    other.run("leak rows 7");
    let output = tracer.finish_after_silence();
    let report = output.report();
    let expected =
        BTreeSet::from([(u64::from(process.pid()), 3), (u64::from(executable.pid()), 5)]);
    assert_eq!(accused(&report), expected, "{:#}", report.0);
    assert_eq!(report.connections_of(healthy.pid()).len(), 1, "{:#}", report.0);
    assert_eq!(report.connections_of(other.pid()).len(), 0, "{:#}", report.0);
    assert_eq!(output.exit, FOUND);
}

#[test]
fn processes_of_a_name_that_start_later_are_picked_up() {
    let (server, directory) = (server(), TempDir::new().expect("a temporary directory"));
    let start = |name: &str, kind: Kind, commands: &[&str]| {
        let mut command = named(directory.path(), name, &program(kind), &server);
        Client::spawn(command.args(commands))
    };
    // This one's program is probed when the capture begins, and is the later one's too.
    let _same_program = start("shop-rows", GO, &[]);
    let names = ["--name", "shop-billing", "--name", "shop-rows"];
    let tracer = Tracer::watch_with(&server, &[&["--format", "json"][..], &names].concat());
    // These connect as soon as they run, before they are known by name.
    tracer.pause();
    let mut leaky = start("shop-billing", Kind::C, &["keep"]);
    let mut healthy = start("shop-billing", Kind::C, &["keep"]);
    let mut other = start("shop-orders", Kind::C, &["keep"]);
    let mut observed = start("shop-rows", GO, &[]);
    tracer.resume();
    for client in [&leaky, &healthy, &observed] {
        tracer.until_watched(client.pid());
    }
    observed.run("leak rows 7");
    for (client, command) in [
        (&mut leaky, "leak transaction 3"),
        (&mut healthy, "healthy 3"),
        (&mut other, "leak transaction 5"),
    ] {
        // What is kept is used, before and after.
        client.run("keep");
        client.run(command);
        client.run("keep");
    }
    let output = tracer.finish_after_silence();
    let report = output.report();
    let expected = BTreeSet::from([(u64::from(leaky.pid()), 3), (u64::from(observed.pid()), 7)]);
    assert_eq!(accused(&report), expected, "{:#}", report.0);
    assert_eq!(report.with_verdict("leak")[0].certainty(), "proven", "{:#}", report.0);
    // With what they opened before they were watched.
    assert_eq!(report.connections_of(leaky.pid()).len(), 4, "{:#}", report.0);
    assert_eq!(report.connections_of(healthy.pid()).len(), 1, "{:#}", report.0);
    assert_eq!(report.connections_of(other.pid()).len(), 0, "{:#}", report.0);
}

/// A control group as a container's engine makes it; gone with its value.
struct Container {
    path: PathBuf,
    id: String,
}

impl Container {
    /// `number` sets it apart from other containers of the test.
    fn new(prefix: &str, number: u32, suffix: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("proc is mounted");
        let root = mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            [_, path, "cgroup2", ..] => Some(path),
            _ => None,
        });
        let id = format!("{number:04x}{:012x}", std::process::id()).repeat(4);
        let root = Path::new(root.expect("control groups of version 2 are mounted"));
        let path = root.join(format!("{prefix}{id}{suffix}"));
        fs::create_dir(&path).expect("control groups can be made");
        Self { path, id }
    }

    /// A client in namespaces of its own, and of the server's network, in this group.
    fn command(&self, server: &Server) -> Command {
        let join = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.path.display());
        let network = format!("--net=/proc/{}/ns/net", server.pid());
        let wrapper = ["sh", "-c", &join, "sh", "nsenter", &network, "unshare", "--pid", "--fork"];
        let wrapper = [&wrapper[..], &["--kill-child", "--mount-proc"]].concat();
        let mut command = through(&wrapper, &GO.command());
        command.envs(server.environment());
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The kernel keeps it until the last process in it, which was killed, is gone.
        let end = Instant::now() + deadline();
        while let Err(error) = fs::remove_dir(&self.path) {
            if Instant::now() >= end {
                eprintln!("{} remains: {error}", self.path.display());
                return;
            }
        }
    }
}

#[test]
fn processes_of_a_container_are_watched_and_no_others() {
    let server = server_with(&Config { own_network: true, ..Config::default() });
    let before = Container::new("docker-", 1, ".scope");
    let later = Container::new("cri-containerd-", 2, ".scope");
    let other = Container::new("docker-", 3, ".scope");
    let mut leaky = Client::spawn(&mut before.command(&server));
    let mut healthy = Client::spawn(&mut before.command(&server));
    let mut unwatched = Client::spawn(&mut other.command(&server));
    // As `docker ps` shows it, and in full.
    let ids = ["--container", &before.id[..12], "--container", &later.id];
    let tracer = Tracer::watch_with(&server, &[&["--format", "json"][..], &ids].concat());
    let mut started = Client::spawn(&mut later.command(&server));
    let pid = |client: &Client| {
        assert_eq!(client.pid(), 1, "it sees itself as the first of its namespace");
        process::only_child(client.started_pid())
    };
    tracer.until_watched(pid(&started));
    leaky.run("leak rows 3");
    healthy.run("healthy rows 3");
    unwatched.run("leak rows 5");
    // Its program is probed already: it is the same file.
    started.run("leak rows 7");
    let output = tracer.finish_after_silence();
    let report = output.report();
    let expected = BTreeSet::from([(u64::from(pid(&leaky)), 3), (u64::from(pid(&started)), 7)]);
    assert_eq!(accused(&report), expected, "{:#}", report.0);
    for (client, container) in [(&leaky, &before), (&started, &later)] {
        let process = report.process(pid(client));
        assert_eq!(process["container"], &container.id[..12], "{process:#}");
        assert_eq!(process["ns_pid"], 1, "{process:#}");
    }
    assert_eq!(report.connections_of(pid(&healthy)).len(), 1, "{:#}", report.0);
    assert_eq!(report.connections_of(pid(&unwatched)).len(), 0, "{:#}", report.0);
    assert_eq!(output.exit, FOUND);
}
