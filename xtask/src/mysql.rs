//! A throwaway MySQL server (MariaDB) for the tests.
//!
//! Owns a data directory and a free port, both gone when the value is dropped. It has no accounts:
//! everyone on loopback is everyone. As root it runs as the user of PostgreSQL's servers.
//!
//! Invariants: as those of [`postgres`](crate::postgres).

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::postgres::{Owner, free_port, wait_until_ready};
use crate::sh;

/// In the log's line that says the server is ready.
const READY: &str = "ready for connections";

/// A running server. Dropping it stops it and removes its files.
#[derive(Debug)]
pub struct Server {
    process: Child,
    /// Removed when the server is gone.
    _dir: TempDir,
    port: u16,
}

impl Server {
    /// Starts a server that accepts connections when this returns.
    ///
    /// # Errors
    /// When MariaDB is not installed or does not start; the message ends with its own words.
    pub fn start() -> Result<Self> {
        let owner = Owner::find()?;
        let dir = TempDir::with_prefix("connleak-my-").context("making a temporary directory")?;
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        let data = dir.path().join("data");
        fs::create_dir(&data)?;
        owner.give(dir.path())?;
        owner.give(&data)?;
        let port = free_port()?;
        let mut command = Command::new(program()?);
        if let Some((user, group)) = owner.ids() {
            command.uid(user).gid(group);
        }
        command.arg("--no-defaults").arg("--datadir").arg(&data);
        command.arg("--socket").arg(dir.path().join("socket"));
        command.arg("--pid-file").arg(dir.path().join("pid"));
        command.args(["--bind-address=127.0.0.1", &format!("--port={port}")]);
        // With neither accounts nor other tables of its own there is nothing to install.
        command.args(["--skip-grant-tables", "--skip-name-resolve", "--skip-log-bin"]);
        command.args(["--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M"]);
        command.args(["--innodb-flush-log-at-trx-commit=0", "--lc-messages=en_US"]);
        command.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.stderr(Stdio::piped()).spawn();
        let process = process.with_context(|| format!("cannot start {}", sh::shown(&command)))?;
        let mut server = Self { process, _dir: dir, port };
        let log = server.process.stderr.take().context("its standard error is a pipe")?;
        wait_until_ready(log, "MariaDB", READY)?;
        Ok(server)
    }

    /// Its TCP port, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The variables that lead MySQL's own clients here, and ours.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [("MYSQL_HOST", "127.0.0.1".to_owned()), ("MYSQL_TCP_PORT", self.port.to_string())]
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One process, and nobody starts from its files again.
        let ended = self.process.kill().and_then(|()| self.process.wait());
        if let Err(error) = ended {
            eprintln!("stopping MariaDB: {error}");
        }
    }
}

/// The server's program, which is where only root's `PATH` leads.
///
/// # Errors
/// When it is not installed.
pub fn program() -> Result<PathBuf> {
    let usual = ["/usr/sbin/mariadbd", "/usr/libexec/mariadbd"].map(PathBuf::from);
    let found = usual.into_iter().find(|path| path.exists()).or_else(|| sh::which("mariadbd"));
    found.context("MariaDB's server is not installed")
}

#[cfg(test)]
mod tests {
    use super::{READY, wait_until_ready};

    #[test]
    fn a_server_that_does_not_start_is_quoted() {
        let error =
            wait_until_ready(&b"[ERROR] no\n"[..], "MariaDB", READY).unwrap_err().to_string();
        assert!(error.ends_with("[ERROR] no\n"), "{error}");
    }
}
