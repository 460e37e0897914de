//! A live capture: wires kernel side, host, symbolizer and model together over one loop.
//!
//! May import everything but `cli`. Holds no rules: what is a finding is the model's to say, what
//! it looks like the report's. Invariant: every event goes to the sink and the model, in the same
//! order, so a recording replays to the same report.

mod costs;
mod error;
mod holders;
mod looks;
mod programs;
mod servers;
mod standby;
mod targets;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracer_ebpf::config::{Config, Offsets};

use self::{costs::Meter, holders::Threads, looks::Look, servers::Servers};
pub use self::{
    error::SessionError,
    programs::{ProbeStatus, Programs},
    targets::Targets,
};
use crate::{
    host::{clock, proc::ProcFs},
    ingest::{Ingest, raw_stack},
    loader::{Bounds, CopiedStack, Kernel, Watching},
    model::{ConnId, Connection, Event, MonoNanos, Runtime, Settings, StackEvent, Tracker},
    pools::Catalogue,
    server::Target,
    symbolize::Symbolizer,
};

/// Time between two looks at the kernel's maps.
const TICK: Duration = Duration::from_millis(250);

/// Stacks of the latest uses resolved per tick: for the statistics of paths, and because a runtime
/// may have moved what they refer to by the time that a connection is silent for long.
const SAMPLES_PER_TICK: usize = 16;

/// Stacks of silent connections resolved per tick; the rest follows at the next ticks.
const RESOLVED_PER_TICK: usize = 256;

/// The same while stack slots are short, and as many stacks of opens.
const RESOLVED_WHEN_SHORT: usize = 2_048;

/// Ticks between two looks for what the hooks attached do not see.
const TICKS_PER_LOOK: u32 = 4;

/// Ticks between two checks that silent connections are still what they were.
const TICKS_PER_CHECK: u32 = 40;

/// What to watch.
pub struct Options {
    /// TCP ports, at most `MAX_PORTS`.
    pub ports: Vec<u16>,
    /// Unix sockets of any port.
    pub any_unix_port: bool,
    pub targets: Targets,
    pub settings: Settings,
    pub bounds: Bounds,
    /// Servers to ask for their side.
    pub servers: Vec<Target>,
    /// Level of the kernel side's diagnostics; 0 is off.
    pub log_level: u8,
}

/// Takes events as they come.
pub trait Sink {
    /// # Errors
    ///
    /// When the event cannot be kept.
    fn event(&mut self, event: &Event) -> io::Result<()>;
}

/// A running capture.
pub struct Session {
    proc: ProcFs,
    ingest: Ingest,
    tracker: Tracker,
    symbolizer: Symbolizer,
    programs: Programs,
    targets: Targets,
    ports: Vec<u16>,
    any_unix_port: bool,
    settings: Settings,
    servers: Servers,
    /// Connections whose stack of an event could not be had, so that it is not tried again.
    given_up: HashSet<(ConnId, StackEvent, u64)>,
    threads: Threads,
    /// Processes that had connections.
    seen: BTreeMap<u32, Look>,
    ended: BTreeSet<u32>,
    ticks: u32,
    /// When unread bytes were last asked for.
    looked_at: MonoNanos,
    pending: Vec<Event>,
    coverage: Vec<String>,
    meter: Meter,
    /// By which hooks.
    watching: Watching,
    /// The kernel has hooks on sockets.
    by_socket: bool,
    /// A process was seen that the hooks on sockets do not suffice for.
    calls_needed: bool,
    /// The tick after which no program was started.
    started: u32,
    /// Checks in a row that found nothing to watch.
    idle_checks: u32,
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

impl Session {
    /// Loads, attaches, lists what exists and looks at the processes: watches when it returns.
    ///
    /// # Errors
    ///
    /// See [`SessionError`]; nothing is left attached.
    pub fn start(
        options: Options,
        offsets: Offsets,
        catalogue: Catalogue,
        sink: &mut dyn Sink,
    ) -> Result<Self, SessionError> {
        let proc = ProcFs::at("/proc");
        // They answer while the rest is made ready.
        let servers = Servers::start(options.servers);
        let targets = options.targets;
        let mut ports = [0; tracer_ebpf::limits::MAX_PORTS];
        for (slot, port) in ports.iter_mut().zip(&options.ports) {
            *slot = *port;
        }
        let programs = Programs::new(catalogue)?;
        let config = Config {
            ports,
            only_marked: u32::from(!targets.everything()),
            any_unix_port: u32::from(options.any_unix_port),
            own_tgid: std::process::id(),
            _pad: 0,
            marked_pools: programs.marked_pools(),
            off: offsets,
        };
        let mut kernel = Kernel::load(config, programs.specs(), options.bounds, options.log_level)?;
        let log = if options.log_level > 0 { Some(kernel.take_log()?) } else { None };
        let by_socket = offsets.socket_hooks != 0;
        kernel.attach(by_socket)?;
        let ingest = Ingest::new(kernel, programs.pool_names())?;
        let mut session = Self {
            proc,
            ingest,
            tracker: Tracker::new(options.settings),
            symbolizer: Symbolizer::new(),
            programs,
            targets,
            ports: options.ports,
            any_unix_port: options.any_unix_port,
            settings: options.settings,
            servers,
            given_up: HashSet::new(),
            threads: Threads::default(),
            seen: BTreeMap::new(),
            ended: BTreeSet::new(),
            ticks: 0,
            looked_at: MonoNanos(0),
            pending: Vec::new(),
            coverage: Vec::new(),
            meter: Meter::default(),
            watching: Watching::Nothing,
            by_socket,
            calls_needed: false,
            started: 0,
            idle_checks: 0,
            log,
        };
        session.begin(sink)?;
        Ok(session)
    }

    /// Marks the targets and attaches probes to what runs; then watches, or stands by where there
    /// is nothing to watch.
    fn begin(&mut self, sink: &mut dyn Sink) -> Result<(), SessionError> {
        let running = self.running()?;
        for pid in self.targets.pids() {
            if !running.contains(pid) {
                return Err(SessionError::NoProcess(*pid));
            }
        }
        let watched: BTreeSet<u32> =
            running.into_iter().filter(|pid| self.targets.matches(&self.proc, *pid)).collect();
        if !self.targets.everything() {
            for pid in &watched {
                self.targets.mark(self.ingest.kernel(), *pid);
            }
        }
        for pid in &watched {
            self.look_at_executable(*pid);
            self.look_for_marks(*pid);
        }
        let watching = self.first_watching(&watched);
        self.watch_by(watching, sink)?;
        self.tick(sink)
    }

    /// Processes that run, without this one.
    fn running(&self) -> Result<Vec<u32>, SessionError> {
        let pids = self.proc.pids().map_err(|error| SessionError::Proc(error.to_string()))?;
        Ok(pids.into_iter().map(|pid| pid.0).filter(|pid| *pid != std::process::id()).collect())
    }

    /// The events' state so far.
    #[must_use]
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// What could not be seen, in words.
    #[must_use]
    pub fn coverage(&self) -> Vec<String> {
        let mut lines = self.coverage.clone();
        lines.extend(self.programs.notes());
        lines.extend(self.servers.notes());
        lines
    }

    /// Tells once what could not be seen.
    fn note(&mut self, line: String) {
        if !self.coverage.contains(&line) {
            self.coverage.push(line);
        }
    }

    /// Run-time statistics of the programs, where the kernel keeps them.
    #[must_use]
    pub fn statistics(&mut self) -> Vec<(String, u64, u64)> {
        self.ingest.kernel().statistics()
    }

    /// Watches until `until`, or until `stop` becomes readable, or until the watched processes have
    /// all ended. `progress` is called at each tick.
    ///
    /// # Errors
    ///
    /// When the sink fails.
    pub fn watch(
        &mut self,
        until: Instant,
        stop: BorrowedFd<'_>,
        sink: &mut dyn Sink,
        progress: &mut dyn FnMut(&Tracker),
    ) -> Result<(), SessionError> {
        let mut next_tick = Instant::now() + TICK;
        loop {
            let now = Instant::now();
            if now >= until || self.targets_ended() {
                return Ok(());
            }
            if now >= next_tick {
                self.tick(sink)?;
                progress(&self.tracker);
                next_tick = now + TICK;
                continue;
            }
            let wait = next_tick.min(until).saturating_duration_since(now);
            let (ring_ready, stopped) = self.wait(stop, wait)?;
            if stopped {
                return Ok(());
            }
            if ring_ready {
                self.drain(sink)?;
                if self.ingest.is_bursting() {
                    next_tick = Instant::now();
                }
            }
        }
    }

    fn wait(&self, stop: BorrowedFd<'_>, timeout: Duration) -> Result<(bool, bool), SessionError> {
        let timeout = Timespec::try_from(timeout).map_err(|_| SessionError::Clock)?;
        let mut fds = [
            PollFd::from_borrowed_fd(self.ingest.ring_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
        ];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => Ok((!fds[0].revents().is_empty(), !fds[1].revents().is_empty())),
            Err(rustix::io::Errno::INTR) => Ok((false, false)),
            Err(error) => Err(SessionError::Wait(error.into())),
        }
    }

    /// Takes in the last events, checks the silent connections once more, lets time pass and looks
    /// at the threads that hold what did not come back.
    ///
    /// # Errors
    ///
    /// When the sink fails.
    pub fn finish(&mut self, sink: &mut dyn Sink) -> Result<(), SessionError> {
        self.ask_servers_last();
        self.verify(sink)?;
        // However short the time since the last one was.
        self.looked_at = MonoNanos(0);
        self.tick(sink)?;
        self.look_at_holders(sink)?;
        let statistics = self.statistics();
        let costs = self.meter.costs(&self.proc, &statistics);
        self.pending.push(Event::Costs { at: clock::now(), costs });
        self.flush(sink)
    }

    fn targets_ended(&self) -> bool {
        self.targets.only_pids() && self.targets.pids().is_subset(&self.ended)
    }

    fn drain(&mut self, sink: &mut dyn Sink) -> Result<(), SessionError> {
        let mut notices = Vec::new();
        self.ingest.drain(&self.proc, &mut self.pending, &mut notices);
        let due = self.act(notices);
        self.flush(sink)?;
        if due && self.watching != Watching::Calls { self.wake_up(sink) } else { Ok(()) }
    }

    fn tick(&mut self, sink: &mut dyn Sink) -> Result<(), SessionError> {
        self.drain(sink)?;
        self.look_again();
        let at = clock::now();
        self.ingest.scan(at, &mut self.pending);
        for pid in self.ingest.unsure() {
            self.note(format!(
                "checkouts of process {pid} are inferred: its pool gave a connection out that was \
                 out, so some releases are not seen"
            ));
        }
        self.flush(sink)?;
        self.resolve(at, sink)?;
        self.look_for_unread(sink)?;
        self.look_at_servers(sink)?;
        self.ticks += 1;
        if self.ticks.is_multiple_of(TICKS_PER_CHECK) {
            self.verify(sink)?;
            self.stand_by()?;
        }
        if self.ticks.is_multiple_of(TICKS_PER_LOOK) {
            self.look_for_more(sink)?;
        }
        if let Some(log) = &mut self.log {
            log.flush();
        }
        self.pending.push(Event::Tick { at });
        self.flush(sink)
    }

    /// Resolves the stacks of connections that went silent, and samples those in use. What is
    /// resolved is in the model, so its slot serves another connection.
    fn resolve(&mut self, at: MonoNanos, sink: &mut dyn Sink) -> Result<(), SessionError> {
        let short = self.ingest.is_short_of_stacks();
        let limit = if short { RESOLVED_WHEN_SHORT } else { RESOLVED_PER_TICK };
        let wanted: Vec<(ConnId, StackEvent, u64)> = self
            .tracker
            .wanted_stacks(at)
            .into_iter()
            .filter(|wanted| !self.given_up.contains(wanted))
            .take(limit)
            .collect();
        let mut processes = BTreeSet::new();
        for (conn, of, uses) in wanted {
            if let Some(copied) = self.take_stack(at, conn, of, uses) {
                processes.insert(copied.header.tgid);
                self.ingest.retire_stack(conn, &copied);
            }
            if of == StackEvent::Acquire {
                self.pending.extend(self.ingest.pool_size(at, conn, &self.proc));
            }
        }
        if short {
            for conn in self.ingest.with_open_stacks(limit) {
                if let Some(copied) = self.take_stack(at, conn, StackEvent::Open, 0) {
                    processes.insert(copied.header.tgid);
                    self.ingest.retire_stack(conn, &copied);
                }
            }
        }
        // Their connections may be in use and will need their slots again.
        for (conn, uses) in self.ingest.sample(SAMPLES_PER_TICK) {
            let copied = self.take_stack(at, conn, StackEvent::LastUse, uses);
            processes.extend(copied.map(|copied| copied.header.tgid));
        }
        // Slow, so not before any stack: what it refers to may be moved in the meantime.
        for pid in processes {
            self.look_at_scripts(pid);
        }
        self.flush(sink)
    }

    /// Resolves one stack for the model; `None` when it cannot be had any more.
    fn take_stack(
        &mut self,
        at: MonoNanos,
        conn: ConnId,
        of: StackEvent,
        uses: u64,
    ) -> Option<CopiedStack> {
        let Some(copied) = self.ingest.stack(conn, of, uses) else {
            // Overwritten by a later use, or never taken.
            if self.given_up.len() >= tracer_ebpf::limits::MAX_CONNECTIONS as usize {
                self.given_up.clear();
            }
            self.given_up.insert((conn, of, uses));
            return None;
        };
        if let Some(text) = copied.mark() {
            let stack = self.symbolizer.marked(copied.header.tgid, text);
            self.pending.push(Event::Stack { at, conn, of, uses, stack });
            return Some(copied);
        }
        self.threads.keep(conn, of, uses, &copied);
        let raw = raw_stack(&copied);
        let begin = clock::now();
        let resolved = self.symbolizer.resolve(&raw);
        self.meter.named(raw.pid, self.runtime_of(conn), begin);
        if resolved.cut && copied.full {
            self.ingest.raise_stack_class(raw.pid);
        }
        self.pending.push(Event::Stack { at, conn, of, uses, stack: resolved.stack });
        Some(copied)
    }

    /// The runtime of the process that answers for a connection.
    fn runtime_of(&self, conn: ConnId) -> Option<Runtime> {
        let owner = self.tracker.connection(conn)?.owner;
        self.tracker.process(owner)?.runtime()
    }

    /// Asks what waits unread on connections that are silent although the server owes an answer:
    /// whether it works, or nobody reads.
    fn look_for_unread(&mut self, sink: &mut dyn Sink) -> Result<(), SessionError> {
        // Before the kernel counts: what is received after that may have been among it.
        let at = clock::now();
        if at.since(self.looked_at) < self.settings.soft_threshold {
            return Ok(());
        }
        let wanted = self.tracker.wanted_looks(at);
        if wanted.is_empty() {
            return Ok(());
        }
        self.looked_at = at;
        let (queued, not_asked) = self.ingest.unread(&wanted, &self.proc);
        for (conn, bytes) in queued {
            let known = self.tracker.connection(conn).and_then(Connection::unread);
            if bytes > 0 || known.is_some() {
                self.pending.push(Event::Unread { at, conn, bytes });
            }
        }
        for unread in not_asked {
            self.note(format!(
                "whether an answer waits unread is not known in network namespace {}: {}",
                unread.netns, unread.reason
            ));
        }
        self.flush(sink)
    }

    /// Checks that silent connections still are what they were.
    fn verify(&mut self, sink: &mut dyn Sink) -> Result<(), SessionError> {
        let at = clock::now();
        let silent: Vec<ConnId> = self
            .tracker
            .live()
            .filter(|conn| conn.silence(at) >= self.settings.threshold)
            .map(|conn| conn.id)
            .collect();
        self.ingest.verify(&silent, &self.proc, at, &mut self.pending);
        self.flush(sink)
    }

    fn flush(&mut self, sink: &mut dyn Sink) -> Result<(), SessionError> {
        for event in self.pending.drain(..) {
            sink.event(&event).map_err(SessionError::Sink)?;
            self.tracker.apply(&event);
        }
        Ok(())
    }
}
