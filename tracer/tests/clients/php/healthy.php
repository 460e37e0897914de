<?php
// The same work done right. Nothing in this file may ever be reported.

declare(strict_types=1);

/** Closed by the end of its variable. */
function connection_of_a_job(): void
{
    $connection = new PDO(data_source());
    $connection->query('select 1')->fetchColumn();
}

/** One for the life of the worker, by PDO. */
function persistent_pdo(): void
{
    $connection = new PDO(data_source(), options: [PDO::ATTR_PERSISTENT => true]);
    $connection->query('select 1')->fetchColumn();
}

/** The same by pg_pconnect; pg_close gives such a connection back. */
function persistent_pgsql(): void
{
    $connection = pg_pconnect(connection_string());
    pg_fetch_result(pg_query($connection, 'select 1'), 0, 0);
    pg_close($connection);
}

/** One for the life of the worker, by a variable. */
function connection_of_the_worker(): PDO
{
    static $connection = null;
    return $connection ??= new PDO(data_source());
}

function transaction(): void
{
    $connection = connection_of_the_worker();
    $connection->beginTransaction();
    try {
        $connection->query('select 1')->fetchColumn();
        $connection->commit();
    } catch (Throwable $error) {
        $connection->rollBack();
        throw $error;
    }
}

/** Rows by ten, all of them. */
function cursor(): void
{
    $connection = connection_of_the_worker();
    $connection->beginTransaction();
    $connection->exec('declare numbers cursor for select g from generate_series(1, 100) g');
    while ($connection->query('fetch 10 from numbers')->fetchAll()) {
    }
    $connection->commit();
}

/** Held while the server works: active, however long. */
function long_query(int $seconds): mixed
{
    $connection = pg_connect(connection_string(), PGSQL_CONNECT_FORCE_NEW);
    pg_send_query_params($connection, 'select pg_sleep($1)', [$seconds]);
    return $connection;
}

/** Held for ever on purpose: notifications come when they come. */
function listen(): mixed
{
    $connection = pg_connect(connection_string(), PGSQL_CONNECT_FORCE_NEW);
    pg_query($connection, 'listen orders');
    return $connection;
}

/** Held for ever on purpose: the session is the lock. */
function advisory_lock(int $key): mixed
{
    $connection = pg_connect(connection_string(), PGSQL_CONNECT_FORCE_NEW);
    pg_query_params($connection, 'select pg_advisory_lock($1)', [$key]);
    return $connection;
}

/** A COPY FROM STDIN that has got one row and waits for more. */
function copy_in(): mixed
{
    $connection = pg_connect(connection_string(), PGSQL_CONNECT_FORCE_NEW);
    pg_query($connection, 'create temporary table copied (n int)');
    pg_query($connection, 'copy copied from stdin');
    pg_put_line($connection, "1\n");
    return $connection;
}
