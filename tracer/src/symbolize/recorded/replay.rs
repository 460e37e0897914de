//! A recording looked at again.
//!
//! May import this module's files. What is read is counted, and may be changed before it is read.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::super::cfi;
use super::super::hotspot::Hotspot;
use super::super::maps::Maps;
use super::super::memory::{Memory, ProcessMemory};
use super::super::module::{self, Elf, Section};
use super::super::node::Node;
use super::super::php::Php;
use super::super::process::walked;
use super::super::runtime::Runtime as Running;
use super::super::unwind::Unwinder;
use super::super::{RawStack, Resolved, of_go, understood, unknown};
use super::hostile::Changes;
use super::{Bytes, Copied, Module, Recording, Runtime, bytes};
use crate::binary::pclntab::GoTable;
use crate::model::Frame;

/// Memory in pieces, none beside another.
#[derive(Clone, Debug, Default)]
pub(in crate::symbolize) struct Pieces(pub BTreeMap<u64, Vec<u8>>);

impl Pieces {
    pub fn of(pieces: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Self {
        let mut sorted: Vec<_> = pieces.into_iter().collect();
        sorted.sort_unstable();
        let mut whole: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (at, piece) in sorted {
            match whole.last_entry() {
                Some(mut last) if *last.key() + last.get().len() as u64 == at => {
                    last.get_mut().extend(piece);
                }
                _ => {
                    whole.insert(at, piece);
                }
            }
        }
        Self(whole)
    }

    pub fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
        let (start, bytes) = self.0.range(..=address).next_back()?;
        let from = usize::try_from(address - start).ok()?;
        into.copy_from_slice(bytes.get(from..from.checked_add(into.len())?)?);
        Some(())
    }

    pub fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Some(u64::from_le_bytes(bytes))
    }
}

/// What was read, and how often.
#[derive(Clone, Default)]
pub(in crate::symbolize) struct Counted(Rc<Cell<(u64, u32)>>);

impl Counted {
    /// Memory that is counted.
    pub fn memory(&self, read: impl Fn(u64, &mut [u8]) -> Option<()> + 'static) -> Box<Memory> {
        let Self(count) = self.clone();
        Box::new(move |address, into| {
            let (bytes, reads) = count.get();
            count.set((bytes + into.len() as u64, reads + 1));
            read(address, into)
        })
    }

    pub fn bytes(&self) -> u64 {
        self.0.get().0
    }

    pub fn reads(&self) -> u32 {
        self.0.get().1
    }
}

/// A recording.
pub(in crate::symbolize) struct Replay {
    pub raw: RawStack,
    pub memory: Pieces,
    runtime: Runtime,
    maps: Maps,
    modules: Vec<Module>,
    unwinder: Unwinder,
    native: HashMap<u64, Rc<[Frame]>>,
}

impl Replay {
    pub fn of(text: &str) -> Self {
        let recording: Recording = serde_json::from_str(text).expect("a recording");
        let Recording { stack, runtime, maps, modules, native, memory } = recording;
        let address = |digits: &str| u64::from_str_radix(digits, 16).expect("an address");
        let piece = |(at, piece): (String, String)| {
            let piece = match piece.strip_prefix('"') {
                Some(text) => text.as_bytes().to_vec(),
                None => bytes(&piece).expect("bytes"),
            };
            (address(&at), piece)
        };
        let is_added = |module: &Module| module.index.is_empty() || is_bounded(&elf(module));
        assert!(modules.iter().all(is_added), "as the files were");
        let unwinder = unwinder(&modules);
        Self {
            raw: raw(stack),
            memory: Pieces::of(memory.into_iter().map(piece)),
            runtime,
            maps: Maps::parse(maps.join("\n").as_bytes()),
            modules,
            unwinder,
            native: native.into_iter().map(|(at, frames)| (address(&at), frames.into())).collect(),
        }
    }

    /// The stack as it was recorded.
    pub fn resolved(&self) -> Resolved {
        let memory = self.memory.clone();
        self.resolve(&self.raw, Box::new(move |address, into| memory.read(address, into)))
    }

    /// What has this instead of the recorded unwind information.
    pub fn unwinder(&self, changes: &Changes) -> Unwinder {
        let mut modules = self.modules.clone();
        for module in &mut modules {
            for Bytes(entry) in module.entries.values_mut() {
                changes.of_bytes(entry);
            }
        }
        unwinder(&modules)
    }

    /// Another stack, in other memory, of a process that is looked at for the first time.
    pub fn resolve(&self, raw: &RawStack, memory: Box<Memory>) -> Resolved {
        self.resolve_by(&self.unwinder, raw, memory)
    }

    /// The same by other unwind information.
    pub fn resolve_by(&self, unwinder: &Unwinder, raw: &RawStack, memory: Box<Memory>) -> Resolved {
        match &self.runtime {
            Runtime::Go(go) => {
                let table = GoTable::at(go.layout.clone(), self.file(go.len, &*memory));
                self.understand(unwinder, raw, None, |address| {
                    let met = go.mapped.contains(&address);
                    met.then(|| of_go(&table, address.wrapping_sub(go.bias), &go.module))
                })
            }
            Runtime::Native => self.understand(unwinder, raw, None, |_| None),
            _ => self.understand(unwinder, raw, Some(&mut self.runtime(memory)), |_| None),
        }
    }

    /// A file that has the recorded pieces and a little beside each, as this memory has them.
    fn file(&self, len: usize, memory: &Memory) -> Vec<u8> {
        const BESIDE: u64 = 64;
        let mut file = vec![0; len];
        for (start, piece) in &self.memory.0 {
            let end = start + piece.len() as u64 + BESIDE;
            for at in (start.saturating_sub(BESIDE)..end).step_by(8) {
                let at = at as usize;
                if let Some(word) = file.get_mut(at..at + 8) {
                    // Nothing there is zeros.
                    let _nothing = memory(at as u64, word);
                }
            }
        }
        file
    }

    /// The runtime of a process with this memory.
    pub fn runtime(&self, memory: Box<Memory>) -> Running {
        match self.runtime.clone() {
            Runtime::Node { engine, bias } => {
                let memory = ProcessMemory::reading(memory);
                Running::Node(Box::new(Node::reading(memory, None, Rc::new(*engine), bias)))
            }
            Runtime::Java(layout) => {
                Running::Java(Hotspot::known(ProcessMemory::reading(memory), *layout))
            }
            Runtime::Php(engine) => Running::Php(Php::reading(memory, engine, 0)),
            Runtime::Go(_) | Runtime::Native => panic!("it has none"),
        }
    }

    /// A stack of a process whose runtime has been looked at before.
    pub fn resolve_with(&self, runtime: &mut Running, raw: &RawStack) -> Resolved {
        self.understand(&self.unwinder, raw, Some(runtime), |_| None)
    }

    /// `named` goes before what was recorded.
    fn understand(
        &self,
        unwinder: &Unwinder,
        raw: &RawStack,
        mut runtime: Option<&mut Running>,
        named: impl Fn(u64) -> Option<Vec<Frame>>,
    ) -> Resolved {
        let of_runtime = runtime.as_mut().and_then(|runtime| runtime.name(raw));
        let walk = walked(unwinder, raw, &self.maps, runtime.as_deref_mut());
        understood(raw, &walk, runtime.as_deref(), of_runtime, |address| {
            match named(address).filter(|frames| !frames.is_empty()) {
                Some(frames) => frames.into(),
                None => self.native.get(&address).map_or_else(|| [unknown(None)].into(), Rc::clone),
            }
        })
    }
}

/// Of the files that can be followed.
fn unwinder(modules: &[Module]) -> Unwinder {
    let mut unwinder = Unwinder::default();
    for module in modules {
        let elf = elf(module);
        // None of what was met may be described, and then there is nothing to follow.
        if module.index.is_empty() || is_bounded(&elf) {
            unwinder.add(module.mapped.clone(), module.bias, &elf);
        }
    }
    unwinder
}

/// As [`Module::is_unwind_bounded`](module::Module::is_unwind_bounded).
fn is_bounded(elf: &Elf) -> bool {
    let eh_frame = elf.eh_frame.as_ref();
    eh_frame.is_some_and(|eh_frame| cfi::is_bounded(eh_frame, elf.eh_frame_hdr.as_ref()))
}

/// The recorded stack has these frames, and its outer end.
#[track_caller]
pub(in crate::symbolize) fn is_named(text: &str, expected: &[&str]) {
    let resolved = Replay::of(text).resolved();
    assert_eq!(shown(&resolved.stack.frames), expected);
    assert_eq!(resolved.stack.truncated, None);
}

/// Its frames, one a line: function, file and line, as far as they are known. Of the native ones, which
/// other tests are about, how many there are.
pub(in crate::symbolize) fn shown(frames: &[Frame]) -> Vec<String> {
    let mut lines = Vec::new();
    for part in frames.chunk_by(|one, next| one.module.is_some() && next.module.is_some()) {
        if part[0].module.is_some() {
            lines.push(format!("({} native)", part.len()));
            continue;
        }
        lines.extend(part.iter().map(one));
    }
    lines
}

/// A frame: function, file and line, as far as they are known.
pub(super) fn one(frame: &Frame) -> String {
    let Some(symbol) = &frame.symbol else { return "?".to_owned() };
    let mut line = symbol.function.clone();
    if let Some(file) = &symbol.file {
        line += &format!(" {file}");
    }
    if let Some(number) = symbol.line {
        line += &format!(":{number}");
    }
    if symbol.definition {
        line += " (definition)";
    }
    if frame.inlined {
        line += " inlined";
    }
    line
}

/// Where other entries of a section were: one that says nothing.
fn fill_up(eh_frame: &mut Vec<u8>, end: usize) {
    // A CIE without augmentation: version, factors of code and data, the return address; then nothing.
    const SAYS_NOTHING: [u8; 9] = [0, 0, 0, 0, 1, 0, 1, 0x78, 16];
    let gap = end.saturating_sub(eh_frame.len());
    if gap > 0 {
        let len = u32::try_from(gap - 4).expect("a section");
        eh_frame.extend(len.to_le_bytes());
        eh_frame.extend(SAYS_NOTHING);
        eh_frame.resize(end, 0);
    }
}

fn raw(stack: Copied) -> RawStack {
    let frame = |Bytes(frame): Bytes| frame.try_into().expect("as many bytes");
    RawStack {
        pid: 0,
        ip: stack.ip,
        sp: stack.sp,
        bp: stack.bp,
        boundary: stack.boundary,
        bytes: stack.bytes.0,
        gap: stack.gap,
        fixups: stack.fixups,
        runtime: stack.runtime.into_iter().map(frame).collect(),
        runtime_end: stack.runtime_end,
    }
}

/// A file that has nothing but these entries.
fn elf(module: &Module) -> Elf {
    let mut eh_frame = Vec::new();
    for (offset, Bytes(entry)) in &module.entries {
        let offset = usize::try_from(*offset).expect("in it");
        fill_up(&mut eh_frame, offset);
        eh_frame.extend(entry);
    }
    let relative = |address: u64, to: u64| {
        let distance = i32::try_from(address.wrapping_sub(to).cast_signed());
        distance.expect("near").to_le_bytes()
    };
    // Where the section is, from behind these four bytes; how many entries; and of each, from here
    // on, where the function is and its entry.
    let mut hdr = vec![1, 0x1b, 0x03, 0x3b];
    hdr.extend(relative(module.eh_frame, module.eh_frame_hdr + 4));
    hdr.extend(u32::try_from(module.index.len()).expect("few").to_le_bytes());
    for (function, entry) in &module.index {
        hdr.extend(relative(*function, module.eh_frame_hdr));
        hdr.extend(relative(*entry, module.eh_frame_hdr));
    }
    let section = |start: u64, bytes: &[u8]| {
        let addresses = start..start + bytes.len() as u64;
        Some(Section { addresses, bytes: module::Bytes::of(bytes) })
    };
    let mut elf = Elf::default();
    elf.text = module.text.clone();
    elf.got = module.got.clone();
    elf.eh_frame = section(module.eh_frame, &eh_frame);
    elf.eh_frame_hdr = section(module.eh_frame_hdr, &hdr);
    elf
}
