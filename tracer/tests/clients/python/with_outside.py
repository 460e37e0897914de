"""psycopg2's pool, with connections that are held across a call to somebody outside who does not
answer, and with connections that nobody is left to give back: where the thread is now. See
commands.py."""

import asyncio
import socket
import threading
import urllib.request

from psycopg2.pool import ThreadedConnectionPool

DISTRIBUTIONS = ("psycopg2-binary",)

# What a careless program keeps alive.
kept = []
# Somebody who takes every call and answers none.
silent = socket.create_server(("127.0.0.1", 0))


def open_pool(**options):
    return ThreadedConnectionPool(1, 20, "", **options)


def select(connection):
    connection.cursor().execute("select 41 + 1")


def take(pool):
    connection = pool.getconn()
    select(connection)
    connection.commit()
    return connection


def give_back(pool, connection):
    pool.putconn(connection)


def request(pool):
    give_back(pool, take(pool))


def rate():
    return urllib.request.urlopen(f"http://127.0.0.1:{silent.getsockname()[1]}/")  # LEAK-LINE rate


def charge(pool, under_way):
    connection = pool.getconn()
    connection.cursor().execute("select 41 + 1")  # LEAK-LINE charge
    under_way()
    rate()  # LEAK-LINE stuck
    pool.putconn(connection)


def gave_back_first(pool, under_way):
    request(pool)
    under_way()
    rate()


def forgotten(pool):
    """By the thread that goes on with other work."""
    connection = pool.getconn()
    connection.cursor().execute("select 41 + 1")  # LEAK-LINE forgotten
    kept.append(connection)


def by_a_thread(pool):
    """Which ends."""
    thread = threading.Thread(target=forgotten, args=(pool,))
    thread.start()
    thread.join()


async def by_a_task(pool):
    """Its thread goes on with other tasks, and this one may wait for something."""
    forgotten(pool)
    kept.append(asyncio.ensure_future(asyncio.Event().wait()))


LEAKS = {"forgotten": forgotten, "thread": by_a_thread, "task": by_a_task}

HEALTHY = {"request": request}

KEPT = {"charge": charge, "gave_back_first": gave_back_first}
