//! `host` against /proc trees made here and against the real /proc, with real sockets in this
//! namespace. What only root may see is in `root.rs`.
//!
//! No test here starts a program: between fork and exec, a child holds copies of all descriptors,
//! and tests count who holds them.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as tests do")]

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    io::{Read, Write},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::AsRawFd,
        unix::{
            fs::symlink,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
};

use rustix::net::sockopt::socket_cookie;
use tempfile::TempDir;
use tracer::{
    host::{
        proc::{Holder, ProcFs},
        sockets::{Known, ListedSocket, State, list, recheck},
    },
    model::{Fd, Peer, Pid, Runtime},
};
use tracer_ebpf::conn::{AF_INET, AF_INET6, AF_UNIX};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A process of a /proc tree made here.
fn process(root: &Path, pid: u32, comm: &str) -> std::path::PathBuf {
    let dir = root.join(pid.to_string());
    fs::create_dir_all(dir.join("fd")).unwrap();
    let stat = format!("{pid} ({comm}) S 1 1 1 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 77 1 2\n");
    fs::write(dir.join("stat"), stat).unwrap();
    fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
    dir
}

#[test]
fn a_process_is_described_from_its_files() {
    let root = TempDir::new().unwrap();
    let dir = process(root.path(), 41, "a) S 1 (\nb");
    fs::write(dir.join("cgroup"), format!("0::/system.slice/docker-{ID}.scope\n")).unwrap();
    fs::write(dir.join("status"), "Name:\ta\nNSpid:\t41\t7\n").unwrap();
    fs::write(dir.join("maps"), "1000-2000 r-xp 0 8:1 5 /usr/lib/libpython3.11.so.1.0\n").unwrap();
    symlink("/usr/bin/uwsgi (deleted)", dir.join("exe")).unwrap();
    let seen = ProcFs::at(root.path()).process_seen(Pid(41), None).unwrap();
    assert_eq!(seen.start_time, Some(77));
    assert_eq!(seen.comm, "a) S 1 (\nb");
    assert_eq!(seen.exe.as_deref(), Some("/usr/bin/uwsgi"));
    assert_eq!(seen.runtime, Some(Runtime::Python));
    assert_eq!(seen.container.as_deref(), Some("0123456789ab"));
    assert_eq!(seen.ns_pid, Some(7));
}

#[test]
fn hostile_files_give_less_and_never_fail() {
    let root = TempDir::new().unwrap();
    let dir = process(root.path(), 41, "x");
    fs::write(dir.join("comm"), b"\xff\xfe\x1b[2J\n").unwrap();
    for name in ["cgroup", "status", "maps"] {
        fs::write(dir.join(name), [0xff_u8; 4096]).unwrap();
    }
    symlink("socket:[18446744073709551616]", dir.join("fd/3")).unwrap();
    symlink("socket:[-1]", dir.join("fd/4")).unwrap();
    symlink("socket:[12]x", dir.join("fd/5")).unwrap();
    symlink("socket:[12]", dir.join("fd/99999999999")).unwrap();
    let proc = ProcFs::at(root.path());
    let seen = proc.process_seen(Pid(41), None).unwrap();
    assert_eq!(seen.comm, "\u{fffd}\u{fffd}\u{1b}[2J");
    assert_eq!((seen.exe, seen.runtime, seen.container, seen.ns_pid), (None, None, None, None));
    assert_eq!(proc.socket_fds(Pid(41)), []);
    assert_eq!(proc.fds(Pid(41)), [Fd(3), Fd(4), Fd(5)]);
}

#[test]
fn a_process_that_is_gone_is_no_error() {
    let root = TempDir::new().unwrap();
    fs::create_dir(root.path().join("9")).unwrap();
    fs::create_dir(root.path().join("self-like")).unwrap();
    fs::create_dir(root.path().join("+8")).unwrap();
    let proc = ProcFs::at(root.path());
    assert_eq!(proc.pids().unwrap(), [Pid(9)]);
    for pid in [Pid(9), Pid(10)] {
        assert_eq!(proc.process_seen(pid, Some(Runtime::Go)), None);
        assert_eq!(
            (proc.fds(pid), proc.socket_fds(pid), proc.mapped_files(pid)),
            Default::default()
        );
        assert!(!proc.fd_is_socket(pid, Fd(0), 1));
    }
    assert_eq!(proc.holders(&HashSet::from([1]), None), []);
}

#[test]
fn holders_of_a_socket_are_found_in_all_or_in_chosen_processes() {
    let root = TempDir::new().unwrap();
    for (pid, fd, to) in [
        (20, 3, "socket:[500]"),
        (20, 11, "socket:[500]"),
        (20, 4, "socket:[501]"),
        (21, 3, "socket:[500]"),
        (21, 5, "pipe:[500]"),
        (22, 3, "socket:[502]"),
    ] {
        let dir = process(root.path(), pid, "x");
        symlink(to, dir.join("fd").join(fd.to_string())).unwrap();
    }
    let proc = ProcFs::at(root.path());
    let holder = |inode, pid, fd| Holder { inode, pid: Pid(pid), fd: Fd(fd) };
    let wanted = HashSet::from([500, 502, 900]);
    assert_eq!(
        proc.holders(&wanted, None),
        [holder(500, 20, 3), holder(500, 20, 11), holder(500, 21, 3), holder(502, 22, 3)]
    );
    let only = BTreeSet::from([Pid(21), Pid(99)]);
    assert_eq!(proc.holders(&wanted, Some(&only)), [holder(500, 21, 3)]);
    assert!(proc.fd_is_socket(Pid(20), Fd(11), 500));
    assert!(!proc.fd_is_socket(Pid(20), Fd(11), 501));
    assert!(!proc.fd_is_socket(Pid(21), Fd(5), 500));
}

#[test]
fn this_process_is_described_from_the_real_proc() {
    let proc = ProcFs::default();
    let own = Pid(std::process::id());
    assert!(proc.pids().unwrap().contains(&own));
    let seen = proc.process_seen(own, Some(Runtime::Native)).unwrap();
    let exe = std::env::current_exe().unwrap();
    assert_eq!(seen.exe.as_deref(), exe.to_str());
    assert!(exe.file_name().unwrap().to_str().unwrap().starts_with(&seen.comm));
    assert_eq!(seen.runtime, Some(Runtime::Native));
}

/// The inode number of a socket of this process.
fn inode(socket: &impl AsRawFd) -> u64 {
    let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
    let link = link.to_str().unwrap();
    link.trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap()
}

fn own_netns() -> u32 {
    ProcFs::default().netns(Pid(std::process::id())).unwrap()
}

fn listed(ports: &[u16]) -> Vec<ListedSocket> {
    let listing = list(&ProcFs::default(), ports, false);
    assert_eq!(listing.unread, []);
    listing.sockets
}

/// A client's end, the server's end, and the port.
fn tcp_pair(bind: &str, connect: impl Fn(u16) -> SocketAddr) -> (TcpStream, TcpStream, u16) {
    let listener = TcpListener::bind(bind).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect(connect(port)).unwrap();
    (client, listener.accept().unwrap().0, port)
}

#[test]
fn of_a_tcp_connection_only_the_client_end_is_listed() {
    let mapped: Ipv6Addr = "::ffff:127.0.0.1".parse().unwrap();
    for (bind, host, family, address) in [
        ("127.0.0.1:0", "127.0.0.1".parse().unwrap(), AF_INET, "127.0.0.1"),
        ("[::1]:0", "::1".parse().unwrap(), AF_INET6, "::1"),
        ("127.0.0.1:0", mapped.into(), AF_INET, "127.0.0.1"),
    ] {
        let (client, server, port) = tcp_pair(bind, |port| SocketAddr::new(host, port));
        let sockets = listed(&[port]);
        let [socket] = &sockets[..] else { panic!("{host}: {sockets:?}") };
        assert_eq!(socket.peer, Peer::Tcp { addr: address.to_owned(), port });
        assert_eq!(socket.family, family);
        assert_eq!(socket.netns, own_netns());
        assert_eq!(socket.local_port, Some(client.local_addr().unwrap().port()));
        assert_eq!(socket.inode, inode(&client));
        assert_eq!(socket.status.cookie, socket_cookie(&client).unwrap());
        assert_eq!(socket.status.state, State::Established);
        // No data yet: both ages count from the connect, moments ago.
        assert!(socket.status.last_send_ms.unwrap() < 60_000, "{socket:?}");
        assert!(socket.status.last_recv_ms.unwrap() < 60_000, "{socket:?}");

        let holders = ProcFs::default().holders(&HashSet::from([socket.inode]), None);
        let own = Holder {
            inode: socket.inode,
            pid: Pid(std::process::id()),
            fd: Fd(client.as_raw_fd()),
        };
        assert_eq!(holders, [own]);
        drop(server);
    }
}

#[test]
fn a_listener_alone_and_another_port_are_not_listed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_client, _server, _) = tcp_pair("127.0.0.1:0", |port| ([127, 0, 0, 1], port).into());
    assert_eq!(listed(&[listener.local_addr().unwrap().port()]), []);
}

#[test]
fn of_a_unix_connection_only_the_client_end_is_listed_with_the_server_s_path() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(".s.PGSQL.61234");
    let listener = UnixListener::bind(&path).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    let _server = listener.accept().unwrap();
    let other = UnixListener::bind(dir.path().join("other")).unwrap();
    let _other_client = UnixStream::connect(dir.path().join("other")).unwrap();
    let _other_server = other.accept().unwrap();

    let sockets = listed(&[61234]);
    let [socket] = &sockets[..] else { panic!("{sockets:?}") };
    let path = Some(path.to_str().unwrap().to_owned());
    assert_eq!(socket.peer, Peer::Unix { path, port: 61234 });
    assert_eq!((socket.family, socket.local_port), (AF_UNIX, None));
    assert_eq!(socket.inode, inode(&client));
    assert_eq!(socket.status.cookie, socket_cookie(&client).unwrap());
    assert_eq!(socket.status.state, State::Established);
    assert_eq!((socket.status.last_send_ms, socket.status.last_recv_ms), (None, None));
    assert_eq!(listed(&[61235]), []);
}

/// A socket of this process, to look at again.
fn known(socket: &impl AsRawFd, peer_port: Option<u16>) -> Known {
    let pid = Pid(std::process::id());
    Known { netns: own_netns(), pid, inode: inode(socket), peer_port }
}

#[test]
fn a_recheck_tells_still_there_from_closed_by_the_server_and_gone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(".s.PGSQL.61236");
    let listener = UnixListener::bind(&path).unwrap();
    let unix = UnixStream::connect(&path).unwrap();
    let (unix_server, _) = listener.accept().unwrap();
    let (unix_gone, other_gone) = UnixStream::pair().unwrap();
    let to = |port| ([127, 0, 0, 1], port).into();
    let (kept, _kept_server, kept_port) = tcp_pair("127.0.0.1:0", to);
    let (half, half_server, half_port) = tcp_pair("127.0.0.1:0", to);
    let (gone, _gone_server, gone_port) = tcp_pair("127.0.0.1:0", to);
    let all = [
        known(&unix, None),
        known(&unix_gone, None),
        known(&kept, Some(kept_port)),
        known(&half, Some(half_port)),
        known(&gone, Some(gone_port)),
    ];
    let proc = ProcFs::default();

    let before = recheck(&proc, &all);
    assert_eq!(before.unread, []);
    let inodes: BTreeSet<_> = all.iter().map(|socket| socket.inode).collect();
    assert_eq!(before.found.keys().copied().collect::<BTreeSet<_>>(), inodes);

    let (gone_inode, unix_gone_inode) = (inode(&gone), inode(&unix_gone));
    drop((unix_server, gone, unix_gone, other_gone));
    half_server.shutdown(Shutdown::Write).unwrap();
    // The end of stream has arrived when it can be read.
    assert_eq!((&half).read(&mut [0]).unwrap(), 0);
    let after = recheck(&proc, &all);
    assert_eq!(after.unread, []);
    let state = |inode| after.found.get(&inode).map(|status| status.state);
    assert_eq!(state(inode(&kept)), Some(State::Established));
    assert_eq!(state(inode(&half)), Some(State::PeerClosed));
    assert_eq!(state(inode(&unix)), Some(State::PeerClosed));
    assert_eq!((state(gone_inode), state(unix_gone_inode)), (None, None));
    let cookie = |found: &tracer::host::sockets::Recheck| found.found[&inode(&kept)].cookie;
    assert_eq!(cookie(&before), cookie(&after));
    assert_eq!(listed(&[half_port])[0].status.state, State::PeerClosed);
}

#[test]
fn what_waits_unread_is_counted_until_it_is_read() {
    let (mut unix, mut unix_server) = UnixStream::pair().unwrap();
    let to = |port| ([127, 0, 0, 1], port).into();
    let (mut tcp, mut tcp_server, port) = tcp_pair("127.0.0.1:0", to);
    let mapped: Ipv6Addr = "::ffff:127.0.0.1".parse().unwrap();
    let (mut six, mut six_server, six_port) =
        tcp_pair("127.0.0.1:0", |port| SocketAddr::new(mapped.into(), port));
    let all = [known(&unix, None), known(&tcp, Some(port)), known(&six, Some(six_port))];
    let queued = || {
        let found = recheck(&ProcFs::default(), &all);
        assert_eq!(found.unread, []);
        all.map(|socket| found.found[&socket.inode].queued.unwrap())
    };
    assert_eq!(queued(), [0, 0, 0]);
    for server in [&mut unix_server as &mut dyn Write, &mut tcp_server, &mut six_server] {
        server.write_all(&[7; 1_009]).unwrap();
    }
    // On the loopback, what was written has arrived.
    assert_eq!(queued(), [1_009; 3]);
    for client in [&mut unix as &mut dyn Read, &mut tcp, &mut six] {
        client.read_exact(&mut [0; 1_000]).unwrap();
    }
    assert_eq!(queued(), [9; 3]);
    // The end of the stream is no byte.
    tcp_server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(queued(), [9; 3]);
    for client in [&mut unix as &mut dyn Read, &mut tcp, &mut six] {
        client.read_exact(&mut [0; 9]).unwrap();
    }
    assert_eq!(queued(), [0; 3]);
}

#[test]
fn a_namespace_that_is_gone_is_told() {
    let gone = Known { netns: 7, pid: Pid(1), inode: 1, peer_port: Some(1) };
    let recheck = recheck(&ProcFs::default(), &[gone]);
    assert!(recheck.found.is_empty());
    assert_eq!(recheck.unread.len(), 1);
    assert_eq!(recheck.unread[0].netns, 7);
}
