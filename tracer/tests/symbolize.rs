//! Stacks of real programs, copied where they stopped, resolve to the exact functions and lines.
//! What only root can resolve is in `root.rs`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "symbolize/fixture.rs"]
mod fixture;
#[path = "symbolize/target.rs"]
mod target;

use std::process::Command;

use fixture::{ENOUGH, app, c_chain, compile_c, line, resolve, run, shown, source};
use target::Target;
use tracer::model::FrameKind;
use tracer::symbolize::{Resolved, Symbolizer};
use xtask::clients;

#[test]
fn c_functions_and_lines_are_exact_however_the_program_was_built() {
    for flags in [
        &["-g", "-fomit-frame-pointer", "-pie", "-fPIE"][..],
        &["-g", "-fno-omit-frame-pointer", "-pie", "-fPIE"],
        &["-g", "-fomit-frame-pointer", "-no-pie", "-fno-pie"],
        &["-g", "-fno-omit-frame-pointer", "-no-pie", "-fno-pie"],
        &["-g", "-fomit-frame-pointer", "-static"],
        &["-g", "-fomit-frame-pointer", "-static-pie", "-fPIE"],
        &["-g", "-gz", "-fomit-frame-pointer", "-pie", "-fPIE"],
    ] {
        let (_directory, program) = compile_c(flags);
        let stack = resolve(&Target::start(Command::new(&program)));
        let mut expected = c_chain();
        expected.push(format!("main:{} App", line("chain.c", "main")));
        assert_eq!(app(&stack), expected, "{flags:?} {stack:#?}");
        assert_eq!(stack.truncated, None, "{flags:?} {stack:#?}");
        let file = stack.frames.iter().find(|frame| frame.kind == FrameKind::App);
        let file = file.and_then(|frame| frame.symbol.as_ref()?.file.clone());
        assert_eq!(file.as_deref(), source("chain.c").to_str(), "{flags:?}");
    }
}

#[test]
fn a_thread_ends_where_threads_begin() {
    let (_directory, program) = compile_c(&["-g"]);
    let mut command = Command::new(&program);
    command.arg("thread");
    let stack = resolve(&Target::start(command));
    assert_eq!(app(&stack), c_chain());
    assert_eq!(stack.truncated, None);
}

#[test]
fn at_a_boundary_the_caller_is_the_word_at_the_stack_pointer() {
    // `tgkill` of the C library has no frame: inside it, the stack is that of its first instruction.
    let (_directory, program) = compile_c(&["-g", "-fomit-frame-pointer"]);
    let target = Target::start(Command::new(&program));
    let mut raw = target.stack(ENOUGH);
    raw.boundary = true;
    let stack = Symbolizer::new().resolve(&raw).stack;
    // `__GI_tgkill` where the C library's debug symbols are installed.
    assert!(shown(&stack.frames[0]).contains("tgkill"), "{stack:#?}");
    assert_eq!(stack, resolve(&target));
}

#[test]
fn without_symbols_frames_are_unknown_but_counted_and_attributed() {
    let (_directory, program) = compile_c(&["-s", "-fomit-frame-pointer", "-fcf-protection=none"]);
    let stack = resolve(&Target::start(Command::new(&program)));
    let unknown: Vec<_> =
        stack.frames.iter().filter(|frame| frame.module.as_deref() == Some("chain")).collect();
    assert_eq!(unknown.len(), 5, "hold, load_user, handle, main, _start: {stack:#?}");
    assert!(unknown.iter().all(|frame| frame.kind == FrameKind::Unknown && frame.symbol.is_none()));
    assert_eq!(stack.truncated, None);
}

#[test]
fn a_copy_that_ends_in_a_program_without_names_asks_for_no_more() {
    let cut = |flags: &[&str], bytes| {
        let (_directory, program) = compile_c(&[&["-s", "-DPAGE_BYTES=20000"], flags].concat());
        let Resolved { stack, cut } =
            Symbolizer::new().resolve(&Target::start(Command::new(&program)).stack(bytes));
        assert!(stack.truncated.is_some(), "{stack:#?}");
        assert!(stack.frames.iter().all(|frame| frame.kind != FrameKind::App), "{stack:#?}");
        cut
    };
    assert!(!cut(&[], 4 << 10), "its frames are there, and none of them has a name");
    // Where only the C library's are, nobody knows yet who called.
    assert!(cut(&[], 4));
    // It has names, if not for these frames.
    assert!(cut(&["-Wl,--export-dynamic-symbol=main"], 4 << 10));
}

#[test]
fn a_deleted_program_that_has_ended_still_resolves_once_it_was_seen() {
    let (directory, program) = compile_c(&["-g"]);
    let target = Target::start(Command::new(&program));
    let mut symbolizer = Symbolizer::new();
    symbolizer.observe(target.pid()).unwrap();
    let raw = target.stack(ENOUGH);
    drop(directory);
    target.end();
    let stack = symbolizer.resolve(&raw).stack;
    assert_eq!(app(&stack)[..4], c_chain(), "{stack:#?}");
    assert_eq!(stack.truncated, None);
    symbolizer.forget(raw.pid);
    assert!(symbolizer.resolve(&raw).stack.truncated.is_some(), "forgotten means forgotten");
}

#[test]
fn a_file_that_was_overwritten_after_it_was_seen_is_not_read() {
    let (_directory, program) = compile_c(&["-g"]);
    let target = Target::start(Command::new(&program));
    let mut symbolizer = Symbolizer::new();
    symbolizer.observe(target.pid()).unwrap();
    let raw = target.stack(ENOUGH);
    target.end();
    std::fs::write(&program, b"").unwrap();
    let stack = symbolizer.resolve(&raw).stack;
    assert!(stack.frames.iter().all(|frame| frame.kind != FrameKind::App), "{stack:#?}");
    assert!(stack.truncated.is_some());
}

#[test]
fn a_copy_that_ends_before_the_application_asks_for_more() {
    let (_directory, program) = compile_c(&["-g", "-DPAGE_BYTES=20000"]);
    let target = Target::start(Command::new(&program));
    let mut symbolizer = Symbolizer::new();
    // Application frames are there, the rest is not: said, but no reason to copy more.
    let Resolved { stack, cut } = symbolizer.resolve(&target.stack(4 << 10));
    assert_eq!(app(&stack), c_chain());
    assert_eq!(stack.truncated.as_deref(), Some("only 4096 bytes of stack were copied"));
    assert!(!cut);
    // Nothing of the application is there.
    let Resolved { stack, cut } = symbolizer.resolve(&target.stack(0));
    assert!(!cut && stack.truncated.is_some(), "nothing was copied at all");
    let Resolved { stack, cut } = symbolizer.resolve(&target.stack(4));
    assert!(cut && stack.truncated.is_some(), "{stack:#?}");
    let Resolved { stack, cut } = symbolizer.resolve(&target.stack(ENOUGH));
    assert!(!cut && stack.truncated.is_none(), "{stack:#?}");
}

#[test]
fn rust_functions_lines_and_inlining_are_exact() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("shop");
    run(Command::new("rustc")
        .args(["--edition=2024", "-O", "-g", "--crate-name=shop", "-o"])
        .arg(&program)
        .arg(source("chain.rs")));
    let stack = resolve(&Target::start(Command::new(&program)));
    let at = |label| line("chain.rs", label);
    assert_eq!(
        app(&stack),
        [
            format!("shop::hold:{} App", at("hold")),
            format!("+shop::take:{} App", at("take")),
            format!("shop::load:{} App", at("load")),
            format!("shop::Shop::handle:{} App", at("handle")),
            format!("shop::main:{} App", at("main")),
        ],
        "the C `main` that Rust makes is not the application's: {stack:#?}"
    );
    assert_eq!(stack.truncated, None);
}

#[test]
fn go_functions_and_lines_are_exact() {
    for flags in [
        &[][..],
        &["-ldflags=-s -w"],
        &["-buildmode=pie"],
        &["-buildmode=pie", "-ldflags=-s -w -linkmode=external"],
    ] {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("chain");
        run(clients::go("go")
            .arg("build")
            .args(flags)
            .arg("-o")
            .arg(&program)
            .arg(source("chain.go")));
        let stack = resolve(&Target::start(Command::new(&program)));
        let at = |label| line("chain.go", label);
        assert_eq!(
            app(&stack),
            [
                format!("main.hold:{} App", at("hold")),
                format!("+main.take:{} App", at("take")),
                format!("main.load:{} App", at("load")),
                format!("main.(*Server).handle:{} App", at("handle")),
                format!("main.main.func1:{} App", at("goroutine")),
            ],
            "{flags:?} {stack:#?}"
        );
        assert_eq!(stack.truncated, None, "{flags:?}");
        assert_eq!(shown(stack.frames.last().unwrap()).split(':').next(), Some("runtime.goexit"));
    }
}

#[test]
fn node_functions_are_named_by_the_perf_map() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("node");
    command
        .args(["--perf-basic-prof", "--interpreted-frames-native-stack"])
        .arg(source("chain.js"))
        // V8 leaves a log there.
        .current_dir(directory.path());
    let target = Target::start(command);
    let map = format!("/tmp/perf-{}.map", target.pid());
    let stack = resolve(&target);
    let plain = {
        let raw = target.stack(ENOUGH);
        std::fs::remove_file(&map).unwrap();
        Symbolizer::new().resolve(&raw).stack
    };
    target.end();

    let functions: Vec<_> = stack
        .frames
        .iter()
        .filter(|frame| frame.kind == FrameKind::App)
        .filter_map(|frame| frame.symbol.as_ref())
        .map(|symbol| (symbol.function.as_str(), symbol.file.as_deref()))
        .collect();
    let file = source("chain.js");
    let file = file.to_str();
    assert_eq!(functions, [("hold", file), ("loadUser", file)], "{stack:#?}");
    assert_eq!(stack.truncated, None, "{stack:#?}");

    assert_eq!(plain.frames.len(), stack.frames.len());
    assert!(plain.frames.iter().all(|frame| frame.kind != FrameKind::App), "{plain:#?}");
}

#[test]
fn an_interpreters_own_code_is_not_the_applications() {
    let mut command = Command::new("python3");
    command.args([
        "-c",
        "import os, signal; print(os.getpid(), flush=True); os.kill(os.getpid(), signal.SIGSTOP)",
    ]);
    let stack = resolve(&Target::start(command));
    assert!(stack.frames.len() > 5, "{stack:#?}");
    assert!(stack.frames.iter().all(|frame| frame.kind != FrameKind::App), "{stack:#?}");
    assert_eq!(stack.truncated, None, "{stack:#?}");
}

#[test]
fn a_process_that_is_gone_is_said_to_be_gone() {
    let (_directory, program) = compile_c(&["-g"]);
    let target = Target::start(Command::new(&program));
    let raw = target.stack(ENOUGH);
    target.end();
    let resolved = Symbolizer::new().resolve(&raw);
    assert!(resolved.stack.frames.is_empty() && !resolved.cut);
    assert!(resolved.stack.truncated.is_some_and(|reason| reason.contains("ended")));
}
