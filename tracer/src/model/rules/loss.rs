//! Which losses lower the certainty of findings.
//!
//! May import nothing. Invariant: a reason that is not known here lowers it.

/// Losses that cannot make a connection look held or silent: they cost a stack, an acquire (never
/// a release), a wait, or a per-process setting. Names are those of the kernel side's drop reasons.
const HARMLESS: [&str; 7] = [
    "no_stack_slot",
    "stack_read_failed",
    "checkout_map_full",
    "checkout_unjoined",
    "process_map_full",
    "caller_map_full",
    "waits_map_full",
];

/// Whether a loss for this reason could explain that no close, release or byte was seen.
#[must_use]
pub fn lowers_certainty(reason: &str) -> bool {
    !HARMLESS.contains(&reason)
}

#[cfg(test)]
mod tests {
    use tracer_ebpf::drops::DropReason;

    use super::{HARMLESS, lowers_certainty};

    #[test]
    fn harmless_losses_are_reasons_of_the_kernel_side() {
        for name in HARMLESS {
            assert!(DropReason::ALL.iter().any(|reason| reason.name() == name), "{name}");
        }
    }

    #[test]
    fn a_lost_close_or_byte_or_an_unknown_loss_lowers_certainty() {
        for reason in [DropReason::RingFull, DropReason::DescriptorMapFull] {
            assert!(lowers_certainty(reason.name()));
        }
        assert!(lowers_certainty("something new"));
    }
}
