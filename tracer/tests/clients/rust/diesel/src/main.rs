//! A client on Diesel, whose pool is r2d2 and whose driver is libpq. Neither says which connection a
//! checkout is of, so the line that a report must give is that of the last use: it ends in a LEAK-LINE
//! comment with the shape's name.

use std::sync::{Mutex, mpsc};
use std::thread;

use diesel::connection::SimpleConnection as _;
use diesel::r2d2::{ConnectionManager, Pool, PooledConnection};
use diesel::{Connection as _, PgConnection, QueryResult, RunQueryDsl as _, sql_query};
use shared::{LATER, PACE, Result, Words, barrier, requests, serve, server};

type Manager = ConnectionManager<PgConnection>;

/// Where a careless program keeps what it took.
static KEPT: Mutex<Vec<PooledConnection<Manager>>> = Mutex::new(Vec::new());

fn pool(min_idle: u32, max_size: u32) -> Result<Pool<Manager>> {
    let manager = Manager::new(server());
    Ok(Pool::builder().max_size(max_size).min_idle(Some(min_idle)).build(manager)?)
}

fn forgotten(pool: &Pool<Manager>) -> Result<()> {
    let mut conn = pool.get()?;
    sql_query("select 41 + 1").execute(&mut conn)?; // LEAK-LINE forgotten
    std::mem::forget(conn);
    Ok(())
}

fn kept(pool: &Pool<Manager>) -> Result<()> {
    let mut conn = pool.get()?;
    sql_query("select 41 + 1").execute(&mut conn)?; // LEAK-LINE kept
    KEPT.lock().expect("not poisoned").push(conn);
    Ok(())
}

fn transaction_not_ended(pool: &Pool<Manager>) -> Result<()> {
    let mut conn = pool.get()?;
    conn.batch_execute("BEGIN")?; // LEAK-LINE transaction
    std::mem::forget(conn);
    Ok(())
}

/// A thread that never ends holds it, waiting for a call of another service.
fn thread_never_ends(pool: &Pool<Manager>) -> Result<()> {
    let pool = pool.clone();
    let (used, is_used) = mpsc::channel();
    thread::spawn(move || {
        let mut conn = pool.get()?;
        sql_query("select 41 + 1").execute(&mut conn)?; // LEAK-LINE thread
        used.send(())?;
        // The answer does not come.
        thread::park();
        Result::Ok(())
    });
    Ok(is_used.recv()?)
}

fn leak(shape: &str, pool: &Pool<Manager>) -> Result<()> {
    match shape {
        "forgotten" => forgotten(pool),
        "kept" => kept(pool),
        "transaction" => transaction_not_ended(pool),
        "thread" => thread_never_ends(pool),
        _ => Err(format!("no shape {shape}").into()),
    }
}

fn request(pool: &Pool<Manager>) -> Result<()> {
    sql_query("select 1").execute(&mut pool.get()?)?;
    Ok(())
}

/// Committed, or rolled back by an error.
fn transaction(pool: &Pool<Manager>, commit: bool) -> Result<()> {
    let ended: QueryResult<usize> = pool.get()?.transaction(|conn| {
        sql_query("select 1").execute(conn)?;
        if commit { Ok(1) } else { Err(diesel::result::Error::RollbackTransaction) }
    });
    if ended.is_ok() == commit { Ok(()) } else { Err("the transaction did not end so".into()) }
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

/// So many in use at once.
fn burst(pool: &Pool<Manager>, count: u64) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut conn = pool.get()?;
        sql_query("select 1").execute(&mut conn)?;
        held.push(conn);
    }
    Ok(())
}

fn run(words: &Words<'_>, pool: &Pool<Manager>) -> Result<()> {
    if let Some(done) = requests(words, |shape| leak(shape, pool), || request(pool)) {
        return done;
    }
    match words.verb() {
        "transactions" => {
            for index in 0..words.count()? {
                transaction(pool, index % 2 == 0)?;
                thread::sleep(PACE);
            }
        }
        "threads" => threads(pool, words.count()?)?,
        "burst" => burst(pool, words.count()?)?,
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
    serve(&["diesel", "r2d2", "pq-sys"], |words| run(words, &pool));
}
