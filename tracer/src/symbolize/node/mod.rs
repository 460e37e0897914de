//! Frames of JavaScript in a Node.js process, as copied at an event, to functions, files and lines.
//!
//! May import `model`, the contract, `binary`, `host::proc::Root` and `owner`. What a frame refers to, its function's
//! `SharedFunctionInfo`, its bytecode and its code, outlives the call and is read from the
//! process's memory when a stack is resolved; what was read is kept. Invariants: memory of traced
//! processes is never trusted: every read is bounded, and an object is what its map says; a frame
//! whose parts contradict each other is unknown, never guessed.

mod engine;
mod heap;
mod original;
mod positions;
#[cfg(test)]
mod recorded;
mod scripts;
mod source_map;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

use tracer_ebpf::node::{
    BYTECODE_ARRAY, BYTECODE_OFFSET, FUNCTION_WORDS, MAX_STEPS, PC, TAG, TAG_MASK,
};
use tracer_ebpf::runtime::{END_TOO_DEEP, END_UNREADABLE, FRAME_BYTES};

pub(super) use self::engine::Engine;
use self::heap::{Heap, Memory, Object, small_integer, word};
use self::original::{Maps, Sources};
use self::positions::{LineCounter, Lines, Position, bytecode_offset, position};
use self::source_map::{CommentFinder, percent_decoded};
use super::cache::Cache;
use super::memory::{OF_STACK, ProcessMemory};
use super::owner;
use crate::host::proc::Root;
use crate::model::{Frame, FrameKind, Generated, Symbol};

/// Half the number of functions remembered for one process, and of scripts.
const CACHED_FUNCTIONS: usize = 2_048;
const CACHED_SCRIPTS: usize = 256;
/// Half the number of frames whose place is remembered.
const CACHED_PLACES: usize = 4_096;
/// Units of a name or path; a longer one is cut.
const MAX_NAME: u32 = 1_024;
/// Units of a script's text; lines beyond are not counted.
const MAX_TEXT: u32 = 64 << 20;
/// Bytes of a function's bytecode; longer ones have no lines in baseline code.
const MAX_BYTECODE: usize = 1 << 20;
/// Inlined calls within one another.
const MAX_INLINED: usize = 64;
/// Words of a scope among which the function's name is looked for, behind its variables.
const SCOPE_WORDS: usize = 8;
/// Units of a script's text before a function's definition among which its name is looked for.
const NAME_UNITS: u32 = 64;
/// Variables of a scope; more are kept elsewhere, and one word tells where.
const MAX_INLINE_LOCALS: usize = 75;

/// What code of V8's own is called where its symbols are known.
const BUILTINS: &str = "Builtins_";

impl Memory for ProcessMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
        self.fill(address, into)
    }
}

/// The engine of a process.
pub(super) struct Node(Isolates<ProcessMemory>);

impl Node {
    /// The engine that is mapped `bias` above its file's addresses; `None` when the process has
    /// ended.
    pub fn new(pid: u32, engine: Rc<Engine>, bias: u64) -> Option<Self> {
        let memory = ProcessMemory::of(pid)?;
        let root = Root::open(&PathBuf::from(format!("/proc/{pid}/root")));
        Some(Self::reading(memory, root, engine, bias))
    }

    pub fn reading(
        memory: ProcessMemory,
        root: Option<Root>,
        engine: Rc<Engine>,
        bias: u64,
    ) -> Self {
        Self(Isolates::new(memory, Maps::new(root), engine, bias))
    }

    /// Another stack is looked at.
    pub fn begin(&self) {
        self.0.memory.allow(OF_STACK);
    }

    /// The engine and where it is.
    #[cfg(feature = "recording")]
    pub fn engine(&self) -> (Engine, u64) {
        (Engine::clone(&self.0.engine), self.0.bias)
    }

    /// Names the frames, each with where its code goes on, and says why the outer end is missing.
    pub fn frames(&mut self, raw: &[[u8; FRAME_BYTES]], end: u32) -> (Vec<Called>, Option<String>) {
        let frames = raw.iter().map(|raw| self.0.called(raw)).collect();
        let reason = match end {
            END_TOO_DEEP => Some(format!("more than {MAX_STEPS} calls")),
            END_UNREADABLE => Some("a frame could not be read".to_owned()),
            _ => None,
        };
        (frames, reason)
    }

    /// Names the frames of a mark, whose places are those of what runs.
    pub fn marked(&mut self, text: &[u8]) -> Vec<Frame> {
        let mut frames = super::mark::frames(text);
        for frame in &mut frames {
            self.0.lead_back(frame);
        }
        frames
    }

    /// The paths of the scripts that are loaded; `None` before one is known by a stack.
    pub fn scripts(&self, writable: &[Range<u64>]) -> Option<BTreeSet<String>> {
        self.0.memory.allow(scripts::ALLOWANCE);
        Some(scripts::paths(&self.0.memory, &self.0.engine, self.0.known_script?, writable))
    }
}

/// One frame of the stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Called {
    /// Where its code goes on.
    pub pc: u64,
    /// Itself, and before it what was inlined into it.
    pub frames: Vec<Frame>,
}

/// A function that was compiled.
struct Function {
    /// What the object referred to: another one at the same address refers elsewhere.
    identity: [u64; 2],
    name: String,
    /// `None` for a function of V8's own.
    script: Option<Rc<Script>>,
    /// Where its definition is in the script.
    start: Option<u32>,
}

struct Script {
    identity: [u64; 2],
    file: Option<String>,
    lines: Option<Lines>,
    /// Lines before the text.
    first_line: u32,
    /// What the application's own was made from.
    sources: Option<Sources>,
}

/// What was found at a place.
#[derive(Clone)]
struct Place {
    /// Whose it was: another function may come to live there.
    function: Rc<Function>,
    frames: Rc<[Frame]>,
}

/// What optimised code says of itself for the case that it has to be given up.
struct Deoptimization(Vec<u64>);

impl Deoptimization {
    fn field(&self, index: usize) -> Option<u64> {
        self.0.get(index).copied()
    }

    fn count(&self, index: usize) -> Option<usize> {
        usize::try_from(small_integer(self.field(index)?)?).ok()
    }

    /// Where the call that returns to `offset` is over. Code that was given up while it waited for
    /// a call returns to the deoptimizer: each call that can has an exit to it, in their order
    /// behind the code, those taken at once before those taken at a return.
    fn call(&self, layout: &engine::Code, offset: u64) -> Option<u64> {
        // Behind the inlined calls: where the exits begin, how many there are of both kinds, and
        // for each three words, of which the last is where its call is over.
        let field = |index: usize| self.count(layout.inlinings + index);
        let (exits, eager, lazy) = (field(1)?, field(2)?, field(3)?);
        let Some(within) = offset.checked_sub(exits as u64).filter(|_| exits > 0) else {
            return (offset > 0).then_some(offset);
        };
        let [eager_bytes, lazy_bytes] = layout.exit_bytes;
        let within = within.checked_sub((eager as u64).checked_mul(eager_bytes)?)?;
        if !within.is_multiple_of(lazy_bytes) || within / lazy_bytes >= lazy as u64 {
            return None;
        }
        let entry = eager.checked_add(usize::try_from(within / lazy_bytes).ok()?)?;
        let call = field(entry.checked_mul(3)?.checked_add(4 + 2)?)? as u64;
        (call > 0 && call < exits as u64).then_some(call)
    }
}

struct Isolates<M> {
    memory: M,
    maps: Maps,
    engine: Rc<Engine>,
    bias: u64,
    functions: Cache<u64, Rc<Function>>,
    scripts: Cache<u64, Rc<Script>>,
    known_script: Option<scripts::Known>,
    /// What scripts that are known by their path alone were made from.
    files: Cache<String, Option<Rc<Sources>>>,
    /// By function, code and place in it, all as the frame has them: V8 drops the bytecode and the
    /// code of functions that were not called for a while.
    places: Cache<[u64; 4], Place>,
}

impl<M: Memory> Isolates<M> {
    fn new(memory: M, maps: Maps, engine: Rc<Engine>, bias: u64) -> Self {
        let (functions, scripts) = (Cache::new(CACHED_FUNCTIONS), Cache::new(CACHED_SCRIPTS));
        let (files, places) = (Cache::new(CACHED_SCRIPTS), Cache::new(CACHED_PLACES));
        Self { memory, maps, engine, bias, functions, scripts, known_script: None, files, places }
    }

    fn heap(&self) -> Heap<'_, M> {
        Heap { memory: &self.memory, engine: &self.engine }
    }

    fn called(&mut self, raw: &[u8; FRAME_BYTES]) -> Called {
        let pc = word(raw, PC * 8).unwrap_or_default();
        Called { pc, frames: self.frames(raw, pc).unwrap_or_else(|| vec![unknown()]) }
    }

    fn frames(&mut self, raw: &[u8; FRAME_BYTES], pc: u64) -> Option<Vec<Frame>> {
        let at = |index: usize| word(raw, index * 8);
        let shared = at(FUNCTION_WORDS + self.engine.function_shared)?;
        let code = at(FUNCTION_WORDS + self.engine.function_code)?;
        let (bytecode, offset) = (at(BYTECODE_ARRAY)?, at(BYTECODE_OFFSET)?);
        let object = self.heap().object(shared);
        let function = self.function(shared, object.as_ref())?;
        let place = match small_integer(offset) {
            Some(_) => [shared, bytecode, offset, 0],
            None => [shared, code, 0, pc],
        };
        let own = object.and_then(|object| self.bytecode_of(&object));
        let kind = self.engine.types.bytecode;
        let is_own = own.as_ref().is_some_and(|own| own.address | TAG == bytecode);
        let of_frame = if is_own { None } else { self.heap().typed(bytecode, kind) };
        if own.is_some() && of_frame.is_some() {
            // Another function lives where this one's was.
            return None;
        }
        if is_own
            && small_integer(offset).is_some()
            && let Some(known) = self.known(&place, &function)
        {
            return Some(known);
        }
        let of_frame = if is_own { own.as_ref() } else { of_frame.as_ref() };
        if let (Some(offset), Some(bytecode)) = (small_integer(offset), of_frame) {
            // From the tagged pointer to the array.
            let data = u64::try_from(self.engine.bytecode_data).ok()?;
            let offset = u64::try_from(offset).ok()?.checked_sub(data - TAG)?;
            let frames = vec![frame(&function, self.at_bytecode(bytecode, offset), false)];
            return Some(self.remembered(place, &function, frames));
        }
        // What it ran then, as far as that is known, and what it has now.
        let code = self.code(code).into_iter().chain(self.data_of(shared));
        let bytecode = own.as_ref().or(of_frame);
        let mut code = code.collect::<Vec<_>>().into_iter();
        let compiled = code.find_map(|code| self.compiled(shared, &function, &code, bytecode, pc));
        let frames = compiled.unwrap_or_else(|| vec![frame(&function, None, false)]);
        Some(self.remembered(place, &function, frames))
    }

    /// The frames of a place, those that were found before where it is not known any more.
    fn remembered(
        &mut self,
        place: [u64; 4],
        function: &Rc<Function>,
        frames: Vec<Frame>,
    ) -> Vec<Frame> {
        let is_exact = |frame: &Frame| {
            frame.symbol.as_ref().is_some_and(|symbol| symbol.line.is_some() && !symbol.definition)
        };
        if frames.iter().all(is_exact) {
            let found = Place { function: Rc::clone(function), frames: frames.as_slice().into() };
            self.places.insert(place, found);
            return frames;
        }
        self.known(&place, function).unwrap_or(frames)
    }

    /// What was found before at a place, if it was this function's.
    fn known(&mut self, place: &[u64; 4], function: &Rc<Function>) -> Option<Vec<Frame>> {
        let known = self.places.get(place)?;
        Rc::ptr_eq(&known.function, function).then(|| known.frames.to_vec())
    }

    /// The place of an instruction in its script.
    fn at_bytecode(&self, bytecode: &Object, offset: u64) -> Option<u32> {
        let table = self.heap().table(bytecode.word(self.engine.bytecode_positions)?)?;
        position(&table, offset)?.at
    }

    /// The frames of code that was compiled, which goes on at `pc`.
    fn compiled(
        &mut self,
        shared: u64,
        function: &Function,
        code: &Object,
        bytecode: Option<&Object>,
        pc: u64,
    ) -> Option<Vec<Frame>> {
        let engine = Rc::clone(&self.engine);
        let layout = engine.code.as_ref()?;
        if code.kind != engine.types.code {
            return None;
        }
        let start = if layout.is_pointer {
            code.word(layout.start)?
        } else {
            code.address.checked_add(layout.start as u64)?
        };
        let offset = pc.checked_sub(start)?;
        // `pc` is behind a call.
        if offset == 0 || offset > u64::from(code.half(layout.size)?) {
            return None;
        }
        let kind = code.half(layout.flags)? & 15;
        let positions = self.heap().table(code.word(layout.positions)?)?;
        if kind == layout.baseline {
            let bytecode = bytecode?;
            let length = usize::try_from(small_integer(bytecode.word(8)?)?).ok()?;
            if length > MAX_BYTECODE {
                return None;
            }
            let data = bytecode.address.checked_add(engine.bytecode_data as u64)?;
            let bytes = self.heap().bytes(data, length)?;
            let offset = bytecode_offset(&positions, &bytes, &layout.bytecode_sizes, offset)?;
            return Some(vec![frame(function, self.at_bytecode(bytecode, offset), false)]);
        }
        if kind < layout.baseline {
            return None;
        }
        let data = Deoptimization(self.heap().array(code.word(layout.deoptimization)?)?);
        // Before the inlined calls, the function or an object that wraps it.
        let of_code = self.heap().object(data.field(layout.inlinings.checked_sub(1)?)?)?;
        let is_shared = of_code.kind == engine.types.shared;
        let of_code = if is_shared { of_code.address } else { of_code.word(8)? & !TAG_MASK };
        if of_code != shared & !TAG_MASK {
            // Another function lives where this one's was.
            return Some(vec![unknown()]);
        }
        let mut place = position(&positions, data.call(layout, offset)? - 1)?;
        let mut frames = Vec::new();
        if place.inlining != 0 {
            let inlined = self.heap().array(data.field(layout.literals)?)?;
            let inlined = inlined.get(..data.count(layout.inlined_count)?)?;
            let calls = self.heap().table(data.field(layout.inlinings)?)?;
            while place.inlining != 0 {
                if frames.len() >= MAX_INLINED {
                    return None;
                }
                let at = usize::from(place.inlining - 1) * 16;
                let index = usize::try_from(word(&calls, at + 8)? as u32 as i32).ok()?;
                // The lowest bits may say that the array does not keep it.
                let callee = (*inlined.get(index)? & !TAG_MASK) | TAG;
                let object = self.heap().object(callee);
                let callee = self.function(callee, object.as_ref())?;
                frames.push(frame(&callee, place.at, true));
                let next = Position::unpack(word(&calls, at)?);
                if next.inlining >= place.inlining {
                    return None;
                }
                place = next;
            }
        }
        frames.push(frame(function, place.at, false));
        Some(frames)
    }

    /// The function at an address, from its object; of a process that has ended, what is remembered.
    fn function(&mut self, shared: u64, object: Option<&Object>) -> Option<Rc<Function>> {
        let known = self.functions.get(&shared);
        let Some(object) = object else { return known };
        let engine = Rc::clone(&self.engine);
        if object.kind != engine.types.shared {
            return None;
        }
        let (name, script) = (object.word(engine.shared_name)?, object.word(engine.shared_script)?);
        let identity = [name, script];
        if let Some(known) = known.filter(|known| known.identity == identity) {
            return Some(known);
        }
        let (name, start) = self.name(name)?;
        let script = self.script(script);
        let original = script.as_ref().and_then(|script| self.original_name(script, &name, start?));
        let name = original.unwrap_or(name);
        let function = Rc::new(Function { identity, name, script, start });
        self.functions.insert(shared, Rc::clone(&function));
        Some(function)
    }

    /// What a function was called before a compiler gave it a shorter name: its source map says so
    /// where the name is, before the definition.
    fn original_name(&self, script: &Script, name: &str, start: u32) -> Option<String> {
        let sources = script.sources.as_ref()?;
        let from = start.saturating_sub(NAME_UNITS);
        let mut text = Vec::new();
        self.heap().some_units(script.identity[1], from, start - from, &mut |unit| {
            text.push(unit);
        })?;
        let name: Vec<u16> = name.encode_utf16().collect();
        // The whole word.
        let is_of_name = |unit: Option<&u16>| {
            let unit = unit.and_then(|unit| char::from_u32(u32::from(*unit)));
            unit.is_some_and(|unit| unit.is_alphanumeric() || matches!(unit, '_' | '$'))
        };
        let found = (0..text.len()).rev().find(|&at| {
            text[at..].starts_with(&name)
                && !is_of_name(text.get(at + name.len()))
                && !is_of_name(at.checked_sub(1).and_then(|before| text.get(before)))
        })?;
        let at = from.checked_add(u32::try_from(found).ok()?)?;
        let (line, column) = script.lines.as_ref()?.of(at)?;
        Some(sources.at(line, column)?.name?.to_owned())
    }

    /// A function's name and where it begins, from the name alone or from what describes its scope.
    /// `None` when they cannot be read now: V8 may be moving them.
    fn name(&self, pointer: u64) -> Option<(String, Option<u32>)> {
        let heap = self.heap();
        let named = |name: Option<String>| {
            name.filter(|name| !name.is_empty()).unwrap_or_else(|| "(anonymous)".to_owned())
        };
        if small_integer(pointer).is_some() {
            return Some((named(None), None));
        }
        let object = heap.object(pointer)?;
        if heap.is_string(&object) {
            return Some((named(Some(heap.string(pointer, MAX_NAME)?)), None));
        }
        if object.kind != self.engine.types.scope {
            return None;
        }
        let (name, start) = self.scope(&object)?;
        Some((named(name), start))
    }

    fn scope(&self, scope: &Object) -> Option<(Option<String>, Option<u32>)> {
        let heap = self.heap();
        let engine = &self.engine;
        let word_at = |index: usize| scope.word(8 + index * 8);
        let locals = usize::try_from(small_integer(word_at(engine.scope_locals)?)?).ok()?;
        // Names, and a word about each.
        let variables = match locals {
            0..MAX_INLINE_LOCALS => 2 * locals,
            _ => locals.checked_add(1)?,
        };
        let first = engine.scope_first.checked_add(variables)?.checked_add(1)?.checked_mul(8)?;
        let mut words = [0; SCOPE_WORDS * 8];
        let from = scope.address.checked_add(u64::try_from(first).ok()?)?;
        heap.memory
            .read(from, &mut words)
            .or_else(|| heap.memory.read(from, &mut words[..SCOPE_WORDS * 4]))?;
        let words: &[[u8; 8]] = words.as_chunks().0;
        let mut name = None;
        let mut numbers: Vec<u32> = Vec::new();
        let mut start = engine
            .scope_position
            .and_then(|index| u32::try_from(small_integer(word_at(index)?)?).ok());
        // The name and its variable's place, the name that was inferred, start and end; each may
        // be absent. What follows is the scope around, or another object.
        let own = if start.is_some() { 3 } else { SCOPE_WORDS };
        for bytes in words.iter().take(own) {
            let word = u64::from_le_bytes(*bytes);
            if let Some(number) = small_integer(word) {
                numbers.push(number.cast_unsigned());
                continue;
            }
            if numbers.len() >= 2 {
                if let (None, [.., from, to]) = (start, &numbers[..])
                    && from < to
                {
                    start = Some(*from);
                }
                break;
            }
            numbers.clear();
            if name.is_some() || word & TAG_MASK != TAG {
                continue;
            }
            let object = heap.object(word)?;
            if object.kind == engine.types.scope {
                break;
            }
            if heap.is_string(&object) {
                name = Some(heap.string(word, MAX_NAME)?).filter(|name| !name.is_empty());
            }
        }
        Some((name, start))
    }

    /// What a function's word about its code leads to.
    fn code(&self, word: u64) -> Option<Object> {
        let Some(dispatch) = self.engine.dispatch else { return self.heap().object(word) };
        let at = |address: u64| {
            let mut word = [0; 8];
            self.memory.read(address, &mut word)?;
            Some(u64::from_le_bytes(word))
        };
        let table = at(at(dispatch.group.wrapping_add(self.bias))?.checked_add(dispatch.table)?)?;
        // The handle is the lower half; an entry is the entry point and the code.
        let index = u64::from(word as u32 >> 8);
        let entry = at(table.checked_add(index * 16)?.checked_add(8)?)?;
        self.heap().object((entry >> 16) | TAG)
    }

    /// What a function was compiled to.
    fn data_of(&self, shared: u64) -> Option<Object> {
        let heap = self.heap();
        heap.object(heap.object(shared)?.word(self.engine.shared_data)?)
    }

    /// The bytecode of a function's object, when it has some now.
    fn bytecode_of(&self, shared: &Object) -> Option<Object> {
        let (heap, engine) = (self.heap(), &self.engine);
        let types = &engine.types;
        let mut object = heap.object(shared.word(engine.shared_data)?)?;
        for _ in 0..3 {
            let next = match object.kind {
                kind if kind == types.bytecode => return Some(object),
                kind if kind == types.interpreter_data => object.word(8)?,
                kind if kind == types.baseline_data && kind != 0 => object.word(16)?,
                kind if kind == types.code => object.word(engine.code.as_ref()?.deoptimization)?,
                _ => return None,
            };
            object = heap.object(next)?;
        }
        None
    }

    /// Shows a place of a script in what the script was made from.
    fn lead_back(&mut self, frame: &mut Frame) {
        let Some(symbol) = frame.symbol.as_mut().filter(|_| frame.kind == FrameKind::App) else {
            return;
        };
        let Some(file) = symbol.file.clone() else { return };
        let sources = self.files.get(&file).unwrap_or_else(|| {
            let found = self.maps.of_file(&file).map(Rc::new);
            self.files.insert(file, found.clone());
            found
        });
        if let Some(sources) = sources {
            frame.kind = made_from(&sources, symbol.line.zip(symbol.column), symbol);
        }
    }

    /// The script that a function is in.
    fn script(&mut self, pointer: u64) -> Option<Rc<Script>> {
        let engine = Rc::clone(&self.engine);
        let object = self.heap().typed(pointer, engine.types.script)?;
        self.known_script =
            object.word(0).map(|map| scripts::Known { address: object.address, map });
        let (name, source) = (object.word(engine.script_name)?, object.word(engine.script_source)?);
        let identity = [name, source];
        let known = self.scripts.get(&pointer).filter(|known| known.identity == identity);
        if let Some(known) = known {
            return Some(known);
        }
        let file = self.heap().string(name, MAX_NAME).filter(|name| !name.is_empty());
        let file = file.map(|name| path(&name));
        let (lines, map) =
            self.text(object.word(engine.script_line_ends)?, source, file.as_deref());
        let sources = file.as_deref().zip(map).and_then(|(file, url)| self.maps.find(file, &url));
        let script = Rc::new(Script {
            identity,
            file,
            lines,
            sources,
            // Behind the name.
            first_line: object
                .word(engine.script_name + 8)
                .and_then(small_integer)
                .and_then(|line| u32::try_from(line).ok())
                .unwrap_or_default(),
        });
        self.scripts.insert(pointer, Rc::clone(&script));
        Some(script)
    }

    /// Where the lines of a script's text begin, and the URL of its source map: libraries are shown
    /// as they are installed.
    fn text(&self, ends: u64, source: u64, file: Option<&str>) -> (Option<Lines>, Option<String>) {
        let heap = self.heap();
        let known = heap.array(ends).map(|ends| {
            let ends = ends.into_iter().map_while(small_integer);
            Lines::from_ends(ends.map(i32::cast_unsigned))
        });
        let is_own = owner::script(file) == FrameKind::App;
        if known.is_some() && !is_own {
            return (known, None);
        }
        let (mut counter, mut finder) = (LineCounter::default(), CommentFinder::default());
        let read = heap.units(source, MAX_TEXT, &mut |unit| {
            counter.push(unit);
            finder.push(unit);
        });
        let url = finder.finish().filter(|_| is_own && read.is_some());
        (known.or_else(|| read.map(|()| counter.lines())), url)
    }
}

/// The frame of a function at a place of its script; where that is not known, at its definition.
fn frame(function: &Function, at: Option<u32>, inlined: bool) -> Frame {
    let script = function.script.as_deref();
    let place = script.and_then(|script| script.lines.as_ref()?.of(at.or(function.start)?));
    let file = script.and_then(|script| script.file.as_deref());
    let mut symbol = Symbol {
        function: owner::shortened(&function.name),
        file: file.map(owner::shortened),
        line: place.zip(script).map(|((line, _), script)| line.saturating_add(script.first_line)),
        column: place.map(|(_, column)| column),
        definition: at.is_none() && place.is_some(),
        generated: None,
    };
    let kind = match script {
        Some(Script { sources: Some(sources), .. }) => made_from(sources, place, &mut symbol),
        Some(_) => owner::script(file),
        None => FrameKind::Runtime,
    };
    Frame { kind, symbol: Some(symbol), module: None, inlined }
}

/// Replaces a place in a generated script by that in what it was made from, and says whose that is.
/// What was made from nothing is a compiler's own, or a bundler's.
fn made_from(sources: &Sources, place: Option<(u32, u32)>, symbol: &mut Symbol) -> FrameKind {
    let Some(original) = place.and_then(|(line, column)| sources.at(line, column)) else {
        return FrameKind::Library;
    };
    let file = symbol.file.replace(owner::shortened(&original.file)).unwrap_or_default();
    let line = symbol.line.replace(original.line);
    let column = symbol.column.replace(original.column);
    symbol.generated = Some(Generated { file, line, column });
    owner::original(&original.file)
}

fn unknown() -> Frame {
    Frame { symbol: None, module: None, kind: FrameKind::Unknown, inlined: false }
}

/// The path of a script that is named by one or by a `file:` URL.
pub(super) fn path(name: &str) -> String {
    match name.strip_prefix("file://") {
        Some(encoded) => String::from_utf8_lossy(&percent_decoded(encoded)).into_owned(),
        None => name.to_owned(),
    }
}

/// One stack of both: JavaScript's frames are put where their code is among the native ones, whose
/// copy may end before. `native` has the address of each frame; `is_foreign` says of an address
/// that compiled code is there which is not V8's to make.
pub(super) fn merge(
    native: Vec<(u64, Frame)>,
    called: Vec<Called>,
    mut is_foreign: impl FnMut(u64) -> bool,
) -> Vec<Frame> {
    let mut called: Vec<Called> = called.into_iter().filter(|c| !is_foreign(c.pc)).collect();
    let mut frames = Vec::new();
    for (address, frame) in native {
        if let Some(index) = called.iter().position(|called| called.pc == address) {
            frames.extend(called.drain(..=index).flat_map(|called| called.frames));
        } else if !is_engine(&frame) {
            frames.push(frame);
        }
    }
    frames.extend(called.into_iter().flat_map(|called| called.frames));
    frames
}

/// Code that V8 made for itself, or has brought along.
fn is_engine(frame: &Frame) -> bool {
    match &frame.symbol {
        None => frame.module.is_none(),
        Some(symbol) => symbol.function.starts_with(BUILTINS),
    }
}

/// Whether native code at an address is not V8's own, by what its frame says.
pub(super) fn is_foreign(frame: &Frame) -> bool {
    frame.module.is_some()
        && frame.symbol.as_ref().is_some_and(|symbol| !symbol.function.starts_with(BUILTINS))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::engine::{Code, Types};
    use super::*;

    const BASE: u64 = 0x1_0000;

    /// Some bytes, the rest is not there.
    struct Bytes(Vec<u8>);

    impl Memory for Bytes {
        fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
            let start = usize::try_from(address.checked_sub(BASE)?).ok()?;
            let bytes = self.0.get(start..start.checked_add(into.len())?)?;
            into.copy_from_slice(bytes);
            Some(())
        }
    }

    /// V8 11.3, in Node.js 20.
    fn engine() -> Engine {
        Engine {
            type_at: 12,
            types: Types {
                first_non_string: 128,
                shared: 262,
                script: 167,
                scope: 261,
                bytecode: 191,
                code: 245,
                interpreter_data: 159,
                baseline_data: 0,
                byte_arrays: [190, 0],
                pointer_arrays: [175, 240, 0, 0, 0, 0],
            },
            function_shared: 0,
            function_code: 3,
            shared_name: 16,
            shared_data: 8,
            shared_script: 32,
            script_name: 16,
            script_source: 8,
            script_line_ends: 56,
            bytecode_positions: 32,
            bytecode_data: 54,
            scope_locals: 2,
            scope_first: 3,
            scope_position: None,
            code: Some(Code {
                deoptimization: 16,
                positions: 24,
                start: 40,
                is_pointer: true,
                size: 56,
                flags: 48,
                baseline: 11,
                inlined_count: 1,
                literals: 2,
                inlinings: 7,
                exit_bytes: [4, 4],
                bytecode_sizes: [vec![2; 190], vec![3; 190], vec![5; 190]],
            }),
            dispatch: None,
        }
    }

    /// A heap that is written object by object.
    #[derive(Default)]
    struct Writer(Vec<u8>);

    impl Writer {
        /// Writes an object of a type, from its map on, and gives the pointer to it.
        fn object(&mut self, kind: u16, rest: &[u8]) -> u64 {
            let map = self.raw(&[&[0; 12][..], &kind.to_le_bytes()].concat());
            self.raw(&[&(map | TAG).to_le_bytes()[..], rest].concat()) | TAG
        }

        fn words(&mut self, kind: u16, rest: &[u64]) -> u64 {
            let bytes: Vec<u8> = rest.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.object(kind, &bytes)
        }

        fn string(&mut self, text: &str) -> u64 {
            // A hash, the length, and the characters, of one byte each.
            let length = (text.len() as u32).to_le_bytes();
            self.object(ONE_BYTE, &[&[0; 4][..], &length, text.as_bytes()].concat())
        }

        fn bytes(&mut self, bytes: &[u8]) -> u64 {
            self.object(190, &[&small(bytes.len() as i32).to_le_bytes()[..], bytes].concat())
        }

        fn raw(&mut self, bytes: &[u8]) -> u64 {
            let at = BASE + self.0.len() as u64;
            self.0.extend(bytes);
            let end = self.0.len().next_multiple_of(8);
            self.0.resize(end, 0);
            at
        }
    }

    const ONE_BYTE: u16 = 8;

    fn small(number: i32) -> u64 {
        u64::from(number.cast_unsigned()) << 32
    }

    /// A function of three lines whose bytecode calls at 0 in its second and at 5 in its third.
    struct Sample {
        writer: Writer,
        shared: u64,
        bytecode: u64,
    }

    fn sample(name: &str) -> Sample {
        sample_with(name, 8, "")
    }

    /// The same with another beginning of the function, and with more text.
    fn sample_with(name: &str, start: i32, end: &str) -> Sample {
        let mut writer = Writer::default();
        let name = writer.string(name);
        // Flags, parameters, locals, the name and its place, start and end, the scope around.
        let words = [0, 0, 0, name, small(-1), small(start), small(40), BASE | TAG];
        let scope = writer.words(261, &words);
        let text = format!("// first\nasync function f() {{\n  g();\n}}\n{end}");
        let source = writer.string(&text);
        let file = writer.string("file:///srv/a%20b.mjs");
        let script = writer.words(167, &[source, file, 0, 0, 0, 0, small(0)]);
        // Offset 0 at 10, and 5 bytes on at 30, as differences: doubled for the sign, and places doubled
        // before, from one.
        let positions = writer.bytes(&[2, 44, 10, 80]);
        let mut array = Vec::new();
        for word in [small(12), 0, 0, positions] {
            array.extend(word.to_le_bytes());
        }
        array.resize(54 + 12 - 8, 0);
        let bytecode = writer.object(191, &array);
        let shared = writer.words(262, &[bytecode, scope, 0, script]);
        // Objects are read with what follows them.
        writer.raw(&[0; 256]);
        Sample { writer, shared, bytecode }
    }

    fn raw(words: [(usize, u64); 5]) -> [u8; FRAME_BYTES] {
        let mut raw = [0; FRAME_BYTES];
        for (index, word) in words {
            raw[index * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        raw
    }

    fn resolve(sample: Sample, offset: u64, shared: u64) -> Vec<Frame> {
        let Sample { writer, bytecode, .. } = sample;
        let mut node = Isolates::new(Bytes(writer.0), Maps::new(None), Rc::new(engine()), 0);
        let raw = raw([
            (BYTECODE_OFFSET, offset),
            (BYTECODE_ARRAY, bytecode),
            (FUNCTION_WORDS, shared),
            (FUNCTION_WORDS + 3, 0),
            (PC, 0x1234),
        ]);
        let called = node.called(&raw);
        assert_eq!(called.pc, 0x1234);
        called.frames
    }

    #[test]
    fn an_interpreted_frame_is_at_the_line_of_its_call() {
        for (offset, line, column) in [(0, 2, 2), (4, 2, 2), (5, 3, 1), (11, 3, 1)] {
            let sample = sample("f");
            let shared = sample.shared;
            let frames = resolve(sample, small(offset + 53), shared);
            let symbol = Symbol {
                function: "f".to_owned(),
                file: Some("/srv/a b.mjs".to_owned()),
                line: Some(line),
                column: Some(column),
                definition: false,
                generated: None,
            };
            let kind = FrameKind::App;
            let frame = Frame { symbol: Some(symbol), module: None, kind, inlined: false };
            assert_eq!(frames, [frame], "at {offset}");
        }
    }

    /// The frame at a place of a script with a map of these mappings in its text.
    fn mapped(mappings: &str, offset: i32) -> Frame {
        let map = format!(
            "{{'version':3,'sources':['../src/a.ts','webpack://a/./node_modules/pg/lib/client.js'],\
             'names':['long'],'mappings':'{mappings}'}}"
        );
        let url = map.replace('\'', "%22");
        let end = format!("//# sourceMappingURL=data:application/json,{url}\n");
        let sample = sample_with("f", 25, &end);
        let shared = sample.shared;
        resolve(sample, small(offset + 53), shared).remove(0)
    }

    /// Its kind and place, and what runs.
    fn shown(frame: &Frame) -> (FrameKind, String, Option<String>) {
        let place = |file: &str, line: Option<u32>, column: Option<u32>| {
            format!("{file}:{}:{}", line.unwrap(), column.unwrap())
        };
        let symbol = frame.symbol.as_ref().unwrap();
        let at = place(symbol.file.as_deref().unwrap(), symbol.line, symbol.column);
        let generated = symbol.generated.as_ref();
        let generated = generated.map(|at| place(&at.file, at.line, at.column));
        (frame.kind, format!("{} {at}", symbol.function), generated)
    }

    #[test]
    fn a_map_leads_to_what_a_script_was_made_from() {
        let mappings = ";AAIE,eAAAA;ACKA";
        let own = (FrameKind::App, "long /src/a.ts:5:3".to_owned());
        let (kind, at, generated) = shown(&mapped(mappings, 0));
        assert_eq!(((kind, at), generated.as_deref()), (own, Some("/srv/a b.mjs:2:2")));
        let drivers = (FrameKind::Driver, "long node_modules/pg/lib/client.js:10:3".to_owned());
        let (kind, at, generated) = shown(&mapped(mappings, 5));
        assert_eq!(((kind, at), generated.as_deref()), (drivers, Some("/srv/a b.mjs:3:1")));
        // What was made from nothing is nobody's to change.
        let place = "f /srv/a b.mjs:2:2".to_owned();
        assert_eq!(shown(&mapped(";;;AAAA", 0)), (FrameKind::Library, place.clone(), None));
        for broken in ["", "!", "AAAA,AADA", "A"] {
            assert_eq!(shown(&mapped(broken, 0)), (FrameKind::App, place.clone(), None));
        }
    }

    #[test]
    fn a_frame_that_says_no_place_is_at_its_definition() {
        let sample = sample("");
        let shared = sample.shared;
        let frames = resolve(sample, 0x55, shared);
        let symbol = frames[0].symbol.as_ref().unwrap();
        assert_eq!((symbol.function.as_str(), symbol.line), ("(anonymous)", Some(1)));
        assert!(symbol.definition);
    }

    #[test]
    fn a_place_is_remembered_when_v8_has_dropped_the_bytecode() {
        let Sample { mut writer, shared, bytecode } = sample("f");
        let at = |pointer: u64| ((pointer & !TAG_MASK) - BASE) as usize;
        let raw = |offset| {
            raw([
                (BYTECODE_OFFSET, small(offset + 53)),
                (BYTECODE_ARRAY, bytecode),
                (FUNCTION_WORDS, shared),
                (FUNCTION_WORDS + 3, 0),
                (PC, 0x1234),
            ])
        };
        let mut node =
            Isolates::new(Bytes(writer.0.clone()), Maps::new(None), Rc::new(engine()), 0);
        let known = node.called(&raw(5));
        writer.0[at(bytecode)..][..8].fill(0);
        node.memory = Bytes(writer.0);
        assert_eq!(node.called(&raw(5)), known);
        let line = |called: &Called| {
            let symbol = called.frames[0].symbol.as_ref().unwrap();
            (symbol.line, symbol.definition)
        };
        assert_eq!(line(&known), (Some(3), false));
        assert_eq!(line(&node.called(&raw(0))), (Some(1), true), "a place that was not met before");
    }

    #[test]
    fn a_function_whose_bytecode_is_not_the_frames_is_unknown() {
        let mut sample = sample("f");
        let other = sample.writer.object(191, &[0; 64]);
        let word = BASE as usize;
        let at = (sample.shared & !TAG_MASK) as usize - word + 8;
        sample.writer.0[at..at + 8].copy_from_slice(&other.to_le_bytes());
        sample.writer.raw(&[0; 256]);
        let shared = sample.shared;
        assert_eq!(resolve(sample, small(53), shared), [unknown()]);
    }

    #[test]
    fn what_is_no_function_is_unknown() {
        for shared in [0, TAG, BASE | TAG, u64::MAX, u64::MAX - 2] {
            assert_eq!(resolve(sample("f"), small(53), shared), [unknown()], "{shared:#x}");
        }
    }

    #[test]
    fn javascript_is_put_where_its_code_is_among_native_frames() {
        let native = |name: &str| Frame {
            symbol: Some(Symbol {
                function: name.to_owned(),
                file: None,
                line: None,
                column: None,
                definition: false,
                generated: None,
            }),
            module: Some("node".to_owned()),
            kind: FrameKind::Runtime,
            inlined: false,
        };
        let called = |pc, names: &[&str]| Called {
            pc,
            frames: names.iter().map(|name| native(name)).collect(),
        };
        let stack = vec![
            (1, native("write")),
            (2, native("Builtins_CEntry")),
            (7, native("Builtins_InterpreterEntryTrampoline")),
            (7, native("Builtins_InterpreterEntryTrampoline")),
            (3, unknown()),
            (4, native("Invoke")),
        ];
        let javascript = vec![
            called(7, &["inlined", "f"]),
            called(9, &["foreign"]),
            called(7, &["g"]),
            called(8, &["h"]),
        ];
        let merged = merge(stack, javascript, |pc| pc == 9);
        let names: Vec<_> =
            merged.iter().map(|frame| frame.symbol.as_ref().unwrap().function.as_str()).collect();
        assert_eq!(names, ["write", "inlined", "f", "g", "Invoke", "h"]);
    }

    #[test]
    fn urls_and_paths_of_scripts_are_paths() {
        for (name, expected) in [
            ("/srv/100%.js", "/srv/100%.js"),
            ("file:///srv/a.mjs", "/srv/a.mjs"),
            ("file:///srv/gr%C3%B6%C3%9Fe%zz%4", "/srv/größe%zz%4"),
            ("node:net", "node:net"),
        ] {
            assert_eq!(path(name), expected);
        }
    }

    /// Words that lead somewhere in a heap of a few kilobytes, and types that mean something.
    fn word_of_a_heap() -> impl Strategy<Value = u64> {
        let kind = prop::sample::select(vec![262_u64, 261, 167, 191, 245, 190, 175, 8, 1, 2, 3, 5]);
        prop_oneof![
            8 => (0_u64..512).prop_map(|word| (BASE + 8 * word) | TAG),
            // Where a map has its type.
            4 => kind.prop_map(|kind| kind << 32),
            2 => (0_i32..64).prop_map(small),
            1 => any::<u64>(),
        ]
    }

    proptest! {
        #[test]
        fn any_memory_gives_bounded_frames(
            memory in prop::collection::vec(word_of_a_heap(), 512),
            raw in prop::collection::vec(word_of_a_heap(), FRAME_BYTES / 8),
        ) {
            let bytes = memory.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut node = Isolates::new(Bytes(bytes), Maps::new(None), Rc::new(engine()), 0);
            let raw: Vec<u8> = raw.iter().flat_map(|word| word.to_le_bytes()).collect();
            let called = node.called(raw.first_chunk().unwrap());
            prop_assert!((1..=MAX_INLINED + 1).contains(&called.frames.len()));
        }
    }
}
