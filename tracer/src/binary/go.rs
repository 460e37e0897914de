//! The version of Go that a program was built by, and what its runtime's record of a goroutine (`g`)
//! looks like.
//!
//! May import [`super::elf`] only. Offsets and reasons are those of the Go sources on amd64
//! (`runtime/runtime2.go`: `g`, `gobuf`, `waitReason`), each release's read in its sources or in a
//! program that it built. Invariant: of a version that is not listed nothing is known.

use super::elf::Elf;

/// Bytes of a goroutine's record that are of interest: up to the counter of its turns (`trackingSeq`)
/// at least.
pub const RECORD_BYTES: usize = 256;

/// How the information about a build begins (`debug/buildinfo`).
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Where its flags are, and the one which says that texts follow, at this place.
const FLAGS: usize = 15;
const FLAG_INLINE: u8 = 2;
const TEXTS: usize = 32;
/// A longer version is none.
const MAX_VERSION: usize = 64;
/// Without sections it is looked for so far into the writable data, which it begins.
const MAX_SEARCHED: u64 = 1 << 20;

/// Byte offsets within a goroutine's record. It begins with the bounds of its stack.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    /// `sched`: where it goes on when it has been stopped.
    pub sp: usize,
    pub pc: usize,
    /// The record's own address.
    pub own: usize,
    pub bp: usize,
    /// Where it is while it is in a system call.
    pub syscall_sp: usize,
    pub syscall_pc: usize,
    /// `None`: not kept.
    pub syscall_bp: Option<usize>,
    pub status: usize,
    pub goid: usize,
    pub reason: usize,
    /// What it waits for, in words, by number.
    reasons: &'static [&'static [&'static str]],
}

impl Layout {
    /// What a goroutine waits for, as Go's own tracebacks have it.
    #[must_use]
    pub fn words(&self, reason: u8) -> Option<&'static str> {
        self.reasons.iter().copied().flatten().nth(reason.into()).copied()
    }
}

const GO_1_19: Layout = Layout {
    sp: 56,
    pc: 64,
    own: 72,
    bp: 104,
    syscall_sp: 112,
    syscall_pc: 120,
    syscall_bp: None,
    status: 144,
    goid: 152,
    reason: 176,
    reasons: &[FIRST, SYNC, SECOND_1_19],
};
const GO_1_20: Layout = Layout { reasons: &[FIRST, SYNC, MUTEX, REST], ..GO_1_19 };
const GO_1_22: Layout = Layout { reasons: &[FIRST, SYNC, MUTEX, REST, REST_1_22], ..GO_1_19 };
const GO_1_23: Layout = Layout {
    syscall_bp: Some(128),
    status: 152,
    goid: 160,
    reason: 184,
    reasons: &[FIRST, SYNC, MUTEX, REST, REST_1_22, WEAK],
    ..GO_1_19
};
const GO_1_24: Layout = Layout {
    reasons: &[FIRST, SYNC, MUTEX, GROUP, REST, REST_1_22, WEAK, SYNCTEST_1_24],
    ..GO_1_23
};
const GO_1_25: Layout = Layout {
    bp: 96,
    syscall_sp: 104,
    syscall_pc: 112,
    syscall_bp: Some(120),
    status: 144,
    goid: 152,
    reason: 176,
    reasons: &[FIRST, UPDATER, SYNC, MUTEX, GROUP, REST, REST_1_22, WEAK, SYNCTEST],
    ..GO_1_19
};
const GO_1_26: Layout = Layout {
    reasons: &[FIRST_1_26, UPDATER, SYNC_1_26, MUTEX, GROUP, REST, REST_1_22, WEAK, SYNCTEST],
    ..GO_1_25
};

const FIRST: &[&str] = &[
    "",
    "GC assist marking",
    "IO wait",
    "chan receive (nil chan)",
    "chan send (nil chan)",
    "dumping heap",
    "garbage collection",
    "garbage collection scan",
    "panicwait",
    "select",
    "select (no cases)",
    "GC assist wait",
    "GC sweep wait",
    "GC scavenge wait",
    "chan receive",
    "chan send",
    "finalizer wait",
    "force gc (idle)",
];
const FIRST_1_26: &[&str] = &[
    "",
    "GC assist marking",
    "IO wait",
    "dumping heap",
    "garbage collection",
    "garbage collection scan",
    "panicwait",
    "GC assist wait",
    "GC sweep wait",
    "GC scavenge wait",
    "finalizer wait",
    "force gc (idle)",
];
const UPDATER: &[&str] = &["GOMAXPROCS updater (idle)"];
const SYNC: &[&str] = &["semacquire", "sleep", "sync.Cond.Wait"];
const SYNC_1_26: &[&str] = &[
    "semacquire",
    "sleep",
    "chan receive (nil chan)",
    "chan send (nil chan)",
    "select (no cases)",
    "select",
    "chan receive",
    "chan send",
    "sync.Cond.Wait",
];
const SECOND_1_19: &[&str] = &[
    "timer goroutine (idle)",
    "trace reader (blocked)",
    "wait for GC cycle",
    "GC worker (idle)",
    "preempted",
    "debug call",
];
const MUTEX: &[&str] = &["sync.Mutex.Lock", "sync.RWMutex.RLock", "sync.RWMutex.Lock"];
const GROUP: &[&str] = &["sync.WaitGroup.Wait"];
const REST: &[&str] = &[
    "trace reader (blocked)",
    "wait for GC cycle",
    "GC worker (idle)",
    "GC worker (active)",
    "preempted",
    "debug call",
    "GC mark termination",
    "stopping the world",
];
const REST_1_22: &[&str] = &[
    "flushing proc caches",
    "trace goroutine status",
    "trace proc status",
    "page trace flush",
    "coroutine",
];
const WEAK: &[&str] = &["GC weak to strong wait"];
const SYNCTEST_1_24: &[&str] = &[
    "synctest.Run",
    "synctest.Wait",
    "chan receive (synctest)",
    "chan send (synctest)",
    "select (synctest)",
];
const SYNCTEST: &[&str] = &[
    "synctest.Run",
    "synctest.Wait",
    "chan receive (durable)",
    "chan send (durable)",
    "select (durable)",
    "sync.WaitGroup.Wait (durable)",
    "cleanup wait",
];

/// What the record of a goroutine looks like in a program.
#[must_use]
pub fn layout(elf: &Elf<'_>) -> Option<&'static Layout> {
    of_release(release(version(elf)?)?)
}

/// The same of Go 1.`minor`.
#[must_use]
pub fn of_release(minor: u32) -> Option<&'static Layout> {
    match minor {
        19 => Some(&GO_1_19),
        20 | 21 => Some(&GO_1_20),
        22 => Some(&GO_1_22),
        23 => Some(&GO_1_23),
        24 => Some(&GO_1_24),
        25 => Some(&GO_1_25),
        26 | 27 => Some(&GO_1_26),
        _ => None,
    }
}

/// N of `go1.N`, with whatever a release has behind it; of what was no release nothing is known.
fn release(version: &str) -> Option<u32> {
    let rest = version.strip_prefix("go1.")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (minor, rest) = rest.split_at_checked(digits)?;
    let is_release = rest.is_empty()
        || rest.starts_with(['.', ' ', '-', '+']) && !rest.starts_with("-devel")
        || rest.starts_with("rc");
    minor.parse().ok().filter(|_| is_release)
}

/// The version of Go that built a program, as its information about the build says. Before 1.18 that
/// refers to other places, which nobody needs.
fn version<'a>(elf: &Elf<'a>) -> Option<&'a str> {
    let data = elf.data();
    let bytes = |offset: u64, size: u64| {
        let end = offset.checked_add(size)?.min(data.len() as u64);
        data.get(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)
    };
    if let Some(section) = elf.section(".go.buildinfo") {
        return version_in(bytes(section.offset, section.size)?);
    }
    let writable = elf.segments().iter().filter(|segment| segment.writable);
    writable
        .filter_map(|segment| bytes(segment.offset, segment.file_size.min(MAX_SEARCHED)))
        .find_map(version_in)
}

fn version_in(bytes: &[u8]) -> Option<&str> {
    let info = &bytes[memchr::memmem::find(bytes, MAGIC)?..];
    if info.get(FLAGS)? & FLAG_INLINE == 0 {
        return None;
    }
    // A varint, of one byte up to 127.
    let (&length, text) = info.get(TEXTS..)?.split_first()?;
    let length = usize::from(length);
    if length > MAX_VERSION {
        return None;
    }
    str::from_utf8(text.get(..length)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn releases_are_told_from_what_was_none() {
        for (version, minor) in [
            ("go1.19.8", Some(19)),
            ("go1.25", Some(25)),
            ("go1.26rc1", Some(26)),
            ("go1.22.3 X:boringcrypto", Some(22)),
            ("go1.20.5-custom", Some(20)),
            ("devel go1.28-0a1b2c3", None),
            ("go1.27-devel_0a1b2c3", None),
            ("go1.x", None),
            ("go1.", None),
            ("go1.99999999999", None),
            ("go2.1", None),
            ("go1.19beta1", None),
            ("", None),
        ] {
            assert_eq!(release(version), minor, "{version}");
        }
        assert!((0..19).chain(28..400).all(|minor| of_release(minor).is_none()));
    }

    /// Each release's last reason, and those that callers wait for.
    #[test]
    fn reasons_are_numbered_as_each_release_numbers_them() {
        for (minor, receive, sleep, last, count) in [
            (19, 14, 19, "debug call", 27),
            (20, 14, 19, "stopping the world", 32),
            (21, 14, 19, "stopping the world", 32),
            (22, 14, 19, "coroutine", 37),
            (23, 14, 19, "GC weak to strong wait", 38),
            (24, 14, 19, "select (synctest)", 44),
            (25, 14, 20, "cleanup wait", 47),
            (26, 19, 14, "cleanup wait", 47),
            (27, 19, 14, "cleanup wait", 47),
        ] {
            let layout = of_release(minor).unwrap();
            assert_eq!(layout.words(2), Some("IO wait"), "{minor}");
            assert_eq!(layout.words(receive), Some("chan receive"), "{minor}");
            assert_eq!(layout.words(sleep), Some("sleep"), "{minor}");
            assert_eq!(layout.words(count - 1), Some(last), "{minor}");
            assert_eq!((layout.words(count), layout.words(255)), (None, None), "{minor}");
        }
    }

    #[test]
    fn a_version_is_found_where_the_linker_puts_it() {
        let mut info = [MAGIC, &[8, FLAG_INLINE], &[0; 16], &[8], b"go1.19.8"].concat();
        assert_eq!(info.len(), TEXTS + 9);
        let at = |info: &[u8]| version_in(&[&[0; 16], info].concat()).map(str::to_owned);
        assert_eq!(at(&info).as_deref(), Some("go1.19.8"));
        info[TEXTS] = 9;
        assert_eq!(at(&info), None, "cut");
        info[TEXTS] = 200;
        assert_eq!(at(&info), None, "too long");
        info[TEXTS] = 8;
        info[FLAGS] = 0;
        assert_eq!(at(&info), None, "of a version before 1.18");
    }

    proptest! {
        #[test]
        fn any_bytes_are_searched(
            before in prop::collection::vec(any::<u8>(), 0..40),
            after in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let _version = version_in(&[&before, MAGIC, &after].concat()).and_then(release);
        }
    }
}
