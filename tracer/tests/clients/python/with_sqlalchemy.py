"""SQLAlchemy over psycopg2. See commands.py."""

import threading
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.orm import Session

DISTRIBUTIONS = ("SQLAlchemy", "psycopg2-binary")

# What a careless program keeps alive.
kept = []
never = threading.Event()
workers = ThreadPoolExecutor(64)

SELECT = text("select 41 + 1")
MANY = text("select generate_series(1, 100000)")


def open_pool(null=False, **options):
    if null:
        options["poolclass"] = NullPool
    return create_engine("postgresql+psycopg2://", **options)


def take(engine):
    connection = engine.connect()
    connection.execute(SELECT).scalar()
    connection.commit()
    return connection


def give_back(_engine, connection):
    connection.close()


def request(engine):
    with engine.begin() as connection:
        connection.execute(SELECT)


def session(engine):
    with Session(engine) as session:
        session.execute(SELECT)


def rolled_back(engine):
    try:
        with engine.begin() as connection:
            connection.execute(SELECT)
            raise LookupError("no such order")
    except LookupError:
        pass


def streamed(engine):
    with engine.connect() as connection:
        for _ in connection.execution_options(yield_per=1000).execute(MANY):
            pass


def autocommitted(engine):
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(SELECT)


def threaded(engine):
    """Each by a thread of its own, as web frameworks do with code that is not asynchronous."""
    thread = threading.Thread(target=request, args=(engine,))
    thread.start()
    thread.join()


def invalidated(engine):
    """One that is given up: the pool opens another in its place when it is its turn."""
    with engine.connect() as connection:
        connection.execute(SELECT)
        connection.invalidate()


def forgotten(engine):
    kept.append(take(engine))


def early_return(engine):
    connection = take(engine)
    kept.append(connection)
    if not connection.in_transaction():
        return None
    connection.close()


def raised(engine):
    connection = take(engine)
    kept.append(connection)
    if not connection.in_transaction():
        raise LookupError("no such order")
    connection.close()


def timeout(engine):
    """The caller gives up; the thread that has the connection waits for something else."""
    queried = threading.Event()

    def work():
        connection = take(engine)
        queried.set()
        never.wait()
        connection.close()

    future = workers.submit(work)
    queried.wait()
    future.result(timeout=0.05)


def transaction(engine):
    """A session begins one with its first statement; nobody ends it."""
    session = Session(engine)
    kept.append(session)
    session.execute(SELECT)


def cursor(engine):
    """A cursor of the server's, which lives in a transaction, left open."""
    connection = engine.connect()
    result = connection.execution_options(yield_per=10).execute(MANY)
    result.fetchone()
    kept.append(result)


def unused(engine):
    kept.append(engine.connect())  # LEAK-LINE unused


def begin(engine):
    """A BEGIN that the driver does not know of, so that it takes the pool's rollback for nothing."""
    with engine.connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("begin")
        connection.execute(SELECT)


def pool_for_each(_engine):
    """An engine for each request, never disposed of."""
    engine = open_pool()
    request(engine)
    kept.append(engine)


def outside(engine, under_way):
    """A call to somebody else while the connection is held."""
    connection = take(engine)
    under_way()
    never.wait()
    connection.close()


def outside_in_transaction(engine, under_way):
    with Session(engine) as session:
        session.execute(SELECT)
        under_way()
        never.wait()


def gave_back_first(engine, under_way):
    request(engine)
    under_way()
    never.wait()


def listen(engine, under_way):
    connection = engine.raw_connection()
    connection.driver_connection.autocommit = True
    connection.cursor().execute("listen orders")
    under_way()
    never.wait()


def lock(engine, under_way):
    with engine.connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("select pg_advisory_lock(1)")
        under_way()
        never.wait()


class SlowRows:
    """A file whose rows come from somebody who is slow."""

    def __init__(self, under_way):
        self._left = 100
        self._under_way = under_way

    def read(self, _size):
        self._left -= 1
        if self._left < 0:
            self._under_way()
            never.wait()
        return "1\n" * 1000


class SlowFile:
    """A file that goes to somebody who is slow."""

    def __init__(self, under_way):
        self._under_way = under_way

    def write(self, _data):
        self._under_way()
        never.wait()


def copy_in(engine, under_way):
    connection = engine.raw_connection()
    cursor = connection.cursor()
    cursor.execute("create temporary table copied (n int)")
    cursor.copy_expert("copy copied from stdin", SlowRows(under_way))


def copy_out(engine, under_way):
    connection = engine.raw_connection()
    cursor = connection.cursor()
    cursor.copy_expert("copy (select generate_series(1, 2000000)) to stdout", SlowFile(under_way))


def drain(engine, under_way):
    """A cursor of the server's, drained slowly."""
    with engine.connect() as connection:
        result = connection.execution_options(yield_per=10).execute(MANY)
        result.fetchmany(10)
        under_way()
        while not never.wait(0.3):
            result.fetchmany(10)


def ping(engine, under_way):
    """Held for long and kept awake."""
    with engine.connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(SELECT)
        under_way()
        while not never.wait(0.3):
            connection.execute(SELECT)


LEAKS = {
    "forgotten": forgotten,
    "early_return": early_return,
    "raise": raised,
    "timeout": timeout,
    "transaction": transaction,
    "cursor": cursor,
    "unused": unused,
    "begin": begin,
    "pool": pool_for_each,
}

HEALTHY = {
    "request": request,
    "session": session,
    "rollback": rolled_back,
    "stream": streamed,
    "autocommit": autocommitted,
    "thread": threaded,
    "invalidate": invalidated,
}

KEPT = {
    "outside": outside,
    "outside_in_transaction": outside_in_transaction,
    "gave_back_first": gave_back_first,
    "listen": listen,
    "lock": lock,
    "copy_in": copy_in,
    "copy_out": copy_out,
    "drain": drain,
    "ping": ping,
}
