//! The client ends of PostgreSQL connections that exist now, in every network namespace.
//!
//! May import [`super::proc`] and [`crate::model`]'s plain types. One thread of its own visits the
//! namespaces and ends there, so no other thread ever changes its namespace. Invariants: a
//! namespace that could not be read is told, so "not listed" is never taken for "closed"; only
//! client ends are listed, also where the server is on the same host.
//!
//! Limits: a socket whose namespace no process has as its own (that of its main thread) is not
//! seen; nor is the client end of a Unix connection that its server has closed, or not accepted
//! yet, because only the server's end has the name.

mod diag;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::File,
    io,
    net::IpAddr,
    os::{fd::AsFd, unix::fs::MetadataExt},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tracer_ebpf::conn::{AF_INET, AF_INET6, AF_UNIX};

use super::proc::ProcFs;
use crate::model::{Peer, Pid};

const TCP_FAMILIES: [(u8, &str); 2] =
    [(diag::AF_INET, "its IPv4 sockets"), (diag::AF_INET6, "its IPv6 sockets")];

/// Where a connection is in its life, seen from the client's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Connecting,
    Established,
    /// The server closed, the client has not (TCP: CLOSE_WAIT).
    PeerClosed,
    /// The client closed, or shut down its sending side.
    Closing,
}

/// The client end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedSocket {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// `AF_INET`, `AF_INET6` or `AF_UNIX` of the contract; v4 mapped into v6 is `AF_INET`.
    pub family: u16,
    /// A TCP address parses as [`std::net::IpAddr`].
    pub peer: Peer,
    /// `None` for a Unix socket.
    pub local_port: Option<u16>,
    /// As in `/proc/PID/fd`; never zero.
    pub inode: u64,
    pub status: Status,
}

/// What of a socket changes with time, and what tells it from a later one of the same inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// As `bpf_get_socket_cookie` gives it; never reused while the host runs.
    pub cookie: u64,
    pub state: State,
    /// Milliseconds since data was last sent, a retransmission included; since it was connected
    /// when none was. `None` where the kernel does not keep it (Unix sockets).
    pub last_send_ms: Option<u32>,
    /// Milliseconds since data was last received; since it was connected when none was.
    pub last_recv_ms: Option<u32>,
    /// Bytes that have come and that the process has not read. `None` where the kernel does not
    /// say (Unix sockets of kernels that lack it).
    pub queued: Option<u32>,
    /// `None` for a Unix socket.
    pub local_addr: Option<IpAddr>,
}

/// A namespace, or a part of it, that could not be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    pub netns: u32,
    /// In words, with the object that failed.
    pub reason: String,
}

/// The connections found by [`list`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// By namespace, then inode.
    pub sockets: Vec<ListedSocket>,
    pub unread: Vec<Unread>,
}

/// A socket to look at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub netns: u32,
    /// A process that is probably in that namespace: the one that has the socket.
    pub pid: Pid,
    pub inode: u64,
    /// The peer's TCP port as the socket has it, `None` for a Unix socket. Where something rewrote
    /// the port that the process asked for, the socket is not found.
    pub peer_port: Option<u16>,
}

/// The sockets found again by [`recheck`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recheck {
    /// By inode. What is missing here is closed, or its namespace is in `unread`.
    pub found: BTreeMap<u64, Status>,
    pub unread: Vec<Unread>,
}

/// Lists client connections to TCP `ports` and to Unix sockets called `.s.PGSQL.<port>`, of any port
/// when `any_unix_port`.
///
/// Reading other namespaces than one's own needs `CAP_SYS_ADMIN`, finding them `CAP_SYS_PTRACE`.
#[must_use]
pub fn list(proc: &ProcFs, ports: &[u16], any_unix_port: bool) -> Listing {
    let unix_ports = (!any_unix_port).then_some(ports);
    let namespaces = visit(proc, representatives(proc), read_here, unread_namespace);
    let mut listing = Listing::default();
    // A Unix client and its server may be in different namespaces: join over all of them.
    let servers: HashMap<u32, Peer> = namespaces
        .iter()
        .flat_map(|namespace| &namespace.unix)
        .filter_map(|socket| {
            Some((socket.peer.filter(|peer| *peer != 0)?, server(socket, unix_ports)?))
        })
        .collect();
    for namespace in namespaces {
        let netns = namespace.netns;
        let unix = namespace.unix.iter().filter_map(|socket| {
            Some(ListedSocket {
                netns,
                family: AF_UNIX,
                peer: servers.get(&socket.inode)?.clone(),
                local_port: None,
                inode: u64::from(socket.inode),
                status: unix_status(socket),
            })
        });
        listing.sockets.extend(unix);
        let tcp = namespace.tcp.iter().filter(|socket| ports.contains(&socket.peer_port));
        listing.sockets.extend(tcp.filter_map(|socket| {
            let addr = socket.peer.to_canonical();
            Some(ListedSocket {
                netns,
                family: if addr.is_ipv4() { AF_INET } else { AF_INET6 },
                peer: Peer::Tcp { addr: addr.to_string(), port: socket.peer_port },
                local_port: Some(socket.local_port),
                inode: u64::from(socket.inode),
                status: tcp_status(socket)?,
            })
        }));
        listing.unread.extend(namespace.unread);
    }
    listing.sockets.retain(|socket| socket.inode != 0);
    listing.sockets.sort_unstable_by_key(|socket| (socket.netns, socket.inode));
    listing
}

/// Whether a server listens on one of these TCP ports, or on such a Unix socket, in any namespace
/// of this host. What cannot be read counts as one that does not.
#[must_use]
pub fn is_served(proc: &ProcFs, ports: &[u16], any_unix_port: bool) -> bool {
    let unix_ports = (!any_unix_port).then_some(ports);
    let served = |_| {
        let unix = diag::unix_listening().unwrap_or_default();
        TCP_FAMILIES
            .into_iter()
            .flat_map(|(family, _)| diag::tcp_listening(family).unwrap_or_default())
            .any(|socket| ports.contains(&socket.local_port))
            || unix.iter().any(|socket| server(socket, unix_ports).is_some())
    };
    visit(proc, representatives(proc), served, |_| false).contains(&true)
}

/// The same of Unix sockets alone.
#[must_use]
pub fn is_served_by_unix(proc: &ProcFs, ports: &[u16], any_unix_port: bool) -> bool {
    let unix_ports = (!any_unix_port).then_some(ports);
    let served = |_| {
        let unix = diag::unix_listening().unwrap_or_default();
        unix.iter().any(|socket| server(socket, unix_ports).is_some())
    };
    visit(proc, representatives(proc), served, |_| false).contains(&true)
}

/// Looks again at these sockets. Its cost follows the connections to the same ports, not the
/// sockets of the host, so it can be done while a capture runs.
#[must_use]
pub fn recheck(proc: &ProcFs, known: &[Known]) -> Recheck {
    let mut wanted = BTreeMap::<u32, Vec<Known>>::new();
    for socket in known {
        wanted.entry(socket.netns).or_default().push(*socket);
    }
    let mut all = None;
    let namespaces = wanted
        .iter()
        .map(|(netns, sockets)| {
            let mut pids: Vec<Pid> = sockets.iter().map(|socket| socket.pid).collect();
            pids.retain(|pid| proc.netns(*pid) == Some(*netns));
            if pids.is_empty() {
                // Whoever has the socket has moved on: any other process of the namespace will do.
                let all = all.get_or_insert_with(|| representatives(proc));
                pids = all.get(netns).cloned().unwrap_or_default();
            }
            (*netns, pids)
        })
        .collect();
    let look = |netns| look_here(netns, wanted.get(&netns).map_or(&[], Vec::as_slice));
    let mut recheck = Recheck::default();
    for namespace in visit(proc, namespaces, look, unread_namespace) {
        let unix = namespace.unix.iter().map(|socket| (socket.inode, Some(unix_status(socket))));
        let tcp = namespace.tcp.iter().map(|socket| (socket.inode, tcp_status(socket)));
        let all = unix.chain(tcp).filter_map(|(inode, status)| Some((u64::from(inode), status?)));
        recheck.found.extend(all);
        recheck.unread.extend(namespace.unread);
    }
    recheck
}

/// What one namespace holds.
struct Namespace {
    netns: u32,
    tcp: Vec<diag::Tcp>,
    unix: Vec<diag::Unix>,
    unread: Vec<Unread>,
}

/// The processes of each network namespace; any of them opens it, and any may just have ended.
fn representatives(proc: &ProcFs) -> BTreeMap<u32, Vec<Pid>> {
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for pid in proc.pids().unwrap_or_default() {
        if let Some(netns) = proc.netns(pid) {
            found.entry(netns).or_default().push(pid);
        }
    }
    found
}

/// What `read` finds in each namespace, or what `failed` makes of one that cannot be entered.
fn visit<T: Send>(
    proc: &ProcFs,
    namespaces: BTreeMap<u32, Vec<Pid>>,
    read: impl Fn(u32) -> T + Sync,
    failed: impl Fn(Unread) -> T + Sync,
) -> Vec<T> {
    let mut here = ProcFs::default().netns(Pid(std::process::id()));
    let visitor = || {
        namespaces
            .into_iter()
            .map(|(netns, pids)| {
                // Entering one's own would need a capability for nothing.
                let entered = if here == Some(netns) { Ok(()) } else { enter(proc, netns, &pids) };
                if let Err(error) = entered {
                    return failed(unread(netns, "entering it", &error));
                }
                here = Some(netns);
                read(netns)
            })
            .collect()
    };
    thread::scope(|scope| scope.spawn(visitor).join()).unwrap_or_default()
}

/// Moves the calling thread into the namespace, by the first of the processes that still has it.
fn enter(proc: &ProcFs, netns: u32, pids: &[Pid]) -> io::Result<()> {
    let file = pids
        .iter()
        .filter_map(|pid| File::open(proc.dir(*pid).join("ns/net")).ok())
        .find(|file| file.metadata().is_ok_and(|link| link.ino() == u64::from(netns)))
        .ok_or(io::ErrorKind::NotFound)?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// Lists the namespace that the calling thread is in.
fn read_here(netns: u32) -> Namespace {
    let mut namespace = Namespace { netns, tcp: Vec::new(), unix: Vec::new(), unread: Vec::new() };
    for (family, what) in TCP_FAMILIES {
        match diag::tcp(family) {
            Ok(sockets) => namespace.tcp.extend(sockets),
            Err(error) => namespace.unread.push(unread(netns, what, &error)),
        }
    }
    match diag::unix() {
        Ok(sockets) => namespace.unix = sockets,
        Err(error) => namespace.unread.push(unread(netns, "its Unix sockets", &error)),
    }
    namespace
}

/// The same of these sockets only.
fn look_here(netns: u32, sockets: &[Known]) -> Namespace {
    let mut namespace = Namespace { netns, tcp: Vec::new(), unix: Vec::new(), unread: Vec::new() };
    let ports: BTreeSet<u16> = sockets.iter().filter_map(|socket| socket.peer_port).collect();
    for port in ports {
        let mut wanted: HashSet<u64> = sockets
            .iter()
            .filter(|socket| socket.peer_port == Some(port))
            .map(|socket| socket.inode)
            .collect();
        for (family, what) in TCP_FAMILIES {
            // Each family is a walk through the kernel's table of all connections.
            if wanted.is_empty() {
                break;
            }
            match diag::tcp_to(family, port) {
                Ok(sockets) => {
                    for socket in sockets {
                        if wanted.remove(&u64::from(socket.inode)) {
                            namespace.tcp.push(socket);
                        }
                    }
                }
                Err(error) => namespace.unread.push(unread(netns, what, &error)),
            }
        }
    }
    let unix = sockets.iter().filter(|socket| socket.peer_port.is_none());
    let unix: Vec<u32> = unix.filter_map(|socket| u32::try_from(socket.inode).ok()).collect();
    if !unix.is_empty() {
        match diag::unix_with(unix.into_iter()) {
            Ok(sockets) => namespace.unix = sockets,
            Err(error) => namespace.unread.push(unread(netns, "its Unix sockets", &error)),
        }
    }
    namespace
}

fn unread_namespace(unread: Unread) -> Namespace {
    let netns = unread.netns;
    Namespace { netns, tcp: Vec::new(), unix: Vec::new(), unread: vec![unread] }
}

fn unread(netns: u32, what: &str, error: &io::Error) -> Unread {
    Unread { netns, reason: format!("network namespace {netns}: {what}: {error}") }
}

/// The endpoint that an accepted server's end stands for, when it is one of PostgreSQL's.
fn server(socket: &diag::Unix, ports: Option<&[u16]>) -> Option<Peer> {
    let (path, port) = postgres_path(&socket.name)?;
    ports.is_none_or(|ports| ports.contains(&port)).then_some(Peer::Unix { path: Some(path), port })
}

/// Path and port of a bound name `.../.s.PGSQL.<port>`; `@` stands for the NUL that begins an
/// abstract name.
fn postgres_path(name: &[u8]) -> Option<(String, u16)> {
    let path = match name.split_first()? {
        (0, rest) => [b"@", rest].concat(),
        // A name in the file system may or may not carry its NUL.
        _ => name.split(|byte| *byte == 0).next()?.to_vec(),
    };
    let file = path.rsplit(|byte| matches!(byte, b'/' | b'@')).next()?;
    let digits = file.strip_prefix(b".s.PGSQL.")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let port = str::from_utf8(digits).ok()?.parse().ok()?;
    Some((String::from_utf8_lossy(&path).into_owned(), port))
}

fn unix_status(socket: &diag::Unix) -> Status {
    let state = if socket.peer_closed { State::PeerClosed } else { State::Established };
    let queued = socket.queued;
    Status {
        cookie: socket.cookie,
        state,
        last_send_ms: None,
        last_recv_ms: None,
        queued,
        local_addr: None,
    }
}

fn tcp_status(socket: &diag::Tcp) -> Option<Status> {
    let state = match socket.state {
        diag::SYN_SENT => State::Connecting,
        diag::ESTABLISHED => State::Established,
        diag::CLOSE_WAIT => State::PeerClosed,
        diag::FIN_WAIT1 | diag::FIN_WAIT2 | diag::LAST_ACK | diag::CLOSING => State::Closing,
        _ => return None,
    };
    let (last_send_ms, last_recv_ms) = (socket.last_send_ms, socket.last_recv_ms);
    // The kernel counts the end of the stream as a byte.
    let queued = Some(socket.queued.saturating_sub(u32::from(state == State::PeerClosed)));
    let local_addr = Some(socket.local.to_canonical());
    Some(Status { cookie: socket.cookie, state, last_send_ms, last_recv_ms, queued, local_addr })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::postgres_path;

    #[test]
    fn only_postgresql_s_names_count() {
        let found = |name: &[u8]| postgres_path(name);
        let run = "/run/postgresql/.s.PGSQL.5432";
        assert_eq!(found(b"/run/postgresql/.s.PGSQL.5432\0"), Some((run.to_owned(), 5432)));
        assert_eq!(found(b"/run/postgresql/.s.PGSQL.5432"), Some((run.to_owned(), 5432)));
        assert_eq!(found(b".s.PGSQL.6432\0").map(|(_, port)| port), Some(6432));
        let abstract_name = b"\0/tmp/.s.PGSQL.5432";
        assert_eq!(found(abstract_name), Some(("@/tmp/.s.PGSQL.5432".to_owned(), 5432)));
        for other in [
            &b""[..],
            b"\0",
            b"/run/.s.PGSQL.",
            b"/run/.s.PGSQL.5432.lock",
            b"/run/.s.PGSQL.+5432",
            b"/run/.s.PGSQL.65536",
            b"/run/x.s.PGSQL.5432",
            b"/run/.s.PGSQL.5432/other",
        ] {
            assert_eq!(found(other), None, "{}", String::from_utf8_lossy(other));
        }
    }

    proptest! {
        #[test]
        fn any_name_is_parsed(name in prop::collection::vec(any::<u8>(), 0..110)) {
            let _ = postgres_path(&name);
        }

        #[test]
        fn any_directory_may_hold_the_socket(
            directory in prop::collection::vec(1_u8.., 0..80),
            port in 1_u16..,
        ) {
            let name = [&directory[..], format!("/.s.PGSQL.{port}").as_bytes()].concat();
            prop_assert_eq!(postgres_path(&name).map(|(_, port)| port), Some(port));
        }
    }
}
