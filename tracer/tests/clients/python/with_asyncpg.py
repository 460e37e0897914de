"""asyncpg's pool. See commands.py."""

import asyncio

import asyncpg

DISTRIBUTIONS = ("asyncpg",)

kept = []


async def never():
    await asyncio.get_running_loop().create_future()


async def open_pool(min_size=0, max_size=20, **options):
    return await asyncpg.create_pool(min_size=min_size, max_size=max_size, **options)


async def take(pool):
    connection = await pool.acquire(timeout=10)
    await connection.fetchval("select 41 + 1")
    return connection


async def give_back(pool, connection):
    await pool.release(connection)


async def request(pool):
    async with pool.acquire(timeout=10) as connection:
        await connection.fetchval("select 41 + 1")


async def in_transaction(pool):
    async with pool.acquire(timeout=10) as connection, connection.transaction():
        await connection.fetchval("select 41 + 1")


async def cursor_drained(pool):
    async with pool.acquire(timeout=10) as connection, connection.transaction():
        async for _ in connection.cursor("select generate_series(1, 1000)"):
            pass


async def copied(pool):
    """Both ways."""
    async with pool.acquire(timeout=10) as connection:
        await connection.execute("create temporary table copied (n int)")
        await connection.copy_records_to_table("copied", records=[(n,) for n in range(1000)])

        async def read(_data):
            pass

        await connection.copy_from_table("copied", output=read)
        await connection.execute("drop table copied")


async def began_by_hand(pool):
    """A BEGIN of the program's own, which the pool's reset ends."""
    async with pool.acquire(timeout=10) as connection:
        await connection.execute("begin")
        await connection.fetchval("select 41 + 1")


async def cancelled_and_released(pool):
    """A task that is cancelled and gives its connection back all the same."""

    async def work():
        async with pool.acquire(timeout=10) as connection:
            await connection.fetchval("select 41 + 1")
            await never()

    try:
        await asyncio.wait_for(work(), 0.1)
    except TimeoutError:
        pass


async def cancelled_query(pool):
    """A query that takes too long, cancelled by a request on a connection of its own."""
    async with pool.acquire(timeout=10) as connection:
        try:
            await connection.fetchval("select pg_sleep(60)", timeout=0.1)
        except TimeoutError:
            pass


async def closed(pool):
    """One that is given up and closed, so that the pool has a place without a connection."""
    connection = await take(pool)
    await connection.close()
    await pool.release(connection)


async def forgotten(pool):
    kept.append(await take(pool))


async def early_return(pool):
    connection = await take(pool)
    kept.append(connection)
    if connection.get_server_pid():
        return None
    await pool.release(connection)


async def raised(pool):
    connection = await take(pool)
    kept.append(connection)
    if connection.get_server_pid():
        raise LookupError("no such order")
    await pool.release(connection)


async def work_outside(pool):
    connection = await take(pool)
    kept.append(connection)
    await never()
    await pool.release(connection)


async def waiting(before, pool):
    """Work that has its connection and waits for somebody else."""
    task = asyncio.create_task(work_outside(pool))
    while len(kept) == before and not task.done():
        await asyncio.sleep(0.001)
    return task


async def timeout(pool):
    await asyncio.wait_for(await waiting(len(kept), pool), 0.05)


async def cancel(pool):
    task = await waiting(len(kept), pool)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        # Said otherwise, it would be taken for the caller's own cancellation.
        raise TimeoutError from None


async def transaction(pool):
    connection = await pool.acquire(timeout=10)
    kept.append(connection)
    await connection.transaction().start()  # LEAK-LINE transaction
    await connection.fetchval("select 41 + 1")


async def cursor(pool):
    """A cursor, which lives in a transaction, left open."""
    connection = await pool.acquire(timeout=10)
    await connection.transaction().start()
    cursor = await connection.cursor("select generate_series(1, 1000)")
    await cursor.fetchrow()
    kept.append((connection, cursor))


async def unused(pool):
    kept.append(await pool.acquire(timeout=10))  # LEAK-LINE unused


async def pool_for_each(_pool):
    """A pool for each request, never closed."""
    pool = await open_pool(min_size=2)
    await request(pool)
    kept.append(pool)


async def outside(pool, under_way):
    """A call to somebody else while the connection is held."""
    connection = await take(pool)
    under_way()
    await never()
    await pool.release(connection)


async def outside_in_transaction(pool, under_way):
    async with pool.acquire(timeout=10) as connection, connection.transaction():
        await connection.fetchval("select 41 + 1")
        under_way()
        await never()


async def gave_back_first(pool, under_way):
    await request(pool)
    under_way()
    await never()


async def listen(pool, under_way):
    async with pool.acquire(timeout=10) as connection:
        await connection.add_listener("orders", lambda *_: None)
        under_way()
        await never()


async def lock(pool, under_way):
    async with pool.acquire(timeout=10) as connection:
        await connection.fetchval("select pg_advisory_lock(1)")
        under_way()
        await never()


async def copy_in(pool, under_way):
    """The rows come from somebody who is slow."""

    async def rows():
        for _ in range(100):
            yield b"1\n" * 1000
        under_way()
        await never()

    async with pool.acquire(timeout=10) as connection:
        await connection.execute("create temporary table copied (n int)")
        await connection.copy_to_table("copied", source=rows())


async def copy_out(pool, under_way):
    """The rows go to somebody who is slow."""

    async def read(_data):
        under_way()
        await never()

    async with pool.acquire(timeout=10) as connection:
        await connection.copy_from_query("select generate_series(1, 2000000)", output=read)


async def drain(pool, under_way):
    """A cursor, drained slowly."""
    async with pool.acquire(timeout=10) as connection, connection.transaction():
        cursor = await connection.cursor("select generate_series(1, 100000)")
        await cursor.fetchrow()
        under_way()
        while True:
            await asyncio.sleep(0.3)
            await cursor.fetch(10)


async def ping(pool, under_way):
    """Held for long and kept awake."""
    async with pool.acquire(timeout=10) as connection:
        await connection.fetchval("select 1")
        under_way()
        while True:
            await asyncio.sleep(0.3)
            await connection.fetchval("select 1")


LEAKS = {
    "forgotten": forgotten,
    "early_return": early_return,
    "raise": raised,
    "timeout": timeout,
    "cancel": cancel,
    "transaction": transaction,
    "cursor": cursor,
    "unused": unused,
    "pool": pool_for_each,
}

HEALTHY = {
    "request": request,
    "transaction": in_transaction,
    "cursor": cursor_drained,
    "copy": copied,
    "begin": began_by_hand,
    "cancelled": cancelled_and_released,
    "cancelled_query": cancelled_query,
    "closed": closed,
}

KEPT = {
    "outside": outside,
    "outside_in_transaction": outside_in_transaction,
    "gave_back_first": gave_back_first,
    "listen": listen,
    "lock": lock,
    "copy_in": copy_in,
    "copy_out": copy_out,
    "drain": drain,
    "ping": ping,
}
