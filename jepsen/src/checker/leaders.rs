//! Leaders, as nodes tell of them: at one node neither the epoch of the services nor Raft's term ever goes back, and
//! whoever says so, one epoch and one term belong to one node.

use std::collections::BTreeMap;

use super::{done, listed};
use crate::history::Entry;
use crate::verdict::Verdict;

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Elections of services leaders.
    pub epochs: usize,
    /// Terms that had a Raft leader.
    pub terms: usize,
}

/// Judges `services` {epoch, services_leader, term, leader} as each process, which asks one node, saw it.
///
/// # Errors
/// What is wrong.
pub fn check(entries: &[Entry]) -> Result<Seen, Verdict> {
    let mut wrong = Vec::new();
    let mut count = |number: &str, leader: &str| {
        let mut owner: BTreeMap<u64, u64> = BTreeMap::new();
        let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, entry) in done(entries, "services") {
            let Some(said) = entry.value[number].as_u64() else { continue };
            let before = newest.entry(&entry.process).or_default();
            if said < *before {
                // A restarted node applies its log anew; it may not go back behind what it said while it was ready.
                wrong.push(format!("{} went back from {number} {before} to {said} at {:.1} s", entry.process, entry.at));
            }
            *before = said.max(*before);
            let Some(named) = entry.value[leader].as_u64() else { continue };
            let known = *owner.entry(said).or_insert(named);
            if known != named {
                wrong.push(format!("{number} {said} belongs to node {known} and to node {named}, says {}", entry.process));
            }
        }
        owner.len()
    };
    let seen = Seen { epochs: count("epoch", "services_leader"), terms: count("term", "leader") };
    if wrong.is_empty() { Ok(seen) } else { Err(Verdict::Invalid(listed(&wrong))) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::written;
    use super::*;

    fn says(epoch: u64, services_leader: u64, term: u64, leader: u64) -> Value {
        json!({"epoch": epoch, "services_leader": services_leader, "term": term, "leader": leader})
    }

    fn checked(all: &[(&str, Value)]) -> Result<Seen, Verdict> {
        let all: Vec<_> = all.iter().map(|(process, value)| (*process, "services", value.clone())).collect();
        check(&written::done(&all))
    }

    #[test]
    fn what_grows_at_each_node_is_right_though_one_hears_of_it_later() {
        let seen = checked(&[("a", says(1, 1, 1, 1)), ("a", says(9, 2, 2, 2)), ("b", says(1, 1, 1, 1)), ("b", says(9, 2, 2, 2))]);
        assert_eq!(seen, Ok(Seen { epochs: 2, terms: 2 }));
    }

    #[test]
    fn going_back_and_two_of_one_number_are_wrong() {
        let back = checked(&[("a", says(9, 1, 1, 1)), ("a", says(8, 2, 1, 1))]);
        assert!(matches!(back, Err(Verdict::Invalid(why)) if why.contains("went back from epoch 9 to 8")));
        let term = checked(&[("a", says(9, 1, 3, 1)), ("a", says(9, 1, 2, 1))]);
        assert!(matches!(term, Err(Verdict::Invalid(why)) if why.contains("went back from term 3 to 2")));
        let two = checked(&[("a", says(9, 1, 3, 1)), ("b", says(9, 2, 3, 1))]);
        assert!(matches!(two, Err(Verdict::Invalid(why)) if why.contains("epoch 9 belongs to node 1 and to node 2")));
        let split = checked(&[("a", says(9, 1, 3, 1)), ("b", says(9, 1, 3, 2))]);
        assert!(matches!(split, Err(Verdict::Invalid(why)) if why.contains("term 3 belongs")));
    }
}
