//! The pool catalogue and what of it can be probed in a given executable or library.
//!
//! May import [`binary`](crate::binary), the model's plain types and the contract's probe layout.
//! Files of the catalogue are read by [`Catalogue::with_files`]; all else is a function of bytes.
//! Invariants: a pool counts as observed only when no path of its acquires or releases escapes the
//! probes, as far as the file says; what cannot be probed gives a note, never an error.

mod catalogue;
mod inspect;
pub(crate) mod size;

pub(crate) use catalogue::Beside;
pub use catalogue::{Action, At, Catalogue, CatalogueError, Pool};
pub use inspect::{BinaryPlan, Point, PoolFound, ProbeTable, inspect};
pub use size::{SizeLayout, Width};
