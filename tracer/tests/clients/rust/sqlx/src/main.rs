//! A client on sqlx's pool. The line that a report must give for a shape ends in a LEAK-LINE
//! comment with its name: that of the last use, for the pool's checkouts are not observed.

use std::sync::Mutex;
use std::time::Duration;

use shared::{LATER, Outside, PACE, Result, Words, answer, runtime, serve, server};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolCopyExt as _, PgPoolOptions};
use sqlx::{Connection as _, Executor as _, PgPool, Postgres};
use tokio::time::sleep;

/// Where a careless program keeps what it took.
static KEPT: Mutex<Vec<PoolConnection<Postgres>>> = Mutex::new(Vec::new());

fn options() -> Result<PgConnectOptions> {
    let mut options = PgConnectOptions::new();
    for parameter in server().split(' ') {
        let (name, value) = parameter.split_once('=').ok_or("no server")?;
        options = match name {
            "host" => options.host(value),
            "port" => options.port(value.parse()?),
            "user" => options.username(value),
            _ => options.database(value),
        };
    }
    Ok(options)
}

async fn forgotten(pool: &PgPool) -> Result<()> {
    let mut conn = pool.acquire().await?;
    sqlx::query("select 41 + 1").execute(&mut *conn).await?; // LEAK-LINE forgotten
    std::mem::forget(conn);
    Ok(())
}

async fn kept(pool: &PgPool) -> Result<()> {
    let mut conn = pool.acquire().await?;
    sqlx::query("select 41 + 1").execute(&mut *conn).await?; // LEAK-LINE kept
    KEPT.lock().expect("not poisoned").push(conn);
    Ok(())
}

async fn task_never_ends(pool: PgPool, outside: &Outside) -> Result<()> {
    let call = outside.call().await?;
    let (used, is_used) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut conn = pool.acquire().await?;
        sqlx::query("select 41 + 1").execute(&mut *conn).await?; // LEAK-LINE task
        used.send(()).map_err(|()| "nobody waits")?;
        answer(&call).await
    });
    Ok(is_used.await?)
}

async fn transaction_not_ended(pool: &PgPool) -> Result<()> {
    let mut conn = pool.acquire().await?;
    conn.execute("BEGIN").await?; // LEAK-LINE transaction
    std::mem::forget(conn);
    Ok(())
}

async fn never_used(pool: &PgPool) -> Result<()> {
    std::mem::forget(pool.acquire().await?);
    Ok(())
}

/// So many given back at once, each inside a transaction that nothing ends.
async fn returned_in_transaction(pool: &PgPool, count: u64) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut conn = pool.acquire().await?;
        conn.execute("BEGIN").await?; // LEAK-LINE returned
        held.push(conn);
    }
    Ok(())
}

async fn pool_for_a_request() -> Result<()> {
    let pool = PgPoolOptions::new().connect_lazy_with(options()?);
    sqlx::query("select 41 + 1").execute(&pool).await?; // LEAK-LINE pool
    std::mem::forget(pool);
    Ok(())
}

async fn leak(shape: &str, pool: &PgPool, outside: &Outside) -> Result<()> {
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

/// A pool of its own, closed at the end.
async fn pool_closed() -> Result<()> {
    let pool = PgPoolOptions::new().connect_with(options()?).await?;
    sqlx::query("select 1").execute(&pool).await?;
    pool.close().await;
    Ok(())
}

/// Held while another service is asked, which answers soon.
async fn outside_short(pool: &PgPool) -> Result<()> {
    let mut conn = pool.acquire().await?;
    sqlx::query("select 1").execute(&mut *conn).await?;
    sleep(PACE).await;
    sqlx::query("select 2").execute(&mut *conn).await?;
    Ok(())
}

async fn unused(pool: &PgPool) -> Result<()> {
    drop(pool.acquire().await?);
    Ok(())
}

async fn request(pool: &PgPool) -> Result<()> {
    let mut conn = pool.acquire().await?;
    sqlx::query("select 1").execute(&mut *conn).await?;
    Ok(())
}

/// Drop gives back what an early return would lose elsewhere.
async fn early_return(pool: &PgPool) -> Result<()> {
    let mut conn = pool.acquire().await?;
    let found = sqlx::query("select 1").execute(&mut *conn).await?;
    if found.rows_affected() != 43 {
        return Err("no such order".into());
    }
    sqlx::query("select 2").execute(&mut *conn).await?;
    Ok(())
}

async fn transaction(pool: &PgPool, commit: bool) -> Result<()> {
    let mut tx = pool.begin().await?;
    sqlx::query("select 1").execute(&mut *tx).await?;
    if commit {
        tx.commit().await?;
    }
    Ok(())
}

/// Tasks that are cancelled while they hold a connection.
async fn cancelled(pool: &PgPool, outside: &Outside) -> Result<()> {
    let (call, pool) = (outside.call().await?, pool.clone());
    let (used, is_used) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let mut conn = pool.acquire().await?;
        sqlx::query("select 1").execute(&mut *conn).await?;
        used.send(()).map_err(|()| "nobody waits")?;
        answer(&call).await
    });
    is_used.await?;
    task.abort();
    Ok(())
}

/// So many connections at once, each used and then dropped.
async fn burst(pool: &PgPool, count: u64) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut conn = pool.acquire().await?;
        sqlx::query("select 1").execute(&mut *conn).await?;
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
        "pool_closed" => {
            for _ in 0..words.count()? {
                pool_closed().await?;
                sleep(PACE).await;
            }
        }
        "returned" => returned_in_transaction(pool, words.count()?).await?,
        "early_return" => {
            for _ in 0..words.count()? {
                early_return(pool).await.err().ok_or("the error path was not taken")?;
                sleep(PACE).await;
            }
        }
        "transactions" => {
            for index in 0..words.count()? {
                transaction(pool, index % 2 == 0).await?;
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
        "later" => sleep(LATER).await,
        "overlap" => {
            sleep(LATER).await;
            burst(pool, words.count()?).await?;
        }
        "prefill" => {
            let count = u32::try_from(words.count()?)?;
            let filled = PgPoolOptions::new().min_connections(count).max_connections(60);
            let filled = filled.connect_with(options()?).await?;
            while filled.size() < count {
                tokio::task::yield_now().await;
            }
            request(&filled).await?;
            std::mem::forget(filled);
        }
        "listen" => {
            let mut listener = PgListener::connect_with(pool).await?;
            listener.listen("orders").await?;
            tokio::spawn(async move { listener.recv().await.map(drop) });
        }
        "copy" => {
            let mut copy = pool.copy_in_raw("copy pg_temp.t from stdin").await;
            if copy.is_err() {
                pool.execute("create table if not exists public.t (n int)").await?;
                copy = pool.copy_in_raw("copy public.t from stdin").await;
            }
            let mut copy = copy?;
            copy.send("1\n".as_bytes()).await?;
            tokio::spawn(async move {
                sleep(Duration::from_secs(3600)).await;
                copy.abort("late").await
            });
        }
        // One connection for good, without a pool.
        "single" => {
            let mut conn = sqlx::PgConnection::connect_with(&options()?).await?;
            sqlx::query("select 1").execute(&mut conn).await?;
            std::mem::forget(conn);
        }
        "hold_query" => {
            let mut conn = pool.acquire().await?;
            let query = format!("select pg_sleep({})", words.count()?);
            tokio::spawn(async move { conn.execute(&*query).await.map(drop) });
            sleep(PACE).await;
        }
        _ => return words.unknown(),
    }
    Ok(())
}

fn main() {
    let runtime = runtime();
    let outside = runtime.block_on(Outside::start()).expect("a port");
    let pool = {
        let _inside = runtime.enter();
        PgPoolOptions::new().max_connections(60).connect_lazy_with(options().expect("a server"))
    };
    serve(&["sqlx", "tokio"], |words| runtime.block_on(run(words, &pool, &outside)));
}
