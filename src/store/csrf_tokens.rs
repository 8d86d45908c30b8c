//! Table `csrf_token`. Tokens are in the database, so that every node knows those of the others.

use sea_query::{Expr, ExprTrait, OnConflict, Query};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::model::csrf::CsrfToken;
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx};

const COLUMNS: [t::CsrfToken; 6] =
    [t::CsrfToken::Id, t::CsrfToken::Created, t::CsrfToken::Updated, t::CsrfToken::Token, t::CsrfToken::Client, t::CsrfToken::Expiration];

fn decode(row: &Row) -> Result<CsrfToken, StoreError> {
    Ok(CsrfToken {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        token: row.get("token")?,
        client: row.get("client")?,
        expiration: row.get("expiration")?,
    })
}

/// Gives a client a token in place of the one it had.
pub async fn upsert(
    tx: &mut Tx,
    id: Uuid,
    now: Timestamp,
    client: &str,
    token: &str,
    expiration: Timestamp,
) -> Result<CsrfToken, StoreError> {
    let insert = Query::insert()
        .into_table(t::CsrfToken::Table)
        .columns(COLUMNS)
        .values_panic([id.into(), now.into(), now.into(), token.into(), client.into(), expiration.into()])
        .on_conflict(
            OnConflict::column(t::CsrfToken::Client)
                .update_columns([t::CsrfToken::Token, t::CsrfToken::Expiration, t::CsrfToken::Updated])
                .to_owned(),
        )
        .returning(Query::returning().columns(COLUMNS))
        .to_owned();
    decode(&tx.fetch_one(&insert).await?)
}

/// The token of a client, where it has one that is still good.
pub async fn read(tx: &mut Tx, client: &str, now: Timestamp) -> Result<Option<CsrfToken>, StoreError> {
    let select = Query::select()
        .columns(COLUMNS)
        .from(t::CsrfToken::Table)
        .and_where(Expr::col(t::CsrfToken::Client).eq(client))
        .and_where(Expr::col(t::CsrfToken::Expiration).gt(now))
        .take();
    tx.fetch_optional(&select).await?.as_ref().map(decode).transpose()
}

/// Deletes the tokens that have expired.
pub async fn delete_expired(tx: &mut Tx, now: Timestamp) -> Result<u64, StoreError> {
    tx.execute(Query::delete().from_table(t::CsrfToken::Table).and_where(Expr::col(t::CsrfToken::Expiration).lt(now))).await
}
