//! Runtimes whose own frames are not read: why, and which script runs.
//!
//! May import `std`, the table of runtimes and `owner`. Arguments of traced processes are never
//! trusted: they are bounded and only shown.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use super::owner;
use crate::binary::runtimes;
use crate::model::Runtime;

/// Why the frames of the runtime among these files of a process are not understood, if it is one
/// that has frames of its own.
pub(super) fn reason<'a>(
    pid: u32,
    arguments: &[u8],
    files: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let mut runtimes = files.into_iter().filter_map(|name| {
        runtimes::of_program(name).or_else(|| runtimes::of_libraries(&[name.as_bytes()]))
    });
    let (language, why) = runtimes.find_map(|runtime| match runtime {
        Runtime::Node => Some(("JavaScript", "this build of V8 does not say where they are")),
        Runtime::Python => Some(("Python", "this build does not say where they are")),
        Runtime::Php => Some(("PHP", "this build does not say where they are")),
        Runtime::Ruby => Some(("Ruby", "its functions and lines are not read")),
        _ => None,
    })?;
    Some(words(pid, arguments, language, why))
}

/// That a process with these arguments has no frames of this language, why, and what it runs.
pub(super) fn words(pid: u32, arguments: &[u8], language: &str, why: &str) -> String {
    let script = script(pid, arguments).map(|script| format!("; the script is {script}"));
    format!("no {language} frames: {why}{}", script.unwrap_or_default())
}

/// The main script of a process with these arguments, as `/proc/PID/cmdline` has them: the first
/// that is a file.
fn script(pid: u32, arguments: &[u8]) -> Option<String> {
    // What follows is a file of the interpreter's, or no file.
    const TAKE_ONE: [&[u8]; 7] = [b"-c", b"-d", b"-e", b"-r", b"-C", b"-I", b"-z"];
    let root = format!("/proc/{pid}/root");
    let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    let mut arguments = arguments.split(|&byte| byte == 0).skip(1);
    while let Some(argument) = arguments.next() {
        if TAKE_ONE.contains(&argument) {
            arguments.next();
        } else if !argument.starts_with(b"-") {
            let path = resolved(&directory, Path::new(OsStr::from_bytes(argument)));
            let inside = Path::new(&root).join(path.strip_prefix("/").ok()?);
            // The first that is no option is the script, if it is a file.
            let is_script = std::fs::symlink_metadata(inside).is_ok_and(|found| !found.is_dir());
            return is_script.then(|| owner::shortened(&path.to_string_lossy()));
        }
    }
    None
}

/// A path without `.` and `..`, by its text.
fn resolved(directory: &Path, path: &Path) -> PathBuf {
    let mut whole = PathBuf::from("/");
    for component in directory.join(path).components() {
        match component {
            Component::Normal(name) => whole.push(name),
            Component::ParentDir => {
                whole.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_the_first_argument_that_is_no_option() {
        let pid = std::process::id();
        // Tests run in the package's directory.
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let script = |arguments: &str| script(pid, arguments.replace(' ', "\0").as_bytes());
        let whole = Some(here.to_string_lossy().into_owned());
        assert_eq!(script("ruby Cargo.toml"), whole);
        assert_eq!(script("ruby -w -I lib src/../Cargo.toml --port 80"), whole);
        for none in ["ruby", "ruby -e Cargo.toml", "ruby no-such-file Cargo.toml", "ruby src", ""] {
            assert_eq!(script(none), None, "{none}");
        }
    }

    #[test]
    fn only_a_runtime_with_frames_of_its_own_needs_a_reason() {
        let reason = |files: &[&str]| reason(0, b"", files.iter().copied());
        let ruby = "no Ruby frames: its functions and lines are not read";
        assert_eq!(reason(&["libc.so.6", "ruby3.1"]).as_deref(), Some(ruby));
        assert_eq!(reason(&["puma", "libruby-3.1.so.3.1"]).as_deref(), Some(ruby));
        assert_eq!(reason(&["billing", "libpq.so.5"]), None);
    }
}
