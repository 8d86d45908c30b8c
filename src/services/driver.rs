//! Starts all services when this node becomes their leader and stops them when it no longer is; knows no particular one.
//!
//! Before the first of them runs, the node has applied everything that was committed before its election (a read
//! barrier) and has advanced the fence in the database. On any change all are cancelled *and joined* before anything
//! else happens. If the start fails the lead is not half-taken: it is tried again while the node leads.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use rand::Rng;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::status::Board;
use super::{Done, Lead, Service, ServiceError, Tick, consumer, unpanicked};
use crate::app::App;
use crate::config::Planted;
use crate::limits;
use crate::store::{StoreError, fence};
use crate::telemetry::{chain, metrics};

/// What the driver knows of the group.
pub struct Leadership {
    /// This node.
    pub node_id: u64,
    /// The epoch in which this node leads the services; `None` while it does not.
    pub epoch: watch::Receiver<Option<u64>>,
    /// Resolves once this node has applied everything that was committed before the call.
    pub barrier: Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
    /// Has another node lead the services; an error where there is none.
    pub hand_over: Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

/// Runs until the node stops.
pub async fn run(app: App, mut leadership: Leadership, board: Board) {
    let stopping = app.tasks().stopping();
    loop {
        let epoch = *leadership.epoch.borrow_and_update();
        metrics::services_leader(epoch);
        if let Some(epoch) = epoch {
            let lead = Lead { app: app.clone(), epoch };
            lead_services(&lead, &leadership, &board, &stopping.child_token()).await;
            board.clear();
            tracing::info!(epoch, "the services of this node are stopped");
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            changed = leadership.epoch.changed() => if changed.is_err() { return },
        }
    }
}

/// Takes the lead, runs all services until the node no longer leads or stops, and joins them.
async fn lead_services(lead: &Lead, leadership: &Leadership, board: &Board, stop: &CancellationToken) {
    let mut watched = leadership.epoch.clone();
    let epoch = lead.epoch;
    // An error of the watch means that the group is gone, which ends the lead as well.
    let ended = async {
        tokio::select! { _ = watched.wait_for(|current| *current != Some(epoch)) => {}, () = stop.cancelled() => {} }
    };
    tokio::pin!(ended);
    let handing_over = hand_over_when_stuck(lead, leadership, board);
    tokio::pin!(handing_over);
    tokio::select! {
        () = establish_until_done(lead, leadership, board) => board.clear(),
        () = &mut ended => return,
        never = &mut handing_over => match never {},
    }
    let services = super::table(&lead.app);
    let names: Vec<&str> = services.iter().map(Service::name).collect();
    tracing::info!(epoch, services = names.join(" "), "this node leads the services");
    let running: Vec<_> = services
        .into_iter()
        .map(|service| {
            let (lead, board, stop) = (lead.clone(), board.clone(), stop.clone());
            lead.app.tasks().clone().spawn(service.name(), async move {
                let work = async {
                    match &service {
                        Service::Tick(tick) => run_ticks(&lead, tick.as_ref(), &board).await,
                        Service::Consume(consume) => consumer::run(&lead, consume.as_ref(), &board).await,
                    }
                };
                // Cancelled at its next wait, with its transaction.
                stop.run_until_cancelled(work).await
            })
        })
        .collect();
    tokio::select! {
        () = &mut ended => {}
        never = &mut handing_over => match never {},
    }
    if Planted::NoFence.is_here() {
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    stop.cancel();
    join_all(running).await;
}

/// As a service while the lead is being taken.
const ESTABLISH: &str = "establish";

async fn establish_until_done(lead: &Lead, leadership: &Leadership, board: &Board) {
    board.started(ESTABLISH, Duration::ZERO, lead.app.now());
    while let Err(error) = establish(lead, leadership).await {
        tracing::warn!(epoch = lead.epoch, error, "the lead of the services could not be taken yet");
        board.failed(ESTABLISH, error, lead.app.now());
        tokio::time::sleep(limits::SERVICE_RETRY).await;
    }
}

/// Has another node lead once a service here hangs or fails for longer than its patience. Where there is no other, goes
/// on here. Ends with the lead.
async fn hand_over_when_stuck(lead: &Lead, leadership: &Leadership, board: &Board) -> Infallible {
    let mut told = false;
    loop {
        tokio::time::sleep(limits::SERVICE_LOOK).await;
        let now = lead.app.now();
        let Some(name) = board.stuck(now).first().copied() else {
            told = false;
            continue;
        };
        let status = board.list(now).into_iter().find(|status| status.name == name);
        let error = status.and_then(|status| status.error).unwrap_or_else(|| "it stands still".to_owned());
        if !std::mem::replace(&mut told, true) {
            // Told before, since the lead, and this with it, ends once it is handed over.
            tracing::warn!(epoch = lead.epoch, service = name, error, "a service cannot work here; another node is to lead the services");
            metrics::services_handed_over();
        }
        match (leadership.hand_over)().await {
            // The lead ends by the election of another; should it not, this is tried again.
            Ok(()) => tokio::time::sleep(limits::SERVICE_PATIENCE).await,
            Err(reason) => tracing::debug!(reason, "the services go on here"),
        }
    }
}

/// Barrier, then fence.
async fn establish(lead: &Lead, leadership: &Leadership) -> Result<(), String> {
    (leadership.barrier)().await?;
    let advance = async {
        let mut tx = lead.app.begin("services.establish").await?;
        fence::advance(&mut tx, fence::SERVICES, lead.app.cluster_id(), lead.epoch, leadership.node_id, lead.app.now()).await?;
        tx.commit().await
    };
    advance.await.map_err(|error: StoreError| error.to_string())
}

async fn run_ticks(lead: &Lead, service: &dyn Tick, board: &Board) {
    let (name, period) = (service.name(), service.period());
    board.started(name, period, lead.app.now());
    loop {
        let pause = match run_tick(lead, service, board).await {
            Ok(Done { more: true, .. }) => Duration::ZERO,
            // Up to a tenth of jitter, so that services do not march in step.
            Ok(_) => period.mul_f64(1.0 + rand::rng().random_range(0.0..0.1)),
            Err(ServiceError::Store(StoreError::Fenced { held, current })) => {
                tracing::info!(service = name, held, current, "another node leads the services; this one waits to hear of it");
                limits::SERVICE_RETRY
            }
            Err(_) => period.min(limits::SERVICE_RETRY),
        };
        tokio::time::sleep(pause).await;
    }
}

pub(super) async fn run_tick(lead: &Lead, service: &dyn Tick, board: &Board) -> Result<Done, ServiceError> {
    let (name, started) = (service.name(), now());
    let work = tokio::time::timeout(limits::SERVICE_TICK, unpanicked(service.tick(lead)));
    let result = work.await.unwrap_or(Err(ServiceError::TimedOut(limits::SERVICE_TICK)));
    report(lead, name, started, board, &result.as_ref().map(|done| done.items).map_err(|error| chain(error)));
    result
}

/// Tells the board, the metrics and the log how an attempt went.
pub(super) fn report(lead: &Lead, name: &'static str, started: Instant, board: &Board, result: &Result<u64, String>) {
    let (at, elapsed) = (lead.app.now(), started.elapsed());
    match result {
        Ok(items) => {
            board.succeeded(name, elapsed, at);
            metrics::service_tick_succeeded(name, elapsed, *items, at.timestamp());
        }
        Err(error) => {
            board.failed(name, error.clone(), at);
            metrics::service_tick_failed(name, elapsed);
            tracing::warn!(service = name, error, "a service did not do its work; it will be tried again");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "measures elapsed time only")]
pub(super) fn now() -> Instant {
    Instant::now()
}
