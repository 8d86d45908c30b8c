//! The rules, by subject. Each has the reference's name (`prefect/server/orchestration/{core,global}_policy.py`).
//!
//! A [`Rule`] governs the transitions between the types that it names. Its `before` runs on the way in and may rule on the
//! transition. On the way out its `after` runs where the transition is still the one that it governed (or the one that
//! it made), its `cleanup` where a later rule has changed it (the rule "fizzled"). A [`Transform`] sees every transition
//! that writes a state; it decides nothing.

pub mod bookkeeping;
pub mod cache;
pub mod cancel;
pub mod duplicate;
pub mod flow_concurrency;
pub mod instrument;
pub mod late;
pub mod pause;
pub mod retry;
pub mod schedule;
pub mod stopped;
pub mod task_concurrency;
pub mod terminal;

use async_trait::async_trait;

use crate::model::state::StateType;
use crate::orchestration::engine::{Context, OrchestrationError};
use crate::orchestration::transition::Transition;
use crate::store::Tx;

/// What a hook gives.
pub type Done = Result<(), OrchestrationError>;

/// A set of state types, and of "no state".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct States(u16);

impl States {
    const NONE: u16 = 1 << 15;
    /// Every type, and no state.
    pub const ANY: Self = Self::of(&StateType::ALL).or(Self(Self::NONE));
    /// The types that a run does not leave by itself.
    pub const TERMINAL: Self = Self::of(&StateType::TERMINAL);

    /// These types.
    pub const fn of(kinds: &[StateType]) -> Self {
        let (mut set, mut index) = (0, 0);
        while index < kinds.len() {
            set |= 1 << kinds[index] as u16;
            index += 1;
        }
        Self(set)
    }

    /// These and those.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These less those.
    pub const fn except(self, kinds: &[StateType]) -> Self {
        Self(self.0 & !Self::of(kinds).0)
    }

    /// True where the type, or no state, is among them.
    pub const fn has(self, kind: Option<StateType>) -> bool {
        let bit = match kind {
            Some(kind) => 1 << kind as u16,
            None => Self::NONE,
        };
        self.0 & bit != 0
    }
}

/// A rule over transitions of runs of kind `R`. One is made for each transition, so it may remember things between its
/// hooks.
#[async_trait]
pub trait Rule<R: Send + Sync>: Send {
    /// Current states that it governs.
    fn from(&self) -> States;

    /// Proposed states that it governs.
    fn to(&self) -> States;

    /// On the way in.
    async fn before(&mut self, tx: &mut Tx, context: &Context<'_>, on: &mut Transition<R>) -> Done;

    /// On the way out, where the transition is what the rule left of it.
    async fn after(&mut self, _tx: &mut Tx, _context: &Context<'_>, _on: &mut Transition<R>) -> Done {
        Ok(())
    }

    /// On the way out, where a later rule has changed the transition.
    async fn cleanup(&mut self, _tx: &mut Tx, _context: &Context<'_>, _on: &mut Transition<R>) -> Done {
        Ok(())
    }
}

/// Bookkeeping over every transition of runs of kind `R` that writes a state.
#[async_trait]
pub trait Transform<R: Send + Sync>: Send {
    /// On the way in.
    async fn before(&mut self, _tx: &mut Tx, _context: &Context<'_>, _on: &mut Transition<R>) -> Done {
        Ok(())
    }

    /// On the way out.
    async fn after(&mut self, _tx: &mut Tx, _context: &Context<'_>, _on: &mut Transition<R>) -> Done {
        Ok(())
    }
}

/// One of the two.
pub enum Governor<R> {
    Rule(Box<dyn Rule<R>>),
    Transform(Box<dyn Transform<R>>),
}

/// A line of a policy: makes a governor for one transition.
pub type Line<R> = fn() -> Governor<R>;

/// The line of a rule.
pub fn rule<R: Send + Sync, T: Rule<R> + Default + 'static>() -> Governor<R> {
    Governor::Rule(Box::new(T::default()))
}

/// The line of a transform.
pub fn transform<R: Send + Sync, T: Transform<R> + Default + 'static>() -> Governor<R> {
    Governor::Transform(Box::new(T::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_states_know_no_state_too() {
        assert!(States::ANY.has(None) && !States::TERMINAL.has(None));
        assert!(StateType::ALL.into_iter().all(|kind| States::ANY.has(Some(kind))));
        let some = States::ANY.except(&[StateType::Pending]);
        assert!(some.has(None) && some.has(Some(StateType::Running)) && !some.has(Some(StateType::Pending)));
    }
}
