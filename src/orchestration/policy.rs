//! Which rules govern which transitions. A table is read top to bottom; the bookkeeping of the global tables is innermost.

use crate::orchestration::rule::bookkeeping::*;
use crate::orchestration::rule::cache::*;
use crate::orchestration::rule::cancel::*;
use crate::orchestration::rule::duplicate::*;
use crate::orchestration::rule::flow_concurrency::*;
use crate::orchestration::rule::instrument::*;
use crate::orchestration::rule::late::*;
use crate::orchestration::rule::pause::*;
use crate::orchestration::rule::retry::*;
use crate::orchestration::rule::schedule::*;
use crate::orchestration::rule::stopped::*;
use crate::orchestration::rule::task_concurrency::*;
use crate::orchestration::rule::terminal::*;
use crate::orchestration::rule::{Line, rule, transform};
use crate::store::transitions::{FlowRun, TaskRun};

/// The rules over a flow run's transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowPolicy {
    /// What clients propose.
    Core,
    /// What is forced.
    Minimal,
    /// What the late runs service proposes.
    MarkLateRuns,
}

/// The rules over a task run's transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskPolicy {
    /// What clients propose.
    Core,
    /// States of background tasks.
    Background,
    /// What is forced.
    Minimal,
}

impl FlowPolicy {
    /// [`Self::Minimal`] where the client forces the state.
    pub fn of_request(force: bool) -> Self {
        if force { Self::Minimal } else { Self::Core }
    }

    pub(super) fn lines(self) -> &'static [Line<FlowRun>] {
        match self {
            Self::Core => CORE_FLOW,
            Self::Minimal => MINIMAL_FLOW,
            Self::MarkLateRuns => MARK_LATE_RUNS,
        }
    }
}

impl TaskPolicy {
    /// [`Self::Minimal`] where the client forces the state.
    pub fn of_request(force: bool) -> Self {
        if force { Self::Minimal } else { Self::Core }
    }

    pub(super) fn lines(self) -> &'static [Line<TaskRun>] {
        match self {
            Self::Core => CORE_TASK,
            Self::Background => BACKGROUND_TASK,
            Self::Minimal => MINIMAL_TASK,
        }
    }
}

/// `CoreFlowPolicy`
pub const CORE_FLOW: &[Line<FlowRun>] = &[
    transform::<_, PreserveDeploymentConcurrencyLeaseId>,
    rule::<_, PreventDuplicateTransitions>,
    rule::<_, HandleFlowTerminalStateTransitions>,
    rule::<_, EnforceCancellingToCancelledTransition>,
    rule::<_, BypassCancellingFlowRunsWithNoInfra>,
    rule::<_, PreventPendingTransitions>,
    rule::<_, ValidateDeploymentConcurrencyAtRunning>,
    rule::<_, SecureFlowConcurrencySlots>,
    rule::<_, RemoveDeploymentConcurrencyLeaseForOldClientVersions>,
    rule::<_, EnsureOnlyScheduledFlowsMarkedLate>,
    rule::<_, HandlePausingFlows>,
    rule::<_, HandleResumingPausedFlows>,
    rule::<_, CopyScheduledTime>,
    rule::<_, WaitForScheduledTime>,
    rule::<_, RetryFailedFlows>,
    transform::<_, InstrumentFlowRunStateTransitions>,
    transform::<_, ReleaseFlowConcurrencySlots>,
];

/// `MinimalFlowPolicy`
pub const MINIMAL_FLOW: &[Line<FlowRun>] = &[
    rule::<_, PreventResultDataLoss>,
    rule::<_, BypassCancellingFlowRunsWithNoInfra>,
    transform::<_, InstrumentFlowRunStateTransitions>,
    transform::<_, ReleaseFlowConcurrencySlots>,
];

/// `MarkLateRunsPolicy`
pub const MARK_LATE_RUNS: &[Line<FlowRun>] = &[
    rule::<_, EnsureOnlyScheduledFlowsMarkedLate>,
    rule::<_, EnforceDeploymentConcurrencyOnLate>,
    transform::<_, InstrumentFlowRunStateTransitions>,
];

/// `GlobalFlowPolicy`
pub const GLOBAL_FLOW: &[Line<FlowRun>] = &[
    transform::<_, EnsureRunStateTimestampIsUnique>,
    transform::<_, SetRunStateType>,
    transform::<_, SetRunStateName>,
    transform::<_, SetRunStateTimestamp>,
    transform::<_, SetStartTime>,
    transform::<_, SetEndTime>,
    transform::<_, IncrementRunTime>,
    transform::<_, SetExpectedStartTime>,
    transform::<_, SetNextScheduledStartTime>,
    transform::<_, UpdateStateDetails>,
    transform::<_, UpdateSubflowParentTask>,
    transform::<_, UpdateSubflowStateDetails>,
    transform::<_, IncrementFlowRunCount>,
    transform::<_, RemoveResumingIndicator>,
];

/// `CoreTaskPolicy`
pub const CORE_TASK: &[Line<TaskRun>] = &[
    rule::<_, CacheRetrieval>,
    rule::<_, HandleTaskTerminalStateTransitions>,
    rule::<_, PreventRunningTasksFromStoppedFlows>,
    // After the cache: a cached state is taken even where all slots are.
    rule::<_, SecureTaskConcurrencySlots>,
    rule::<_, CopyScheduledTime>,
    rule::<_, WaitForScheduledTime>,
    rule::<_, RetryFailedTasks>,
    rule::<_, RenameReruns>,
    rule::<_, UpdateFlowRunTrackerOnTasks>,
    rule::<_, CacheInsertion>,
    transform::<_, ReleaseTaskConcurrencySlots>,
];

/// `BackgroundTaskPolicy`
pub const BACKGROUND_TASK: &[Line<TaskRun>] = &[
    rule::<_, PreventPendingTransitions>,
    rule::<_, CacheRetrieval>,
    rule::<_, HandleTaskTerminalStateTransitions>,
    rule::<_, CopyScheduledTime>,
    rule::<_, CopyTaskParametersID>,
    rule::<_, WaitForScheduledTime>,
    rule::<_, RetryFailedTasks>,
    rule::<_, RenameReruns>,
    rule::<_, UpdateFlowRunTrackerOnTasks>,
    rule::<_, CacheInsertion>,
    transform::<_, ReleaseTaskConcurrencySlots>,
    rule::<_, EnqueueScheduledTasks>,
];

/// `MinimalTaskPolicy`
pub const MINIMAL_TASK: &[Line<TaskRun>] = &[transform::<_, ReleaseTaskConcurrencySlots>];

/// `GlobalTaskPolicy`. The reference makes sure of unique timestamps for flow runs only, whose rows and task runs' have
/// the same unique index.
pub const GLOBAL_TASK: &[Line<TaskRun>] = &[
    transform::<_, EnsureRunStateTimestampIsUnique>,
    transform::<_, SetRunStateType>,
    transform::<_, SetRunStateName>,
    transform::<_, SetRunStateTimestamp>,
    transform::<_, SetStartTime>,
    transform::<_, SetEndTime>,
    transform::<_, IncrementRunTime>,
    transform::<_, SetExpectedStartTime>,
    transform::<_, SetNextScheduledStartTime>,
    transform::<_, UpdateStateDetails>,
    transform::<_, IncrementTaskRunCount>,
];
