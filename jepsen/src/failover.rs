//! How long things stand still when the leader is killed: the time from SIGKILL to the next commit of the group, to the
//! next tick of each service of the leader, and to the next success of the API, each seen at a node that lives on.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::Args;
use futures_util::future::{join_all, select_ok};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::client::{Http, Outcome};
use crate::cluster::{Cluster, Options};
use crate::database::Kind;
use crate::history::History;
use crate::postgres::Server;
use crate::run::Common;
use crate::wait::until;
use crate::workload::{Context as Load, Workload};

/// How long anything may take before the measurement is given up.
const WITHIN: Duration = Duration::from_secs(20);

/// Between two questions whether the services ticked.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// How long one write may take before another one is tried.
const TRY_FOR: Duration = Duration::from_secs(5);

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct FailoverArgs {
    /// How many leaders are killed
    #[arg(long, default_value_t = 100)]
    pub kills: u64,
    /// Decides how long the group rests between two
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What runs have in common.
    #[command(flatten)]
    pub common: Common,
}

/// What one kill cost.
struct Cost {
    commit: Duration,
    api: Duration,
    /// By service. Seconds, by the node's clock, which is this machine's.
    ticks: BTreeMap<String, f64>,
}

/// Kills leaders under load, prints the distributions and writes them to `failover.json`; the exit code is 0 when the
/// 99th percentile of commits and ticks is below a second.
///
/// # Errors
/// The group did not recover.
pub async fn failover(args: &FailoverArgs) -> anyhow::Result<u8> {
    std::fs::create_dir_all(&args.common.out)?;
    let postgres = Server::start().await?;
    let mut options = Options::new(args.common.nodes, Kind::Postgres).binary(&args.common.binary).postgres(postgres.url());
    for setting in &args.common.settings {
        let (name, value) = setting.split_once('=').with_context(|| format!("--set {setting}: write NAME=VALUE"))?;
        options = options.variable(name, value);
    }
    let mut cluster = Cluster::start(options).await?;
    let history = History::create(&args.common.out.join("failover.jsonl"), args.seed, &format!("{args:?}"))?;
    let stop = CancellationToken::new();
    let apis = std::sync::Arc::new(cluster.ids().into_iter().map(|id| cluster.api(id)).collect());
    let load = Load { apis, history: history.clone(), stop: stop.clone(), seed: args.seed };
    #[expect(clippy::disallowed_methods, reason = "the harness has one task, and joins it below")]
    let load = tokio::spawn(Workload::PublishConsume.run(load));

    let mut chance = StdRng::seed_from_u64(args.seed);
    let mut commits = Vec::new();
    let mut apis = Vec::new();
    let mut ticks: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for number in 1..=args.kills {
        settled(&cluster).await?;
        tokio::time::sleep(Duration::from_millis(chance.random_range(500..1500))).await;
        let victim = cluster.leader().await?;
        history.add("nemesis", "kill-leader", json!({"phase": "begin", "target": victim}), None);
        let cost = kill(&mut cluster, victim).await.with_context(|| format!("kill {number}, of node {victim}"))?;
        cluster.restart(victim).await?;
        history.add("nemesis", "kill-leader", json!({"phase": "end", "target": victim}), None);
        let slowest = cost.ticks.values().copied().fold(0.0, f64::max);
        println!(
            "{number} node {victim}: commit {:.3} s, API {:.3} s, slowest tick {slowest:.3} s",
            cost.commit.as_secs_f64(),
            cost.api.as_secs_f64()
        );
        commits.push(cost.commit.as_secs_f64());
        apis.push(cost.api.as_secs_f64());
        for (service, after) in cost.ticks {
            ticks.entry(service).or_default().push(after);
        }
    }
    stop.cancel();
    load.await?;
    let verdict = Workload::PublishConsume.check(&cluster, &history).await?;
    let errors = cluster.unexpected();
    cluster.judged();
    let (text, below) = told(&commits, &apis, &ticks);
    println!("\n{text}\n{verdict}");
    for error in &errors {
        println!("{error}");
    }
    let figures = json!({"commit": commits, "api": apis, "tick": ticks, "verdict": verdict.to_string()});
    std::fs::write(args.common.out.join("failover.json"), serde_json::to_vec_pretty(&figures)?)?;
    std::fs::write(args.common.out.join("failover.md"), &text)?;
    Ok(if errors.is_empty() && below { verdict.exit_code() } else { 1 })
}

/// Waits until the services' leader has ticked with all it has, so that the next kill meets a group at work.
async fn settled(cluster: &Cluster) -> anyhow::Result<()> {
    until(WITHIN, "every service has ticked", async || {
        let status = cluster.status(cluster.running()[0]).await.ok()?;
        let services = status["services"].as_array().filter(|services| !services.is_empty())?;
        services.iter().all(|service| service["last_success"].is_string()).then_some(())
    })
    .await
}

#[expect(clippy::disallowed_methods, reason = "nodes tell of their ticks by this machine's clock")]
async fn kill(cluster: &mut Cluster, victim: u64) -> anyhow::Result<Cost> {
    let known: Vec<String> = services(&cluster.http(victim)).await.into_keys().collect();
    let (at, killed) = (Utc::now(), Instant::now());
    cluster.kill(victim)?;
    let survivors: Vec<Http> = cluster.running().into_iter().map(|id| cluster.http(id)).collect();
    let (commit, api, ticks) = tokio::join!(
        first(&survivors, killed, "/events", commit_body),
        first(&survivors, killed, "/flows/", flow_body),
        ticked(&survivors, at, &known)
    );
    Ok(Cost { commit: commit.context("the next commit")?, api: api.context("the next success of the API")?, ticks: ticks? })
}

#[expect(clippy::disallowed_methods, reason = "a client tells the time by its own clock")]
fn commit_body() -> Value {
    json!([{
        "id": Uuid::from_u128(rand::random()), "event": "jepsen.failover", "occurred": Utc::now().to_rfc3339(),
        "resource": {"prefect.resource.id": "jepsen.failover"}, "related": [], "payload": {},
    }])
}

fn flow_body() -> Value {
    json!({"name": format!("failover-{}", Uuid::from_u128(rand::random()))})
}

/// From the kill to the first success of a write that began after it, at whichever node.
async fn first(nodes: &[Http], killed: Instant, path: &str, body: fn() -> Value) -> anyhow::Result<Duration> {
    let tries = nodes.iter().map(|http| {
        Box::pin(async move {
            until(WITHIN, path, async || {
                let answer = tokio::time::timeout(TRY_FOR, http.judged_post(path, &body())).await;
                matches!(answer, Ok((Outcome::Ok, _))).then(|| killed.elapsed())
            })
            .await
        })
    });
    Ok(select_ok(tries).await?.0)
}

/// When each service last did its work, as a node tells.
async fn services(http: &Http) -> BTreeMap<String, DateTime<Utc>> {
    let Ok(Ok((200, status))) = tokio::time::timeout(Duration::from_secs(1), http.get("/cluster/status")).await else {
        return BTreeMap::new();
    };
    let told = status["services"].as_array().into_iter().flatten().filter_map(|service| {
        let at = DateTime::parse_from_rfc3339(service["last_success"].as_str()?).ok()?;
        Some((service["name"].as_str()?.to_owned(), at.to_utc()))
    });
    told.collect()
}

/// From the kill to the first success of each service that there was before.
async fn ticked(nodes: &[Http], killed: DateTime<Utc>, known: &[String]) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut after: BTreeMap<String, f64> = BTreeMap::new();
    let deadline = Instant::now() + WITHIN;
    while known.iter().any(|service| !after.contains_key(service)) {
        let missing: Vec<&String> = known.iter().filter(|service| !after.contains_key(*service)).collect();
        anyhow::ensure!(Instant::now() < deadline, "after {} s these services had not ticked: {missing:?}", WITHIN.as_secs());
        for seen in join_all(nodes.iter().map(services)).await {
            for (service, at) in seen.into_iter().filter(|(_, at)| *at > killed) {
                let seconds = (at - killed).num_microseconds().unwrap_or(i64::MAX) as f64 / 1e6;
                after.entry(service).and_modify(|first| *first = first.min(seconds)).or_insert(seconds);
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(after)
}

/// A table, and whether the 99th percentile of commits and of each service's ticks is below a second.
fn told(commits: &[f64], apis: &[f64], ticks: &BTreeMap<String, Vec<f64>>) -> (String, bool) {
    let mut text = "| from the kill of the leader to the next | count | min | median | p99 | max |\n|---|--:|--:|--:|--:|--:|\n".to_owned();
    let mut below = true;
    let services = ticks.iter().map(|(service, values)| (format!("tick of {service}"), values.as_slice()));
    for (name, values) in [("commit".to_owned(), commits), ("success of the API".to_owned(), apis)].into_iter().chain(services) {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let [least, median, p99, most] = [0.0, 0.5, 0.99, 1.0].map(|share| percentile(&sorted, share));
        below &= name.starts_with("success") || p99 < 1.0;
        text.push_str(&format!("| {name} | {} | {least:.3} s | {median:.3} s | {p99:.3} s | {most:.3} s |\n", sorted.len()));
    }
    (text, below)
}

/// The least value that so large a share is not above.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        let rounded = |sorted: &[f64], share| percentile(sorted, share).round() as u32;
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| rounded(&values, share)), [1, 50, 99, 100]);
        assert_eq!(rounded(&[7.0], 0.99), 7);
    }

    #[test]
    fn one_slow_service_is_enough_to_fail() {
        let quick = vec![0.3; 10];
        let ticks = |slow: f64| BTreeMap::from([("scheduler".to_owned(), quick.clone()), ("late runs".to_owned(), vec![slow; 10])]);
        assert!(told(&quick, &quick, &ticks(0.4)).1);
        assert!(!told(&quick, &quick, &ticks(1.4)).1);
    }
}
