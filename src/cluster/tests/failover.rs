//! Nodes that die or leave, under load.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::bus::BusError;

/// Publishes one message after the other through one node, and notes what was acknowledged.
async fn publisher(bus: Arc<dyn Bus>, number: u128, stop: Arc<AtomicBool>, newest: Arc<AtomicU64>) -> Vec<u128> {
    let mut acknowledged = Vec::new();
    for sequence in 0_u128.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = (number << 64) + sequence + 1;
        match bus.publish(Topic::Events, vec![message(id)]).await {
            Ok(published) => {
                newest.fetch_max(published.last, Ordering::Relaxed);
                acknowledged.push(id);
            }
            // The node is gone, or this very message may be lost with it.
            Err(BusError::Closed) => break,
            Err(BusError::Unknown(_)) => {}
            Err(error) => panic!("neither acknowledged nor unknown: {error}"),
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_leaders_die() {
    let mut group = Group::start(3).await;
    let stop = Arc::new(AtomicBool::new(false));
    let newest = Arc::new(AtomicU64::new(0));
    let mut publishers = Vec::new();
    let mut epochs = vec![group.services_leader().await];
    let mut spawned = 0;
    for round in 0..3 {
        for id in group.nodes.keys() {
            spawned += 1;
            publishers.push(tokio::spawn(publisher(group.bus(*id), spawned, stop.clone(), newest.clone())));
        }
        let before = newest.load(Ordering::Relaxed);
        eventually("events flow", || (newest.load(Ordering::Relaxed) > before + 50).then_some(())).await;
        let leader = group.leader().await;
        group.crash(leader);
        let died = Instant::now();
        let at_death = newest.load(Ordering::Relaxed);
        eventually("events flow again", || (newest.load(Ordering::Relaxed) > at_death + 10).then_some(())).await;
        let paused = died.elapsed();
        assert!(paused < Duration::from_secs(10), "round {round}: no event for {paused:?}");
        let services = group.services_leader().await;
        assert_ne!(services.0, leader);
        epochs.push(services);
        group.start_node(leader).await.expect("it starts again");
        group.all_ready().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeSet::new();
    for publisher in publishers {
        acknowledged.extend(timely(publisher).await.expect("no panic"));
    }
    assert!(acknowledged.len() > 150);
    assert!(epochs.is_sorted_by_key(|(_, epoch)| *epoch) && epochs.windows(2).all(|pair| pair[0].1 < pair[1].1), "{epochs:?}");
    let last = newest.load(Ordering::Relaxed);
    let reference = group.ids_up_to(1, &Topic::Events, last).await;
    let distinct: BTreeSet<u128> = reference.iter().copied().collect();
    assert_eq!(distinct.len(), reference.len(), "an event was appended twice");
    let lost: Vec<_> = acknowledged.difference(&distinct).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    for id in 2..=3 {
        let others = group.ids_up_to(id, &Topic::Events, last).await;
        assert_eq!(others[..last as usize], reference[..last as usize], "node {id} has another order");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_leaves_hands_everything_over() {
    let mut group = Group::start(3).await;
    publish(&*group.bus(1), &Topic::Events, 1..=10).await;
    let leader = group.leader().await;
    let (_, epoch) = group.services_leader().await;
    let leaving = group.nodes.remove(&leader).expect("it runs");
    let bus = leaving.bus();
    let services = leaving.services_leadership();
    let began = Instant::now();
    timely(leaving.shutdown(Leaving::Alone)).await;
    assert!(began.elapsed() < Duration::from_secs(8), "it left after {:?}", began.elapsed());
    assert!(matches!(*services.borrow(), ServicesLeadership::Following { .. }));
    assert_eq!(bus.publish(Topic::Events, vec![message(11)]).await, Err(BusError::Closed));
    let successor = group.leader().await;
    assert_ne!(successor, leader);
    let (services, next) = group.services_leader().await;
    assert!(services != leader && next > epoch);
    assert_eq!(publish(&*group.bus(successor), &Topic::Events, [12]).await.last, 11);
    group.start_node(leader).await.expect("it comes back");
    group.all_ready().await;
    assert_eq!(group.ids_up_to(leader, &Topic::Events, 11).await.last(), Some(&12));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_can_be_handed_to_a_node_from_any_node() {
    let group = Group::start(3).await;
    let leader = group.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let (to, from) = (others[0], others[1]);
    group.node(from).transfer_leader(Some(to)).await.expect("it is taken");
    eventually("the lead has moved", || group.agreed(|node| node.status().leader).filter(|leader| *leader == to)).await;
    eventually("the services follow", || group.agreed(|node| node.status().services_leader).filter(|node| *node == to)).await;
    assert!(group.node(from).transfer_leader(Some(99)).await.is_err(), "there is no such node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_acknowledged_and_nobody_leads_the_services() {
    let mut group = Group::start(3).await;
    let (survivor, _) = group.services_leader().await;
    for id in (1..=3).filter(|id| *id != survivor) {
        group.crash(id);
    }
    let services = group.node(survivor).services_leadership();
    eventually("it stops leading", || matches!(*services.borrow(), ServicesLeadership::Following { .. }).then_some(())).await;
    eventually("it is not ready", || group.node(survivor).ready().err()).await;
    let before = group.bus(survivor).last(&Topic::Events);
    let publishing = tokio::spawn({
        let bus = group.bus(survivor);
        async move { bus.publish(Topic::Events, vec![message(1)]).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!publishing.is_finished(), "it must not be answered");
    assert_eq!(group.bus(survivor).last(&Topic::Events), before);
    let other = (1..=3).find(|id| *id != survivor).expect("there are others");
    group.start_node(other).await.expect("it starts again");
    let published = timely(publishing).await.expect("no panic").expect("a majority is back within the deadline");
    assert_eq!(published.last, before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_go_only_where_they_may() {
    let mut group = Group::new(3);
    for id in 1..=3 {
        let config = ClusterConfig { may_run_services: id == 2, ..group.config(id) };
        group.start_with(config).await.expect("it starts");
    }
    group.all_ready().await;
    assert_eq!(group.services_leader().await.0, 2);
    let leader = group.leader().await;
    if leader == 2 {
        group.node(2).transfer_leader(Some(1)).await.expect("it is taken");
        eventually("the lead has moved", || group.agreed(|node| node.status().leader).filter(|leader| *leader == 1)).await;
    }
    assert_eq!(group.services_leader().await.0, 2, "the Raft leader may not, so it stays");
    let (_, epoch) = group.services_leader().await;
    group.node(2).resign_services().await;
    let again = eventually("it is elected again, being the only one", || {
        group.agreed(|node| Some((node.status().services_leader, node.status().epoch))).filter(|(_, newest)| *newest > epoch)
    })
    .await;
    assert_eq!(again.0, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_do_the_services_work_leaves_them_to_another_and_takes_them_where_nobody_else_is() {
    let mut group = Group::start(3).await;
    let rest = Duration::from_mins(5);
    let mut unwell = Vec::new();
    for _ in 0..2 {
        let (leads, epoch) = group.services_leader().await;
        eventually("the others were heard of", || group.node(leads).status().nodes.iter().all(|node| node.up).then_some(())).await;
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = group.node(leads).hand_over_services(rest).await {
            assert!(Instant::now() < deadline, "it is not handed over: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        unwell.push(leads);
        let next = eventually("another leads", || group.agreed(|node| node.status().services_leader).filter(|next| *next != leads)).await;
        assert!(!unwell.contains(&next), "{next} is unwell: {unwell:?}");
        assert!(group.services_leader().await.1 > epoch);
    }
    let (last, _) = group.services_leader().await;
    group.node(last).hand_over_services(rest).await.expect_err("nobody else is well");
    assert_eq!(group.services_leader().await.0, last);
    group.crash(last);
    let next =
        eventually("an unwell one is better than none", || group.agreed(|node| node.status().services_leader).filter(|next| *next != last))
            .await;
    assert!(unwell.contains(&next));
}
