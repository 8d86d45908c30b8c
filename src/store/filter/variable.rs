//! [`VariableFilter`] as a condition on `variable`.

use sea_query::{Cond, Condition, Expr, ExprTrait};
use serde_json::json;

use super::{add, joined};
use crate::model::filter::variable::VariableFilter;
use crate::store::Dialect;
use crate::store::schema as t;

/// The condition.
pub fn condition(filter: &VariableFilter, dialect: Dialect) -> Condition {
    let mut all = joined(filter.operator);
    if let Some(ids) = filter.id.as_ref().and_then(|id| id.any_.as_ref()) {
        all = all.add(dialect.any_id(Expr::col((t::Variable::Table, t::Variable::Id)), ids));
    }
    if let Some(name) = &filter.name {
        let column = || Expr::col((t::Variable::Table, t::Variable::Name));
        let mut part = Cond::all();
        if let Some(any) = &name.any_ {
            part = part.add(column().is_in(any));
        }
        if let Some(like) = name.like_.as_ref().filter(|like| !like.is_empty()) {
            part = part.add(dialect.ilike(column(), format!("%{like}%")));
        }
        all = add(all, part);
    }
    if let Some(tags) = &filter.tags {
        let column = || Expr::col((t::Variable::Table, t::Variable::Tags));
        let mut part = joined(tags.operator);
        if let Some(wanted) = tags.all_.as_ref().filter(|wanted| !wanted.is_empty()) {
            part = part.add(dialect.json_has_all(column(), wanted));
        }
        match tags.is_null_ {
            Some(true) => part = part.add(column().eq(json!([]))),
            Some(false) => part = part.add(column().ne(json!([]))),
            None => {}
        }
        all = add(all, part);
    }
    all
}
