//! Cleanup messages of a pool, delivered to its workers: each to one at a time, first to those of the message's queue,
//! a moment later to any (`prefect/server/utilities/worker_channel_cleanup.py`).

use axum::extract::ws::WebSocket;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use rand::Rng;
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Connection, End, Refusal, send};
use crate::api::error::chain;
use crate::id::WorkQueueId;
use crate::limits;
use crate::model::json::write_timestamp;
use crate::model::worker_channel::{CleanupKind, CleanupOperation, CleanupRequest, CleanupStatus, Hello};
use crate::store::cleanup_messages::{self as store, Asking, Outcome, Policy, Reservation};

/// What a worker takes, and when to look for it.
pub(super) struct Cleanups {
    kinds: Vec<CleanupKind>,
    queues: Vec<WorkQueueId>,
    concurrency: u64,
    /// For messages of the worker's own queues.
    look_at: Instant,
    /// For those of any queue.
    look_anywhere_at: Instant,
}

impl Cleanups {
    /// Of a worker that serves `queues`.
    pub(super) fn new(hello: &Hello, queues: Vec<WorkQueueId>) -> Self {
        let mut cleanups = Self {
            kinds: hello.handled_cleanup_kinds.clone(),
            queues,
            concurrency: hello.cleanup_concurrency(),
            look_at: Instant::now(),
            look_anywhere_at: Instant::now(),
        };
        cleanups.look_now();
        cleanups
    }

    /// There may be a message.
    pub(super) fn look_now(&mut self) {
        self.look_at = Instant::now();
        self.look_anywhere_at = Instant::now() + limits::CLEANUP_PREFERENCE;
    }

    /// When to look next.
    pub(super) fn due(&self) -> Instant {
        self.look_at.min(self.look_anywhere_at)
    }

    /// Whether to look in any queue now; sets the next time.
    fn looking(&mut self) -> bool {
        let now = Instant::now();
        let anywhere = now >= self.look_anywhere_at;
        self.look_at = now + limits::CLEANUP_LOOK;
        if anywhere {
            self.look_anywhere_at = now + limits::CLEANUP_LOOK;
        }
        anywhere
    }
}

fn token() -> String {
    URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 32]>())
}

impl Connection {
    fn policy(&self) -> Policy {
        policy(&self.app.settings().orchestration)
    }

    /// Delivers what there is and the worker can take.
    pub(super) async fn deliver_cleanups(&mut self, socket: &mut WebSocket) -> Result<(), End> {
        let Some(cleanups) = &mut self.cleanups else { return Ok(()) };
        let anywhere = cleanups.looking();
        loop {
            let reserved = match persistently!(self.reserve(anywhere).await) {
                Ok(reserved) => reserved,
                Err(refusal) => return Err(refusal.reason()),
            };
            let Some(reservation) = reserved else { return Ok(()) };
            let payload = json!({
                "message_id": reservation.id,
                "kind": reservation.kind,
                "reservation_token": reservation.token,
                "lease_expires_at": write_timestamp(&reservation.lease_expires),
                "delivery_count": reservation.delivery_count,
                "work_queue_id": reservation.work_queue_id,
                "target": reservation.target,
                "data": reservation.data,
            });
            if let Err(end) = send(socket, "cleanup.message.v1", self.app.now(), payload).await {
                if let Err(error) = self.operate(reservation.id, &reservation.token, CleanupOperation::Release).await {
                    tracing::info!(error = %chain(&error), "a cleanup that was not delivered waits for the end of its lease");
                }
                return Err(end);
            }
        }
    }

    async fn reserve(&self, anywhere: bool) -> Result<Option<Reservation>, Refusal> {
        let Some(cleanups) = &self.cleanups else { return Ok(None) };
        let (now, policy) = (self.app.now(), self.policy());
        let mut tx = self.app.begin("worker_channel.cleanup").await?;
        if store::held(&mut tx, self.pool, self.consumer_id, now).await? >= cleanups.concurrency {
            return Ok(None);
        }
        let worker = Asking { pool: self.pool, consumer: self.consumer_id, kinds: &cleanups.kinds };
        let mut reserved = store::reserve(&mut tx, worker, Some(&cleanups.queues), token(), policy, now).await?;
        if reserved.is_none() && anywhere {
            reserved = store::reserve(&mut tx, worker, None, token(), policy, now).await?;
        }
        tx.commit().await?;
        Ok(reserved)
    }

    async fn operate(&self, id: Uuid, token: &str, operation: CleanupOperation) -> Result<Outcome, crate::store::StoreError> {
        let mut tx = self.app.begin("worker_channel.cleanup_operation").await?;
        let outcome = store::operate(&mut tx, self.pool, id, token, operation, self.policy(), self.app.now()).await?;
        tx.commit().await?;
        Ok(outcome)
    }

    /// Does what the worker asks for about a message, and answers.
    pub(super) async fn cleanup(
        &mut self,
        socket: &mut WebSocket,
        frame: Uuid,
        operation: CleanupOperation,
        request: &CleanupRequest,
    ) -> Result<(), End> {
        let outcome = if self.cleanups.is_none() {
            Outcome::refused(CleanupStatus::Unauthorized, "cleanup_delivery_not_accepted")
        } else {
            let done = persistently!(self.operate(request.message_id, &request.reservation_token, operation).await.map_err(Refusal::Store));
            done.unwrap_or_else(|refusal| {
                if let Refusal::Store(error) = refusal {
                    tracing::warn!(error = %chain(&error), message.id = %request.message_id, "a worker's cleanup operation failed");
                }
                Outcome::refused(CleanupStatus::Error, "cleanup_queue_operation_failed")
            })
        };
        let payload = json!({
            "request_frame_id": frame,
            "message_id": request.message_id,
            "operation": operation,
            "status": outcome.status,
            "lease_expires_at": outcome.lease_expires.as_ref().map(write_timestamp),
            "reason": outcome.reason,
            "detail": null,
        });
        send(socket, "cleanup.operation_result.v1", self.app.now(), payload).await?;
        let still_held =
            outcome.status == CleanupStatus::Error || (operation == CleanupOperation::Renew && outcome.status == CleanupStatus::Accepted);
        if !still_held {
            self.cleanups.iter_mut().for_each(Cleanups::look_now);
        }
        Ok(())
    }
}

/// Lease and deliveries, as the settings have them.
fn policy(settings: &crate::config::OrchestrationSettings) -> Policy {
    let lease = TimeDelta::from_std(settings.cleanup_lease).unwrap_or(TimeDelta::MAX);
    Policy { lease, deliveries: settings.cleanup_max_delivery_attempts }
}
