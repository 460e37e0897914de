//! Descriptors of the host's processes, and sockets: their keys, and their place in the table before the map
//! of those that refer to connections.
//!
//! May import [`limits`](crate::limits). A look into a map of keys costs a seventh of all that is done for a
//! send, a look into an array next to nothing. So the connection of each key is also at the place that the
//! key's number says, if no other key was put there since. Invariants: a place is written before the key
//! goes into the map, and is never zero again, so zero says that the map has no such key; a connection
//! found there is believed only if it was opened as this descriptor of this process, and it is taken away
//! before the key is.

use crate::limits::NEAR_FDS;

/// Key of the descriptor map.
#[must_use]
#[inline(always)]
pub const fn fd_key(tgid: u32, fd: u32) -> u64 {
    ((tgid as u64) << 32) | fd as u64
}

/// Key of a socket in the same maps: the address of its `struct sock`, told by its distance from another one
/// in the kernel, for the verifier lets programs do nothing else with an address than take it from another.
/// No key of a descriptor has the bit.
#[must_use]
#[inline(always)]
pub const fn sock_key(address: u64, base: u64) -> u64 {
    address.wrapping_sub(base) | 1 << 63
}

/// The place of a key in the table (Fibonacci hashing, as the kernel's `hash_64`).
#[must_use]
#[inline(always)]
pub const fn near_place(key: u64) -> u32 {
    (key.wrapping_mul(0x61c8_8646_80b5_83eb) >> (64 - NEAR_FDS.ilog2())) as u32
}

/// At a place whose connection is gone: the map knows. No id, for no slot has that number.
pub const NEAR_GONE: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    extern crate std;
    use super::{fd_key, near_place};
    use crate::limits::NEAR_FDS;
    use std::collections::HashSet;

    #[test]
    fn most_neighbours_have_places_of_their_own() {
        let keys = (1_000..1_050).flat_map(|tgid| (3..43).map(move |fd| fd_key(tgid, fd)));
        let places: HashSet<u32> = keys.map(near_place).collect();
        assert!(places.iter().all(|place| *place < NEAR_FDS));
        assert!(places.len() > 1_900, "{} of 2,000", places.len());
    }
}
