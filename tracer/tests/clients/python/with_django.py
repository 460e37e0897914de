"""Django's ORM in a server of threads, each of which has its connection for as long as CONN_MAX_AGE
says. See commands.py.

What the commands call the pool are the threads that serve requests."""

import os
import queue
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

if "--psycopg2" in sys.argv:
    # Django takes psycopg 3 where there is one.
    sys.modules["psycopg"] = None

import django
from django.conf import settings
from django.core import signals
from django.db import connections, transaction

DISTRIBUTIONS = ("Django", "psycopg2-binary" if "--psycopg2" in sys.argv else "psycopg-binary")

# What a careless program keeps alive.
kept = []
never = threading.Event()


def database(**options):
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ["PGDATABASE"],
        "USER": os.environ["PGUSER"],
        "HOST": os.environ["PGHOST"],
        "PORT": os.environ["PGPORT"],
        **options,
    }


def open_pool(threads=4, age=None, checks=False, pool=None):
    """So many threads; with `pool` they take connections from one of so many."""
    options = {"CONN_MAX_AGE": age, "CONN_HEALTH_CHECKS": checks}
    if pool is not None:
        options = {
            "CONN_MAX_AGE": 0,
            "OPTIONS": {"pool": {"min_size": 1, "max_size": pool, "timeout": 10}},
        }
    if not settings.configured:
        reporting = database(**options)
        reporting["NAME"] = "template1"
        settings.configure(
            DATABASES={"default": database(**options), "reporting": reporting}, USE_TZ=True
        )
        django.setup()
    return Threads(threads)


class Threads:
    """Serve requests in turn."""

    def __init__(self, count):
        self.queues = []
        self.next = 0
        for _ in range(count):
            self.add()

    def add(self):
        work = queue.SimpleQueue()
        threading.Thread(target=serve, args=(work,), daemon=True).start()
        self.queues.append(work)

    def ask(self, function, index=None):
        """Has a thread do it, the next one or this one; returns where the answer will be."""
        answers = queue.SimpleQueue()
        if index is None:
            index, self.next = self.next, (self.next + 1) % len(self.queues)
        self.queues[index].put((function, answers))
        return answers

    def serve(self, function):
        answered(self.ask(function))


def serve(work):
    while True:
        function, answers = work.get()
        try:
            signals.request_started.send(sender=None)
            try:
                function()
            finally:
                signals.request_finished.send(sender=None)
            answers.put(None)
        except Exception as error:
            answers.put(error)


def answered(answers):
    error = answers.get()
    if error is not None:
        raise error


def select(alias="default"):
    with connections[alias].cursor() as cursor:
        cursor.execute("select 41 + 1")
        return cursor.fetchone()[0]


def both():
    select()
    select("reporting")


def take(threads):
    """In a thread that is in the middle of a request."""
    go_on, taken = threading.Event(), threading.Event()

    def view():
        select()
        taken.set()
        go_on.wait()

    # More requests at a time need more threads.
    threads.add()
    answers = threads.ask(view, len(threads.queues) - 1)
    taken.wait()
    return go_on, answers


def give_back(_threads, taken):
    go_on, answers = taken
    go_on.set()
    answered(answers)


def request(threads):
    threads.serve(select)


def atomic(threads):
    def view():
        with transaction.atomic():
            select()

    threads.serve(view)


def two_databases(threads):
    threads.serve(both)


def iterated(threads):
    """A cursor of the server's, read to its end."""

    def view():
        connection = connections["default"]
        with connection.chunked_cursor() as cursor:
            cursor.execute("select generate_series(1, 10000)")
            while cursor.fetchmany(1000):
                pass

    threads.serve(view)


def in_thread_that_ends(_threads):
    """Django closes nothing there: the connection goes with the thread's local values."""
    thread = threading.Thread(target=select)
    thread.start()
    thread.join()


def on_its_own():
    """A connection beside the thread's, for what must not be in its transaction."""
    connection = connections.create_connection("default")
    kept.append(connection)
    with connection.cursor() as cursor:
        cursor.execute("select 41 + 1")
    return connection


def forgotten(threads):
    threads.serve(on_its_own)


def early_return(threads):
    def view():
        connection = on_its_own()
        if connection.is_usable():
            return None
        connection.close()

    threads.serve(view)


def raised(threads):
    def view():
        connection = on_its_own()
        if connection.is_usable():
            raise LookupError("no such order")
        connection.close()

    threads.serve(view)


def thread(_threads):
    """A thread for each job: it ends, and its cursor, kept, keeps its connection."""

    def job():
        cursor = connections["default"].cursor()
        cursor.execute("select 41 + 1")
        kept.append(cursor)

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()


workers = ThreadPoolExecutor(64)


def timeout(_threads):
    """A job that waits inside its transaction for somebody else; the caller gives up."""
    queried = threading.Event()

    def job():
        with transaction.atomic():
            select()
            queried.set()
            never.wait()

    future = workers.submit(job)
    queried.wait()
    future.result(timeout=0.05)


def never_committed(_threads):
    """In a job, outside of what closes connections that are left without autocommit."""

    def job():
        transaction.set_autocommit(False)
        select()
        kept.append(connections["default"])
        never.wait()

    queried = len(kept)
    workers.submit(job)
    while len(kept) == queried:
        never.wait(0.01)


def begin(threads):
    """A BEGIN that Django does not know of."""

    def view():
        with connections["default"].cursor() as cursor:
            cursor.execute("begin")
            cursor.execute("select 41 + 1")

    threads.serve(view)


def cursor(_threads):
    """In a transaction, with a cursor of the server's left open."""

    def job():
        with transaction.atomic():
            cursor = connections["default"].chunked_cursor()
            cursor.execute("select generate_series(1, 10000)")
            cursor.fetchone()
            kept.append(cursor)
            never.wait()

    queried = len(kept)
    workers.submit(job)
    while len(kept) == queried:
        never.wait(0.01)


def outside_in_transaction(threads, under_way):
    def view():
        with transaction.atomic():
            select()
            under_way()
            never.wait()

    threads.serve(view)


def listen(threads, under_way):
    def job():
        with connections["default"].cursor() as cursor:
            cursor.execute("listen orders")
            under_way()
            never.wait()

    threads.serve(job)


def lock(threads, under_way):
    def job():
        with connections["default"].cursor() as cursor:
            cursor.execute("select pg_advisory_lock(1)")
            under_way()
            never.wait()

    threads.serve(job)


def drain(threads, under_way):
    """A cursor of the server's, drained slowly."""

    def job():
        with connections["default"].chunked_cursor() as cursor:
            cursor.execute("select generate_series(1, 10000)")
            cursor.fetchone()
            under_way()
            while not never.wait(0.3):
                cursor.fetchmany(10)

    threads.serve(job)


LEAKS = {
    "forgotten": forgotten,
    "early_return": early_return,
    "raise": raised,
    "thread": thread,
    "timeout": timeout,
    "transaction": never_committed,
    "begin": begin,
    "cursor": cursor,
}

HEALTHY = {
    "request": request,
    "atomic": atomic,
    "two_databases": two_databases,
    "iterator": iterated,
    "thread": in_thread_that_ends,
}

KEPT = {
    "outside_in_transaction": outside_in_transaction,
    "listen": listen,
    "lock": lock,
    "drain": drain,
}
