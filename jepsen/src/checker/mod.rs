//! Verdicts over histories: pure functions of what clients and observers wrote down, so that each can be shown to catch
//! what it is there for. They know no cluster and no clock.
//!
//! A process does one thing at a time: an entry without an outcome begins an operation, the next one of the same process
//! and name with an outcome ends it. One that never ends may or may not have happened.

pub mod actions;
pub mod deliveries;
pub mod events;
pub mod leaders;
pub mod linear;
pub mod registers;
pub mod runs;
pub mod schedules;
pub mod slots;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::client::Outcome;
use crate::history::Entry;

/// An operation from its beginning to its end. Places are those of its entries in the history: real time, in order.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Who.
    pub process: String,
    /// What was asked for.
    pub asked: Value,
    /// What was answered; null where nothing was.
    pub answered: Value,
    /// What the client knows of it.
    pub outcome: Outcome,
    /// Where it began.
    pub called: usize,
    /// Where it ended; `None` where its effect may come at any time after it began.
    pub ended: Option<usize>,
    /// Seconds since the history began, when it began.
    pub called_at: f64,
    /// The same of its end; of what it was last known to be under way where it has none.
    pub ended_at: f64,
}

/// The operations called `name`, in the order in which they began.
pub fn operations(entries: &[Entry], name: &str) -> Vec<Operation> {
    let mut found: Vec<Operation> = Vec::new();
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.operation == name) {
        let Some(outcome) = &entry.outcome else {
            open.insert(&entry.process, found.len());
            found.push(Operation {
                process: entry.process.clone(),
                asked: entry.value.clone(),
                answered: Value::Null,
                outcome: Outcome::Unknown,
                called: place,
                ended: None,
                called_at: entry.at,
                ended_at: entry.at,
            });
            continue;
        };
        let Some(begun) = open.remove(entry.process.as_str()) else { continue };
        let operation = &mut found[begun];
        operation.answered = entry.value.clone();
        operation.outcome = outcome.clone();
        operation.ended_at = entry.at;
        operation.ended = (*outcome != Outcome::Unknown).then_some(place);
    }
    found
}

/// The entries called `name` that tell of something done.
pub fn done<'a>(entries: &'a [Entry], name: &str) -> impl Iterator<Item = (usize, &'a Entry)> {
    let name = name.to_owned();
    entries.iter().enumerate().filter(move |(_, entry)| entry.operation == name && entry.outcome == Some(Outcome::Ok))
}

/// A list of what is wrong, short enough to be read.
pub(crate) fn listed(wrong: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = wrong.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if wrong.len() > SHOWN { format!("{shown}; and {} more", wrong.len() - SHOWN) } else { shown }
}

#[cfg(test)]
pub(crate) mod written {
    //! Histories by hand, for tests.

    use serde_json::Value;

    use crate::client::Outcome;
    use crate::history::Entry;

    /// An entry a second after the one before.
    pub fn entry(entries: &mut Vec<Entry>, process: &str, operation: &str, value: Value, outcome: Option<Outcome>) {
        let at = entries.len() as f64;
        entries.push(Entry { at, process: process.to_owned(), operation: operation.to_owned(), value, outcome });
    }

    /// Entries that each tell of something done, as (process, operation, value).
    pub fn done(all: &[(&str, &str, Value)]) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (process, operation, value) in all {
            entry(&mut entries, process, operation, value.clone(), Some(Outcome::Ok));
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ends_belong_to_beginnings_of_the_same_process() {
        let mut entries = Vec::new();
        written::entry(&mut entries, "a", "set", json!(1), None);
        written::entry(&mut entries, "b", "set", json!(2), None);
        written::entry(&mut entries, "nemesis", "kill", json!(2), None);
        written::entry(&mut entries, "a", "set", json!("one"), Some(Outcome::Ok));
        written::entry(&mut entries, "a", "set", json!(3), None);
        written::entry(&mut entries, "b", "set", json!("?"), Some(Outcome::Unknown));
        let found = operations(&entries, "set");
        let seen: Vec<_> = found.iter().map(|one| (one.asked.clone(), one.called, one.ended, one.outcome.clone())).collect();
        assert_eq!(
            seen,
            [(json!(1), 0, Some(3), Outcome::Ok), (json!(2), 1, None, Outcome::Unknown), (json!(3), 4, None, Outcome::Unknown),]
        );
        assert_eq!(found[0].answered, json!("one"));
    }
}
