"""A client that does what it is told, line by line, with psycopg2 or another library: see
../README.md."""

import importlib
import os
import sys
import threading
import time
from importlib.metadata import version

# Requests of one user come at a pace; without it no connection would ever sit.
PACE_SECONDS = 0.15
# ... and come back after a while.
LATER_SECONDS = 1.2


def load():
    """The driver, and with it libpq: at the start, or with `--late` before the first command."""
    global healthy, leaks, psycopg2
    import psycopg2.pool

    import healthy
    import leaks


class Worker(threading.Thread):
    """A thread of a web server: makes one request each time it is asked."""

    def __init__(self):
        super().__init__(daemon=True)
        self.asked = threading.Semaphore(0)
        self.answered = threading.Semaphore(0)
        self.start()

    def run(self):
        while True:
            self.asked.acquire()
            healthy.thread_local_request()
            self.answered.release()


class Client:
    def __init__(self):
        self._pool = None
        self._engine = None
        self.workers = []

    def pool(self):
        # minconn is also the number of connections kept idle.
        if self._pool is None:
            self.prefill(1)
        return self._pool

    def engine(self):
        if self._engine is None:
            import sqlalchemy

            self._engine = sqlalchemy.create_engine("postgresql+psycopg2://", pool_size=10)
            self._text = sqlalchemy.text
        return self._engine

    def prefill(self, count):
        """The pool opens `count` connections now and keeps them, used or not."""
        self._pool = psycopg2.pool.ThreadedConnectionPool(int(count), 60, "")

    def leak(self, shape, count):
        for _ in range(int(count)):
            if shape == "forgotten":
                leaks.forgotten_putconn(self.pool())
            elif shape == "idle_in_transaction":
                leaks.idle_in_transaction(self.pool())
            elif shape == "raise":
                try:
                    leaks.raised_before_putconn(self.pool())
                except LookupError:
                    pass
                else:
                    raise AssertionError("the error path was not taken")
            elif shape == "never_used":
                leaks.never_used()
                continue
            else:
                raise ValueError(f"no shape {shape}")
            # A healthy request follows, finds the pool empty and opens a connection.
            time.sleep(PACE_SECONDS)
            healthy.getconn_putconn(self.pool())
            time.sleep(PACE_SECONDS)

    def leak_alone(self, count):
        """Nothing follows."""
        for _ in range(int(count)):
            leaks.forgotten_putconn(self.pool())

    def healthy(self, count):
        for _ in range(int(count)):
            healthy.getconn_putconn(self.pool())
            time.sleep(PACE_SECONDS)

    def overlap(self, count):
        """After a while, `count` requests that hold their connections at the same time: the pool
        opens what it does not have, and keeps as many as `prefill` said."""
        time.sleep(LATER_SECONDS)
        connections = [self.pool().getconn() for _ in range(int(count))]
        for connection in connections:
            with connection.cursor() as cursor:
                cursor.execute("select 1")
            connection.commit()
        for connection in connections:
            self.pool().putconn(connection)

    def connect_close(self, count):
        for _ in range(int(count)):
            healthy.connect_close()

    def threads(self, count):
        """`count` threads, one connection each, used once per call, then calm."""
        while len(self.workers) < int(count):
            self.workers.append(Worker())
        for worker in self.workers:
            worker.asked.release()
        for worker in self.workers:
            worker.answered.acquire()

    def sqlalchemy(self, count):
        """`count` requests one after the other through a QueuePool."""
        for _ in range(int(count)):
            healthy.engine_request(self.engine(), self._text)
            time.sleep(PACE_SECONDS)

    def sqlalchemy_burst(self, count):
        """`count` connections checked out at once, all returned, then calm."""
        connections = [self.engine().connect() for _ in range(int(count))]
        for connection in connections:
            connection.execute(self._text("select 1"))
        for connection in connections:
            connection.close()

    def bare(self, count):
        """`count` sessions over bare sockets, each ended at once: no libpq has a part in them."""
        import descriptors

        for _ in range(int(count)):
            os.close(descriptors.open_session()[0])

    def hold_query(self, seconds):
        """Answered when the thread that runs it is on its way."""
        threading.Thread(
            target=healthy.long_query, args=(self.pool(), float(seconds)), daemon=True
        ).start()


def main():
    late = "--late" in sys.argv
    if "--with" in sys.argv:
        import commands

        library = importlib.import_module("with_" + sys.argv[sys.argv.index("--with") + 1])
        client = commands.Client(library)
        distributions = library.DISTRIBUTIONS
    else:
        client = Client()
        distributions = ("psycopg2-binary", "SQLAlchemy")
        if not late:
            load()
    versions = ", ".join(f"{name} {version(name)}" for name in distributions)
    print("ready", os.getpid(), versions, flush=True)
    for line in sys.stdin:
        verb, *arguments = line.split()
        if verb == "quit":
            break
        try:
            command = getattr(client, verb, None)
            if command is None or verb.startswith("_"):
                raise ValueError(f"no command {verb}")
            if late and verb != "bare":
                load()
                late = False
            command(*arguments)
            print("done", line.strip(), flush=True)
        except Exception as error:  # whatever it is, the test must hear of it
            print("error", type(error).__name__, str(error).replace("\n", " "), flush=True)
    sys.stdout.flush()
    # Sessions that were leaked end with the process, not with an orderly shutdown.
    os._exit(0)


if __name__ == "__main__":
    main()
