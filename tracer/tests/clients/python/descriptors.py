"""A client that speaks the protocol over bare sockets, to do with descriptors what drivers do not.

Every session it opens is left idle in a transaction, so the number of sessions that are still
open can be read off the report's `idle in transaction` findings. See ../README.md."""

import errno
import os
import select
import signal
import socket
import struct
import sys

HOST = os.environ["PGHOST"]
PORT = int(os.environ["PGPORT"])
USER = os.environ["PGUSER"]
DATABASE = os.environ["PGDATABASE"]

# Descriptor numbers that stay open for the life of the client.
kept = []
children = []


def receive_exactly(fd, count):
    data = b""
    while len(data) < count:
        more = os.read(fd, count - len(data))
        if not more:
            raise ConnectionError("the server closed the connection")
        data += more
    return data


def until_ready(fd):
    """Reads messages up to ReadyForQuery; answers BackendKeyData's body and the status."""
    key = None
    while True:
        kind, length = struct.unpack("!cI", receive_exactly(fd, 5))
        body = receive_exactly(fd, length - 4)
        if kind == b"E":
            raise ConnectionError(body.decode(errors="replace"))
        if kind == b"K":
            key = body
        if kind == b"Z":
            return key, body


def until_kind(fd, wanted):
    """Reads messages up to the first of this kind."""
    kind = None
    while kind != wanted:
        kind, length = struct.unpack("!cI", receive_exactly(fd, 5))
        receive_exactly(fd, length - 4)


def query(fd, sql):
    body = sql.encode() + b"\0"
    os.write(fd, b"Q" + struct.pack("!I", len(body) + 4) + body)
    return until_ready(fd)


def startup(fd):
    body = struct.pack("!I", 196608)
    for name, value in (("user", USER), ("database", DATABASE)):
        body += name.encode() + b"\0" + value.encode() + b"\0"
    body += b"\0"
    os.write(fd, struct.pack("!I", len(body) + 4) + body)
    return until_ready(fd)[0]


def open_session(begin=True):
    """A connected descriptor, nobody's but ours, and the key to cancel its queries."""
    connected = socket.create_connection((HOST, PORT))
    fd = connected.detach()
    key = startup(fd)
    if begin:
        query(fd, "begin")
        query(fd, "select 1")
    return fd, key


def dup_close():
    """The first descriptor closed, the duplicate keeps the session."""
    fd, _ = open_session()
    kept.append(os.dup(fd))
    os.close(fd)


def dup2_over():
    """One session's descriptor put over another's: that one ends, this one has two."""
    first, _ = open_session()
    second, _ = open_session()
    os.dup2(second, first)
    kept.append(first)
    os.close(second)


def fcntl_dup():
    import fcntl

    fd, _ = open_session()
    kept.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100))
    os.close(fd)


def fork_keep():
    """The child keeps what the parent closes."""
    fd, _ = open_session()
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    children.append(child)
    os.close(fd)


def fork_exit():
    """The child exits with its copy; the parent's stays open."""
    fd, _ = open_session()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    kept.append(fd)


def exec_keep():
    """A child that inherits over exec and sleeps; the parent closes."""
    spawn_sleeper(inheritable=True)


def exec_cloexec():
    """The same with close-on-exec: the session ends when both let go."""
    spawn_sleeper(inheritable=False)


def spawn_sleeper(inheritable):
    fd, _ = open_session()
    os.set_inheritable(fd, inheritable)
    # Our end of this pipe sees its end of file when exec has happened.
    seen, exec_closes = os.pipe()
    child = os.fork()
    if child == 0:
        os.execvp("sleep", ["sleep", "600"])
    children.append(child)
    os.close(exec_closes)
    os.read(seen, 1)
    os.close(seen)
    os.close(fd)


def reuse_number():
    """The number of a closed session's descriptor goes to a socket that is no session, which
    then says what looks like a query."""
    fd, _ = open_session()
    listener = socket.create_server(("127.0.0.1", 0))
    os.close(fd)
    other = socket.create_connection(listener.getsockname()).detach()
    if other != fd:
        os.dup2(other, fd)
        os.close(other)
    body = b"begin\0"
    os.write(fd, b"Q" + struct.pack("!I", len(body) + 4) + body)
    accepted, _ = listener.accept()
    accepted.sendall(b"Z" + struct.pack("!I", 5) + b"T")
    receive_exactly(fd, 6)
    kept.append(fd)
    kept.append(accepted.detach())
    listener.close()


def nonblocking():
    """Connects the way event loops do: EINPROGRESS, then poll."""
    connecting = socket.socket()
    connecting.setblocking(False)
    result = connecting.connect_ex((HOST, PORT))
    if result not in (0, errno.EINPROGRESS):
        raise OSError(result, os.strerror(result))
    poll = select.poll()
    poll.register(connecting, select.POLLOUT)
    poll.poll()
    failed = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if failed:
        raise OSError(failed, os.strerror(failed))
    connecting.setblocking(True)
    fd = connecting.detach()
    startup(fd)
    query(fd, "begin")
    kept.append(fd)


def refused(port):
    """Nobody listens there: once blocking, once not; the descriptors stay open."""
    for blocking in (True, False):
        failing = socket.socket()
        failing.setblocking(blocking)
        result = failing.connect_ex((HOST, int(port)))
        if result == errno.EINPROGRESS:
            poll = select.poll()
            poll.register(failing, select.POLLOUT)
            poll.poll()
            result = failing.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if result != errno.ECONNREFUSED:
            raise OSError(result, f"not refused: {os.strerror(result)}")
        kept.append(failing.detach())


def cancel():
    """A query cancelled through a second connection, which is no session."""
    fd, key = open_session(begin=False)
    body = b"do $$ begin raise notice 'begun'; perform pg_sleep(600); end $$\0"
    os.write(fd, b"Q" + struct.pack("!I", len(body) + 4) + body)
    # A request that comes before the query has begun cancels nothing.
    until_kind(fd, b"N")
    canceller = socket.create_connection((HOST, PORT))
    canceller.sendall(struct.pack("!II", 16, 80877102) + key)
    while canceller.recv(1):
        pass
    canceller.close()
    until_kind(fd, b"E")
    until_ready(fd)
    os.close(fd)


def multipath(count):
    """Sessions over multipath TCP, whose socket is not the one that TCP's states are those of."""
    for _ in range(int(count)):
        connected = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)
        connected.connect((HOST, PORT))
        fd = connected.detach()
        startup(fd)
        query(fd, "begin")
        query(fd, "select 1")
        kept.append(fd)


def hand_on():
    """A session's descriptor is handed to a child over a Unix socket; ours is closed."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        socket.recv_fds(theirs, 1, 1)
        theirs.sendall(b"x")
        signal.pause()
        os._exit(0)
    children.append(child)
    theirs.close()
    fd, _ = open_session()
    socket.send_fds(ours, [b"x"], [fd])
    ours.recv(1)
    os.close(fd)
    ours.close()


def hold(count):
    """`count` sessions idle in a transaction."""
    for _ in range(int(count)):
        kept.append(open_session()[0])


def close_all():
    """Everything closed, every child ended."""
    for fd in kept:
        os.close(fd)
    kept.clear()
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    children.clear()


def close_range():
    """Everything from the lowest kept descriptor on, by one call."""
    os.closerange(min(kept), max(kept) + 1)
    kept.clear()


COMMANDS = {
    command.__name__: command
    for command in (
        dup_close,
        dup2_over,
        fcntl_dup,
        fork_keep,
        fork_exit,
        exec_keep,
        exec_cloexec,
        reuse_number,
        nonblocking,
        refused,
        cancel,
        multipath,
        hand_on,
        hold,
        close_all,
        close_range,
    )
}


def main():
    print("ready", os.getpid(), flush=True)
    for line in sys.stdin:
        verb, *arguments = line.split()
        if verb == "quit":
            break
        try:
            COMMANDS[verb](*arguments)
            print("done", line.strip(), flush=True)
        except Exception as error:  # whatever it is, the test must hear of it
            print("error", type(error).__name__, str(error).replace("\n", " "), flush=True)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os._exit(0)


if __name__ == "__main__":
    main()
