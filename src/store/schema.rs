//! The reference's tables and columns as identifiers for sea-query.
//!
//! One enum per table; the variant `Table` is the table itself. Imported as `t`: `t::FlowRun::StateType`.
//! A test compares them with the schema that the migrations make.

use sea_query::Iden;

#[derive(Debug, Clone, Copy, Iden)]
pub enum Agent {
    Table,
    Created,
    Id,
    LastActivityTime,
    Name,
    Updated,
    WorkQueueId,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum Artifact {
    Table,
    Created,
    Data,
    Description,
    FlowRunId,
    Id,
    Key,
    #[iden = "metadata_"]
    Metadata,
    TaskRunId,
    Type,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum ArtifactCollection {
    Table,
    Created,
    Data,
    Description,
    FlowRunId,
    Id,
    Key,
    LatestId,
    #[iden = "metadata_"]
    Metadata,
    TaskRunId,
    Type,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum Automation {
    Table,
    Actions,
    ActionsOnResolve,
    ActionsOnTrigger,
    Created,
    Description,
    Enabled,
    Id,
    Name,
    Tags,
    Trigger,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum AutomationBucket {
    Table,
    AutomationId,
    BucketingKey,
    Count,
    Created,
    End,
    Id,
    LastEvent,
    LastOperation,
    Start,
    TriggerId,
    TriggeredAt,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum AutomationEventFollower {
    Table,
    Created,
    Follower,
    FollowerEventId,
    Id,
    LeaderEventId,
    Received,
    Scope,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum AutomationRelatedResource {
    Table,
    AutomationId,
    AutomationOwnedByResource,
    Created,
    Id,
    ResourceId,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum BlockDocument {
    Table,
    BlockSchemaId,
    BlockTypeId,
    BlockTypeName,
    Created,
    Data,
    Id,
    IsAnonymous,
    Name,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum BlockDocumentReference {
    Table,
    Created,
    Id,
    Name,
    ParentBlockDocumentId,
    ReferenceBlockDocumentId,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum BlockSchema {
    Table,
    BlockTypeId,
    Capabilities,
    Checksum,
    Created,
    Fields,
    Id,
    Updated,
    Version,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum BlockSchemaReference {
    Table,
    Created,
    Id,
    Name,
    ParentBlockSchemaId,
    ReferenceBlockSchemaId,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum BlockType {
    Table,
    CodeExample,
    Created,
    Description,
    DocumentationUrl,
    Id,
    IsProtected,
    LogoUrl,
    Name,
    Slug,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum CompositeTriggerChildFiring {
    Table,
    AutomationId,
    ChildFiredAt,
    ChildFiring,
    ChildFiringId,
    ChildTriggerId,
    Created,
    Id,
    ParentTriggerId,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum ConcurrencyLimit {
    Table,
    ActiveSlots,
    ConcurrencyLimit,
    Created,
    Id,
    Tag,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum ConcurrencyLimitV2 {
    Table,
    Active,
    ActiveSlots,
    AvgSlotOccupancySeconds,
    Created,
    DeniedSlots,
    Id,
    Limit,
    Name,
    SlotDecayPerSecond,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum Configuration {
    Table,
    Created,
    Id,
    Key,
    Updated,
    Value,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum CsrfToken {
    Table,
    Client,
    Created,
    Expiration,
    Id,
    Token,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum Deployment {
    Table,
    ConcurrencyLimit,
    ConcurrencyLimitId,
    ConcurrencyOptions,
    Created,
    CreatedBy,
    Description,
    EnforceParameterSchema,
    Entrypoint,
    FlowId,
    Id,
    InfraOverrides,
    InfrastructureDocumentId,
    Labels,
    LastPolled,
    Name,
    ParameterOpenapiSchema,
    Parameters,
    Path,
    Paused,
    PullSteps,
    Status,
    StorageDocumentId,
    Tags,
    Updated,
    UpdatedBy,
    Version,
    VersionId,
    WorkQueueId,
    WorkQueueName,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum DeploymentSchedule {
    Table,
    Active,
    Created,
    DeploymentId,
    Id,
    MaxScheduledRuns,
    Parameters,
    Schedule,
    Slug,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum DeploymentVersion {
    Table,
    Branch,
    Created,
    DeploymentId,
    Description,
    EnforceParameterSchema,
    Entrypoint,
    Id,
    InfraOverrides,
    Labels,
    ParameterOpenapiSchema,
    Parameters,
    PullSteps,
    Tags,
    Updated,
    VersionInfo,
    WorkQueueId,
    WorkQueueName,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum EventResources {
    Table,
    Created,
    EventId,
    Id,
    Occurred,
    Resource,
    ResourceId,
    ResourceRole,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum Events {
    Table,
    Created,
    Event,
    Follows,
    Id,
    Occurred,
    Payload,
    Received,
    Recorded,
    Related,
    RelatedResourceIds,
    Resource,
    ResourceId,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum Flow {
    Table,
    Created,
    Id,
    Labels,
    Name,
    Tags,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum FlowRun {
    Table,
    AutoScheduled,
    Context,
    Created,
    CreatedBy,
    DeploymentId,
    DeploymentVersion,
    EmpiricalPolicy,
    EndTime,
    ExpectedStartTime,
    FlowId,
    FlowVersion,
    Id,
    IdempotencyKey,
    InfrastructureDocumentId,
    InfrastructurePid,
    JobVariables,
    Labels,
    Name,
    NextScheduledStartTime,
    Parameters,
    ParentTaskRunId,
    RunCount,
    StartTime,
    StateId,
    StateName,
    StateTimestamp,
    StateType,
    Tags,
    TotalRunTime,
    Updated,
    WorkQueueId,
    WorkQueueName,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum FlowRunInput {
    Table,
    Created,
    FlowRunId,
    Id,
    Key,
    Sender,
    Updated,
    Value,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum FlowRunState {
    Table,
    Created,
    Data,
    FlowRunId,
    Id,
    Message,
    Name,
    ResultArtifactId,
    StateDetails,
    Timestamp,
    Type,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum Log {
    Table,
    Created,
    FlowRunId,
    Id,
    Level,
    Message,
    Name,
    TaskRunId,
    Timestamp,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum SavedSearch {
    Table,
    Created,
    Filters,
    Id,
    Name,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum TaskRun {
    Table,
    CacheExpiration,
    CacheKey,
    Created,
    DynamicKey,
    EmpiricalPolicy,
    EndTime,
    ExpectedStartTime,
    FlowRunId,
    FlowRunRunCount,
    Id,
    Labels,
    Name,
    NextScheduledStartTime,
    RunCount,
    StartTime,
    StateId,
    StateName,
    StateTimestamp,
    StateType,
    Tags,
    TaskInputs,
    TaskKey,
    TaskVersion,
    TotalRunTime,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum TaskRunState {
    Table,
    Created,
    Data,
    Id,
    Message,
    Name,
    ResultArtifactId,
    StateDetails,
    TaskRunId,
    Timestamp,
    Type,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum TaskRunStateCache {
    Table,
    CacheExpiration,
    CacheKey,
    Created,
    Id,
    TaskRunStateId,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum Variable {
    Table,
    Created,
    Id,
    Name,
    Tags,
    Updated,
    Value,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum WorkPool {
    Table,
    BaseJobTemplate,
    ConcurrencyLimit,
    Created,
    DefaultQueueId,
    Description,
    Id,
    IsPaused,
    LastStatusEventId,
    LastTransitionedStatusAt,
    Name,
    Status,
    StorageConfiguration,
    Type,
    Updated,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum WorkQueue {
    Table,
    ConcurrencyLimit,
    Created,
    Description,
    Filter,
    Id,
    IsPaused,
    LastPolled,
    Name,
    Priority,
    Status,
    Updated,
    WorkPoolId,
}

#[derive(Debug, Clone, Copy, Iden)]
pub enum Worker {
    Table,
    Created,
    HeartbeatIntervalSeconds,
    Id,
    LastHeartbeatTime,
    Name,
    Status,
    Updated,
    WorkPoolId,
}
