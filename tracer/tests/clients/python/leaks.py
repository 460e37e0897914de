"""The ways a connection does not come back. Each function is one shape of the bug, and the name
that a report must give."""

import psycopg2

# What a careless program keeps alive: without it the garbage collector would close them.
kept = []


def forgotten_putconn(pool):
    """The plain one: the transaction is ended, the connection never put back."""
    connection = pool.getconn()  # LEAK-LINE getconn
    with connection.cursor() as cursor:
        cursor.execute("select 41 + 1")
        cursor.fetchone()
    connection.commit()  # LEAK-LINE forgotten


def idle_in_transaction(pool):
    """psycopg2 begins a transaction with the first statement; nobody ends it."""
    connection = pool.getconn()
    with connection.cursor() as cursor:
        cursor.execute("select 41 + 1")  # LEAK-LINE idle_in_transaction
        cursor.fetchone()


def raised_before_putconn(pool):
    connection = pool.getconn()
    with connection.cursor() as cursor:
        cursor.execute("select 41 + 1")
        if cursor.fetchone()[0] != 43:
            connection.rollback()  # LEAK-LINE raise
            raise LookupError("no such order")
    pool.putconn(connection)


def never_used():
    """Without a pool: a connection per request that is not even used."""
    kept.append(psycopg2.connect(""))  # LEAK-LINE never_used
