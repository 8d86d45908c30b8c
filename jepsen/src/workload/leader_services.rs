//! Every node is asked again and again who leads the services. As one node sees it, epochs only grow, and one epoch
//! belongs to one node, whoever says so.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::Context;
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
    while context.stop.run_until_cancelled(tokio::time::sleep(ASK_EVERY)).await.is_some() {
        // A node that is paused answers when it wakes up; what it says then is of no use here.
        let answer = tokio::time::timeout(Duration::from_secs(1), http.get("/cluster/status")).await;
        match answer {
            Ok(Ok((200, status))) => {
                let seen = json!({"epoch": status["epoch"], "leader": status["services_leader"]});
                context.history.add(&process, "services", seen, Some(Outcome::Ok));
            }
            _ => context.history.add(&process, "services", json!(null), Some(Outcome::Failed)),
        }
    }
}

pub(super) fn check(history: &History) -> Verdict {
    let mut owner: BTreeMap<u64, u64> = BTreeMap::new();
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    let mut wrong = Vec::new();
    for entry in history.entries().iter().filter(|entry| entry.operation == "services") {
        let (Some(epoch), Some(leader)) = (entry.value["epoch"].as_u64(), entry.value["leader"].as_u64()) else { continue };
        let before = newest.entry(entry.process.clone()).or_default();
        if epoch < *before {
            // A restarted node applies its log anew; it may not go back behind what it said while it was ready.
            wrong.push(format!("{} went back from epoch {before} to {epoch} at {:.1} s", entry.process, entry.at));
        }
        *before = epoch.max(*before);
        let known = *owner.entry(epoch).or_insert(leader);
        if known != leader {
            wrong.push(format!("epoch {epoch} belongs to node {known} and to node {leader}"));
        }
    }
    if !wrong.is_empty() {
        return Verdict::Invalid(wrong.join("; "));
    }
    if owner.len() < 2 {
        return Verdict::Unknown("the services' leader never changed".to_owned());
    }
    Verdict::Valid(format!("{} epochs, each of one node, growing at every node", owner.len()))
}
