//! [`LogFilter`] as a condition on `log`.

use sea_query::{Condition, Expr, ExprTrait, Func};

use super::{Operator, join, part};
use crate::model::filter::log::{LogFilter, LogFilterTaskRunId};
use crate::model::text_search::TextSearch;
use crate::store::Dialect;
use crate::store::schema as t;

fn column(column: t::Log) -> Expr {
    Expr::col((t::Log::Table, column))
}

/// The condition.
pub fn condition(filter: &LogFilter, dialect: Dialect) -> Condition {
    let text = filter.text.as_ref().map(|text| TextSearch::parse(&text.query)).map(text).unwrap_or_default();
    join(
        filter.operator,
        [
            part::range(filter.level.as_ref(), column(t::Log::Level)),
            part::between(filter.timestamp.as_ref(), column(t::Log::Timestamp)),
            part::any_id(filter.flow_run_id.as_ref(), column(t::Log::FlowRunId), dialect),
            filter.task_run_id.as_ref().map(|id| task_run_id(id, dialect)),
        ]
        .into_iter()
        .chain(text.into_iter().map(|part| Some(Condition::all().add(part)))),
    )
}

fn task_run_id(filter: &LogFilterTaskRunId, dialect: Dialect) -> Condition {
    let any = filter.any_.as_ref().map(|any| dialect.any_id(column(t::Log::TaskRunId), any));
    let null = filter.is_null_.map(|null| if null { column(t::Log::TaskRunId).is_null() } else { column(t::Log::TaskRunId).is_not_null() });
    part::given(Operator::And, [any, null])
}

/// One condition for each kind of term that the query has.
fn text(query: TextSearch) -> Vec<Expr> {
    // The pattern's wildcards are active, as in the reference.
    let has = |term: &String| {
        let searched = column(t::Log::Message).binary(sea_query::BinOper::Custom("||"), Expr::cust("' '"));
        let searched = searched.binary(sea_query::BinOper::Custom("||"), column(t::Log::Name));
        Expr::expr(Func::lower(searched)).like(format!("%{term}%"))
    };
    [
        query.include.iter().map(has).reduce(ExprTrait::or),
        query.exclude.iter().map(|term| has(term).not()).reduce(ExprTrait::and),
        query.required.iter().map(has).reduce(ExprTrait::and),
    ]
    .into_iter()
    .flatten()
    .collect()
}
