//! The programs that others go on in, by their place in a map of them: those of the system-call hook
//! in `PARTS`, those of the hooks on sockets in `SOCKET_PARTS` and `STATE_PARTS`, those of the pools' probes
//! in `PROBE_PARTS`. The kernel lets programs go on only in those for a hook with the same arguments.
//!
//! May import nothing. User space loads them and fills the maps before it attaches anything.

/// `connect` returned.
pub const PART_CONNECT: u32 = 0;
/// A send or receive that is not followed by what is at hand of it alone.
pub const PART_SEND_WALK: u32 = 1;
pub const PART_RECEIVE_WALK: u32 = 2;
/// A receive of no bytes on a watched socket returned.
pub const PART_MARK: u32 = 3;
/// The walk along the messages of such a send or receive, some steps of it.
pub const PART_SEND_STEPS: u32 = 4;
pub const PART_RECEIVE_STEPS: u32 = 5;
/// The stack at this call is kept.
pub const PART_STACK: u32 = 6;
/// The frames of the process's runtime are kept with it.
pub const PART_FRAMES: u32 = 7;

/// Names of the programs in the object, by place.
pub const PARTS: [&str; 8] = [
    "part_connect",
    "part_send_walk",
    "part_receive_walk",
    "part_mark",
    "part_send_steps",
    "part_receive_steps",
    "part_stack",
    "part_frames",
];

/// The same of the hooks on sockets, which have no [`PART_CONNECT`] and no [`PART_MARK`]: their places stay
/// free.
pub const SOCKET_PARTS: [&str; 8] = [
    "",
    "socket_send_walk",
    "socket_receive_walk",
    "",
    "socket_send_steps",
    "socket_receive_steps",
    "socket_stack",
    "socket_frames",
];

/// A process asks for a connection.
pub const STATE_PART_CONNECT: u32 = 0;
/// The stack at this call is kept.
pub const STATE_PART_STACK: u32 = 1;
/// The frames of the process's runtime are kept with it.
pub const STATE_PART_FRAMES: u32 = 2;

/// Names of the state hook's programs in the object, by place.
pub const STATE_PARTS: [&str; 3] = ["state_connect", "state_stack", "state_frames"];

/// The stack at this point of a pool's function is kept.
pub const PROBE_PART_STACK: u32 = 0;
/// The frames of the process's runtime are kept with it.
pub const PROBE_PART_FRAMES: u32 = 1;

/// Names of the probes' programs in the object, by place.
pub const PROBE_PARTS: [&str; 2] = ["probe_stack", "probe_frames"];
