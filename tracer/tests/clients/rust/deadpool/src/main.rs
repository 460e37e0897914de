//! A client on deadpool-postgres. The line that takes a leaked connection ends in a LEAK-LINE
//! comment with the shape's name.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use deadpool_postgres::{Manager, Object, Pool};
use futures_util::SinkExt as _;
use shared::{LATER, Outside, PACE, Result, Words, answer, runtime, serve, server};
use tokio::time::sleep;
use tokio_postgres::NoTls;

/// Where a careless program keeps what it took.
static KEPT: Mutex<Vec<Object>> = Mutex::new(Vec::new());

fn pool() -> Result<Pool> {
    let manager = Manager::new(server().parse()?, NoTls);
    Ok(Pool::builder(manager).max_size(60).build()?)
}

async fn forgotten(pool: &Pool) -> Result<()> {
    let conn = pool.get().await?; // LEAK-LINE forgotten
    conn.query("select 41 + 1", &[]).await?;
    std::mem::forget(conn);
    Ok(())
}

async fn kept(pool: &Pool) -> Result<()> {
    let conn = pool.get().await?; // LEAK-LINE kept
    conn.query("select 41 + 1", &[]).await?;
    KEPT.lock().expect("not poisoned").push(conn);
    Ok(())
}

async fn task_never_ends(pool: Pool, outside: &Outside) -> Result<()> {
    let call = outside.call().await?;
    let (used, is_used) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let conn = pool.get().await?; // LEAK-LINE task
        conn.query("select 41 + 1", &[]).await?;
        used.send(()).map_err(|()| "nobody waits")?;
        answer(&call).await
    });
    Ok(is_used.await?)
}

async fn transaction_not_ended(pool: &Pool) -> Result<()> {
    let conn = pool.get().await?; // LEAK-LINE transaction
    conn.batch_execute("BEGIN").await?;
    std::mem::forget(conn);
    Ok(())
}

async fn never_used(pool: &Pool) -> Result<()> {
    std::mem::forget(pool.get().await?); // LEAK-LINE never_used
    Ok(())
}

/// So many given back at once, each inside a transaction that nothing ends.
async fn returned_in_transaction(pool: &Pool, count: u64) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..count {
        let conn = pool.get().await?; // LEAK-LINE returned
        conn.batch_execute("BEGIN").await?;
        held.push(conn);
    }
    Ok(())
}

async fn pool_for_a_request() -> Result<()> {
    let pool = pool()?;
    pool.get().await?.query("select 41 + 1", &[]).await?; // LEAK-LINE pool
    std::mem::forget(pool);
    Ok(())
}

async fn leak(shape: &str, pool: &Pool, outside: &Outside) -> Result<()> {
    match shape {
        "forgotten" => forgotten(pool).await,
        "kept" => kept(pool).await,
        "task" => task_never_ends(pool.clone(), outside).await,
        "transaction" => transaction_not_ended(pool).await,
        "never_used" => never_used(pool).await,
        "pool" => pool_for_a_request().await,
        _ => Err(format!("no shape {shape}").into()),
    }
}

/// A pool of its own, gone with its connection at the end.
async fn pool_dropped() -> Result<()> {
    pool()?.get().await?.query("select 1", &[]).await?;
    Ok(())
}

/// Held while another service is asked, which answers soon.
async fn outside_short(pool: &Pool) -> Result<()> {
    let conn = pool.get().await?;
    conn.query("select 1", &[]).await?;
    sleep(PACE).await;
    conn.query("select 2", &[]).await?;
    Ok(())
}

async fn unused(pool: &Pool) -> Result<()> {
    drop(pool.get().await?);
    Ok(())
}

async fn request(pool: &Pool) -> Result<()> {
    pool.get().await?.query("select 1", &[]).await?;
    Ok(())
}

/// Drop gives back what an early return would lose elsewhere.
async fn early_return(pool: &Pool) -> Result<()> {
    let conn = pool.get().await?;
    if conn.query("select 1", &[]).await?.len() != 43 {
        return Err("no such order".into());
    }
    conn.query("select 2", &[]).await?;
    Ok(())
}

async fn transaction(pool: &Pool, commit: bool) -> Result<()> {
    let mut conn = pool.get().await?;
    let tx = conn.transaction().await?;
    tx.query("select 1", &[]).await?;
    if commit {
        tx.commit().await?;
    }
    Ok(())
}

/// A task that is cancelled while it holds a connection.
async fn cancelled(pool: &Pool, outside: &Outside) -> Result<()> {
    let (call, pool) = (outside.call().await?, pool.clone());
    let (used, is_used) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let conn = pool.get().await?;
        conn.query("select 1", &[]).await?;
        used.send(()).map_err(|()| "nobody waits")?;
        answer(&call).await
    });
    is_used.await?;
    task.abort();
    Ok(())
}

async fn burst(pool: &Pool, count: u64) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..count {
        let conn = pool.get().await?;
        conn.query("select 1", &[]).await?;
        held.push(conn);
    }
    Ok(())
}

async fn run(words: &Words<'_>, pool: &Pool, outside: &Outside) -> Result<()> {
    match words.verb() {
        "leak" => {
            for _ in 0..words.count()? {
                leak(words.shape(), pool, outside).await?;
                sleep(PACE).await;
                // A healthy request follows.
                request(pool).await?;
                sleep(PACE).await;
            }
        }
        "leak_alone" => {
            for _ in 0..words.count()? {
                leak(words.shape(), pool, outside).await?;
                sleep(PACE).await;
            }
        }
        "healthy" => {
            for _ in 0..words.count()? {
                request(pool).await?;
                sleep(PACE).await;
            }
        }
        "outside_short" => {
            for _ in 0..words.count()? {
                outside_short(pool).await?;
                sleep(PACE).await;
            }
        }
        "unused" => {
            for _ in 0..words.count()? {
                unused(pool).await?;
                sleep(PACE).await;
            }
        }
        "pool_dropped" => {
            for _ in 0..words.count()? {
                pool_dropped().await?;
                sleep(PACE).await;
            }
        }
        "returned" => returned_in_transaction(pool, words.count()?).await?,
        "early_return" => {
            for _ in 0..words.count()? {
                early_return(pool).await.err().ok_or("the error path was not taken")?;
            }
        }
        "transactions" => {
            for index in 0..words.count()? {
                transaction(pool, index % 2 == 0).await?;
            }
        }
        "cancelled" => {
            for _ in 0..words.count()? {
                cancelled(pool, outside).await?;
                sleep(PACE).await;
            }
        }
        "burst" => burst(pool, words.count()?).await?,
        "later" => sleep(LATER).await,
        "overlap" => {
            sleep(LATER).await;
            burst(pool, words.count()?).await?;
        }
        // Taken out of the pool, for good and on purpose.
        "taken" => {
            let client = Object::take(pool.get().await?);
            client.query("select 1", &[]).await?;
            std::mem::forget(client);
        }
        "listen" => {
            let conn = pool.get().await?;
            conn.batch_execute("LISTEN orders").await?;
            std::mem::forget(conn);
        }
        "copy" => {
            let conn = pool.get().await?;
            conn.batch_execute("create temp table t (n int)").await?;
            let mut copy = Box::pin(conn.copy_in::<_, Bytes>("copy t from stdin").await?);
            copy.send(Bytes::from_static(b"1\n")).await?;
            copy.flush().await?;
            tokio::spawn(async move {
                sleep(Duration::from_secs(3600)).await;
                drop((copy, conn));
            });
        }
        "hold_query" => {
            let conn = pool.get().await?;
            let query = format!("select pg_sleep({})", words.count()?);
            tokio::spawn(async move { conn.batch_execute(&query).await });
            sleep(PACE).await;
        }
        _ => return words.unknown(),
    }
    Ok(())
}

fn main() {
    let runtime = runtime();
    let outside = runtime.block_on(Outside::start()).expect("a port");
    let pool = pool().expect("a pool");
    serve(&["deadpool-postgres", "deadpool", "tokio-postgres"], |words| {
        runtime.block_on(run(words, &pool, &outside))
    });
}
