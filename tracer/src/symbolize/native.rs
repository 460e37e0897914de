//! Addresses of ELF files to functions, files and lines.
//!
//! May import `blazesym` and this module's files. Invariants: a file is read through the module
//! that holds it open, never by a name that may mean another file by now; what cannot be resolved
//! is empty, never an error.

use std::collections::HashSet;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Symbolized, Symbolizer};

use super::module::Module;
use super::owner;
use crate::model::Symbol;

/// Nested inlined functions kept of one address.
const MAX_INLINED: usize = 32;

/// A function at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub symbol: Symbol,
    pub inlined: bool,
}

/// Symbols of all modules.
pub(super) struct NativeSymbols {
    blazesym: Symbolizer,
    /// Modules whose debug information is broken: their symbol tables are used.
    broken: HashSet<u64>,
}

impl NativeSymbols {
    pub fn new() -> Self {
        // Without reloading: a module's file is the same one for as long as the module lives.
        let blazesym = Symbolizer::builder().enable_auto_reload(false).build();
        Self { blazesym, broken: HashSet::new() }
    }

    /// The functions at `address` of the file's own addresses, the innermost inlined one first.
    /// Empty when the file has no symbol there. `with_lines` reads debug information too, which
    /// takes memory (10 MiB for a C library's) and time.
    pub fn at(&mut self, module: &Module, address: u64, with_lines: bool) -> Vec<Located> {
        let is_broken = self.broken.contains(&module.serial);
        if with_lines && module.may_use_debug_information() && !is_broken {
            if let Some(found) = self.look_up(module, address, true) {
                return found;
            }
            self.broken.insert(module.serial);
        }
        self.look_up(module, address, false).unwrap_or_default()
    }

    /// Releases what is kept for `module`.
    pub fn forget(&mut self, module: &Module) {
        let evict = blazesym::symbolize::evict::Elf::new(module.path());
        // It is no error when nothing was kept.
        let _ = self.blazesym.evict(&evict.into());
        self.broken.remove(&module.serial);
    }

    fn look_up(&self, module: &Module, address: u64, debug_syms: bool) -> Option<Vec<Located>> {
        let mut elf = Elf::new(module.path());
        elf.debug_syms = debug_syms;
        let found =
            self.blazesym.symbolize_single(&Source::Elf(elf), Input::VirtOffset(address)).ok()?;
        let Symbolized::Sym(found) = found else { return Some(Vec::new()) };
        let inlined = found.inlined.iter().rev().take(MAX_INLINED).map(|function| Located {
            symbol: symbol(&function.name, function.code_info.as_ref()),
            inlined: true,
        });
        let function =
            Located { symbol: symbol(&found.name, found.code_info.as_deref()), inlined: false };
        Some(
            inlined
                .chain([function])
                .filter(|located| !located.symbol.function.is_empty())
                .collect(),
        )
    }
}

fn symbol(function: &str, code: Option<&CodeInfo<'_>>) -> Symbol {
    Symbol {
        function: owner::shortened(function),
        file: code.map(|code| owner::shortened(&code.to_path().to_string_lossy())),
        // DWARF writes zero for "none".
        line: code.and_then(|code| code.line).filter(|&line| line != 0),
        column: code.and_then(|code| code.column).filter(|&column| column != 0).map(u32::from),
        definition: false,
        generated: None,
    }
}
