//! Clients take slots of limits under leases through any node, hold them for a while, renew, and give back. Some break off
//! amid a request and never learn whether they have a slot; some die with what they hold, whose lease runs out.

use std::time::Duration;

use anyhow::Context as _;
use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use sqlx::Executor;

use super::{Context, HEALED_WITHIN, healed_at_each, judged};
use crate::checker::slots;
use crate::client::{Http, Outcome};
use crate::cluster::Cluster;
use crate::history::History;
use crate::verdict::Verdict;
use crate::wait::until;

const CLIENTS: usize = 6;
/// Limits and their slots. Who dies keeps slots for the rest of the run, so there are a few more than clients need.
const LIMITS: [(&str, i64); 3] = [("jepsen-narrow", 3), ("jepsen-wide", 6), ("jepsen-shared", 4)];
/// The shortest lease that the API gives.
const LEASE_SECONDS: f64 = 60.0;
/// Clients that may die or break off over a run: what they leave behind must not use up a limit.
const DEATHS: usize = 2;

/// The repossessor looks often, and leaves holders less time to come back after a new leader.
pub(super) fn variables() -> Vec<(&'static str, String)> {
    vec![
        ("PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS", "0.5".to_owned()),
        ("PRAETOR_SERVICES_REPOSSESSOR_GRACE_SECONDS", "2".to_owned()),
    ]
}

pub(super) async fn run(context: Context) {
    for (name, limit) in LIMITS {
        let made = context.made("a limit", async |http| {
            match http.post("/v2/concurrency_limits/", &json!({"name": name, "limit": limit})).await {
                // It is there already where the answer of an earlier try was lost.
                Ok((200..=299 | 409, body)) => Some(body),
                _ => None,
            }
        });
        if made.await.is_none() {
            return;
        }
        context.history.add("setup", "limit", json!({"name": name, "limit": limit}), Some(Outcome::Ok));
    }
    futures_util::future::join_all((0..CLIENTS).map(|number| client(context.clone(), number))).await;
}

async fn client(context: Context, number: usize) {
    let (process, mut chance) = (format!("client-{number}"), context.chance(number));
    let https = context.https();
    // The first of them die, others break off.
    let (mut dies, mut breaks_off) = (usize::from(number < DEATHS), usize::from((DEATHS..2 * DEATHS).contains(&number)));
    while context.pause(Duration::from_millis(chance.random_range(2..40))).await {
        let names: Vec<&str> = LIMITS.iter().map(|(name, _)| *name).filter(|_| chance.random_ratio(1, 2)).collect();
        if names.is_empty() {
            continue;
        }
        let http = https.choose(&mut chance).expect("there are nodes");
        let body = json!({"names": names, "slots": 1, "mode": "concurrency", "lease_duration": LEASE_SECONDS});
        context.history.add(&process, "take", json!({"names": names, "slots": 1, "lease_seconds": LEASE_SECONDS}), None);
        let asked = http.post("/v2/concurrency_limits/increment-with-lease", &body);
        if breaks_off > 0 && chance.random_ratio(1, 50) {
            breaks_off -= 1;
            let _broken_off = tokio::time::timeout(Duration::from_millis(chance.random_range(1..10)), asked).await;
            context.history.add(&process, "take", json!(null), Some(Outcome::Unknown));
            continue;
        }
        let (outcome, status, granted) = judged(asked).await;
        context.history.add(&process, "take", json!({"lease": granted["lease_id"], "status": status}), Some(outcome.clone()));
        if outcome != Outcome::Ok {
            continue;
        }
        let Some(lease) = granted["lease_id"].as_str().map(str::to_owned) else { continue };
        for _ in 0..chance.random_range(0..3) {
            context.pause(Duration::from_millis(chance.random_range(5..60))).await;
            renew(&context, &process, https.choose(&mut chance).expect("there are nodes"), &lease).await;
        }
        if dies > 0 && chance.random_ratio(1, 40) {
            dies -= 1;
            continue;
        }
        // Until somebody says that it is given back; the load ends when it is.
        while !give(&context, &process, https.choose(&mut chance).expect("there are nodes"), &lease).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn renew(context: &Context, process: &str, http: &Http, lease: &str) {
    context.history.add(process, "renew", json!({"lease": lease}), None);
    let path = format!("/v2/concurrency_limits/leases/{lease}/renew");
    let (outcome, status, _) = judged(http.post(&path, &json!({"lease_duration": LEASE_SECONDS}))).await;
    // That it is gone is an answer, too.
    let outcome = if status == 410 { Outcome::Ok } else { outcome };
    context.history.add(process, "renew", json!({"gone": status == 410}), Some(outcome));
}

async fn give(context: &Context, process: &str, http: &Http, lease: &str) -> bool {
    context.history.add(process, "give", json!({"lease": lease}), None);
    let (outcome, _, _) = judged(http.post("/v2/concurrency_limits/decrement-with-lease", &json!({"lease_id": lease}))).await;
    context.history.add(process, "give", json!(null), Some(outcome.clone()));
    outcome == Outcome::Ok
}

async fn active(http: &Http, name: &str) -> Option<f64> {
    match http.get(&format!("/v2/concurrency_limits/{name}")).await {
        Ok((200, limit)) => limit["active_slots"].as_f64(),
        _ => None,
    }
}

pub(super) async fn check(cluster: &Cluster, history: &History) -> anyhow::Result<Verdict> {
    // What the dead left has run out by now: their time passes at once.
    let mut connection = cluster.database().connect().await?;
    connection.execute("UPDATE praetor.lease SET expires = now() - interval '1 second'").await?;
    let first = *cluster.running().first().context("a node runs")?;
    let http = cluster.http(first);
    let mut verdict = Verdict::Valid("each limit was looked at".to_owned());
    for (name, limit) in LIMITS {
        let mut last = None;
        // Too long is said by what is counted then.
        let _in_time = until(HEALED_WITHIN * 2, "all slots are free", async || {
            last = active(&http, name).await;
            (last == Some(0.0)).then_some(())
        })
        .await;
        let last = last.with_context(|| format!("{name} cannot be read"))?;
        history.add("observer", "settled", json!({"name": name, "active": last}), Some(Outcome::Ok));
        verdict = verdict.and(healed(cluster, name, limit).await);
    }
    Ok(slots::check(&history.entries()).and(verdict))
}

/// All slots of a limit can be taken at once, are counted, and can be given back, at each node.
async fn healed(cluster: &Cluster, name: &str, limit: i64) -> Verdict {
    healed_at_each(cluster, &format!("all slots of {name} taken and given back"), async |_, http| {
        let body = json!({"names": [name], "slots": limit, "mode": "concurrency", "lease_duration": LEASE_SECONDS});
        let (200, granted) = http.post("/v2/concurrency_limits/increment-with-lease", &body).await.ok()? else { return None };
        let counted = active(http, name).await;
        let given: Value = json!({"lease_id": granted["lease_id"]});
        let (204, _) = http.post("/v2/concurrency_limits/decrement-with-lease", &given).await.ok()? else { return None };
        (counted == Some(limit as f64)).then_some(())
    })
    .await
}
