//! The pool catalogue and what of it can be probed in a given executable or library.
