//! Equal stacks kept once: the connections of a pool come from few places.
//!
//! Pure. May import [`super::event`]. Invariant: at most twice as many are kept as are used, and a
//! few.

use std::{collections::HashSet, sync::Arc};

use super::event::Stack;

/// Stacks kept before the first look for unused ones.
const FEW: usize = 256;

/// Frames of one stack; the outer ones beyond are cut.
const MAX_FRAMES: usize = 512;

/// A stack of no more frames than are kept.
pub(super) fn bounded(stack: &Stack) -> Stack {
    let mut stack = stack.clone();
    if stack.frames.len() > MAX_FRAMES {
        stack.frames.truncate(MAX_FRAMES);
        stack.truncated.get_or_insert_with(|| format!("more than {MAX_FRAMES} frames"));
    }
    stack
}

/// The stacks in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Stacks {
    known: HashSet<Arc<Stack>>,
    /// Number at which unused ones are looked for.
    full: usize,
}

impl Stacks {
    /// The one kept stack that equals this one.
    pub(super) fn keep(&mut self, stack: Stack) -> Arc<Stack> {
        if let Some(known) = self.known.get(&stack) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.full.max(FEW) {
            self.known.retain(|stack| Arc::strong_count(stack) > 1);
            self.full = self.known.len() * 2;
        }
        let stack = Arc::new(stack);
        self.known.insert(Arc::clone(&stack));
        stack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(reason: usize) -> Stack {
        Stack { frames: Vec::new(), truncated: Some(reason.to_string()) }
    }

    #[test]
    fn equal_stacks_are_one() {
        let mut stacks = Stacks::default();
        let (one, other) = (stacks.keep(stack(1)), stacks.keep(stack(1)));
        assert!(Arc::ptr_eq(&one, &other));
        assert!(!Arc::ptr_eq(&one, &stacks.keep(stack(2))));
    }

    #[test]
    fn stacks_that_nobody_uses_are_forgotten_and_others_are_not() {
        let mut stacks = Stacks::default();
        let used: Vec<_> = (0..FEW).map(|reason| stacks.keep(stack(reason))).collect();
        for reason in FEW..20 * FEW {
            drop(stacks.keep(stack(reason)));
        }
        assert!(stacks.known.len() <= 2 * FEW, "{}", stacks.known.len());
        assert!(Arc::ptr_eq(&used[7], &stacks.keep(stack(7))));
    }
}
