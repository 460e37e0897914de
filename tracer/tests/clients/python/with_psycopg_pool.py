"""psycopg_pool's ConnectionPool. See commands.py."""

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
from psycopg_pool import ConnectionPool

DISTRIBUTIONS = ("psycopg-pool", "psycopg-binary")

# What a careless program keeps alive.
kept = []
never = threading.Event()
workers = ThreadPoolExecutor(64)


def open_pool(min_size=1, max_size=20, check=False, autocommit=False, **options):
    check = ConnectionPool.check_connection if check else None
    pool = ConnectionPool(
        "",
        kwargs={"autocommit": autocommit},
        check=check,
        min_size=min_size,
        max_size=max_size,
        timeout=10,
        open=False,
        **options,
    )
    pool.open(wait=True)
    return pool


def select(connection):
    return connection.execute("select 41 + 1").fetchone()[0]


def take(pool):
    connection = pool.getconn()
    select(connection)
    connection.commit()
    return connection


def give_back(pool, connection):
    pool.putconn(connection)


def request(pool):
    with pool.connection() as connection:
        select(connection)


def rolled_back(pool):
    try:
        with pool.connection() as connection:
            select(connection)
            raise LookupError("no such order")
    except LookupError:
        pass


def streamed(pool):
    with pool.connection() as connection:
        for _ in connection.cursor().stream("select generate_series(1, 1000)"):
            pass


def pipelined(pool):
    with pool.connection() as connection, connection.pipeline():
        cursors = [connection.execute("select %s::int", (n,)) for n in range(20)]
        for cursor in cursors:
            cursor.fetchone()


def copied(pool):
    """Both ways."""
    with pool.connection() as connection:
        connection.execute("create temporary table copied (n int) on commit drop")
        with connection.cursor() as cursor:
            with cursor.copy("copy copied from stdin") as copy:
                for n in range(1000):
                    copy.write_row((n,))
            with cursor.copy("copy copied to stdout") as copy:
                for _ in copy.rows():
                    pass


def began_by_hand(pool):
    """A BEGIN of the program's own, which the pool's rollback ends."""
    with pool.connection() as connection:
        connection.autocommit = True
        connection.execute("begin")
        select(connection)
        connection.rollback()
        connection.autocommit = False


def forgotten(pool):
    kept.append(take(pool))


def early_return(pool):
    connection = take(pool)
    kept.append(connection)
    if connection.info.dbname:
        return None
    pool.putconn(connection)


def raised(pool):
    connection = take(pool)
    kept.append(connection)
    if connection.info.dbname:
        raise LookupError("no such order")
    pool.putconn(connection)


def timeout(pool):
    """The caller gives up; the thread that has the connection waits for something else."""
    queried = threading.Event()

    def work():
        connection = take(pool)
        queried.set()
        never.wait()
        pool.putconn(connection)

    future = workers.submit(work)
    queried.wait()
    future.result(timeout=0.05)


def transaction(pool):
    connection = pool.getconn()
    kept.append(connection)
    select(connection)


def cursor(pool):
    """A cursor of the server's, which lives in a transaction, left open."""
    connection = pool.getconn()
    cursor = connection.cursor(name="orders")
    cursor.execute("select generate_series(1, 1000)")
    cursor.fetchone()
    kept.append(cursor)


def unread(pool):
    """A stream that is not drained: the server has more to send than the sockets hold."""
    connection = pool.getconn()
    rows = connection.cursor().stream(
        "select repeat('x', 1000) from generate_series(1, 100000)"
    )
    next(rows)
    kept.append((connection, rows))


def unused(pool):
    kept.append(pool.getconn())  # LEAK-LINE unused


def elsewhere(pool):
    """Who takes it does not use it: a thread does, and then nobody."""
    connection = pool.getconn()  # LEAK-LINE elsewhere
    kept.append(connection)

    def work():
        select(connection)
        connection.commit()

    workers.submit(work).result()


def pool_for_each(_pool):
    """A pool for each request, never closed."""
    pool = open_pool(min_size=2)
    request(pool)
    kept.append(pool)


def outside(pool, under_way):
    """A call to somebody else while the connection is held."""
    connection = take(pool)
    under_way()
    never.wait()
    pool.putconn(connection)


def outside_in_transaction(pool, under_way):
    with pool.connection() as connection:
        select(connection)
        under_way()
        never.wait()


def gave_back_first(pool, under_way):
    request(pool)
    under_way()
    never.wait()


def listen(pool, under_way):
    with pool.connection() as connection:
        connection.autocommit = True
        connection.execute("listen orders")
        under_way()
        for _ in connection.notifies():
            pass


def lock(pool, under_way):
    with pool.connection() as connection:
        connection.autocommit = True
        connection.execute("select pg_advisory_lock(1)")
        under_way()
        never.wait()


def copy_in(pool, under_way):
    """The rows come from somebody who is slow."""
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("create temporary table copied (n int)")
        connection.commit()
        with cursor.copy("copy copied from stdin") as copy:
            for n in range(100_000):
                copy.write_row((n,))
            under_way()
            never.wait()


def copy_out(pool, under_way):
    """The rows go to somebody who is slow."""
    with pool.connection() as connection, connection.cursor() as cursor:
        with cursor.copy("copy (select generate_series(1, 2000000)) to stdout") as copy:
            for n, _ in enumerate(copy):
                if n == 10:
                    under_way()
                    never.wait()


def drain(pool, under_way):
    """A cursor of the server's, drained slowly."""
    with pool.connection() as connection, connection.cursor(name="orders") as cursor:
        cursor.execute("select generate_series(1, 100000)")
        cursor.fetchone()
        under_way()
        while not never.wait(0.3):
            cursor.fetchmany(10)


def stream(pool, under_way):
    """A stream of the client's, drained slowly."""
    with pool.connection() as connection:
        rows = connection.cursor().stream("select repeat('x', 1000) from generate_series(1, 1000000)")
        next(rows)
        under_way()
        while not never.wait(0.01):
            for _ in range(100):
                next(rows)


def ping(pool, under_way):
    """Held for long and kept awake."""
    with pool.connection() as connection:
        connection.autocommit = True
        connection.execute("")
        under_way()
        while not never.wait(0.3):
            connection.execute("")


LEAKS = {
    "forgotten": forgotten,
    "early_return": early_return,
    "raise": raised,
    "timeout": timeout,
    "transaction": transaction,
    "cursor": cursor,
    "unread": unread,
    "unused": unused,
    "elsewhere": elsewhere,
    "pool": pool_for_each,
}

HEALTHY = {
    "request": request,
    "rollback": rolled_back,
    "stream": streamed,
    "pipeline": pipelined,
    "copy": copied,
    "begin": began_by_hand,
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
    "stream": stream,
    "ping": ping,
}
