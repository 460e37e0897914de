<?php
// The ways a connection is kept although nobody needs it. Each function is one shape of the bug; in
// PHP the end of the last reference closes a connection, so something that lives long has one.

declare(strict_types=1);

/** What lives as long as the worker: a registry, a container, a log of errors. */
final class Registry
{
    /** @var list<mixed> */
    public static array $kept = [];
}

/** Registered for the job and never taken out. */
function forgotten_in_registry(): int
{
    $connection = new PDO(data_source());
    Registry::$kept[] = $connection;
    return (int) $connection->query('select 41 + 1')->fetchColumn();
}

/** Taken out of the registry at the end, which the early return skips. */
function early_return(int $id): ?int
{
    $connection = new PDO(data_source());
    $key = count(Registry::$kept);
    Registry::$kept[$key] = $connection;
    $statement = $connection->prepare('select g from generate_series(1, 3) g where g = ?');
    $statement->execute([$id]);
    $found = $statement->fetchColumn();
    if ($found === false) {
        return null;
    }
    array_pop(Registry::$kept);
    return $found;
}

/** The exception is kept, and with it the arguments of the calls on its stack. */
function thrown_and_logged(): void
{
    try {
        parse_document(new PDO(data_source()));
    } catch (JsonException $error) {
        Registry::$kept[] = $error;
    }
}

function parse_document(PDO $connection): mixed
{
    $text = $connection->query("select '{\"broken\": '")->fetchColumn();
    return json_decode($text, flags: JSON_THROW_ON_ERROR);
}

/** Two objects that refer to each other: only the collector of cycles would close it. */
function cycle(): void
{
    $owner = new stdClass();
    $owner->connection = new PDO(data_source());
    $owner->connection->query('select 1')->fetchColumn();
    $owner->self = $owner;
}

/** A transaction that is neither committed nor rolled back. */
function transaction_not_ended(): void
{
    $connection = new PDO(data_source());
    $connection->beginTransaction();
    $connection->query('select 1')->fetchColumn();
    Registry::$kept[] = $connection;
}

/** Sent without waiting, and nobody fetches the result. */
function result_not_fetched(): void
{
    $connection = pg_connect(connection_string(), PGSQL_CONNECT_FORCE_NEW);
    pg_send_query($connection, 'select g from generate_series(1, 1000) g');
    Registry::$kept[] = $connection;
}

/** Opened and not even used. */
function never_used(): void
{
    Registry::$kept[] = pg_connect(connection_string(), PGSQL_CONNECT_FORCE_NEW);
}
