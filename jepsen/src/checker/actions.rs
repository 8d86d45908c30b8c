//! Actions of automations: each event that was confirmed makes its call, under one key and no other; no event makes a call
//! that it was not to make. A call may arrive again, if its key tells that it is the same one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{done, listed, operations};
use crate::client::Outcome;
use crate::history::Entry;
use crate::verdict::Verdict;

/// Judges operations `publish` {automation, ids}, and `called` {automation, event, key} by the receiver.
pub fn check(entries: &[Entry]) -> Verdict {
    let (mut expected, mut possible) = (BTreeSet::new(), BTreeSet::new());
    for publish in operations(entries, "publish") {
        let automation = publish.asked["automation"].as_str().unwrap_or_default();
        for id in publish.asked["ids"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let call = (automation.to_owned(), id.to_owned());
            if publish.outcome == Outcome::Ok {
                expected.insert(call.clone());
            }
            possible.insert(call);
        }
    }
    let mut keys: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    let mut events: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    let (mut calls, mut wrong) = (0, Vec::new());
    for (_, entry) in done(entries, "called") {
        let text = |name: &str| entry.value[name].as_str().unwrap_or_default().to_owned();
        let call = (text("automation"), text("event"));
        calls += 1;
        if text("key").is_empty() {
            wrong.push(format!("the call of {} for {} has no key", call.0, call.1));
        }
        keys.entry(call.clone()).or_default().insert(text("key"));
        events.entry(text("key")).or_default().insert(call);
    }
    for (call, keys) in &keys {
        if keys.len() > 1 {
            wrong.push(format!("{} called for {} under {} keys", call.0, call.1, keys.len()));
        }
        if !possible.contains(call) {
            wrong.push(format!("{} called for {}, which nobody published to it", call.0, call.1));
        }
    }
    wrong.extend(events.iter().filter(|(_, of)| of.len() > 1).map(|(key, of)| format!("{key} is the key of {} calls", of.len())));
    wrong.extend(expected.iter().filter(|call| !keys.contains_key(*call)).map(|call| format!("{} never called for {}", call.0, call.1)));
    if !wrong.is_empty() {
        return Verdict::Invalid(listed(&wrong));
    }
    if expected.is_empty() {
        return Verdict::Unknown("no event was confirmed".to_owned());
    }
    Verdict::Valid(format!(
        "{} events called once each, {} of unknown outcome too; {} calls arrived again under their key",
        expected.len(),
        keys.keys().filter(|call| !expected.contains(*call)).count(),
        calls - keys.len()
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::written::entry;
    use super::*;

    fn verdict(outcome: Outcome, calls: &[(&str, &str)]) -> Verdict {
        let mut entries = Vec::new();
        entry(&mut entries, "p", "publish", json!({"automation": "a", "ids": ["1", "2"]}), None);
        entry(&mut entries, "p", "publish", json!(null), Some(outcome));
        for (event, key) in calls {
            entry(&mut entries, "receiver", "called", json!({"automation": "a", "event": event, "key": key}), Some(Outcome::Ok));
        }
        check(&entries)
    }

    #[test]
    fn each_event_calls_under_one_key() {
        assert!(matches!(verdict(Outcome::Ok, &[("1", "x"), ("2", "y")]), Verdict::Valid(_)));
        assert!(matches!(verdict(Outcome::Ok, &[("1", "x"), ("1", "x"), ("2", "y")]), Verdict::Valid(_)), "again, and known by its key");
        assert!(matches!(verdict(Outcome::Ok, &[("1", "x"), ("1", "z"), ("2", "y")]), Verdict::Invalid(_)), "under two keys");
        assert!(matches!(verdict(Outcome::Ok, &[("1", "x"), ("2", "x")]), Verdict::Invalid(_)), "one key for two");
        assert!(matches!(verdict(Outcome::Ok, &[("1", "x")]), Verdict::Invalid(_)), "one never called");
        assert!(matches!(verdict(Outcome::Ok, &[("1", "x"), ("2", "y"), ("3", "z")]), Verdict::Invalid(_)), "nobody published it");
        assert!(matches!(verdict(Outcome::Ok, &[("1", ""), ("2", "y")]), Verdict::Invalid(_)), "without a key");
        assert!(matches!(verdict(Outcome::Unknown, &[("1", "x")]), Verdict::Unknown(_)), "nothing was promised");
        assert!(matches!(verdict(Outcome::Unknown, &[("1", "x"), ("1", "y")]), Verdict::Invalid(_)), "twice all the same");
    }
}
