//! The programs that the system-call hook goes on in, by their place in the `PARTS` map.
//!
//! May import nothing. User space loads them and fills the map before it attaches the hook.

/// `connect` returned.
pub const PART_CONNECT: u32 = 0;
/// A send on a watched socket returned.
pub const PART_SEND: u32 = 1;
/// A receive on a watched socket returned.
pub const PART_RECEIVE: u32 = 2;

/// Names of the programs in the object, by place.
pub const PARTS: [&str; 3] = ["part_connect", "part_send", "part_receive"];
