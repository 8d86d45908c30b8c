//! Table `automation` and what belongs to its rows.

use sea_query::{Expr, ExprTrait, Order, Query};

use crate::clock::Timestamp;
use crate::id::AutomationId;
use crate::store::schema as t;
use crate::store::{StoreError, Tx};

/// Deletes the automations that a resource owns and that were made before `before`; gives their ids. Python's servers
/// on the same database are told, who keep automations in memory.
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
    let dialect = tx.dialect();
    for id in &ids {
        // What belongs to it goes with it, by its foreign keys.
        tx.execute(Query::delete().from_table(t::Automation::Table).and_where(Expr::col(t::Automation::Id).eq(*id))).await?;
        let payload = serde_json::json!({"automation_id": id, "event_type": "deleted"}).to_string();
        if let Some((sql, values)) = dialect.notify("prefect_automation_changes", &payload) {
            tx.fetch_sql(sql, values).await?;
        }
    }
    Ok(ids)
}
