//! States of flow runs: each run is an object whose state was set by exactly those requests that say so, in an order that
//! keeps to real time; a refusal is one that the rules demand in the state that the run was in.

use std::collections::BTreeMap;

use serde_json::Value;

use super::linear::{self, Call, Found, Model};
use super::{listed, operations};
use crate::client::Outcome;
use crate::history::Entry;
use crate::verdict::Verdict;

/// Configurations that are looked at for one run, at most.
const BOUND: usize = 500_000;

/// The states that the clients set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Waits for its time.
    Scheduled,
    /// Taken by a worker.
    Pending,
    /// At work.
    Running,
    /// Ended well.
    Completed,
    /// Ended by its infrastructure.
    Crashed,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Scheduled, Self::Pending, Self::Running, Self::Completed, Self::Crashed];

    /// As the API has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "SCHEDULED",
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Crashed => "CRASHED",
        }
    }

    fn of(value: &Value) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| value.as_str() == Some(kind.name()))
    }

    /// Whether a run may go from here to there where a client proposes it, by the rules of Prefect's core policy.
    fn may_become(self, to: Self) -> bool {
        match to {
            // Of two workers that take a run the second is refused.
            Self::Pending => !matches!(self, Self::Pending | Self::Running),
            // What has ended does not crash.
            Self::Crashed => !matches!(self, Self::Completed | Self::Crashed),
            // The runs of this workload have no deployment, and are not scheduled again but by force.
            Self::Scheduled => !matches!(self, Self::Completed | Self::Crashed),
            Self::Running | Self::Completed => true,
        }
    }
}

/// A run: the tag of the request that set its state, and that state.
struct Run {
    initial: (u64, Kind),
}

#[derive(Clone, Debug)]
enum Op {
    /// `accepted`: what was answered; `None` where nothing was.
    Set {
        tag: u64,
        to: Kind,
        force: bool,
        accepted: Option<bool>,
    },
    Read {
        tag: u64,
        kind: Kind,
    },
}

impl Model for Run {
    type State = (u64, Kind);
    type Op = Op;

    fn initial(&self) -> Self::State {
        self.initial
    }

    fn step(&self, state: &Self::State, op: &Op) -> Option<Self::State> {
        match *op {
            Op::Set { tag, to, force, accepted } => {
                let may = force || state.1.may_become(to);
                match accepted {
                    Some(accepted) if accepted != may => None,
                    Some(false) => Some(*state),
                    // Where it is not known, that it was refused is the same as that it never happened.
                    Some(true) | None => may.then_some((tag, to)),
                }
            }
            Op::Read { tag, kind } => (*state == (tag, kind)).then_some(*state),
        }
    }
}

/// Judges operations `create` {run, tag, to}, `set` {run, tag, to, force} -> {accepted}, `read` {run} -> {tag, kind}.
pub fn check(entries: &[Entry]) -> Verdict {
    let mut runs: BTreeMap<String, (Run, Vec<Call<Op>>)> = BTreeMap::new();
    for (_, made) in super::done(entries, "create") {
        if let (Some(run), Some(tag), Some(to)) = (made.value["run"].as_str(), made.value["tag"].as_u64(), Kind::of(&made.value["to"])) {
            runs.insert(run.to_owned(), (Run { initial: (tag, to) }, Vec::new()));
        }
    }
    let (mut sets, mut reads, mut unknown, mut wrong) = (0, 0, 0, Vec::new());
    for set in operations(entries, "set").into_iter().filter(|set| set.outcome != Outcome::Failed) {
        let run = set.asked["run"].as_str().and_then(|run| runs.get_mut(run));
        let (Some((_, calls)), Some(tag), Some(to)) = (run, set.asked["tag"].as_u64(), Kind::of(&set.asked["to"])) else { continue };
        let accepted = (set.outcome == Outcome::Ok).then(|| set.answered["accepted"] == true);
        unknown += usize::from(accepted.is_none());
        sets += 1;
        let force = set.asked["force"] == true;
        calls.push(Call { op: Op::Set { tag, to, force, accepted }, called: set.called, ended: set.ended });
    }
    for read in operations(entries, "read").into_iter().filter(|read| read.outcome == Outcome::Ok) {
        let Some((_, calls)) = read.asked["run"].as_str().and_then(|run| runs.get_mut(run)) else { continue };
        let (Some(tag), Some(kind)) = (read.answered["tag"].as_u64(), Kind::of(&read.answered["kind"])) else {
            wrong.push(format!("{} read a state that no client set: {}", read.process, read.answered));
            continue;
        };
        reads += 1;
        calls.push(Call { op: Op::Read { tag, kind }, called: read.called, ended: read.ended });
    }
    let mut undecided = 0;
    for (name, (run, calls)) in &runs {
        match linear::check(run, calls, BOUND) {
            Found::Linear => {}
            Found::NotLinear(why) => wrong.push(format!("run {name} is not linearizable: {why}")),
            Found::Unknown => undecided += 1,
        }
    }
    if !wrong.is_empty() {
        return Verdict::Invalid(listed(&wrong));
    }
    if undecided > 0 {
        return Verdict::Unknown(format!("{undecided} of {} runs take too long to judge", runs.len()));
    }
    if sets == 0 || reads == 0 {
        return Verdict::Unknown(format!("{sets} states were set, and {reads} read"));
    }
    Verdict::Valid(format!("{} runs are linearizable: {sets} states set ({unknown} of unknown outcome), {reads} read", runs.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::written::entry;
    use super::*;

    struct Written(Vec<Entry>);

    impl Written {
        fn new() -> Self {
            let mut entries = Vec::new();
            entry(&mut entries, "a", "create", json!({"run": "r", "tag": 0, "to": "SCHEDULED"}), Some(Outcome::Ok));
            Self(entries)
        }

        fn call(&mut self, process: &str, tag: u64, to: &str, force: bool) -> &mut Self {
            entry(&mut self.0, process, "set", json!({"run": "r", "tag": tag, "to": to, "force": force}), None);
            self
        }

        fn end(&mut self, process: &str, accepted: bool) -> &mut Self {
            entry(&mut self.0, process, "set", json!({"accepted": accepted}), Some(Outcome::Ok));
            self
        }

        fn set(&mut self, process: &str, tag: u64, to: &str, accepted: bool) -> &mut Self {
            self.call(process, tag, to, false).end(process, accepted)
        }

        fn unknown(&mut self, process: &str) -> &mut Self {
            entry(&mut self.0, process, "set", json!(null), Some(Outcome::Unknown));
            self
        }

        fn read(&mut self, process: &str, tag: u64, kind: &str) -> &mut Self {
            entry(&mut self.0, process, "read", json!({"run": "r"}), None);
            entry(&mut self.0, process, "read", json!({"tag": tag, "kind": kind}), Some(Outcome::Ok));
            self
        }

        fn verdict(&self) -> Verdict {
            check(&self.0)
        }
    }

    #[test]
    fn a_life_by_the_rules_is_valid() {
        let mut run = Written::new();
        run.read("b", 0, "SCHEDULED").set("a", 1, "PENDING", true).set("b", 2, "PENDING", false).read("c", 1, "PENDING");
        run.set("a", 3, "RUNNING", true).set("b", 4, "PENDING", false).set("a", 5, "COMPLETED", true).set("b", 6, "CRASHED", false);
        run.read("c", 5, "COMPLETED").call("b", 7, "SCHEDULED", true).end("b", true).read("a", 7, "SCHEDULED");
        assert!(matches!(run.verdict(), Verdict::Valid(_)), "{}", run.verdict());
    }

    #[test]
    fn two_workers_that_both_take_a_run_are_invalid() {
        let mut run = Written::new();
        run.call("a", 1, "PENDING", false).call("b", 2, "PENDING", false).end("a", true).end("b", true).read("c", 2, "PENDING");
        assert!(matches!(run.verdict(), Verdict::Invalid(_)), "{}", run.verdict());
        let mut one = Written::new();
        one.call("a", 1, "PENDING", false).call("b", 2, "PENDING", false).end("a", false).end("b", true).read("c", 2, "PENDING");
        assert!(matches!(one.verdict(), Verdict::Valid(_)), "{}", one.verdict());
    }

    #[test]
    fn stale_reads_and_lost_and_invented_states_are_invalid() {
        let mut stale = Written::new();
        stale.set("a", 1, "PENDING", true).read("b", 0, "SCHEDULED");
        assert!(matches!(stale.verdict(), Verdict::Invalid(_)));
        let mut lost = Written::new();
        lost.set("a", 1, "PENDING", true).set("a", 2, "RUNNING", true).read("b", 2, "RUNNING").read("b", 1, "PENDING");
        assert!(matches!(lost.verdict(), Verdict::Invalid(_)));
        let mut invented = Written::new();
        invented.read("b", 9, "RUNNING");
        assert!(matches!(invented.verdict(), Verdict::Invalid(_)));
        let mut refused = Written::new();
        refused.set("a", 1, "PENDING", false).read("b", 0, "SCHEDULED");
        assert!(matches!(refused.verdict(), Verdict::Invalid(_)), "nothing forbade it");
        let mut other = Written::new();
        other.set("a", 1, "PENDING", true).read("b", 1, "RUNNING");
        assert!(matches!(other.verdict(), Verdict::Invalid(_)), "the tag of one state with another state");
    }

    #[test]
    fn what_had_no_answer_may_have_happened() {
        for (tag, kind) in [(1, "PENDING"), (0, "SCHEDULED")] {
            let mut run = Written::new();
            run.call("a", 1, "PENDING", false).unknown("a").read("b", tag, kind);
            assert!(matches!(run.verdict(), Verdict::Valid(_)), "{kind}: {}", run.verdict());
        }
        let mut back = Written::new();
        back.call("a", 1, "PENDING", false).unknown("a").read("b", 1, "PENDING").read("b", 0, "SCHEDULED");
        assert!(matches!(back.verdict(), Verdict::Invalid(_)), "and was undone");
        assert!(matches!(Written::new().verdict(), Verdict::Unknown(_)), "nothing was looked at");
    }
}
