//! `cargo xtask demo`: two services with one bug each, watched from outside for some seconds.
//!
//! Starts a throwaway PostgreSQL and the services of `demo/`, runs `connleak capture` on
//! everything and prints its report. Whatever it started ends with it, also after Ctrl-C, which
//! only ends the watching early.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};
use xtask::postgres::{Config, Server};
use xtask::{clients, sh, workspace};

use crate::build;
use crate::setup::{self, Group};

/// Watch two leaking services and print the report
#[derive(clap::Args)]
pub struct Options {
    /// Seconds to watch
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    seconds: u32,
    /// Arguments of `connleak capture` in the place of ours for threshold and duration
    #[arg(last = true)]
    args: Vec<String>,
}

/// Prints the report. It finding what it should is success.
pub fn run(options: &Options) -> Result<()> {
    setup::ensure(Group::Demo)?;
    let connleak = build::connleak(build::Options::default())?;
    // We outlive Ctrl-C, which connleak takes as "report now".
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let server = Server::start_with(&Config { own_process_group: true, ..Config::default() })?;
    println!("demo: PostgreSQL listens on port {}", server.port());
    let dir = tempfile::TempDir::with_prefix("connleak-demo-")?;
    let mut watch = sh::elevated(&connleak).context("connleak needs root, and there is no sudo")?;
    watch.args(["capture", "--port", &server.port().to_string()]);
    if options.args.is_empty() {
        watch.args(["--threshold", "3s", "--duration", &format!("{}s", options.seconds)]);
    } else {
        watch.args(&options.args);
    }
    // They run already when connleak comes, as in the incident that it is for.
    let _billing =
        Service::start(&mut Command::new(clients::go_dir().join("billing")), &server, dir.path())?;
    let mut orders = Command::new("node");
    orders.arg(workspace::root().join("demo/orders-node/service.js"));
    orders.env("NODE_PATH", clients::node_modules());
    let _orders = Service::start(&mut orders, &server, dir.path())?;
    println!("demo: {}", sh::shown(&watch));
    let status = watch.status().with_context(|| format!("cannot start {}", sh::shown(&watch)))?;
    match status.code() {
        Some(1) => Ok(()),
        Some(0) => bail!("connleak found nothing, where two services leak"),
        _ => bail!("connleak ended with {status}"),
    }
}

/// A running service of the demo.
struct Service(Child);

impl Service {
    /// Starts it and waits for its `ready`.
    fn start(command: &mut Command, server: &Server, dir: &Path) -> Result<Self> {
        // A process group of its own, for Ctrl-C is not for it.
        command.envs(server.environment()).current_dir(dir).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child =
            command.spawn().with_context(|| format!("cannot start {}", sh::shown(command)))?;
        let mut service = Self(child);
        let stdout = service.0.stdout.take().context("its standard output is a pipe")?;
        let mut lines = BufReader::new(stdout);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        ensure!(line.starts_with("ready "), "{} did not start: {line}", sh::shown(command));
        println!("demo: {} runs as process {}", sh::shown(command), service.0.id());
        thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok(service)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
