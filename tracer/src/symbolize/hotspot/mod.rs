//! Frames of Java on a stack: HotSpot's, interpreted and compiled, to methods, files and lines.
//!
//! May import `model`, `binary` and `owner`. Nothing but the stack has to be copied at the event:
//! code and methods stay where they are and are read from the process's memory when a stack is
//! resolved. Java's frames lie among native ones, so the unwinder asks for each address whether it is
//! Java's ([`Hotspot::step`]). Invariants: memory of traced processes is never trusted: every read is
//! bounded, each step goes up the stack; a frame that cannot be understood is unknown or ends the
//! walk, never guessed. Sources: OpenJDK's `cpu/x86/frame_x86.hpp` and `share/runtime/frame.cpp`.

mod code;
mod compressed;
mod layout;
mod memory;
mod method;
mod names;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;

use std::cell::{Cell, OnceCell};
use std::ops::Range;
use std::rc::Rc;

#[cfg(any(test, feature = "recording"))]
use serde::{Deserialize, Serialize};

use self::code::{Call, Code, Kind};
use self::layout::{Layout, Missing, Tables};
use self::memory::Memory;
use self::method::Method;
use super::cache::Cache;
use super::memory::{OF_STACK, ProcessMemory};
use super::owner;
use super::unwind::{Registers, Step};
use crate::binary::elf::Elf;
use crate::model::{Frame, FrameKind, Symbol};

/// Half the number of methods remembered for one process.
const CACHED_METHODS: usize = 2_048;
/// Half the number of places in code remembered.
const CACHED_PLACES: usize = 2_048;

/// From this version on the network library writes what it is given where it is.
const UNBUFFERED: u32 = 13;

/// How often the tables are looked for: a process that starts has filled them in a moment.
const MAX_TRIES: u32 = 64;

/// No frame is larger.
const MAX_FRAME: u64 = 1 << 20;

/// Slots of an interpreter's frame, from its frame pointer; the tables have only the first.
const SENDER_SP: i64 = -8;
const METHOD: i64 = -3 * 8;
const INSTRUCTION: i64 = -8 * 8;

/// A virtual machine in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Machine(Tables);

impl Machine {
    /// Looks for it in a file.
    pub fn find(elf: &Elf<'_>) -> Option<Self> {
        Tables::find(elf).map(Self)
    }
}

/// Where a machine keeps what is read of it.
#[cfg(any(test, feature = "recording"))]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Known(Layout);

/// The virtual machine of a process.
pub(super) struct Hotspot(Inner<ProcessMemory>);

impl Hotspot {
    /// The machine that is mapped `bias` above its file's addresses; `None` when the process has
    /// ended.
    pub fn new(pid: u32, Machine(tables): Machine, bias: u64) -> Option<Self> {
        Some(Self(Inner::new(ProcessMemory::of(pid)?, tables, bias)))
    }

    /// The machine of a process whose layout is known.
    #[cfg(test)]
    pub fn known(memory: ProcessMemory, Known(layout): Known) -> Self {
        let inner = Inner::new(memory, Tables::default(), 0);
        let _first = inner.layout.set(Ok(Rc::new(layout)));
        Self(inner)
    }

    /// Its layout, once it was read.
    #[cfg(feature = "recording")]
    pub fn layout(&self) -> Option<Known> {
        self.0.layout().map(|layout| Known(Layout::clone(&layout)))
    }

    /// Another stack is looked at.
    pub fn begin(&self) {
        self.0.memory.allow(OF_STACK);
    }

    /// From a frame to its caller's, if it is Java's; `read` reads words of the stack.
    pub fn step(&mut self, at: Registers, read: &mut dyn FnMut(u64) -> Option<u64>) -> Step {
        self.0.step(at, read)
    }

    /// Why Java's frames will never be understood.
    pub fn refused(&self) -> Option<&str> {
        self.0.layout.get()?.as_ref().err().map(String::as_str)
    }

    /// Whether what is written is on the stack, too; `None` where the machine is not understood, or
    /// not yet.
    pub fn is_buffered(&self) -> Option<bool> {
        Some(self.0.layout()?.major < UNBUFFERED)
    }
}

struct Inner<M> {
    memory: M,
    tables: Tables,
    bias: u64,
    /// Read when it is first needed.
    layout: OnceCell<Result<Rc<Layout>, String>>,
    /// How often that was not possible yet.
    tries: Cell<u32>,
    /// Where all code is.
    bounds: Option<Range<u64>>,
    methods: Cache<u64, Rc<Method>>,
    /// By the address that a frame goes on at.
    places: Cache<u64, Rc<Place>>,
}

/// What is at an address of Java's code.
struct Place {
    kind: Kind,
    frame_words: u64,
    /// The calls that it is in, innermost first; none where they are not known.
    calls: Vec<Call>,
}

impl<M: Memory> Inner<M> {
    fn new(memory: M, tables: Tables, bias: u64) -> Self {
        let (methods, places) = (Cache::new(CACHED_METHODS), Cache::new(CACHED_PLACES));
        Self {
            memory,
            tables,
            bias,
            layout: OnceCell::new(),
            tries: Cell::new(0),
            bounds: None,
            methods,
            places,
        }
    }

    fn step(&mut self, at: Registers, read: &mut dyn FnMut(u64) -> Option<u64>) -> Step {
        let Some(layout) = self.layout() else { return Step::Native };
        let code = Code { memory: &self.memory, layout: &layout };
        if self.bounds.is_none() {
            self.bounds = code.bounds();
        }
        if !self.bounds.as_ref().is_some_and(|bounds| bounds.contains(&at.pc)) {
            return Step::Native;
        }
        let Some(place) = self.place(&layout, at, read) else {
            return Step::Managed(vec![unknown()], Err("the code of a Java frame is gone"));
        };
        let (frames, next) = match place.kind {
            Kind::Barrier => {
                let reason = "the outer frames of a virtual thread are not on the stack";
                return Step::Managed(Vec::new(), Err(reason));
            }
            Kind::Interpreter => self.interpreted(&layout, at, read),
            Kind::Compiled | Kind::Native => {
                (self.compiled(&layout, &place.calls), by_size(&place, at, read))
            }
            // They keep a frame pointer, as what enters Java from native code.
            Kind::Stub if place.frame_words == 0 => (Vec::new(), by_frame_pointer(at, read)),
            Kind::Stub => (Vec::new(), by_size(&place, at, read)),
        };
        let next = next.filter(|next| next.sp > at.sp);
        Step::Managed(frames, next.ok_or("a Java frame could not be understood"))
    }

    /// What is at an address now, or was when it was asked for before: compiled code is freed when
    /// better code has taken its place, and nothing is left when the process has ended.
    fn place(
        &mut self,
        layout: &Layout,
        at: Registers,
        read: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> Option<Rc<Place>> {
        let known = self.places.get(&at.pc);
        let code = Code { memory: &self.memory, layout };
        let Some(blob) = code.blob(at.pc) else { return known };
        let (kind, frame_words) = (blob.kind, blob.frame_words);
        let pc = blob.original_pc(layout, at.pc, at.sp, read);
        let calls = match (kind, pc) {
            (Kind::Compiled | Kind::Native, Some(pc)) => blob.calls(&code, pc),
            _ => Some(Vec::new()),
        };
        let Some(calls) = calls else {
            return known.or_else(|| Some(Rc::new(Place { kind, frame_words, calls: Vec::new() })));
        };
        let place = Rc::new(Place { kind, frame_words, calls });
        // What will be given up goes on elsewhere in each frame.
        if pc == Some(at.pc) {
            self.places.insert(at.pc, Rc::clone(&place));
        }
        Some(place)
    }

    fn layout(&self) -> Option<Rc<Layout>> {
        if self.layout.get().is_none() {
            let read = match Layout::read(&self.memory, &self.tables, self.bias) {
                Ok(layout) => Ok(Rc::new(layout)),
                Err(Missing::NotYet) if self.tries.get() < MAX_TRIES => {
                    self.tries.set(self.tries.get() + 1);
                    return None;
                }
                Err(Missing::NotYet) => Err("no Java frames: its tables cannot be read".to_owned()),
                Err(Missing::Never(reason)) => Err(format!("no Java frames: {reason}")),
            };
            let _set_before = self.layout.set(read);
        }
        self.layout.get()?.as_ref().ok().map(Rc::clone)
    }

    fn interpreted(
        &mut self,
        layout: &Layout,
        at: Registers,
        read: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> (Vec<Frame>, Option<Registers>) {
        let next = by_frame_pointer(at, read);
        if !is_frame_pointer(at) {
            return (vec![unknown()], None);
        }
        let mut slot = |offset: i64| read(at.bp.checked_add_signed(offset)?);
        let frame = slot(METHOD).zip(slot(INSTRUCTION)).and_then(|(method, instruction)| {
            let method = self.method(layout, method)?;
            let instruction = method.instruction(instruction).ok()?;
            Some(frame(layout, &method, instruction, false))
        });
        // What was passed to it is its own stack's, and below where a compiled caller's goes on.
        let sp = slot(SENDER_SP);
        let next = next.zip(sp).filter(|(next, sp)| *sp >= next.sp && *sp - next.sp < MAX_FRAME);
        let next = next.map(|(next, sp)| Registers { sp, ..next });
        (vec![frame.unwrap_or_else(unknown)], next)
    }

    fn compiled(&mut self, layout: &Layout, calls: &[Call]) -> Vec<Frame> {
        let last = calls.len().saturating_sub(1);
        let mut frames = Vec::new();
        for (index, Call { method, instruction }) in calls.iter().enumerate() {
            frames.push(match self.method(layout, *method) {
                Some(method) => frame(layout, &method, *instruction, index < last),
                None => unknown(),
            });
        }
        if frames.is_empty() {
            frames.push(unknown());
        }
        frames
    }

    /// The method at an address; of a process that has ended, what is remembered.
    fn method(&mut self, layout: &Layout, address: u64) -> Option<Rc<Method>> {
        let known = self.methods.get(&address);
        if self.memory.word(address).is_none() {
            return known;
        }
        let method = Method::read(&self.memory, layout, address, known)?;
        self.methods.insert(address, Rc::clone(&method));
        Some(method)
    }
}

fn is_frame_pointer(at: Registers) -> bool {
    at.bp >= at.sp && at.bp - at.sp < MAX_FRAME && at.bp.is_multiple_of(8)
}

/// The caller of a frame whose pointer is the current one.
fn by_frame_pointer(at: Registers, read: &mut dyn FnMut(u64) -> Option<u64>) -> Option<Registers> {
    if !is_frame_pointer(at) {
        return None;
    }
    Some(Registers {
        bp: read(at.bp)?,
        pc: read(at.bp.checked_add(8)?)?,
        sp: at.bp.checked_add(16)?,
    })
}

/// The caller of a frame of a known size: below its return address is its caller's frame pointer.
fn by_size(
    place: &Place,
    at: Registers,
    read: &mut dyn FnMut(u64) -> Option<u64>,
) -> Option<Registers> {
    let sp = at.sp.checked_add(place.frame_words.checked_mul(8)?)?;
    if place.frame_words < 2 {
        return None;
    }
    Some(Registers { bp: read(sp.checked_sub(16)?)?, pc: read(sp.checked_sub(8)?)?, sp })
}

fn frame(layout: &Layout, method: &Method, instruction: Option<u16>, inlined: bool) -> Frame {
    let line = instruction.and_then(|instruction| method.line(layout, instruction));
    let class = names::class(&method.class);
    Frame {
        kind: owner::java(&class, method.file.as_deref()),
        symbol: Some(Symbol {
            function: owner::shortened(&names::function(&class, &method.name)),
            file: method.file.as_deref().map(owner::shortened),
            line,
            column: None,
            definition: false,
            generated: None,
        }),
        module: None,
        inlined,
    }
}

fn unknown() -> Frame {
    Frame { symbol: None, module: None, kind: FrameKind::Unknown, inlined: false }
}
