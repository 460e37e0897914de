//! The catalogue against real executables and libraries: what is recognised, where the probes go,
//! and that the way from a handle to its descriptor is what the types and the machine code say.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use tracer::{
    binary::{elf::Elf, pclntab::GoTable, rets},
    model::Runtime,
    pools::{At, BinaryPlan, Catalogue, PoolFound, ProbeTable, SizeLayout, Width, inspect},
};
use tracer_ebpf::probe::{
    ACTION_ACQUIRE, ACTION_CONNECT, ACTION_ENTER, ACTION_FORGET, ACTION_RELEASE,
};
use xtask::clients;

use super::build::{Go, MATRIX, Mode, build_c, hash};

const SYSTEM_LIBPQ: &str = "/usr/lib/x86_64-linux-gnu/libpq.so.5";

/// The libpq that a Python wheel brings along.
fn bundled_libpq() -> PathBuf {
    let lib = clients::python_dir().join("lib");
    let find = |directory: &Path, prefix: &str| {
        fs::read_dir(directory)
            .unwrap_or_else(|error| {
                panic!("{}: {error}: run `cargo xtask setup`", directory.display())
            })
            .map(|entry| entry.expect("directory entry").path())
            .find(|path| {
                path.file_name()
                    .and_then(|name| name.to_str())
                    .is_some_and(|name| name.starts_with(prefix))
            })
            .unwrap_or_else(|| panic!("no {prefix} in {}", directory.display()))
    };
    let packages = find(&lib, "python3").join("site-packages/psycopg2_binary.libs");
    find(&packages, "libpq-")
}

fn plan(data: &[u8]) -> (BinaryPlan, ProbeTable) {
    let catalogue = Catalogue::embedded().expect("catalogue");
    let mut table = ProbeTable::new(&catalogue).expect("fits");
    let plan = inspect(data, &catalogue, &mut table).expect("ELF");
    (plan, table)
}

fn pool<'a>(plan: &'a BinaryPlan, name: &str) -> &'a PoolFound {
    plan.pools.iter().find(|pool| pool.name == name).unwrap_or_else(|| panic!("no {name}"))
}

/// Points of a function.
fn points(pool: &PoolFound, symbol: &str) -> Vec<u64> {
    let of = pool.points.iter().filter(|point| point.symbol == symbol);
    of.map(|point| point.file_offset).collect()
}

#[test]
fn go_pools_are_observed_in_every_kind_of_executable() {
    for (go, mode) in MATRIX {
        let data = fs::read(go.build("pools", mode, &[])).expect("read");
        let (plan, table) = plan(&data);
        let elf = Elf::parse(&data).expect("ELF");
        let functions = GoTable::parse(&*data).expect("table");
        assert_eq!(plan.runtime, Some(Runtime::Go));
        let names: Vec<_> = plan.pools.iter().map(|pool| &*pool.name).collect();
        assert_eq!(names, ["database/sql", "pgxpool v4"], "{go:?} {mode:?}");
        for (name, acquire, release) in [
            ("database/sql", "database/sql.(*DB).conn", "database/sql.(*DB).putConn"),
            (
                "pgxpool v4",
                "github.com/jackc/pgx/v4/pgxpool.(*Pool).Acquire",
                "github.com/jackc/pgx/v4/pgxpool.(*Conn).Release",
            ),
        ] {
            let pool = pool(&plan, name);
            assert!(pool.observed, "{go:?} {mode:?} {pool:?}");
            assert_eq!(pool.note, None);
            for point in &pool.points {
                let spec = &table.specs()[point.probe];
                let catalogue = Catalogue::embedded().expect("catalogue");
                assert_eq!(catalogue.pools()[spec.pool as usize].name, name);
                let vaddr = elf.vaddr(point.file_offset).expect("mapped");
                let function = functions.function_at(vaddr).expect("in a function");
                assert_eq!(function.name, point.symbol);
                match point.at {
                    At::Entry => {
                        assert_eq!(function.start, vaddr);
                        let expected: &[u8] = if point.symbol == acquire {
                            &[ACTION_ENTER]
                        } else {
                            &[ACTION_RELEASE, ACTION_FORGET]
                        };
                        assert!(expected.contains(&spec.action));
                    }
                    At::Returns => {
                        assert_eq!(data[point.file_offset as usize], 0xc3);
                        assert_eq!(spec.action, ACTION_ACQUIRE);
                    }
                }
            }
            assert!(points(pool, acquire).len() > 1);
            assert_eq!(points(pool, release).len(), 1);
        }
    }
}

#[test]
fn rets_are_those_that_objdump_finds() {
    for go in [Go::System, Go::Newest] {
        let path = go.build("pools", Mode::Default, &[]);
        let data = fs::read(&path).expect("read");
        let elf = Elf::parse(&data).expect("ELF");
        let table = GoTable::parse(&*data).expect("table");
        let functions = table.functions().filter(|function| {
            function.name.starts_with("database/sql.") || function.name.contains("pgxpool.")
        });
        let mut compared = 0;
        for function in functions.take(90) {
            let output = Command::new("objdump")
                .args(["-d", "--no-show-raw-insn"])
                .arg(format!("--start-address={:#x}", function.start))
                .arg(format!("--stop-address={:#x}", function.end))
                .arg(&path)
                .output()
                .expect("objdump runs");
            let text = String::from_utf8_lossy(&output.stdout);
            let expected: Vec<_> = text
                .lines()
                .filter_map(|line| line.split_once(":\t"))
                .filter(|(_, code)| code.split_whitespace().next() == Some("ret"))
                .map(|(at, _)| u64::from_str_radix(at.trim(), 16).expect("address"))
                .collect();
            let code = elf.bytes(function.start, function.end).expect("mapped");
            match rets::exits(code, function.start) {
                Ok(exits) => assert_eq!(exits.returns, expected, "{}", function.name),
                Err(error) => {
                    assert_eq!(error, rets::Error::NoReturn, "{}", function.name);
                    assert!(expected.is_empty());
                }
            }
            compared += 1;
        }
        assert_eq!(compared, 90);
    }
}

/// The chains of a pool's acquire probe.
fn chains(pool: &PoolFound, table: &ProbeTable) -> BTreeSet<Vec<i32>> {
    let probe = pool.points.iter().find(|point| point.at == At::Returns).expect("a return");
    let spec = &table.specs()[probe.probe];
    let chains = &spec.chains[..usize::from(spec.chain_count)];
    chains.iter().map(|chain| chain.offsets[..chain.len as usize].to_vec()).collect()
}

/// Programs that say where the types of their pools have what.
const TOLD: [(Go, &str, &[&str]); 4] = [
    (Go::System, "pools", &["database/sql", "pgxpool v4"]),
    (Go::V1_24, "pools", &["database/sql", "pgxpool v4"]),
    (Go::Newest, "pools", &["database/sql", "pgxpool v4"]),
    (Go::Newest, "pools5", &["pgxpool v5"]),
];

/// What one of them says.
fn told(program: &Path) -> String {
    let output = Command::new(program).arg("chains").output().expect("program runs");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn chains_to_the_descriptor_are_those_of_the_go_types() {
    for (go, program, pools) in TOLD {
        let path = go.build(program, Mode::Stripped, &[]);
        let (plan, table) = plan(&fs::read(&path).expect("read"));
        let text = told(&path);
        for name in pools {
            let found = pool(&plan, name);
            assert!(found.observed, "{found:?}");
            let expected: BTreeSet<Vec<i32>> = text
                .lines()
                .filter_map(|line| line.strip_prefix(&format!("{name} [")))
                .map(|line| {
                    let offsets = line.trim_end_matches(']').split(' ');
                    offsets.map(|offset| offset.parse().expect("offset")).collect()
                })
                .collect();
            assert!(!expected.is_empty());
            let mut chains = chains(found, &table);
            // MySQL's driver names none of its types outside: its client in the corpus is its test.
            chains.retain(|chain| !MYSQL.contains(&chain.as_slice()));
            assert_eq!(chains, expected, "{go:?} {name}");
        }
    }
}

/// go-sql-driver/mysql up to 1.8 and from 1.9 on, without TLS and with it.
const MYSQL: [&[i32]; 4] =
    [&[48, 32, 0, 16], &[48, 32, 8, 0, 16], &[48, 56, 0, 16], &[48, 56, 8, 0, 16]];

/// What a program says of where its pools have their size: through which pointers, and where then.
fn places(text: &str, name: &str) -> (Vec<usize>, Vec<usize>) {
    let prefix = format!("size {name} [");
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix)).expect("a size");
    let (through, places) = line.split_once("] [").expect("two lists");
    let numbers = |list: &str| {
        let list = list.trim_end_matches(']').split_whitespace();
        list.map(|offset| offset.parse().expect("offset")).collect()
    };
    (numbers(through), numbers(places))
}

#[test]
fn the_size_of_a_pool_is_where_the_go_type_has_it() {
    let catalogue = Catalogue::embedded().expect("it is checked");
    let layouts = |name| &catalogue.pool(name).expect("it is there").sizes;
    let mut seen = BTreeSet::new();
    for (go, program, pools) in TOLD {
        let path = go.build(program, Mode::Stripped, &[]);
        let text = told(&path);
        for name in pools {
            let (through, places) = places(&text, name);
            let [max_open, open, pointer, zero] = places[..] else { panic!("{text}") };
            let max_width = if through.is_empty() { Width::Word } else { Width::Half };
            let wanted = SizeLayout { through, max_open, max_width, open, pointer, zero };
            assert!(layouts(name).contains(&wanted), "{go:?}: {name}: {wanted:?}");
            if *name == "database/sql" {
                seen.insert(places);
            }
        }
    }
    assert_eq!(seen.len(), layouts("database/sql").len(), "each layout is some version's");
}

/// A profile in the compiler's own text form (`cmd/internal/pgo`), with these hot calls: caller,
/// callee and the call's line in `database/sql/sql.go` counted from the caller's first line.
fn profile(calls: &[(&str, &str, usize)]) -> PathBuf {
    let mut text = "GO PREPROFILE V1\n".to_owned();
    for (caller, callee, line) in calls {
        text += &format!("{caller}\n{callee}\n{line} 1000000\n");
    }
    // Go's build cache knows the flag, not what is in the file: another text is another name.
    let name = format!("{:08x}.pgo", hash(&[&text]));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).expect("write");
    path
}

/// Lines from `first` to the next line that has `call`, in the toolchain's `database/sql`.
fn lines_between(go: Go, first: &str, call: &str) -> usize {
    let source = fs::read_to_string(go.root().join("src/database/sql/sql.go")).expect("read");
    let mut lines = source.lines().skip_while(|line| !line.starts_with(first));
    lines.position(|line| line.contains(call)).expect("the call")
}

#[test]
fn releases_inlined_by_a_profile_are_probed_or_the_pool_is_not_trusted() {
    let go = Go::Newest;
    let put = "database/sql.(*DB).putConn";
    let release = "database/sql.(*driverConn).releaseConn";
    let inner =
        (release, put, lines_between(go, "func (dc *driverConn) releaseConn(", "dc.db.putConn("));
    let outer =
        ("database/sql.(*DB).conn", put, lines_between(go, "func (db *DB) conn(", "db.putConn("));
    let build = |calls: &[_]| {
        let path = profile(calls);
        let flag = format!("-gcflags=database/sql=-pgoprofile={}", path.display());
        plan(&fs::read(go.build("pools", Mode::Stripped, &[&flag])).expect("read")).0
    };

    let plan = build(&[inner]);
    let observed = pool(&plan, "database/sql");
    assert!(observed.observed, "{observed:?}");
    assert_eq!(points(observed, release).len(), 1, "releaseConn holds a copy of putConn");
    assert_eq!(points(observed, put).len(), 1);

    let plan = build(&[inner, outer]);
    let escaped = pool(&plan, "database/sql");
    assert!(!escaped.observed);
    assert!(escaped.points.is_empty());
    let note = escaped.note.as_deref().expect("a note");
    assert!(note.contains("putConn is inlined into database/sql.(*DB).conn"), "{note}");
}

#[test]
fn libpq_is_recognised_by_what_it_defines_and_tells_where_its_socket_is() {
    for library in [PathBuf::from(SYSTEM_LIBPQ), bundled_libpq()] {
        let data = fs::read(&library).expect("read");
        let (plan, table) = plan(&data);
        assert_eq!(plan.runtime, None);
        assert_eq!(plan.pools.len(), 1);
        let libpq = pool(&plan, "libpq");
        assert_eq!((libpq.is_pool, libpq.observed, &libpq.note), (false, false, &None));
        for function in
            ["PQconnectdb", "PQconnectdbParams", "PQsetdbLogin", "PQconnectStart", "PQfinish"]
        {
            assert!(!points(libpq, function).is_empty(), "{function}");
        }
        for point in libpq.points.iter().filter(|point| point.at == At::Returns) {
            assert_eq!(table.specs()[point.probe].action, ACTION_CONNECT);
            assert_eq!(data[point.file_offset as usize], 0xc3);
        }

        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let chains = chains(libpq, &table);
        let output = Command::new(build_c("libpq"))
            .arg(&library)
            .arg(format!("host=127.0.0.1 port={port} sslmode=disable"))
            .args(chains.iter().map(|chain| chain[0].to_string()))
            .output()
            .expect("program runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let mut numbers = text.lines().map(|line| line.parse::<i32>().expect("number"));
        let socket = numbers.next().expect("a socket");
        assert!(socket > 2);
        // Of the members that PQsocket looks at, exactly one is the socket.
        assert_eq!(numbers.filter(|&number| number == socket).count(), 1);
    }
}

#[test]
fn two_libraries_with_different_offsets_get_different_probes() {
    let catalogue = Catalogue::embedded().expect("catalogue");
    let mut table = ProbeTable::new(&catalogue).expect("fits");
    let before = table.specs().len();
    let mut of = |path: &Path| {
        let data = fs::read(path).expect("read");
        let plan = inspect(&data, &catalogue, &mut table).expect("ELF");
        let point = plan.pools[0].points.iter().find(|point| point.at == At::Returns);
        point.expect("a return").probe
    };
    let (system, bundled) = (of(SYSTEM_LIBPQ.as_ref()), of(&bundled_libpq()));
    assert_ne!(system, bundled);
    assert_eq!(of(SYSTEM_LIBPQ.as_ref()), system, "the same library takes no further entry");
    assert_eq!(table.specs().len(), before + 2);
}

#[test]
fn runtimes_are_recognised_by_what_their_files_define() {
    for (path, runtime) in
        [("/usr/bin/python3", Some(Runtime::Python)), ("/usr/lib/x86_64-linux-gnu/libc.so.6", None)]
    {
        let (plan, _) = plan(&fs::read(path).expect("read"));
        assert_eq!(plan.runtime, runtime, "{path}");
        assert_eq!(plan.pools, []);
    }
}

#[test]
fn a_pool_without_symbols_is_recognised_by_its_text_and_not_observed() {
    let (plan, _) = plan(&fs::read(build_c("panic")).expect("read"));
    let sqlx = pool(&plan, "sqlx");
    assert_eq!((sqlx.observed, sqlx.is_pool, &*sqlx.points), (false, true, &[][..]));
    // Why not is said by its entry in the catalogue.
    let note = sqlx.note.as_deref().expect("a reason");
    assert!(note.ends_with("checkouts are inferred"), "{note}");
}
