//! Postgres fails over to its standby, and the old server comes back as the standby of the new one: nodes that were given
//! both follow the one that accepts writes, without a restart.

use std::time::Duration;

use jepsen::postgres::Server;
use serde_json::json;

use crate::harness::{Kind, Options, eventually, start};

/// How long a node on a busy machine may take to find the other server.
const FOLLOWED_WITHIN: Duration = Duration::from_mins(1);
/// Requests at once, each on a connection of its own.
const REQUESTS: u32 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_follow_the_server_that_accepts_writes_whichever_that_is() {
    let mut primary = Server::start().await.expect("a server starts");
    let mut standby = Server::standby_of(&primary).await.expect("it has a standby");
    primary.wait_for_standby().await.expect("the standby follows");
    let hosts = [&primary, &standby].map(|server| format!("{}:{}", server.host(), server.port())).to_vec();
    let mut cluster = start(Options::new(1, Kind::Postgres).postgres(primary.url()).hosts(hosts)).await;
    let http = cluster.http(1);
    // Back and forth: the server that the node found first is a standby, a primary again, and a standby.
    for round in 1..=3 {
        let name = |number: u32| json!({"name": format!("failover-{round}-{number}")});
        primary.kill().await.expect("it ran");
        standby.promote().await.expect("it is promoted");
        std::mem::swap(&mut primary, &mut standby);
        cluster.database_moved(&primary.host().to_string(), primary.port());
        standby.follow(&primary).await.expect("the old one comes back as a standby");
        primary.wait_for_standby().await.expect("the standby follows");
        eventually(FOLLOWED_WITHIN, "a flow is made on the new primary", async || {
            matches!(http.post("/flows/", &name(0)).await, Ok((200 | 201, _)))
        })
        .await;
        // Not one connection of the pool is left at the old one.
        let requests = (1..=REQUESTS).map(|number| {
            let (http, body) = (http.clone(), name(number));
            async move { http.post("/flows/", &body).await.expect("it answers") }
        });
        for (status, answer) in futures_util::future::join_all(requests).await {
            assert_eq!(status, 201, "round {round}: {answer}");
        }
    }
}
