//! From an instruction to its line, in each of CPython's formats.
//!
//! Pure and total: the tables come from traced processes. Sources: `Objects/lnotab_notes.txt` of
//! 3.9 and 3.10, `Objects/locations.md` of 3.11 and later.

use super::versions::LineTable;

/// The line of the instruction at byte `offset`; `None` when it has none.
pub(super) fn line(kind: LineTable, table: &[u8], first_line: i32, offset: i64) -> Option<u32> {
    let line = match kind {
        LineTable::Lnotab => lnotab(table, first_line, offset),
        LineTable::Ranges => ranges(table, first_line, offset),
        LineTable::Locations => locations(table, first_line, offset),
    }?;
    u32::try_from(line).ok()
}

/// Pairs of increments: of the address, and of the line from there on.
fn lnotab(table: &[u8], first_line: i32, offset: i64) -> Option<i64> {
    let (mut address, mut line) = (0, i64::from(first_line));
    for [address_step, line_step] in table.as_chunks().0 {
        address += i64::from(*address_step);
        if address > offset {
            break;
        }
        line += i64::from(line_step.cast_signed());
    }
    Some(line)
}

/// Pairs: the length of a range, and its line relative to the one before.
fn ranges(table: &[u8], first_line: i32, offset: i64) -> Option<i64> {
    /// The range has no line.
    const NONE: i8 = -128;
    let (mut end, mut line) = (0, i64::from(first_line));
    for [length, step] in table.as_chunks().0 {
        let step = step.cast_signed();
        if step != NONE {
            line += i64::from(step);
        }
        end += i64::from(*length);
        if offset < end {
            return (step != NONE).then_some(line);
        }
    }
    None
}

/// Entries of a first byte (a form, and how many instructions) and what the form needs.
fn locations(table: &[u8], first_line: i32, offset: i64) -> Option<i64> {
    const INSTRUCTION_BYTES: i64 = 2;
    let mut bytes = table.iter().copied();
    let (mut end, mut line) = (0, i64::from(first_line));
    while let Some(first) = bytes.next() {
        let mut has_line = true;
        match (first >> 3) & 15 {
            15 => has_line = false,
            14 => {
                line += signed(&mut bytes)?;
                for _end_line_and_columns in 0..3 {
                    unsigned(&mut bytes)?;
                }
            }
            13 => line += signed(&mut bytes)?,
            form @ 10..=12 => {
                line += i64::from(form) - 10;
                bytes.nth(1)?;
            }
            _ => {
                bytes.next()?;
            }
        }
        end += (i64::from(first & 7) + 1) * INSTRUCTION_BYTES;
        if offset < end {
            return has_line.then_some(line);
        }
    }
    None
}

/// Six bits in each byte, the lowest first; the seventh says that more follow.
fn unsigned(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    /// Enough for any 32 bits.
    const MAX_BYTES: u32 = 6;
    let mut value = 0;
    for index in 0..MAX_BYTES {
        let byte = bytes.next()?;
        value |= i64::from(byte & 63) << (6 * index);
        if byte & 64 == 0 {
            return Some(value);
        }
    }
    None
}

/// The lowest bit is the sign.
fn signed(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let value = unsigned(bytes)?;
    Some(if value & 1 == 1 { -(value >> 1) } else { value >> 1 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_of_increments_gives_the_last_line_at_or_before() {
        // Objects/lnotab_notes.txt: addresses 0, 6, 50, 350 on lines 1, 2, 7, 307 of the file.
        let mut table = vec![0, 1, 6, 1, 44, 5, 255, 0, 45, 127, 0, 127, 0, 46];
        for (offset, line) in [(0, 1), (5, 1), (6, 2), (49, 2), (50, 7), (349, 7), (350, 307)] {
            assert_eq!(lnotab(&table, 0, offset), Some(line), "{offset}");
        }
        // Back by two.
        table.extend([10, 254]);
        assert_eq!(lnotab(&table, 0, 360), Some(305));
    }

    #[test]
    fn a_range_has_a_line_or_none() {
        let table = [6, 1, 2, 0x80, 4, 2, 8, 0xff];
        let lines = [0, 5, 6, 8, 12, 19, 20].map(|offset| ranges(&table, 10, offset));
        let expected = [Some(11), Some(11), None, Some(13), Some(12), Some(12), None];
        assert_eq!(lines, expected);
    }

    #[test]
    fn every_form_of_a_location_is_understood() {
        let table = [
            // Short form, one instruction, line as before.
            0x80,
            0x12,
            // One line on, two instructions.
            0x80 | (11 << 3) | 1,
            3,
            4,
            // Long form: forty lines on.
            0x80 | (14 << 3),
            0x40 | (80 & 63),
            80 >> 6,
            0,
            1,
            2,
            // No columns: two lines back.
            0x80 | (13 << 3),
            5,
            // No location.
            0x80 | (15 << 3),
        ];
        let lines = [0, 2, 4, 6, 8, 10, 12].map(|offset| locations(&table, 100, offset));
        let expected = [Some(100), Some(101), Some(101), Some(141), Some(139), None, None];
        assert_eq!(lines, expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_table(
            table in prop::collection::vec(any::<u8>(), 0..200),
            first_line in any::<i32>(),
            offset in any::<i64>(),
        ) {
            for kind in [LineTable::Lnotab, LineTable::Ranges, LineTable::Locations] {
                let _line = line(kind, &table, first_line, offset);
            }
        }
    }
}
