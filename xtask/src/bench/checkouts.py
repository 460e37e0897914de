"""Sequential queries on a connection: reads `count NUMBER`, answers when so many are done."""

import sys

import psycopg2

connection = psycopg2.connect("")
connection.autocommit = True


def query():
    with connection.cursor() as cursor:
        cursor.execute("select 1")


def request(count):
    for _ in range(count):
        query()


def main():
    request(1)
    print("ready", flush=True)
    for line in sys.stdin:
        request(int(line.split()[1]))
        print("done", flush=True)


main()
