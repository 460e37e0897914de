//! Stacks of real programs of Go, C and Rust, as `tests/clients/README.md` says how to record them.
//!
//! May import this module's files.

use super::replay::{Replay, one};
use super::whatever_is_in_memory;

const GO_1_19_ACQUIRE: &str = include_str!("go/1.19-acquire.json");
const GO_1_19_USE: &str = include_str!("go/1.19-use.json");
const GO_1_19_SYSCALL: &str = include_str!("go/1.19-syscall.json");
const GO_1_27_USE: &str = include_str!("go/1.27-use.json");
const GO_1_27_WAITS: &str = include_str!("go/1.27-waits.json");
const C_USE: &str = include_str!("native/c-use.json");
const C_PROBED: &str = include_str!("native/c-probed.json");
const RUST_ACQUIRE: &str = include_str!("native/rust-acquire.json");

/// A stack's frames, one a line, and why its outer end is missing.
fn lines(replay: &Replay) -> (Vec<String>, Option<String>) {
    let stack = replay.resolved().stack;
    (stack.frames.iter().map(one).collect(), stack.truncated)
}

/// The recorded stack has these frames, and its outer end.
#[track_caller]
fn is_named(text: &str, expected: &[&str]) {
    let (lines, truncated) = lines(&Replay::of(text));
    assert_eq!(lines, expected);
    assert_eq!(truncated, None);
}

/// Where a stripped program takes a connection: at a return, with a call that was inlined.
#[test]
fn an_acquire_of_go_is_named() {
    let expected = [
        "database/sql.(*DB).conn /usr/lib/go-1.19/src/database/sql/sql.go:1411",
        "database/sql.(*DB).query /usr/lib/go-1.19/src/database/sql/sql.go:1730",
        "database/sql.(*DB).QueryContext /usr/lib/go-1.19/src/database/sql/sql.go:1708",
        "database/sql.(*DB).Query /usr/lib/go-1.19/src/database/sql/sql.go:1726 inlined",
        "main.leakRows /srv/billing/leaks.go:19",
        "main.(*client).leak /srv/billing/main.go:81",
        "main.(*client).run.func3 /srv/billing/main.go:181",
        "main.repeat /srv/billing/main.go:158",
        "main.(*client).run /srv/billing/main.go:181",
        "main.main /srv/billing/main.go:278",
        "runtime.main /usr/lib/go-1.19/src/runtime/proc.go:250",
        "runtime.goexit /usr/lib/go-1.19/src/runtime/asm_amd64.s:1594",
    ];
    is_named(GO_1_19_ACQUIRE, &expected);
}

#[test]
fn a_use_of_go_is_named_with_what_was_inlined() {
    let expected = [
        "runtime/internal/syscall.Syscall6 /usr/lib/go-1.19/src/runtime/internal/syscall/asm_linux_amd64.s:36",
        "syscall.Syscall /usr/lib/go-1.19/src/syscall/syscall_linux.go:81",
        "syscall.write /usr/lib/go-1.19/src/syscall/zsyscall_linux_amd64.go:924",
        "syscall.Write /usr/lib/go-1.19/src/syscall/syscall_unix.go:211 inlined",
        "internal/poll.ignoringEINTRIO /usr/lib/go-1.19/src/internal/poll/fd_unix.go:794 inlined",
        "internal/poll.(*FD).Write /usr/lib/go-1.19/src/internal/poll/fd_unix.go:383",
        "net.(*netFD).Write /usr/lib/go-1.19/src/net/fd_posix.go:96",
        "net.(*conn).Write /usr/lib/go-1.19/src/net/net.go:195",
        "github.com/lib/pq.(*conn).send /usr/share/gocode/src/github.com/lib/pq/conn.go:955",
        "github.com/lib/pq.(*conn).simpleQuery /usr/share/gocode/src/github.com/lib/pq/conn.go:693",
        "github.com/lib/pq.(*conn).query /usr/share/gocode/src/github.com/lib/pq/conn.go:889",
        "github.com/lib/pq.(*conn).QueryContext /usr/share/gocode/src/github.com/lib/pq/conn_go18.go:24",
        "database/sql.ctxDriverQuery /usr/lib/go-1.19/src/database/sql/ctxutil.go:48",
        "database/sql.(*DB).queryDC.func1 /usr/lib/go-1.19/src/database/sql/sql.go:1757",
        "database/sql.withLock /usr/lib/go-1.19/src/database/sql/sql.go:3439",
        "database/sql.(*DB).queryDC /usr/lib/go-1.19/src/database/sql/sql.go:1752",
        "database/sql.(*DB).query /usr/lib/go-1.19/src/database/sql/sql.go:1735",
        "database/sql.(*DB).QueryContext /usr/lib/go-1.19/src/database/sql/sql.go:1708",
        "database/sql.(*DB).Query /usr/lib/go-1.19/src/database/sql/sql.go:1726 inlined",
        "main.leakRows /srv/billing/leaks.go:19",
        "main.(*client).leak /srv/billing/main.go:81",
        "main.(*client).run.func3 /srv/billing/main.go:181",
        "main.repeat /srv/billing/main.go:158",
        "main.(*client).run /srv/billing/main.go:181",
        "main.main /srv/billing/main.go:278",
        "runtime.main /usr/lib/go-1.19/src/runtime/proc.go:250",
        "runtime.goexit /usr/lib/go-1.19/src/runtime/asm_amd64.s:1594",
    ];
    is_named(GO_1_19_USE, &expected);
}

#[test]
fn a_use_of_the_newest_go_is_named_with_what_was_inlined() {
    let expected = [
        "internal/runtime/syscall/linux.Syscall6 /usr/local/go/src/internal/runtime/syscall/linux/asm_linux_amd64.s:36",
        "syscall.Syscall /usr/local/go/src/syscall/syscall_linux.go:87",
        "syscall.write /usr/local/go/src/syscall/zsyscall_linux_amd64.go:964",
        "syscall.Write /usr/local/go/src/syscall/syscall_unix.go:211 inlined",
        "internal/poll.ignoringEINTRIO /usr/local/go/src/internal/poll/fd_unix.go:743 inlined",
        "internal/poll.(*FD).Write /usr/local/go/src/internal/poll/fd_unix.go:379",
        "net.(*netFD).Write /usr/local/go/src/net/fd_posix.go:109",
        "net.(*conn).Write /usr/local/go/src/net/net.go:208",
        "github.com/lib/pq.(*conn).send /usr/share/gocode/src/github.com/lib/pq/conn.go:955",
        "github.com/lib/pq.(*conn).simpleExec /usr/share/gocode/src/github.com/lib/pq/conn.go:661",
        "github.com/lib/pq.(*conn).Exec /usr/share/gocode/src/github.com/lib/pq/conn.go:921",
        "github.com/lib/pq.(*conn).ExecContext /usr/share/gocode/src/github.com/lib/pq/conn_go18.go:46",
        "database/sql.ctxDriverExec /usr/local/go/src/database/sql/ctxutil.go:31",
        "database/sql.(*DB).execDC.func2 /usr/local/go/src/database/sql/sql.go:1718",
        "database/sql.withLock /usr/local/go/src/database/sql/sql.go:3621",
        "database/sql.(*DB).execDC /usr/local/go/src/database/sql/sql.go:1713",
        "database/sql.(*Conn).ExecContext /usr/local/go/src/database/sql/sql.go:2032",
        "main.charge /srv/billing/goroutines.go:96",
        "main.(*client).apart.func2 /srv/billing/goroutines.go:126",
        "main.apart.func1 /srv/billing/goroutines.go:82",
        "runtime.goexit /usr/local/go/src/runtime/asm_amd64.s:1264",
    ];
    is_named(GO_1_27_USE, &expected);
}

/// The stack of a goroutine, whose frame pointer the function table told.
#[test]
fn a_goroutine_in_a_system_call_is_named() {
    let expected = [
        "syscall.Syscall /usr/lib/go-1.19/src/syscall/syscall_linux.go:81",
        "syscall.read /usr/lib/go-1.19/src/syscall/zsyscall_linux_amd64.go:696",
        "syscall.Read /usr/lib/go-1.19/src/syscall/syscall_unix.go:183 inlined",
        "internal/poll.ignoringEINTRIO /usr/lib/go-1.19/src/internal/poll/fd_unix.go:794 inlined",
        "internal/poll.(*FD).Read /usr/lib/go-1.19/src/internal/poll/fd_unix.go:163",
        "os.(*File).read /usr/lib/go-1.19/src/os/file_posix.go:31 inlined",
        "os.(*File).Read /usr/lib/go-1.19/src/os/file.go:119",
        "bufio.(*Scanner).Scan /usr/lib/go-1.19/src/bufio/scan.go:214",
        "main.main /srv/billing/main.go:273",
        "runtime.main /usr/lib/go-1.19/src/runtime/proc.go:250",
        "runtime.goexit /usr/lib/go-1.19/src/runtime/asm_amd64.s:1594",
    ];
    is_named(GO_1_19_SYSCALL, &expected);
}

#[test]
fn a_goroutine_that_waits_is_named() {
    let expected = [
        "runtime.gopark /usr/local/go/src/runtime/proc.go:475",
        "runtime.netpollblock /usr/local/go/src/runtime/netpoll.go:575",
        "internal/poll.runtime_pollWait /usr/local/go/src/runtime/netpoll.go:351",
        "internal/poll.(*pollDesc).wait /usr/local/go/src/internal/poll/fd_poll_runtime.go:84",
        "internal/poll.(*pollDesc).waitRead /usr/local/go/src/internal/poll/fd_poll_runtime.go:89 inlined",
        "internal/poll.(*FD).Read /usr/local/go/src/internal/poll/fd_unix.go:170",
        "net.(*netFD).Read /usr/local/go/src/net/fd_posix.go:68",
        "net.(*conn).Read /usr/local/go/src/net/net.go:196",
        "main.askSocket /srv/billing/goroutines.go:51",
        "main.charge /srv/billing/goroutines.go:100",
        "main.(*client).apart.func2 /srv/billing/goroutines.go:126",
        "main.apart.func1 /srv/billing/goroutines.go:82",
        "runtime.goexit /usr/local/go/src/runtime/asm_amd64.s:1264",
    ];
    is_named(GO_1_27_WAITS, &expected);
}

/// Of a program without frame pointers.
#[test]
fn a_use_of_a_c_program_is_walked() {
    let expected = [
        "send",
        "?",
        "?",
        "?",
        "PQexec",
        "charge_order /srv/shop/main.c:91",
        "serve /srv/shop/main.c:101",
        "?",
        "?",
    ];
    is_named(C_USE, &expected);
}

#[test]
fn a_copy_that_ends_within_a_stack_is_walked_as_far_as_it_goes() {
    let mut replay = Replay::of(C_USE);
    let whole = lines(&replay).0;
    let calls = |bytes: usize, replay: &mut Replay| {
        replay.raw.bytes.truncate(bytes);
        let (lines, truncated) = lines(replay);
        assert_eq!(truncated, Some(format!("only {bytes} bytes of stack were copied")));
        assert!(whole.starts_with(&lines), "{lines:?}");
        lines.len()
    };
    let calls = [512, 256, 64, 8].map(|bytes| calls(bytes, &mut replay));
    assert!(calls.is_sorted_by(|more, less| more >= less), "{calls:?}");
    assert!(calls[0] > calls[3], "{calls:?}");
}

#[test]
fn a_c_program_whose_returns_another_tracer_probes_is_walked() {
    let expected = [
        "connect",
        "PQconnectPoll",
        "?",
        "PQconnectStart",
        "PQconnectdb",
        "forget_transaction /srv/shop/main.c:49",
        "handle_order /srv/shop/main.c:123",
        "carry_out /srv/shop/main.c:196",
        "main /srv/shop/main.c:231",
        "?",
        "__libc_start_main",
        "_start",
    ];
    is_named(C_PROBED, &expected);
    let mut hidden = Replay::of(C_PROBED);
    assert_eq!(hidden.raw.fixups.len(), 4);
    hidden.raw.fixups.clear();
    let (found, truncated) = lines(&hidden);
    assert_eq!(truncated.as_deref(), Some("a return probe hides the caller"));
    assert_eq!(found, expected[..found.len()]);
}

/// Of a release build, which is mostly functions that were inlined, and whose stack is larger than
/// the copy.
#[test]
fn an_acquire_of_a_rust_program_is_walked_with_what_was_inlined() {
    let expected = [
        "deadpool::managed::pool::UnreadyObject<M>::ready /cargo/deadpool-0.13.1/src/managed/pool.rs:489",
        "deadpool::managed::pool::Pool<M,W>::try_create::{{closure}} /cargo/deadpool-0.13.1/src/managed/pool.rs:238 inlined",
        "deadpool::managed::pool::Pool<M,W>::timeout_get::{{closure}} /cargo/deadpool-0.13.1/src/managed/pool.rs:143 inlined",
        "deadpool::managed::pool::Pool<M,W>::get::{{closure}} /cargo/deadpool-0.13.1/src/managed/pool.rs:94",
        "deadpool_client::forgotten::{{closure}} /srv/shop/src/main.rs:23 inlined",
        "deadpool_client::leak::{{closure}} /srv/shop/src/main.rs:80",
        "deadpool_client::run::{{closure}} /srv/shop/src/main.rs:164",
        "tokio::runtime::park::CachedParkThread::block_on::{{closure}} /cargo/tokio-1.54.1/src/runtime/park.rs:376 inlined",
        "tokio::task::coop::with_budget /cargo/tokio-1.54.1/src/task/coop/mod.rs:167 inlined",
        "tokio::task::coop::budget /cargo/tokio-1.54.1/src/task/coop/mod.rs:133 inlined",
        "tokio::runtime::park::CachedParkThread::block_on /cargo/tokio-1.54.1/src/runtime/park.rs:376",
        "tokio::runtime::context::blocking::BlockingRegionGuard::block_on /cargo/tokio-1.54.1/src/runtime/context/blocking.rs:66 inlined",
        "tokio::runtime::scheduler::multi_thread::MultiThread::block_on::{{closure}} /cargo/tokio-1.54.1/src/runtime/scheduler/multi_thread/mod.rs:90 inlined",
        "tokio::runtime::context::runtime::enter_runtime /cargo/tokio-1.54.1/src/runtime/context/runtime.rs:65",
        "tokio::runtime::scheduler::multi_thread::MultiThread::block_on /cargo/tokio-1.54.1/src/runtime/scheduler/multi_thread/mod.rs:89 inlined",
        "tokio::runtime::runtime::Runtime::block_on_inner /cargo/tokio-1.54.1/src/runtime/runtime.rs:381 inlined",
        "tokio::runtime::runtime::Runtime::block_on /cargo/tokio-1.54.1/src/runtime/runtime.rs:348",
    ];
    let (lines, truncated) = lines(&Replay::of(RUST_ACQUIRE));
    assert_eq!(lines, expected);
    assert_eq!(truncated.as_deref(), Some("only 16384 bytes of stack were copied"));
}

#[test]
fn hostile_copies_and_tables_of_go_are_read_with_bounds() {
    whatever_is_in_memory(GO_1_19_USE);
}

#[test]
fn hostile_copies_and_tables_of_the_newest_go_are_read_with_bounds() {
    whatever_is_in_memory(GO_1_27_USE);
}

#[test]
fn a_hostile_stack_of_a_goroutine_is_read_with_bounds() {
    whatever_is_in_memory(GO_1_19_SYSCALL);
}

#[test]
fn hostile_copies_and_unwind_information_of_c_are_read_with_bounds() {
    whatever_is_in_memory(C_PROBED);
}

#[test]
fn hostile_copies_and_unwind_information_of_rust_are_read_with_bounds() {
    whatever_is_in_memory(RUST_ACQUIRE);
}
