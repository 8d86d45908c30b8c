//! Table `deployment_schedule`. Whoever changes schedules holds the lock of their deployment
//! (`deployments::lock`), so that runs are scheduled by the old ones or the new ones, never a mixture.

use std::collections::HashMap;

use chrono::TimeDelta;
use sea_query::{Expr, ExprTrait, Order, Query, SelectStatement};
use serde_json::json;

use crate::clock::Timestamp;
use crate::id::{DeploymentId, DeploymentScheduleId};
use crate::limits::STATEMENT_VALUES;
use crate::model::deployment::{DeploymentSchedule, DeploymentScheduleCreate, DeploymentScheduleUpdate};
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx};

const COLUMNS: [t::DeploymentSchedule; 9] = [
    t::DeploymentSchedule::Id,
    t::DeploymentSchedule::Created,
    t::DeploymentSchedule::Updated,
    t::DeploymentSchedule::DeploymentId,
    t::DeploymentSchedule::Schedule,
    t::DeploymentSchedule::Active,
    t::DeploymentSchedule::MaxScheduledRuns,
    t::DeploymentSchedule::Parameters,
    t::DeploymentSchedule::Slug,
];

fn select() -> SelectStatement {
    Query::select()
        .columns(COLUMNS)
        .from(t::DeploymentSchedule::Table)
        .order_by(t::DeploymentSchedule::Updated, Order::Desc)
        .order_by(t::DeploymentSchedule::Id, Order::Asc)
        .take()
}

fn decode(row: &Row) -> Result<DeploymentSchedule, StoreError> {
    Ok(DeploymentSchedule {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        deployment_id: row.get("deployment_id")?,
        schedule: row.json("schedule")?,
        active: row.get("active")?,
        max_scheduled_runs: row.get("max_scheduled_runs")?,
        parameters: row.json("parameters")?,
        slug: row.get("slug")?,
    })
}

/// Inserts schedules of a deployment.
///
/// # Errors
/// [`StoreError::Unique`] where the deployment has one with that slug.
pub async fn insert(
    tx: &mut Tx,
    deployment: DeploymentId,
    now: Timestamp,
    creates: &[DeploymentScheduleCreate],
) -> Result<Vec<DeploymentSchedule>, StoreError> {
    let schedules: Vec<DeploymentSchedule> = creates
        .iter()
        .zip(0..)
        // Each a moment after the one before, so that lists have the last one first, as with the reference.
        .map(|(create, place)| (create, now + TimeDelta::microseconds(place)))
        .map(|(create, at)| DeploymentSchedule {
            id: DeploymentScheduleId::fresh(),
            created: at,
            updated: at,
            deployment_id: Some(deployment),
            schedule: create.schedule.clone().normalized(now),
            active: create.active,
            max_scheduled_runs: create.max_scheduled_runs,
            parameters: create.parameters.clone(),
            slug: create.slug.clone(),
        })
        .collect();
    for chunk in schedules.chunks(STATEMENT_VALUES / COLUMNS.len()) {
        let mut insert = Query::insert();
        insert.into_table(t::DeploymentSchedule::Table).columns(COLUMNS);
        for schedule in chunk {
            insert.values_panic([
                schedule.id.into(),
                schedule.created.into(),
                schedule.updated.into(),
                deployment.into(),
                json!(schedule.schedule).into(),
                schedule.active.into(),
                schedule.max_scheduled_runs.into(),
                json!(schedule.parameters).into(),
                schedule.slug.clone().into(),
            ]);
        }
        tx.execute(&insert).await?;
    }
    Ok(schedules)
}

/// Schedules of deployments, latest change first.
pub async fn of_deployments(tx: &mut Tx, ids: &[DeploymentId]) -> Result<HashMap<DeploymentId, Vec<DeploymentSchedule>>, StoreError> {
    let mut found: HashMap<DeploymentId, Vec<DeploymentSchedule>> = HashMap::new();
    if ids.is_empty() {
        return Ok(found);
    }
    let mut select = select();
    select.and_where(tx.dialect().any_id(Expr::col(t::DeploymentSchedule::DeploymentId), ids));
    for row in tx.fetch_all(&select).await? {
        found.entry(row.get("deployment_id")?).or_default().push(decode(&row)?);
    }
    Ok(found)
}

/// Changes a schedule of a deployment; true where there was one.
///
/// # Errors
/// [`StoreError::Unique`] where the deployment has another one with that slug.
pub async fn update(
    tx: &mut Tx,
    deployment: DeploymentId,
    id: DeploymentScheduleId,
    now: Timestamp,
    update: &DeploymentScheduleUpdate,
) -> Result<bool, StoreError> {
    let mut statement = Query::update();
    statement
        .table(t::DeploymentSchedule::Table)
        .value(t::DeploymentSchedule::Updated, now)
        .value(t::DeploymentSchedule::Parameters, json!(update.parameters))
        .and_where(Expr::col(t::DeploymentSchedule::Id).eq(id))
        .and_where(Expr::col(t::DeploymentSchedule::DeploymentId).eq(deployment));
    if let Some(active) = update.active {
        statement.value(t::DeploymentSchedule::Active, active);
    }
    if let Some(schedule) = &update.schedule {
        statement.value(t::DeploymentSchedule::Schedule, json!(schedule.clone().normalized(now)));
    }
    if let Some(runs) = update.max_scheduled_runs {
        statement.value(t::DeploymentSchedule::MaxScheduledRuns, runs);
    }
    if let Some(slug) = &update.slug {
        statement.value(t::DeploymentSchedule::Slug, slug.as_str());
    }
    Ok(tx.execute(&statement).await? > 0)
}

/// Takes the slugs of schedules away, so that others can have them.
pub async fn clear_slugs(tx: &mut Tx, ids: &[DeploymentScheduleId]) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    let mut update = Query::update();
    update
        .table(t::DeploymentSchedule::Table)
        .value(t::DeploymentSchedule::Slug, Option::<String>::None)
        .and_where(tx.dialect().any_id(Expr::col(t::DeploymentSchedule::Id), ids));
    tx.execute(&update).await.map(drop)
}

/// Deletes a schedule of a deployment; true where there was one.
pub async fn delete(tx: &mut Tx, deployment: DeploymentId, id: DeploymentScheduleId) -> Result<bool, StoreError> {
    let mut delete = Query::delete();
    delete
        .from_table(t::DeploymentSchedule::Table)
        .and_where(Expr::col(t::DeploymentSchedule::Id).eq(id))
        .and_where(Expr::col(t::DeploymentSchedule::DeploymentId).eq(deployment));
    Ok(tx.execute(&delete).await? > 0)
}

/// Deletes all schedules of a deployment.
pub async fn delete_all(tx: &mut Tx, deployment: DeploymentId) -> Result<(), StoreError> {
    let mut delete = Query::delete();
    delete.from_table(t::DeploymentSchedule::Table).and_where(Expr::col(t::DeploymentSchedule::DeploymentId).eq(deployment));
    tx.execute(&delete).await.map(drop)
}
