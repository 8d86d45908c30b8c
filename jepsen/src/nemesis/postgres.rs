//! The database goes away and comes back, or another one takes its place.

use std::time::Duration;

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::{Injected, Nemesis, Site, lasting};
use crate::postgres::Server;

/// How long a server that is there may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

pub(super) async fn away(fault: Nemesis, site: &mut Site, chance: &mut StdRng) -> anyhow::Result<Injected> {
    let away_for = lasting(chance, 200..5000);
    let begun = site.begin(fault, json!({"seconds": away_for.as_secs_f64()}));
    match fault {
        Nemesis::PostgresKill => site.postgres.kill().await?,
        Nemesis::PostgresPause => site.postgres.pause()?,
        _ => site.postgres.stop().await?,
    }
    tokio::time::sleep(away_for).await;
    ensure!(!answers(&site.postgres).await?, "the database still answers");
    match fault {
        Nemesis::PostgresPause => site.postgres.resume()?,
        _ => site.postgres.restart().await?,
    }
    Ok(site.end(begun, format!("no answer for {:.1} s", away_for.as_secs_f64())))
}

/// Whether a new connection is answered.
async fn answers(server: &Server) -> anyhow::Result<bool> {
    let options: PgConnectOptions = server.url().parse()?;
    let asked = tokio::time::timeout(ANSWERS_WITHIN, async { options.connect().await?.ping().await });
    Ok(matches!(asked.await, Ok(Ok(()))))
}

pub(super) async fn fail_over(fault: Nemesis, site: &mut Site, chance: &mut StdRng) -> anyhow::Result<Injected> {
    let gap = lasting(chance, 100..3000);
    let mut standby = site.standby.take().context("there is no standby")?;
    let begun = site.begin(fault, json!({"from": site.postgres.port(), "to": standby.port()}));
    site.postgres.kill().await?;
    tokio::time::sleep(gap).await;
    ensure!(!answers(&site.postgres).await?, "the old primary still answers");
    standby.promote().await?;
    std::mem::swap(&mut site.postgres, &mut standby);
    site.cluster.database_moved(&site.postgres.host().to_string(), site.postgres.port());
    // The old one becomes the standby of the new one, from a fresh copy, and at its old address, which nodes know.
    standby.follow(&site.postgres).await?;
    site.postgres.wait_for_standby().await?;
    site.standby = Some(standby);
    site.whole().await?;
    Ok(site.end(begun, format!("the server at {} was promoted and has a standby", site.postgres.port())))
}
