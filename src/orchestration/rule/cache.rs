//! Completed states of tasks under a key, given to later runs of the same key.

use async_trait::async_trait;

use crate::model::state::StateType;
use crate::orchestration::engine::Context;
use crate::orchestration::rule::{Done, Rule, States};
use crate::orchestration::transition::Transition;
use crate::store::Tx;
use crate::store::transitions::{self, TaskRun};

/// any -> RUNNING: a run whose key has a completed state takes that one, unless it asks for a fresh one.
#[derive(Default)]
pub struct CacheRetrieval;

#[async_trait]
impl Rule<TaskRun> for CacheRetrieval {
    fn from(&self) -> States {
        States::ANY
    }

    fn to(&self) -> States {
        States::of(&[StateType::Running])
    }

    async fn before(&mut self, tx: &mut Tx, context: &Context<'_>, on: &mut Transition<TaskRun>) -> Done {
        let Some(details) = on.proposed.as_ref().map(|state| &state.state_details) else { return Ok(()) };
        let Some(key) = details.cache_key.as_deref().filter(|key| !key.is_empty()) else { return Ok(()) };
        if details.refresh_cache == Some(true) {
            return Ok(());
        }
        if let Some(cached) = transitions::read_cached(tx, key, context.now).await? {
            on.reject_with(cached.fresh_copy(context.now).named("Cached"), "Retrieved state from cache");
        }
        Ok(())
    }
}

/// any -> COMPLETED: a completed state with a key is cached; a key that is too long is told so, and cached all the same.
#[derive(Default)]
pub struct CacheInsertion;

#[async_trait]
impl Rule<TaskRun> for CacheInsertion {
    fn from(&self) -> States {
        States::ANY
    }

    fn to(&self) -> States {
        States::of(&[StateType::Completed])
    }

    async fn before(&mut self, _: &mut Tx, context: &Context<'_>, on: &mut Transition<TaskRun>) -> Done {
        let longest = context.settings.max_cache_key_length;
        let too_long = |key: &String| key.chars().count() > longest;
        if let Some(state) = on.proposed.clone().filter(|state| state.state_details.cache_key.as_ref().is_some_and(too_long)) {
            on.reject_with(state, format!("Cache key exceeded maximum allowed length of {longest} characters."));
        }
        Ok(())
    }

    async fn after(&mut self, tx: &mut Tx, context: &Context<'_>, on: &mut Transition<TaskRun>) -> Done {
        let Some(state) = &on.validated else { return Ok(()) };
        if let Some(key) = state.state_details.cache_key.as_deref().filter(|key| !key.is_empty()) {
            transitions::insert_cached(tx, key, state.state_details.cache_expiration, state.id, context.now).await?;
        }
        Ok(())
    }
}
