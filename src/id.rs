//! Typed identifiers, one per entity, and the only source of new ones.
//!
//! The reference gives runs, states, logs and events time-ordered version 7 ids (so that `ID_DESC` is newest first)
//! and everything else random version 4 ids. An identifier prints and parses as a lower-case hyphenated UUID and is
//! accepted in any form that UUIDs have.

use uuid::Uuid;

/// A fresh time-ordered (version 7) UUID: runs, states, logs, events, artifacts.
#[expect(clippy::disallowed_methods, reason = "this is the one place that makes ids")]
pub fn v7() -> Uuid {
    Uuid::now_v7()
}

/// A fresh random (version 4) UUID: everything that the reference does not order by time.
#[expect(clippy::disallowed_methods, reason = "this is the one place that makes ids")]
pub fn v4() -> Uuid {
    Uuid::new_v4()
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $fresh:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(transparent)]
        #[schemars(inline)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh identifier of the version that the reference uses for this entity.
            pub fn fresh() -> Self {
                Self($fresh())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Uuid {
                id.0
            }
        }

        impl From<$name> for sea_query::Value {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }

        impl sea_query::Nullable for $name {
            fn null() -> sea_query::Value {
                sea_query::Value::Uuid(None)
            }
        }
    )*};
}

ids! {
    ArtifactCollectionId = v4,
    ArtifactId = v7,
    AutomationId = v4,
    BlockDocumentId = v4,
    BlockDocumentReferenceId = v4,
    BlockSchemaId = v4,
    BlockSchemaReferenceId = v4,
    BlockTypeId = v4,
    ConcurrencyLimitId = v4,
    DeploymentId = v4,
    DeploymentScheduleId = v4,
    EventId = v7,
    FlowId = v4,
    FlowRunId = v7,
    FlowRunInputId = v4,
    /// Time-ordered, unlike the reference's: so a lease that is gone tells who had made it (`orchestration/rule`).
    LeaseId = v7,
    LogId = v7,
    SavedSearchId = v4,
    /// Of a flow run's or a task run's state.
    StateId = v7,
    TaskRunId = v7,
    VariableId = v4,
    WorkPoolId = v4,
    WorkQueueId = v4,
    WorkerId = v4,
}
