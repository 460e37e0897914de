//! What only root may see: processes in other network namespaces, and files that are mapped and no
//! longer reached by a path. `connleak` itself runs as root; whatever of its parts does without is
//! tested without.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "symbolize/fixture.rs"]
mod fixture;
#[path = "symbolize/target.rs"]
mod target;

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use fixture::{app, c_chain, compile_c, resolve};
use target::Target;
use tempfile::TempDir;
use tracer::{
    host::{
        facts,
        proc::{Holder, ProcFs},
        sockets::{Known, ListedSocket, list, recheck},
    },
    model::{Fd, Peer, Pid},
};
use tracer_ebpf::conn::{AF_INET, AF_UNIX};

#[test]
fn this_host_can_run_connleak() {
    assert_eq!(facts::decide(&facts::probe()), Ok(()));
}

#[test]
fn mapped_files_are_read_through_proc() {
    let mapped = ProcFs::default().mapped_files(Pid(std::process::id()));
    let exe = std::env::current_exe().unwrap();
    let program = mapped.iter().find(|file| file.path == exe).unwrap();
    let mut magic = [0; 4];
    File::open(&program.entry).unwrap().read_exact(&mut magic).unwrap();
    assert_eq!(&magic, b"\x7fELF");
    assert!(mapped.iter().any(|file| file.path.to_string_lossy().contains("libc.so")));
}

#[test]
fn a_program_deleted_before_it_was_seen_resolves() {
    let (directory, program) = compile_c(&["-g"]);
    let target = Target::start(Command::new(&program));
    drop(directory);
    assert_eq!(app(&resolve(&target))[..4], c_chain());
    target.end();
}

/// A process in a network namespace of its own, with one connection to `port` there and one to a
/// Unix socket of ours; it says its descriptors and ends when its input does.
fn child_in_a_namespace(unix: &Path) -> (Child, u16, Fd, Fd) {
    const PROGRAM: &str = "
import socket, sys
server = socket.create_server(('127.0.0.1', 0))
port = server.getsockname()[1]
client = socket.create_connection(('127.0.0.1', port))
accepted = server.accept()
accepted[0].sendall(b'x' * 13)
local = socket.socket(socket.AF_UNIX)
local.connect(sys.argv[1])
print(port, client.fileno(), local.fileno(), flush=True)
sys.stdin.read()
";
    let mut child = Command::new("unshare")
        .args(["--net", "--", "sh", "-c", "ip link set lo up && exec python3 -c \"$0\" \"$1\""])
        .arg(PROGRAM)
        .arg(unix)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let numbers: Vec<u16> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [port, tcp, unix] = numbers[..] else { panic!("the child said {line:?}") };
    (child, port, Fd(i32::from(tcp)), Fd(i32::from(unix)))
}

#[test]
fn connections_in_another_network_namespace_are_listed_with_their_holder() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(".s.PGSQL.61237");
    let listener = UnixListener::bind(&path).unwrap();
    let (mut child, port, tcp_fd, unix_fd) = child_in_a_namespace(&path);
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.write_all(b"seventeen bytes..").unwrap();
    let pid = Pid(child.id());
    let proc = ProcFs::default();
    let netns = proc.netns(pid).unwrap();
    assert_ne!(netns, proc.netns(Pid(std::process::id())).unwrap());

    let sockets = list(&proc, &[port, 61237], false).sockets;
    let sockets: Vec<_> = sockets.iter().filter(|socket| socket.netns == netns).collect();
    let find = |family| sockets.iter().find(|socket| socket.family == family).unwrap();
    let (tcp, unix) = (find(AF_INET), find(AF_UNIX));
    assert_eq!(sockets.len(), 2, "{sockets:?}");
    // The server of the Unix connection is on this side of the border.
    let name = Some(path.to_str().unwrap().to_owned());
    assert_eq!(unix.peer, Peer::Unix { path: name, port: 61237 });
    let holders = proc.holders(&HashSet::from([tcp.inode, unix.inode]), None);
    let mut expected = [
        Holder { inode: tcp.inode, pid, fd: tcp_fd },
        Holder { inode: unix.inode, pid, fd: unix_fd },
    ];
    expected.sort_unstable();
    assert_eq!(holders, expected);
    // Who has the socket is asked first, any other process of the namespace after that.
    for pid in [pid, Pid(std::process::id())] {
        let known =
            |socket: &ListedSocket, peer_port| Known { netns, pid, inode: socket.inode, peer_port };
        let again = recheck(&proc, &[known(tcp, Some(port)), known(unix, None)]);
        assert_eq!(again.unread, []);
        assert_eq!(again.found[&tcp.inode].queued, Some(13));
        assert_eq!(again.found[&unix.inode].queued, Some(17));
    }
    // The visit was another thread's: this one is still where it was.
    assert_eq!(
        fs::read_link("/proc/thread-self/ns/net").unwrap(),
        fs::read_link("/proc/self/ns/net").unwrap()
    );

    child.stdin.take().unwrap().flush().unwrap();
    assert!(child.wait().unwrap().success());
}
