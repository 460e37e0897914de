//! A throwaway PostgreSQL server of a test's own, on its own port and in its own directory.
//!
//! May import `std`, `tempfile` and its neighbours. Invariants: it listens on loopback and on a
//! Unix socket in its directory only; it runs as the user `postgres`; it ends with its value.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;

use super::deadline;
use super::process::{Process, output};

/// Names a data directory made beforehand, where `initdb` would take too long.
pub const PREPARED_DATA: &str = "CONNLEAK_TEST_PGDATA";

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// What a test wants of its server beyond the usual.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Accept TLS, with a certificate that nobody signed.
    pub tls: bool,
    /// Run in a network namespace of its own.
    pub own_network: bool,
}

/// A running server.
pub struct Server {
    process: Process,
    directory: TempDir,
    port: u16,
    tls: bool,
}

impl Server {
    pub fn start() -> Self {
        Self::with(Wanted::default())
    }

    pub fn with(wanted: Wanted) -> Self {
        let (user, group) = (id("-u"), id("-g"));
        let directory = TempDir::with_prefix("connleak-pg-").expect("a temporary directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        chown(directory.path(), Some(user), Some(group)).expect("run as root");
        let data = directory.path().join("data");
        match std::env::var_os(PREPARED_DATA) {
            Some(prepared) => {
                output(Command::new("cp").arg("-a").args([prepared, data.clone().into()]))
            }
            None => output(
                Command::new(program("initdb"))
                    .args(["--auth=trust", "--no-sync", "--username=postgres", "--pgdata"])
                    .arg(&data)
                    .current_dir(directory.path())
                    .uid(user)
                    .gid(group),
            ),
        };
        if wanted.tls {
            self_signed(&data, user, group);
        }
        let port = free_port();
        let mut command = Command::new("/usr/bin/env");
        if wanted.own_network {
            // A new network namespace has its loopback device down.
            command = Command::new("unshare");
            command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
        }
        command.args(["setpriv", "--clear-groups"]);
        command.arg(format!("--reuid={user}")).arg(format!("--regid={group}"));
        command.arg(program("postgres")).arg("-D").arg(&data).args(["-p", &port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "max_connections=200",
            "fsync=off",
            "shared_buffers=16MB",
            "log_min_messages=log",
            if wanted.tls { "ssl=on" } else { "ssl=off" },
        ] {
            command.args(["-c", setting]);
        }
        command.arg("-c").arg(format!("unix_socket_directories={}", directory.path().display()));
        let mut process = Process::start(command.current_dir(directory.path()));
        process.stderr.until("database system is ready to accept connections", deadline());
        Self { process, directory, port, tls: wanted.tls }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the server's first process, in whose namespaces it runs.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The variables that lead a client here, over TCP.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let tls = if self.tls { "require" } else { "disable" };
        vec![
            ("PGHOST", "127.0.0.1".to_owned()),
            ("PGPORT", self.port.to_string()),
            ("PGUSER", "postgres".to_owned()),
            ("PGDATABASE", "postgres".to_owned()),
            ("PGSSLMODE", tls.to_owned()),
        ]
    }

    /// The same over the Unix socket, whose directory takes the place of the host.
    pub fn unix_environment(&self) -> Vec<(&'static str, String)> {
        let mut variables = self.environment();
        variables[0].1 = self.directory.path().display().to_string();
        variables
    }

    /// Returns when the server has exactly so many client sessions for which this SQL condition
    /// holds. Panics when it does not get there: a backend notices the end of its client by
    /// itself, and some time later, so the server is asked until it has.
    pub fn until_sessions(&self, condition: &str, count: u64) {
        let sql = format!(
            "set statement_timeout = {};
             do $$ begin
               while {count} <> (select count(*) from pg_stat_activity where ({condition})
                 and backend_type = 'client backend' and pid <> pg_backend_pid())
               loop
                 perform pg_sleep(0.01);
                 perform pg_stat_clear_snapshot();
               end loop;
             end $$",
            deadline().as_millis()
        );
        let mut psql = Command::new(program("psql"));
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", &sql]);
        output(psql.envs(self.unix_environment()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its backends are in sessions of their own: only the postmaster can end them all.
        self.process.signal("QUIT");
        self.process.wait();
    }
}

fn program(name: &str) -> PathBuf {
    Path::new(PROGRAMS).join(name)
}

fn id(which: &str) -> u32 {
    output(Command::new("id").args([which, "postgres"])).parse().expect("a number")
}

fn self_signed(data: &Path, user: u32, group: u32) {
    let (key, certificate) = (data.join("server.key"), data.join("server.crt"));
    output(
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"])
            .args(["-subj", "/CN=localhost", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("ours");
    for file in [key, certificate] {
        chown(file, Some(user), Some(group)).expect("run as root");
    }
}

/// A port below the ephemeral range, where no client's own end can take it in between, and given
/// to no other test of this process.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 17_000;
    const COUNT: u16 = 10_000;
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    loop {
        let offset = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", FIRST + offset)).is_ok() {
            return FIRST + offset;
        }
    }
}
