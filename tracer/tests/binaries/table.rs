//! The Go function table against the toolchain's and the runtime's own reading of it.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use tracer::binary::{elf::Elf, pclntab::GoTable};

use super::build::{Go, MATRIX, Mode};

fn main_entry(table: &GoTable<Vec<u8>>) -> u64 {
    let found: Vec<_> = table.find("main.main").collect();
    assert_eq!(found.len(), 1);
    found[0].start
}

/// What the runtime says of each offset from `main.main`: function, file and line.
fn ask(program: &Path, offsets: &[i64]) -> Vec<(String, String, u32)> {
    let mut child = Command::new(program)
        .arg("resolve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("program starts");
    let mut stdin = child.stdin.take().expect("piped");
    let questions: String = offsets
        .iter()
        .map(|&offset| {
            let sign = if offset < 0 { "-" } else { "" };
            format!("{sign}{:x}\n", offset.unsigned_abs())
        })
        .collect();
    let writer = std::thread::spawn(move || stdin.write_all(questions.as_bytes()));
    let output = child.wait_with_output().expect("program ends");
    writer.join().expect("writer").expect("questions written");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines()
        .map(|line| {
            let mut fields = line.split('\t').map(str::to_owned);
            let mut next = || fields.next().expect("three fields");
            (next(), next(), next().parse().expect("line"))
        })
        .collect()
}

#[test]
fn addresses_are_where_the_code_is_in_the_file() {
    for (go, mode) in MATRIX {
        let program = go.build("pools", mode, &[]);
        let data = fs::read(&program).expect("read");
        let elf = Elf::parse(&data).expect("ELF");
        let main = main_entry(&GoTable::parse(data.clone()).expect("table"));
        let code = elf.bytes(main, main + 64).expect("mapped");
        let hex: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
        let output = Command::new(&program).arg("code").output().expect("program runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), hex, "{go:?} {mode:?}");
    }
}

/// Of every function some addresses, the first included.
fn addresses(table: &GoTable<Vec<u8>>) -> Vec<u64> {
    table
        .functions()
        .flat_map(|function| {
            let size = function.end - function.start;
            [0, size / 3, size / 2, size * 3 / 4].map(|delta| function.start + delta)
        })
        .collect()
}

#[test]
fn every_function_file_and_line_is_what_the_running_program_says() {
    for (go, mode) in MATRIX {
        let program = go.build("pools", mode, &[]);
        let table = GoTable::parse(fs::read(&program).expect("read")).expect("table");
        let main = main_entry(&table);
        let first = table.functions().next().expect("a function");
        let addresses = addresses(&table);
        assert!(addresses.len() > 20_000);
        let offsets: Vec<_> =
            addresses.iter().map(|&address| address.wrapping_sub(main) as i64).collect();
        let answers = ask(&program, &offsets);
        assert_eq!(answers.len(), addresses.len());
        let mut inlined = 0;
        for (&address, (function, file, line)) in addresses.iter().zip(answers) {
            let frames = table.resolve(address);
            inlined += frames.len() - 1;
            // The runtime gives the innermost frame of an address only. It has no name for the
            // linker's marks, and takes one at offset zero, the first function's, for none.
            let frame = &frames[0];
            let unnamed = function.is_empty()
                && (address < first.end || frame.function.starts_with("go:text"));
            assert!(
                unnamed || frame.function == function,
                "{go:?} {mode:?} {address:#x}: {function}, not {frame:?}"
            );
            assert_eq!(
                (frame.file.as_deref(), frame.line),
                (
                    Some(&*file).filter(|file| !["", "?"].contains(file)),
                    (line != 0).then_some(line)
                ),
                "{go:?} {mode:?} {address:#x} {function}"
            );
        }
        assert!(inlined > 3000, "{go:?} {mode:?}: {inlined} inlined frames");
    }
}

#[test]
fn names_and_bounds_are_those_of_the_symbol_table() {
    for go in [Go::System, Go::Newest] {
        let data = fs::read(go.build("pools", Mode::Default, &[])).expect("read");
        let elf = Elf::parse(&data).expect("ELF");
        let table = GoTable::parse(data.clone()).expect("table");
        let functions: Vec<_> = table.functions().collect();
        let (start, end) = (functions[0].start, functions[functions.len() - 1].end);
        let mut compared = 0;
        for symbol in elf.functions() {
            let name = String::from_utf8_lossy(symbol.name);
            // Marks of the linker's own, and C code, are no Go functions.
            if symbol.size == 0 || name.contains("(.text") || !(start..end).contains(&symbol.vaddr)
            {
                continue;
            }
            let Some(function) = table.function_at(symbol.vaddr) else {
                panic!("{go:?}: {name} is in no function")
            };
            if function.start != symbol.vaddr {
                continue;
            }
            let name = name.trim_end_matches(".abi0");
            assert_eq!(shortened(&function.name), shortened(name));
            assert!(function.end >= symbol.vaddr + symbol.size, "{name}");
            assert!(table.find(&function.name).any(|found| found == function) || compared > 500);
            compared += 1;
        }
        assert!(compared > 5000, "{go:?}: {compared} compared");
    }
}

/// Type arguments away: the table of Go before 1.21 has `[...]` in their place. The symbol table
/// has a dot for Go's middle dot.
fn shortened(name: &str) -> String {
    match (name.find('['), name.rfind(']')) {
        (Some(open), Some(close)) => format!("{}{}", &name[..open], &name[close + 1..]),
        _ => name.to_owned(),
    }
    .replace('·', ".")
}

#[test]
fn inlined_callers_are_listed_as_the_runtime_lists_them() {
    for (go, mode) in MATRIX {
        let program = go.build("pools", mode, &[]);
        let table = GoTable::parse(fs::read(&program).expect("read")).expect("table");
        let output = Command::new(&program).arg("stack").output().expect("program runs");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let expected: Vec<_> =
            text.lines().map(|line| line.split('\t').collect::<Vec<_>>()).collect();
        let main = main_entry(&table);
        let offset = i64::from_str_radix(expected[0][0], 16).expect("offset");
        let frames = table.resolve(main.wrapping_add_signed(offset) - 1);
        let found: Vec<_> = frames.iter().map(|frame| (&*frame.function, frame.inlined)).collect();
        assert_eq!(
            found,
            [("main.inner", true), ("main.outer", true), ("main.physical", false)],
            "{go:?} {mode:?}"
        );
        for (frame, expected) in frames.iter().zip(&expected) {
            assert_eq!(frame.function, expected[1]);
            assert_eq!(frame.file.as_deref(), Some(expected[2]));
            assert_eq!(frame.line.map(|line| line.to_string()).as_deref(), Some(expected[3]));
        }
        if go != Go::System {
            let source = fs::read_to_string(frames[0].file.as_ref().expect("file")).expect("read");
            for frame in &frames {
                let line = source.lines().nth(frame.start_line.expect("start line") as usize - 1);
                let name = frame.function.trim_start_matches("main.");
                assert!(line.is_some_and(|line| line.starts_with(&format!("func {name}("))));
            }
        }
    }
}
