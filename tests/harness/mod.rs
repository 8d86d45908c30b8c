//! What every test over real processes uses: a group of nodes, and waiting on a predicate with a deadline.

#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]

mod prefect;

use std::time::Duration;

pub use jepsen::client::{EventsIn, EventsOut, Http, LogsOut, Outcome, Socket};
pub use jepsen::cluster::{Cluster, Options};
pub use jepsen::database::{Kind, Look};
pub use jepsen::wait::until;
pub use prefect::{Client, Script};

/// The program under test.
pub const PRAETOR: &str = env!("CARGO_BIN_EXE_praetor");

/// Starts one node on a database of `kind`.
pub async fn one_node(kind: Kind) -> Cluster {
    start(Options::new(1, kind)).await
}

/// Starts one node which keeps events however old they are. (`false` would have the vacuum delete them all the same, as in
/// the reference; only what else it may delete leaves them out.)
pub async fn node_that_keeps_events(kind: Kind) -> Cluster {
    start(Options::new(1, kind).variable("PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED", "flow_runs")).await
}

/// Starts three nodes on a Postgres database of their own.
pub async fn three_nodes() -> Cluster {
    start(Options::new(3, Kind::Postgres)).await
}

/// Starts a group with settings of its own.
pub async fn start(options: Options) -> Cluster {
    Cluster::start(options.binary(PRAETOR)).await.expect("the group starts")
}

/// Waits until `predicate` holds, and fails the test where it does not within `within`.
pub async fn eventually(within: Duration, what: &str, mut predicate: impl AsyncFnMut() -> bool) {
    until(within, what, async || predicate().await.then_some(())).await.expect("it holds in time");
}
