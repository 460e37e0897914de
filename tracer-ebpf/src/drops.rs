//! Why the kernel side could not keep something. Numbers are stable; names appear in reports.
//!
//! May import nothing. Invariant: reasons are dense from zero, so a per-CPU array indexed by them
//! holds all counters.

/// A reason for which the kernel side lost something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DropReason {
    /// The ring buffer was full: a rare event (open, close, fork, exec, exit) was lost.
    RingFull = 0,
    /// No free connection slot: a connection was not tracked.
    NoConnectionSlot = 1,
    /// The descriptor map was full: the wire of a connection was not seen.
    DescriptorMapFull = 2,
    /// No free stack slot: an event has no stack.
    NoStackSlot = 3,
    /// The checkout map was full: an acquire was not tracked.
    CheckoutMapFull = 4,
    /// A pool handle could not be joined to a known connection.
    CheckoutUnjoined = 5,
    /// User memory could not be read (paged out or unmapped): bytes of the wire were not seen.
    UserReadFailed = 6,
    /// Kernel memory could not be read while identifying a socket.
    KernelReadFailed = 7,
    /// The user stack could not be read at all.
    StackReadFailed = 8,
    /// The process map was full.
    ProcessMapFull = 9,
    /// A connection's slot could not be returned to the free list.
    FreeListFull = 10,
    /// The map of callers was full: one that waits for a pool's connection was not seen.
    CallerMapFull = 11,
    /// The map of waits was full: one that is over was not counted.
    WaitsMapFull = 12,
}

impl DropReason {
    /// Every reason, by number.
    pub const ALL: [Self; 13] = [
        Self::RingFull,
        Self::NoConnectionSlot,
        Self::DescriptorMapFull,
        Self::NoStackSlot,
        Self::CheckoutMapFull,
        Self::CheckoutUnjoined,
        Self::UserReadFailed,
        Self::KernelReadFailed,
        Self::StackReadFailed,
        Self::ProcessMapFull,
        Self::FreeListFull,
        Self::CallerMapFull,
        Self::WaitsMapFull,
    ];

    /// Number of reasons: the size of the counter array.
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// Name in reports and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RingFull => "ring_full",
            Self::NoConnectionSlot => "no_connection_slot",
            Self::DescriptorMapFull => "descriptor_map_full",
            Self::NoStackSlot => "no_stack_slot",
            Self::CheckoutMapFull => "checkout_map_full",
            Self::CheckoutUnjoined => "checkout_unjoined",
            Self::UserReadFailed => "user_read_failed",
            Self::KernelReadFailed => "kernel_read_failed",
            Self::StackReadFailed => "stack_read_failed",
            Self::ProcessMapFull => "process_map_full",
            Self::FreeListFull => "free_list_full",
            Self::CallerMapFull => "caller_map_full",
            Self::WaitsMapFull => "waits_map_full",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn numbers_are_dense_and_in_order() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }
}
