//! Groups in good health: the bus behaves, nodes agree, restarts keep everything, what does not belong is refused.

use super::*;
use crate::bus::conformance;
use crate::bus::rules::Rules;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_one_is_a_bus() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = ClusterConfig::new(1, folder.path(), Arc::new(SystemClock));
    let node = Cluster::start(config).await.expect("it starts");
    eventually("it is ready", || node.ready().ok()).await;
    conformance::all(node.bus(), "one").await;
    node.read_barrier().await.expect("alone it is a majority");
    let status = node.status();
    assert_eq!((status.role, status.leader, status.services_leader), ("leader", Some(1), Some(1)));
    node.shutdown(Leaving::Alone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bounds_of_the_bus_follow_the_settings_of_who_leads() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for backlog_bytes_max in [64 << 20, 1 << 30] {
        let rules = Rules { backlog_bytes_max, ..Rules::GENESIS };
        let config = ClusterConfig { rules: rules.clone(), ..ClusterConfig::new(1, folder.path(), Arc::new(SystemClock)) };
        let node = Cluster::start(config).await.expect("it starts");
        eventually("the bounds are as set", || (node.core.reader.rules() == rules).then_some(())).await;
        node.shutdown(Leaving::Alone).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_of_three_is_the_same_bus() {
    let group = Group::start(3).await;
    for id in 1..=3 {
        conformance::all(group.bus(id), &format!("through-{id}")).await;
    }
    let topic = Topic::from("everywhere");
    for id in 1..=3 {
        publish(&*group.bus(id), &topic, [u128::from(id)]).await;
    }
    for id in 1..=3 {
        group.node(id).read_barrier().await.expect("a majority answers");
        assert_eq!(group.bus(id).last(&topic), 3, "after a barrier node {id} has everything");
        assert_eq!(group.ids_up_to(id, &topic, 3).await, [1, 2, 3]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_tells_the_whole_group_from_any_node() {
    let group = Group::start(3).await;
    publish(&*group.bus(1), &Topic::Events, 1..=10).await;
    let (services, epoch) = group.services_leader().await;
    for id in 1..=3 {
        let status = eventually("all nodes were heard of", || {
            let status = group.node(id).status();
            status.nodes.iter().all(|node| node.up && node.pid.is_some() && !node.version.is_empty()).then_some(status)
        })
        .await;
        assert_eq!(status.nodes.len(), 3);
        assert_eq!((status.services_leader, status.epoch), (Some(services), epoch));
        assert_eq!(status.nodes.iter().filter(|node| node.role == "leader").count(), 1);
        assert!(status.nodes.iter().all(|node| node.pid == Some(std::process::id()) && node.http.ends_with(&node.id.to_string())));
        let json = serde_json::to_value(&status).expect("it is plain data");
        assert!(json["cluster_id"].is_string() && json["streams"].is_array());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_all_nodes_keeps_everything() {
    let mut group = Group::start(3).await;
    let topic = Topic::Events;
    publish(&*group.bus(2), &topic, 1..=500).await;
    let (_, epoch) = group.services_leader().await;
    let cluster_id = group.node(1).status().cluster_id;
    for id in 1..=3 {
        group.crash(id);
    }
    for id in 1..=3 {
        group.start_node(id).await.expect("it starts again");
    }
    group.all_ready().await;
    for id in 1..=3 {
        assert_eq!(group.ids_up_to(id, &topic, 500).await, (1..=500).collect::<Vec<_>>());
    }
    assert_eq!(group.node(2).status().cluster_id, cluster_id);
    assert_eq!(publish(&*group.bus(3), &topic, 400..=600).await, Published { first: 400, last: 600, duplicates: 101 });
    assert!(group.services_leader().await.1 > epoch, "another run, another epoch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_log_is_gone_from_the_leader_catches_up_by_snapshot() {
    let mut group = Group::start(3).await;
    let topic = Topic::Events;
    publish(&*group.bus(1), &topic, 1..=100).await;
    let leader = group.leader().await;
    let behind = (1..=3).find(|id| *id != leader).expect("there are others");
    group.crash(behind);
    let bus = group.bus(leader);
    for start in (101..=2_000).step_by(100) {
        publish(&*bus, &topic, start..start + 100).await;
    }
    for (id, node) in &group.nodes {
        let raft = &node.core.raft;
        let applied = node.status().applied_index;
        raft.trigger().snapshot().await.expect("running");
        eventually(&format!("node {id} made a snapshot"), || node.core.metrics().snapshot.filter(|snapshot| snapshot.index >= applied))
            .await;
        raft.trigger().purge_log(applied).await.expect("running");
        eventually(&format!("node {id} dropped its log"), || node.core.metrics().purged.filter(|purged| purged.index >= applied)).await;
    }
    group.start_node(behind).await.expect("it starts again");
    assert_eq!(group.ids_up_to(behind, &topic, 2_000).await, (1..=2_000).collect::<Vec<_>>());
    let node = group.node(behind);
    eventually("the node tells that it came by snapshot", || node.core.metrics().snapshot).await;
    publish(&*group.bus(behind), &topic, [5_000]).await;
    // And what it got is good for another restart.
    group.crash(behind);
    group.start_node(behind).await.expect("it starts again");
    assert_eq!(group.ids_up_to(behind, &topic, 2_001).await.len(), 2_001);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_belong_to_a_node_is_refused_with_a_sentence() {
    let mut group = Group::start(3).await;
    for id in 1..=3 {
        group.crash(id);
    }
    // Another node's directory.
    let mut config = group.config(2);
    config.data_dir = group.folder.path().join("1");
    let error = group.start_with(config).await.expect_err("refused");
    assert!(error.to_string().contains("belongs to node 1"), "{error}");
    // A log that was lost.
    std::fs::remove_dir_all(group.folder.path().join("2").join("raft")).expect("removed");
    let error = group.start_node(2).await.expect_err("refused");
    assert!(error.to_string().contains("its Raft log is gone"), "{error}");
    // A disk that was lost: the others tell.
    group.start_node(1).await.expect("it starts again");
    std::fs::remove_dir_all(group.folder.path().join("3")).expect("removed");
    group.start_node(3).await.expect("it cannot know yet");
    let reason = eventually("it is told", || group.node(3).status().error).await;
    assert!(reason.contains("must come back as a new one"), "{reason}");
    assert_eq!(group.node(3).ready(), Err(reason));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_different_lists_of_peers_found_nothing() {
    let mut group = Group::new(3);
    for id in 1..=3 {
        let mut config = group.config(id);
        if id == 3 {
            config.peers.insert(4, "127.0.0.1:1".into());
        }
        group.start_with(config).await.expect("it starts");
    }
    // Node 1 asks at once and again; node 2 agrees, node 3 does not.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(group.nodes.values().all(|node| node.status().cluster_id.is_none() && node.ready().is_err()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_without_the_token_is_not_taken_in() {
    let mut group = Group::new(3);
    let token = |secret| Some(crate::cluster::Token::new(secret).expect("printable"));
    for id in 1..=3 {
        let mut config = group.config(id);
        config.token = token(if id == 3 { "another" } else { "shared" });
        group.start_with(config).await.expect("it starts");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(group.nodes.values().all(|node| node.status().cluster_id.is_none()));
    group.crash(3);
    let mut config = group.config(3);
    config.token = token("shared");
    group.start_with(config).await.expect("it starts");
    group.all_ready().await;
}
