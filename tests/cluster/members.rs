//! A node is lost with its disk while events stream: the others go on, another node is put in its place by the commands that an
//! operator would give, and then a further node may be lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::process::Command;

use crate::failover::{all_there_once, stream};
use crate::harness::{Cluster, PRAETOR, eventually, three_nodes};

const WITHIN: Duration = Duration::from_mins(1);

/// What `praetor cluster ...` prints, asked of node `id`, and whether it succeeds.
async fn praetor_cluster(cluster: &Cluster, id: u64, words: &[&str]) -> (bool, String) {
    let output = Command::new(PRAETOR).arg("cluster").args(words).args(["--api-url", &cluster.api(id)]).output().await.expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_is_replaced_under_load_and_its_successor_counts() {
    let mut cluster = three_nodes().await;
    let leader = cluster.leader().await.expect("a leader");
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let (lost, witness) = (others[0], others[1]);
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let streaming = tokio::spawn(stream(cluster.api(witness), Arc::clone(&stop), Arc::clone(&count)));
    let flows_on = async |count: &AtomicU64| {
        let before = count.load(Ordering::Relaxed);
        eventually(WITHIN, "events are confirmed", async || count.load(Ordering::Relaxed) > before + 100).await;
    };
    flows_on(&count).await;

    cluster.kill(lost).expect("it ran");
    let (old, new) = cluster.replace(lost).expect("its disk is wiped");
    cluster.spawn(lost).expect("the new node starts");
    let (done, text) = praetor_cluster(&cluster, witness, &["add", &format!("{new}={}", cluster.peer_address(lost))]).await;
    assert!(!done && text.contains(&format!("the address of node {old}; remove that one first")), "{text}");
    let (done, text) = praetor_cluster(&cluster, witness, &["remove", &old.to_string()]).await;
    assert!(done && text.contains("belongs to the group no more"), "{text}");
    let (done, text) = praetor_cluster(&cluster, witness, &["add", &format!("{new}={}", cluster.peer_address(lost))]).await;
    assert!(done && text.contains("belongs to the group and votes"), "{text}");
    cluster.wait_ready(lost).await.expect("the new node is ready");
    flows_on(&count).await;
    let members = async |id| {
        let (done, text) = praetor_cluster(&cluster, id, &["members"]).await;
        assert!(done, "{text}");
        let numbers = text.lines().skip(1).filter_map(|line| line.split_whitespace().next()?.parse().ok());
        numbers.collect::<Vec<u64>>()
    };
    for id in cluster.ids() {
        eventually(WITHIN, "all tell the same members", async || {
            let members = members(id).await;
            members.len() == 3 && members.contains(&new) && !members.contains(&old)
        })
        .await;
    }

    // Of the group of before one node and the newcomer are left: without its vote nothing would be confirmed any more.
    let (done, text) = praetor_cluster(&cluster, witness, &["transfer-leader", &new.to_string()]).await;
    assert!(done, "{text}");
    assert_eq!(cluster.leader().await.expect("a leader"), lost, "the newcomer leads");
    cluster.kill(leader).expect("it ran");
    flows_on(&count).await;
    cluster.restart(leader).await.expect("it comes again, with the list of peers of now");
    stop.store(true, Ordering::Relaxed);
    let confirmed = streaming.await.expect("the stream ends").expect("the socket of a surviving node stays");
    all_there_once(&cluster, &confirmed).await;
}
