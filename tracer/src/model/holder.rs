//! Where the thread is now that took a connection which did not come back, or the goroutine, and what
//! that says.
//!
//! May import the model only. Invariants: verdict and certainty do not depend on it; where a thread
//! may serve several requests at a time, in an event loop, in greenlets or in virtual threads,
//! nothing is said, and neither is anything that a stack without its outer end leaves open.

use super::{
    connection::Connection,
    event::{ConnId, Event, Frame, FrameKind, MonoNanos, Runtime, Stack, StackEvent, ThreadNow},
    finding::{Finding, Holder, Verdict, Whereabouts},
    stacks,
    tracker::Tracker,
};

/// Threads looked at for one report, and for one of its findings: those of the connections that are
/// silent for longest.
const MAX_HOLDERS: usize = 16;
const MAX_OF_FINDING: usize = 4;

/// What the thread of an event of a connection was seen to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub at: MonoNanos,
    pub of: StackEvent,
    pub uses: u64,
    pub tid: u32,
    pub goroutine: Option<u64>,
    pub now: ThreadNow,
}

impl Look {
    /// `None` of any other event.
    pub fn of(event: &Event) -> Option<Self> {
        let Event::Holder { at, of, uses, tid, goroutine, now, .. } = event else { return None };
        let now = match now {
            ThreadNow::Waiting { call, stack } => {
                ThreadNow::Waiting { call: call.clone(), stack: stacks::bounded(stack) }
            }
            ThreadNow::Running => ThreadNow::Running,
            ThreadNow::Ended => ThreadNow::Ended,
        };
        Some(Self { at: *at, of: *of, uses: *uses, tid: *tid, goroutine: *goroutine, now })
    }
}

/// In the files of event loops, and of libraries that switch stacks.
const LOOP_FILES: [&str; 11] = [
    "/asyncio/",
    "/trio/",
    "/curio/",
    "/twisted/internet/",
    "/gevent/",
    "/eventlet/",
    "/amphp/",
    "/revolt/",
    "/tokio-",
    "/async-executor-",
    "/async-std-",
];
/// The same in the names of functions, with those of their classes or modules.
const LOOP_FUNCTIONS: [&str; 13] = [
    "java.lang.VirtualThread",
    "jdk.internal.vm.Continuation",
    "io.netty.",
    "io.vertx.",
    "reactor.core.",
    "kotlinx.coroutines.",
    "tokio::runtime::",
    "::block_on",
    "async_executor::",
    "async_std::",
    "futures_executor::",
    "Future>::poll",
    "{async_",
];
/// What the outermost function of a thread is called in Python.
const PYTHON_ROOTS: [&str; 4] =
    ["<module>", "_bootstrap", "Thread._bootstrap", "_run_module_as_main"];

/// Stacks of the findings at `now` whose threads are worth a look, for a report: connection, event and
/// what the answer must carry as `uses`.
#[must_use]
pub fn wanted_holders(tracker: &Tracker, now: MonoNanos) -> Vec<(ConnId, StackEvent, u64)> {
    let of_finding = |finding: &Finding| {
        let asked = asked(tracker, finding);
        let conns = finding.connections.iter().filter_map(|id| tracker.connection(*id));
        let wanted = conns.filter_map(|conn| {
            let asked = asked?;
            taken_by(conn, asked).map(|_| (conn.id, asked.of, conn.current(asked.of)))
        });
        wanted.take(MAX_OF_FINDING).collect::<Vec<_>>()
    };
    tracker.findings(now).iter().flat_map(of_finding).take(MAX_HOLDERS).collect()
}

/// What is known of the threads that a finding's connections were taken by.
pub(super) fn of_finding(tracker: &Tracker, finding: &Finding) -> Vec<Holder> {
    let Some(asked) = asked(tracker, finding) else { return Vec::new() };
    let conns = finding.connections.iter().filter_map(|id| tracker.connection(*id));
    conns
        .filter_map(|conn| {
            let look = conn.look(asked.of)?;
            // A thread of Go serves whoever is next.
            if look.goroutine.is_some() != (asked.runtime == Runtime::Go) {
                return None;
            }
            let place = whereabouts(asked, taken_by(conn, asked)?, &look.now)?;
            let (call, stack) = match &look.now {
                ThreadNow::Waiting { call, stack } => (Some(call.clone()), Some(stack.clone())),
                ThreadNow::Ended | ThreadNow::Running => (None, None),
            };
            let Look { tid, goroutine, .. } = *look;
            Some(Holder { conn: conn.id, tid, goroutine, place, call, stack })
        })
        .collect()
}

/// What is asked about the threads of a finding: whose stacks of which event, and whether they are
/// still in this function.
#[derive(Clone, Copy)]
struct Asked<'a> {
    runtime: Runtime,
    of: StackEvent,
    blamed: &'a Frame,
}

/// The stack that took a connection, if it is of a thread that was with it alone.
fn taken_by<'a>(conn: &'a Connection, asked: Asked<'_>) -> Option<&'a Stack> {
    let took = conn.stack(asked.of)?;
    let is_loop = is_of_a_loop(took, Some(asked.blamed));
    (has(took, asked.blamed) && !is_loop).then_some(took)
}

fn asked<'a>(tracker: &Tracker, finding: &'a Finding) -> Option<Asked<'a>> {
    let is_held = matches!(finding.verdict, Verdict::Leak | Verdict::IdleInTransaction);
    let (of, blamed) = finding.blame.as_ref().filter(|_| is_held)?;
    // Whoever opened it may have given it to another.
    if *of == StackEvent::Open {
        return None;
    }
    // What is not recognised as a runtime is a native program.
    let runtime = tracker.process(finding.process)?.runtime().unwrap_or(Runtime::Native);
    let serves_one = matches!(
        runtime,
        Runtime::Python | Runtime::Php | Runtime::Java | Runtime::Go | Runtime::Native
    );
    serves_one.then_some(Asked { runtime, of: *of, blamed })
}

/// Where the thread is whose stack was `took` when it took the connection.
fn whereabouts(asked: Asked<'_>, took: &Stack, now: &ThreadNow) -> Option<Whereabouts> {
    let Asked { runtime, blamed, .. } = asked;
    // Of a goroutine it is known which one it was, however much of its stack was copied.
    let took_is_whole = runtime == Runtime::Go || is_whole(runtime, took);
    match now {
        ThreadNow::Ended => took_is_whole.then_some(Whereabouts::Ended),
        ThreadNow::Running => took_is_whole.then_some(Whereabouts::Running),
        ThreadNow::Waiting { stack, .. } => {
            let is_here = has(stack, blamed);
            let is_whole = is_whole(runtime, stack);
            if is_of_a_loop(stack, is_here.then_some(blamed)) {
                None
            } else if is_here {
                (is_whole || took_is_whole).then_some(Whereabouts::Here)
            } else {
                (is_whole && took_is_whole).then_some(Whereabouts::Left)
            }
        }
    }
}

/// The stack goes out to where a thread begins.
fn is_whole(runtime: Runtime, stack: &Stack) -> bool {
    let is_root = |frame: &Frame| {
        frame.symbol.as_ref().is_some_and(|symbol| PYTHON_ROOTS.contains(&symbol.function.as_str()))
    };
    stack.truncated.is_none()
        && (runtime != Runtime::Python || stack.frames.last().is_some_and(is_root))
}

fn same_function(frame: &Frame, other: &Frame) -> bool {
    let (Some(one), Some(two)) = (&frame.symbol, &other.symbol) else { return false };
    frame.kind == FrameKind::App && (&one.function, &one.file) == (&two.function, &two.file)
}

/// The function of this frame is on the stack.
fn has(stack: &Stack, blamed: &Frame) -> bool {
    stack.frames.iter().any(|frame| same_function(frame, blamed))
}

/// An event loop or the like is on the stack, outside of a frame where one is given: a driver may
/// have a loop of its own for each call.
fn is_of_a_loop(stack: &Stack, within: Option<&Frame>) -> bool {
    let from = within
        .and_then(|blamed| stack.frames.iter().position(|frame| same_function(frame, blamed)))
        .unwrap_or(0);
    let is_in = |text: &str, parts: &[&str]| parts.iter().any(|part| text.contains(part));
    stack.frames.iter().skip(from).filter_map(|frame| frame.symbol.as_ref()).any(|symbol| {
        is_in(&symbol.function, &LOOP_FUNCTIONS)
            || symbol.file.as_ref().is_some_and(|file| is_in(file, &LOOP_FILES))
    })
}
