"""Opt-in help for connleak: marks the checkouts of Python's pools, so that they are observed and the
report names the line that asked for the connection, however late and from whatever task it was used.

    PYTHONPATH=/path/to/preload/connleak_python python3 app.py

A mark is a read of no bytes from the connection's socket: the kernel answers it without looking at the
socket, so nothing is sent, taken or changed, with connleak or without. What the pools do stays as it
is; a failure of anything here is swallowed and costs the mark. No connection is kept, and nothing is
imported before the program itself imports a pool: of SQLAlchemy, psycopg_pool, psycopg2.pool or asyncpg.
The other end is `tracer-ebpf/src/mark.rs`.
"""

import os
import sys
from functools import lru_cache, wraps

MAGIC = b"connleak.mark/1 "
RETURNED = b"-"
# Of a mark's text.
MAX_BYTES = 1023
# Calls looked at, and of those in packages the innermost that are told.
MAX_FRAMES = 64
MAX_LIBRARY_FRAMES = 3

HERE = sys._getframe().f_code.co_filename
STANDARD = os.path.dirname(getattr(os, "__file__", "?/os.py")) + os.sep
SPACES = str.maketrans("\t\n\0", "   ")

_read = None


def _prepare():
    """Finds the call that marks; ctypes is loaded only where there is a pool."""
    global _read
    if _read is None:
        import ctypes

        # One that keeps the interpreter's lock: it returns at once, and another thread's turn in
        # between would be a change.
        read = ctypes.PyDLL(None).read
        read.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
        read.restype = ctypes.c_ssize_t
        _read = read


def _descriptor(connection):
    """Of a driver's own connection."""
    psycopg = getattr(connection, "pgconn", None)
    if psycopg is not None:
        return psycopg.socket
    asyncpg = getattr(connection, "_transport", None)
    if asyncpg is not None:
        return asyncpg.get_extra_info("socket").fileno()
    return connection.fileno()


@lru_cache(1024)
def _place(function, file):
    """How a call begins in the text, and whether it is a package's; nothing of what is nobody's."""
    if file == HERE or file.startswith("<frozen "):
        return b"", False
    inside = "/site-packages/" in file or "/dist-packages/" in file
    text = f"{function.translate(SPACES)}\t{file.translate(SPACES)}\t".encode("utf-8", "replace")
    return text, inside or file.startswith(STANDARD)


def _awaiting():
    """SQLAlchemy runs what is not asynchronous in a greenlet: the frame of the task that awaits it."""
    greenlet = sys.modules.get("greenlet")
    parent = greenlet and greenlet.getcurrent().parent
    frame = parent and parent.gr_frame
    return frame if frame and frame.f_code.co_name == "greenlet_spawn" else None


def _callers(frame):
    """The calls that led to `frame`, innermost first."""
    text, size, libraries, awaiting = [], 0, 0, False
    for _ in range(MAX_FRAMES):
        if frame is None and not awaiting:
            frame, awaiting = _awaiting(), True
        if frame is None or size > MAX_BYTES:
            break
        code = frame.f_code
        place, is_library = _place(getattr(code, "co_qualname", code.co_name), code.co_filename)
        libraries += is_library
        if place and (not is_library or libraries <= MAX_LIBRARY_FRAMES):
            text.append(b"%b%d\t0\n" % (place, frame.f_lineno or 0))
            size += len(text[-1])
        frame = frame.f_back
    return b"".join(text)[:MAX_BYTES]


def _taken(pool, connection):
    """The pool that this byte stands for has given the connection out."""
    try:
        fd = _descriptor(connection)
        if fd >= 0:
            _read(fd, MAGIC + pool + _callers(sys._getframe(1)), 0)
    except Exception:
        pass


def _returned(connection):
    """The pool is about to take it back, and to give it to whoever waits."""
    try:
        fd = _descriptor(connection)
        if fd >= 0:
            _read(fd, MAGIC + RETURNED, 0)
    except Exception:
        pass


def _wrap(owner, name, replacement):
    """Puts `replacement`, made for what is there, in its place."""
    inner = vars(owner)[name]
    if not hasattr(inner, "_connleak"):
        outer = wraps(inner)(replacement(inner))
        outer._connleak = True
        setattr(owner, name, outer)


def _taking(pool):
    def replacement(inner):
        def getconn(self, *args, **kwargs):
            connection = inner(self, *args, **kwargs)
            _taken(pool, connection)
            return connection

        return getconn

    return replacement


def _taking_later(pool, own=lambda connection: connection):
    def replacement(inner):
        async def getconn(self, *args, **kwargs):
            connection = await inner(self, *args, **kwargs)
            _taken(pool, own(connection))
            return connection

        return getconn

    return replacement


def _giving(inner):
    def putconn(self, conn, *args, **kwargs):
        # Of another pool it is refused, and not given back.
        if getattr(conn, "_pool", self) is self:
            _returned(conn)
        return inner(self, conn, *args, **kwargs)

    return putconn


def _giving_later(inner):
    async def putconn(self, conn, *args, **kwargs):
        if getattr(conn, "_pool", self) is self:
            _returned(conn)
        return await inner(self, conn, *args, **kwargs)

    return putconn


# Of each pool what gives back is hooked first: what is taken and never seen to come back is a leak.


def _sqlalchemy(_module):
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    def own(record, connection):
        return getattr(record, "driver_connection", connection)

    def checkin(connection, record):
        _returned(own(record, connection))

    def checkout(connection, record, _proxy):
        _taken(b"b", own(record, connection))

    event.listen(Pool, "checkin", checkin)
    # It is the program's own from now on.
    event.listen(Pool, "detach", checkin)
    event.listen(Pool, "checkout", checkout)


def _psycopg(module):
    _wrap(module.ConnectionPool, "putconn", _giving)
    _wrap(module.ConnectionPool, "getconn", _taking(b"c"))


def _psycopg_async(module):
    _wrap(module.AsyncConnectionPool, "putconn", _giving_later)
    _wrap(module.AsyncConnectionPool, "getconn", _taking_later(b"c"))


def _psycopg2(module):
    # The other classes call it, or have it under another name.
    _wrap(module.AbstractConnectionPool, "_putconn", _giving)
    _wrap(module.SimpleConnectionPool, "putconn", _giving)
    _wrap(module.AbstractConnectionPool, "_getconn", _taking(b"d"))
    _wrap(module.SimpleConnectionPool, "getconn", _taking(b"d"))


def _asyncpg(module):
    def giving(inner):
        async def release(self, *args, **kwargs):
            _returned(self._con)
            return await inner(self, *args, **kwargs)

        return release

    _wrap(module.PoolConnectionHolder, "release", giving)
    _wrap(module.Pool, "_acquire", _taking_later(b"e", lambda proxy: proxy._con))


HOOKS = {
    # When all of it has run: its events refer to the rest.
    "sqlalchemy": _sqlalchemy,
    "psycopg_pool.pool": _psycopg,
    "psycopg_pool.pool_async": _psycopg_async,
    "psycopg2.pool": _psycopg2,
    "asyncpg.pool": _asyncpg,
}


def _hook(name, module):
    try:
        _prepare()
        HOOKS[name](module)
    except Exception:
        pass


class _Finder:
    """Leaves finding modules to the others, and hooks the pools as soon as they have run."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in HOOKS:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find and finder is not _Finder else None
            if spec is not None:
                _watch(name, spec.loader)
                return spec
        return None


def _watch(name, loader):
    try:
        run = loader.exec_module

        def exec_module(module):
            if module.__name__ == name:
                del loader.exec_module
            run(module)
            if module.__name__ == name:
                _hook(name, module)

        loader.exec_module = exec_module
    except Exception:
        pass


def _start():
    sys.meta_path.insert(0, _Finder)
    for name in HOOKS:
        if name in sys.modules:
            _hook(name, sys.modules[name])


def _go_on():
    """Runs the `sitecustomize` that this one stands in front of."""
    from importlib.machinery import PathFinder

    here = os.path.dirname(os.path.abspath(__file__))
    path = [place for place in sys.path if os.path.abspath(place or ".") != here]
    spec = PathFinder.find_spec("sitecustomize", path)
    if spec is not None:
        from importlib.util import module_from_spec

        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


_start()
if __name__ == "sitecustomize":
    _go_on()
