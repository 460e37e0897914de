<?php
// Transactions left open where the line is harder to tell. Each function is the one that a report
// must name; the marked line is where.

declare(strict_types=1);

namespace Shop\Größe;

use Closure;
use Generator;
use PDO;
use Registry;

function begin(): PDO
{
    $connection = new PDO(\data_source());
    $connection->setAttribute(PDO::ATTR_EMULATE_PREPARES, true);
    $connection->beginTransaction(); // LEAK-LINE begin
    Registry::$kept[] = $connection;
    return $connection;
}

abstract class Model
{
    public static function load(): void
    {
        (new static())->läs(begin());
    }

    protected function läs(PDO $connection): void
    {
        $connection->query( // LEAK-LINE method
            'select 1',
        );
    }
}

final class Order extends Model
{
}

// Deeper than frames are copied.
function descend(PDO $connection, int $levels): void
{
    if ($levels > 0) {
        descend($connection, $levels - 1);
    } else {
        $connection->query('select 1'); // LEAK-LINE recursive
    }
}

/** A handler that lives as long as the worker. */
function handler(): Closure
{
    static $handler = null;
    return $handler ??= static function (int $id): void {
        begin()->query("select $id"); // LEAK-LINE closure
    };
}

function inner(PDO $connection): Generator
{
    $connection->query('select 1'); // LEAK-LINE generator
    yield 2;
}

function rows(): Generator
{
    yield 1;
    yield from inner(begin());
}

/** An exception leaves it, and the end of its last reference sends: that is its caller's doing. */
function thrown(): void
{
    $connection = begin();
    $statement = $connection->prepare('select 1', [PDO::ATTR_EMULATE_PREPARES => false]);
    $statement->execute();
    throw new \LogicException('no such order');
}

function frames(string $shape): void
{
    match ($shape) {
        'method' => Order::load(),
        'recursive' => descend(begin(), 70),
        'closure' => array_map(handler(), [1]),
        'generator' => iterator_to_array(rows()),
        'thrown' => thrown(), // LEAK-LINE thrown
    };
}
