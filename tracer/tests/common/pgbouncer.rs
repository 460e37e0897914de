//! A PgBouncer between clients and a server.
//!
//! May import `std`, `tempfile`, `xtask` and its neighbours. Invariant: it listens on loopback only,
//! and ends with its value.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tempfile::TempDir;
use xtask::postgres::{NAME, Server, free_port};

use super::deadline;
use super::process::{Process, output};

/// When a server connection is free for the next client.
#[derive(Clone, Copy, Debug)]
pub enum PoolMode {
    /// When the client goes.
    Session,
    /// When the transaction ends.
    Transaction,
}

/// A running PgBouncer.
pub struct PgBouncer {
    process: Process,
    port: u16,
    _dir: TempDir,
}

impl PgBouncer {
    /// Starts one in front of this server; it listens when this returns.
    pub fn start(server: &Server, mode: PoolMode) -> Self {
        let port = free_port().expect("a free port");
        let dir = TempDir::with_prefix("connleak-pgbouncer-").expect("a temporary directory");
        // It runs as another user, because it refuses to be root.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("ours");
        let mode = match mode {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
        };
        let settings = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={} user={NAME}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             admin_users = {NAME}\n\
             max_client_conn = 97\n\
             ignore_startup_parameters = extra_float_digits\n\
             pool_mode = {mode}\n",
            server.port()
        );
        let file = dir.path().join("pgbouncer.ini");
        fs::write(&file, settings).expect("ours");
        let mut command = program();
        let mut process = Process::start(command.args(["-u", NAME]).arg(file));
        process.stderr.until("process up", deadline());
        Self { process, port, _dir: dir }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's variables, with this in its place.
    pub fn environment(&self, server: &Server) -> [(&'static str, String); 5] {
        let mut variables = server.environment();
        variables[1].1 = self.port.to_string();
        variables
    }

    /// Name and version.
    pub fn description() -> String {
        let said = output(program().arg("--version"));
        said.lines().next().unwrap_or_default().to_owned()
    }
}

fn program() -> Command {
    // Debian keeps it where only root's PATH leads.
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("pgbouncer");
    command.env("PATH", format!("{path}:/usr/sbin"));
    command
}
