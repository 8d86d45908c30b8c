//! Table `deployment`. A deployment is read with its flow's name, its queue, pool and concurrency limit in one statement,
//! and its schedules in a second one.

use sea_query::{Asterisk, Cond, Condition, Expr, ExprTrait, Func, OnConflict, Order, Query, SelectStatement, UpdateStatement};
use serde_json::{Map, Value, json};

use super::work_pools::word;
use crate::clock::Timestamp;
use crate::id::{DeploymentId, FlowId, WorkQueueId};
use crate::model::Patch;
use crate::model::concurrency::GlobalConcurrencyLimit;
use crate::model::deployment::{Deployment, DeploymentChange, DeploymentQueue, DeploymentSort};
use crate::model::filter::Filters;
use crate::model::status::DeploymentStatus;
use crate::store::deployment_schedules;
use crate::store::filter::{deployment, flow, related, work_pool, work_queue};
use crate::store::schema as t;
use crate::store::{Dialect, Row, StoreError, Tx};

const COLUMNS: [t::Deployment; 27] = [
    t::Deployment::Id,
    t::Deployment::Created,
    t::Deployment::Updated,
    t::Deployment::Name,
    t::Deployment::Version,
    t::Deployment::Description,
    t::Deployment::FlowId,
    t::Deployment::Paused,
    t::Deployment::ConcurrencyLimitId,
    t::Deployment::ConcurrencyOptions,
    t::Deployment::InfraOverrides,
    t::Deployment::Parameters,
    t::Deployment::Tags,
    t::Deployment::Labels,
    t::Deployment::WorkQueueName,
    t::Deployment::WorkQueueId,
    t::Deployment::LastPolled,
    t::Deployment::ParameterOpenapiSchema,
    t::Deployment::Path,
    t::Deployment::PullSteps,
    t::Deployment::Entrypoint,
    t::Deployment::StorageDocumentId,
    t::Deployment::InfrastructureDocumentId,
    t::Deployment::CreatedBy,
    t::Deployment::UpdatedBy,
    t::Deployment::Status,
    t::Deployment::EnforceParameterSchema,
];

fn column(column: t::Deployment) -> Expr {
    Expr::col((t::Deployment::Table, column))
}

fn select() -> SelectStatement {
    let mut select = Query::select();
    select
        .columns(COLUMNS.map(|column| (t::Deployment::Table, column)))
        .from(t::Deployment::Table)
        .left_join(t::Flow::Table, Expr::col((t::Flow::Table, t::Flow::Id)).equals((t::Deployment::Table, t::Deployment::FlowId)))
        .left_join(
            t::WorkQueue::Table,
            Expr::col((t::WorkQueue::Table, t::WorkQueue::Id)).equals((t::Deployment::Table, t::Deployment::WorkQueueId)),
        )
        .left_join(
            t::WorkPool::Table,
            Expr::col((t::WorkPool::Table, t::WorkPool::Id)).equals((t::WorkQueue::Table, t::WorkQueue::WorkPoolId)),
        )
        .left_join(
            t::ConcurrencyLimitV2::Table,
            Expr::col((t::ConcurrencyLimitV2::Table, t::ConcurrencyLimitV2::Id))
                .equals((t::Deployment::Table, t::Deployment::ConcurrencyLimitId)),
        )
        .expr_as(Expr::col((t::Flow::Table, t::Flow::Name)), "flow_name")
        .expr_as(Expr::col((t::WorkQueue::Table, t::WorkQueue::Name)), "queue_name")
        .expr_as(Expr::col((t::WorkPool::Table, t::WorkPool::Id)), "pool_id")
        .expr_as(Expr::col((t::WorkPool::Table, t::WorkPool::Name)), "pool_name")
        .expr_as(Expr::col((t::WorkPool::Table, t::WorkPool::Type)), "pool_type");
    for (column, name) in [
        (t::ConcurrencyLimitV2::Id, "limit_id"),
        (t::ConcurrencyLimitV2::Created, "limit_created"),
        (t::ConcurrencyLimitV2::Updated, "limit_updated"),
        (t::ConcurrencyLimitV2::Active, "limit_active"),
        (t::ConcurrencyLimitV2::Name, "limit_name"),
        (t::ConcurrencyLimitV2::Limit, "limit_limit"),
        (t::ConcurrencyLimitV2::ActiveSlots, "limit_active_slots"),
        (t::ConcurrencyLimitV2::SlotDecayPerSecond, "limit_slot_decay"),
    ] {
        select.expr_as(Expr::col((t::ConcurrencyLimitV2::Table, column)), name);
    }
    select
}

fn decode(row: &Row) -> Result<Deployment, StoreError> {
    let queue_name: Option<String> = row.get("queue_name")?;
    let queue = match (queue_name, row.get("pool_id")?) {
        (Some(name), Some(work_pool_id)) => {
            Some(DeploymentQueue { name, work_pool_id, work_pool_name: row.get("pool_name")?, work_pool_type: row.get("pool_type")? })
        }
        _ => None,
    };
    let limit = match row.get("limit_id")? {
        None => None,
        Some(id) => Some(GlobalConcurrencyLimit {
            id,
            created: row.get("limit_created")?,
            updated: row.get("limit_updated")?,
            active: row.get("limit_active")?,
            name: row.get("limit_name")?,
            limit: row.get("limit_limit")?,
            active_slots: row.get("limit_active_slots")?,
            slot_decay_per_second: row.get("limit_slot_decay")?,
        }),
    };
    Ok(Deployment {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        name: row.get("name")?,
        version: row.get("version")?,
        description: row.get("description")?,
        flow_id: row.get("flow_id")?,
        paused: row.get("paused")?,
        schedules: Vec::new(),
        global_concurrency_limit: limit,
        concurrency_limit_id: row.get("concurrency_limit_id")?,
        concurrency_options: row.json("concurrency_options")?,
        job_variables: row.json("infra_overrides")?,
        parameters: row.json("parameters")?,
        tags: row.json("tags")?,
        labels: row.json("labels")?,
        work_queue_name: row.get("work_queue_name")?,
        work_queue_id: row.get("work_queue_id")?,
        last_polled: row.get("last_polled")?,
        parameter_openapi_schema: row.json("parameter_openapi_schema")?,
        path: row.get("path")?,
        pull_steps: row.json("pull_steps")?,
        entrypoint: row.get("entrypoint")?,
        storage_document_id: row.get("storage_document_id")?,
        infrastructure_document_id: row.get("infrastructure_document_id")?,
        created_by: row.json("created_by")?,
        updated_by: row.json("updated_by")?,
        status: word(row, "status")?,
        enforce_parameter_schema: row.get("enforce_parameter_schema")?,
        flow_name: row.get("flow_name")?,
        queue,
    })
}

async fn with_schedules(tx: &mut Tx, rows: &[Row]) -> Result<Vec<Deployment>, StoreError> {
    let mut deployments = rows.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    let ids: Vec<DeploymentId> = deployments.iter().map(|deployment| deployment.id).collect();
    let mut schedules = deployment_schedules::of_deployments(tx, &ids).await?;
    for deployment in &mut deployments {
        deployment.schedules = schedules.remove(&deployment.id).unwrap_or_default();
    }
    Ok(deployments)
}

/// Names a deployment.
#[derive(Debug, Clone)]
pub enum Key {
    Id(DeploymentId),
    /// By its flow and its name.
    OfFlow(FlowId, String),
    /// By its flow's name and its name.
    Names {
        flow: String,
        deployment: String,
    },
}

/// Reads one deployment.
pub async fn read(tx: &mut Tx, key: &Key) -> Result<Option<Deployment>, StoreError> {
    let mut select = select();
    match key {
        Key::Id(id) => select.and_where(column(t::Deployment::Id).eq(*id)),
        Key::OfFlow(flow, name) => {
            select.and_where(column(t::Deployment::FlowId).eq(*flow)).and_where(column(t::Deployment::Name).eq(name.as_str()))
        }
        Key::Names { flow, deployment } => select
            .and_where(Expr::col((t::Flow::Table, t::Flow::Name)).eq(flow.as_str()))
            .and_where(column(t::Deployment::Name).eq(deployment.as_str())),
    };
    let rows = tx.fetch_all(&select).await?;
    Ok(with_schedules(tx, &rows).await?.into_iter().next())
}

/// Reads deployments in order of id; those that are not there are missing.
pub async fn read_many(tx: &mut Tx, ids: &[DeploymentId]) -> Result<Vec<Deployment>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut select = select();
    select.and_where(tx.dialect().any_id(column(t::Deployment::Id), ids)).order_by((t::Deployment::Table, t::Deployment::Id), Order::Asc);
    let rows = tx.fetch_all(&select).await?;
    with_schedules(tx, &rows).await
}

/// How strongly [`lock`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// To change the deployment or its schedules.
    Change,
    /// To schedule its runs: nobody changes it meanwhile.
    Schedule,
}

/// Locks deployments until the end of the transaction, in order of id. Whoever changes a deployment, its schedules or its
/// scheduled runs does this first.
pub async fn lock(tx: &mut Tx, ids: &[DeploymentId], lock: Lock) -> Result<(), StoreError> {
    let dialect = tx.dialect();
    let mut select = Query::select();
    select
        .column(t::Deployment::Id)
        .from(t::Deployment::Table)
        .and_where(dialect.any_id(Expr::col(t::Deployment::Id), ids))
        .order_by(t::Deployment::Id, Order::Asc);
    match lock {
        Lock::Change => dialect.for_update(&mut select),
        Lock::Schedule => dialect.for_share(&mut select),
    }
    tx.fetch_all(&select).await.map(drop)
}

/// Locks and reads one deployment.
pub async fn read_for_update(tx: &mut Tx, key: &Key) -> Result<Option<Deployment>, StoreError> {
    let Some(found) = read(tx, key).await? else { return Ok(None) };
    lock(tx, &[found.id], Lock::Change).await?;
    read(tx, &Key::Id(found.id)).await
}

/// A value for a new row: what is absent or null takes the default.
fn or_json<T: serde::Serialize>(given: &Patch<T>, default: Value) -> Expr {
    match given {
        Patch::Absent => Expr::val(default),
        Patch::Null => Expr::val(Option::<Value>::None),
        Patch::Value(value) => Expr::val(json!(value)),
    }
}

fn or_null<T: Into<sea_query::Value> + sea_query::Nullable + Clone>(given: &Patch<T>) -> Expr {
    Expr::val(given.as_value().cloned())
}

/// Inserts a deployment; false where its flow has one of that name.
pub async fn insert(
    tx: &mut Tx,
    id: DeploymentId,
    flow: FlowId,
    name: &str,
    now: Timestamp,
    change: &DeploymentChange,
) -> Result<bool, StoreError> {
    let values: [Expr; 27] = [
        id.into(),
        now.into(),
        now.into(),
        name.into(),
        or_null(&change.version),
        or_null(&change.description),
        flow.into(),
        change.paused.as_value().copied().unwrap_or(false).into(),
        or_null(&change.concurrency_limit_id),
        Expr::val(change.concurrency_options.as_value().map(|options| json!(options))),
        or_json(&change.job_variables, json!({})),
        or_json(&change.parameters, json!({})),
        or_json(&change.tags, json!([])),
        or_json(&change.labels, json!({})),
        or_null(&change.work_queue_name),
        or_null(&change.work_queue_id),
        Expr::val(Option::<Timestamp>::None),
        or_json(&change.parameter_openapi_schema, json!({})),
        or_null(&change.path),
        or_json(&change.pull_steps, json!([])),
        or_null(&change.entrypoint),
        or_null(&change.storage_document_id),
        or_null(&change.infrastructure_document_id),
        Expr::val(Option::<Value>::None),
        Expr::val(Option::<Value>::None),
        DeploymentStatus::NotReady.into(),
        change.enforce_parameter_schema.as_value().copied().unwrap_or(true).into(),
    ];
    let insert = Query::insert()
        .into_table(t::Deployment::Table)
        .columns(COLUMNS)
        .values_panic(values)
        .on_conflict(OnConflict::columns([t::Deployment::FlowId, t::Deployment::Name]).do_nothing().to_owned())
        .to_owned();
    Ok(tx.execute(&insert).await? > 0)
}

/// Changes a deployment; true where there was one.
pub async fn update(tx: &mut Tx, id: DeploymentId, now: Timestamp, change: &DeploymentChange) -> Result<bool, StoreError> {
    fn text(statement: &mut UpdateStatement, column: t::Deployment, given: &Patch<String>) {
        if let Some(given) = given.clone().into_option() {
            statement.value(column, given);
        }
    }
    fn id_of<T: Clone + Into<sea_query::Value> + sea_query::Nullable>(
        statement: &mut UpdateStatement,
        column: t::Deployment,
        given: &Patch<T>,
    ) {
        if let Some(given) = given.clone().into_option() {
            statement.value(column, given);
        }
    }
    fn document<T: Clone + serde::Serialize>(statement: &mut UpdateStatement, column: t::Deployment, given: &Patch<T>) {
        if let Some(given) = given.clone().into_option() {
            statement.value(column, given.map(|given| json!(given)));
        }
    }
    let mut statement = Query::update();
    statement.table(t::Deployment::Table).value(t::Deployment::Updated, now).and_where(Expr::col(t::Deployment::Id).eq(id));
    text(&mut statement, t::Deployment::Version, &change.version);
    text(&mut statement, t::Deployment::Description, &change.description);
    text(&mut statement, t::Deployment::Path, &change.path);
    text(&mut statement, t::Deployment::Entrypoint, &change.entrypoint);
    text(&mut statement, t::Deployment::WorkQueueName, &change.work_queue_name);
    id_of(&mut statement, t::Deployment::WorkQueueId, &change.work_queue_id);
    id_of(&mut statement, t::Deployment::ConcurrencyLimitId, &change.concurrency_limit_id);
    id_of(&mut statement, t::Deployment::StorageDocumentId, &change.storage_document_id);
    id_of(&mut statement, t::Deployment::InfrastructureDocumentId, &change.infrastructure_document_id);
    document(&mut statement, t::Deployment::ConcurrencyOptions, &change.concurrency_options);
    document(&mut statement, t::Deployment::ParameterOpenapiSchema, &change.parameter_openapi_schema);
    document(&mut statement, t::Deployment::PullSteps, &change.pull_steps);
    if let Some(paused) = change.paused.as_value() {
        statement.value(t::Deployment::Paused, *paused);
    }
    if let Some(enforce) = change.enforce_parameter_schema.as_value() {
        statement.value(t::Deployment::EnforceParameterSchema, *enforce);
    }
    if let Some(parameters) = change.parameters.as_value() {
        statement.value(t::Deployment::Parameters, json!(parameters));
    }
    if let Some(tags) = change.tags.as_value() {
        statement.value(t::Deployment::Tags, json!(tags));
    }
    if let Some(labels) = change.labels.as_value() {
        statement.value(t::Deployment::Labels, json!(labels));
    }
    if let Some(variables) = change.job_variables.as_value() {
        statement.value(t::Deployment::InfraOverrides, json!(variables));
    }
    Ok(tx.execute(&statement).await? > 0)
}

/// Notes the limit in the column that came before the table of limits.
pub async fn set_old_concurrency_limit(tx: &mut Tx, id: DeploymentId, limit: Option<i64>) -> Result<(), StoreError> {
    let mut update = Query::update();
    update.table(t::Deployment::Table).value(t::Deployment::ConcurrencyLimit, limit).and_where(Expr::col(t::Deployment::Id).eq(id));
    tx.execute(&update).await.map(drop)
}

/// The condition of filters on deployments and on what is related to them.
fn condition(filters: &Filters, dialect: Dialect) -> Condition {
    let mut all = Cond::all();
    let exists = |mut select: SelectStatement| Expr::exists(select.expr(Expr::val(1)).take());
    if let Some(filter) = &filters.deployments {
        all = all.add(deployment::condition(filter, dialect));
    }
    if let Some(filter) = &filters.flows {
        let select = Query::select()
            .from(t::Flow::Table)
            .and_where(column(t::Deployment::FlowId).equals((t::Flow::Table, t::Flow::Id)))
            .cond_where(flow::condition(filter, dialect))
            .take();
        all = all.add(exists(select));
    }
    if filters.flow_runs.is_some() || filters.task_runs.is_some() {
        let of_run = Filters { flow_runs: filters.flow_runs.clone(), task_runs: filters.task_runs.clone(), ..Filters::default() };
        let select = Query::select()
            .from(t::FlowRun::Table)
            .and_where(column(t::Deployment::Id).equals((t::FlowRun::Table, t::FlowRun::DeploymentId)))
            .cond_where(related::flow_runs(&of_run, dialect))
            .take();
        all = all.add(exists(select));
    }
    if filters.work_pools.is_some() || filters.work_queues.is_some() {
        let mut select = Query::select();
        select.from(t::WorkQueue::Table).and_where(column(t::Deployment::WorkQueueId).equals((t::WorkQueue::Table, t::WorkQueue::Id)));
        if let Some(filter) = &filters.work_queues {
            select.cond_where(work_queue::condition(filter, dialect));
        }
        if let Some(filter) = &filters.work_pools {
            select
                .inner_join(
                    t::WorkPool::Table,
                    Expr::col((t::WorkPool::Table, t::WorkPool::Id)).equals((t::WorkQueue::Table, t::WorkQueue::WorkPoolId)),
                )
                .cond_where(work_pool::condition(filter, dialect));
        }
        all = all.add(exists(select));
    }
    all
}

/// Lists deployments.
pub async fn list(tx: &mut Tx, filters: &Filters, sort: DeploymentSort, limit: u64, offset: u64) -> Result<Vec<Deployment>, StoreError> {
    let (key, order) = match sort {
        DeploymentSort::CreatedDesc => (t::Deployment::Created, Order::Desc),
        DeploymentSort::UpdatedDesc => (t::Deployment::Updated, Order::Desc),
        DeploymentSort::NameAsc => (t::Deployment::Name, Order::Asc),
        DeploymentSort::NameDesc => (t::Deployment::Name, Order::Desc),
    };
    let mut select = select();
    select
        .cond_where(condition(filters, tx.dialect()))
        .order_by((t::Deployment::Table, key), order)
        .order_by((t::Deployment::Table, t::Deployment::Id), Order::Asc)
        .limit(limit)
        .offset(offset);
    let rows = tx.fetch_all(&select).await?;
    with_schedules(tx, &rows).await
}

/// Counts deployments.
pub async fn count(tx: &mut Tx, filters: &Filters) -> Result<u64, StoreError> {
    let mut select = Query::select();
    select.expr_as(Func::count(Expr::col(Asterisk)), "count").from(t::Deployment::Table).cond_where(condition(filters, tx.dialect()));
    Ok(tx.fetch_one(&select).await?.get::<i64>("count")?.unsigned_abs())
}

/// Deletes deployments with their schedules, scheduled runs and concurrency limits.
pub async fn delete(tx: &mut Tx, ids: &[DeploymentId]) -> Result<u64, StoreError> {
    if ids.is_empty() {
        return Ok(0);
    }
    let dialect = tx.dialect();
    super::scheduled_runs::delete(tx, ids, super::scheduled_runs::Which::All).await?;
    let limits = Query::select()
        .column(t::Deployment::ConcurrencyLimitId)
        .from(t::Deployment::Table)
        .and_where(dialect.any_id(Expr::col(t::Deployment::Id), ids))
        .and_where(Expr::col(t::Deployment::ConcurrencyLimitId).is_not_null())
        .take();
    let limits: Vec<crate::id::ConcurrencyLimitId> =
        tx.fetch_all(&limits).await?.iter().map(|row| row.get("concurrency_limit_id")).collect::<Result<_, _>>()?;
    if !limits.is_empty() {
        let these = dialect.any_id(Expr::col(t::ConcurrencyLimitV2::Id), &limits);
        tx.execute(Query::delete().from_table(t::ConcurrencyLimitV2::Table).and_where(these)).await?;
    }
    tx.execute(Query::delete().from_table(t::Deployment::Table).and_where(dialect.any_id(Expr::col(t::Deployment::Id), ids))).await
}

/// Sets the status of deployments, given by their ids or their queues, and gives those whose status that changed. A poll
/// is noted (`last_polled`) where they become ready. `updated` stays, so that nobody schedules them anew; rows are locked
/// in order of id, so that concurrent polls cannot deadlock.
pub async fn mark(
    tx: &mut Tx,
    ids: &[DeploymentId],
    queues: &[WorkQueueId],
    status: DeploymentStatus,
    now: Timestamp,
) -> Result<Vec<Deployment>, StoreError> {
    if ids.is_empty() && queues.is_empty() {
        return Ok(Vec::new());
    }
    let dialect = tx.dialect();
    let mut these = Cond::any();
    if !ids.is_empty() {
        these = these.add(dialect.any_id(Expr::col(t::Deployment::Id), ids));
    }
    if !queues.is_empty() {
        these = these.add(dialect.any_id(Expr::col(t::Deployment::WorkQueueId), queues));
    }
    let mut locked = Query::select();
    locked
        .columns([t::Deployment::Id, t::Deployment::Status])
        .from(t::Deployment::Table)
        .cond_where(these)
        .order_by(t::Deployment::Id, Order::Asc);
    dialect.for_no_key_update(&mut locked);
    let (mut all, mut changed): (Vec<DeploymentId>, Vec<DeploymentId>) = (Vec::new(), Vec::new());
    for row in tx.fetch_all(&locked).await? {
        let id = row.get("id")?;
        all.push(id);
        if word::<DeploymentStatus>(&row, "status")? != status {
            changed.push(id);
        }
    }
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let mut update = Query::update();
    update.table(t::Deployment::Table).value(t::Deployment::Status, status).and_where(dialect.any_id(Expr::col(t::Deployment::Id), &all));
    if status == DeploymentStatus::Ready {
        update.value(t::Deployment::LastPolled, now);
    }
    tx.execute(&update).await?;
    read_many(tx, &changed).await
}

/// Field by field, what an update of a deployment changed: `{field: {from, to}}`.
pub fn changes(before: &Deployment, after: &Deployment) -> Map<String, Value> {
    let fields = |deployment: &Deployment| {
        [
            ("description", json!(deployment.description)),
            ("tags", json!(deployment.tags)),
            ("parameters", json!(deployment.parameters)),
            ("parameter_openapi_schema", json!(deployment.parameter_openapi_schema)),
            ("enforce_parameter_schema", json!(deployment.enforce_parameter_schema)),
            ("entrypoint", json!(deployment.entrypoint)),
            ("path", json!(deployment.path)),
            ("pull_steps", json!(deployment.pull_steps)),
            ("work_queue_id", json!(deployment.work_queue_id)),
            ("infra_overrides", json!(deployment.job_variables)),
            ("paused", json!(deployment.paused)),
            ("labels", json!(deployment.labels)),
            ("version", json!(deployment.version)),
            ("concurrency_limit_id", json!(deployment.concurrency_limit_id)),
            ("concurrency_options", json!(deployment.concurrency_options)),
        ]
    };
    fields(before)
        .into_iter()
        .zip(fields(after))
        .filter(|(old, new)| old.1 != new.1)
        .map(|(old, new)| (old.0.to_owned(), json!({"from": old.1, "to": new.1})))
        .collect()
}
