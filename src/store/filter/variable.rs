//! [`VariableFilter`] as a condition on `variable`.

use sea_query::{Condition, Expr, ExprTrait};
use serde_json::json;

use super::{join, part};
use crate::model::filter::Operator;
use crate::model::filter::variable::VariableFilter;
use crate::store::Dialect;
use crate::store::schema as t;

/// The condition.
pub fn condition(filter: &VariableFilter, dialect: Dialect) -> Condition {
    let column = |column| Expr::col((t::Variable::Table, column));
    let name = filter.name.as_ref().map(|name| {
        let any = name.any_.as_ref().map(|any| column(t::Variable::Name).is_in(any));
        let like = name.like_.as_ref().filter(|like| !like.is_empty());
        let like = like.map(|like| dialect.ilike(column(t::Variable::Name), format!("%{like}%")));
        part::given(Operator::And, [any, like])
    });
    let tags = filter.tags.as_ref().map(|tags| {
        let all = tags.all_.as_ref().filter(|wanted| !wanted.is_empty());
        let all = all.map(|wanted| dialect.json_has_all(column(t::Variable::Tags), wanted));
        let null = tags.is_null_.map(|null| {
            let tags = column(t::Variable::Tags);
            if null { tags.eq(json!([])) } else { tags.ne(json!([])) }
        });
        part::given(tags.operator, [all, null])
    });
    join(filter.operator, [part::any_id(filter.id.as_ref(), column(t::Variable::Id), dialect), name, tags])
}
