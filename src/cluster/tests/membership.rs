//! Nodes that come and go while the group runs.

use super::*;

impl Group {
    /// Starts a node that is to join: its peers are those of the group and itself.
    async fn start_newcomer(&mut self, id: u64) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        self.peers.insert(id, address.clone());
        self.start_node(id).await.expect("it starts");
        address
    }

    fn members(&self, node: u64) -> Vec<(u64, String)> {
        self.node(node).status().nodes.into_iter().map(|node| (node.id, node.role)).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_added_catches_up_by_snapshot_and_votes() {
    let mut group = Group::start(3).await;
    let topic = Topic::Events;
    publish(&*group.bus(1), &topic, 1..=500).await;
    for node in group.nodes.values() {
        let raft = &node.core.raft;
        let applied = eventually("all is applied", || Some(node.status().applied_index).filter(|applied| *applied > 0)).await;
        raft.trigger().snapshot().await.expect("running");
        eventually("a snapshot", || node.core.metrics().snapshot.filter(|snapshot| snapshot.index >= applied)).await;
        raft.trigger().purge_log(applied).await.expect("running");
        eventually("the log is dropped", || node.core.metrics().purged.filter(|purged| purged.index >= applied)).await;
    }
    let address = group.start_newcomer(4).await;
    let others: Vec<u64> = (1..=3).collect();
    assert!(others.iter().all(|id| group.members(*id).len() == 3));
    assert!(group.node(4).ready().is_err(), "nobody has taken it in");
    let leader = group.leader_of(&others).await;
    let asked = others.iter().find(|id| **id != leader).expect("there are others");
    timely(group.node(*asked).add_member(4, address.clone())).await.expect("it is taken in");
    timely(group.node(leader).add_member(4, address.clone())).await.expect("again is nothing");
    group.all_ready().await;
    assert_eq!(group.ids_up_to(4, &topic, 500).await, (1..=500).collect::<Vec<_>>());
    publish(&*group.bus(4), &topic, [501]).await;
    for id in 1..=4 {
        let members = eventually("all are heard of", || {
            let members = group.members(id);
            (members.len() == 4 && members.iter().all(|(_, role)| role == "leader" || role == "follower")).then_some(members)
        });
        members.await;
    }
    // Of four voters three are a majority, and node 4 is one of them.
    group.crash(*asked);
    publish(&*group.bus(4), &topic, [502]).await;
    // It comes again as any other, and one that was there at the birth does, too, with the list of then.
    group.crash(4);
    group.start_node(4).await.expect("it starts again");
    group.start_node(*asked).await.expect("it starts again");
    group.all_ready().await;
    assert_eq!(group.ids_up_to(4, &topic, 502).await.len(), 502);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_disk_is_replaced_and_its_id_is_never_used_again() {
    let mut group = Group::start(3).await;
    let topic = Topic::Events;
    publish(&*group.bus(1), &topic, 1..=100).await;
    let leader = group.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let (lost, stays) = (others[0], others[1]);
    group.crash(lost);
    let disk = group.folder.path().join(lost.to_string());
    let saved = group.folder.path().join("saved");
    std::fs::rename(&disk, &saved).expect("moved");
    // As itself it may not come back, but it is told how.
    group.start_node(lost).await.expect("it cannot know yet");
    let reason = eventually("it is told", || group.node(lost).status().error).await;
    assert!(reason.contains("praetor cluster add"), "{reason}");
    group.crash(lost);
    timely(group.node(stays).remove_member(lost)).await.expect("it is struck off");
    timely(group.node(stays).remove_member(lost)).await.expect("again is nothing");
    let address = group.start_newcomer(4).await;
    timely(group.node(stays).add_member(4, address)).await.expect("it is taken in");
    assert_eq!(group.ids_up_to(4, &topic, 100).await.len(), 100);
    for id in [leader, stays, 4] {
        let ids = eventually("all know who belongs to the group", || {
            let ids: Vec<u64> = group.members(id).into_iter().map(|(id, _)| id).collect();
            (!ids.contains(&lost) && ids.len() == 3).then_some(ids)
        });
        assert!(ids.await.contains(&4));
    }
    // Neither with an empty disk nor with the old one does the old number come back.
    std::fs::remove_dir_all(&disk).expect("removed");
    for old in [false, true] {
        if old {
            std::fs::remove_dir_all(&disk).expect("removed");
            std::fs::rename(&saved, &disk).expect("moved");
        }
        group.start_node(lost).await.expect("it cannot know yet");
        let reason = eventually("it is told", || group.node(lost).status().error).await;
        assert!(reason.contains("was removed from this group"), "{reason}");
        assert_eq!(group.node(lost).ready(), Err(reason));
        group.crash(lost);
    }
    publish(&*group.bus(4), &topic, [101]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_removed_and_another_goes_on() {
    let group = Group::start(3).await;
    let topic = Topic::Events;
    publish(&*group.bus(1), &topic, 1..=10).await;
    let leader = group.leader().await;
    let stay: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    timely(group.node(leader).remove_member(leader)).await.expect("it is struck off");
    let next = group.leader_of(&stay).await;
    assert_ne!(next, leader);
    let reason = eventually("it is told", || group.node(leader).status().error).await;
    assert!(reason.contains("was removed from this group"), "{reason}");
    for id in &stay {
        publish(&*group.bus(*id), &topic, [100 + u128::from(*id)]).await;
    }
    let services = eventually("another leads the services", || group.node(next).status().services_leader.filter(|node| *node != leader));
    assert!(stay.contains(&services.await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_make_no_sense_are_refused_with_a_sentence() {
    let mut group = Group::start(3).await;
    let stranger = Group::start(1).await;
    let own = |group: &Group, id: u64| group.peers[&id].clone();
    let refused = |result: Result<(), ClusterError>| result.expect_err("refused").to_string();
    let node = group.node(1);
    assert!(refused(timely(node.remove_member(7)).await).contains("is no member"));
    assert!(refused(timely(node.add_member(0, "a:1".into())).await).contains("from 1 on"));
    assert!(refused(timely(node.add_member(4, "nowhere".into())).await).contains("host:port"));
    assert!(refused(timely(node.add_member(2, "127.0.0.1:1".into())).await).contains("is a member already"));
    assert!(refused(timely(node.add_member(4, own(&group, 2))).await).contains("the address of node 2"));
    // A node that answers there, but is of another group: its number is taken as it says it.
    let mut config = stranger.config(1);
    drop(stranger);
    config.node_id = 9;
    let theirs = tempfile::tempdir().expect("a temporary folder");
    config.data_dir = theirs.path().into();
    config.peers = BTreeMap::from([(9, config.listen.expect("it listens").to_string())]);
    group.start_with(config.clone()).await.expect("it starts");
    eventually("it is a group by itself", || group.node(9).ready().ok()).await;
    let refusal = refused(timely(group.node(1).add_member(9, config.peers[&9].clone())).await);
    assert!(refusal.contains("belongs to cluster"), "{refusal}");
    drop(group.nodes.remove(&9));
    // Of the two that would remain, one does not answer.
    let leader = group.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    group.crash(others[0]);
    tokio::time::sleep(crate::cluster::limits::NODE_AWAY).await;
    let refusal = refused(timely(group.node(leader).remove_member(others[1])).await);
    assert!(refusal.contains("would stand still"), "{refusal}");
}
