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

async fn returned_in_transaction(pool: &PgPool) -> Result<()> {
    let conn = pool.get().await?; // LEAK-LINE returned
    conn.batch_execute("BEGIN").await?;
    Ok(())
}

async fn leak(shape: &str, pool: &PgPool, outside: &Outside) -> Result<()> {
    match shape {
        "forgotten" => forgotten(pool).await,
        "task" => task_never_ends(pool.clone(), outside).await,
        "transaction" => transaction_not_ended(pool).await,
        "returned" => returned_in_transaction(pool).await,
        _ => Err(format!("no shape {shape}").into()),
    }
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
        "cancelled" => {
            for _ in 0..words.count()? {
                cancelled(pool, outside).await?;
                sleep(PACE).await;
            }
        }
        "burst" => burst(pool, words.count()?).await?,
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
