//! Takes back the slots of leases that ran out, and keeps what is counted of every limit equal to what is leased.
//!
//! A lease does not run out because its holder could not renew it: after a new leader, and after a time in which the
//! database was away, holders get a grace to come back.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::driver::now;
use super::{Done, Lead, ServiceError, Tick};
use crate::config::Planted;
use crate::limits;
use crate::orchestration::Context;
use crate::store::{leases, slots};

/// The reference's `monitor_expired_leases`.
pub struct Repossessor {
    period: Duration,
    grace: Duration,
    seen: Mutex<Option<Seen>>,
}

/// Since when and until when this leader has been able to look at the leases without a gap.
#[derive(Debug, Clone, Copy)]
struct Seen {
    since: Instant,
    until: Instant,
}

impl Repossessor {
    /// Looks every `period`, and takes nothing back until it has been able to for `grace`.
    pub fn new(period: Duration, grace: Duration) -> Self {
        Self { period, grace, seen: Mutex::new(None) }
    }

    /// Notes that a look succeeded; true where holders have had their grace.
    fn may_take_back(&self, now: Instant) -> bool {
        let gap = self.period * 2 + limits::SERVICE_PATIENCE;
        let mut seen = self.seen.lock();
        let since = match *seen {
            Some(before) if now - before.until <= gap => before.since,
            _ => now,
        };
        *seen = Some(Seen { since, until: now });
        now - since >= self.grace
    }
}

#[async_trait]
impl Tick for Repossessor {
    fn name(&self) -> &'static str {
        "repossessor"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        let settings = &lead.app.settings().orchestration;
        let drifted = slots::drifted(&mut lead.app.read("repossessor").await?, limits::REPOSSESSOR_LIMITS).await?;
        let mut items = 0;
        for id in &drifted {
            let now = lead.app.now();
            let mut tx = lead.begin("repossessor.settle").await?;
            let lasting = Context::server(now, settings).initial_lease();
            let drift = slots::settle(&mut tx, *id, lasting, now).await?;
            tx.commit().await?;
            if let Some(drift) = drift {
                items += 1;
                let slots::Drift { name, counted, leased } = drift;
                tracing::warn!(limit = name, counted, leased, "slots of a concurrency limit were changed by another program; set right");
            }
        }
        if !self.may_take_back(now()) || Planted::LeaseLeak.is_here() {
            return Ok(Done { items, more: false });
        }
        let now = lead.app.now();
        let mut tx = lead.begin("repossessor.take_back").await?;
        let waits = Context::server(now, settings).waits();
        let expired = leases::take_back_expired(&mut tx, now, limits::REPOSSESSOR_LEASES, waits).await?;
        tx.commit().await?;
        if !expired.is_empty() {
            tracing::info!(leases = expired.len(), "leases ran out; their slots are free");
        }
        Ok(Done { items: items + expired.len() as u64, more: expired.len() as u64 == limits::REPOSSESSOR_LEASES })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_get_their_grace_after_a_start_and_after_a_gap() {
        let service = Repossessor::new(Duration::from_secs(15), Duration::from_mins(1));
        let start = now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let looks: Vec<bool> = [0, 15, 59, 60, 75, 200, 245, 260].into_iter().map(|second| service.may_take_back(at(second))).collect();
        assert_eq!(looks, [false, false, false, true, true, false, false, true]);
    }
}
