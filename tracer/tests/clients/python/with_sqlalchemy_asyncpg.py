"""SQLAlchemy over asyncpg. See commands.py."""

import asyncio

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

DISTRIBUTIONS = ("SQLAlchemy", "asyncpg")

# What a careless program keeps alive.
kept = []

SELECT = text("select 41 + 1")
MANY = text("select generate_series(1, 100000)")


async def never():
    await asyncio.get_running_loop().create_future()


async def open_pool(**options):
    return create_async_engine("postgresql+asyncpg://", **options)


async def take(engine):
    connection = await engine.connect()
    await connection.execute(SELECT)
    await connection.commit()
    return connection


async def give_back(_engine, connection):
    await connection.close()


async def request(engine):
    async with engine.begin() as connection:
        await connection.execute(SELECT)


async def session(engine):
    async with AsyncSession(engine) as session:
        await session.execute(SELECT)


async def rolled_back(engine):
    try:
        async with engine.begin() as connection:
            await connection.execute(SELECT)
            raise LookupError("no such order")
    except LookupError:
        pass


async def streamed(engine):
    async with engine.connect() as connection:
        async for _ in await connection.stream(MANY):
            pass


async def autocommitted(engine):
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(SELECT)


async def cancelled_and_closed(engine):
    """A task that is cancelled and gives its connection back all the same."""

    async def work():
        async with engine.connect() as connection:
            await connection.execute(SELECT)
            await never()

    try:
        await asyncio.wait_for(work(), 0.1)
    except TimeoutError:
        pass


async def forgotten(engine):
    kept.append(await take(engine))


async def early_return(engine):
    connection = await take(engine)
    kept.append(connection)
    if not connection.in_transaction():
        return None
    await connection.close()


async def raised(engine):
    connection = await take(engine)
    kept.append(connection)
    if not connection.in_transaction():
        raise LookupError("no such order")
    await connection.close()


async def work_outside(engine):
    connection = await take(engine)
    kept.append(connection)
    await never()
    await connection.close()


async def waiting(before, engine):
    """Work that has its connection and waits for somebody else."""
    task = asyncio.create_task(work_outside(engine))
    while len(kept) == before and not task.done():
        await asyncio.sleep(0.001)
    return task


async def timeout(engine):
    await asyncio.wait_for(await waiting(len(kept), engine), 0.05)


async def cancel(engine):
    task = await waiting(len(kept), engine)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        # Said otherwise, it would be taken for the caller's own cancellation.
        raise TimeoutError from None


async def transaction(engine):
    """A session begins one with its first statement; nobody ends it."""
    session = AsyncSession(engine)
    kept.append(session)
    await session.execute(SELECT)  # LEAK-LINE transaction


async def cursor(engine):
    """A cursor, which lives in a transaction, left open."""
    connection = await engine.connect()
    result = await connection.stream(MANY)
    await result.fetchone()
    kept.append((connection, result))


async def unused(engine):
    kept.append(await engine.connect())  # LEAK-LINE unused


async def begin(engine):
    """A BEGIN that the driver does not know of, so that it takes the pool's rollback for nothing."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.exec_driver_sql("begin")
        await connection.execute(SELECT)


async def pool_for_each(_engine):
    """An engine for each request, never disposed of."""
    engine = await open_pool()
    await request(engine)
    kept.append(engine)


async def outside(engine, under_way):
    """A call to somebody else while the connection is held."""
    connection = await take(engine)
    under_way()
    await never()
    await connection.close()


async def outside_in_transaction(engine, under_way):
    async with AsyncSession(engine) as session:
        await session.execute(SELECT)
        under_way()
        await never()


async def gave_back_first(engine, under_way):
    await request(engine)
    under_way()
    await never()


async def listen(engine, under_way):
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.add_listener("orders", lambda *_: None)
        under_way()
        await never()


async def lock(engine, under_way):
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("select pg_advisory_lock(1)"))
        under_way()
        await never()


async def drain(engine, under_way):
    """A cursor, drained slowly."""
    async with engine.connect() as connection:
        await connection.execution_options(yield_per=10)
        result = await connection.stream(MANY)
        await result.fetchmany(10)
        under_way()
        while True:
            await asyncio.sleep(0.3)
            await result.fetchmany(10)


async def ping(engine, under_way):
    """Held for long and kept awake."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(SELECT)
        under_way()
        while True:
            await asyncio.sleep(0.3)
            await connection.execute(SELECT)


LEAKS = {
    "forgotten": forgotten,
    "early_return": early_return,
    "raise": raised,
    "timeout": timeout,
    "cancel": cancel,
    "transaction": transaction,
    "cursor": cursor,
    "unused": unused,
    "begin": begin,
    "pool": pool_for_each,
}

HEALTHY = {
    "request": request,
    "session": session,
    "rollback": rolled_back,
    "stream": streamed,
    "autocommit": autocommitted,
    "cancelled": cancelled_and_closed,
}

KEPT = {
    "outside": outside,
    "outside_in_transaction": outside_in_transaction,
    "gave_back_first": gave_back_first,
    "listen": listen,
    "lock": lock,
    "drain": drain,
    "ping": ping,
}
