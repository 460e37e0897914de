<?php
// A PHP worker on libpq that does what it is told, line by line: see ../README.md.

declare(strict_types=1);

require __DIR__ . '/leaks.php';
require __DIR__ . '/healthy.php';
require __DIR__ . '/frames.php';

// Jobs come at a pace; without it no connection would ever sit.
const PACE_MICROSECONDS = 100_000;
// ... and some come after a while.
const LATER_MICROSECONDS = 1_200_000;

/** The server is in libpq's own variables. */
function connection_string(): string
{
    return 'user=' . getenv('PGUSER');
}

function data_source(): string
{
    return 'pgsql:' . connection_string();
}

function repeat(string $count, callable $step): void
{
    for ($i = 0; $i < (int) $count; $i += 1) {
        $step();
        usleep(PACE_MICROSECONDS);
    }
}

function leak(string $shape): void
{
    switch ($shape) {
        case 'forgotten':
            forgotten_in_registry();
            break;
        case 'early_return':
            early_return(1);
            usleep(PACE_MICROSECONDS);
            early_return(1000);
            break;
        case 'throw':
            thrown_and_logged();
            break;
        case 'cycle':
            cycle();
            break;
        case 'transaction':
            transaction_not_ended();
            break;
        case 'result':
            result_not_fetched();
            break;
        case 'never_used':
            never_used();
            break;
        default:
            throw new InvalidArgumentException("no shape $shape");
    }
}

/** What is kept on purpose. */
$kept = [];

$commands = [
    'leak' => fn (string $shape, string $count) => repeat($count, fn () => leak($shape)),
    'frames' => fn (string $shape, string $count) => repeat($count, function () use ($shape) {
        try {
            \Shop\Größe\frames($shape);
        } catch (LogicException) {
        }
    }),
    // The same, done right: what is kept is let go, and PDO rolls back.
    'frames_ended' => fn (string $shape, string $count) => repeat($count, function () use ($shape) {
        try {
            \Shop\Größe\frames($shape);
        } catch (LogicException) {
        }
        Registry::$kept = [];
    }),
    // A job some time later, that opens the worker's own connection.
    'later' => function () {
        usleep(LATER_MICROSECONDS);
        connection_of_the_worker()->query('select 1')->fetchColumn();
    },
    'healthy' => fn (string $count) => repeat($count, connection_of_a_job(...)),
    'persistent_pdo' => fn (string $count) => repeat($count, persistent_pdo(...)),
    'persistent_pgsql' => fn (string $count) => repeat($count, persistent_pgsql(...)),
    'transaction' => fn (string $count) => repeat($count, transaction(...)),
    'cursor' => fn (string $count) => repeat($count, cursor(...)),
    'listen' => function () use (&$kept) {
        $kept[] = listen();
    },
    'advisory_lock' => function (string $key) use (&$kept) {
        $kept[] = advisory_lock((int) $key);
    },
    'copy' => function () use (&$kept) {
        $kept[] = copy_in();
    },
    // Answered when the statement is on its way.
    'hold_query' => function (string $seconds) use (&$kept) {
        $kept[] = long_query((int) $seconds);
    },
];

printf("ready %d PHP %s, libpq %s\n", getmypid(), PHP_VERSION, PGSQL_LIBPQ_VERSION);
while (($line = fgets(STDIN)) !== false) {
    $line = rtrim($line);
    $words = explode(' ', $line);
    $verb = array_shift($words);
    if ($verb === 'quit') {
        break;
    }
    try {
        if (!isset($commands[$verb])) {
            throw new InvalidArgumentException("no command $verb");
        }
        $commands[$verb](...$words);
        echo "done $line\n";
    } catch (Throwable $error) {
        echo "error {$error->getMessage()}\n";
    }
}
