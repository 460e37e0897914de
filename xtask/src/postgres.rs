//! A throwaway PostgreSQL server for the demo, the tests and the measurements.
//!
//! Owns a data directory, which may hold a Unix socket, and a free port, all gone when the value is
//! dropped. The server refuses to run as root, so root starts it as the user `postgres`.
//!
//! Invariants: it listens on loopback and in its own directory only; it is a child of ours and is
//! waited for, and nothing is stopped by name.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::{env, io, thread};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::sh;

/// Names a data directory made beforehand by [`prepare`]: every server starts from a copy of it.
/// `initdb` takes nine seconds in an emulated machine, the copy six; here one and a half, and the
/// copy in memory a tenth.
pub const PREPARED_DATA: &str = "CONNLEAK_TEST_PGDATA";

/// Set to have every server listen on a Unix socket, so that captures watch system calls even where the
/// kernel has hooks on sockets, and the same tests try the other hooks.
pub const BY_CALLS: &str = "CONNLEAK_TEST_BY_CALLS";

/// Set where processors are emulated, so that whoever waits waits longer.
pub const EMULATED: &str = "CONNLEAK_TEST_EMULATED";

/// A file system in memory, where a server starts and stops ten times as fast.
const MEMORY: &str = "/dev/shm";
/// Where it has less room than this in KiB, it is not used: containers give it 64 MiB.
const MEMORY_AT_LEAST: u64 = 2 * 1024 * 1024;

/// The role and the database that clients connect to.
pub const NAME: &str = "postgres";

/// What is wanted beyond a server that trusts everyone on loopback.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Settings as in `postgresql.conf`; they override ours.
    pub settings: Vec<(String, String)>,
    /// Listen on this port instead of a free one.
    pub port: Option<u16>,
    /// Lines of `pg_hba.conf` in place of trust for everyone.
    pub access: Option<String>,
    /// Accept TLS, with a certificate that nobody signed (made by the `openssl` program).
    pub tls: bool,
    /// Run in a network namespace of its own (needs root).
    pub own_network: bool,
    /// Listen on a Unix socket as well. A capture then watches system calls, as it cannot see by the hooks
    /// on sockets who opens and closes such connections.
    pub unix: bool,
    /// Stay out of reach of the terminal's Ctrl-C, for a parent that stops the server itself.
    pub own_process_group: bool,
}

/// In the log's line that says the server is ready.
const READY: &str = "database system is ready to accept connections";

/// A running server. Dropping it stops it and removes its files.
#[derive(Debug)]
pub struct Server {
    postmaster: Child,
    dir: TempDir,
    port: u16,
    tls: bool,
    own_network: bool,
}

impl Server {
    /// Starts a server that trusts everyone on loopback and accepts connections when this returns.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start; the message ends with its own words.
    pub fn start() -> Result<Self> {
        Self::start_with(&Config::default())
    }

    /// The same with other wishes.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(config: &Config) -> Result<Self> {
        let owner = Owner::find()?;
        let dir = directory("connleak-pg-")?;
        // Clients of any user reach the socket through it.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        owner.give(dir.path())?;
        let data = dir.path().join("data");
        match env::var_os(PREPARED_DATA) {
            Some(prepared) => {
                sh::output(
                    Command::new("cp").arg("-a").args([prepared.as_os_str(), data.as_ref()]),
                )
                .map(drop)?;
            }
            None => owner.initdb(&data)?,
        }
        if config.tls {
            self_signed(&data, owner)?;
        }
        if let Some(access) = &config.access {
            let file = data.join("pg_hba.conf");
            fs::write(&file, access).with_context(|| format!("writing {}", file.display()))?;
        }
        let port = config.port.map_or_else(free_port, Ok)?;
        let mut command = owner.server(config.own_network)?;
        command.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        for (name, value) in settings(config, dir.path()) {
            command.args([OsStr::new("-c"), &setting(&name, &value)]);
        }
        command.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped());
        if config.own_process_group {
            command.process_group(0);
        }
        let postmaster =
            command.spawn().with_context(|| format!("cannot start {}", sh::shown(&command)))?;
        let mut server =
            Self { postmaster, dir, port, tls: config.tls, own_network: config.own_network };
        let log = server.postmaster.stderr.take().context("its standard error is a pipe")?;
        wait_until_ready(log, "PostgreSQL", READY)?;
        Ok(server)
    }

    /// Its TCP port, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its Unix socket `.s.PGSQL.<port>`, if it has one.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process id of the postmaster, in whose namespaces the server runs.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.postmaster.id()
    }

    /// The `PG*` variables that lead libpq and its likes here over TCP.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 5] {
        let tls = if self.tls { "require" } else { "disable" };
        [
            ("PGHOST", "127.0.0.1".to_owned()),
            ("PGPORT", self.port.to_string()),
            ("PGUSER", NAME.to_owned()),
            ("PGDATABASE", NAME.to_owned()),
            ("PGSSLMODE", tls.to_owned()),
        ]
    }

    /// The same over the Unix socket, whose directory takes the place of the host.
    #[must_use]
    pub fn unix_environment(&self) -> [(&'static str, String); 5] {
        let mut variables = self.environment();
        variables[0].1 = self.socket_dir().display().to_string();
        variables
    }

    /// One of PostgreSQL's own client programs, led here over TCP, in the server's network namespace.
    ///
    /// # Errors
    /// When PostgreSQL is not installed.
    pub fn client(&self, program: &str) -> Result<Command> {
        let program = bin_dir()?.join(program);
        let mut command = if self.own_network {
            let mut inside = Command::new("nsenter");
            inside.args(["--net", "--target", &self.pid().to_string(), "--"]).arg(program);
            inside
        } else {
            Command::new(program)
        };
        command.envs(self.environment()).current_dir("/");
        Ok(command)
    }

    /// Runs SQL and gives the rows as `psql -At` prints them, without the last line end.
    ///
    /// # Errors
    /// When a statement fails.
    pub fn psql(&self, sql: &str) -> Result<String> {
        let flags = ["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql];
        Ok(sh::output(self.client("psql")?.args(flags))?.trim_end().to_owned())
    }

    /// Fills the tables that `pgbench` measures with: 100,000 accounts for each step of `scale`.
    ///
    /// # Errors
    /// When pgbench fails.
    pub fn pgbench_init(&self, scale: u32) -> Result<()> {
        let flags = ["--initialize", "--quiet", "--init-steps=dtgvp", "--scale"];
        let mut pgbench = self.client("pgbench")?;
        sh::run(pgbench.args(flags).arg(scale.to_string()).stderr(Stdio::null()))
    }

    /// Stops the server, ending its sessions.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if self.postmaster.try_wait()?.is_some() {
            return Ok(());
        }
        // The postmaster alone knows its backends; the signal asks it to end them all at once
        // and needs no checkpoint, as nobody starts from these files again.
        let owner = Owner::find()?;
        let data = self.dir.path().join("data");
        let stop = ["stop", "--silent", "--wait", "--mode=immediate", "--pgdata"];
        let stopped = sh::output(owner.command("pg_ctl")?.args(stop).arg(data)).map(drop);
        if stopped.is_err() {
            self.postmaster.kill()?;
        }
        self.postmaster.wait()?;
        stopped
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("stopping PostgreSQL: {error:#}");
        }
    }
}

/// A directory of our own, in memory where there is room.
///
/// # Errors
/// When none can be made.
pub fn directory(prefix: &str) -> Result<TempDir> {
    let in_memory = has_room(Path::new(MEMORY)).then(|| TempDir::with_prefix_in(prefix, MEMORY));
    match in_memory {
        Some(Ok(dir)) => Ok(dir),
        _ => TempDir::with_prefix(prefix).context("making a temporary directory"),
    }
}

/// Whether this is a file system in memory with room for several servers.
fn has_room(dir: &Path) -> bool {
    let mut df = Command::new("df");
    df.args(["--output=fstype,avail"]).arg(dir).stderr(Stdio::null());
    let table = df.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let table = table.unwrap_or_default();
    let mut words = table.lines().nth(1).unwrap_or_default().split_whitespace();
    let room = (words.next() == Some("tmpfs")).then(|| words.next()?.parse::<u64>().ok());
    room.flatten().is_some_and(|room| room >= MEMORY_AT_LEAST)
}

/// Makes a data directory for [`PREPARED_DATA`]; `data` must not exist.
///
/// # Errors
/// When PostgreSQL is not installed or its parent directory is not writable.
pub fn prepare(data: &Path) -> Result<()> {
    let owner = Owner::find()?;
    fs::create_dir(data).with_context(|| format!("making {}", data.display()))?;
    owner.give(data)?;
    owner.initdb(data)
}

/// The directory of PostgreSQL's server programs: Debian's newest, the one of `pg_config`, or the
/// one on `PATH`.
///
/// # Errors
/// When there is none.
pub fn bin_dir() -> Result<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = installed
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|major| debian_bin(*major).join("initdb").exists())
        .max();
    if let Some(major) = newest {
        return Ok(debian_bin(major));
    }
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        let dir = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        if dir.join("initdb").exists() {
            return Ok(dir);
        }
    }
    let initdb = sh::which("initdb").context("PostgreSQL's server programs are not installed")?;
    Ok(initdb.parent().unwrap_or_else(|| Path::new("/")).to_path_buf())
}

fn debian_bin(major: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"))
}

/// Whose server it is: the user `postgres` where we are root, else our own.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    ids: Option<(u32, u32)>,
}

impl Owner {
    pub(crate) fn find() -> Result<Self> {
        if !sh::is_root() {
            return Ok(Self { ids: None });
        }
        let id = |which| -> Result<u32> {
            let id = sh::output(Command::new("id").args([which, "postgres"]));
            Ok(id.context("root needs a user `postgres` to run the server as")?.trim().parse()?)
        };
        Ok(Self { ids: Some((id("-u")?, id("-g")?)) })
    }

    /// User and group, where they are not our own.
    pub(crate) fn ids(self) -> Option<(u32, u32)> {
        self.ids
    }

    pub(crate) fn give(self, path: &Path) -> Result<()> {
        let Some((user, group)) = self.ids else { return Ok(()) };
        chown(path, Some(user), Some(group)).with_context(|| format!("chown {}", path.display()))
    }

    fn command(self, program: &str) -> Result<Command> {
        let mut command = Command::new(bin_dir()?.join(program));
        if let Some((user, group)) = self.ids {
            command.uid(user).gid(group);
        }
        Ok(command)
    }

    fn server(self, own_network: bool) -> Result<Command> {
        if !own_network {
            return self.command("postgres");
        }
        let (user, group) = self.ids.context("a network namespace needs root")?;
        // A new namespace has its loopback device down, and only root can change that.
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
        command.args(["setpriv", "--clear-groups"]);
        command.args([format!("--reuid={user}"), format!("--regid={group}")]);
        command.arg(bin_dir()?.join("postgres"));
        Ok(command)
    }

    fn initdb(self, data: &Path) -> Result<()> {
        let flags = ["--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8", "--username"];
        let mut initdb = self.command("initdb")?;
        initdb.args(flags).arg(NAME).arg("--pgdata").arg(data).current_dir("/");
        sh::output(&mut initdb).map(drop)
    }
}

fn settings(config: &Config, dir: &Path) -> Vec<(String, OsString)> {
    let unix = config.unix || env::var_os(BY_CALLS).is_some();
    let ours = [
        ("listen_addresses", OsStr::new("127.0.0.1")),
        ("unix_socket_directories", if unix { dir.as_os_str() } else { OsStr::new("") }),
        ("max_connections", OsStr::new("200")),
        ("shared_buffers", OsStr::new("16MB")),
        ("fsync", OsStr::new("off")),
        ("ssl", OsStr::new(if config.tls { "on" } else { "off" })),
        // What `wait_until_ready` reads.
        ("lc_messages", OsStr::new("C")),
        ("log_destination", OsStr::new("stderr")),
        ("logging_collector", OsStr::new("off")),
        ("log_min_messages", OsStr::new("log")),
    ];
    let ours = ours.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let wished = config.settings.iter().map(|(name, value)| (name.clone(), value.into()));
    ours.chain(wished).collect()
}

fn setting(name: &str, value: &OsStr) -> OsString {
    let mut setting = OsString::from(name);
    setting.push("=");
    setting.push(value);
    setting
}

/// Reads a server's log up to the line that says it is ready; the rest is read and forgotten, so
/// that the server never blocks on a full pipe.
pub(crate) fn wait_until_ready(
    log: impl Read + Send + 'static,
    server: &str,
    ready: &str,
) -> Result<()> {
    let mut log = BufReader::new(log);
    let mut said = String::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = log.read_until(b'\n', &mut line);
        if read.with_context(|| format!("reading {server}'s log"))? == 0 {
            bail!("{server} did not start; it said:\n{said}");
        }
        let text = String::from_utf8_lossy(&line);
        if text.contains(ready) {
            break;
        }
        said.push_str(&text);
    }
    thread::spawn(move || io::copy(&mut log, &mut io::sink()));
    Ok(())
}

/// A port of 127.0.0.1 below the ephemeral range, where no client's own end can take it in the
/// meantime, and given to no other server of this process.
///
/// # Errors
/// When all of ten thousand are taken.
pub fn free_port() -> Result<u16> {
    const FIRST: u16 = 17_000;
    const COUNT: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or(0);
    for _ in 0..COUNT {
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (start + next) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}

fn self_signed(data: &Path, owner: Owner) -> Result<()> {
    let (key, certificate) = (data.join("server.key"), data.join("server.crt"));
    let mut openssl = Command::new("openssl");
    openssl
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"])
        .args(["-subj", "/CN=localhost", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
    let made = openssl.stdin(Stdio::null()).output().context("cannot start openssl")?;
    if !made.status.success() {
        io::stderr().write_all(&made.stderr)?;
        bail!("openssl made no certificate");
    }
    fs::set_permissions(&key, Permissions::from_mode(0o600))?;
    owner.give(&key)?;
    owner.give(&certificate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_start_is_quoted() {
        let error =
            wait_until_ready(&b"FATAL:  no\n"[..], "PostgreSQL", READY).unwrap_err().to_string();
        assert!(error.ends_with("FATAL:  no\n"), "{error}");
    }

    #[test]
    fn wishes_override_our_settings() {
        let wish = ("max_connections".to_owned(), "7".to_owned());
        let config = Config { settings: vec![wish], ..Config::default() };
        let settings = settings(&config, Path::new("/nowhere"));
        let last = settings.iter().rfind(|(name, _)| name == "max_connections");
        assert_eq!(last.map(|(_, value)| value.as_os_str()), Some(OsStr::new("7")));
    }

    #[test]
    fn no_port_is_given_twice() {
        let (first, second) = (free_port().unwrap(), free_port().unwrap());
        assert_ne!(first, second);
    }
}
