//! Blocks, above their tables: the checksum that names a schema, schemas inside schemas, documents inside documents with
//! their secrets, encryption, and the types that are there from the start.

pub mod checksum;
pub mod document;
pub mod registry;
pub mod schema;
pub mod secret;

#[cfg(test)]
mod tests;

use crate::store::StoreError;

/// How deep documents and schemas may be inside each other.
const DEPTH: usize = 50;

/// What can go wrong with blocks.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller's schema or data cannot be kept; says why.
    #[error("{0}")]
    Invalid(String),
    /// A schema holds a block whose type is not registered.
    #[error("Cannot create block schema because block type '{0}' was not found.Did you forget to register the block type?")]
    MissingBlockType(String),
    /// The key is no Fernet key, or not the one that the data were encrypted with.
    #[error("{0}")]
    Cipher(String),
}
