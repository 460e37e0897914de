//! sock_diag: the kernel's dump of TCP and Unix sockets of the calling thread's network namespace.
//!
//! May import `rustix`, and `libc` for a layout. Owns the netlink bytes (Linux `include/uapi/linux/netlink.h`,
//! `sock_diag.h`, `inet_diag.h`, `unix_diag.h`): requests are made and messages are read word by
//! word, so there is no `unsafe` and any bytes are parsed.

use std::{
    io,
    mem::offset_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const ENOENT: i32 = 2;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NETLINK_HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// Upper bits of an attribute's type are flags.
const ATTRIBUTE_TYPE: u16 = 0x3fff;

pub(super) const AF_UNIX: u8 = 1;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// States of `include/net/tcp_states.h`.
pub(super) const ESTABLISHED: u8 = 1;
pub(super) const SYN_SENT: u8 = 2;
pub(super) const FIN_WAIT1: u8 = 4;
pub(super) const FIN_WAIT2: u8 = 5;
pub(super) const CLOSE_WAIT: u8 = 8;
pub(super) const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;
pub(super) const CLOSING: u8 = 11;
/// What may belong to a descriptor that once connected: no listener, no request, no TIME_WAIT.
const CONNECTED: u32 = 1 << ESTABLISHED
    | 1 << SYN_SENT
    | 1 << FIN_WAIT1
    | 1 << FIN_WAIT2
    | 1 << CLOSE_WAIT
    | 1 << LAST_ACK
    | 1 << CLOSING;

const INET_DIAG_INFO: u16 = 2;
const INET_REQUEST: usize = 56;
const INET_MESSAGE: usize = 72;
const TCPI_LAST_DATA_SENT: usize = offset_of!(libc::tcp_info, tcpi_last_data_sent);
const TCPI_LAST_DATA_RECV: usize = offset_of!(libc::tcp_info, tcpi_last_data_recv);

const UDIAG_SHOW_NAME: u32 = 1;
const UDIAG_SHOW_PEER: u32 = 4;
const UDIAG_SHOW_RQLEN: u32 = 0x10;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_RQLEN: u16 = 4;
const UNIX_DIAG_SHUTDOWN: u16 = 6;
const UNIX_MESSAGE: usize = 16;
const SOCK_STREAM: u8 = 1;
const RCV_SHUTDOWN: u8 = 1;

/// Bytes of one receive; the kernel fills at most 32 KiB per message of a dump.
const BUFFER: usize = 64 << 10;

/// A TCP socket. Addresses as the kernel has them, so v4 may be mapped into v6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tcp {
    pub state: u8,
    pub local: IpAddr,
    pub local_port: u16,
    pub peer: IpAddr,
    pub peer_port: u16,
    /// Zero for a socket that no descriptor refers to any more.
    pub inode: u32,
    pub cookie: u64,
    /// Milliseconds since data was last sent and received, from `tcp_info`.
    pub last_send_ms: Option<u32>,
    pub last_recv_ms: Option<u32>,
    /// Bytes received and not read, the end of the stream included as one.
    pub queued: u32,
}

/// A connected Unix stream socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unix {
    /// Never zero: what waits to be accepted has none and is not dumped.
    pub inode: u32,
    pub cookie: u64,
    /// `sun_path` as bound, or as inherited from the listener.
    pub name: Vec<u8>,
    /// Inode of the other end; zero when that is closed or not accepted yet.
    pub peer: Option<u32>,
    /// The other end will send nothing any more.
    pub peer_closed: bool,
    /// Bytes received and not read; `None` when the kernel does not say.
    pub queued: Option<u32>,
}

/// All connected TCP sockets of one family.
pub(super) fn tcp(family: u8) -> io::Result<Vec<Tcp>> {
    tcp_to(family, 0)
}

/// All listening TCP sockets of one family.
pub(super) fn tcp_listening(family: u8) -> io::Result<Vec<Tcp>> {
    dump(&tcp_request(family, 1 << LISTEN, 0), parse_tcp)
}

/// Those that are connected to this port; the kernel picks them out. Zero stands for any port.
pub(super) fn tcp_to(family: u8, peer_port: u16) -> io::Result<Vec<Tcp>> {
    dump(&tcp_request(family, CONNECTED, peer_port), parse_tcp)
}

fn tcp_request(family: u8, states: u32, peer_port: u16) -> Vec<u8> {
    let mut request = vec![family, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0];
    request.extend(states.to_ne_bytes());
    // Any local port, that port of the peer, any address.
    request.extend([0; 2]);
    request.extend(peer_port.to_be_bytes());
    request.resize(INET_REQUEST, 0);
    request
}

/// All connected Unix stream sockets.
pub(super) fn unix() -> io::Result<Vec<Unix>> {
    dump(&unix_request(ESTABLISHED, 0), parse_unix)
}

/// All listening Unix stream sockets.
pub(super) fn unix_listening() -> io::Result<Vec<Unix>> {
    dump(&unix_request(LISTEN, 0), parse_unix)
}

/// Those of these inodes that still exist, one question each.
pub(super) fn unix_with(inodes: impl Iterator<Item = u32>) -> io::Result<Vec<Unix>> {
    let socket = open()?;
    let mut buffer = vec![0; BUFFER];
    let mut found = Vec::new();
    for inode in inodes {
        send(
            &socket,
            &message(NLM_F_REQUEST, &unix_request(ESTABLISHED, inode)),
            SendFlags::empty(),
        )?;
        for (kind, payload) in Messages(receive(&socket, &mut buffer)?) {
            match kind {
                NLMSG_ERROR => match error(payload) {
                    gone if gone.raw_os_error() == Some(ENOENT) => {}
                    error => return Err(error),
                },
                SOCK_DIAG_BY_FAMILY => found.extend(parse_unix(payload)),
                _ => {}
            }
        }
    }
    Ok(found)
}

/// About the socket with this inode, or about all when it is zero.
fn unix_request(state: u8, inode: u32) -> Vec<u8> {
    let mut request = vec![AF_UNIX, 0, 0, 0];
    request.extend((1_u32 << state).to_ne_bytes());
    request.extend(inode.to_ne_bytes());
    request.extend((UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN).to_ne_bytes());
    // Whatever its cookie.
    request.extend([0xff; 8]);
    request
}

fn open() -> io::Result<OwnedFd> {
    let kind = Some(netlink::SOCK_DIAG);
    Ok(socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, kind)?)
}

fn dump<T>(request: &[u8], parse: fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
    let socket = open()?;
    send(&socket, &message(NLM_F_REQUEST | NLM_F_DUMP, request), SendFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let bytes = receive(&socket, &mut buffer)?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (kind, payload) in Messages(bytes) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(error(payload)),
                SOCK_DIAG_BY_FAMILY => found.extend(parse(payload)),
                _ => {}
            }
        }
    }
}

fn receive<'b>(socket: &OwnedFd, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
    let (received, _) = recv(socket, &mut *buffer, RecvFlags::empty())?;
    Ok(buffer.get(..received).unwrap_or_default())
}

fn message(flags: u16, request: &[u8]) -> Vec<u8> {
    let length = u32::try_from(NETLINK_HEADER + request.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and sender: one request at a time needs neither.
    message.extend([0; 8]);
    message.extend(request);
    message
}

fn error(payload: &[u8]) -> io::Error {
    let code = bytes_at(payload, 0).map_or(0, i32::from_ne_bytes);
    match code.checked_neg() {
        Some(code) if code > 0 => io::Error::from_raw_os_error(code),
        _ => io::ErrorKind::InvalidData.into(),
    }
}

/// Splits a received datagram into type and payload of each message.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = u32::from_ne_bytes(bytes_at(self.0, 0)?) as usize;
        let kind = u16::from_ne_bytes(bytes_at(self.0, 4)?);
        let payload = self.0.get(NETLINK_HEADER..length)?;
        self.0 = self.0.get(length.checked_next_multiple_of(4)?..).unwrap_or_default();
        Some((kind, payload))
    }
}

/// Splits the end of a message into type and value of each attribute.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(bytes_at(self.0, 0)?));
        let kind = u16::from_ne_bytes(bytes_at(self.0, 2)?) & ATTRIBUTE_TYPE;
        let value = self.0.get(ATTRIBUTE_HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// `struct inet_diag_msg` and its attributes.
fn parse_tcp(message: &[u8]) -> Option<Tcp> {
    let fixed = message.get(..INET_MESSAGE)?;
    let info = Attributes(message.get(INET_MESSAGE..)?)
        .find_map(|(kind, value)| (kind == INET_DIAG_INFO).then_some(value));
    let ago = |at| info.and_then(|info| bytes_at(info, at)).map(u32::from_ne_bytes);
    Some(Tcp {
        state: *fixed.get(1)?,
        local_port: u16::from_be_bytes(bytes_at(fixed, 4)?),
        peer_port: u16::from_be_bytes(bytes_at(fixed, 6)?),
        local: address(fixed, 8)?,
        peer: address(fixed, 24)?,
        cookie: cookie(fixed, 44)?,
        inode: u32::from_ne_bytes(bytes_at(fixed, 68)?),
        last_send_ms: ago(TCPI_LAST_DATA_SENT),
        last_recv_ms: ago(TCPI_LAST_DATA_RECV),
        queued: u32::from_ne_bytes(bytes_at(fixed, 56)?),
    })
}

/// An address of `struct inet_diag_sockid`, in the message's family.
fn address(fixed: &[u8], at: usize) -> Option<IpAddr> {
    match *fixed.first()? {
        AF_INET => Some(Ipv4Addr::from(bytes_at::<4>(fixed, at)?).into()),
        AF_INET6 => Some(Ipv6Addr::from(bytes_at::<16>(fixed, at)?).into()),
        _ => None,
    }
}

/// `struct unix_diag_msg` and its attributes.
fn parse_unix(message: &[u8]) -> Option<Unix> {
    let fixed = message.get(..UNIX_MESSAGE)?;
    if fixed.first() != Some(&AF_UNIX) || fixed.get(1) != Some(&SOCK_STREAM) {
        return None;
    }
    let mut socket = Unix {
        inode: u32::from_ne_bytes(bytes_at(fixed, 4)?),
        cookie: cookie(fixed, 8)?,
        name: Vec::new(),
        peer: None,
        peer_closed: false,
        queued: None,
    };
    for (kind, value) in Attributes(message.get(UNIX_MESSAGE..)?) {
        match kind {
            UNIX_DIAG_NAME => socket.name = value.to_vec(),
            UNIX_DIAG_PEER => socket.peer = bytes_at(value, 0).map(u32::from_ne_bytes),
            UNIX_DIAG_RQLEN => socket.queued = bytes_at(value, 0).map(u32::from_ne_bytes),
            UNIX_DIAG_SHUTDOWN => {
                socket.peer_closed = value.first().is_some_and(|bits| bits & RCV_SHUTDOWN != 0);
            }
            _ => {}
        }
    }
    Some(socket)
}

/// The low half is first on every machine.
fn cookie(bytes: &[u8], at: usize) -> Option<u64> {
    let low = u32::from_ne_bytes(bytes_at(bytes, at)?);
    let high = u32::from_ne_bytes(bytes_at(bytes, at + 4)?);
    Some(u64::from(high) << 32 | u64::from(low))
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Attributes, Messages, error, message, parse_tcp, parse_unix};

    #[test]
    fn a_message_is_split_where_it_says_it_ends() {
        let mut bytes = message(0, b"abc");
        bytes.push(0);
        bytes.extend(message(0, b"defg"));
        let payloads: Vec<_> = Messages(&bytes).map(|(_, payload)| payload).collect();
        assert_eq!(payloads, [&b"abc"[..], b"defg"]);
    }

    #[test]
    fn a_message_or_attribute_of_no_length_ends_the_walk() {
        assert_eq!(Messages(&[0; 64]).count(), 0);
        assert_eq!(Attributes(&[0; 64]).count(), 0);
    }

    #[test]
    fn an_error_keeps_the_kernel_s_code() {
        assert_eq!(error(&(-2_i32).to_ne_bytes()).raw_os_error(), Some(2));
        assert_eq!(error(&i32::MIN.to_ne_bytes()).raw_os_error(), None);
        assert_eq!(error(&[]).raw_os_error(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed(
            mut bytes in prop::collection::vec(any::<u8>(), 0..256),
            family in prop::sample::select(vec![1_u8, 2, 10]),
        ) {
            let _ = Messages(&bytes).count();
            if let Some(first) = bytes.first_mut() {
                *first = family;
            }
            if let Some(second) = bytes.get_mut(1) {
                *second = 1;
            }
            let _ = (parse_tcp(&bytes), parse_unix(&bytes));
        }
    }
}
