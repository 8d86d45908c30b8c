//! Frames of the worker channel, version `work_pool_worker_channel.v1` (`prefect/client/schemas/worker_channel.py`).
//! Frames are strict: what is unknown in them is an error.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::{WorkPoolId, WorkQueueId};
use crate::limits;
use crate::model::json::{self, write_timestamp};

/// The only version there is.
pub const VERSION: &str = "work_pool_worker_channel.v1";

/// What every worker must ask for.
pub const REQUIRED_CAPABILITIES: [&str; 2] = ["worker_heartbeat.v1", "work_pool_snapshot.v1"];

/// What a worker may ask for.
pub const CLEANUP_CAPABILITY: &str = "cleanup_delivery.v1";

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$inner])* #[serde(rename = $word)] $variant),* }

        impl $name {
            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    other => Err(format!("{other:?} is none of the words known")),
                }
            }
        }
    };
}

words! {
    /// What has to be torn down.
    CleanupKind {
        /// Of a run that took too long to cancel.
        CancellingTimeout = "cancelling_timeout_teardown.v1",
        /// Of a run that was claimed and never started.
        PendingClaim = "pending_claim_teardown.v1",
    }
}

words! {
    /// What a worker does with a cleanup message that it holds.
    CleanupOperation {
        Ack = "ack",
        Release = "release",
        Renew = "renew",
    }
}

words! {
    /// What came of it.
    CleanupStatus {
        Accepted = "accepted",
        NotCurrent = "not_current",
        NotFound = "not_found",
        Expired = "expired",
        InvalidToken = "invalid_token",
        Unauthorized = "unauthorized",
        DeadLettered = "dead_lettered",
        Error = "error",
    }
}

/// A frame of a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum Inbound {
    Hello(Box<Hello>),
    Heartbeat(Heartbeat),
    /// A cleanup operation, and the id of its frame.
    Cleanup(Uuid, CleanupOperation, CleanupRequest),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Frame<P> {
    #[serde(rename = "type")]
    _kind: String,
    id: Uuid,
    #[serde(rename = "sent_at", with = "json::timestamp")]
    _sent_at: Timestamp,
    payload: P,
}

/// First frame of a worker.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    pub consumer_id: Uuid,
    #[serde(deserialize_with = "filled")]
    pub worker_name: String,
    #[serde(deserialize_with = "filled")]
    pub worker_type: String,
    #[serde(deserialize_with = "positive")]
    pub heartbeat_interval_seconds: i32,
    #[serde(deserialize_with = "filled_list")]
    pub supported_channel_versions: Vec<String>,
    #[serde(deserialize_with = "filled_list")]
    pub requested_capabilities: Vec<String>,
    #[serde(default, deserialize_with = "list_of_filled")]
    pub work_queue_names: Vec<String>,
    #[serde(default)]
    pub handled_cleanup_kinds: Vec<CleanupKind>,
    #[serde(default)]
    max_cleanup_concurrency: Option<u64>,
    #[serde(default)]
    pub create_pool_if_not_found: bool,
    #[serde(default)]
    pub default_base_job_template: Map<String, Value>,
    /// Nothing is made of it.
    #[serde(default, rename = "worker_metadata")]
    _worker_metadata: Option<Map<String, Value>>,
}

impl Hello {
    fn asks_for(&self, capability: &str) -> bool {
        self.requested_capabilities.iter().any(|asked| asked == capability)
    }

    /// Cleanups that the worker takes at a time; 0 where it takes none.
    pub fn cleanup_concurrency(&self) -> u64 {
        if !self.asks_for(CLEANUP_CAPABILITY) || self.handled_cleanup_kinds.is_empty() {
            return 0;
        }
        self.max_cleanup_concurrency.unwrap_or(1).min(limits::CLEANUP_CONCURRENCY)
    }

    fn check(&self) -> Result<(), String> {
        if !REQUIRED_CAPABILITIES.iter().all(|required| self.asks_for(required)) {
            return Err("a required capability is not asked for".into());
        }
        let takes_cleanups = !self.handled_cleanup_kinds.is_empty() || self.max_cleanup_concurrency.is_some_and(|max| max > 0);
        if takes_cleanups && !self.asks_for(CLEANUP_CAPABILITY) {
            return Err("cleanups are taken only with their capability".into());
        }
        if self.handled_cleanup_kinds.len() > limits::WORKER_LIST {
            return Err("too many kinds of cleanup".into());
        }
        Ok(())
    }
}

/// A worker is alive.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    pub consumer_id: Uuid,
    #[serde(deserialize_with = "filled")]
    pub worker_name: String,
    #[serde(deserialize_with = "positive")]
    pub heartbeat_interval_seconds: i32,
}

/// Which message, and by what right.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CleanupRequest {
    pub message_id: Uuid,
    #[serde(deserialize_with = "filled")]
    pub reservation_token: String,
    #[serde(default, deserialize_with = "optionally_filled")]
    reason: Option<String>,
}

fn invalid<E: serde::de::Error>(what: &str) -> E {
    E::custom(what)
}

fn filled<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() { Err(invalid("a text is empty")) } else { Ok(text) }
}

fn optionally_filled<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    filled(deserializer).map(Some)
}

fn list_of_filled<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let list = Vec::<String>::deserialize(deserializer)?;
    let fits = list.len() <= limits::WORKER_LIST && list.iter().all(|text| !text.is_empty());
    if fits { Ok(list) } else { Err(invalid("a list is too long, or a text in it is empty")) }
}

fn filled_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let list = list_of_filled(deserializer)?;
    if list.is_empty() { Err(invalid("a list is empty")) } else { Ok(list) }
}

fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    let number = i32::deserialize(deserializer)?;
    if number > 0 { Ok(number) } else { Err(invalid("a number is not above zero")) }
}

impl Inbound {
    /// Reads a frame.
    ///
    /// # Errors
    /// It is no frame that a worker may send; for the log.
    pub fn read(frame: Value) -> Result<Self, String> {
        fn of<P: DeserializeOwned>(frame: Value) -> Result<(Uuid, P), String> {
            serde_json::from_value::<Frame<P>>(frame).map(|frame| (frame.id, frame.payload)).map_err(|error| error.to_string())
        }
        let kind = frame["type"].as_str().unwrap_or_default().to_owned();
        let operation = match kind.as_str() {
            "worker.hello.v1" => {
                let (_, hello): (_, Hello) = of(frame)?;
                hello.check()?;
                return Ok(Self::Hello(Box::new(hello)));
            }
            "worker.heartbeat.v1" => return of(frame).map(|(_, heartbeat)| Self::Heartbeat(heartbeat)),
            "cleanup.ack.v1" => CleanupOperation::Ack,
            "cleanup.release.v1" => CleanupOperation::Release,
            "cleanup.renew.v1" => CleanupOperation::Renew,
            other => return Err(format!("a worker sends no frame of type {other:?}")),
        };
        let (id, request): (_, CleanupRequest) = of(frame)?;
        if request.reason.is_some() != (operation == CleanupOperation::Release) {
            return Err("a release, and nothing else, has a reason".into());
        }
        Ok(Self::Cleanup(id, operation, request))
    }
}

/// A frame of the server.
pub fn outbound(kind: &str, id: Uuid, now: Timestamp, payload: Value) -> Value {
    json!({"type": kind, "id": id, "sent_at": write_timestamp(&now), "payload": payload})
}

/// Why the server ends a connection: the reason of its close frame, which tells the worker whether to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Terminal.
    AuthenticationFailed,
    /// Terminal.
    AuthorizationFailed,
    /// Terminal.
    UnsupportedVersion,
    /// Terminal.
    ProtocolError,
    /// The worker comes again.
    HeartbeatPersistenceFailed,
    /// The worker comes again.
    TransientServerError,
}

impl CloseReason {
    /// The code and the text of the close frame.
    pub fn frame(self) -> (u16, &'static str) {
        match self {
            Self::AuthenticationFailed => (1008, "authentication_failed"),
            Self::AuthorizationFailed => (1008, "authorization_failed"),
            Self::UnsupportedVersion => (1008, "unsupported_version"),
            Self::ProtocolError => (1002, "protocol_error"),
            Self::HeartbeatPersistenceFailed => (1011, "heartbeat_persistence_failed"),
            Self::TransientServerError => (1011, "transient_server_error"),
        }
    }
}

/// What the connections of a pool's workers, on any node, should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub work_pool_id: WorkPoolId,
    pub about: About,
}

/// See [`Change`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// The pool changed, or is gone.
    Pool,
    /// There may be a cleanup message to deliver.
    Cleanup,
}

impl Change {
    /// The pool changed, or is gone.
    pub fn pool(work_pool_id: WorkPoolId) -> Self {
        Self { work_pool_id, about: About::Pool }
    }

    /// There may be a cleanup message to deliver.
    pub fn cleanup(work_pool_id: WorkPoolId) -> Self {
        Self { work_pool_id, about: About::Cleanup }
    }

    /// As a hint carries it.
    pub fn to_body(&self) -> String {
        serde_json::to_string(self).expect("only string keys")
    }

    /// Reads what [`Change::to_body`] wrote; `None` for what a newer version may have written.
    pub fn from_body(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

/// A work queue that a worker serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolvedWorkQueue {
    pub id: WorkQueueId,
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(change: impl FnOnce(&mut Map<String, Value>)) -> Result<Inbound, String> {
        let mut payload = json!({
            "consumer_id": Uuid::nil(), "worker_name": "w", "worker_type": "process", "heartbeat_interval_seconds": 30,
            "supported_channel_versions": [VERSION], "requested_capabilities": [REQUIRED_CAPABILITIES[0], REQUIRED_CAPABILITIES[1], CLEANUP_CAPABILITY],
            "handled_cleanup_kinds": ["cancelling_timeout_teardown.v1"],
        });
        change(payload.as_object_mut().expect("an object"));
        Inbound::read(json!({"type": "worker.hello.v1", "id": Uuid::nil(), "sent_at": "2026-01-01T00:00:00Z", "payload": payload}))
    }

    fn concurrency(change: impl FnOnce(&mut Map<String, Value>)) -> u64 {
        match hello(change) {
            Ok(Inbound::Hello(hello)) => hello.cleanup_concurrency(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_worker_that_handles_cleanups_takes_one_at_a_time_unless_it_says_so() {
        assert_eq!(concurrency(|_| {}), 1);
        assert_eq!(concurrency(|payload| drop(payload.insert("max_cleanup_concurrency".into(), json!(3)))), 3);
        assert_eq!(concurrency(|payload| drop(payload.insert("max_cleanup_concurrency".into(), json!(0)))), 0);
        assert_eq!(concurrency(|payload| drop(payload.insert("handled_cleanup_kinds".into(), json!([])))), 0);
    }

    #[test]
    fn a_hello_that_does_not_fit_is_refused() {
        let without = |capability: &str| json!([REQUIRED_CAPABILITIES[0], capability]);
        let changes: [(&str, Value); 9] = [
            ("zzz", json!(1)),
            ("worker_name", json!("")),
            ("heartbeat_interval_seconds", json!(0)),
            ("supported_channel_versions", json!([])),
            ("requested_capabilities", without(CLEANUP_CAPABILITY)),
            ("requested_capabilities", without(REQUIRED_CAPABILITIES[1])),
            ("handled_cleanup_kinds", json!(["other.v1"])),
            ("max_cleanup_concurrency", json!(-1)),
            ("work_queue_names", json!([""])),
        ];
        for (key, value) in changes {
            assert!(hello(|payload| drop(payload.insert(key.into(), value.clone()))).is_err(), "{key}: {value}");
        }
    }

    #[test]
    fn only_a_release_has_a_reason() {
        let frame = |kind: &str, reason: Option<&str>| {
            let mut payload = json!({"message_id": Uuid::nil(), "reservation_token": "t"});
            if let Some(reason) = reason {
                payload["reason"] = json!(reason);
            }
            Inbound::read(json!({"type": kind, "id": Uuid::nil(), "sent_at": "2026-01-01T00:00:00Z", "payload": payload}))
        };
        assert!(frame("cleanup.ack.v1", None).is_ok() && frame("cleanup.renew.v1", None).is_ok());
        assert!(frame("cleanup.release.v1", Some("busy")).is_ok());
        assert!(frame("cleanup.release.v1", None).is_err() && frame("cleanup.release.v1", Some("")).is_err());
        assert!(frame("cleanup.ack.v1", Some("why")).is_err());
        assert!(Inbound::read(json!({"type": "worker.ready.v1"})).is_err());
    }
}
