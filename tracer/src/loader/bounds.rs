//! How much the kernel side may keep, where that is less than the contract's limits.
//!
//! May import the contract. What is lost when a bound is reached, and what the report says of it,
//! is tried by making the bound small: `connleak capture --bound`, which help does not show.

use std::str::FromStr;

use tracer_ebpf::{
    limits::{MAX_CHECKOUTS, MAX_CONNECTIONS, MAX_DESCRIPTORS, RING_BYTES},
    stack::CLASS_SLOTS,
};

/// The smallest ring buffer there is, in bytes: a page.
const SMALLEST_RING: u32 = 4 << 10;

/// One bound, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Connections tracked at once.
    Connections(u32),
    /// Descriptors that refer to them.
    Descriptors(u32),
    /// Pool handles joined to connections.
    Checkouts(u32),
    /// Stacks of each class.
    Stacks(u32),
    /// Bytes of the ring buffer: a power of two.
    Ring(u32),
}

impl FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) = text.split_once('=').ok_or("NAME=NUMBER")?;
        let number: u32 = number.parse().map_err(|_error| "the bound is no number".to_owned())?;
        let from = |least: u32, most: u32| {
            let fits = (least..=most).contains(&number);
            let error = || format!("{name} is at least {least} and at most {most}");
            fits.then_some(number).ok_or_else(error)
        };
        let within = |most| from(1, most);
        match name {
            "connections" => within(MAX_CONNECTIONS - 1).map(Self::Connections),
            "descriptors" => within(MAX_DESCRIPTORS).map(Self::Descriptors),
            "checkouts" => within(MAX_CHECKOUTS).map(Self::Checkouts),
            "stacks" => from(0, CLASS_SLOTS[0]).map(Self::Stacks),
            "ring" if number.is_power_of_two() && number >= SMALLEST_RING => {
                within(RING_BYTES).map(Self::Ring)
            }
            "ring" => Err(format!("a power of two of at least {SMALLEST_RING} bytes")),
            _ => Err("connections, descriptors, checkouts, stacks or ring".to_owned()),
        }
    }
}

/// All bounds; the contract's limits unless something less was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub(super) connections: u32,
    pub(super) descriptors: u32,
    pub(super) checkouts: u32,
    pub(super) stacks: [u32; CLASS_SLOTS.len()],
    pub(super) ring: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            // Slot 0 stays unused, so that an id is never zero.
            connections: MAX_CONNECTIONS - 1,
            descriptors: MAX_DESCRIPTORS,
            checkouts: MAX_CHECKOUTS,
            stacks: CLASS_SLOTS,
            ring: RING_BYTES,
        }
    }
}

impl FromIterator<Bound> for Bounds {
    fn from_iter<I: IntoIterator<Item = Bound>>(bounds: I) -> Self {
        let mut all = Self::default();
        for bound in bounds {
            match bound {
                Bound::Connections(most) => all.connections = most,
                Bound::Descriptors(most) => all.descriptors = most,
                Bound::Checkouts(most) => all.checkouts = most,
                Bound::Stacks(most) => all.stacks = all.stacks.map(|slots| slots.min(most)),
                Bound::Ring(bytes) => all.ring = bytes,
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_named_and_never_more_than_the_limit() {
        assert_eq!("stacks=0".parse(), Ok(Bound::Stacks(0)));
        assert_eq!("ring=4096".parse(), Ok(Bound::Ring(4096)));
        let too_many = format!("descriptors={}", MAX_DESCRIPTORS + 1);
        let wrong = ["", "stacks", "stacks=", "stacks=-1", "checkouts=0", "ring=5000", "x=1"];
        for text in wrong.into_iter().chain([too_many.as_str()]) {
            assert!(text.parse::<Bound>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_bounded_is_as_large_as_it_can_be() {
        let bounds: Bounds = [Bound::Stacks(100), Bound::Checkouts(3)].into_iter().collect();
        let expected = Bounds { checkouts: 3, stacks: [100, 100, 64, 100], ..Bounds::default() };
        assert_eq!(bounds, expected);
    }
}
