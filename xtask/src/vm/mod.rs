//! `cargo xtask vm`: run a command under other kernels.
//!
//! Debian's kernels ([`kernel`]) boot into a minimal first file system ([`initramfs`]) that runs
//! one command from the host's root directory ([`run`]); its exit code decides. Machines run beside
//! each other as far as processors and memory allow.

mod initramfs;
mod kernel;
mod run;

use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context as _, Result, bail};
use xtask::{postgres, sh, workspace};

use self::kernel::{Kernel, SERIES};
use self::run::Machine;
use crate::build;
use crate::setup::{self, Group};
use crate::test;

/// Run a command under other kernels, in virtual machines
#[derive(clap::Args)]
pub struct Options {
    /// Which kernels, as a list with commas; `all` of them when not given
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    kernel: Vec<String>,
    /// Look for newer builds than those kept from before
    #[arg(long)]
    update: bool,
    /// Seconds that one machine may take, from its start to its end
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    limit: u64,
    /// Memory of one machine
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u64,
    /// The command; the short tests of the tracer when not given
    #[arg(last = true)]
    command: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { kernel: vec![], update: false, limit: 300, memory: 2048, command: vec![] }
    }
}

/// Runs the command under each kernel and fails unless it succeeds under all.
pub fn run(options: &Options) -> Result<()> {
    if env::consts::ARCH != "x86_64" {
        bail!("virtual machines are only prepared for x86-64");
    }
    setup::ensure(Group::Vm)?;
    let mut command = options.command.clone();
    if command.is_empty() {
        command = default_command()?;
    }
    let kernels = options.kernels()?;
    if !sh::is_root() {
        return again_as_root(options, &command);
    }
    // Made once: initdb takes nine seconds in an emulated machine. Not in /tmp, which is another
    // one there, nor below a home directory, which the user `postgres` may not enter.
    let prepared = tempfile::TempDir::with_prefix_in("connleak-vm-", "/var/tmp")
        .context("making a directory in /var/tmp")?;
    fs::set_permissions(prepared.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let data = prepared.path().join("data");
    postgres::prepare(&data)?;
    let jobs = jobs(kernels.len(), options.memory);
    let cpus = u32::try_from(processors() / jobs).unwrap_or(1).max(1);
    let tracer = workspace::root().join("tracer");
    let machine = Machine {
        memory_mib: options.memory,
        cpus,
        limit: Duration::from_secs(options.limit),
        command,
        environment: vec![
            (postgres::PREPARED_DATA.to_owned(), data.display().to_string()),
            (postgres::EMULATED.to_owned(), "1".to_owned()),
            (workspace::MANIFEST_DIR.to_owned(), tracer.display().to_string()),
            (workspace::TARGET_DIR.to_owned(), workspace::target().display().to_string()),
            ("RUST_BACKTRACE".to_owned(), "1".to_owned()),
        ],
        directory: tracer.display().to_string(),
    };
    let failed = run_all(&kernels, &machine, jobs);
    if !failed.is_empty() {
        bail!("failed under {}", failed.join(", "));
    }
    Ok(())
}

impl Options {
    /// Only the oldest and the newest.
    pub fn ends() -> Self {
        let ends = SERIES.first().into_iter().chain(SERIES.last());
        Self { kernel: ends.map(|series| series.name.to_owned()).collect(), ..Self::default() }
    }

    fn kernels(&self) -> Result<Vec<Kernel>> {
        let all = self.kernel.is_empty() || self.kernel.iter().any(|name| name == "all");
        let series = if all {
            SERIES.iter().collect()
        } else {
            self.kernel.iter().map(|name| kernel::series(name)).collect::<Result<Vec<_>>>()?
        };
        series.into_iter().map(|series| kernel::fetch(series, self.update)).collect()
    }
}

/// The tests whose names begin with `vm_`, which are short.
fn default_command() -> Result<Vec<String>> {
    setup::ensure(Group::Real)?;
    build::object()?;
    let tests = test::real_tests()?;
    let tests = tests.to_str().context("the checkout's path is not UTF-8")?.to_owned();
    Ok(vec![tests, "vm_".into(), "--test-threads=1".into()])
}

/// Everything is built and fetched by now, so this only boots: the root directory can only be
/// shared by root.
fn again_as_root(options: &Options, command: &[String]) -> Result<()> {
    let xtask = env::current_exe().context("our own path")?;
    let mut again =
        sh::elevated(&xtask).context("sharing the root directory with a machine needs root")?;
    again.arg("vm").args(["--limit", &options.limit.to_string()]);
    again.args(["--memory", &options.memory.to_string()]);
    if !options.kernel.is_empty() {
        again.args(["--kernel", &options.kernel.join(",")]);
    }
    sh::run(again.arg("--").args(command))
}

fn run_all(kernels: &[Kernel], machine: &Machine, jobs: usize) -> Vec<String> {
    let waiting = Mutex::new(kernels.iter().collect::<VecDeque<_>>());
    let failed = Mutex::new(Vec::new());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(kernel) = next() {
                    let start = Instant::now();
                    let result = run::run(kernel, machine);
                    let seconds = start.elapsed().as_secs_f64();
                    let verdict = match result {
                        Ok(0) => {
                            println!("vm: kernel {}: passed in {seconds:.0} s", kernel.version);
                            continue;
                        }
                        Ok(code) => format!("the command ended with {code}"),
                        Err(error) => format!("{error:#}"),
                    };
                    println!(
                        "vm: kernel {}: FAILED after {seconds:.0} s: {verdict}",
                        kernel.version
                    );
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.push(kernel.version.clone());
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// How many machines may run at once.
fn jobs(kernels: usize, memory_mib: u64) -> usize {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = available.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    // Half as much again for QEMU itself and what else goes on here.
    let room = available.unwrap_or(0) / 1024 / (memory_mib + memory_mib / 2).max(1);
    usize::try_from(room).unwrap_or(1).min(processors()).min(kernels).max(1)
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}
