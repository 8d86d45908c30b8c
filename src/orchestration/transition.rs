//! A run on its way from one state to another, and what the rules have made of it so far.

use crate::model::state::{OrchestrationResult, SetStateStatus, State, StateResponseDetails, StateType};

/// What the rules decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The proposed state is taken.
    Accept,
    /// The current state stays, or another one is taken.
    Reject { reason: String },
    /// Nothing changes; the client may propose the state again after a while.
    Wait { delay_seconds: i64, reason: String },
    /// Nothing changes; the client gives up.
    Abort { reason: String },
}

/// A transition of a run.
#[derive(Debug)]
pub struct Transition<R> {
    /// The run, changed by the rules as they go.
    pub run: R,
    /// The state that the run is in.
    pub initial: Option<State>,
    /// The state to be written; `None` once a rule has decided that nothing is.
    pub proposed: Option<State>,
    /// The state that was written, or the one that stays. Set between the two passes.
    pub validated: Option<State>,
    /// The last word of the rules.
    pub verdict: Verdict,
    /// Rulings so far; tells the engine that it was this rule which changed the proposed state.
    pub(super) rulings: u32,
}

impl<R> Transition<R> {
    /// A transition about which nothing is decided.
    pub fn new(run: R, initial: Option<State>, proposed: State) -> Self {
        Self { run, initial, proposed: Some(proposed), validated: None, verdict: Verdict::Accept, rulings: 0 }
    }

    /// Type of the current state.
    pub fn from(&self) -> Option<StateType> {
        self.initial.as_ref().map(|state| state.kind)
    }

    /// Type of the proposed state.
    pub fn to(&self) -> Option<StateType> {
        self.proposed.as_ref().map(|state| state.kind)
    }

    /// The current and the proposed state, where there are both.
    pub fn both(&mut self) -> Option<(&State, &mut State)> {
        self.initial.as_ref().zip(self.proposed.as_mut())
    }

    fn rule(&mut self, proposed: Option<State>, verdict: Verdict) {
        self.proposed = proposed;
        self.verdict = verdict;
        self.rulings += 1;
    }

    /// Keeps the current state.
    pub fn reject(&mut self, reason: impl Into<String>) {
        self.rule(None, Verdict::Reject { reason: reason.into() });
    }

    /// Puts another state in place of the proposed one.
    pub fn reject_with(&mut self, state: State, reason: impl Into<String>) {
        self.rule(Some(state), Verdict::Reject { reason: reason.into() });
    }

    /// Has the client come again after so many seconds.
    pub fn wait(&mut self, delay_seconds: i64, reason: impl Into<String>) {
        self.rule(None, Verdict::Wait { delay_seconds, reason: reason.into() });
    }

    /// Refuses the transition.
    pub fn abort(&mut self, reason: impl Into<String>) {
        self.rule(None, Verdict::Abort { reason: reason.into() });
    }

    /// Gives the proposed state another name.
    pub fn rename(&mut self, name: &str) {
        if let Some(state) = &mut self.proposed {
            name.clone_into(&mut state.name);
        }
    }

    /// The answer to the client.
    pub fn into_result(self) -> OrchestrationResult {
        let (status, details) = match self.verdict {
            Verdict::Accept => (SetStateStatus::Accept, StateResponseDetails::Accept {}),
            Verdict::Reject { reason } => (SetStateStatus::Reject, StateResponseDetails::Reject { reason: Some(reason) }),
            Verdict::Wait { delay_seconds, reason } => {
                (SetStateStatus::Wait, StateResponseDetails::Wait { delay_seconds, reason: Some(reason) })
            }
            Verdict::Abort { reason } => (SetStateStatus::Abort, StateResponseDetails::Abort { reason: Some(reason) }),
        };
        OrchestrationResult { state: self.validated, status, details }
    }
}
