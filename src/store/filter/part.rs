//! The parts of filters as conditions on a column. `None` where the filter does not have the part; a part that does not
//! restrict is an empty condition, which [`join`](super::join) reads as true.

use sea_query::{Condition, Expr, ExprTrait, Value};
use serde_json::json;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::model::filter::Operator;
use crate::model::filter::part::{AnyOf, AnyOfOrNot, AnyOfOrNull, Between, BetweenOrNull, Equal, NameLike, Range, Tags, TagsOrAny};
use crate::store::Dialect;
use crate::store::filter::joined;

fn is_null(column: &Expr, null: bool) -> Expr {
    if null { column.clone().is_null() } else { column.clone().is_not_null() }
}

/// The conditions given, joined; empty where none is.
pub fn given(operator: Operator, conditions: impl IntoIterator<Item = Option<Expr>>) -> Condition {
    conditions.into_iter().flatten().fold(joined(operator), Condition::add)
}

fn texts<T: Into<Value> + Clone>(column: &Expr, items: &[T]) -> Expr {
    column.clone().is_in(items.iter().cloned().map(Into::into))
}

/// Ids.
pub fn any_id<I: Into<Uuid> + Copy>(part: Option<&AnyOf<I>>, column: Expr, dialect: Dialect) -> Option<Condition> {
    part.map(|part| given(Operator::And, [part.any_.as_ref().map(|any| dialect.any_id(column, any))]))
}

/// Ids, and ids to leave out.
pub fn any_id_or_not<I: Into<Uuid> + Copy>(part: Option<&AnyOfOrNot<I>>, column: Expr, dialect: Dialect) -> Option<Condition> {
    part.map(|part| {
        let any = part.any_.as_ref().map(|any| dialect.any_id(column.clone(), any));
        let not_any = part.not_any_.as_ref().filter(|not_any| !not_any.is_empty());
        given(Operator::And, [any, not_any.map(|not_any| dialect.any_id(column, not_any).not())])
    })
}

/// Ids or NULL.
pub fn any_id_or_null<I: Into<Uuid> + Copy>(part: Option<&AnyOfOrNull<I>>, column: Expr, dialect: Dialect) -> Option<Condition> {
    part.map(|part| {
        let any = part.any_.as_ref().map(|any| dialect.any_id(column.clone(), any));
        given(part.operator, [any, part.is_null_.map(|null| is_null(&column, null))])
    })
}

/// Texts (or state types).
pub fn any_text<T: Into<Value> + Clone>(part: Option<&AnyOf<T>>, column: Expr) -> Option<Condition> {
    part.map(|part| given(Operator::And, [part.any_.as_ref().map(|any| texts(&column, any))]))
}

/// Texts, and texts to leave out.
pub fn any_text_or_not<T: Into<Value> + Clone>(part: Option<&AnyOfOrNot<T>>, column: Expr) -> Option<Condition> {
    part.map(|part| {
        let any = part.any_.as_ref().map(|any| texts(&column, any));
        let not_any = part.not_any_.as_ref().filter(|not_any| !not_any.is_empty());
        given(Operator::And, [any, not_any.map(|not_any| texts(&column, not_any).not())])
    })
}

/// Texts or NULL.
pub fn any_text_or_null<T: Into<Value> + Clone>(part: Option<&AnyOfOrNull<T>>, column: Expr) -> Option<Condition> {
    part.map(|part| {
        let any = part.any_.as_ref().map(|any| texts(&column, any));
        given(part.operator, [any, part.is_null_.map(|null| is_null(&column, null))])
    })
}

/// `%like%`, where it is not empty.
pub fn like(like: Option<&String>, column: Expr, dialect: Dialect) -> Option<Expr> {
    like.filter(|like| !like.is_empty()).map(|like| dialect.ilike(column, format!("%{like}%")))
}

/// Names.
pub fn name(part: Option<&NameLike>, column: Expr, dialect: Dialect) -> Option<Condition> {
    part.map(|part| {
        let any = part.any_.as_ref().map(|any| texts(&column, any));
        given(Operator::And, [any, like(part.like_.as_ref(), column, dialect)])
    })
}

fn no_tags(column: &Expr, none: bool) -> Expr {
    if none { column.clone().eq(json!([])) } else { column.clone().ne(json!([])) }
}

/// Tags.
pub fn tags(part: Option<&Tags>, column: Expr, dialect: Dialect) -> Option<Condition> {
    part.map(|part| {
        let all = part.all_.as_ref().filter(|all| !all.is_empty());
        given(part.operator, [all.map(|all| dialect.json_has_all(column.clone(), all)), part.is_null_.map(|none| no_tags(&column, none))])
    })
}

/// Tags, with `any_`.
pub fn tags_or_any(part: Option<&TagsOrAny>, column: Expr, dialect: Dialect) -> Option<Condition> {
    part.map(|part| {
        let all = part.all_.as_ref().filter(|all| !all.is_empty());
        let any = part.any_.as_ref().map(|any| dialect.json_has_any(column.clone(), any));
        given(
            part.operator,
            [all.map(|all| dialect.json_has_all(column.clone(), all)), any, part.is_null_.map(|none| no_tags(&column, none))],
        )
    })
}

fn from_to(column: &Expr, before: Option<Timestamp>, after: Option<Timestamp>) -> [Option<Expr>; 2] {
    [before.map(|before| column.clone().lte(before)), after.map(|after| column.clone().gte(after))]
}

/// A span of time.
pub fn between(part: Option<&Between>, column: Expr) -> Option<Condition> {
    part.map(|part| given(Operator::And, from_to(&column, part.before_, part.after_)))
}

/// A span of `moment`, or whether `column` is NULL.
pub fn between_or_null(part: Option<&BetweenOrNull>, moment: Expr, column: Expr) -> Option<Condition> {
    part.map(|part| {
        let [before, after] = from_to(&moment, part.before_, part.after_);
        given(Operator::And, [before, after, part.is_null_.map(|null| is_null(&column, null))])
    })
}

/// A boolean.
pub fn equal(part: Option<&Equal>, column: Expr) -> Option<Condition> {
    part.map(|part| given(Operator::And, [part.eq_.map(|wanted| column.eq(wanted))]))
}

/// A span of numbers.
pub fn range(part: Option<&Range>, column: Expr) -> Option<Condition> {
    part.map(|part| given(Operator::And, [part.ge_.map(|least| column.clone().gte(least)), part.le_.map(|most| column.lte(most))]))
}
