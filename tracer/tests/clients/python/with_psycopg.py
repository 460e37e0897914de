"""psycopg 3 without a pool: a connection for each request. See commands.py."""

import psycopg

DISTRIBUTIONS = ("psycopg", "psycopg-binary")

kept = []


def open_pool(**_options):
    return psycopg.connect


def select(connection):
    return connection.execute("select 41 + 1").fetchone()[0]


def take(connect):
    connection = connect("")
    select(connection)
    connection.commit()
    return connection


def give_back(_connect, connection):
    connection.close()


def request(connect):
    with connect("") as connection:
        select(connection)


def forgotten(connect):
    kept.append(take(connect))


def raised(connect):
    connection = take(connect)
    kept.append(connection)
    if connection.info.dbname:
        raise LookupError("no such order")
    connection.close()


def transaction(connect):
    connection = connect("")
    kept.append(connection)
    select(connection)


def failed(connect):
    """In a transaction of which a statement failed."""
    connection = connect("")
    kept.append(connection)
    try:
        connection.execute("select 1 / 0")
    except psycopg.errors.DivisionByZero:
        pass


def unused(connect):
    kept.append(connect(""))


def kept_for_good(connect):
    """One for the life of the process."""
    if not kept:
        kept.append(take(connect))
    select(kept[0])
    kept[0].commit()


LEAKS = {
    "forgotten": forgotten,
    "raise": raised,
    "transaction": transaction,
    "failed": failed,
    "unused": unused,
}

HEALTHY = {"request": request, "kept": kept_for_good}

KEPT = {}
