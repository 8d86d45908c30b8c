//! The event of a flow run's transition.

use async_trait::async_trait;

use crate::events::flow_run;
use crate::orchestration::engine::Context;
use crate::orchestration::rule::{Done, Transform};
use crate::orchestration::transition::Transition;
use crate::store::Tx;
use crate::store::transitions::{self, FlowRun};

/// Every state that a flow run takes is an event, with the state's id.
#[derive(Default)]
pub struct InstrumentFlowRunStateTransitions;

#[async_trait]
impl Transform<FlowRun> for InstrumentFlowRunStateTransitions {
    async fn after(&mut self, tx: &mut Tx, _: &Context<'_>, on: &mut Transition<FlowRun>) -> Done {
        let Some(validated) = &on.validated else { return Ok(()) };
        let surroundings = transitions::read_surroundings(tx, &on.run).await?;
        tx.emit(flow_run::state_changed(&on.run, &surroundings, on.initial.as_ref(), validated));
        Ok(())
    }
}
