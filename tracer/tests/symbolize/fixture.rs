//! The programs of this directory, and what their stacks look like in an assertion.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tracer::model::{Frame, FrameKind, Stack};
use tracer::symbolize::Symbolizer;

use crate::target::Target;

/// More than any of their stacks has.
pub const ENOUGH: usize = 48 << 10;

pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/symbolize").join(name)
}

/// The line of fixture `name` marked with `// line: LABEL`.
pub fn line(name: &str, label: &str) -> u32 {
    let text = std::fs::read_to_string(source(name)).unwrap();
    let marker = format!("// line: {label}");
    let index = text.lines().position(|line| line.trim_end().ends_with(&marker)).unwrap();
    u32::try_from(index).unwrap() + 1
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn compile_c(flags: &[&str]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("chain");
    let page_bytes = if flags.iter().any(|flag| flag.starts_with("-DPAGE_BYTES")) {
        "-UUNUSED"
    } else {
        "-DPAGE_BYTES=64"
    };
    run(Command::new("gcc")
        .args(["-O2", "-pthread", page_bytes])
        .args(flags)
        .arg("-o")
        .arg(&program)
        .arg(source("chain.c")));
    (directory, program)
}

pub fn resolve(target: &Target) -> Stack {
    Symbolizer::new().resolve(&target.stack(ENOUGH)).stack
}

/// `function:line kind`, `+` in front of an inlined one.
pub fn shown(frame: &Frame) -> String {
    let symbol = frame.symbol.as_ref();
    let name = symbol.map_or("?", |symbol| symbol.function.as_str());
    let line = symbol.and_then(|s| s.line).map(|line| format!(":{line}")).unwrap_or_default();
    let inlined = if frame.inlined { "+" } else { "" };
    format!("{inlined}{name}{line} {:?}", frame.kind)
}

/// The frames from the first to the last of the application.
pub fn app(stack: &Stack) -> Vec<String> {
    let is_app = |frame: &Frame| frame.kind == FrameKind::App;
    let first = stack.frames.iter().position(is_app).unwrap_or(0);
    let last = stack.frames.iter().rposition(is_app).map_or(0, |index| index + 1);
    stack.frames[first..last].iter().map(shown).collect()
}

pub fn c_chain() -> Vec<String> {
    let at = |label| line("chain.c", label);
    vec![
        format!("hold:{} App", at("hold")),
        format!("+take:{} App", at("take")),
        format!("load_user:{} App", at("load_user")),
        format!("handle:{} App", at("handle")),
    ]
}
