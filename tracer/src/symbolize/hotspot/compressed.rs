//! HotSpot's compressed tables: numbers, line tables, names.
//!
//! Pure and total: the bytes come from traced processes. Sources: OpenJDK's
//! `share/utilities/unsigned5.hpp`, `share/code/compressedStream.hpp`, `share/oops/method.cpp`
//! (`CompressedLineNumberReadStream`), `share/code/scopeDesc.cpp`, and JVMS 4.4.7.

use serde::{Deserialize, Serialize};

/// Bytes of one number at the most.
pub(super) const MAX_NUMBER: usize = 5;

/// How numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Numbers {
    /// Up to Java 19.
    WithZero,
    /// No byte is zero.
    WithoutZero,
}

impl Numbers {
    /// The number at the beginning of `bytes`, and what follows it.
    pub fn take(self, bytes: &[u8]) -> Option<(u32, &[u8])> {
        // A byte from here on says that another follows; the fifth is the last.
        const MORE: u8 = 192;
        let excluded = match self {
            Self::WithZero => 0,
            Self::WithoutZero => 1,
        };
        let mut sum = 0_u32;
        for (index, &byte) in bytes.iter().take(MAX_NUMBER).enumerate() {
            let value = u32::from(byte.checked_sub(excluded)?);
            sum = sum.wrapping_add(value.wrapping_shl(6 * index as u32));
            if byte < MORE || index + 1 == MAX_NUMBER {
                return Some((sum, bytes.get(index + 1..)?));
            }
        }
        None
    }

    fn take_signed(self, bytes: &[u8]) -> Option<(i32, &[u8])> {
        let (number, rest) = self.take(bytes)?;
        Some(((number >> 1).cast_signed() ^ -(number & 1).cast_signed(), rest))
    }
}

/// Hands on the entries of the line table that `bytes` begin with: instruction and line. Says how
/// long it is; `None` when it has no end.
fn entries(numbers: Numbers, bytes: &[u8], mut visit: impl FnMut(i32, i32)) -> Option<usize> {
    /// The table's last byte.
    const END: u8 = 0;
    /// The differences do not fit into one byte.
    const WIDE: u8 = 0xff;
    let (mut at, mut line) = (0_i32, 0_i32);
    let mut rest = bytes;
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = match byte {
            END => return Some(bytes.len() - after.len()),
            WIDE => {
                let (more, after) = numbers.take_signed(after)?;
                at = at.checked_add(more)?;
                let (more, after) = numbers.take_signed(after)?;
                line = line.checked_add(more)?;
                after
            }
            _ => {
                at = at.checked_add(i32::from(byte >> 3))?;
                line = line.checked_add(i32::from(byte & 7))?;
                after
            }
        };
        visit(at, line);
    }
}

/// Only the line table of what begins with one; nothing where it has no end.
pub(super) fn line_table(numbers: Numbers, bytes: &[u8]) -> &[u8] {
    entries(numbers, bytes, |_, _| ()).and_then(|len| bytes.get(..len)).unwrap_or_default()
}

/// The line of the instruction at `index` of a method.
pub(super) fn line(numbers: Numbers, table: &[u8], index: u16) -> Option<u32> {
    // What begins last at or before the instruction; entries need not be in order.
    let mut best: Option<(i32, i32)> = None;
    entries(numbers, table, |at, line| {
        if at <= i32::from(index) && best.is_none_or(|(begin, _)| at >= begin) {
            best = Some((at, line));
        }
    })?;
    best.and_then(|(_, line)| u32::try_from(line).ok()).filter(|line| *line != 0)
}

/// A call within compiled code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// Where the caller that it is inlined into is described; zero when it is not.
    pub sender: u32,
    /// Which method: its number in the code's metadata, from one.
    pub method: u32,
    /// The instruction; `None` before the first.
    pub instruction: Option<u32>,
}

/// The call that `bytes` begin to describe.
pub(super) fn scope(numbers: Numbers, bytes: &[u8]) -> Option<Scope> {
    let (sender, rest) = numbers.take(bytes)?;
    let (method, rest) = numbers.take(rest)?;
    let (instruction, _) = numbers.take(rest)?;
    // Written with one added, for -1 is the method's entry.
    Some(Scope { sender, method, instruction: instruction.checked_sub(1) })
}

/// A name in Java's form of UTF-8: what is beyond 16 bits is two surrogates of three bytes each,
/// and zero has two bytes.
pub(super) fn name(bytes: &[u8]) -> Option<String> {
    if let Ok(plain) = std::str::from_utf8(bytes) {
        return Some(plain.to_owned());
    }
    let mut units = Vec::new();
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let more = match first {
            0..0x80 => 0,
            0xc0..0xe0 => 1,
            0xe0..0xf0 => 2,
            _ => return None,
        };
        let tail = after.get(..more)?;
        if tail.iter().any(|byte| byte & 0xc0 != 0x80) {
            return None;
        }
        let lead = if more == 0 { first } else { first & (0x3f >> more) };
        units.push(
            tail.iter().fold(u16::from(lead), |unit, byte| (unit << 6) | u16::from(byte & 0x3f)),
        );
        rest = &after[more..];
    }
    String::from_utf16(&units).ok()
}

#[cfg(test)]
mod tests {
    use super::Numbers::{WithZero, WithoutZero};
    use super::{Scope, line, line_table, name, scope};
    use proptest::prelude::*;

    /// As `UNSIGNED5::encode` does.
    fn write(excluded: u32, mut number: u32, into: &mut Vec<u8>) {
        let low = 192 - excluded;
        for _ in 0..4 {
            if number < low {
                break;
            }
            number -= low;
            into.push((low + excluded + number % 64) as u8);
            number /= 64;
        }
        into.push((number + excluded) as u8);
    }

    #[test]
    fn numbers_of_both_forms_are_read() {
        assert_eq!(WithZero.take(&[0, 7]), Some((0, &[7][..])));
        assert_eq!(WithZero.take(&[191]), Some((191, &[][..])));
        assert_eq!(WithZero.take(&[192, 0]), Some((192, &[][..])));
        assert_eq!(WithZero.take(&[193, 1]), Some((193 + 64, &[][..])));
        assert_eq!(WithoutZero.take(&[1]), Some((0, &[][..])));
        assert_eq!(WithoutZero.take(&[191]), Some((190, &[][..])));
        assert_eq!(WithoutZero.take(&[192, 1]), Some((191, &[][..])));
        assert_eq!(WithoutZero.take(&[0]), None);
        assert_eq!(WithZero.take(&[200]), None);
        assert_eq!(WithZero.take(&[]), None);
    }

    #[test]
    fn a_line_is_that_of_the_entry_that_begins_last_before_the_instruction() {
        // 0: line 10; 5: line 12; 9: line 11 (wide, back); 20: line 300 (wide).
        let mut table = vec![0xff, 1, 1 + 20, (5 << 3) | 2, 0xff, 1 + 8, 1 + 1, 0xff];
        let mut wide = Vec::new();
        write(1, 22, &mut wide);
        write(1, 289 * 2, &mut wide);
        table.extend(wide);
        table.push(0);
        let lines = [0, 4, 5, 8, 9, 19, 20, 60_000].map(|at| line(WithoutZero, &table, at));
        let expected = [10, 10, 12, 12, 11, 11, 300, 300].map(Some);
        assert_eq!(lines, expected);
        assert_eq!(line(WithoutZero, &table[..table.len() - 1], 0), None, "the end is missing");
        assert_eq!(line(WithoutZero, &[0], 0), None);
        let len = table.len();
        assert!(line_table(WithoutZero, &table[..len - 1]).is_empty());
        table.extend([7, 0]);
        assert_eq!(line_table(WithoutZero, &table).len(), len);
    }

    #[test]
    fn a_call_in_compiled_code_is_read() {
        let expected = Scope { sender: 0, method: 3, instruction: Some(41) };
        assert_eq!(scope(WithZero, &[0, 3, 42, 9, 9]), Some(expected));
        assert_eq!(scope(WithoutZero, &[1, 4, 43]), Some(expected));
        let entry = Scope { sender: 7, method: 3, instruction: None };
        assert_eq!(scope(WithZero, &[7, 3, 0]), Some(entry));
        assert_eq!(scope(WithZero, &[7, 3]), None);
    }

    #[test]
    fn names_are_read_in_javas_form() {
        assert_eq!(name("LeakyService".as_bytes()).as_deref(), Some("LeakyService"));
        assert_eq!(name("получитьСчёт".as_bytes()).as_deref(), Some("получитьСчёт"));
        // U+1F418 as two surrogates.
        let elephant = [b'a', 0xed, 0xa0, 0xbd, 0xed, 0xb0, 0x98, b'z'];
        assert_eq!(name(&elephant).as_deref(), Some("a🐘z"));
        assert_eq!(name(&[b'a', 0xc0, 0x80]).as_deref(), Some("a\0"));
        assert_eq!(name(&[0xed, 0xa0, 0xbd]), None, "half of a pair");
        assert_eq!(name(&[0xe0, 0x20, 0x20]), None);
        assert_eq!(name(&[0xff]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number in any::<u32>(), rest in any::<[u8; 3]>()) {
            for (excluded, form) in [(0, WithZero), (1, WithoutZero)] {
                let mut bytes = Vec::new();
                write(excluded, number, &mut bytes);
                bytes.extend(rest);
                prop_assert_eq!(form.take(&bytes), Some((number, &rest[..])));
            }
        }

        #[test]
        fn any_bytes_are_read_to_an_end(
            bytes in proptest::collection::vec(any::<u8>(), 0..512), index in any::<u16>(),
        ) {
            for form in [WithZero, WithoutZero] {
                let _ = line(form, &bytes, index);
                let _ = scope(form, &bytes);
            }
            let _ = name(&bytes);
        }
    }
}
