//! The report as text for a terminal: 80 columns, the first screen ends the incident.
//!
//! May import the report and `model::duration`. Invariants: strings of traced processes pass
//! through [`escape`](super::escape) and never begin a line; colour only when asked for, and only
//! around our own words.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::{
    BlameRow, CostsRow, FindingRow, FrameRow, HolderRow, Millis, ProcessRow, Report, ServerRow,
    StackRow, WaitsRow,
    escape::{cut_middle, escape, width},
};
use crate::model::{Certainty, FrameKind, Generated, StackEvent, Verdict, Whereabouts, duration};

/// Columns of the page.
const COLUMNS: usize = 80;
/// Columns of the labels at the left.
const LABEL: usize = 15;
/// Callers shown under the blame line.
const CALLERS: usize = 4;
/// Places shown where threads are.
const PLACES: usize = 4;
/// Frames of the runtime in a row that are told by number.
const MIN_FOLDED: usize = 3;

/// How text is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextOptions {
    /// With ANSI colours.
    pub color: bool,
    /// With whole stacks.
    pub stacks: bool,
}

/// Writes the report.
///
/// # Errors
///
/// Those of `out`.
pub fn write_text(
    report: &Report,
    options: TextOptions,
    out: &mut dyn io::Write,
) -> io::Result<()> {
    let mut page = Page { out, color: options.color };
    let faults: Vec<_> =
        report.findings.iter().filter(|finding| finding.verdict.is_fault()).collect();
    if faults.is_empty() {
        page.nothing_found(report)?;
    }
    for finding in &report.findings {
        if !report.findings.iter().any(|main| folds(main, finding)) {
            page.finding(report, finding, options)?;
        }
    }
    page.watched(report)?;
    page.losses(report)
}

struct Page<'a> {
    out: &'a mut dyn io::Write,
    color: bool,
}

impl Page<'_> {
    /// Our own words in a colour.
    fn paint(&self, text: &str, code: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A label and one line of text, cut in the middle where it is too long.
    fn line(&mut self, label: &str, text: &str) -> io::Result<()> {
        let text = cut_middle(&escape(text), COLUMNS - LABEL);
        writeln!(self.out, "{}{text}", self.label(label))
    }

    fn label(&self, label: &str) -> String {
        let padding = " ".repeat(LABEL.saturating_sub(2 + width(label)));
        format!("  {}{padding}", self.paint(label, "2"))
    }

    /// A label and a paragraph. Only for our own sentences.
    fn paragraph(&mut self, label: &str, text: &str) -> io::Result<()> {
        let mut label = label;
        for line in wrap(&escape(text), COLUMNS - LABEL) {
            writeln!(self.out, "{}{line}", self.label(label))?;
            label = "";
        }
        Ok(())
    }

    fn finding(
        &mut self,
        report: &Report,
        finding: &FindingRow,
        options: TextOptions,
    ) -> io::Result<()> {
        let title = title(finding);
        let certainty = format!("[{}]", finding.certainty.words());
        let gap = " ".repeat(COLUMNS.saturating_sub(width(&title) + width(&certainty)).max(1));
        let code = match (finding.verdict.is_fault(), finding.certainty) {
            (false, _) => "36",
            (true, Certainty::Suspected) => "33;1",
            (true, _) => "31;1",
        };
        writeln!(self.out, "{}{gap}{certainty}", self.paint(&title, code))?;
        let small = finding.verdict == Verdict::PoolTooSmall;
        if !small {
            self.blame(finding)?;
        }
        let process = report.processes.iter().find(|process| process.pid == finding.pid);
        self.line("process", &process_words(finding, process))?;
        if let Some(server) = server_words(finding) {
            self.line("server", &server)?;
        }
        if let Some(pool) = &finding.pool {
            self.line("pool", pool)?;
        }
        if let Some(held) = finding.held_ms {
            self.line("held for", &span_words(held))?;
        }
        if !small {
            self.line("silent for", &span_words(finding.silent_ms))?;
        }
        if let Some(waiting) = finding.waits.as_ref().and_then(waiting_words) {
            self.line("waiting", &waiting)?;
        }
        if let Some(growth) = finding.growth_per_minute {
            let left = finding.server_exhausted_in_ms.map_or_else(String::new, |millis| {
                let left = duration(millis.saturating_mul(1_000_000));
                format!("; at this rate the server has none left in {left}")
            });
            self.line("growing", &format!("{growth:.1} a minute{left}"))?;
        }
        if let Some((max, exhausted)) = finding.pool_max.zip(finding.exhausted_in_ms) {
            let left = duration(exhausted.saturating_mul(1_000_000));
            self.line("", &format!("at this pace the pool of {max} is empty in {left}"))?;
        }
        if let Some(statement) = &finding.last_statement {
            self.line("last query", statement)?;
        }
        let mut label = "why";
        for sentence in &finding.evidence {
            self.paragraph(label, sentence)?;
            label = "";
        }
        self.paragraph("what to do", &finding.hint)?;
        let folded: Vec<_> = report.findings.iter().filter(|other| folds(finding, other)).collect();
        if !folded.is_empty() && is_main(report, finding) {
            self.paragraph("also", &folded_words(&folded))?;
        }
        if options.stacks {
            for stack in &finding.stacks {
                self.stack(stack)?;
            }
        }
        writeln!(self.out)
    }

    /// The line at fault and its callers.
    fn blame(&mut self, finding: &FindingRow) -> io::Result<()> {
        let Some(blame) = &finding.blame else {
            self.line("code", "unknown: no application frame on a stack")?;
            let why = finding.stacks.iter().find_map(|stack| stack.truncated.as_deref());
            return why.map_or(Ok(()), |why| self.paragraph("", why));
        };
        let label = match blame.event {
            StackEvent::Acquire => "taken by",
            StackEvent::LastUse => "last used by",
            StackEvent::Open => "opened by",
            StackEvent::Begin => "begun by",
        };
        let function = self.paint_name(&blame.function);
        writeln!(self.out, "{}{function}", self.label(label))?;
        self.line("at", &place(blame))?;
        let stack = stack_of(finding, blame.event);
        let mut label = "called from";
        for frame in stack.into_iter().flat_map(|stack| callers(stack, blame)).take(CALLERS) {
            self.line(label, &frame_words(frame))?;
            label = "";
        }
        if blame.event == StackEvent::Begin
            && let Some(last) = stack_of(finding, StackEvent::LastUse)
            && let Some(frame) = last.frames.iter().find(|frame| frame.kind == FrameKind::App)
        {
            self.line("last used by", &frame_words(frame))?;
        }
        self.holders(finding)
    }

    /// Where the threads or goroutines are that took the connections: in that function, or nobody is
    /// any more.
    fn holders(&mut self, finding: &FindingRow) -> io::Result<()> {
        let Some(blame) = &finding.blame else { return Ok(()) };
        // Threads that are at the same place are told once.
        let mut groups: Vec<(&HolderRow, BTreeSet<u64>)> = Vec::new();
        for holder in &finding.holders {
            let is_same = |known: &&HolderRow| {
                let frames = |row: &HolderRow| row.stack.as_ref().map(|stack| stack.frames.clone());
                (known.place, &known.call) == (holder.place, &holder.call)
                    && frames(known) == frames(holder)
            };
            match groups.iter_mut().find(|(known, _)| is_same(known)) {
                Some((_, numbers)) => drop(numbers.insert(number_of(holder))),
                None => groups.push((holder, BTreeSet::from([number_of(holder)]))),
            }
        }
        groups.sort_by_key(|(holder, _)| holder.place);
        let mut label = "now";
        for (holder, numbers) in groups.iter().take(PLACES) {
            self.line(label, &holder_words(holder, numbers))?;
            label = "";
            for frame in whereabouts(holder, blame, stack_of(finding, blame.event)) {
                self.line("", &frame_words(frame))?;
            }
        }
        Ok(())
    }

    fn paint_name(&self, name: &str) -> String {
        self.paint(&cut_middle(&escape(name), COLUMNS - LABEL), "1")
    }

    fn stack(&mut self, stack: &StackRow) -> io::Result<()> {
        let mut label = match stack.event {
            StackEvent::Acquire => "acquire",
            StackEvent::Open => "open",
            StackEvent::Begin => "begin",
            StackEvent::LastUse => "last use",
        };
        // Frames that are nobody's to change are told by number: what matters fits a screen.
        for run in stack.frames.chunk_by(|a, b| a.kind == b.kind) {
            let folded = match run.first().map(|frame| frame.kind) {
                Some(FrameKind::Runtime) => Some("of the runtime"),
                Some(FrameKind::Unknown) => Some("without names"),
                _ => None,
            };
            if let Some(whose) = folded.filter(|_| run.len() >= MIN_FOLDED) {
                self.line(label, &format!("… {} frames {whose}", run.len()))?;
                label = "";
                continue;
            }
            for frame in run {
                let mut words = format!("{} {}", kind_mark(frame.kind), frame_words(frame));
                if let Some(Generated { file, line, .. }) = &frame.generated
                    && let Some(place) = place_words(Some(file), *line, false, None)
                {
                    words += &format!(" (runs as {place})");
                }
                self.line(label, &words)?;
                label = "";
            }
        }
        if let Some(why) = &stack.truncated {
            self.line(label, &format!("… {why}"))?;
        }
        Ok(())
    }

    fn nothing_found(&mut self, report: &Report) -> io::Result<()> {
        let threshold = duration(report.capture.threshold_ms.saturating_mul(1_000_000));
        let found = if report.capture.incomplete.is_some() {
            "Nothing found in the part that was recorded"
        } else if report.connections.is_empty() && report.capture.connections_seen == 0 {
            "No PostgreSQL connection was seen"
        } else {
            "No leak found"
        };
        writeln!(self.out, "{}", self.paint(found, "32;1"))?;
        if report.capture.connections_seen > 0 {
            self.paragraph(
                "",
                &format!(
                    "No connection was held, in a transaction or left unused in silence for \
                     {threshold} or more."
                ),
            )?;
            self.blind_spots(report)?;
        }
        writeln!(self.out)
    }

    /// What a leak could hide behind.
    fn blind_spots(&mut self, report: &Report) -> io::Result<()> {
        let inferred = report
            .processes
            .iter()
            .filter(|process| !process.pools.iter().any(|pool| pool.observed))
            .count();
        if inferred > 0 {
            self.paragraph(
                "",
                &format!(
                    "In {inferred} of {} processes no pool's acquire and release are seen: there \
                     a leak shows only when the process opens a new connection while the leaked \
                     one is silent.",
                    report.processes.len()
                ),
            )?;
        }
        let encrypted = report.connections.iter().filter(|row| row.tls == Some(true)).count();
        if encrypted > 0 {
            self.paragraph(
                "",
                &format!(
                    "Of {encrypted} encrypted connections only direction and time are known, not \
                     statements and transactions."
                ),
            )?;
        }
        Ok(())
    }

    /// What was watched, and what cannot be seen.
    fn watched(&mut self, report: &Report) -> io::Result<()> {
        let capture = &report.capture;
        writeln!(self.out, "{}", self.paint("Watched", "1"))?;
        self.line("target", &capture.target)?;
        self.line(
            "time",
            &format!(
                "{} from {}",
                duration(capture.duration_ms.saturating_mul(1_000_000)),
                capture.started_at
            ),
        )?;
        self.line(
            "connections",
            &format!(
                "{} seen ({} from before), {} closed, {} open",
                capture.connections_seen,
                capture.connections_found_at_start,
                capture.connections_closed,
                capture.connections_seen.saturating_sub(capture.connections_closed),
            ),
        )?;
        let mut label = "servers";
        for server in &report.capture.servers {
            self.line(label, &use_words(server))?;
            label = "";
        }
        let mut label = "processes";
        for process in &report.processes {
            let name = process.comm.as_deref().unwrap_or("unknown");
            let open = match process.connections {
                1 => "1 connection".to_owned(),
                n => format!("{n} connections"),
            };
            self.line(label, &format!("{name}, pid {}: {open}", process.pid))?;
            label = "";
            if process.pools.is_empty() {
                self.paragraph(
                    "",
                    "No pool is recognised: nothing is assumed of how it opens and closes \
                     connections.",
                )?;
            }
            for pool in &process.pools {
                self.line("", &format!("  {}: {}", pool.name, pool.standing))?;
                for words in [&pool.how, &pool.note, &pool.inference].into_iter().flatten() {
                    self.paragraph("", words)?;
                }
                if let Some(words) = pool.waits.as_ref().and_then(waits_words) {
                    self.paragraph("", &words)?;
                }
            }
        }
        let mut label = "coverage";
        for sentence in &capture.coverage {
            self.paragraph(label, sentence)?;
            label = "";
        }
        let host = [&report.host.hostname, &report.host.kernel].map(|fact| match fact {
            Some(fact) => fact.as_str(),
            None => "unknown",
        });
        let mut label = "cost";
        for words in capture.costs.iter().flat_map(CostsRow::words) {
            self.paragraph(label, &words)?;
            label = "";
        }
        self.line("host", &format!("{}, kernel {}", host[0], host[1]))?;
        self.line("connleak", &report.tool.version)
    }

    /// What was lost: always the last words, when there is something to say.
    fn losses(&mut self, report: &Report) -> io::Result<()> {
        let capture = &report.capture;
        let counts = |counts: &BTreeMap<String, u64>| {
            let each: Vec<_> =
                counts.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            each.join(", ")
        };
        if capture.lost.is_empty() && capture.anomalies.is_empty() && capture.incomplete.is_none() {
            return Ok(());
        }
        writeln!(self.out)?;
        writeln!(self.out, "{}", self.paint("Not everything was seen", "33;1"))?;
        if let Some(why) = &capture.incomplete {
            self.paragraph("incomplete", why)?;
        }
        if !capture.lost.is_empty() {
            self.paragraph("lost", &counts(&capture.lost))?;
        }
        if !capture.anomalies.is_empty() {
            self.paragraph("did not fit", &counts(&capture.anomalies))?;
        }
        Ok(())
    }
}

/// Whether a suspicion about connections from before is told with this finding, which is certain
/// about the same process and so says what to look for first.
fn folds(main: &FindingRow, other: &FindingRow) -> bool {
    let certain = main.verdict.is_fault() && main.certainty > Certainty::Suspected;
    let from_before = other.certainty == Certainty::Suspected
        && other.verdict.is_fault()
        && other.from_before == other.count;
    certain && from_before && main.pid == other.pid && main.process == other.process
}

/// The first finding that folds what there is to fold of its process.
fn is_main(report: &Report, finding: &FindingRow) -> bool {
    let other = |main: &&FindingRow| report.findings.iter().any(|other| folds(main, other));
    let mut mains = report.findings.iter().filter(|main| main.pid == finding.pid).filter(other);
    mains.next().is_some_and(|main| main.id == finding.id)
}

fn folded_words(folded: &[&FindingRow]) -> String {
    let ids: Vec<_> = folded.iter().map(|finding| finding.id.to_string()).collect();
    let (have, number) = match folded.iter().map(|finding| finding.count).sum() {
        1 => ("connection of this process has", 1),
        n => ("connections of this process have", n),
    };
    format!(
        "{number} more {have} been silent since before its pool was watched: suspected, see \
         {} {} of the JSON report.",
        if ids.len() == 1 { "finding" } else { "findings" },
        ids.join(", "),
    )
}

fn title(finding: &FindingRow) -> String {
    let connections = match finding.count {
        1 => "1 connection".to_owned(),
        n => format!("{n} connections"),
    };
    let words = match finding.verdict {
        Verdict::Leak => "taken and not given back",
        Verdict::IdleInTransaction => "silent in an open transaction",
        Verdict::ReturnedInTransaction => "given back in a transaction",
        Verdict::AbandonedPool => "in pools that nothing uses",
        Verdict::NeverUsed => "opened and never used",
        Verdict::LongQuery => "waiting for the server (no leak)",
        Verdict::PoolTooSmall => "for more callers at a time (no leak)",
    };
    format!("{}: {connections} {words}", finding.verdict.words().to_uppercase())
}

/// Who waits now.
fn waiting_words(waits: &WaitsRow) -> Option<String> {
    let callers = match waits.waiting {
        1 => "1 caller".to_owned(),
        n => format!("{n} callers"),
    };
    let longest = duration(waits.longest_waiting_ms?.saturating_mul(1_000_000));
    Some(format!("{callers}, the longest for {longest}"))
}

/// Who waits and who has waited, in a sentence.
fn waits_words(waits: &WaitsRow) -> Option<String> {
    let mut words = Vec::new();
    let ms = |millis: u64| duration(millis.saturating_mul(1_000_000));
    if let Some(waiting) = waiting_words(waits) {
        words.push(format!("waiting for a connection: {waiting}"));
    }
    let failed = waits.failed.unwrap_or(0);
    let over = waits.served.saturating_add(failed);
    if let Some(mean) = waits.waited_ms.checked_div(over) {
        words.push(format!(
            "waits that ended: {over}, after {} on average, the longest {}",
            ms(mean),
            ms(waits.longest_waited_ms)
        ));
    }
    if failed > 0 {
        words.push(format!("{failed} of them without a connection"));
    }
    (!words.is_empty()).then(|| words.join("; "))
}

fn process_words(finding: &FindingRow, process: Option<&ProcessRow>) -> String {
    let mut words =
        format!("{}, pid {}", finding.process.as_deref().unwrap_or("unknown"), finding.pid);
    if let Some(container) = &finding.container {
        words += &format!(", container {container}");
        if let Some(ns_pid) = process.and_then(|process| process.ns_pid) {
            words += &format!(" (pid {ns_pid} there)");
        }
    }
    if finding.ended_by_exit > 0 {
        words += ", ended";
    }
    words
}

fn server_words(finding: &FindingRow) -> Option<String> {
    let mut words = finding.peer.clone()?;
    if let Some(database) = &finding.database {
        words += &format!(", database {database}");
    }
    if let Some(user) = &finding.user {
        words += &format!(", user {user}");
    }
    Some(words)
}

fn use_words(server: &ServerRow) -> String {
    let mut words = format!("{} ({}): {}", server.server, server.version, server.sessions);
    if let Some(max) = server.max_sessions {
        words += &format!(" of {max}");
    }
    words += " connections in use";
    if let Some(reserved) = server.reserved_sessions {
        words += &format!(", {reserved} reserved");
    }
    words
}

fn span_words(span: Millis) -> String {
    let words = |millis: u64| duration(millis.saturating_mul(1_000_000));
    let (min, max) = (words(span.min), words(span.max));
    if min == max { max } else { format!("{min} to {max}") }
}

fn place(blame: &BlameRow) -> String {
    place_words(blame.file.as_deref(), blame.line, blame.definition, blame.module.as_deref())
        .unwrap_or_else(|| "unknown file".to_owned())
}

fn place_words(
    file: Option<&str>,
    line: Option<u32>,
    definition: bool,
    module: Option<&str>,
) -> Option<String> {
    match (file, line) {
        (Some(file), Some(line)) if definition => Some(format!("{file}:{line} (its definition)")),
        (Some(file), Some(line)) => Some(format!("{file}:{line}")),
        (Some(file), None) => Some(file.to_owned()),
        (None, _) => module.map(|module| format!("in {module}")),
    }
}

fn frame_words(frame: &FrameRow) -> String {
    let function = frame.function.as_deref().unwrap_or("unknown");
    let (file, module) = (frame.file.as_deref(), frame.module.as_deref());
    let place = place_words(file, frame.line, frame.definition, module);
    match place {
        Some(place) => format!("{function}  {place}"),
        None => function.to_owned(),
    }
}

fn stack_of(finding: &FindingRow, event: StackEvent) -> Option<&StackRow> {
    finding.stacks.iter().find(|stack| stack.event == event)
}

/// What tells a thread or goroutine from others of its process.
fn number_of(holder: &HolderRow) -> u64 {
    holder.goroutine.unwrap_or(holder.tid.into())
}

/// What some threads or goroutines do that took connections and are at the same place.
fn holder_words(holder: &HolderRow, numbers: &BTreeSet<u64>) -> String {
    let kind = if holder.goroutine.is_some() { "goroutine" } else { "thread" };
    let (who, is, has, runs) = match numbers.len() {
        1 => (format!("{kind} {}", number_of(holder)), "is", "has", "runs"),
        n => (format!("{n} {kind}s"), "are", "have", "run"),
    };
    let mut words = match holder.place {
        Whereabouts::Here => format!("{who} {is} in this function"),
        Whereabouts::Left => format!("{who} {has} left this function"),
        Whereabouts::Running => format!("{who} {runs}, so it is not known where"),
        Whereabouts::Ended => format!("{who} {has} ended"),
    };
    if let Some(call) = &holder.call {
        // Go's words are no calls.
        let blocked = if holder.goroutine.is_some() { "blocked:" } else { "blocked in" };
        words += &format!(", {blocked} {call}");
    }
    words
}

/// The frames that tell where a thread is: what the application called of others, and its own, out to
/// the blamed function if the thread is in it, else to the first that was on the stack `took` as well:
/// a caller may have the connection still. Of code that has nothing in common with it, the innermost.
fn whereabouts<'a>(
    holder: &'a HolderRow,
    blame: &BlameRow,
    took: Option<&StackRow>,
) -> Vec<&'a FrameRow> {
    let frames = holder.stack.as_ref().map_or(&[][..], |stack| &stack.frames);
    let is_own = |frame: &FrameRow| frame.kind == FrameKind::App && frame.function.is_some();
    let Some(first) = frames.iter().position(is_own) else { return Vec::new() };
    let called = frames[..first].last().filter(|frame| frame.function.is_some());
    let mut own: Vec<_> = frames[first..].iter().filter(|frame| is_own(frame)).collect();
    let is_blamed = |frame: &FrameRow| {
        frame.function.as_deref() == Some(&blame.function) && frame.file == blame.file
    };
    let was_there = |frame: &FrameRow| {
        let same =
            |other: &FrameRow| (&other.function, &other.file) == (&frame.function, &frame.file);
        took.is_some_and(|took| took.frames.iter().any(same))
    };
    let is_here = holder.place == Whereabouts::Here;
    let is_last = |frame: &&FrameRow| if is_here { is_blamed(frame) } else { was_there(frame) };
    own.truncate(own.iter().position(is_last).unwrap_or(0) + 1);
    // The two ends matter.
    if own.len() > CALLERS {
        own.drain(CALLERS - 1..own.len() - 1);
    }
    called.into_iter().chain(own).collect()
}

/// The application's frames outside the blamed one.
fn callers<'a>(stack: &'a StackRow, blame: &'a BlameRow) -> impl Iterator<Item = &'a FrameRow> {
    let is_blamed = |frame: &FrameRow| {
        frame.kind == FrameKind::App
            && frame.function.as_deref() == Some(blame.function.as_str())
            && frame.file == blame.file
            && frame.line == blame.line
    };
    let blamed = stack.frames.iter().position(is_blamed);
    let rest = blamed.map_or(&[][..], |at| &stack.frames[at + 1..]);
    rest.iter().filter(|frame| frame.kind == FrameKind::App && frame.function.is_some())
}

fn kind_mark(kind: FrameKind) -> char {
    match kind {
        FrameKind::App => '*',
        FrameKind::Driver => 'd',
        FrameKind::Library => 'l',
        FrameKind::Runtime => 'r',
        FrameKind::Unknown => '?',
    }
}

/// Breaks a text into lines of at most `columns`, at spaces; longer words are cut in the middle.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let word = cut_middle(word, columns);
        if !line.is_empty() && width(&line) + 1 + width(&word) > columns {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += &word;
    }
    lines.push(line);
    lines
}
