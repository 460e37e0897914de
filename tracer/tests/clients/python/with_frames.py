"""psycopg2's pool again: transactions left open where the line is harder to tell, in any version of
Python. Each function is the one that a report must name; the marked line is where. See
commands.py."""

import asyncio
import inspect
import threading

from psycopg2.pool import ThreadedConnectionPool

from größe.läck import läckt_漏れ

DISTRIBUTIONS = ("psycopg2-binary",)

# More calls than frames are copied.
DEEP = 70


class Orders:
    def load(self, pool):
        return [self.read(connection) for connection in (pool.getconn(),)]

    def read(self, connection):
        cursor = connection.cursor()
        cursor.execute(  # LEAK-LINE method
            "select 41 + 1",
            (),
        )
        return cursor.fetchone()


def descend(connection, levels):
    if levels > 0:
        return descend(connection, levels - 1)
    return connection.cursor().execute("select 41 + 1")  # LEAK-LINE recursive


def recursive(pool):
    descend(pool.getconn(), DEEP)


def in_thread(*functions):
    """Each in a thread of its own, made for it."""
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def thread(pool):
    def leaked_by_thread():
        connection = pool.getconn()
        connection.cursor().execute("select 41 + 1")  # LEAK-LINE thread

    in_thread(leaked_by_thread)


def both(pool):
    """Two at the same time."""
    together = threading.Barrier(2)

    def first():
        connection = pool.getconn()
        together.wait()
        connection.cursor().execute("select pg_sleep(0.05)")  # LEAK-LINE first

    def second():
        connection = pool.getconn()
        together.wait()
        connection.cursor().execute("select pg_sleep(0.05)")  # LEAK-LINE second

    in_thread(first, second)


async def resumed(connection):
    """Has waited on the event loop before it goes on."""
    await asyncio.sleep(0.01)
    connection.cursor().execute("select 41 + 1")  # LEAK-LINE task


async def task(pool):
    await asyncio.gather(resumed(pool.getconn()), asyncio.sleep(0))


def open_pool(minconn=2):
    return ThreadedConnectionPool(minconn, 90)


def take(pool):
    connection = pool.getconn()
    connection.cursor().execute("select 41 + 1")
    return connection


def give_back(pool, connection):
    connection.commit()
    pool.putconn(connection)


def request(pool):
    give_back(pool, take(pool))


class Borrowed:
    """A pool whose connections all go back: what a shape does to it is done right."""

    def __init__(self, pool):
        self.pool = pool
        self.taken = []

    def getconn(self):
        connection = self.pool.getconn()
        self.taken.append(connection)
        return connection

    def give_back(self):
        for connection in self.taken:
            give_back(self.pool, connection)


def right(shape):
    if inspect.iscoroutinefunction(shape):

        async def done(pool):
            borrowed = Borrowed(pool)
            await shape(borrowed)
            borrowed.give_back()

    else:

        def done(pool):
            borrowed = Borrowed(pool)
            shape(borrowed)
            borrowed.give_back()

    return done


LEAKS = {
    "method": Orders().load,
    "recursive": recursive,
    "named": läckt_漏れ,
    "thread": thread,
    "both": both,
    "task": task,
}

HEALTHY = {"request": request, **{name: right(shape) for name, shape in LEAKS.items()}}
