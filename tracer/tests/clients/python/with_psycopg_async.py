"""psycopg_pool's AsyncConnectionPool. See commands.py."""

import asyncio

from psycopg_pool import AsyncConnectionPool

DISTRIBUTIONS = ("psycopg-pool", "psycopg-binary")

kept = []


async def never():
    await asyncio.get_running_loop().create_future()


async def open_pool(min_size=1, max_size=20, check=False, autocommit=False, **options):
    check = AsyncConnectionPool.check_connection if check else None
    pool = AsyncConnectionPool(
        "",
        kwargs={"autocommit": autocommit},
        check=check,
        min_size=min_size,
        max_size=max_size,
        timeout=10,
        open=False,
        **options,
    )
    await pool.open(wait=True)
    return pool


async def select(connection):
    return (await (await connection.execute("select 41 + 1")).fetchone())[0]


async def take(pool):
    connection = await pool.getconn()
    await select(connection)
    await connection.commit()
    return connection


async def give_back(pool, connection):
    await pool.putconn(connection)


async def request(pool):
    async with pool.connection() as connection:
        await select(connection)


async def rolled_back(pool):
    try:
        async with pool.connection() as connection:
            await select(connection)
            raise LookupError("no such order")
    except LookupError:
        pass


async def streamed(pool):
    async with pool.connection() as connection:
        async for _ in connection.cursor().stream("select generate_series(1, 1000)"):
            pass


async def cancelled_and_given_back(pool):
    """A task that is cancelled and gives its connection back all the same."""

    async def work():
        async with pool.connection() as connection:
            await select(connection)
            await never()

    try:
        await asyncio.wait_for(work(), 0.1)
    except TimeoutError:
        pass


async def forgotten(pool):
    kept.append(await take(pool))


async def transaction(pool):
    connection = await pool.getconn()
    kept.append(connection)
    await select(connection)  # LEAK-LINE transaction


async def unused(pool):
    kept.append(await pool.getconn())  # LEAK-LINE unused


async def elsewhere(pool):
    """Who takes it does not use it: another task does, and then nobody."""
    connection = await pool.getconn()  # LEAK-LINE elsewhere
    kept.append(connection)

    async def work():
        await select(connection)
        await connection.commit()

    await asyncio.create_task(work())


async def listen(pool, under_way):
    async with pool.connection() as connection:
        await connection.set_autocommit(True)
        await connection.execute("listen orders")
        under_way()
        async for _ in connection.notifies():
            pass


async def lock(pool, under_way):
    async with pool.connection() as connection:
        await connection.set_autocommit(True)
        await connection.execute("select pg_advisory_lock(1)")
        under_way()
        await never()


LEAKS = {
    "forgotten": forgotten,
    "transaction": transaction,
    "unused": unused,
    "elsewhere": elsewhere,
}

HEALTHY = {
    "request": request,
    "rollback": rolled_back,
    "stream": streamed,
    "cancelled": cancelled_and_given_back,
}

KEPT = {"listen": listen, "lock": lock}
