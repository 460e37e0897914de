//! What can be typed.
//!
//! May import `clap`, the contract's limits, the loader's bounds and the URLs of servers.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracer_ebpf::limits::MAX_PORTS;

use crate::loader::Bound;
use crate::server::Target;

/// Servers asked at once.
const MAX_SERVERS: usize = 16;

/// Which line of whose code took the PostgreSQL connections that never came back.
///
/// Watches running processes from outside with eBPF: no restart, no code change, nothing is killed
/// or written into.
#[derive(Debug, Parser)]
#[command(
    name = "connleak",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 nothing found, 1 findings, 2 could not run or incomplete."
)]
pub struct Cli {
    /// Say more on stderr; twice: also the kernel side's diagnostics.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch for a while and report connections held and silent (one shot).
    Capture(CaptureArgs),
    /// Render a recording made with `capture --record`.
    Report(ReportArgs),
    /// Show which pools a process or file has, what can be probed, and what cannot and why.
    Probes(ProbesArgs),
    /// Check kernel, BTF and rights, try every hook, and say what is lost without the rest.
    Doctor(DoctorArgs),
}

/// Form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// When to colour text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    Always,
    Never,
}

/// Where a report goes, and how.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Form of the report.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Write the report to this file instead of the standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Colour the text.
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
}

/// `connleak capture`
#[derive(Debug, Args)]
pub struct CaptureArgs {
    /// Watch this process and its children (repeatable). Default: everything that talks to
    /// PostgreSQL.
    #[arg(long, value_name = "PID")]
    pub pid: Vec<u32>,
    /// Watch processes of this name, or with an executable of this name (repeatable).
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,
    /// Watch processes of containers whose id begins so (repeatable).
    #[arg(long, value_name = "ID", value_parser = container_id)]
    pub container: Vec<String>,
    /// TCP port of a PostgreSQL server or pooler (repeatable). Default: 5432 and 6432, and Unix
    /// sockets of any port.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Vec<u16>,
    /// Held and silent for this long is a finding.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub threshold: Duration,
    /// Watch for this long; Ctrl-C ends earlier, with the full report.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub duration: Duration,
    /// Ask this server too what it says of its sessions, read-only (repeatable):
    /// postgresql://user@host:5432/database, or a PgBouncer's console. Default: those in
    /// CONNLEAK_SERVER. Passwords come from PGPASSWORD, ~/.pgpass (PGPASSFILE) or CONNLEAK_SERVER.
    #[arg(long, value_name = "URL")]
    pub server: Vec<String>,
    /// Keep the stream of events in this file, to be rendered again with `connleak report`.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Pool descriptions of your own, beside the built-in ones (repeatable).
    #[arg(long, value_name = "FILE")]
    pub pool: Vec<PathBuf>,
    /// Keep less than usual, to try what is said of losses (repeatable).
    #[arg(long, value_name = "NAME=NUMBER", hide = true)]
    pub bound: Vec<Bound>,
    /// Watch system calls, as if the kernel had no hooks on sockets: to try what is done without them.
    #[arg(long, hide = true)]
    pub by_calls: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `connleak report`
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// A recording made with `connleak capture --record`.
    pub file: PathBuf,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `connleak probes`
#[derive(Debug, Args)]
pub struct ProbesArgs {
    /// Look at this process. Default: every process with a known pool or driver.
    #[arg(long, value_name = "PID", conflicts_with = "file")]
    pub pid: Option<u32>,
    /// Look at this executable or library.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Pool descriptions of your own, beside the built-in ones (repeatable).
    #[arg(long, value_name = "FILE")]
    pub pool: Vec<PathBuf>,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// `connleak doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Form of the output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

impl CaptureArgs {
    /// The ports to watch; an error when there are too many.
    ///
    /// # Errors
    ///
    /// A sentence.
    pub fn ports(&self) -> Result<Vec<u16>, String> {
        if self.port.is_empty() {
            return Ok(vec![5432, 6432]);
        }
        let mut ports = self.port.clone();
        ports.sort_unstable();
        ports.dedup();
        if ports.len() > MAX_PORTS {
            return Err(format!(
                "{} ports are too many: at most {MAX_PORTS} can be watched at once",
                ports.len()
            ));
        }
        Ok(ports)
    }
}

/// The servers to ask: those of the command line, or else of the variable `CONNLEAK_SERVER`.
///
/// # Errors
///
/// A sentence that repeats nothing of a URL.
pub fn servers(
    typed: &[String],
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Target>, String> {
    if typed.iter().any(|url| Target::has_password(url)) {
        return Err(
            "a password on the command line can be read by everyone on this host: leave it \
            out of --server, and use PGPASSWORD, ~/.pgpass (PGPASSFILE), or put the whole URL into \
            the variable CONNLEAK_SERVER"
                .to_owned(),
        );
    }
    let set = variable("CONNLEAK_SERVER").unwrap_or_default();
    let (from, urls): (_, Vec<&str>) = if typed.is_empty() {
        ("CONNLEAK_SERVER", set.split_whitespace().collect())
    } else {
        ("--server", typed.iter().map(String::as_str).collect())
    };
    if urls.len() > MAX_SERVERS {
        return Err(format!("{from} names more than {MAX_SERVERS} servers"));
    }
    urls.into_iter()
        .map(|url| Target::parse(url, &variable).map_err(|error| format!("{from}: {error}")))
        .collect()
}

fn container_id(text: &str) -> Result<String, String> {
    let hex = text.len() >= 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hex {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("a container id has hex digits, four or more".to_owned())
    }
}

/// A number with a unit: `500ms`, `30s`, `2m`, `1h`; without one, seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "use a number and a unit: 500ms, 30s, 2m or 1h".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    let millis = number.checked_mul(millis).ok_or_else(wrong)?;
    if millis == 0 || millis > 30 * 24 * 3_600_000 {
        return Err("use more than nothing and at most 720h".to_owned());
    }
    Ok(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "0s", "1d", "-1s", "1.5s", "99999999999999999999h", "721h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
