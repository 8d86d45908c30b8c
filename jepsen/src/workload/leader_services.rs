//! Every node is asked again and again who leads, Raft and the services. As one node sees it, epochs and terms only grow,
//! and one epoch belongs to one node, whoever says so.

use std::time::Duration;

use serde_json::json;

use super::Context;
use crate::checker::leaders;
use crate::client::{Http, Outcome};
use crate::history::History;
use crate::verdict::Verdict;

const ASK_EVERY: Duration = Duration::from_millis(50);

pub(super) async fn run(context: Context) {
    let askers = context.apis.iter().enumerate().map(|(number, api)| ask(context.clone(), number + 1, Http::new(api.clone())));
    futures_util::future::join_all(askers).await;
}

async fn ask(context: Context, node: usize, http: Http) {
    let process = format!("asker-{node}");
    while context.pause(ASK_EVERY).await {
        // A node that is paused answers when it wakes up; what it says then is of no use here.
        let answer = tokio::time::timeout(Duration::from_secs(1), http.get("/cluster/status")).await;
        match answer {
            Ok(Ok((200, status))) => {
                let seen = json!({
                    "epoch": status["epoch"], "services_leader": status["services_leader"],
                    "term": status["term"], "leader": status["leader"],
                });
                // What is compared is what one node says; another may have been put in its place.
                let process = format!("node-{}", status["node_id"]);
                context.history.add(&process, "services", seen, Some(Outcome::Ok));
            }
            _ => context.history.add(&process, "services", json!(null), Some(Outcome::Failed)),
        }
    }
}

pub(super) fn check(history: &History) -> Verdict {
    match leaders::check(&history.entries()) {
        Err(invalid) => invalid,
        Ok(seen) if seen.epochs == 0 => Verdict::Unknown("no node said who leads the services".to_owned()),
        Ok(seen) => Verdict::Valid(format!("{} epochs and {} terms, each of one node, growing at every node", seen.epochs, seen.terms)),
    }
}
