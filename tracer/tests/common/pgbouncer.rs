//! A PgBouncer in front of a server, with a console for everyone.
//!
//! May import `std`, `tempfile`, `xtask` and its neighbours. It refuses to run as root, so it runs
//! as the server's owner.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use xtask::postgres::{Server, free_port};

use super::deadline;
use super::process::{Process, output};

/// A running pooler.
pub struct PgBouncer {
    _process: Process,
    _dir: TempDir,
    port: u16,
}

impl PgBouncer {
    /// Starts one that hands a server session on after each transaction.
    pub fn start(server: &Server) -> Self {
        let dir = TempDir::with_prefix("connleak-bouncer-").expect("a temporary directory");
        let port = free_port().expect("a port is free");
        let config = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
             max_client_conn = 97\nadmin_users = postgres\n\
             [users]\n",
            server.port()
        );
        // With `auth_type = any` it logs in as one user, named with the database.
        let config = config.replace("port=", "user=postgres port=");
        let file = dir.path().join("pgbouncer.ini");
        fs::write(&file, config).expect("ours");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("ours");
        output(Command::new("chmod").arg("644").arg(&file));
        let places = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"];
        let program = places.into_iter().find(|place| Path::new(place).exists());
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.arg(program.expect("pgbouncer is installed")).arg(&file).current_dir("/");
        let mut process = Process::start(&mut command);
        process.stderr.until("process up", deadline());
        Self { _process: process, _dir: dir, port }
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
}
