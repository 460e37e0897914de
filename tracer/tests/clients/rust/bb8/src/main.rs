//! A client on bb8-postgres. The line that takes a leaked connection ends in a LEAK-LINE comment
//! with the shape's name.

use bb8::Pool;
use bb8_postgres::PostgresConnectionManager;
use shared::{LATER, Outside, PACE, Result, Words, answer, runtime, serve, server};
use tokio::time::sleep;
use tokio_postgres::NoTls;

type PgPool = Pool<PostgresConnectionManager<NoTls>>;

async fn pool(min_idle: u32) -> Result<PgPool> {
    let manager = PostgresConnectionManager::new(server().parse()?, NoTls);
    Ok(Pool::builder().max_size(60).min_idle(min_idle).build(manager).await?)
}

async fn forgotten(pool: &PgPool) -> Result<()> {
    let conn = pool.get().await?; // LEAK-LINE forgotten
    conn.query("select 41 + 1", &[]).await?;
    std::mem::forget(conn);
    Ok(())
}

async fn task_never_ends(pool: PgPool, outside: &Outside) -> Result<()> {
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

async fn transaction_not_ended(pool: &PgPool) -> Result<()> {
    let conn = pool.get().await?; // LEAK-LINE transaction
    conn.batch_execute("BEGIN").await?;
    std::mem::forget(conn);
    Ok(())
}

async fn never_used(pool: &PgPool) -> Result<()> {
    std::mem::forget(pool.get().await?); // LEAK-LINE never_used
    Ok(())
}

async fn pool_for_a_request() -> Result<()> {
    let pool = pool(0).await?;
    pool.get().await?.query("select 41 + 1", &[]).await?; // LEAK-LINE pool
    std::mem::forget(pool);
    Ok(())
}

/// So many given back at once, each inside a transaction that nothing ends.
async fn returned_in_transaction(pool: &PgPool, count: u64) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..count {
        let conn = pool.get().await?; // LEAK-LINE returned
        conn.batch_execute("BEGIN").await?;
        held.push(conn);
    }
    Ok(())
}

async fn leak(shape: &str, pool: &PgPool, outside: &Outside) -> Result<()> {
    match shape {
        "forgotten" => forgotten(pool).await,
        "task" => task_never_ends(pool.clone(), outside).await,
        "transaction" => transaction_not_ended(pool).await,
        "never_used" => never_used(pool).await,
        "pool" => pool_for_a_request().await,
        _ => Err(format!("no shape {shape}").into()),
    }
}

/// A pool of its own, gone with its connection at the end.
async fn pool_dropped() -> Result<()> {
    pool(0).await?.get().await?.query("select 1", &[]).await?;
    Ok(())
}

/// Held while another service is asked, which answers soon.
async fn outside_short(pool: &PgPool) -> Result<()> {
    let conn = pool.get().await?;
    conn.query("select 1", &[]).await?;
    sleep(PACE).await;
    conn.query("select 2", &[]).await?;
    Ok(())
}

async fn unused(pool: &PgPool) -> Result<()> {
    drop(pool.get().await?);
    Ok(())
}

/// Drop gives back what an early return would lose elsewhere.
async fn early_return(pool: &PgPool) -> Result<()> {
    let conn = pool.get().await?;
    if conn.query("select 1", &[]).await?.len() != 43 {
        return Err("no such order".into());
    }
    conn.query("select 2", &[]).await?;
    Ok(())
}

async fn transaction(pool: &PgPool, commit: bool) -> Result<()> {
    let mut conn = pool.get().await?;
    let tx = conn.transaction().await?;
    tx.query("select 1", &[]).await?;
    if commit {
        tx.commit().await?;
    }
    Ok(())
}

async fn request(pool: &PgPool) -> Result<()> {
    pool.get().await?.query("select 1", &[]).await?;
    Ok(())
}

/// A task that is cancelled while it holds a connection.
async fn cancelled(pool: &PgPool, outside: &Outside) -> Result<()> {
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

async fn burst(pool: &PgPool, count: u64) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..count {
        let conn = pool.get().await?;
        conn.query("select 1", &[]).await?;
        held.push(conn);
    }
    Ok(())
}

async fn run(words: &Words<'_>, pool: &PgPool, outside: &Outside) -> Result<()> {
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
        "healthy" => {
            for _ in 0..words.count()? {
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
        "prefill" => {
            let filled = self::pool(u32::try_from(words.count()?)?).await?;
            request(&filled).await?;
            std::mem::forget(filled);
        }
        // Beside the pool.
        "dedicated" => {
            let client = pool.dedicated_connection().await?;
            client.query("select 1", &[]).await?;
            std::mem::forget(client);
        }
        _ => return words.unknown(),
    }
    Ok(())
}

fn main() {
    let runtime = runtime();
    let outside = runtime.block_on(Outside::start()).expect("a port");
    let pool = runtime.block_on(pool(0)).expect("a pool");
    serve(&["bb8", "bb8-postgres", "tokio-postgres"], |words| {
        runtime.block_on(run(words, &pool, &outside))
    });
}
