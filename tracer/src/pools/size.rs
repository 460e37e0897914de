//! How many connections a pool may have, read from the pool's own memory.
//!
//! Pure. May import `serde`. Invariant: a number is believed only where a layout that is known fits all
//! that is read, and no other that fits says another one: no size is better than a wrong one.

use serde::Deserialize;

/// Bytes of an object that are looked at.
pub const OBJECT_BYTES: usize = 192;

/// Pointers followed from the pool to the object that knows.
const MAX_STEPS: usize = 4;

/// A larger number of connections is none that anybody sets.
const MOST: u64 = 100_000;

/// Addresses that a program may have, in user space of x86-64, not its first page.
const ADDRESSES: std::ops::Range<u64> = 0x1_0000..0x7fff_ffff_f000;

type Object = [u8; OBJECT_BYTES];

/// Where an object of a pool has what, in bytes; each a word but for `max_open`, if it is said to be
/// shorter, and `zero`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SizeLayout {
    /// From the pool to the object: a pointer in each object on the way. None: the pool is it.
    #[serde(default)]
    pub through: Vec<usize>,
    /// The maximum; zero for none.
    pub max_open: usize,
    /// Its size.
    #[serde(default)]
    pub max_width: Width,
    /// Connections it has open: some, and not more than it may.
    pub open: usize,
    /// A pointer.
    pub pointer: usize,
    /// A byte that is zero while the pool is open.
    pub zero: usize,
}

/// Of a number.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Width {
    /// Four bytes.
    Half,
    #[default]
    Word,
}

/// The word at `at`.
fn word(object: &Object, at: usize) -> Option<u64> {
    let bytes = object.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

/// The same, where it is a pointer.
fn pointer(object: &Object, at: usize) -> Option<u64> {
    word(object, at).filter(|at| ADDRESSES.contains(at) && at.is_multiple_of(8))
}

impl SizeLayout {
    /// Every place is within what is looked at.
    pub(super) fn is_within(&self) -> bool {
        let places = [self.max_open, self.open, self.pointer, self.zero];
        self.through.len() <= MAX_STEPS
            && places.iter().chain(&self.through).all(|at| *at <= OBJECT_BYTES - 8)
    }

    /// The maximum, where this layout fits.
    fn fit(&self, object: &Object) -> Option<u64> {
        let max = match self.max_width {
            Width::Half => word(object, self.max_open)? & u64::from(u32::MAX),
            Width::Word => word(object, self.max_open)?,
        };
        let open = word(object, self.open)?;
        let fits = (1..=MOST).contains(&open)
            && max <= MOST
            && (max == 0 || open <= max)
            && pointer(object, self.pointer).is_some()
            && *object.get(self.zero)? == 0;
        fits.then_some(max)
    }
}

/// How many connections the pool at this address may have; `None` where there is no maximum, or it is
/// not known.
#[must_use]
pub fn max_open(
    layouts: &[SizeLayout],
    pool: u64,
    read: impl Fn(u64) -> Option<Object>,
) -> Option<u32> {
    // The same for all layouts.
    let pool = read(pool)?;
    let of = |layout: &SizeLayout| {
        let mut through = layout.through.iter();
        let object = through.try_fold(pool, |object, &at| read(pointer(&object, at)?))?;
        layout.fit(&object)
    };
    let mut fitting = layouts.iter().filter_map(of);
    let max = fitting.next().filter(|max| *max > 0)?;
    fitting.all(|other| other == max).then(|| u32::try_from(max).ok())?
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{OBJECT_BYTES, Object, SizeLayout, Width, max_open};
    use crate::pools::Catalogue;

    const OLD: SizeLayout = SizeLayout {
        through: Vec::new(),
        max_open: 128,
        max_width: Width::Word,
        open: 80,
        pointer: 88,
        zero: 96,
    };
    const NEW: SizeLayout = SizeLayout {
        through: Vec::new(),
        max_open: 136,
        max_width: Width::Word,
        open: 88,
        pointer: 96,
        zero: 104,
    };

    /// Where the pool is, and what else it refers to.
    const POOL: u64 = 0xc0_0000_1000;
    const OTHER: u64 = 0xc0_0012_3400;

    fn put(object: &mut Object, at: usize, word: u64) {
        object[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }

    fn object(layout: &SizeLayout, max: u64, open: u64) -> Object {
        let mut object = [0; OBJECT_BYTES];
        put(&mut object, layout.max_open, max);
        put(&mut object, layout.open, open);
        put(&mut object, layout.pointer, OTHER);
        object
    }

    fn size(layouts: &[SizeLayout], object: &Object) -> Option<u32> {
        max_open(layouts, POOL, |at| (at == POOL).then_some(*object))
    }

    #[test]
    fn the_layout_that_fits_tells_the_maximum() {
        let both = [OLD, NEW];
        for layout in &both {
            assert_eq!(size(&both, &object(layout, 60, 17)), Some(60));
            assert_eq!(size(&both, &object(layout, 0, 17)), None, "no maximum");
            assert_eq!(size(&both, &object(layout, 60, 61)), None, "more than it may");
            assert_eq!(size(&both, &object(layout, 60, 0)), None, "none open");
            let mut closed = object(layout, 60, 17);
            closed[layout.zero] = 1;
            assert_eq!(size(&both, &closed), None, "closed");
        }
        assert_eq!(size(&[OLD, OLD], &object(&OLD, 60, 17)), Some(60), "two that say the same");
        let other = SizeLayout { max_open: 120, ..OLD };
        let mut two = object(&OLD, 60, 17);
        put(&mut two, other.max_open, 61);
        assert_eq!(size(&[OLD, other], &two), None, "two that do not");
        assert_eq!(max_open(&both, POOL, |_| None), None, "nothing to read");
    }

    /// Layouts of a pool of the catalogue.
    fn layouts(name: &str) -> Vec<SizeLayout> {
        Catalogue::embedded().expect("it is checked").pool(name).expect("it is there").sizes.clone()
    }

    /// A pool and the object behind it, as this layout has them.
    fn two(layout: &SizeLayout, max: u64, open: u64) -> BTreeMap<u64, Object> {
        let [through] = layout.through[..] else { panic!("{layout:?}") };
        let mut pool = [0; OBJECT_BYTES];
        put(&mut pool, through, OTHER);
        BTreeMap::from([(POOL, pool), (OTHER, object(layout, max, open))])
    }

    #[test]
    fn a_pool_behind_another_object_tells_the_maximum() {
        for name in ["pgxpool v4", "pgxpool v5"] {
            let layouts = layouts(name);
            for layout in &layouts {
                let size = |memory: &BTreeMap<u64, Object>| {
                    max_open(&layouts, POOL, |at| memory.get(&at).copied())
                };
                let memory = two(layout, 23, 5);
                assert_eq!(size(&memory), Some(23), "{layout:?}");
                // What follows a number of four bytes is no part of it.
                assert_eq!(size(&two(layout, 23 | 7 << 32, 5)), Some(23), "{layout:?}");
                assert_eq!(size(&two(layout, 23, 24)), None, "more than it may");
                for elsewhere in [0, 0xfff8, OTHER + 4, OTHER + 8, u64::MAX - 7, 1 << 47] {
                    let mut memory = memory.clone();
                    put(memory.get_mut(&POOL).expect("it is there"), layout.through[0], elsewhere);
                    assert_eq!(size(&memory), None, "{elsewhere:x}");
                }
            }
        }
    }

    #[test]
    fn places_beyond_what_is_looked_at_are_refused() {
        assert!(OLD.is_within());
        assert!(SizeLayout { through: vec![OBJECT_BYTES - 8], ..OLD }.is_within());
        for layout in [
            SizeLayout { through: vec![OBJECT_BYTES - 7], ..OLD },
            SizeLayout { through: vec![0; 5], ..OLD },
            SizeLayout { max_open: usize::MAX, ..OLD },
            SizeLayout { open: OBJECT_BYTES, ..OLD },
        ] {
            assert!(!layout.is_within(), "{layout:?}");
        }
    }

    proptest! {
        #[test]
        fn memory_of_any_kind_is_no_size_that_nobody_sets(
            // Small words, and pointers to any of the objects, to their middle and elsewhere.
            words in prop::collection::vec(
                prop_oneof![0..200_u64, (0..8_u64).prop_map(|at| POOL + at * 100), any::<u64>()],
                8 * OBJECT_BYTES / 8,
            ),
        ) {
            let read = |at: u64| {
                let first = usize::try_from(at.checked_sub(POOL)? / 8).ok()?;
                let words = words.get(first..first.checked_add(OBJECT_BYTES / 8)?)?;
                let mut object = [0; OBJECT_BYTES];
                for (at, &word) in words.iter().enumerate() {
                    put(&mut object, at * 8, word);
                }
                Some(object)
            };
            for name in ["database/sql", "pgxpool v4", "pgxpool v5"] {
                let found = max_open(&layouts(name), POOL, read);
                prop_assert!(found.is_none_or(|max| (1..=100_000).contains(&max)));
            }
        }
    }
}
