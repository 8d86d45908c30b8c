//! One behaviour suite for every `Bus`: what the program relies on, whatever stands behind the trait.
//!
//! `all` is run by each implementation's tests against a bus in which nothing else is going on; every behaviour uses
//! streams of its own, named by `prefix`, so the suite can run again on the same bus under another prefix, and at the same time.
//! A new promise in `bus/mod.rs` gets a function here.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use uuid::Uuid;

use super::{Bus, BusError, Entry, Message, Position, Published, ReadLimit, Start, Topic};

/// Within which a bus in good health answers, also on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs every behaviour. Panics at the first that is not as promised.
pub async fn all(bus: Arc<dyn Bus>, prefix: &str) {
    let topic = |name: &str| Topic::from(format!("{prefix}-{name}").as_str());
    positions_follow_each_other_without_gap(&*bus, topic("positions")).await;
    a_repeated_id_is_not_appended_again(&*bus, topic("repeated")).await;
    messages_without_id_are_never_repetitions(&*bus, topic("nil")).await;
    streams_do_not_touch_each_other(&*bus, topic("one"), topic("another")).await;
    any_bytes_come_back(&*bus, topic("bytes")).await;
    a_read_keeps_its_limit_and_always_gets_on(&*bus, topic("limits")).await;
    nothing_is_there_before_the_first(&*bus, topic("nothing")).await;
    what_cannot_be_appended_is_refused(&*bus, topic("refused")).await;
    a_wait_ends_with_the_next_entry(&*bus, topic("wait")).await;
    concurrent_publishers_lose_and_double_nothing(&*bus, topic("crowd")).await;
    a_publisher_that_goes_away_can_come_back(&*bus, topic("dropped")).await;
    a_group_starts_where_it_is_told(&*bus, topic("starts")).await;
    a_group_only_moves_on(&*bus, topic("moves")).await;
    keys_are_found_by_their_beginning(&*bus, prefix).await;
}

async fn positions_follow_each_other_without_gap(bus: &dyn Bus, topic: Topic) {
    assert_eq!(publish(bus, &topic, &[1, 2, 3]).await, Published { first: 1, last: 3, duplicates: 0 });
    assert_eq!(publish(bus, &topic, &[4]).await, Published { first: 4, last: 4, duplicates: 0 });
    assert_eq!((bus.first(&topic), bus.last(&topic)), (1, 4), "what is published is readable here");
    let entries = read(bus, &topic, 0).await;
    assert_eq!(ids(&entries), [1, 2, 3, 4]);
    assert_eq!(entries.iter().map(|entry| entry.position).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(entries.is_sorted_by_key(|entry| entry.at), "time does not go backwards");
    assert!(entries[0].at > 1_600_000_000_000, "time is in milliseconds since the epoch");
    assert_eq!(ids(&read(bus, &topic, 2).await), [3, 4]);
    assert_eq!(ids(&read(bus, &topic, 4).await), [] as [u128; 0]);
}

async fn a_repeated_id_is_not_appended_again(bus: &dyn Bus, topic: Topic) {
    publish(bus, &topic, &[1, 2, 3]).await;
    assert_eq!(publish(bus, &topic, &[2, 1]).await, Published { first: 1, last: 2, duplicates: 2 });
    assert_eq!(publish(bus, &topic, &[3, 4, 4]).await, Published { first: 3, last: 4, duplicates: 2 });
    assert_eq!(ids(&read(bus, &topic, 0).await), [1, 2, 3, 4]);
}

async fn messages_without_id_are_never_repetitions(bus: &dyn Bus, topic: Topic) {
    assert_eq!(publish(bus, &topic, &[0, 0]).await.duplicates, 0);
    assert_eq!(publish(bus, &topic, &[0]).await, Published { first: 3, last: 3, duplicates: 0 });
    assert!(read(bus, &topic, 0).await.iter().all(|entry| entry.id.is_nil()));
}

async fn streams_do_not_touch_each_other(bus: &dyn Bus, one: Topic, another: Topic) {
    publish(bus, &one, &[1, 2]).await;
    assert_eq!(publish(bus, &another, &[1]).await, Published { first: 1, last: 1, duplicates: 0 });
    assert_eq!((bus.last(&one), bus.last(&another)), (2, 1));
}

async fn any_bytes_come_back(bus: &dyn Bus, topic: Topic) {
    let payloads: Vec<Bytes> =
        vec![Bytes::new(), Bytes::from((0..=255).collect::<Vec<u8>>()), Bytes::from(vec![0; 70_000]), Bytes::from_static(b"\r\n\0")];
    let messages = payloads.iter().enumerate();
    let messages = messages.map(|(index, payload)| Message { id: id(index as u128 + 1), payload: payload.clone() }).collect();
    timely(bus.publish(topic.clone(), messages)).await.expect("published");
    let entries = read(bus, &topic, 0).await;
    assert_eq!(entries.iter().map(|entry| entry.payload.clone()).collect::<Vec<_>>(), payloads);
}

async fn a_read_keeps_its_limit_and_always_gets_on(bus: &dyn Bus, topic: Topic) {
    let messages = (1..=10).map(|n| Message { id: id(n), payload: Bytes::from(vec![b'x'; 100]) }).collect();
    timely(bus.publish(topic.clone(), messages)).await.expect("published");
    for (limit, most) in [
        (ReadLimit { entries: 3, bytes: 10_000 }, 3),
        (ReadLimit { entries: 100, bytes: 450 }, 4),
        (ReadLimit { entries: 100, bytes: 1 }, 1),
    ] {
        let mut all = Vec::new();
        while all.len() < 10 {
            let after = all.last().map_or(0, |entry: &Entry| entry.position);
            let some = timely(bus.read(&topic, after, limit)).await.expect("read");
            assert!(!some.is_empty() && some.len() <= most, "{} entries with {limit:?}", some.len());
            all.extend(some);
        }
        assert_eq!(ids(&all), (1..=10).collect::<Vec<_>>());
    }
}

async fn nothing_is_there_before_the_first(bus: &dyn Bus, topic: Topic) {
    assert_eq!((bus.first(&topic), bus.last(&topic)), (1, 0));
    assert_eq!(read(bus, &topic, 0).await, []);
    assert_eq!(read(bus, &topic, 7).await, [], "nor past the end");
}

async fn what_cannot_be_appended_is_refused(bus: &dyn Bus, topic: Topic) {
    let nothing = timely(bus.publish(topic.clone(), Vec::new())).await;
    assert!(matches!(nothing, Err(BusError::Refused(_))), "{nothing:?}");
    let large = Message { id: id(1), payload: Bytes::from(vec![0; 1_500_001]) };
    let large = timely(bus.publish(topic.clone(), vec![large])).await;
    assert!(matches!(large, Err(BusError::Refused(_))), "{large:?}");
    assert_eq!(bus.last(&topic), 0);
    let largest = Message { id: id(1), payload: Bytes::from(vec![0; 1_500_000]) };
    timely(bus.publish(topic.clone(), vec![largest])).await.expect("the largest event there may be");
    let long = "n".repeat(1_000);
    let unnamed = timely(bus.publish(Topic::from(long.as_str()), vec![message(1)])).await;
    assert!(matches!(unnamed, Err(BusError::Refused(_))), "{unnamed:?}");
}

async fn a_wait_ends_with_the_next_entry(bus: &dyn Bus, topic: Topic) {
    // Nobody has published: the stream does not exist yet.
    let wait = bus.wait_past(&topic, 0);
    let (waited, _) = tokio::join!(timely(wait), publish(bus, &topic, &[1]));
    assert_eq!(waited, Ok(1));
    assert_eq!(timely(bus.wait_past(&topic, 0)).await, Ok(1), "what is there is not waited for");
    publish(bus, &topic, &[2]).await;
    let (waited, _) = tokio::join!(timely(bus.wait_past(&topic, 2)), publish(bus, &topic, &[3]));
    assert_eq!(waited, Ok(3));
    // A repetition appends nothing and wakes nobody.
    let mut wait = Box::pin(bus.wait_past(&topic, 3));
    publish(bus, &topic, &[3]).await;
    assert!(futures_util::poll!(&mut wait).is_pending());
    publish(bus, &topic, &[4]).await;
    assert_eq!(timely(wait).await, Ok(4));
}

async fn concurrent_publishers_lose_and_double_nothing(bus: &dyn Bus, topic: Topic) {
    // Each batch is published twice, at the same time.
    let publishers = (0..32_u128).map(|publisher| {
        let topic = topic.clone();
        async move {
            for batch in 0..4 {
                let from = (publisher / 2) * 1_000 + batch * 10 + 1;
                publish(bus, &topic, &(from..from + 10).collect::<Vec<_>>()).await;
            }
        }
    });
    join_all(publishers).await;
    let entries = read(bus, &topic, 0).await;
    assert_eq!(entries.iter().map(|entry| entry.position).collect::<Vec<_>>(), (1..=640).collect::<Vec<Position>>());
    let expected: Vec<u128> = (0..16).flat_map(|publisher| (1..=40).map(move |n| publisher * 1_000 + n)).collect();
    let mut found = ids(&entries);
    for publisher in 0..16 {
        let own = found.iter().filter(|id| **id / 1_000 == publisher);
        assert!(own.is_sorted(), "what one publisher sends in turn stays in turn");
    }
    found.sort_unstable();
    assert_eq!(found, expected);
}

async fn a_publisher_that_goes_away_can_come_back(bus: &dyn Bus, topic: Topic) {
    for n in 1..=20 {
        {
            let mut gone = Box::pin(bus.publish(topic.clone(), vec![message(n)]));
            let _ = futures_util::poll!(&mut gone);
        }
        publish(bus, &topic, &[n]).await;
    }
    // A message that was under way when its publisher left may have come first; none may have come twice.
    assert_eq!(ids(&read(bus, &topic, 0).await), (1..=20).collect::<Vec<_>>());
}

async fn a_group_starts_where_it_is_told(bus: &dyn Bus, topic: Topic) {
    let ensure = |group: &'static str, start| timely(bus.ensure_group(topic.clone(), group, start));
    assert_eq!(ensure("early", Start::Latest).await, Ok(0), "the stream is made if need be");
    publish(bus, &topic, &[1, 2, 3]).await;
    assert_eq!(ensure("early", Start::Latest).await, Ok(0), "an old group stays where it is");
    assert_eq!(ensure("first", Start::First).await, Ok(0));
    assert_eq!(ensure("latest", Start::Latest).await, Ok(3));
    assert_eq!(ensure("after", Start::After(2)).await, Ok(2));
    let past = ensure("past", Start::After(4)).await;
    assert!(matches!(past, Err(BusError::Refused(_))), "{past:?}");
    let unnamed = ensure("", Start::First).await;
    assert!(matches!(unnamed, Err(BusError::Refused(_))), "{unnamed:?}");
}

async fn a_group_only_moves_on(bus: &dyn Bus, topic: Topic) {
    let advance = |group: &'static str, position| timely(bus.advance_group(topic.clone(), group, position));
    let stands = || timely(bus.ensure_group(topic.clone(), "group", Start::First));
    assert_eq!(advance("group", 1).await, Err(BusError::NoSuchStream));
    publish(bus, &topic, &[1, 2, 3]).await;
    assert_eq!(advance("group", 1).await, Err(BusError::NoSuchGroup));
    assert_eq!(stands().await, Ok(0));
    assert_eq!(advance("group", 2).await, Ok(()));
    assert_eq!(advance("group", 1).await, Ok(()), "not an error, but no way back");
    assert_eq!(stands().await, Ok(2));
    let past = advance("group", 4).await;
    assert!(matches!(past, Err(BusError::Refused(_))), "{past:?}");
    assert_eq!(advance("group", 3).await, Ok(()));
    assert_eq!(stands().await, Ok(3));
    assert_eq!(ids(&read(bus, &topic, 0).await), [1, 2, 3], "the window keeps what is done, for tails");
}

async fn timely<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("the bus answers in time")
}

/// Publishes as a publisher has to: an unknown outcome is retried with the same ids.
async fn publish(bus: &dyn Bus, topic: &Topic, numbers: &[u128]) -> Published {
    let publish = async {
        loop {
            match bus.publish(topic.clone(), numbers.iter().copied().map(message).collect()).await {
                Ok(published) => return published,
                Err(BusError::Unknown(_)) => {}
                Err(error) => panic!("published, but {error}"),
            }
        }
    };
    timely(publish).await
}

async fn read(bus: &dyn Bus, topic: &Topic, after: Position) -> Vec<Entry> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let after = all.last().map_or(after, |entry| entry.position);
        let more = timely(bus.read(topic, after, ReadLimit::default())).await.expect("read");
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn message(number: u128) -> Message {
    Message { id: id(number), payload: Bytes::from(number.to_string()) }
}

fn ids(entries: &[Entry]) -> Vec<u128> {
    entries.iter().map(|entry| entry.id.as_u128()).collect()
}

async fn keys_are_found_by_their_beginning(bus: &dyn Bus, prefix: &str) {
    let name = |key: &str| Bytes::from(format!("{prefix}/{key}"));
    let names = || bus.keys(format!("{prefix}/a").as_bytes(), 10).into_iter().map(|found| (found.key, found.value)).collect::<Vec<_>>();
    assert_eq!(names(), []);
    for (key, value) in [("a/2", "two"), ("b", "other"), ("a/1", "one"), ("a/1", "one again")] {
        bus.set_key(name(key), value.into(), Duration::from_mins(10)).await.expect("a key is set");
    }
    assert_eq!(names(), [(name("a/1"), Bytes::from("one again")), (name("a/2"), Bytes::from("two"))]);
    let one = bus.keys(format!("{prefix}/a").as_bytes(), 1);
    assert_eq!(one.len(), 1, "a limit is kept");
    assert!(one[0].expires_at.is_some_and(|at| at > 1_600_000_000_000), "it says when it is gone");
    bus.delete_key(name("a/1")).await.expect("a key is deleted");
    bus.delete_key(name("a/1")).await.expect("and once more");
    assert_eq!(names(), [(name("a/2"), Bytes::from("two"))]);
}
