//! A client on r2d2 with the synchronous driver. The line that takes a leaked connection ends in a
//! LEAK-LINE comment with the shape's name.

use std::sync::{Mutex, mpsc};
use std::thread;

use postgres::NoTls;
use r2d2::{Pool, PooledConnection};
use r2d2_postgres::PostgresConnectionManager;
use shared::{LATER, PACE, Result, Words, barrier, requests, serve, server};

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

fn never_used(pool: &Pool<Manager>) -> Result<()> {
    std::mem::forget(pool.get()?); // LEAK-LINE never_used
    Ok(())
}

fn pool_for_a_request() -> Result<()> {
    // As by default, but for the number.
    let pool = pool(2, 2)?;
    pool.get()?.query("select 41 + 1", &[])?; // LEAK-LINE pool
    std::mem::forget(pool);
    Ok(())
}

/// A thread that never ends holds it, waiting for a call of another service.
fn thread_never_ends(pool: &Pool<Manager>) -> Result<()> {
    let pool = pool.clone();
    let (used, is_used) = mpsc::channel();
    thread::spawn(move || {
        let mut conn = pool.get()?; // LEAK-LINE thread
        conn.query("select 41 + 1", &[])?;
        used.send(())?;
        // The answer does not come.
        thread::park();
        Result::Ok(())
    });
    Ok(is_used.recv()?)
}

/// So many given back at once, each inside a transaction that nothing ends.
fn returned_in_transaction(pool: &Pool<Manager>, count: u64) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut conn = pool.get()?; // LEAK-LINE returned
        conn.batch_execute("BEGIN")?;
        held.push(conn);
    }
    Ok(())
}

fn leak(shape: &str, pool: &Pool<Manager>) -> Result<()> {
    match shape {
        "forgotten" => forgotten(pool),
        "kept" => kept(pool),
        "transaction" => transaction_not_ended(pool),
        "never_used" => never_used(pool),
        "pool" => pool_for_a_request(),
        "thread" => thread_never_ends(pool),
        _ => Err(format!("no shape {shape}").into()),
    }
}

/// A pool of its own, gone with its connection at the end.
fn pool_dropped() -> Result<()> {
    pool(0, 10)?.get()?.query("select 1", &[])?;
    Ok(())
}

/// Held while another service is asked, which answers soon.
fn outside_short(pool: &Pool<Manager>) -> Result<()> {
    let mut conn = pool.get()?;
    conn.query("select 1", &[])?;
    thread::sleep(PACE);
    conn.query("select 2", &[])?;
    Ok(())
}

fn unused(pool: &Pool<Manager>) -> Result<()> {
    drop(pool.get()?);
    Ok(())
}

/// Drop gives back what an early return would lose elsewhere.
fn early_return(pool: &Pool<Manager>) -> Result<()> {
    let mut conn = pool.get()?;
    if conn.query("select 1", &[])?.len() != 43 {
        return Err("no such order".into());
    }
    conn.query("select 2", &[])?;
    Ok(())
}

fn transaction(pool: &Pool<Manager>, commit: bool) -> Result<()> {
    let mut conn = pool.get()?;
    let mut tx = conn.transaction()?;
    tx.query("select 1", &[])?;
    if commit {
        tx.commit()?;
    }
    Ok(())
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

/// So many threads that make one request after the other until the end; returns when each has begun.
fn load(pool: &Pool<Manager>, count: u64) -> Result<()> {
    let barrier = barrier(count + 1)?;
    for _ in 0..count {
        let (pool, barrier) = (pool.clone(), barrier.clone());
        thread::spawn(move || {
            barrier.wait();
            loop {
                // A pool without a connection says so after a while.
                if let Ok(mut conn) = pool.get() {
                    drop(conn.query("select pg_sleep(0.02)", &[]));
                }
            }
        });
    }
    barrier.wait();
    Ok(())
}

/// Holds one while the server works; answered when it does.
fn hold_query(pool: &Pool<Manager>, seconds: u64) -> Result<()> {
    let pool = pool.clone();
    let (taken, is_taken) = mpsc::channel();
    thread::spawn(move || {
        let mut conn = pool.get()?;
        taken.send(())?;
        conn.batch_execute(&format!("select pg_sleep({seconds})"))?;
        Result::Ok(())
    });
    Ok(is_taken.recv()?)
}

fn run(words: &Words<'_>, pool: &Pool<Manager>) -> Result<()> {
    if let Some(done) = requests(words, |shape| leak(shape, pool), || request(pool)) {
        return done;
    }
    match words.verb() {
        "outside_short" => {
            for _ in 0..words.count()? {
                outside_short(pool)?;
                thread::sleep(PACE);
            }
        }
        "unused" => {
            for _ in 0..words.count()? {
                unused(pool)?;
                thread::sleep(PACE);
            }
        }
        "pool_dropped" => {
            for _ in 0..words.count()? {
                pool_dropped()?;
                thread::sleep(PACE);
            }
        }
        "returned" => returned_in_transaction(pool, words.count()?)?,
        "early_return" => {
            for _ in 0..words.count()? {
                early_return(pool).err().ok_or("the error path was not taken")?;
            }
        }
        "transactions" => {
            for index in 0..words.count()? {
                transaction(pool, index % 2 == 0)?;
            }
        }
        "burst" => burst(pool, words.count()?)?,
        "threads" => threads(pool, words.count()?)?,
        "load" => load(pool, words.count()?)?,
        "hold_query" => hold_query(pool, words.count()?)?,
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
    let max_size = std::env::args().nth(1).map_or(60, |size| size.parse().expect("a number"));
    let pool = pool(0, max_size).expect("a pool");
    serve(&["r2d2", "r2d2_postgres", "postgres"], |words| run(words, &pool));
}
