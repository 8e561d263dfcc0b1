//! The kinds of load. Any message that is not answered as it should be fails the whole.

use std::io::{Read as _, Result as IoResult};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::task::JoinSet;

use crate::client::{Client, is_refusal};
use crate::tally::{Tally, ready};

/// How many connects of [`hold`] are under way at a time: no backlog is to overflow.
const HOLD_AT_A_TIME: usize = 64;

/// Closed loop: each of `connections` sends when it was answered; with `new`, each message on a connection of its own.
pub(crate) async fn exchange(
    client: Client,
    connections: usize,
    new: bool,
    duration: Duration,
) -> Result<Tally> {
    let client = Arc::new(client);
    let mut open = Vec::new();
    if !new {
        for _ in 0..connections {
            let mut connection = client.connect().await?;
            client.exchange(&mut connection).await?;
            open.push(connection);
        }
    }
    ready()?;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let client = Arc::clone(&client);
        let mut connection = open.pop();
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while start.elapsed() < duration {
                let sent = Instant::now();
                match &mut connection {
                    Some(connection) => client.exchange(connection).await?,
                    None => client.once().await?,
                }
                latencies.push(sent.elapsed());
            }
            IoResult::Ok(latencies)
        });
    }
    Ok(Tally::new(start, gather(tasks).await?))
}

/// All at once.
pub(crate) async fn storm(client: Client, connections: usize) -> Result<Tally> {
    let client = Arc::new(client);
    ready()?;
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for _ in 0..connections {
        let client = Arc::clone(&client);
        tasks.spawn(async move {
            client.once().await?;
            Ok(vec![start.elapsed()])
        });
    }
    Ok(Tally::new(start, gather(tasks).await?))
}

/// Closed loop; every connect must be refused.
pub(crate) async fn refused(
    client: Client,
    connections: usize,
    duration: Duration,
) -> Result<Tally> {
    let client = Arc::new(client);
    ready()?;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let client = Arc::clone(&client);
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while start.elapsed() < duration {
                let begun = Instant::now();
                match client.once().await {
                    Err(error) if is_refusal(&error) => latencies.push(begun.elapsed()),
                    Err(error) => return Err(error),
                    Ok(()) => return Err(std::io::Error::other("answered, and not refused")),
                }
            }
            Ok(latencies)
        });
    }
    Ok(Tally::new(start, gather(tasks).await?))
}

/// Says how many are held once all are.
pub(crate) async fn hold(client: Client, connections: usize) -> Result<()> {
    let client = Arc::new(client);
    let mut held = Vec::new();
    while held.len() < connections {
        let mut tasks = JoinSet::new();
        for _ in 0..HOLD_AT_A_TIME.min(connections - held.len()) {
            let client = Arc::clone(&client);
            tasks.spawn(async move {
                let mut connection = client.connect().await?;
                client.exchange(&mut connection).await?;
                IoResult::Ok(connection)
            });
        }
        while let Some(connection) = tasks.join_next().await {
            let so_far = held.len();
            held.push(connection?.with_context(|| format!("after {so_far} connections"))?);
        }
    }
    println!("{}", held.len());
    std::io::stdin().read_to_end(&mut Vec::new())?; // nothing else is to go on meanwhile
    for connection in &mut held {
        client
            .exchange(connection)
            .await
            .context("after the rest")?;
    }
    Ok(())
}

/// Of all tasks; at least one.
async fn gather(mut tasks: JoinSet<IoResult<Vec<Duration>>>) -> Result<Vec<Duration>> {
    let mut all = Vec::new();
    while let Some(latencies) = tasks.join_next().await {
        all.extend(latencies??);
    }
    if all.is_empty() {
        bail!("nothing was answered");
    }
    Ok(all)
}
