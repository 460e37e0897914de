//! What can go wrong between the object and a running probe, in sentences that name the object and
//! say what to do.

use std::path::PathBuf;

/// A failure of the kernel side to come up.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The object in this binary is empty: it was built for documentation or lints.
    #[error("this binary was built without its eBPF object: build it with `cargo xtask build`")]
    NoObject,
    /// The object could not be read or its maps could not be created.
    #[error("cannot load the eBPF object: {0}")]
    Object(String),
    /// The kernel's type information is missing or unreadable.
    #[error(
        "cannot read the kernel's BTF: {0}; connleak needs a kernel built with \
         CONFIG_DEBUG_INFO_BTF=y (see `connleak doctor`)"
    )]
    Btf(String),
    /// The verifier or the kernel's configuration refused a program.
    #[error("the kernel refused program `{program}` (for {hook}): {reason}")]
    Program {
        /// Name of the program in the object.
        program: String,
        /// What it is attached to.
        hook: String,
        /// The kernel's words, shortened to the end of the verifier's log.
        reason: String,
    },
    /// A map of the object is missing or has another shape.
    #[error("map `{map}` of the eBPF object: {reason}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A probe could not be attached to a file.
    #[error("cannot attach to {path:?} at offset {offset:#x}: {reason}")]
    Attach {
        /// The file.
        path: PathBuf,
        /// File offset of the instruction.
        offset: u64,
        /// The kernel's words.
        reason: String,
    },
}

/// The last lines of an error chain: verifier logs are long, and the end says why.
pub fn shorten(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.len() <= 12 {
        return lines.join("\n");
    }
    let mut short = vec![lines[0], "..."];
    short.extend(&lines[lines.len() - 10..]);
    short.join("\n")
}
