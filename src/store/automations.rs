//! Table `automation` and what belongs to its rows. Every change is told to Python's servers on the same database, which
//! keep automations in memory; ours look at [`version`] in the transaction that uses them.

use std::collections::BTreeSet;

use sea_query::{Asterisk, Expr, ExprTrait, Func, OnConflict, Order, Query, SelectStatement};
use serde_json::json;

use crate::clock::Timestamp;
use crate::id::AutomationId;
use crate::model::automation::{Action, Automation, AutomationCore, AutomationSort, Source};
use crate::model::filter::automation::AutomationFilter;
use crate::store::filter::automation::condition;
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx};

/// Where Python's servers listen.
const CHANGES: &str = "prefect_automation_changes";

const COLUMNS: [t::Automation; 11] = [
    t::Automation::Id,
    t::Automation::Created,
    t::Automation::Updated,
    t::Automation::Name,
    t::Automation::Description,
    t::Automation::Enabled,
    t::Automation::Tags,
    t::Automation::Trigger,
    t::Automation::Actions,
    t::Automation::ActionsOnTrigger,
    t::Automation::ActionsOnResolve,
];

/// What happened to an automation, in the words that Python's servers know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Created,
    Updated,
    Deleted,
}

fn select() -> SelectStatement {
    Query::select().columns(COLUMNS.map(|column| (t::Automation::Table, column))).from(t::Automation::Table).to_owned()
}

fn id_is(id: AutomationId) -> Expr {
    Expr::col((t::Automation::Table, t::Automation::Id)).eq(id)
}

fn decode(row: &Row) -> Result<Automation, StoreError> {
    Ok(Automation {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        core: AutomationCore {
            name: row.get("name")?,
            description: row.get("description")?,
            enabled: row.get("enabled")?,
            tags: row.json("tags")?,
            trigger: row.json("trigger")?,
            actions: row.json("actions")?,
            actions_on_trigger: row.json("actions_on_trigger")?,
            actions_on_resolve: row.json("actions_on_resolve")?,
        },
    })
}

async fn notify(tx: &mut Tx, id: AutomationId, change: Change) -> Result<(), StoreError> {
    let word = match change {
        Change::Created => "created",
        Change::Updated => "updated",
        Change::Deleted => "deleted",
    };
    let payload = json!({"automation_id": id, "event_type": word}).to_string();
    if let Some((sql, values)) = tx.dialect().notify(CHANGES, &payload) {
        tx.fetch_sql(sql, values).await?;
    }
    Ok(())
}

/// Inserts an automation, and relates it to the deployments that it runs.
pub async fn insert(tx: &mut Tx, id: AutomationId, now: Timestamp, core: AutomationCore) -> Result<Automation, StoreError> {
    let insert = Query::insert()
        .into_table(t::Automation::Table)
        .columns(COLUMNS)
        .values_panic([
            id.into(),
            now.into(),
            now.into(),
            core.name.as_str().into(),
            core.description.as_str().into(),
            core.enabled.into(),
            json!(core.tags).into(),
            json!(core.trigger).into(),
            json!(core.actions).into(),
            json!(core.actions_on_trigger).into(),
            json!(core.actions_on_resolve).into(),
        ])
        .to_owned();
    tx.execute(&insert).await?;
    relate_deployments(tx, id, &core.actions, now).await?;
    notify(tx, id, Change::Created).await?;
    Ok(Automation { core, id, created: now, updated: now })
}

/// Reads one automation.
pub async fn read(tx: &mut Tx, id: AutomationId) -> Result<Option<Automation>, StoreError> {
    tx.fetch_optional(select().and_where(id_is(id))).await?.as_ref().map(decode).transpose()
}

/// Lists automations.
pub async fn list(
    tx: &mut Tx,
    filter: &AutomationFilter,
    sort: AutomationSort,
    limit: u64,
    offset: u64,
) -> Result<Vec<Automation>, StoreError> {
    let (column, order) = match sort {
        AutomationSort::CreatedDesc => (t::Automation::Created, Order::Desc),
        AutomationSort::UpdatedDesc => (t::Automation::Updated, Order::Desc),
        AutomationSort::NameAsc => (t::Automation::Name, Order::Asc),
        AutomationSort::NameDesc => (t::Automation::Name, Order::Desc),
    };
    let mut select = select();
    select
        .cond_where(condition(filter, tx.dialect()))
        .order_by(column, order)
        .order_by(t::Automation::Id, Order::Asc)
        .limit(limit)
        .offset(offset);
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Counts all automations.
pub async fn count(tx: &mut Tx) -> Result<i64, StoreError> {
    let mut select = Query::select();
    select.expr_as(Func::count(Expr::col(Asterisk)), "count").from(t::Automation::Table);
    tx.fetch_one(&select).await?.get("count")
}

/// Replaces those fields of an automation that were `given`; false where it is not there.
pub async fn update(
    tx: &mut Tx,
    id: AutomationId,
    now: Timestamp,
    core: &AutomationCore,
    given: impl Fn(&str) -> bool,
) -> Result<bool, StoreError> {
    let fields: [(&str, t::Automation, sea_query::Value); 8] = [
        ("name", t::Automation::Name, core.name.as_str().into()),
        ("description", t::Automation::Description, core.description.as_str().into()),
        ("enabled", t::Automation::Enabled, core.enabled.into()),
        ("tags", t::Automation::Tags, json!(core.tags).into()),
        ("trigger", t::Automation::Trigger, json!(core.trigger).into()),
        ("actions", t::Automation::Actions, json!(core.actions).into()),
        ("actions_on_trigger", t::Automation::ActionsOnTrigger, json!(core.actions_on_trigger).into()),
        ("actions_on_resolve", t::Automation::ActionsOnResolve, json!(core.actions_on_resolve).into()),
    ];
    let mut update = Query::update();
    update.table(t::Automation::Table).value(t::Automation::Updated, now).and_where(id_is(id));
    update.values(fields.into_iter().filter(|(name, ..)| given(name)).map(|(_, column, value)| (column, value.into())));
    if tx.execute(&update).await? == 0 {
        return Ok(false);
    }
    relate_deployments(tx, id, &core.actions, now).await?;
    notify(tx, id, Change::Updated).await?;
    Ok(true)
}

/// Enables or disables an automation; with `None` nothing of it changes but the time of its last update.
pub async fn set_enabled(tx: &mut Tx, id: AutomationId, now: Timestamp, enabled: Option<bool>) -> Result<(), StoreError> {
    let mut update = Query::update();
    update.table(t::Automation::Table).value(t::Automation::Updated, now).and_where(id_is(id));
    if let Some(enabled) = enabled {
        update.value(t::Automation::Enabled, enabled);
    }
    tx.execute(&update).await?;
    notify(tx, id, Change::Updated).await
}

/// Deletes an automation with its buckets, firings and relations.
pub async fn delete(tx: &mut Tx, id: AutomationId) -> Result<(), StoreError> {
    // What belongs to it goes with it, by its foreign keys.
    tx.execute(Query::delete().from_table(t::Automation::Table).and_where(id_is(id))).await?;
    notify(tx, id, Change::Deleted).await
}

/// Relates an automation to exactly the deployments that its actions run by name; those that own it stay.
async fn relate_deployments(tx: &mut Tx, id: AutomationId, actions: &[Action], now: Timestamp) -> Result<(), StoreError> {
    let mut forget = Query::delete();
    forget
        .from_table(t::AutomationRelatedResource::Table)
        .and_where(Expr::col(t::AutomationRelatedResource::AutomationId).eq(id))
        .and_where(Expr::col(t::AutomationRelatedResource::ResourceId).like("prefect.deployment.%"))
        .and_where(Expr::col(t::AutomationRelatedResource::AutomationOwnedByResource).eq(false));
    tx.execute(&forget).await?;
    let deployments: BTreeSet<String> = actions
        .iter()
        .filter_map(|action| match action {
            Action::RunDeployment(run) if run.source == Source::Selected => run.deployment_id,
            _ => None,
        })
        .map(|deployment| format!("prefect.deployment.{deployment}"))
        .collect();
    for resource in &deployments {
        relate(tx, id, resource, false, now).await?;
    }
    Ok(())
}

/// Relates an automation to a resource, which may own it; whoever owns it once goes on to.
pub async fn relate(tx: &mut Tx, id: AutomationId, resource: &str, owned: bool, now: Timestamp) -> Result<(), StoreError> {
    use t::AutomationRelatedResource as R;
    let mut conflict = OnConflict::columns([R::AutomationId, R::ResourceId]);
    conflict.update_column(R::Updated);
    if owned {
        conflict.update_column(R::AutomationOwnedByResource);
    }
    let insert = Query::insert()
        .into_table(R::Table)
        .columns([R::Id, R::Created, R::Updated, R::AutomationId, R::ResourceId, R::AutomationOwnedByResource])
        .values_panic([crate::id::v4().into(), now.into(), now.into(), id.into(), resource.into(), owned.into()])
        .on_conflict(conflict)
        .to_owned();
    tx.execute(&insert).await.map(drop)
}

/// The automations that have to do with a resource.
pub async fn related_to(tx: &mut Tx, resource: &str, limit: u64) -> Result<Vec<Automation>, StoreError> {
    let mut related = Query::select();
    related
        .column(t::AutomationRelatedResource::AutomationId)
        .from(t::AutomationRelatedResource::Table)
        .and_where(Expr::col(t::AutomationRelatedResource::ResourceId).eq(resource));
    let mut select = select();
    select
        .and_where(Expr::col(t::Automation::Id).in_subquery(related))
        .order_by(t::Automation::Created, Order::Asc)
        .order_by(t::Automation::Id, Order::Asc)
        .limit(limit);
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Deletes the automations that a resource owns and that were made before `before`; gives their ids.
pub async fn delete_owned(tx: &mut Tx, resource_id: &str, before: Timestamp) -> Result<Vec<AutomationId>, StoreError> {
    let mut owned = Query::select();
    owned
        .column(t::AutomationRelatedResource::AutomationId)
        .from(t::AutomationRelatedResource::Table)
        .and_where(Expr::col(t::AutomationRelatedResource::ResourceId).eq(resource_id))
        .and_where(Expr::col(t::AutomationRelatedResource::AutomationOwnedByResource).eq(true));
    let mut select = Query::select();
    select
        .column(t::Automation::Id)
        .from(t::Automation::Table)
        .and_where(Expr::col(t::Automation::Id).in_subquery(owned))
        .and_where(Expr::col(t::Automation::Created).lte(before))
        .order_by(t::Automation::Id, Order::Asc);
    let ids: Vec<AutomationId> = tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect::<Result<_, _>>()?;
    for id in &ids {
        delete(tx, *id).await?;
    }
    Ok(ids)
}

/// Tells whether automations have changed: their number, and the sum of the times of their last updates (without what
/// would not fit). Any change moves one of the two, since every write stamps its row anew.
pub type Version = (i64, i64);

/// The automations' version, as this transaction sees it.
pub async fn version(tx: &mut Tx) -> Result<Version, StoreError> {
    let dialect = tx.dialect();
    let moment = dialect.epoch_micros(Expr::col(t::Automation::Updated)).modulo(1_000_000_000_000_i64);
    let sum = Func::coalesce([dialect.integer(Expr::expr(Func::sum(moment))), Expr::val(0_i64)]);
    let mut select = Query::select();
    select.expr_as(Func::count(Expr::col(Asterisk)), "count").expr_as(dialect.integer(sum), "sum").from(t::Automation::Table);
    let row = tx.fetch_one(&select).await?;
    Ok((row.get("count")?, row.get("sum")?))
}

/// All enabled automations, the oldest first. One that cannot be read is left out, and told with its error.
pub async fn enabled(tx: &mut Tx) -> Result<(Vec<Automation>, Vec<StoreError>), StoreError> {
    let mut select = select();
    select
        .and_where(Expr::col(t::Automation::Enabled).eq(true))
        .order_by(t::Automation::Created, Order::Asc)
        .order_by(t::Automation::Id, Order::Asc);
    let (mut automations, mut unreadable) = (Vec::new(), Vec::new());
    for row in tx.fetch_all(&select).await? {
        match decode(&row) {
            Ok(automation) => automations.push(automation),
            Err(error) => unreadable.push(error),
        }
    }
    Ok((automations, unreadable))
}

/// Those of `ids` that are there; they cannot be deleted until the end of the transaction.
pub async fn hold(tx: &mut Tx, ids: &[AutomationId]) -> Result<Vec<AutomationId>, StoreError> {
    let dialect = tx.dialect();
    let mut select = Query::select();
    select
        .column(t::Automation::Id)
        .from(t::Automation::Table)
        .and_where(dialect.any_id(Expr::col(t::Automation::Id), ids))
        .order_by(t::Automation::Id, Order::Asc);
    dialect.for_key_share(&mut select);
    tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect()
}
