"""The commands of `main.py --with LIBRARY`, over what the library's module offers: how a pool is
opened, what a request does, and the shapes of work done wrong, done right and done for long. See
../README.md."""

import asyncio
import inspect
import os
import subprocess
import sys
import threading
import time

# Requests of one user come at a pace; without it no connection would ever sit.
PACE_SECONDS = 0.15
# ... and come back after a while.
LATER_SECONDS = 1.2
# After the server has ended every session, a request is tried this often.
TRIES = 20
# What goes on in the background is under way by then.
UNDER_WAY_SECONDS = 15

# How a shape of this name ends; the others end well.
ENDS = {"raise": LookupError, "timeout": TimeoutError, "cancel": TimeoutError}

# By a process of its own: the client has no connection that the library does not know.
TERMINATE = """
import psycopg2
psycopg2.connect("").cursor().execute(
    "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
    " where backend_type = 'client backend' and pid <> pg_backend_pid()")
"""


def value(text):
    """An option's value: a number, a truth, nothing, or a word."""
    words = {"true": True, "false": False, "none": None}
    if text in words:
        return words[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


class Client:
    def __init__(self, library):
        self._library = library
        self._pool = None
        self._loop = None
        # Pools that are not used any more, or are the parent's: the collector must not close them.
        self._others = []
        # Ends when this process does.
        self._lifeline = os.pipe()

    def _call(self, function, *arguments, **options):
        """Calls it; a coroutine runs on the event loop, which has a thread of its own."""
        if not inspect.iscoroutinefunction(function):
            return function(*arguments, **options)
        return asyncio.run_coroutine_threadsafe(
            function(*arguments, **options), self._running()
        ).result()

    def _running(self):
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True).start()
        return self._loop

    def _opened(self):
        if self._pool is None:
            self.pool()
        return self._pool

    def pool(self, *options):
        """Opens a pool with these options; one that was open before stays as it is."""
        self._others.append(self._pool)
        options = dict(option.split("=", 1) for option in options)
        options = {name: value(text) for name, text in options.items()}
        self._pool = self._call(self._library.open_pool, **options)

    def swap(self):
        """Goes on with the pool that was open before."""
        self._others.append(self._pool)
        self._pool = self._others.pop(-2)

    def leak_alone(self, shape, count):
        end = ENDS.get(shape)
        for _ in range(int(count)):
            try:
                self._call(self._library.LEAKS[shape], self._opened())
            except end or ():
                pass
            else:
                if end:
                    raise AssertionError("it ended well")
            time.sleep(PACE_SECONDS)

    def leak(self, shape, count):
        """A healthy request follows each, finds the pool empty and opens a connection."""
        for _ in range(int(count)):
            self.leak_alone(shape, 1)
            self.request(1)

    def request(self, count, shape="request"):
        """So many requests, one after the other, done right."""
        for _ in range(int(count)):
            self._call(self._library.HEALTHY[shape], self._opened())
            time.sleep(PACE_SECONDS)

    def burst(self, count):
        """So many requests that hold their connections at the same time."""
        taken = [self._call(self._library.take, self._opened()) for _ in range(int(count))]
        for connection in taken:
            self._call(self._library.give_back, self._opened(), connection)

    def later(self):
        """For a while, nothing."""
        time.sleep(LATER_SECONDS)

    def overlap(self, count):
        self.later()
        self.burst(count)

    def keep(self, shape):
        """Something that goes on for long, in the background; answered when it is under way."""
        function = self._library.KEPT[shape]
        under_way, failures = threading.Event(), []

        def run():
            try:
                self._call(function, self._opened(), under_way.set)
            except Exception as error:
                failures.append(error)
                under_way.set()

        self._opened()
        self._running()
        threading.Thread(target=run, daemon=True).start()
        if not under_way.wait(UNDER_WAY_SECONDS):
            raise TimeoutError(f"{shape} is not under way")
        if failures:
            raise failures[0]

    def terminate(self):
        """The server ends every session."""
        subprocess.run([sys.executable, "-c", TERMINATE], check=True)

    def retry(self, count):
        """So many requests, each tried again until it works."""
        for _ in range(int(count)):
            for attempt in range(TRIES):
                try:
                    self.request(1)
                    break
                except Exception:
                    if attempt == TRIES - 1:
                        raise

    def fork(self, count):
        """So many children, as of a server that loads the application before it forks: the pool is
        the parent's, and each child works with one of its own."""
        for _ in range(int(count)):
            answer, done = os.pipe()
            if os.fork() == 0:
                try:
                    os.close(self._lifeline[1])
                    self._others.append((self._pool, self._loop))
                    self._pool = self._loop = None
                    self.request(3)
                    self.overlap(3)
                    self.request(3)
                    os.write(done, b"done")
                    os.read(self._lifeline[0], 1)
                finally:
                    os._exit(0)
            os.close(done)
            if os.read(answer, 4) != b"done":
                raise ChildProcessError("the child did not get through")
            os.close(answer)
