//! A client on r2d2 with the synchronous driver. The line that takes a leaked connection ends in a
//! LEAK-LINE comment with the shape's name.

use std::sync::Mutex;
use std::thread;

use postgres::NoTls;
use r2d2::{Pool, PooledConnection};
use r2d2_postgres::PostgresConnectionManager;
use shared::{LATER, PACE, Result, Words, barrier, serve, server};

type Manager = PostgresConnectionManager<NoTls>;

/// Where a careless program keeps what it took.
static KEPT: Mutex<Vec<PooledConnection<Manager>>> = Mutex::new(Vec::new());

fn pool(min_idle: u32, max_size: u32) -> Result<Pool<Manager>> {
    let manager = Manager::new(server().parse()?, NoTls);
    Ok(Pool::builder().max_size(max_size).min_idle(Some(min_idle)).build(manager)?)
}

fn forgotten(pool: &Pool<Manager>) -> Result<()> {
    let mut conn = pool.get()?; // LEAK-LINE forgotten
    conn.query("select 41 + 1", &[])?;
    std::mem::forget(conn);
    Ok(())
}

fn kept(pool: &Pool<Manager>) -> Result<()> {
    let mut conn = pool.get()?; // LEAK-LINE kept
    conn.query("select 41 + 1", &[])?;
    KEPT.lock().expect("not poisoned").push(conn);
    Ok(())
}

fn transaction_not_ended(pool: &Pool<Manager>) -> Result<()> {
    let mut conn = pool.get()?; // LEAK-LINE transaction
    conn.batch_execute("BEGIN")?;
    std::mem::forget(conn);
    Ok(())
}

fn returned_in_transaction(pool: &Pool<Manager>) -> Result<()> {
    let mut conn = pool.get()?; // LEAK-LINE returned
    conn.batch_execute("BEGIN")?;
    Ok(())
}

fn leak(shape: &str, pool: &Pool<Manager>) -> Result<()> {
    match shape {
        "forgotten" => forgotten(pool),
        "kept" => kept(pool),
        "transaction" => transaction_not_ended(pool),
        "returned" => returned_in_transaction(pool),
        _ => Err(format!("no shape {shape}").into()),
    }
}

fn request(pool: &Pool<Manager>) -> Result<()> {
    pool.get()?.query("select 1", &[])?;
    Ok(())
}

fn burst(pool: &Pool<Manager>, count: u64) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut conn = pool.get()?;
        conn.query("select 1", &[])?;
        held.push(conn);
    }
    Ok(())
}

/// Requests of several threads at a time.
fn threads(pool: &Pool<Manager>, count: u64) -> Result<()> {
    let barrier = barrier(count)?;
    let request = || {
        let (pool, barrier) = (pool.clone(), barrier.clone());
        thread::spawn(move || {
            barrier.wait();
            request(&pool)
        })
    };
    let threads: Vec<_> = (0..count).map(|_| request()).collect();
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
}

fn run(words: &Words<'_>, pool: &Pool<Manager>) -> Result<()> {
    match words.verb() {
        "leak" => {
            for _ in 0..words.count()? {
                leak(words.shape(), pool)?;
                thread::sleep(PACE);
                // A healthy request follows.
                request(pool)?;
                thread::sleep(PACE);
            }
        }
        "healthy" => {
            for _ in 0..words.count()? {
                request(pool)?;
                thread::sleep(PACE);
            }
        }
        "burst" => burst(pool, words.count()?)?,
        "threads" => threads(pool, words.count()?)?,
        "overlap" => {
            thread::sleep(LATER);
            burst(pool, words.count()?)?;
        }
        // What r2d2 does by default: as many as it may have, from the beginning.
        "prefill" => {
            let count = u32::try_from(words.count()?)?;
            let filled = self::pool(count, count)?;
            request(&filled)?;
            std::mem::forget(filled);
        }
        _ => return words.unknown(),
    }
    Ok(())
}

fn main() {
    let pool = pool(0, 60).expect("a pool");
    serve(&["r2d2", "r2d2_postgres", "postgres"], |words| run(words, &pool));
}
