//! A client on tokio-postgres without a pool. It sends from a task of its own for each connection:
//! no stack of a send has the application's code.

use shared::{LATER, PACE, Result, Words, runtime, serve, server};
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

async fn connect() -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(&server(), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn forgotten() -> Result<()> {
    let client = connect().await?;
    client.query("select 41 + 1", &[]).await?;
    std::mem::forget(client);
    Ok(())
}

async fn transaction_not_ended() -> Result<()> {
    let client = connect().await?;
    client.batch_execute("BEGIN").await?;
    std::mem::forget(client);
    Ok(())
}

async fn never_used() -> Result<()> {
    std::mem::forget(connect().await?);
    Ok(())
}

async fn leak(shape: &str) -> Result<()> {
    match shape {
        "forgotten" => forgotten().await,
        "transaction" => transaction_not_ended().await,
        "never_used" => never_used().await,
        _ => Err(format!("no shape {shape}").into()),
    }
}

async fn request() -> Result<()> {
    connect().await?.query("select 1", &[]).await?;
    Ok(())
}

/// One connection, several queries on their way at once, and then calm.
async fn pipeline(client: &Client) -> Result<()> {
    let one = || client.query("select pg_sleep(0.01)", &[]);
    tokio::try_join!(one(), one(), one(), one(), one())?;
    Ok(())
}

async fn run(words: &Words<'_>, client: &Client) -> Result<()> {
    match words.verb() {
        "leak" => {
            for _ in 0..words.count()? {
                leak(words.shape()).await?;
                sleep(PACE).await;
                request().await?;
                sleep(PACE).await;
            }
        }
        "healthy" => {
            for _ in 0..words.count()? {
                request().await?;
                sleep(PACE).await;
            }
        }
        "pipeline" => {
            for _ in 0..words.count()? {
                pipeline(client).await?;
                sleep(PACE).await;
            }
        }
        "later" => {
            sleep(LATER).await;
            request().await?;
        }
        _ => return words.unknown(),
    }
    Ok(())
}

fn main() {
    let runtime = runtime();
    let client = runtime.block_on(connect()).expect("a server");
    serve(&["tokio-postgres", "tokio"], |words| runtime.block_on(run(words, &client)));
}
