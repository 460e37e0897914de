//! `connleak capture`: watch, then report.
//!
//! May import everything but the other commands.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    EXIT_FAILED,
    args::{CaptureArgs, servers},
    output::{create, write_report},
};
use crate::{
    host::{clock, facts},
    model::{Event, Settings, Tracker, duration},
    pools::Catalogue,
    record::Writer,
    report::{CaptureHeader, Ending, Report, exit_code},
    session::{Options, Session, Sink, Targets},
};

/// Threshold above which stacks are resolved at the latest, so that a process that ends or moves
/// its objects afterwards still gives names.
const MAX_SOFT_THRESHOLD: u64 = 1_000_000_000;

/// Level of the kernel side's diagnostics with `-vv` (aya-log: debug).
const KERNEL_LOG_LEVEL: u8 = 4;

/// Where the events go besides the model.
struct Recording(Option<Writer<BufWriter<File>>>);

impl Sink for Recording {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), |writer| writer.event(event))
    }
}

/// Runs it.
///
/// # Errors
///
/// When it cannot run here, or not with these arguments; nothing is left attached.
pub fn run(args: &CaptureArgs, verbose: u8) -> anyhow::Result<u8> {
    let catalogue = Catalogue::with_files(&args.pool)?;
    let variable = |name: &str| std::env::var(name).ok();
    let servers = servers(&args.server, variable).map_err(|error| anyhow!(error))?;
    let facts = facts::probe();
    if let Err(problems) = facts::decide(&facts) {
        for problem in &problems {
            eprintln!("connleak: {problem}");
        }
        return Ok(EXIT_FAILED);
    }
    let mut offsets = facts.offsets.clone().map_err(|error| anyhow!(error))?;
    if args.by_calls {
        offsets.socket_hooks = 0;
    }
    let threshold = u64::try_from(args.threshold.as_nanos())?;
    let options = Options {
        ports: args.ports().map_err(|error| anyhow!(error))?,
        any_unix_port: args.port.is_empty(),
        targets: Targets::new(
            args.pid.iter().copied().collect::<BTreeSet<_>>(),
            args.name.clone(),
            args.container.clone(),
        ),
        settings: settings(threshold),
        bounds: args.bound.iter().copied().collect(),
        servers,
        log_level: if verbose > 1 { KERNEL_LOG_LEVEL } else { 0 },
    };
    let started_at = clock::now();
    let header = CaptureHeader {
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: hostname(),
        kernel: Some(facts.kernel.clone()),
        started_unix_ms: facts.anchor.unix_ms(started_at),
        started_at,
        threshold,
        target: target(args, &options.ports),
        coverage: facts::losses(&facts),
    };
    let writer = match &args.record {
        Some(path) => Some(
            Writer::new(create(path)?, &header)
                .with_context(|| format!("cannot write {}", path.display()))?,
        ),
        None => None,
    };
    raise_limits();
    // The report's file is opened before the wait, so that a wrong path is told at once.
    let output = super::output::open(&args.output)?;
    let mut recording = Recording(writer);
    let stop = on_signal().context("cannot listen for signals")?;
    let mut session = Session::start(options, offsets, catalogue, &mut recording)?;
    let until = Instant::now() + args.duration;
    announce(args, &header, session.tracker());
    let mut progress = Progress::new(until, threshold);
    session.watch(until, stop.as_fd(), &mut recording, &mut |tracker| progress.show(tracker))?;
    progress.end();
    session.finish(&mut recording)?;
    let ending =
        Ending { at: session.tracker().now(), coverage: session.coverage(), incomplete: None };
    if let Some(writer) = recording.0.take() {
        writer.finish(ending.at, &ending.coverage).context("cannot write the recording")?;
    }
    let report = Report::build(session.tracker(), &header, &ending);
    if verbose > 0 {
        programs(&mut session);
    }
    write_report(&report, &args.output, output)?;
    Ok(exit_code(&report))
}

/// The model's settings for a threshold in nanoseconds.
pub fn settings(threshold: u64) -> Settings {
    Settings { threshold, soft_threshold: (threshold / 10).min(MAX_SOFT_THRESHOLD) }
}

/// Files of traced programs and probes take descriptors, and kernels before 5.11 count maps as
/// locked memory: takes what may be taken. What is still too little is told by what fails.
fn raise_limits() {
    for resource in [Resource::Nofile, Resource::Memlock] {
        let limit = getrlimit(resource);
        let unlimited = Rlimit { current: None, maximum: None };
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if resource != Resource::Memlock || setrlimit(resource, unlimited).is_err() {
            let _kept = setrlimit(resource, raised);
        }
    }
}

/// A descriptor that becomes readable at Ctrl-C or termination.
fn on_signal() -> io::Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair()?;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(receiver)
}

fn hostname() -> Option<String> {
    Some(rustix::system::uname().nodename().to_string_lossy().into_owned())
}

/// What is watched, in words.
fn target(args: &CaptureArgs, ports: &[u16]) -> String {
    let list = |what: &str, items: Vec<String>| {
        (!items.is_empty()).then(|| format!("{what} {}", items.join(", ")))
    };
    let parts: Vec<String> = [
        list("pid", args.pid.iter().map(u32::to_string).collect()),
        list("name", args.name.clone()),
        list("container", args.container.clone()),
    ]
    .into_iter()
    .flatten()
    .collect();
    let who = if parts.is_empty() { "everything".to_owned() } else { parts.join("; ") };
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let unix = if args.port.is_empty() { " and Unix sockets" } else { "" };
    format!("{who} that talks to PostgreSQL on port {}{unix}", ports.join(", "))
}

fn announce(args: &CaptureArgs, header: &CaptureHeader, tracker: &Tracker) {
    let existing = tracker.live().count();
    eprintln!(
        "connleak: watching {} for {}; {existing} connection{} there already",
        super::output::printable(&header.target),
        duration(u64::try_from(args.duration.as_nanos()).unwrap_or(u64::MAX)),
        if existing == 1 { " is" } else { "s are" },
    );
}

/// A line on the terminal that says how far it is.
struct Progress {
    shown: Option<Instant>,
    until: Instant,
    threshold: u64,
    on: bool,
}

impl Progress {
    fn new(until: Instant, threshold: u64) -> Self {
        Self { shown: None, until, threshold, on: io::stderr().is_terminal() }
    }

    fn show(&mut self, tracker: &Tracker) {
        let now = Instant::now();
        if !self.on || self.shown.is_some_and(|at| now - at < Duration::from_secs(1)) {
            return;
        }
        self.shown = Some(now);
        let (mut live, mut silent) = (0, 0);
        for conn in tracker.live() {
            live += 1;
            silent += u64::from(conn.silence(tracker.now()) >= self.threshold);
        }
        let left = self.until.saturating_duration_since(now).as_secs();
        eprint!(
            "\r\x1b[Kconnleak: {left} s left, {live} connections, {silent} silent (Ctrl-C: report now)"
        );
        // The line is only for the eye.
        let _gone = io::stderr().flush();
    }

    fn end(&mut self) {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

/// What the kernel side cost, where the kernel keeps count.
fn programs(session: &mut Session) {
    for (name, runs, nanos) in session.statistics() {
        if let Some(each) = nanos.checked_div(runs) {
            eprintln!("connleak: program {name}: {runs} runs, {each} ns each");
        }
    }
}
