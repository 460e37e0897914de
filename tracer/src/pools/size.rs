//! How many connections a pool may have, read from the pool's own memory.
//!
//! Pure. May import `serde`. Invariant: a number is believed only where exactly one of the layouts
//! known fits all that is read: no size is better than a wrong one.

use serde::Deserialize;

/// Bytes of a pool's object that are looked at.
pub const OBJECT_BYTES: usize = 192;

/// A larger number of connections is none that anybody sets.
const MOST: u64 = 100_000;

/// Addresses that a program may have, in user space of x86-64, not its first page.
const ADDRESSES: std::ops::Range<u64> = 0x1_0000..0x7fff_ffff_f000;

/// Where an object of a pool has what, in bytes; each a word but for `zero`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SizeLayout {
    /// The maximum; zero for none.
    pub max_open: usize,
    /// Connections it has open: some, and not more than it may.
    pub open: usize,
    /// A pointer.
    pub pointer: usize,
    /// A byte that is zero while the pool is open.
    pub zero: usize,
}

impl SizeLayout {
    /// Every place is within what is looked at.
    pub(super) fn is_within(&self) -> bool {
        [self.max_open, self.open, self.pointer, self.zero + 1]
            .iter()
            .all(|at| at + 8 <= OBJECT_BYTES)
    }

    /// The maximum, where this layout fits.
    fn fit(&self, object: &[u8]) -> Option<u64> {
        let word = |at: usize| {
            let bytes = object.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let (max, open, pointer) = (word(self.max_open)?, word(self.open)?, word(self.pointer)?);
        let fits = (1..=MOST).contains(&open)
            && max <= MOST
            && (max == 0 || open <= max)
            && ADDRESSES.contains(&pointer)
            && pointer.is_multiple_of(8)
            && *object.get(self.zero)? == 0;
        fits.then_some(max)
    }
}

/// How many connections the pool whose object begins with these bytes may have; `None` where there is
/// no maximum, or it is not known.
#[must_use]
pub fn max_open(layouts: &[SizeLayout], object: &[u8]) -> Option<u32> {
    let mut fitting = layouts.iter().filter_map(|layout| layout.fit(object));
    match (fitting.next(), fitting.next()) {
        (Some(max), None) if max > 0 => u32::try_from(max).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{OBJECT_BYTES, SizeLayout, max_open};

    const OLD: SizeLayout = SizeLayout { max_open: 128, open: 80, pointer: 88, zero: 96 };
    const NEW: SizeLayout = SizeLayout { max_open: 136, open: 88, pointer: 96, zero: 104 };

    fn object(layout: SizeLayout, max: u64, open: u64) -> [u8; OBJECT_BYTES] {
        let mut object = [0; OBJECT_BYTES];
        let mut put =
            |at: usize, word: u64| object[at..at + 8].copy_from_slice(&word.to_le_bytes());
        put(layout.max_open, max);
        put(layout.open, open);
        put(layout.pointer, 0xc0_0012_3400);
        object
    }

    #[test]
    fn the_layout_that_fits_tells_the_maximum() {
        for layout in [OLD, NEW] {
            assert_eq!(max_open(&[OLD, NEW], &object(layout, 60, 17)), Some(60));
            assert_eq!(max_open(&[OLD, NEW], &object(layout, 0, 17)), None, "no maximum");
            assert_eq!(max_open(&[OLD, NEW], &object(layout, 60, 61)), None, "more than it may");
            assert_eq!(max_open(&[OLD, NEW], &object(layout, 60, 0)), None, "none open");
            let mut closed = object(layout, 60, 17);
            closed[layout.zero] = 1;
            assert_eq!(max_open(&[OLD, NEW], &closed), None, "closed");
        }
        assert_eq!(max_open(&[OLD, OLD], &object(OLD, 60, 17)), None, "two fit");
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_no_size_that_nobody_sets(
            bytes in prop::collection::vec(any::<u8>(), 0..256),
        ) {
            prop_assert!(max_open(&[OLD, NEW], &bytes).is_none_or(|max| max <= 100_000));
        }
    }
}
