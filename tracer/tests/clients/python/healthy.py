"""The same work done right. Nothing in this file may ever be reported."""

import threading

import psycopg2

# One connection per thread for the life of the thread, as web frameworks keep them.
per_thread = threading.local()


def getconn_putconn(pool):
    connection = pool.getconn()
    try:
        with connection.cursor() as cursor:
            cursor.execute("select 1")
            cursor.fetchone()
        connection.commit()
    finally:
        pool.putconn(connection)


def connect_close():
    connection = psycopg2.connect("")
    try:
        with connection.cursor() as cursor:
            cursor.execute("select 1")
    finally:
        connection.close()


def thread_local_request():
    if not hasattr(per_thread, "connection"):
        per_thread.connection = psycopg2.connect("")
        per_thread.connection.autocommit = True
    with per_thread.connection.cursor() as cursor:
        cursor.execute("select 1")
        cursor.fetchone()


def long_query(pool, seconds):
    connection = pool.getconn()
    try:
        with connection.cursor() as cursor:
            cursor.execute("select pg_sleep(%s)", (seconds,))
        connection.commit()
    finally:
        pool.putconn(connection)


def engine_request(engine, text):
    with engine.begin() as connection:
        connection.execute(text("select 1"))
