//! What clients do during a run, and the verdict over what they saw. To add one: a file with `run` and `check`, an arm in
//! each function here, and its checker: a pure function over the history, shown to catch what it is there for.

mod automations;
mod background_tasks;
mod flow_runs;
mod leader_services;
mod limits;
mod membership;
pub mod publish_consume;
mod receiver;
mod schedules;

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::client::{Http, Outcome};
use crate::cluster::Cluster;
use crate::history::History;
use crate::verdict::Verdict;
use crate::wait::until;

/// How long one write and one read of each object may take to succeed once the group is whole again.
const HEALED_WITHIN: Duration = Duration::from_secs(20);

/// How long what a workload needs may take to be made, while things go wrong already.
const MADE_WITHIN: Duration = Duration::from_mins(1);

/// The workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Publishers send events in on sockets and take each pong for a promise; every promised event is in the database
    /// exactly once, and subscribers see each once, in order.
    PublishConsume,
    /// Clients set states of flow runs and read them through any node; each run is linearizable.
    FlowRuns,
    /// Deployments are due every second or two; every slot has one run, which one worker gets, or which is late.
    Schedules,
    /// Clients lease slots of limits, renew, give back, and die; never too many are held, and all come back.
    Limits,
    /// Background tasks go to workers on sockets, which acknowledge or die; none is lost, none comes again after that.
    BackgroundTasks,
    /// Events make automations call a receiver of ours; each call comes, under one key.
    Automations,
    /// Reads and writes at every node; the epochs of the services' leaders only grow, and one leads at a time.
    LeaderServices,
    /// The same with values that clients set and read, while members come and go: they are linearizable.
    Membership,
}

/// What a client of a run needs.
#[derive(Clone)]
pub struct Context {
    /// APIs of the nodes.
    pub apis: Arc<Vec<String>>,
    /// Where to write what was seen.
    pub history: History,
    /// Cancelled when the load ends.
    pub stop: CancellationToken,
    /// Decides what clients choose, though not when.
    pub seed: u64,
}

impl Workload {
    /// Settings that the nodes need for it.
    pub fn variables(self) -> Vec<(&'static str, String)> {
        match self {
            Self::FlowRuns => flow_runs::variables(),
            Self::Schedules => schedules::variables(),
            Self::Limits => limits::variables(),
            _ => Vec::new(),
        }
    }

    /// Puts load on the group until the context stops.
    ///
    /// # Panics
    /// A client panicked.
    pub async fn run(self, context: Context) {
        // On a thread of its own: what it waits for cannot move from one thread to another.
        let runtime = tokio::runtime::Handle::current();
        let load = tokio::task::spawn_blocking(move || runtime.block_on(self.load(context)));
        load.await.expect("no client panics");
    }

    async fn load(self, context: Context) {
        match self {
            Self::PublishConsume => publish_consume::run(context).await,
            Self::FlowRuns => flow_runs::run(context).await,
            Self::Schedules => schedules::run(context).await,
            Self::Limits => limits::run(context).await,
            Self::BackgroundTasks => background_tasks::run(context).await,
            Self::Automations => automations::run(context).await,
            Self::LeaderServices => leader_services::run(context).await,
            Self::Membership => membership::run(context).await,
        }
    }

    /// Judges, when the load has ended and the group is whole again: then a write and a read of each object succeed, too.
    ///
    /// # Errors
    /// The group could not be looked at, so the verdict is unknown.
    pub async fn check(self, cluster: &Cluster, history: &History) -> anyhow::Result<Verdict> {
        match self {
            Self::PublishConsume => publish_consume::check(cluster, history).await,
            Self::FlowRuns => Ok(flow_runs::check(cluster, history).await),
            Self::Schedules => schedules::check(cluster, history).await,
            Self::Limits => limits::check(cluster, history).await,
            Self::BackgroundTasks => Ok(background_tasks::check(cluster, history).await),
            Self::Automations => Ok(automations::check(cluster, history).await),
            Self::LeaderServices => Ok(leader_services::check(history).and(membership::healed(cluster).await)),
            Self::Membership => Ok(membership::check(cluster, history).await),
        }
    }
}

impl Context {
    /// Clients of all nodes.
    fn https(&self) -> Vec<Http> {
        self.apis.iter().cloned().map(Http::new).collect()
    }

    /// What client `number` draws its choices from.
    fn chance(&self, number: usize) -> StdRng {
        StdRng::seed_from_u64(self.seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Waits; false where the load ends meanwhile.
    async fn pause(&self, lasting: Duration) -> bool {
        self.stop.run_until_cancelled(tokio::time::sleep(lasting)).await.is_some()
    }

    /// Asks node after node for what must be there before the load begins; `None` where the load ends first.
    async fn made<F: AsyncFnMut(&Http) -> Option<Value>>(&self, what: &str, mut make: F) -> Option<Value> {
        let (https, mut node) = (self.https(), 0);
        let made = until(MADE_WITHIN, what, async || {
            node += 1;
            tokio::time::timeout(CALL_WITHIN, make(&https[node % https.len()])).await.ok().flatten()
        });
        match self.stop.run_until_cancelled(made).await {
            Some(Ok(value)) => Some(value),
            Some(Err(error)) => {
                // The check finds that nothing happened, and says unknown.
                self.history.add("setup", what, error.to_string().into(), Some(Outcome::Failed));
                None
            }
            None => None,
        }
    }
}

/// How long a client waits for an answer.
const CALL_WITHIN: Duration = Duration::from_secs(5);

/// POSTs; gives the body of an answer that says that it was done.
async fn posted(http: &Http, path: &str, body: &Value) -> Option<Value> {
    match http.post(path, body).await {
        Ok((200..=299, body)) => Some(body),
        _ => None,
    }
}

/// What a client knows after a call: 2xx says that it was done; a refused connection and 4xx that it was not; all else
/// says nothing. With the body, and its status where there was an answer.
async fn judged(call: impl Future<Output = anyhow::Result<(u16, Value)>>) -> (Outcome, u16, Value) {
    match tokio::time::timeout(CALL_WITHIN, call).await {
        Ok(Ok((status @ 200..=299, body))) => (Outcome::Ok, status, body),
        Ok(Ok((status @ 400..=499, body))) => (Outcome::Failed, status, body),
        Ok(Ok((status, body))) => (Outcome::Unknown, status, body),
        Ok(Err(error)) if error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect) => {
            (Outcome::Failed, 0, Value::Null)
        }
        Ok(Err(_)) | Err(_) => (Outcome::Unknown, 0, Value::Null),
    }
}

/// Whether `probe`, a write and a read, succeeds at each node, now that the group is whole again.
async fn healed_at_each<F: AsyncFnMut(u64, &Http) -> Option<()>>(cluster: &Cluster, what: &str, mut probe: F) -> Verdict {
    for id in cluster.running() {
        let http = cluster.http(id);
        if let Err(error) = until(HEALED_WITHIN, what, async || probe(id, &http).await).await {
            return Verdict::Invalid(format!("after healing, at node {id}: {error}"));
        }
    }
    Verdict::Valid(format!("afterwards {what} succeeded at each node"))
}

/// The time, in milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a client tells the time by its own clock")]
fn now_milliseconds() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// The time, as the API reads it.
#[expect(clippy::disallowed_methods, reason = "a client tells the time by its own clock")]
fn now_text() -> String {
    chrono::Utc::now().to_rfc3339()
}
