//! [`AutomationFilter`] as a condition on `automation`.

use sea_query::{Condition, Expr, ExprTrait};

use super::{Operator, join, part};
use crate::model::filter::automation::AutomationFilter;
use crate::store::Dialect;
use crate::store::schema as t;

/// The condition.
pub fn condition(filter: &AutomationFilter, dialect: Dialect) -> Condition {
    let column = |column| Expr::col((t::Automation::Table, column));
    let created = filter
        .created
        .as_ref()
        .map(|created| part::given(Operator::And, [created.before_.map(|before| column(t::Automation::Created).lte(before))]));
    join(
        filter.operator,
        [
            part::any_text(filter.name.as_ref(), column(t::Automation::Name)),
            created,
            part::tags_or_any(filter.tags.as_ref(), column(t::Automation::Tags), dialect),
        ],
    )
}
