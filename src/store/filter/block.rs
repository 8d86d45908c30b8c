//! Filters over blocks as conditions on `block_type`, `block_schema` and `block_document`.

use sea_query::{Cond, Condition, Expr, ExprTrait, Query};

use super::{join, part};
use crate::model::Patch;
use crate::model::filter::Operator;
use crate::model::filter::block::{BlockDocumentFilter, BlockFilters, BlockSchemaFilter, BlockTypeFilter};
use crate::model::filter::part::Equal;
use crate::store::Dialect;
use crate::store::schema as t;

/// On `block_type`.
pub fn block_type(filter: &BlockTypeFilter, dialect: Dialect) -> Condition {
    let column = |column| Expr::col((t::BlockType::Table, column));
    let name =
        filter.name.as_ref().map(|name| part::given(Operator::And, [part::like(name.like_.as_ref(), column(t::BlockType::Name), dialect)]));
    join(Operator::And, [name, part::any_text(filter.slug.as_ref(), column(t::BlockType::Slug))])
}

/// On `block_schema`.
pub fn block_schema(filter: &BlockSchemaFilter, dialect: Dialect) -> Condition {
    let column = |column| Expr::col((t::BlockSchema::Table, column));
    let capabilities = filter.block_capabilities.as_ref().map(|capabilities| {
        let all = capabilities.all_.as_ref().filter(|all| !all.is_empty());
        part::given(Operator::And, [all.map(|all| dialect.json_has_all(column(t::BlockSchema::Capabilities), all))])
    });
    join(
        filter.operator,
        [
            part::any_id(filter.block_type_id.as_ref(), column(t::BlockSchema::BlockTypeId), dialect),
            capabilities,
            part::any_id(filter.id.as_ref(), column(t::BlockSchema::Id), dialect),
            part::any_text(filter.version.as_ref(), column(t::BlockSchema::Version)),
        ],
    )
}

/// On `block_document`.
pub fn block_document(filter: &BlockDocumentFilter, dialect: Dialect) -> Condition {
    let column = |column| Expr::col((t::BlockDocument::Table, column));
    let named = Equal { eq_: Some(false) };
    let anonymous = match &filter.is_anonymous {
        Patch::Absent => Some(&named),
        Patch::Null => None,
        Patch::Value(given) => Some(given),
    };
    join(
        filter.operator,
        [
            part::any_id(filter.id.as_ref(), column(t::BlockDocument::Id), dialect),
            part::equal(anonymous, column(t::BlockDocument::IsAnonymous)),
            part::any_id(filter.block_type_id.as_ref(), column(t::BlockDocument::BlockTypeId), dialect),
            part::name(filter.name.as_ref(), column(t::BlockDocument::Name), dialect),
        ],
    )
}

/// On `block_document`, with filters on its type and its schema.
pub fn block_documents(filters: &BlockFilters, dialect: Dialect) -> Condition {
    let mut all = Cond::all().add(block_document(&filters.documents, dialect));
    if let Some(filter) = &filters.types {
        let types = Query::select()
            .expr(Expr::val(1))
            .from(t::BlockType::Table)
            .and_where(Expr::col((t::BlockType::Table, t::BlockType::Id)).equals((t::BlockDocument::Table, t::BlockDocument::BlockTypeId)))
            .cond_where(block_type(filter, dialect))
            .take();
        all = all.add(Expr::exists(types));
    }
    if let Some(filter) = &filters.schemas {
        let schemas = Query::select()
            .expr(Expr::val(1))
            .from(t::BlockSchema::Table)
            .and_where(
                Expr::col((t::BlockSchema::Table, t::BlockSchema::Id)).equals((t::BlockDocument::Table, t::BlockDocument::BlockSchemaId)),
            )
            .cond_where(block_schema(filter, dialect))
            .take();
        all = all.add(Expr::exists(schemas));
    }
    all
}
