//! Java's methods in the memory of a process: their names, files and lines.
//!
//! Invariants: memory of traced processes is never trusted; every text and table is bounded, and a
//! method is believed only if its class and its constants refer to each other. Sources: OpenJDK's
//! `share/oops/constMethod.hpp`, `constantPool.hpp`, `instanceKlass.hpp`, `symbol.hpp`.

use std::rc::Rc;

use super::compressed;
use super::layout::{Field, Layout, SourceFile};
use super::memory::Memory;

/// Bytes of a name or of a file's name; longer ones are not read whole.
const MAX_NAME: usize = 2048;
/// Bytes of a line table; of a longer one no line is known.
const MAX_LINES: usize = 32 << 10;
/// [`Layout::const_flags`]: there is a line table.
const HAS_LINES: u64 = 1;

/// A method.
pub(super) struct Method {
    /// What it referred to: another one at the same address refers elsewhere.
    identity: Identity,
    /// With its package, as the language writes it but for what is generated.
    pub class: String,
    pub name: String,
    pub file: Option<String>,
    /// Address of its first instruction.
    code: u64,
    /// Bytes of its instructions: none where it is native.
    len: u16,
    lines: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    constant: u64,
    pool: u64,
    name: u64,
    class: u64,
}

impl Method {
    /// The method at an address: read, unless it is the one that is known.
    pub fn read<M: Memory>(
        memory: &M,
        layout: &Layout,
        address: u64,
        known: Option<Rc<Self>>,
    ) -> Option<Rc<Self>> {
        if !address.is_multiple_of(8) {
            return None;
        }
        let method = memory.bytes(address, layout.method_const.at + 8)?;
        let constant = layout.method_const.of(&method)?;
        let bytes = memory.bytes(constant, layout.const_size)?;
        let pool = layout.const_pool.of(&bytes)?;
        let pool_bytes = memory.bytes(pool, layout.pool_size)?;
        let class = layout.pool_class.of(&pool_bytes)?;
        let class_bytes = memory.bytes(class, layout.class_size)?;
        if layout.class_pool.of(&class_bytes)? != pool {
            return None;
        }
        let constants = Constants { memory, layout, pool, len: layout.pool_len.of(&pool_bytes)? };
        let class = layout.class_name.of(&class_bytes)?;
        let name = constants.entry(layout.const_name.of(&bytes)?)?;
        let identity = Identity { constant, pool, name, class };
        if let Some(known) = known.filter(|known| known.identity == identity) {
            return Some(known);
        }
        let file = match layout.source_file {
            SourceFile::OfPool(field) => field.of(&pool_bytes)?,
            SourceFile::OfClass(field) => field.of(&class_bytes)?,
        };
        let len = u16::try_from(layout.const_code.of(&bytes)?).ok()?;
        let code = constant.checked_add(layout.const_size as u64)?;
        let has_lines = layout.const_flags.of(&bytes)? & HAS_LINES != 0;
        let lines = has_lines.then(|| {
            // To the end of all that the method has of this kind.
            let all = usize::try_from(layout.const_words.of(&bytes)?).ok()?.checked_mul(8)?;
            let rest = all.checked_sub(layout.const_size)?.checked_sub(usize::from(len))?;
            let bytes = memory.bytes(code.checked_add(u64::from(len))?, rest.min(MAX_LINES))?;
            Some(compressed::line_table(layout.numbers, &bytes).to_vec())
        });
        Some(Rc::new(Self {
            identity,
            class: symbol(memory, layout, class)?,
            name: symbol(memory, layout, name)?,
            file: match file {
                0 => None,
                index => constants.entry(index).and_then(|at| symbol(memory, layout, at)),
            },
            code,
            len,
            lines: lines.flatten().unwrap_or_default(),
        }))
    }

    /// Which instruction an address is; `Err` when it is none of this method.
    pub fn instruction(&self, address: u64) -> Result<Option<u16>, ()> {
        // The interpreter has none in native methods.
        if address == 0 || self.len == 0 {
            return Ok(None);
        }
        let index = address.checked_sub(self.code).and_then(|index| u16::try_from(index).ok());
        index.filter(|index| *index < self.len).map(Some).ok_or(())
    }

    pub fn line(&self, layout: &Layout, instruction: u16) -> Option<u32> {
        compressed::line(layout.numbers, &self.lines, instruction)
    }
}

/// The constants of a class.
struct Constants<'a, M> {
    memory: &'a M,
    layout: &'a Layout,
    pool: u64,
    len: u64,
}

impl<M: Memory> Constants<'_, M> {
    /// What an entry refers to.
    fn entry(&self, index: u64) -> Option<u64> {
        /// Says how far an entry is resolved.
        const TAG: u64 = 1;
        if index == 0 || index >= self.len {
            return None;
        }
        let at = self.pool.checked_add(self.layout.pool_size as u64)?.checked_add(index * 8)?;
        Some(self.memory.word(at)? & !TAG)
    }
}

/// A `Symbol`: a length and so many bytes.
fn symbol<M: Memory>(memory: &M, layout: &Layout, address: u64) -> Option<String> {
    let Field { at, .. } = layout.symbol_len;
    let head = memory.bytes(address, at + 8)?;
    let len = usize::try_from(layout.symbol_len.of(&head)?).ok()?;
    if len == 0 || len > MAX_NAME {
        return None;
    }
    let bytes = memory.bytes(address.checked_add(layout.symbol_body as u64)?, len)?;
    compressed::name(&bytes).filter(|name| !name.chars().any(char::is_control))
}
