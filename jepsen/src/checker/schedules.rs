//! Schedules: from the first slot of each deployment to the last one that was due, each has one run; no run has another
//! time; of two workers one gets it; and what nobody took in time is called late.

use std::collections::{BTreeMap, BTreeSet};

use super::{done, listed, operations};
use crate::client::Outcome;
use crate::history::Entry;
use crate::verdict::Verdict;

/// What a deployment is to have, in milliseconds since 1970.
struct Deployment {
    made: i64,
    anchor: i64,
    every: i64,
    /// How long after it was made its first slot may be.
    begins_within: i64,
    /// Runs of slots so long ago are late or taken.
    late_after: i64,
}

/// A run, as the database has it in the end.
struct Run<'a> {
    slot: i64,
    key: &'a str,
    state: &'a str,
}

/// Judges `deployed` {deployment, made, anchor, every, begins_within, late_after}; in the end `run` {deployment, slot, key,
/// state} for each run and `ended` {at}, all in milliseconds; and operations `claim` {run} -> {accepted} of workers.
pub fn check(entries: &[Entry]) -> Verdict {
    let Some(ended) = done(entries, "ended").last().and_then(|(_, entry)| entry.value["at"].as_i64()) else {
        return Verdict::Unknown("the end was not seen".to_owned());
    };
    let mut runs: BTreeMap<&str, Vec<Run<'_>>> = BTreeMap::new();
    for (_, entry) in done(entries, "run") {
        let text = |name: &str| entry.value[name].as_str().unwrap_or_default();
        let run = Run { slot: entry.value["slot"].as_i64().unwrap_or_default(), key: text("key"), state: text("state") };
        runs.entry(text("deployment")).or_default().push(run);
    }
    let (mut wrong, mut slots, mut late, mut keys) = (Vec::new(), 0, 0, BTreeSet::new());
    let mut deployments = 0;
    for (_, entry) in done(entries, "deployed") {
        let number = |name: &str| entry.value[name].as_i64().unwrap_or_default();
        let name = entry.value["deployment"].as_str().unwrap_or_default();
        let of = Deployment {
            made: number("made"),
            anchor: number("anchor"),
            every: number("every").max(1),
            begins_within: number("begins_within"),
            late_after: number("late_after"),
        };
        deployments += 1;
        let of_it = runs.remove(name).unwrap_or_default();
        for run in &of_it {
            if !keys.insert(run.key) {
                wrong.push(format!("{name} has two runs under the key {}", run.key));
            }
        }
        let (expected, counted) = judge(name, &of, &of_it, ended, &mut wrong);
        slots += expected;
        late += counted;
    }
    wrong.extend(runs.keys().map(|name| format!("{name} has runs, and nobody deployed it")));
    let mut claims: BTreeMap<&str, usize> = BTreeMap::new();
    let all = operations(entries, "claim");
    for claim in all.iter().filter(|claim| claim.outcome == Outcome::Ok && claim.answered["accepted"] == true) {
        *claims.entry(claim.asked["run"].as_str().unwrap_or_default()).or_default() += 1;
    }
    wrong.extend(claims.iter().filter(|(_, times)| **times > 1).map(|(run, times)| format!("{times} workers got run {run}")));
    if !wrong.is_empty() {
        return Verdict::Invalid(listed(&wrong));
    }
    if deployments == 0 || slots == 0 || late == 0 || claims.is_empty() {
        let counted = format!("{deployments} deployments, {slots} slots, {late} of them late, {} taken by workers", claims.len());
        return Verdict::Unknown(format!("too little happened: {counted}"));
    }
    Verdict::Valid(format!(
        "{slots} slots of {deployments} deployments have one run each, {late} are late; {} runs were taken by one worker each",
        claims.len()
    ))
}

/// How many slots a deployment was to have by now, and how many are late.
fn judge(name: &str, of: &Deployment, runs: &[Run<'_>], ended: i64, wrong: &mut Vec<String>) -> (usize, usize) {
    let mut found: BTreeMap<i64, usize> = BTreeMap::new();
    for run in runs {
        *found.entry(run.slot).or_default() += 1;
        if (run.slot - of.anchor).rem_euclid(of.every) != 0 {
            wrong.push(format!("{name} has a run at {}, which is no slot of its schedule", run.slot));
        }
    }
    wrong.extend(found.iter().filter(|(_, times)| **times > 1).map(|(slot, times)| format!("{name} has {times} runs for slot {slot}")));
    let must_begin_by = of.made + of.begins_within + of.every;
    let Some(first) = found.keys().next().copied().filter(|first| *first <= ended) else {
        if must_begin_by <= ended {
            wrong.push(format!("{name} was made {} ms before the end and has no slot", ended - of.made));
        }
        return (0, 0);
    };
    if first > must_begin_by {
        wrong.push(format!("the first slot of {name} is {} ms after it was made", first - of.made));
    }
    let (mut expected, mut slot) = (0, first);
    while slot <= ended {
        expected += 1;
        if !found.contains_key(&slot) {
            wrong.push(format!("{name} has no run for slot {slot}, {} ms after its first", slot - first));
        }
        slot += of.every;
    }
    for run in runs.iter().filter(|run| run.slot + of.late_after <= ended && run.state == "Scheduled") {
        wrong.push(format!("the run of {name} for slot {} is {} ms over its time and not late", run.slot, ended - run.slot));
    }
    (expected, runs.iter().filter(|run| run.state == "Late").count())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::written::{self, entry};
    use super::*;

    /// One that is due every second, made at 500 and looked at at 20,000.
    fn verdict(runs: &[(i64, &str)], claims: &[(&str, bool)]) -> Verdict {
        let deployed = json!({"deployment": "d", "made": 500, "anchor": 0, "every": 1000, "begins_within": 3000, "late_after": 5000});
        let mut entries = written::done(&[("setup", "deployed", deployed)]);
        for (process, (run, accepted)) in claims.iter().enumerate() {
            entry(&mut entries, &process.to_string(), "claim", json!({"run": run}), None);
            entry(&mut entries, &process.to_string(), "claim", json!({"accepted": accepted}), Some(Outcome::Ok));
        }
        for (number, (slot, state)) in runs.iter().enumerate() {
            let run = json!({"deployment": "d", "slot": slot, "key": number.to_string(), "state": state});
            entry(&mut entries, "observer", "run", run, Some(Outcome::Ok));
        }
        entry(&mut entries, "observer", "ended", json!({"at": 20_000}), Some(Outcome::Ok));
        check(&entries)
    }

    fn all() -> Vec<(i64, &'static str)> {
        (1..30).map(|slot| (slot * 1000, if slot <= 16 { "Late" } else { "Scheduled" })).collect()
    }

    const CLAIMS: &[(&str, bool)] = &[("r", true), ("r", false), ("q", true)];

    fn is_invalid(runs: &[(i64, &str)], what: &str) {
        match verdict(runs, CLAIMS) {
            Verdict::Invalid(why) => assert!(why.contains(what), "{why}"),
            other => panic!("{other}, but {what}"),
        }
    }

    #[test]
    fn one_run_for_each_slot_is_valid() {
        assert!(matches!(verdict(&all(), CLAIMS), Verdict::Valid(_)), "{}", verdict(&all(), CLAIMS));
        assert!(matches!(verdict(&all(), &[]), Verdict::Unknown(_)), "no worker took one");
    }

    #[test]
    fn a_slot_that_is_missing_doubled_odd_not_late_or_comes_too_late_is_invalid() {
        let mut missing = all();
        missing.remove(7);
        is_invalid(&missing, "no run for slot 8000");
        is_invalid(&[all(), vec![(8000, "Late")]].concat(), "2 runs for slot 8000");
        is_invalid(&[all(), vec![(8500, "Late")]].concat(), "no slot of its schedule");
        let mut waiting = all();
        waiting[3].1 = "Scheduled";
        is_invalid(&waiting, "not late");
        is_invalid(&all()[6..], "the first slot of d");
        is_invalid(&[], "has no slot");
    }

    #[test]
    fn a_run_that_two_workers_got_is_invalid() {
        assert!(matches!(verdict(&all(), &[("r", true), ("r", true)]), Verdict::Invalid(_)));
    }
}
