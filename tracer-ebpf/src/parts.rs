//! The programs that the system-call hook goes on in, by their place in the `PARTS` map.
//!
//! May import nothing. User space loads them and fills the map before it attaches the hook.

/// `connect` returned.
pub const PART_CONNECT: u32 = 0;
/// A send or receive with one buffer on a watched socket returned.
pub const PART_SEND: u32 = 1;
pub const PART_RECEIVE: u32 = 2;
/// A send or receive that is not followed by what is at hand of it alone.
pub const PART_SEND_WALK: u32 = 3;
pub const PART_RECEIVE_WALK: u32 = 4;
/// A receive of no bytes on a watched socket returned.
pub const PART_MARK: u32 = 5;

/// Names of the programs in the object, by place.
pub const PARTS: [&str; 6] = [
    "part_connect",
    "part_send",
    "part_receive",
    "part_send_walk",
    "part_receive_walk",
    "part_mark",
];
