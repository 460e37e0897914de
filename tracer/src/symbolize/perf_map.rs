//! `/tmp/perf-PID.map`: the names a process wrote down for the code it made at run time.
//!
//! May import `model`, [`generated`] and `libc`. Invariants: the file is another user's, so it is read only when
//! it is a regular file of the process's own user or root, to at most [`MAX_BYTES`]; a line that
//! is not understood is skipped and counted, never an error; where ranges overlap the last line
//! wins, because runtimes reuse addresses.
//! Format: the kernel's `tools/perf/Documentation/jit-interface.txt`; OpenJDK's
//! `CodeCache::write_perf_map` writes `0x` in front of both numbers.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};

use super::generated;
use super::maps::hex;
use super::process::Identity;
use crate::model::Frame;

/// Bytes read of one file.
const MAX_BYTES: u64 = 64 << 20;
/// Names kept of one file.
const MAX_NAMES: usize = 1 << 18;
/// Longer lines are skipped.
const MAX_LINE_BYTES: usize = 4 << 10;

const CHUNK_BYTES: usize = 64 << 10;

/// An open perf map, read as far as it was written when last asked.
pub(super) struct PerfMap {
    file: File,
    read: u64,
    lines: Lines,
    names: Names,
}

/// Whether a map is the process's own: anyone may put a file of that name into `/tmp`.
fn is_believed(owner: u32, users: &[u32]) -> bool {
    owner == 0 || users.contains(&owner)
}

impl PerfMap {
    /// Opens the map of process `pid`. `None` when there is none or it is not to be trusted.
    pub fn open(pid: u32, identity: &Identity) -> Option<Self> {
        let file = OpenOptions::new()
            .read(true)
            // A FIFO must not block, a link must not lead elsewhere.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(format!("/proc/{pid}/root/tmp/perf-{}.map", identity.own_pid))
            .ok()?;
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || !is_believed(metadata.uid(), &identity.users) {
            return None;
        }
        Some(Self { file, read: 0, lines: Lines::default(), names: Names::default() })
    }

    /// The frame of the code at `address`.
    pub fn frame_at(&mut self, address: u64) -> Option<Frame> {
        self.refresh();
        self.names.at(address).map(generated::frame)
    }

    /// Lines not understood or too many.
    pub fn skipped(&self) -> u64 {
        self.names.skipped
    }

    /// Reads what was written since the last time.
    fn refresh(&mut self) {
        let Ok(len) = self.file.metadata().map(|metadata| metadata.len().min(MAX_BYTES)) else {
            return;
        };
        if len < self.read {
            self.read = 0;
            self.lines = Lines::default();
            self.names = Names { skipped: self.names.skipped, ..Names::default() };
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        while self.read < len {
            let want = usize::try_from(len - self.read).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            match self.file.read_at(&mut chunk[..want], self.read) {
                Ok(got) if got > 0 => {
                    self.lines.feed(&chunk[..got], &mut self.names);
                    self.read += got as u64;
                }
                _ => return,
            }
        }
    }
}

/// Cuts a growing file into whole lines.
#[derive(Default)]
struct Lines {
    /// The line that is not finished.
    rest: Vec<u8>,
    /// The unfinished line is already too long.
    skipping: bool,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], names: &mut Names) {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            if self.skipping || self.rest.len() + piece.len() > MAX_LINE_BYTES {
                self.skipping = true;
                self.rest.clear();
            } else {
                self.rest.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                if std::mem::take(&mut self.skipping) {
                    names.skipped += 1;
                } else {
                    names.add(self.rest.trim_ascii());
                }
                self.rest.clear();
            }
        }
    }
}

/// Names of ranges of addresses.
#[derive(Default)]
struct Names {
    /// By start: (end, name). Ranges do not overlap.
    ranges: BTreeMap<u64, (u64, Box<[u8]>)>,
    /// Lines not understood or beyond [`MAX_NAMES`].
    skipped: u64,
}

impl Names {
    /// The name of the code at `address`.
    fn at(&self, address: u64) -> Option<&[u8]> {
        let (_, (end, name)) = self.ranges.range(..=address).next_back()?;
        (address < *end).then_some(name)
    }

    fn add(&mut self, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        let Some((start, end, name)) = parse_line(line) else {
            self.skipped += 1;
            return;
        };
        // What was there before is gone as a whole: code is not overwritten in part.
        while let Some((&old, (old_end, _))) = self.ranges.range(..end).next_back()
            && *old_end > start
        {
            self.ranges.remove(&old);
        }
        if self.ranges.len() >= MAX_NAMES {
            self.skipped += 1;
            return;
        }
        self.ranges.insert(start, (end, name.into()));
    }
}

/// `START SIZE name with blanks`, numbers in hexadecimal.
fn parse_line(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let (start, rest) = number(line)?;
    let (size, name) = number(rest)?;
    let end = start.checked_add(size)?;
    let name = name.trim_ascii();
    (size > 0 && !name.is_empty()).then_some((start, end, name))
}

fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let end = text.iter().position(|&b| b == b' ' || b == b'\t')?;
    let digits = &text[..end];
    let digits =
        digits.strip_prefix(b"0x").or_else(|| digits.strip_prefix(b"0X")).unwrap_or(digits);
    Some((hex(digits)?, text[end..].trim_ascii_start()))
}

#[cfg(test)]
mod tests {
    use super::{Identity, Lines, MAX_LINE_BYTES, Names, PerfMap, is_believed};
    use proptest::prelude::*;
    use std::io::Write as _;

    fn names(text: &[u8]) -> Names {
        let mut names = Names::default();
        Lines::default().feed(text, &mut names);
        names
    }

    #[test]
    fn both_notations_of_numbers_are_read() {
        let names =
            names(b"1f1c2d913366 78 JS:~getUser /srv/app.js:2:27\n0x1000 0x10 Interpreter\n");
        assert_eq!(names.at(0x1f1c_2d91_3366), Some(&b"JS:~getUser /srv/app.js:2:27"[..]));
        assert_eq!(names.at(0x1f1c_2d91_33dd), Some(&b"JS:~getUser /srv/app.js:2:27"[..]));
        assert_eq!(names.at(0x1f1c_2d91_33de), None);
        assert_eq!(names.at(0x100f), Some(&b"Interpreter"[..]));
        assert_eq!(names.at(0xfff), None);
    }

    #[test]
    fn the_last_line_wins_where_ranges_overlap() {
        let names = names(b"1000 100 a\n1100 100 b\n1200 100 c\n1080 100 new\n");
        assert_eq!(names.at(0x1080), Some(&b"new"[..]));
        assert_eq!(names.at(0x117f), Some(&b"new"[..]));
        assert_eq!(names.at(0x1000), None, "a is gone as a whole");
        assert_eq!(names.at(0x1200), Some(&b"c"[..]));
    }

    #[test]
    fn bad_lines_are_skipped_and_counted_and_cost_no_good_line() {
        let mut text = b"zz 10 a\n1000\n1000 10\n1000 0 empty\nffffffffffffffff 2 over\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', MAX_LINE_BYTES + 1));
        text.extend(b"\n2000 10 \xff\xfe\n3000 10 half-writ");
        let names = names(&text);
        assert_eq!(names.skipped, 6);
        assert_eq!(names.at(0x2000), Some(&b"\xff\xfe"[..]));
        assert_eq!(names.at(0x3000), None);
    }

    #[test]
    fn a_map_that_grows_is_read_on_from_where_it_ended() {
        let pid = std::process::id();
        let path = format!("/tmp/perf-{pid}.map");
        let mut file = std::fs::File::create(&path).unwrap();
        let user = file.metadata().map(|m| std::os::unix::fs::MetadataExt::uid(&m)).unwrap();
        let identity = Identity { users: vec![user], own_pid: pid };
        write!(file, "1000 10 first\n2000 10 sec").unwrap();
        let mut map = PerfMap::open(pid, &identity).unwrap();
        map.refresh();
        assert_eq!((map.names.at(0x1000), map.names.at(0x2000)), (Some(&b"first"[..]), None));
        write!(file, "ond\n1000 10 third\n").unwrap();
        map.refresh();
        assert_eq!(map.names.at(0x1000), Some(&b"third"[..]));
        assert_eq!(map.names.at(0x2000), Some(&b"second"[..]));
        file.set_len(0).unwrap();
        map.refresh();
        assert_eq!(map.names.at(0x2000), None);
        std::fs::remove_file(&path).unwrap();

        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(PerfMap::open(pid, &identity).is_none(), "a link is not followed");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_map_of_another_user_is_not_believed() {
        assert!(is_believed(1000, &[33, 1000]) && is_believed(0, &[1000]));
        assert!(!is_believed(12345, &[33, 1000]) && !is_believed(1000, &[0]));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same_names(
            lines in proptest::collection::vec(
                prop_oneof![
                    "[0-9a-f]{1,4} [0-9a-f]{1,3} [a-z]{1,3}",
                    "(0x)?[0-9a-g]{0,17}[ \t]{0,2}[0-9a-f]{0,17} ?.{0,6}",
                ],
                0..64,
            ),
            cut in 1_usize..64,
        ) {
            let text = lines.join("\n") + "\n";
            let whole = names(text.as_bytes());
            let mut pieces = Names::default();
            let mut reader = Lines::default();
            for piece in text.as_bytes().chunks(cut) {
                reader.feed(piece, &mut pieces);
            }
            prop_assert_eq!(&whole.ranges, &pieces.ranges);
            prop_assert_eq!(whole.skipped, pieces.skipped);
            let ranges: Vec<_> = whole.ranges.iter().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].1.0 <= *pair[1].0));
        }
    }
}
