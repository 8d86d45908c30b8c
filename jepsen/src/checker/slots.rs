//! Slots of concurrency limits: at no moment do clients surely hold more than there are; no living client loses what it
//! leases; in the end all are free.
//!
//! A client surely holds its slots from the answer that grants them until it asks for their return, or until its lease
//! may have run out. What it was not told is not counted, so that nothing is called wrong that may be right.

use std::collections::BTreeMap;

use super::{Operation, done, listed, operations};
use crate::client::Outcome;
use crate::history::Entry;
use crate::verdict::Verdict;

/// Clocks of nodes may differ from ours by so many seconds over a lease.
const MARGIN_SECONDS: f64 = 5.0;

/// Judges `limit` {name, limit}; operations `take` {names, slots, lease_seconds} -> {lease}, `renew` {lease} -> {gone},
/// `give` {lease}; and, when all is over, `settled` {name, active}.
pub fn check(entries: &[Entry]) -> Verdict {
    let limits: BTreeMap<&str, i64> =
        done(entries, "limit").filter_map(|(_, entry)| Some((entry.value["name"].as_str()?, entry.value["limit"].as_i64()?))).collect();
    let mut wrong = Vec::new();
    let taken = operations(entries, "take");
    let granted: Vec<&Operation> = taken.iter().filter(|take| take.outcome == Outcome::Ok && take.answered["lease"].is_string()).collect();
    let by_lease = |name: &str| {
        let mut of: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
        for operation in operations(entries, name) {
            of.entry(operation.asked["lease"].as_str().unwrap_or_default().to_owned()).or_default().push(operation);
        }
        of
    };
    let (renewals, returns) = (by_lease("renew"), by_lease("give"));
    // Of each limit: when slots are surely taken and when they may be free again.
    let mut changes: BTreeMap<&str, Vec<(f64, i64)>> = BTreeMap::new();
    let (mut renewed, mut forgotten) = (0, 0);
    for take in &granted {
        let lease = take.answered["lease"].as_str().unwrap_or_default();
        let lasting = take.asked["lease_seconds"].as_f64().unwrap_or_default() - MARGIN_SECONDS;
        let returned = returns.get(lease).and_then(|of| of.first()).map(|give| give.called_at);
        forgotten += usize::from(returned.is_none());
        let mut until = take.called_at + lasting;
        for renew in renewals.get(lease).into_iter().flatten().filter(|renew| renew.outcome == Outcome::Ok) {
            let alive = renew.ended_at < until && returned.is_none_or(|returned| renew.ended_at <= returned);
            if renew.answered["gone"] == true {
                if alive {
                    wrong.push(format!(
                        "{} lost lease {lease} at {:.1} s, which was good until {until:.1} s",
                        renew.process, renew.called_at
                    ));
                }
            } else {
                renewed += 1;
                until = until.max(renew.called_at + lasting);
            }
        }
        let until = returned.map_or(until, |returned| returned.min(until));
        let slots = take.asked["slots"].as_i64().unwrap_or_default();
        for name in take.asked["names"].as_array().into_iter().flatten().filter_map(|name| name.as_str()) {
            if until > take.ended_at {
                changes.entry(name).or_default().extend([(take.ended_at, slots), (until, -slots)]);
            }
        }
    }
    let mut most = 0;
    for (name, changes) in &mut changes {
        // At the same moment, those that come back first.
        changes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let Some(limit) = limits.get(name) else {
            wrong.push(format!("slots of {name} were granted, of which nobody knows"));
            continue;
        };
        let mut held = 0;
        for (at, change) in changes {
            held += *change;
            most = most.max(held);
            if held > *limit {
                wrong.push(format!("at {at:.2} s {held} slots of {name} are held; it has {limit}"));
            }
        }
    }
    let mut settled = BTreeMap::new();
    for (_, entry) in done(entries, "settled") {
        if let (Some(name), Some(active)) = (entry.value["name"].as_str(), entry.value["active"].as_f64()) {
            settled.insert(name, active);
        }
    }
    for (name, active) in &settled {
        if *active != 0.0 {
            wrong.push(format!("in the end {active} slots of {name} are taken, and nobody holds one"));
        }
    }
    if !wrong.is_empty() {
        return Verdict::Invalid(listed(&wrong));
    }
    if granted.is_empty() || settled.len() < limits.len() {
        return Verdict::Unknown(format!(
            "{} leases were granted, {} of {} limits looked at in the end",
            granted.len(),
            settled.len(),
            limits.len()
        ));
    }
    Verdict::Valid(format!(
        "{} leases, {renewed} renewals, {forgotten} never given back, {} refusals; never more than {most} slots held; all free in the end",
        granted.len(),
        taken.iter().filter(|take| take.outcome == Outcome::Failed).count(),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::written::entry;
    use super::*;

    struct Written(Vec<Entry>);

    impl Written {
        fn new(limit: i64) -> Self {
            let mut entries = Vec::new();
            entry(&mut entries, "setup", "limit", json!({"name": "n", "limit": limit}), Some(Outcome::Ok));
            Self(entries)
        }

        fn call(&mut self, process: &str, name: &str, asked: Value, answered: Value, outcome: Outcome) -> &mut Self {
            entry(&mut self.0, process, name, asked, None);
            entry(&mut self.0, process, name, answered, Some(outcome));
            self
        }

        fn take(&mut self, process: &str, lease: &str) -> &mut Self {
            let asked = json!({"names": ["n"], "slots": 1, "lease_seconds": 60.0});
            self.call(process, "take", asked, json!({"lease": lease}), Outcome::Ok)
        }

        fn give(&mut self, process: &str, lease: &str) -> &mut Self {
            self.call(process, "give", json!({"lease": lease}), json!(null), Outcome::Ok)
        }

        fn settled(&mut self, active: f64) -> Verdict {
            entry(&mut self.0, "observer", "settled", json!({"name": "n", "active": active}), Some(Outcome::Ok));
            check(&self.0)
        }
    }

    #[test]
    fn slots_in_turn_are_valid_and_too_many_at_once_are_not() {
        let mut turn = Written::new(1);
        assert!(matches!(turn.take("a", "1").give("a", "1").take("b", "2").give("b", "2").settled(0.0), Verdict::Valid(_)));
        let mut both = Written::new(1);
        assert!(matches!(both.take("a", "1").take("b", "2").give("a", "1").give("b", "2").settled(0.0), Verdict::Invalid(_)));
        let mut two = Written::new(2);
        assert!(matches!(two.take("a", "1").take("b", "2").give("a", "1").give("b", "2").settled(0.0), Verdict::Valid(_)));
    }

    #[test]
    fn a_slot_that_stays_taken_is_invalid_and_one_not_looked_at_unknown() {
        assert!(matches!(Written::new(1).take("a", "1").give("a", "1").settled(1.0), Verdict::Invalid(_)));
        assert!(matches!(check(&Written::new(1).take("a", "1").give("a", "1").0), Verdict::Unknown(_)));
    }

    #[test]
    fn what_was_not_told_is_not_counted() {
        let mut lost = Written::new(1);
        let asked = json!({"names": ["n"], "slots": 1, "lease_seconds": 60.0});
        lost.call("a", "take", asked, json!(null), Outcome::Unknown);
        assert!(matches!(lost.take("b", "2").give("b", "2").settled(0.0), Verdict::Valid(_)));
        // Asked for its return, without an answer.
        let mut returning = Written::new(1);
        returning.take("a", "1").call("a", "give", json!({"lease": "1"}), json!(null), Outcome::Unknown);
        assert!(matches!(returning.take("b", "2").give("b", "2").settled(0.0), Verdict::Valid(_)));
    }

    #[test]
    fn a_lease_holds_as_long_as_it_was_renewed_and_no_longer() {
        // An entry is a second; a lease of 60 s may have run out after 55.
        let renew = |written: &mut Written, gone: bool| {
            written.call("a", "renew", json!({"lease": "1"}), json!({"gone": gone}), Outcome::Ok);
        };
        let idle = |written: &mut Written, seconds: usize| {
            for _ in 0..seconds {
                entry(&mut written.0, "nemesis", "kill", json!(1), None);
            }
        };
        let mut forgotten = Written::new(1);
        forgotten.take("a", "1");
        idle(&mut forgotten, 60);
        assert!(matches!(forgotten.take("b", "2").give("b", "2").settled(0.0), Verdict::Valid(_)));
        let mut renewed = Written::new(1);
        renewed.take("a", "1");
        idle(&mut renewed, 40);
        renew(&mut renewed, false);
        idle(&mut renewed, 20);
        assert!(matches!(renewed.take("b", "2").give("b", "2").settled(0.0), Verdict::Invalid(_)));
        let mut lost = Written::new(1);
        lost.take("a", "1");
        renew(&mut lost, true);
        assert!(matches!(lost.settled(0.0), Verdict::Invalid(_)), "it lived");
        let mut late = Written::new(1);
        late.take("a", "1");
        idle(&mut late, 60);
        renew(&mut late, true);
        assert!(matches!(late.settled(0.0), Verdict::Valid(_)));
    }
}
