//! Background tasks: each that was enqueued comes to a worker, and none comes again once its acknowledgement is known to
//! have been taken.
//!
//! An acknowledgement has no answer. But a worker is sent a run only after what it said of the one before was taken, so
//! the next run on the same connection proves it.

use std::collections::{BTreeMap, BTreeSet};

use super::{done, listed, operations};
use crate::client::Outcome;
use crate::history::Entry;
use crate::verdict::Verdict;

/// Judges operations `enqueue` {task}, and `received` and `acked` {task, connection}.
pub fn check(entries: &[Entry]) -> Verdict {
    let enqueued = operations(entries, "enqueue");
    let task = |operation: &super::Operation| operation.asked["task"].as_str().unwrap_or_default().to_owned();
    let promised: BTreeSet<String> = enqueued.iter().filter(|one| one.outcome == Outcome::Ok).map(task).collect();
    let possible: BTreeSet<String> = enqueued.iter().filter(|one| one.outcome != Outcome::Failed).map(task).collect();
    // Of each connection, what was acknowledged and not yet proved to be taken.
    let mut last: BTreeMap<&str, &str> = BTreeMap::new();
    let mut taken: BTreeMap<&str, f64> = BTreeMap::new();
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    let mut acked: BTreeSet<&str> = BTreeSet::new();
    let mut wrong = Vec::new();
    for entry in entries.iter().filter(|entry| entry.outcome == Some(Outcome::Ok)) {
        let (Some(task), Some(connection)) = (entry.value["task"].as_str(), entry.value["connection"].as_str()) else { continue };
        match entry.operation.as_str() {
            "acked" => {
                acked.insert(task);
                last.insert(connection, task);
            }
            "received" => {
                *times.entry(task).or_default() += 1;
                if !possible.contains(task) {
                    wrong.push(format!("{task} was sent to {connection}, and nobody had enqueued it"));
                }
                if let Some(before) = last.remove(connection) {
                    taken.entry(before).or_insert(entry.at);
                }
                if let Some(at) = taken.get(task) {
                    wrong.push(format!("{task} was sent to {connection} at {:.1} s, though it was acknowledged by {at:.1} s", entry.at));
                }
            }
            _ => {}
        }
    }
    let lost: Vec<&String> = promised.iter().filter(|task| !acked.contains(task.as_str())).collect();
    for task in &lost {
        let seen = times.get(task.as_str()).copied().unwrap_or_default();
        wrong.push(format!("{task} was enqueued, sent {seen} times, and is not done"));
    }
    if !wrong.is_empty() {
        return Verdict::Invalid(listed(&wrong));
    }
    if promised.is_empty() || taken.is_empty() {
        return Verdict::Unknown(format!("{} tasks were enqueued, {} surely acknowledged", promised.len(), taken.len()));
    }
    let again = times.values().filter(|times| **times > 1).count();
    let unanswered = done(entries, "received").count() - done(entries, "acked").count();
    Verdict::Valid(format!(
        "{} tasks are done, {} more of unknown outcome; {again} were sent again, {unanswered} deliveries not acknowledged",
        promised.len(),
        possible.difference(&promised).filter(|task| acked.contains(task.as_str())).count()
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::written::entry;
    use super::*;

    struct Written(Vec<Entry>);

    impl Written {
        fn enqueued(tasks: &[&str]) -> Self {
            let mut entries = Vec::new();
            for task in tasks {
                entry(&mut entries, "producer", "enqueue", json!({"task": task}), None);
                entry(&mut entries, "producer", "enqueue", json!(null), Some(Outcome::Ok));
            }
            Self(entries)
        }

        fn of(&mut self, what: &str, connection: &str, task: &str) -> &mut Self {
            entry(&mut self.0, connection, what, json!({"task": task, "connection": connection}), Some(Outcome::Ok));
            self
        }

        fn runs(&mut self, connection: &str, task: &str) -> &mut Self {
            self.of("received", connection, task).of("acked", connection, task)
        }

        fn verdict(&self) -> Verdict {
            check(&self.0)
        }
    }

    #[test]
    fn each_once_is_valid_and_so_is_again_before_the_acknowledgement() {
        assert!(matches!(Written::enqueued(&["1", "2"]).runs("a", "1").runs("a", "2").verdict(), Verdict::Valid(_)));
        let mut died = Written::enqueued(&["1", "2", "3"]);
        died.of("received", "a", "1").runs("b", "1").runs("b", "2").runs("b", "3");
        assert!(matches!(died.verdict(), Verdict::Valid(_)), "{}", died.verdict());
        // Acknowledged, and the connection broke: whether that was taken is not known.
        let mut broke = Written::enqueued(&["1", "2"]);
        broke.runs("a", "1").runs("b", "1").runs("b", "2");
        assert!(matches!(broke.verdict(), Verdict::Valid(_)), "{}", broke.verdict());
    }

    #[test]
    fn again_after_the_acknowledgement_lost_and_invented_are_invalid() {
        let mut twice = Written::enqueued(&["1", "2"]);
        twice.runs("a", "1").runs("a", "2").runs("b", "1");
        assert!(matches!(twice.verdict(), Verdict::Invalid(_)));
        let mut lost = Written::enqueued(&["1", "2", "3"]);
        lost.runs("a", "1").runs("a", "2");
        assert!(matches!(lost.verdict(), Verdict::Invalid(_)));
        let mut dropped = Written::enqueued(&["1", "2", "3"]);
        dropped.of("received", "a", "3").runs("b", "1").runs("b", "2");
        assert!(matches!(dropped.verdict(), Verdict::Invalid(_)), "sent, and never done");
        let mut invented = Written::enqueued(&["1"]);
        invented.runs("a", "1").runs("a", "2");
        assert!(matches!(invented.verdict(), Verdict::Invalid(_)));
        assert!(matches!(Written::enqueued(&[]).verdict(), Verdict::Unknown(_)));
    }
}
