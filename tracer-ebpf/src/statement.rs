//! What the first bytes of a statement say about why its connection may be silent on purpose.
//!
//! May import nothing. Pure and total: any bytes in, a set of marks out. Called in the kernel for
//! each statement, so it looks at fixed positions only; user space looks at the last statement
//! again, without that restriction.

/// The session listens for notifications.
pub const MARK_LISTEN: u32 = 1;
/// The session holds a session-level advisory lock.
pub const MARK_ADVISORY_LOCK: u32 = 2;
/// The session stopped listening.
pub const CLEAR_LISTEN: u32 = 4;
/// The session gave its advisory locks back.
pub const CLEAR_ADVISORY_LOCK: u32 = 8;

const _: () = assert!(CLEAR_LISTEN >> 2 == MARK_LISTEN);
const _: () = assert!(CLEAR_ADVISORY_LOCK >> 2 == MARK_ADVISORY_LOCK);

/// Bytes looked at.
pub const PREFIX_BYTES: usize = 32;

/// Eight bytes of a word, compared at once: letters in either case, bytes behind its end not at all.
struct Part {
    value: u64,
    fold: u64,
    mask: u64,
}

/// The eight bytes of a lower-case ASCII word from `from` on.
const fn part(word: &[u8], from: usize) -> Part {
    let (mut value, mut fold, mut mask) = ([0u8; 8], [0u8; 8], [0u8; 8]);
    let mut i = 0;
    while i < 8 && from + i < word.len() {
        value[i] = word[from + i];
        fold[i] = if word[from + i].is_ascii_lowercase() { 0x20 } else { 0 };
        mask[i] = 0xff;
        i += 1;
    }
    Part {
        value: u64::from_le_bytes(value),
        fold: u64::from_le_bytes(fold),
        mask: u64::from_le_bytes(mask),
    }
}

/// How `prefix` at `position` differs from a word of at most 16 bytes: zero when it does not.
#[inline(always)]
fn differs<const N: usize>(
    prefix: &[u8; PREFIX_BYTES],
    position: usize,
    word: &'static [u8; N],
) -> u64 {
    const { assert!(N <= 16) };
    let parts = [part(word, 0), part(word, 8)];
    let mut difference = 0;
    for (i, part) in parts.iter().enumerate() {
        if part.mask != 0 {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&prefix[position + i * 8..position + i * 8 + 8]);
            difference |= ((u64::from_le_bytes(bytes) | part.fold) & part.mask) ^ part.value;
        }
    }
    difference
}

/// Tells the marks set or cleared by a statement that begins with `prefix` (zero-padded), at most
/// two. Told one by one rather than returned: in the kernel they go to memory, behind which the
/// verifier goes on once and not once for each value.
#[inline(always)]
pub fn classify(prefix: &[u8; PREFIX_BYTES], mut found: impl FnMut(u32)) {
    let select = differs(prefix, 0, b"select pg_");
    if differs(prefix, 0, b"listen ") == 0 {
        found(MARK_LISTEN);
    }
    if differs(prefix, 0, b"unlisten ") == 0 {
        found(CLEAR_LISTEN);
    }
    if differs(prefix, 0, b"discard all") == 0 {
        found(CLEAR_LISTEN | CLEAR_ADVISORY_LOCK);
    }
    if select | differs(prefix, 10, b"advisory_lock") == 0 {
        found(MARK_ADVISORY_LOCK);
    }
    if select | differs(prefix, 10, b"try_advisory_loc") == 0 {
        found(MARK_ADVISORY_LOCK);
    }
    if select | differs(prefix, 10, b"advisory_unlock") == 0 {
        found(CLEAR_ADVISORY_LOCK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(sql: &str) -> u32 {
        let mut prefix = [0; PREFIX_BYTES];
        let len = sql.len().min(PREFIX_BYTES);
        prefix[..len].copy_from_slice(&sql.as_bytes()[..len]);
        let mut marks = 0;
        classify(&prefix, |mark| marks |= mark);
        marks
    }

    #[test]
    fn sessions_that_are_silent_on_purpose_are_marked() {
        assert_eq!(marks("LISTEN jobs"), MARK_LISTEN);
        assert_eq!(marks("listen \"Jobs\""), MARK_LISTEN);
        assert_eq!(marks("UNLISTEN *"), CLEAR_LISTEN);
        assert_eq!(marks("SELECT pg_advisory_lock($1)"), MARK_ADVISORY_LOCK);
        assert_eq!(marks("select pg_try_advisory_lock(1, 2)"), MARK_ADVISORY_LOCK);
        assert_eq!(marks("SELECT pg_advisory_unlock_all();"), CLEAR_ADVISORY_LOCK);
        assert_eq!(marks("DISCARD ALL"), CLEAR_LISTEN | CLEAR_ADVISORY_LOCK);
    }

    #[test]
    fn ordinary_statements_are_not() {
        for sql in [
            "",
            "L",
            "LISTENERS",
            "SELECT 1",
            "select pg_advisory_xact_lock(1)",
            "select pg_try_advisory_xact_lock(1)",
            "select pg_advisory_loc",
            "select\0pg_advisory_lock(1)",
            "SELECT pg_sleep(1)",
            "insert into listen values (1)",
        ] {
            assert_eq!(marks(sql), 0, "{sql}");
        }
    }
}
