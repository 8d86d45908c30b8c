//! Events: each that was confirmed is kept, once, and none that nobody sent. Subscribers see, on one connection, no event
//! twice, no gap, and of each publisher what was confirmed earlier before what was sent after that.
//!
//! A publisher sends batches; it sends the next only when the one before is confirmed, and resends where it is not. Within
//! a batch no order is promised: parts of it may travel over two nodes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{done, listed, operations};
use crate::client::Outcome;
use crate::history::Entry;
use crate::verdict::Verdict;

fn ids(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Judges operations `publish` [ids] of publishers; `sent` [ids] and `confirmed` [ids] of clients that do not say in which
/// batches; in the end `found` {id: times}; and `consumed` {connection, ordered, ids} of subscribers, in the order in which
/// they came.
pub fn check(entries: &[Entry]) -> Verdict {
    let published = operations(entries, "publish");
    // Of each event: its publisher and the batch in which it was first sent.
    let mut batch_of: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
    let mut batches: BTreeMap<&str, Vec<BTreeSet<&str>>> = BTreeMap::new();
    let (mut confirmed, mut resent) = (BTreeSet::new(), 0);
    for publish in &published {
        let of = batches.entry(&publish.process).or_default();
        let fresh: BTreeSet<&str> = ids(&publish.asked).filter(|id| !batch_of.contains_key(id)).collect();
        resent += ids(&publish.asked).count() - fresh.len();
        if !fresh.is_empty() {
            batch_of.extend(fresh.iter().map(|id| (*id, (publish.process.as_str(), of.len()))));
            of.push(fresh);
        }
        if publish.outcome == Outcome::Ok {
            confirmed.extend(ids(&publish.asked));
        }
    }
    for (_, entry) in done(entries, "sent") {
        // One batch, within which there is no order.
        batch_of.extend(ids(&entry.value).map(|id| (id, (entry.process.as_str(), 0))));
    }
    confirmed.extend(done(entries, "confirmed").flat_map(|(_, entry)| ids(&entry.value)));
    let mut found: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, entry) in done(entries, "found") {
        for (id, times) in entry.value.as_object().into_iter().flatten() {
            found.insert(id, times.as_u64().unwrap_or_default());
        }
    }
    let mut wrong = Vec::new();
    let mut count = |what: &str, of: usize| {
        if of > 0 {
            wrong.push(format!("{of} {what}"));
        }
    };
    count("confirmed events lost", confirmed.iter().filter(|id| !found.contains_key(*id)).count());
    count("written twice", found.values().filter(|times| **times > 1).count());
    count("never sent", found.keys().filter(|id| !batch_of.contains_key(*id)).count());
    let (connections, seen) = streams(entries, &batch_of, &batches, &confirmed, &mut wrong);
    if !wrong.is_empty() {
        return Verdict::Invalid(format!("{} of {} confirmed events", listed(&wrong), confirmed.len()));
    }
    if confirmed.is_empty() {
        return Verdict::Unknown("no event was confirmed".to_owned());
    }
    let unknown = batch_of.keys().filter(|id| !confirmed.contains(*id));
    let (open, there) = unknown.fold((0, 0), |(open, there), id| (open + 1, there + usize::from(found.contains_key(id))));
    Verdict::Valid(format!(
        "{} confirmed events are there once, {resent} resends; of {open} unconfirmed ones {there} are; {connections} subscriptions saw {seen} \
         events without a gap, in order",
        confirmed.len(),
    ))
}

/// What one connection of a subscriber saw.
#[derive(Default)]
struct Stream<'a> {
    ordered: bool,
    ids: Vec<&'a str>,
}

fn streams<'a>(
    entries: &'a [Entry],
    batch_of: &BTreeMap<&str, (&str, usize)>,
    batches: &BTreeMap<&str, Vec<BTreeSet<&str>>>,
    confirmed: &BTreeSet<&str>,
    wrong: &mut Vec<String>,
) -> (usize, usize) {
    let mut streams: BTreeMap<&str, Stream<'a>> = BTreeMap::new();
    for (_, entry) in done(entries, "consumed") {
        let stream = streams.entry(entry.value["connection"].as_str().unwrap_or_default()).or_default();
        stream.ordered = entry.value["ordered"] == true;
        stream.ids.extend(ids(&entry.value["ids"]));
    }
    for (name, stream) in &streams {
        let mut seen = BTreeSet::new();
        // Of each publisher: the first batch, the newest, and whether one came after a later one.
        let mut span: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for id in &stream.ids {
            if !seen.insert(*id) {
                wrong.push(format!("{name} saw {id} twice"));
            }
            let Some((publisher, batch)) = batch_of.get(id) else {
                wrong.push(format!("{name} saw {id}, which nobody sent"));
                continue;
            };
            let (first, newest) = span.entry(publisher).or_insert((*batch, *batch));
            if stream.ordered && batch < newest {
                wrong.push(format!("{name} saw batch {batch} of {publisher} after batch {newest}"));
            }
            *first = (*first).min(*batch);
            *newest = (*newest).max(*batch);
        }
        for (publisher, (first, newest)) in span {
            for (number, batch) in batches.get(publisher).into_iter().flatten().enumerate().take(newest).skip(first + 1) {
                let missing = batch.iter().filter(|id| confirmed.contains(*id) && !seen.contains(*id)).count();
                if missing > 0 {
                    wrong.push(format!(
                        "{name} saw batches {first} and {newest} of {publisher}, and not {missing} events of batch {number}"
                    ));
                }
            }
        }
    }
    (streams.len(), streams.values().map(|stream| stream.ids.len()).sum())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::written::entry;
    use super::*;

    struct Written(Vec<Entry>);

    impl Written {
        fn publish(&mut self, ids: &[&str], outcome: Outcome) -> &mut Self {
            entry(&mut self.0, "p", "publish", json!(ids), None);
            entry(&mut self.0, "p", "publish", json!(null), Some(outcome));
            self
        }

        fn consumed(&mut self, connection: &str, ids: &[&str]) -> &mut Self {
            let value = json!({"connection": connection, "ordered": true, "ids": ids});
            entry(&mut self.0, "s", "consumed", value, Some(Outcome::Ok));
            self
        }

        fn found(&mut self, found: Value) -> Verdict {
            entry(&mut self.0, "observer", "found", found, Some(Outcome::Ok));
            check(&self.0)
        }
    }

    fn three() -> Written {
        let mut written = Written(Vec::new());
        written.publish(&["1", "2"], Outcome::Ok).publish(&["3"], Outcome::Ok).publish(&["4"], Outcome::Ok);
        written
    }

    const ALL: &str = r#"{"1": 1, "2": 1, "3": 1, "4": 1}"#;

    fn all() -> Value {
        serde_json::from_str(ALL).expect("JSON")
    }

    fn is_invalid(verdict: Verdict, what: &str) {
        match verdict {
            Verdict::Invalid(why) => assert!(why.contains(what), "{why}"),
            other => panic!("{other}, but {what}"),
        }
    }

    #[test]
    fn what_was_confirmed_is_there_once() {
        assert!(matches!(three().found(all()), Verdict::Valid(_)));
        is_invalid(three().found(json!({"1": 1, "2": 1, "4": 1})), "1 confirmed events lost");
        is_invalid(three().found(json!({"1": 1, "2": 2, "3": 1, "4": 1})), "1 written twice");
        is_invalid(three().found(json!({"1": 1, "2": 1, "3": 1, "4": 1, "5": 1})), "1 never sent");
        assert!(matches!(Written(Vec::new()).publish(&["1"], Outcome::Unknown).found(json!({"1": 1})), Verdict::Unknown(_)));
        // Without an answer, and resent.
        let mut resent = Written(Vec::new());
        resent.publish(&["1", "2"], Outcome::Unknown).publish(&["1", "2"], Outcome::Ok).publish(&["3"], Outcome::Unknown);
        assert!(matches!(resent.found(json!({"1": 1, "2": 1})), Verdict::Valid(_)));
    }

    #[test]
    fn events_of_a_client_without_batches_are_kept_too() {
        let written = || {
            let mut written = three();
            entry(&mut written.0, "client", "sent", json!(["5", "6"]), Some(Outcome::Ok));
            entry(&mut written.0, "client", "confirmed", json!(["5"]), Some(Outcome::Ok));
            written
        };
        let with = |ids: &[&str]| {
            let mut found = all();
            for id in ids {
                found[*id] = json!(1);
            }
            found
        };
        assert!(matches!(written().consumed("c", &["6", "1", "5"]).found(with(&["5", "6"])), Verdict::Valid(_)));
        assert!(matches!(written().found(with(&["5"])), Verdict::Valid(_)));
        is_invalid(written().found(with(&["6"])), "1 confirmed events lost");
    }

    #[test]
    fn a_subscriber_sees_all_in_order_once() {
        assert!(matches!(three().consumed("c", &["2", "1", "3"]).consumed("c", &["4"]).found(all()), Verdict::Valid(_)));
        assert!(matches!(three().consumed("c", &["2", "3"]).consumed("d", &["3", "4"]).found(all()), Verdict::Valid(_)));
        is_invalid(three().consumed("c", &["1", "2", "4"]).found(all()), "not 1 events of batch 1");
        is_invalid(three().consumed("c", &["1", "2", "1", "3"]).found(all()), "saw 1 twice");
        is_invalid(three().consumed("c", &["3", "1", "2"]).found(all()), "after batch 1");
        is_invalid(three().consumed("c", &["1", "2", "9"]).found(all()), "nobody sent");
    }
}
