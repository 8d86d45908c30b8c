//! Statuses of pools, queues, workers and deployments (`prefect/server/schemas/statuses.py`).

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal / $kebab:literal),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// The word of the database and the API.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The word of event names.
            pub fn in_kebab_case(self) -> &'static str {
                match self { $(Self::$variant => $kebab,)* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok(Self::$variant),)*
                    other => Err(format!("unknown status {other}")),
                }
            }
        }

        impl From<$name> for sea_query::Value {
            fn from(status: $name) -> Self {
                status.as_str().into()
            }
        }
    )*};
}

statuses! {
    /// Of a work pool.
    WorkPoolStatus {
        /// It has a worker that is online.
        Ready = "READY" / "ready",
        /// No worker has been heard of lately.
        NotReady = "NOT_READY" / "not-ready",
        /// No work is handed out.
        Paused = "PAUSED" / "paused",
    }
    /// Of a work queue.
    WorkQueueStatus {
        /// It was polled lately.
        Ready = "READY" / "ready",
        /// Nobody polls it.
        NotReady = "NOT_READY" / "not-ready",
        /// No work is handed out.
        Paused = "PAUSED" / "paused",
    }
    /// Of a worker.
    WorkerStatus {
        /// It sends heartbeats.
        Online = "ONLINE" / "online",
        /// It does not.
        Offline = "OFFLINE" / "offline",
    }
    /// Of a deployment.
    DeploymentStatus {
        /// Somebody polls for its runs.
        Ready = "READY" / "ready",
        /// Nobody does.
        NotReady = "NOT_READY" / "not-ready",
    }
}
