//! A pooler between clients and a server: PgBouncer or Pgpool-II.
//!
//! May import `std`, `tempfile`, `xtask` and its neighbours. Invariant: it listens on loopback only,
//! and ends with its value.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use xtask::postgres::{NAME, Server, free_port};

use super::deadline;
use super::process::Process;

/// Which pooler, and when a server connection is free for the next client.
#[derive(Clone, Copy, Debug)]
pub enum Pooling {
    /// PgBouncer: when the client goes.
    Session,
    /// PgBouncer: when the transaction ends.
    Transaction,
    /// Pgpool-II: when the client goes.
    Pgpool,
}

/// A running pooler.
pub struct Pooler {
    process: Process,
    port: u16,
    _dir: TempDir,
}

impl Pooler {
    /// Starts one in front of this server; it listens when this returns.
    pub fn start(server: &Server, pooling: Pooling) -> Self {
        let port = free_port().expect("a free port");
        let dir = TempDir::with_prefix("connleak-pooler-").expect("a temporary directory");
        // PgBouncer runs as another user, because it refuses to be root.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("ours");
        let (settings, ready) = match pooling {
            Pooling::Session => (pgbouncer(server, port, "session"), "process up"),
            Pooling::Transaction => (pgbouncer(server, port, "transaction"), "process up"),
            Pooling::Pgpool => (pgpool(server, port, dir.path()), "successfully started"),
        };
        let file = dir.path().join("settings");
        fs::write(&file, settings).expect("ours");
        let mut command = program(pooling);
        match pooling {
            Pooling::Session | Pooling::Transaction => command.args(["-u", NAME]),
            Pooling::Pgpool => command.args(["-n", "-f"]),
        };
        let mut process = Process::start(command.arg(file));
        process.stderr.until(ready, deadline());
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
    pub fn description(pooling: Pooling) -> String {
        let said = program(pooling).arg("--version").output().expect("the pooler starts");
        // Pgpool-II says it where errors go, and has a name for each version.
        let said = [said.stdout, said.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        said.lines()
            .next()
            .unwrap_or_default()
            .split(" (")
            .next()
            .unwrap_or_default()
            .replace(" version", "")
    }
}

fn pgbouncer(server: &Server, port: u16, mode: &str) -> String {
    format!(
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
    )
}

fn pgpool(server: &Server, port: u16, dir: &Path) -> String {
    let dir = dir.display();
    let control = free_port().expect("a free port");
    format!(
        "backend_clustering_mode = 'raw'\n\
         backend_hostname0 = '127.0.0.1'\n\
         backend_port0 = {}\n\
         listen_addresses = '127.0.0.1'\n\
         port = {port}\n\
         socket_dir = '{dir}'\n\
         pcp_listen_addresses = ''\n\
         pcp_port = {control}\n\
         pcp_socket_dir = '{dir}'\n\
         wd_ipc_socket_dir = '{dir}'\n\
         pid_file_name = '{dir}/pid'\n\
         logdir = '{dir}'\n\
         num_init_children = 29\n\
         enable_pool_hba = off\n\
         pool_passwd = ''\n",
        server.port()
    )
}

fn program(pooling: Pooling) -> Command {
    // Debian keeps both where only root's PATH leads.
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(match pooling {
        Pooling::Session | Pooling::Transaction => "pgbouncer",
        Pooling::Pgpool => "pgpool",
    });
    command.env("PATH", format!("{path}:/usr/sbin"));
    command
}
