"""A leak with names that are not ASCII, one with characters beyond Latin."""


def läckt_漏れ(pool):
    connection = pool.getconn()
    connection.cursor().execute("select 41 + 1")  # LEAK-LINE named
