//! [`App`]: what a handler or a service may touch. [`App::begin`] is the only way to change the database: one
//! transaction, whose emitted events go to the outbox with it and are published after its commit. A rollback publishes
//! nothing; after a crash between commit and publish the services leader's sweeper publishes the rest (the bus drops
//! duplicates by event id).

use std::sync::Arc;

use crate::clock::{Clock, Timestamp};
use crate::store::{Store, StoreError, Tx};

/// Cheap to clone; one per process.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Arc<dyn Clock>,
}

impl App {
    /// Puts the parts together.
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { inner: Arc::new(Inner { store, clock }) }
    }

    /// The store, for what needs no transaction of [`App::write`].
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The current moment.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// A connection without a transaction, for reads; see [`Store::read`].
    ///
    /// # Errors
    /// As [`Store::read`].
    pub async fn read(&self, name: &'static str) -> Result<Tx, StoreError> {
        self.inner.store.read(name).await
    }

    /// A transaction whose events are published after its commit; see [`Store::begin`].
    ///
    /// # Errors
    /// As [`Store::begin`].
    pub async fn begin(&self, name: &'static str) -> Result<Tx, StoreError> {
        self.inner.store.begin(name).await
    }
}
