//! From a place in code to a place in its source, in V8's tables.
//!
//! Pure and total: the tables come from traced processes. Sources: V8's
//! `src/codegen/source-position-table.cc`, `src/codegen/source-position.h`,
//! `src/baseline/bytecode-offset-iterator.h`, `src/base/vlq.h`.

/// A place in a function's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// In the script's text; `None` when it is not in one.
    pub at: Option<u32>,
    /// Which inlined call it is in, from one; zero is none.
    pub inlining: u16,
}

impl Position {
    /// From V8's packed form.
    pub fn unpack(raw: u64) -> Self {
        let is_external = raw & 1 == 1;
        let offset = (raw >> 1) as u32 & ((1 << 30) - 1);
        // Zero is "none", so others are one more.
        let at = if is_external { None } else { offset.checked_sub(1) };
        Self { at, inlining: (raw >> 31) as u16 }
    }
}

/// The last entry of a table at or before `offset` of the code; `None` when there is none.
pub(super) fn position(table: &[u8], offset: u64) -> Option<Position> {
    let mut bytes = table.iter().copied();
    let offset = i64::try_from(offset).ok()?;
    let (mut code, mut source) = (-1_i64, 0_i64);
    let mut found = None;
    while let Some(step) = signed(&mut bytes) {
        // The sign says whether a statement begins.
        let step = if step >= 0 { step } else { -(step + 1) };
        code = code.checked_add(step)?;
        if code > offset {
            break;
        }
        source = source.checked_add(signed(&mut bytes)?)?;
        found = Some(source);
    }
    Some(Position::unpack(found?.cast_unsigned()))
}

/// The offset in the bytecode that baseline code was at when it went on at `pc` of its own; `None`
/// in its beginning and where the tables do not say.
pub(super) fn bytecode_offset(
    table: &[u8],
    bytecode: &[u8],
    sizes: &[Vec<u8>; 3],
    pc: u64,
) -> Option<u64> {
    let mut lengths = table.iter().copied();
    // The first is that of what is before any bytecode.
    let mut end = unsigned(&mut lengths)?;
    let (mut current, mut next) = (None, 0);
    while end < pc {
        end = end.checked_add(unsigned(&mut lengths)?)?;
        current = Some(next);
        next += bytecode_length(bytecode.get(next..)?, sizes)?;
    }
    current.map(|offset| offset as u64)
}

/// The length of the first bytecode, with its prefix.
fn bytecode_length(bytecode: &[u8], sizes: &[Vec<u8>; 3]) -> Option<usize> {
    let first = *bytecode.first()?;
    // Wide, ExtraWide, and what a debugger puts there.
    let (prefix, scale, operation) = match first {
        0 | 2 => (1, 1, *bytecode.get(1)?),
        1 | 3 => (1, 2, *bytecode.get(1)?),
        _ => (0, 0, first),
    };
    let size = usize::from(*sizes[scale].get(usize::from(operation))?);
    (size > 0).then_some(prefix + size)
}

/// Seven bits in each byte, the lowest first; the eighth says that more follow.
fn unsigned(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.next()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The lowest bit is the sign.
fn signed(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let value = unsigned(bytes)?;
    Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
}

/// Where the lines of a text begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    starts: Vec<u32>,
}

impl Lines {
    /// From the ends of lines, as V8 keeps them once it has counted them.
    pub fn from_ends(ends: impl Iterator<Item = u32>) -> Self {
        let starts = std::iter::once(0).chain(ends.map(|end| end.saturating_add(1))).collect();
        Self { starts }
    }

    /// Line and column of a place, from one.
    pub fn of(&self, at: u32) -> Option<(u32, u32)> {
        let line = self.starts.partition_point(|start| *start <= at);
        let start = self.starts.get(line.checked_sub(1)?)?;
        Some((u32::try_from(line).ok()?, (at - start).saturating_add(1)))
    }
}

/// Counts the lines of a text that comes in pieces.
#[derive(Default)]
pub(super) struct LineCounter {
    ends: Vec<u32>,
    at: u32,
    after_return: bool,
}

impl LineCounter {
    /// The next unit of the text.
    pub fn push(&mut self, unit: u16) {
        const LINE_FEED: u16 = 10;
        const CARRIAGE_RETURN: u16 = 13;
        match unit {
            // The end of a line is the last unit of what ends it.
            LINE_FEED if self.after_return => {
                if let Some(end) = self.ends.last_mut() {
                    *end = self.at;
                }
            }
            LINE_FEED | CARRIAGE_RETURN | 0x2028 | 0x2029 => self.ends.push(self.at),
            _ => {}
        }
        self.after_return = unit == CARRIAGE_RETURN;
        self.at = self.at.saturating_add(1);
    }

    pub fn lines(self) -> Lines {
        Lines::from_ends(self.ends.into_iter())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vlq(value: i64) -> Vec<u8> {
        let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
        let mut bytes = Vec::new();
        while rest > 0x7f {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    }

    /// A table of (offset in the code, is a statement, packed position).
    fn table(entries: &[(i64, bool, i64)]) -> Vec<u8> {
        let (mut code, mut source) = (-1, 0);
        let mut bytes = Vec::new();
        for &(at, is_statement, position) in entries {
            let step = at - code;
            bytes.extend(vlq(if is_statement { step } else { -step - 1 }));
            bytes.extend(vlq(position - source));
            (code, source) = (at, position);
        }
        bytes
    }

    #[test]
    fn the_last_entry_at_or_before_counts() {
        let packed = |at: i64| (at + 1) << 1;
        let table = table(&[
            (0, true, packed(10)),
            (7, false, packed(300)),
            (90, true, packed(20) | (3 << 31)),
        ]);
        let at = |offset| position(&table, offset);
        let plain = |at| Some(Position { at: Some(at), inlining: 0 });
        assert_eq!([at(0), at(6)], [plain(10), plain(10)]);
        assert_eq!([at(7), at(89)], [plain(300), plain(300)]);
        assert_eq!(at(5_000), Some(Position { at: Some(20), inlining: 3 }));
        assert_eq!(position(&[], 5), None);
    }

    #[test]
    fn baseline_code_is_at_the_bytecode_that_it_returns_into() {
        // Bytecode 4 has two bytes, 5 has one; prefixed with Wide, 4 has three.
        let sizes = [vec![1, 1, 1, 1, 2, 1], vec![1, 1, 1, 1, 3, 1], Vec::new()];
        let bytecode = [4, 9, 5, 0, 4, 9, 9, 5];
        // Ten bytes before, then five for each.
        let table = [10, 5, 5, 5, 5];
        let at = |pc| bytecode_offset(&table, &bytecode, &sizes, pc);
        assert_eq!([at(3), at(10)], [None, None]);
        assert_eq!([at(11), at(15), at(16), at(20)], [Some(0), Some(0), Some(2), Some(2)]);
        assert_eq!([at(25), at(30), at(31)], [Some(3), Some(7), None]);
    }

    #[test]
    fn every_end_of_a_line_is_counted_once() {
        let mut counter = LineCounter::default();
        "a\nb\r\nc\rd\u{2028}e".encode_utf16().for_each(|unit| counter.push(unit));
        let lines = counter.lines();
        let at: Vec<_> = [0, 1, 2, 5, 7, 9].into_iter().map(|at| lines.of(at)).collect();
        let expected = [(1, 1), (1, 2), (2, 1), (3, 1), (4, 1), (5, 1)].map(Some);
        assert_eq!(at, expected);
        assert_eq!(lines, Lines::from_ends([1, 4, 6, 8].into_iter()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_table(
            table in prop::collection::vec(any::<u8>(), 0..200),
            bytecode in prop::collection::vec(any::<u8>(), 0..200),
            size in any::<u8>(),
            offset in any::<u64>(),
        ) {
            let sizes = std::array::from_fn(|scale| vec![size; 64 * scale]);
            let _position = position(&table, offset);
            let _offset = bytecode_offset(&table, &bytecode, &sizes, offset);
        }
    }
}
