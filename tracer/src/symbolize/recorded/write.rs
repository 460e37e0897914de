//! Writes a recording of each stack that is understood, where that is asked for.
//!
//! May import this module's files, `gimli`, the environment and the file system. The notes of a stack
//! are the thread's: a symbolizer is one thread's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use gimli::{BaseAddresses, EhFrame, EhFrameHdr, LittleEndian, UnwindSection as _};

use super::super::maps::{Backing, CodeMap};
use super::super::process::{Code, Process};
use super::super::runtime::Runtime as Running;
use super::super::unwind::Walk;
use super::super::{RawStack, module};
use super::{Bytes, Copied, Go, Module, Recording, Runtime, digits};
use crate::binary::pclntab::GoTable;
use crate::model::Frame;

/// The directory of the recordings; without it none are made.
const DIRECTORY: &str = "CONNLEAK_RECORD_STACKS";

/// Characters from which on a text is written as one.
const MIN_TEXT: usize = 24;

/// Bytes by address or place in a file.
type Pieces = Vec<(u64, Vec<u8>)>;

#[derive(Default)]
struct Notes {
    memory: Pieces,
    native: BTreeMap<u64, Vec<Frame>>,
    written: u32,
}

thread_local! {
    static NOTES: RefCell<Notes> = RefCell::default();
}

fn directory() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND.get_or_init(|| std::env::var_os(DIRECTORY).map(PathBuf::from)).as_deref()
}

fn key(address: u64) -> String {
    format!("{address:012x}")
}

/// Whether stacks are recorded.
pub(in crate::symbolize) fn is_asked_for() -> bool {
    directory().is_some()
}

/// A stack of a process is to be looked at.
pub(in crate::symbolize) fn begin_with(process: &Process) {
    // What a recording says of the build takes more to read than all the rest.
    let _known = process.runtime.as_ref().and_then(runtime);
    NOTES.with_borrow_mut(|notes| {
        notes.memory.clear();
        notes.native.clear();
    });
}

/// Memory of the process was read.
pub(in crate::symbolize) fn note_memory(address: u64, bytes: &[u8]) {
    if directory().is_some() {
        NOTES.with_borrow_mut(|notes| notes.memory.push((address, bytes.to_vec())));
    }
}

/// A native address was looked up.
pub(in crate::symbolize) fn note_native(address: u64, frames: &[Frame]) {
    if directory().is_some() {
        NOTES.with_borrow_mut(|notes| notes.native.insert(address, frames.to_vec()));
    }
}

/// The stack was understood.
pub(in crate::symbolize) fn write(raw: &RawStack, process: &Process, walk: &Walk) {
    let Some(directory) = directory() else { return };
    let mut of_file = None;
    let runtime = match &process.runtime {
        Some(running) => runtime(running),
        None => {
            of_file = go(process, walk);
            Some(of_file.as_ref().map_or(Runtime::Native, |(go, _)| Runtime::Go(go.clone())))
        }
    };
    let Some(runtime) = runtime else { return };
    NOTES.with_borrow_mut(|notes| {
        if let Some((_, pieces)) = of_file {
            notes.memory = pieces;
        }
        let recording = Recording {
            stack: copied(raw),
            runtime,
            maps: maps(process, raw, walk),
            modules: modules(process, walk),
            native: notes.native.iter().map(|(at, frames)| (key(*at), frames.clone())).collect(),
            memory: memory(&notes.memory),
        };
        let path = directory.join(format!("{}-{}.json", raw.pid, notes.written));
        notes.written += 1;
        let text = serde_json::to_string_pretty(&recording).expect("can be written as JSON");
        if let Err(error) = std::fs::write(&path, text + "\n") {
            log::error!("{}: {error}", path.display());
        }
    });
}

fn copied(raw: &RawStack) -> Copied {
    Copied {
        ip: raw.ip,
        sp: raw.sp,
        bp: raw.bp,
        boundary: raw.boundary,
        gap: raw.gap,
        fixups: raw.fixups.clone(),
        bytes: Bytes(raw.bytes.clone()),
        runtime: raw.runtime.iter().map(|frame| Bytes(frame.to_vec())).collect(),
        runtime_end: raw.runtime_end,
    }
}

fn runtime(runtime: &Running) -> Option<Runtime> {
    match runtime {
        Running::Node(node) => {
            let (engine, bias) = node.engine();
            Some(Runtime::Node { engine: Box::new(engine), bias })
        }
        Running::Java(java) => java.layout().map(Box::new).map(Runtime::Java),
        Running::Php(php) => Some(Runtime::Php(php.engine())),
        // Writes its memory down itself: `tests/clients/python/record_frames.py`.
        Running::Python(_) | Running::Unknown(_) => None,
    }
}

/// The function table that the walk leads through, and the pieces of the file that it takes to name
/// what was met.
fn go(process: &Process, walk: &Walk) -> Option<(Go, Pieces)> {
    let addresses = walk.addresses.iter().map(|address| address.lookup());
    let code_at = |address| {
        let (index, map) = process.maps.code_at(address)?;
        let code = process.code[index].as_ref()?;
        Some((code.module.go_table()?, map, code.bias?, &code.owner.name))
    };
    let (table, map, bias, module) = addresses.clone().find_map(code_at)?;
    let mapped = map.start..map.end;
    let met: Vec<u64> = addresses
        .filter(|address| mapped.contains(address))
        .map(|address| address.wrapping_sub(bias))
        .collect();
    let (layout, file) = table.parts();
    let names = |file: &[u8]| {
        let table = GoTable::at(layout.clone(), file);
        met.iter().map(|address| table.resolve(*address)).collect::<Vec<_>>()
    };
    let wanted = names(file);
    let mut left = file.to_vec();
    leave_out(&mut left, 0..file.len(), &|file| names(file) == wanted);
    let mut pieces = Pieces::new();
    for (index, part) in left.chunks(PART).enumerate() {
        let at = (index * PART) as u64;
        if part.iter().all(|byte| *byte == 0) {
            continue;
        }
        match pieces.last_mut() {
            Some((start, piece)) if *start + piece.len() as u64 == at => piece.extend(part),
            _ => pieces.push((at, part.to_vec())),
        }
    }
    let (module, layout, len) = (module.clone(), layout.clone(), file.len());
    Some((Go { module, mapped, bias, layout, len }, pieces))
}

/// Bytes of a file that are kept or left out together.
const PART: usize = 8;

/// Zeroes whatever of a range makes no difference.
fn leave_out(file: &mut [u8], range: Range<usize>, is_same: &dyn Fn(&[u8]) -> bool) {
    let kept = file[range.clone()].to_vec();
    if kept.iter().all(|byte| *byte == 0) {
        return;
    }
    file[range.clone()].fill(0);
    if is_same(file) {
        return;
    }
    file[range.clone()].copy_from_slice(&kept);
    if range.len() > PART {
        let middle = range.start + (range.len() / 2).next_multiple_of(PART);
        leave_out(file, range.start..middle, is_same);
        leave_out(file, middle..range.end, is_same);
    }
}

/// The mappings that the stack leads through, and its own.
fn maps(process: &Process, raw: &RawStack, walk: &Walk) -> Vec<String> {
    let is_met = |map: &&CodeMap| {
        walk.addresses.iter().any(|at| (map.start..map.end).contains(&at.lookup()))
    };
    let mut lines: BTreeMap<u64, String> = BTreeMap::new();
    for map in process.maps.code.iter().filter(is_met) {
        let (inode, name) = match &map.backing {
            Backing::File { inode, path } => {
                let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                (*inode, format!("/{}", String::from_utf8_lossy(name)))
            }
            Backing::Uprobes => (0, "[uprobes]".to_owned()),
            Backing::Kernel => (0, "[vdso]".to_owned()),
            Backing::Anonymous => (0, String::new()),
        };
        let (start, end, offset) = (map.start, map.end, map.offset);
        let line = format!("{start:08x}-{end:08x} r-xp {offset:08x} 00:00 {inode} {name}");
        lines.insert(start, line);
    }
    if let Some(range) = process.maps.stack_at(raw.sp) {
        let line = format!("{:08x}-{:08x} rw-p 00000000 00:00 0 ", range.start, range.end);
        lines.insert(range.start, line);
    }
    lines.into_values().collect()
}

fn modules(process: &Process, walk: &Walk) -> Vec<Module> {
    let mut modules: BTreeMap<u64, Module> = BTreeMap::new();
    for address in walk.addresses.iter().map(|address| address.lookup()) {
        let Some((index, map)) = process.maps.code_at(address) else { continue };
        let Some(Code { module, bias: Some(bias), .. }) = &process.code[index] else { continue };
        let Some(elf) = &module.elf else { continue };
        let (Some(eh_frame), Some(hdr)) = (&elf.eh_frame, &elf.eh_frame_hdr) else { continue };
        let known = modules.entry(map.start).or_insert_with(|| Module {
            mapped: map.start..map.end,
            bias: *bias,
            text: elf.text.clone(),
            got: elf.got.clone(),
            eh_frame: eh_frame.addresses.start,
            eh_frame_hdr: hdr.addresses.start,
            index: Vec::new(),
            entries: BTreeMap::new(),
        });
        describe(known, elf, address.wrapping_sub(*bias));
    }
    modules.into_values().collect()
}

/// Adds what describes the frame of the function at an address, if something does.
fn describe(known: &mut Module, elf: &module::Elf, address: u64) -> Option<()> {
    let (eh_frame, hdr) = (elf.eh_frame.as_ref()?, elf.eh_frame_hdr.as_ref()?);
    let bases = BaseAddresses::default()
        .set_eh_frame(eh_frame.addresses.start)
        .set_eh_frame_hdr(hdr.addresses.start);
    let mut section = EhFrame::new(&eh_frame.bytes, LittleEndian);
    section.set_address_size(8);
    let hdr = EhFrameHdr::new(&hdr.bytes, LittleEndian).parse(&bases, 8).ok()?;
    let found = hdr.table()?.fde_for_address(&section, &bases, address, EhFrame::cie_from_offset);
    let fde = found.ok()?;
    let entry = |offset: usize| {
        let bytes = eh_frame.bytes.get(offset..)?;
        let len = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
        Some((offset as u64, Bytes(bytes.get(..4 + len)?.to_vec())))
    };
    known.entries.extend([entry(fde.cie().offset())?, entry(fde.offset())?]);
    let place = (fde.initial_address(), eh_frame.addresses.start + fde.offset() as u64);
    if let Err(at) = known.index.binary_search(&place) {
        known.index.insert(at, place);
    }
    Some(())
}

/// What was read, each byte once.
fn memory(reads: &[(u64, Vec<u8>)]) -> BTreeMap<String, String> {
    let mut reads: Vec<_> = reads.iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
    reads.sort_unstable();
    let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
    for (address, bytes) in reads {
        match pieces.last_mut() {
            Some((start, piece)) if *address <= *start + piece.len() as u64 => {
                let known = (*start + piece.len() as u64 - address) as usize;
                piece.extend(bytes.get(known..).unwrap_or_default());
            }
            _ => pieces.push((*address, bytes.clone())),
        }
    }
    let mut written = BTreeMap::new();
    for (address, piece) in pieces {
        for (at, part) in parts(&piece) {
            let is_text = part.len() >= MIN_TEXT && part.iter().all(|byte| is_text(*byte));
            let text = match std::str::from_utf8(part) {
                Ok(text) if is_text => format!("\"{text}"),
                _ => digits(part),
            };
            written.insert(key(address + at as u64), text);
        }
    }
    written
}

fn is_text(byte: u8) -> bool {
    byte == b'\n' || (b' '..0x7f).contains(&byte)
}

/// Texts, and what is between them.
fn parts(piece: &[u8]) -> Vec<(usize, &[u8])> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < piece.len() {
        let len = piece[at..].iter().take_while(|byte| is_text(**byte)).count();
        if len >= MIN_TEXT {
            if start < at {
                parts.push((start, &piece[start..at]));
            }
            parts.push((at, &piece[at..at + len]));
            start = at + len;
        }
        at += len.max(1);
    }
    if start < piece.len() {
        parts.push((start, &piece[start..]));
    }
    parts
}
