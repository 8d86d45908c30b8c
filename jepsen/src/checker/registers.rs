//! Values that clients set and read through any node: each name is a register, written whole, and linearizable.

use std::collections::BTreeMap;

use super::linear::{self, Call, Found, Model};
use super::{listed, operations};
use crate::client::Outcome;
use crate::history::Entry;
use crate::verdict::Verdict;

/// Configurations that are looked at for one name, at most.
const BOUND: usize = 500_000;

struct Register;

#[derive(Clone, Copy, Debug)]
enum Op {
    Write(u64),
    Read(u64),
}

impl Model for Register {
    type State = u64;
    type Op = Op;

    fn initial(&self) -> u64 {
        0
    }

    fn step(&self, state: &u64, op: &Op) -> Option<u64> {
        match *op {
            Op::Write(value) => Some(value),
            Op::Read(value) => (*state == value).then_some(*state),
        }
    }
}

/// Judges operations `write` {name, value} and `look` {name} -> value; each name begins as 0.
pub fn check(entries: &[Entry]) -> Verdict {
    let mut names: BTreeMap<String, Vec<Call<Op>>> = BTreeMap::new();
    let (mut writes, mut reads, mut wrong) = (0, 0, Vec::new());
    for write in operations(entries, "write").into_iter().filter(|write| write.outcome != Outcome::Failed) {
        let (Some(name), Some(value)) = (write.asked["name"].as_str(), write.asked["value"].as_u64()) else { continue };
        let call = Call { op: Op::Write(value), called: write.called, ended: write.ended };
        names.entry(name.to_owned()).or_default().push(call);
        writes += 1;
    }
    for look in operations(entries, "look").into_iter().filter(|look| look.outcome == Outcome::Ok) {
        let Some(name) = look.asked["name"].as_str() else { continue };
        let Some(value) = look.answered.as_u64() else {
            wrong.push(format!("{} read {} of {name}", look.process, look.answered));
            continue;
        };
        let call = Call { op: Op::Read(value), called: look.called, ended: look.ended };
        names.entry(name.to_owned()).or_default().push(call);
        reads += 1;
    }
    let mut undecided = 0;
    for (name, calls) in &names {
        match linear::check(&Register, calls, BOUND) {
            Found::Linear => {}
            Found::NotLinear(why) => wrong.push(format!("{name} is not linearizable: {why}")),
            Found::Unknown => undecided += 1,
        }
    }
    if !wrong.is_empty() {
        return Verdict::Invalid(listed(&wrong));
    }
    if undecided > 0 {
        return Verdict::Unknown(format!("{undecided} of {} names take too long to judge", names.len()));
    }
    if writes == 0 || reads == 0 {
        return Verdict::Unknown(format!("{writes} values were written, and {reads} read"));
    }
    Verdict::Valid(format!("{} names are linearizable: {writes} writes, {reads} reads", names.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::written::entry;
    use super::*;

    fn written(values: &[(&str, u64)]) -> Verdict {
        let mut entries = Vec::new();
        for (name, value) in values {
            let (asked, answered) = match *name {
                "write" => (json!({"name": "n", "value": value}), json!(null)),
                _ => (json!({"name": "n"}), json!(value)),
            };
            entry(&mut entries, "a", name, asked, None);
            entry(&mut entries, "a", name, answered, Some(Outcome::Ok));
        }
        check(&entries)
    }

    #[test]
    fn a_read_gives_the_last_write() {
        assert!(matches!(written(&[("look", 0), ("write", 1), ("look", 1), ("write", 2), ("look", 2)]), Verdict::Valid(_)));
        assert!(matches!(written(&[("write", 1), ("write", 2), ("look", 1)]), Verdict::Invalid(_)));
        assert!(matches!(written(&[("write", 1), ("look", 0)]), Verdict::Invalid(_)));
        assert!(matches!(written(&[("write", 1)]), Verdict::Unknown(_)));
    }
}
