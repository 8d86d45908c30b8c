//! The block document that results go to by default, kept in `configuration`
//! (`prefect/server/models/storage_defaults.py`).

use serde_json::json;

use crate::clock::Timestamp;
use crate::id::BlockDocumentId;
use crate::store::{StoreError, Tx, block_documents, configuration};

const CONFIGURATION_KEY: &str = "server-default-result-storage";

/// The document, where one is set.
pub async fn read(tx: &mut Tx) -> Result<Option<BlockDocumentId>, StoreError> {
    let value = configuration::read(tx, CONFIGURATION_KEY).await?;
    Ok(value.and_then(|value| value["default_result_storage_block_id"].as_str()?.parse().ok()))
}

/// Sets the document.
pub async fn write(tx: &mut Tx, now: Timestamp, id: BlockDocumentId) -> Result<(), StoreError> {
    configuration::write(tx, crate::id::v4(), now, CONFIGURATION_KEY, &json!({"default_result_storage_block_id": id})).await
}

/// Sets none.
pub async fn clear(tx: &mut Tx) -> Result<(), StoreError> {
    configuration::delete(tx, CONFIGURATION_KEY).await.map(drop)
}

/// Sets none where the document has just been deleted, itself or with its type or schema.
pub async fn clear_lost(tx: &mut Tx) -> Result<(), StoreError> {
    if let Some(id) = read(tx).await?
        && block_documents::by_ids(tx, &[id]).await?.is_empty()
    {
        clear(tx).await?;
    }
    Ok(())
}
