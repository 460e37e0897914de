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

/// Case-insensitive comparison with a lower-case ASCII word at a fixed position. Without branches
/// until the end: the verifier follows both sides of each.
#[inline(always)]
fn at(prefix: &[u8; PREFIX_BYTES], position: usize, word: &[u8]) -> bool {
    let mut difference = 0;
    let mut index = 0;
    while index < word.len() && position + index < PREFIX_BYTES {
        let case = if word[index].is_ascii_lowercase() { 0x20 } else { 0 };
        difference |= (prefix[position + index] | case) ^ word[index];
        index += 1;
    }
    difference == 0 && index == word.len()
}

/// Marks set or cleared by a statement that begins with `prefix` (zero-padded).
#[must_use]
#[inline(always)]
pub fn classify(prefix: &[u8; PREFIX_BYTES]) -> u32 {
    match prefix[0] | 0x20 {
        b'l' if at(prefix, 0, b"listen ") => MARK_LISTEN,
        b'u' if at(prefix, 0, b"unlisten ") => CLEAR_LISTEN,
        b'd' if at(prefix, 0, b"discard all") => CLEAR_LISTEN | CLEAR_ADVISORY_LOCK,
        b's' if at(prefix, 0, b"select pg_") => {
            if at(prefix, 10, b"advisory_lock") || at(prefix, 10, b"try_advisory_lock") {
                MARK_ADVISORY_LOCK
            } else if at(prefix, 10, b"advisory_unlock") {
                CLEAR_ADVISORY_LOCK
            } else {
                0
            }
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(sql: &str) -> u32 {
        let mut prefix = [0; PREFIX_BYTES];
        let len = sql.len().min(PREFIX_BYTES);
        prefix[..len].copy_from_slice(&sql.as_bytes()[..len]);
        classify(&prefix)
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
            "SELECT pg_sleep(1)",
            "insert into listen values (1)",
        ] {
            assert_eq!(marks(sql), 0, "{sql}");
        }
    }
}
