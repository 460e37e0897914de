//! `/proc/PID/maps` as symbolization needs it: where code is, what backs it, where stacks end.
//!
//! May import `std` only; pure. Invariants: total (a line that is not understood is skipped and
//! counted), bounded by [`MAX_MAPPINGS`], and both lists are sorted and free of overlaps.
//! Format: proc_pid_maps(5), written by `show_map_vma` in the kernel's `fs/proc/task_mmu.c`.

use std::ops::Range;

/// Mappings kept of one process: twice the kernel's default `vm.max_map_count`.
pub(super) const MAX_MAPPINGS: usize = 1 << 17;

/// What is behind an executable mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Backing {
    /// A file, by the path the kernel shows (bytes as they are, without ` (deleted)`).
    File { inode: u64, path: Vec<u8> },
    /// The trampoline page that pending uretprobes return to.
    Uprobes,
    /// `[vdso]`, `[vsyscall]`: code of the kernel.
    Kernel,
    /// Nothing: code made at run time.
    Anonymous,
}

/// An executable mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CodeMap {
    pub start: u64,
    pub end: u64,
    /// Where in the file `start` is, in bytes.
    pub offset: u64,
    pub backing: Backing,
}

/// The mappings of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Maps {
    /// Executable ones, by address.
    pub code: Vec<CodeMap>,
    /// Writable ones, where stacks can be, by address.
    pub writable: Vec<Range<u64>>,
    /// Lines not understood or beyond [`MAX_MAPPINGS`].
    pub skipped: u64,
}

impl Maps {
    /// Reads the text of `/proc/PID/maps`.
    pub fn parse(text: &[u8]) -> Self {
        let mut maps = Self::default();
        let mut previous_end = 0;
        for line in text.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            let kept = maps.code.len() + maps.writable.len();
            match parse_line(line) {
                Some(line) if line.range.start >= previous_end && kept < MAX_MAPPINGS => {
                    previous_end = line.range.end;
                    if line.executable {
                        maps.code.push(CodeMap {
                            start: line.range.start,
                            end: line.range.end,
                            offset: line.offset,
                            backing: backing(line.inode, line.path),
                        });
                    }
                    if line.writable {
                        maps.writable.push(line.range);
                    }
                }
                _ => maps.skipped += 1,
            }
        }
        maps
    }

    /// The executable mapping that holds `address`, and its index.
    pub fn code_at(&self, address: u64) -> Option<(usize, &CodeMap)> {
        let index = self.code.partition_point(|map| map.end <= address);
        self.code.get(index).filter(|map| map.start <= address).map(|map| (index, map))
    }

    /// The writable mappings, by address.
    pub fn writable(&self) -> &[Range<u64>] {
        &self.writable
    }

    /// The writable mapping that holds `address`.
    pub fn stack_at(&self, address: u64) -> Option<&Range<u64>> {
        let index = self.writable.partition_point(|range| range.end <= address);
        self.writable.get(index).filter(|range| range.start <= address)
    }

    /// Adds the code of `older` that nothing has taken the place of: a stack copied before a
    /// library was unloaded still points there.
    pub fn keep_from(&mut self, older: &Self) {
        let gone: Vec<CodeMap> = older
            .code
            .iter()
            .filter(|old| !self.code.iter().any(|new| new.start < old.end && old.start < new.end))
            .take(MAX_MAPPINGS.saturating_sub(self.code.len()))
            .cloned()
            .collect();
        self.code.extend(gone);
        self.code.sort_by_key(|map| map.start);
    }
}

struct Line<'a> {
    range: Range<u64>,
    executable: bool,
    writable: bool,
    offset: u64,
    inode: u64,
    path: &'a [u8],
}

/// One line, for example
/// `7f0c7a5c2000-7f0c7a718000 r-xp 00026000 fe:01 1310786    /usr/lib/libc.so.6`.
fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    let (range, rest) = word(line)?;
    let (permissions, rest) = word(rest)?;
    let (offset, rest) = word(rest)?;
    let (_device, rest) = word(rest)?;
    let (inode, rest) = word(rest).unwrap_or((rest, &[]));
    let dash = range.iter().position(|&b| b == b'-')?;
    let start = hex(&range[..dash])?;
    let end = hex(&range[dash + 1..])?;
    if start >= end || permissions.len() != 4 {
        return None;
    }
    Some(Line {
        range: start..end,
        executable: permissions[2] == b'x',
        writable: permissions[1] == b'w',
        offset: hex(offset)?,
        inode: std::str::from_utf8(inode).ok()?.parse().ok()?,
        path: rest.trim_ascii_start(),
    })
}

fn backing(inode: u64, path: &[u8]) -> Backing {
    match path {
        b"[uprobes]" => Backing::Uprobes,
        b"[vdso]" | b"[vsyscall]" => Backing::Kernel,
        _ if inode == 0 || !path.starts_with(b"/") => Backing::Anonymous,
        _ => {
            let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
            Backing::File { inode, path: path.to_vec() }
        }
    }
}

/// The first word of `text` and what follows the blank after it.
fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.trim_ascii_start();
    let end = text.iter().position(|&b| b == b' ')?;
    Some((&text[..end], &text[end + 1..]))
}

/// A hexadecimal number without prefix.
pub(super) fn hex(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0, |value: u64, &digit| {
        Some((value << 4) | u64::from(char::from(digit).to_digit(16)?))
    })
}

#[cfg(test)]
mod tests {
    use super::{Backing, Maps};
    use proptest::prelude::*;

    const TEXT: &[u8] = b"\
00400000-0040b000 r-xp 00001000 fe:01 1310786                            /srv/my app (deleted)
0061d000-0063e000 rw-p 00000000 00:00 0                                  [heap]
7f0000000000-7f0000010000 rwxp 00000000 00:00 0 \n\
7f0000020000-7f0000030000 r-xp 00000000 00:00 0                          [anon:jit]
7ffd1c000000-7ffd1c021000 rw-p 00000000 00:00 0                          [stack]
7ffd1c1f2000-7ffd1c1f4000 r-xp 00000000 00:00 0                          [vdso]
7fffffffe000-7ffffffff000 --xp 00000000 00:00 0                          [uprobes]
";

    #[test]
    fn code_is_told_by_what_backs_it() {
        let maps = Maps::parse(TEXT);
        let backing: Vec<_> = maps.code.iter().map(|map| map.backing.clone()).collect();
        assert_eq!(
            backing,
            [
                Backing::File { inode: 1_310_786, path: b"/srv/my app".to_vec() },
                Backing::Anonymous,
                Backing::Anonymous,
                Backing::Kernel,
                Backing::Uprobes,
            ]
        );
        assert_eq!(maps.skipped, 0);
        assert_eq!(maps.code[0].offset, 0x1000);
    }

    #[test]
    fn an_address_is_in_a_mapping_from_its_start_to_before_its_end() {
        let maps = Maps::parse(TEXT);
        assert!(maps.code_at(0x3f_ffff).is_none());
        assert_eq!(maps.code_at(0x40_0000).map(|(index, _)| index), Some(0));
        assert_eq!(maps.code_at(0x40_afff).map(|(index, _)| index), Some(0));
        assert!(maps.code_at(0x40_b000).is_none());
        assert_eq!(maps.stack_at(0x7ffd_1c02_0fff).map(|range| range.end), Some(0x7ffd_1c02_1000));
    }

    #[test]
    fn lines_that_are_not_understood_are_skipped_and_counted() {
        let maps = Maps::parse(
            b"garbage\n00400000-0040b000 r-xp 0 fe:01 7 /a\n0050-0040 r-xp 0 0:0 1 /b\n\
              00401000-00402000 r-xp 0 0:0 1 /overlaps\nzz-11 r-xp 0 0:0 1 /c\n",
        );
        assert_eq!((maps.code.len(), maps.skipped), (1, 4));
    }

    #[test]
    fn code_that_was_unloaded_is_kept_and_code_that_was_replaced_is_not() {
        let older = Maps::parse(b"1000-2000 r-xp 0 0:0 1 /a\n3000-4000 r-xp 0 0:0 2 /b\n");
        let mut newer = Maps::parse(b"3800-5000 r-xp 0 0:0 3 /c\n");
        newer.keep_from(&older);
        let starts: Vec<_> = newer.code.iter().map(|map| map.start).collect();
        assert_eq!(starts, [0x1000, 0x3800]);
    }

    proptest! {
        #[test]
        fn any_bytes_give_sorted_mappings(text in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let maps = Maps::parse(&text);
            prop_assert!(maps.code.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }

        #[test]
        fn any_lines_give_sorted_mappings(
            lines in proptest::collection::vec("[0-9a-f]{1,17}-[0-9a-f]{1,17} [r-][w-][x-]p [0-9a-f]{1,17} 0:0 [0-9]{0,21} (/|\\[).{0,8}", 0..32)
        ) {
            let maps = Maps::parse(lines.join("\n").as_bytes());
            prop_assert!(maps.code.windows(2).all(|pair| pair[0].end <= pair[1].start));
            prop_assert!(maps.writable.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }
}
