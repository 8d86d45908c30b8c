//! Whether a consumer shares its batch between two transactions, for a database that can work on both at a time.
//!
//! The one transaction is the consumer's, with the cursor; the other, its own, is fenced in the same way and may be committed
//! though the first is not. So this is for effects alone that are the same when they are repeated.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::limits;
use crate::store::Tx;

/// Remembers how the last attempt ended.
#[derive(Default)]
pub struct Sharing {
    /// True while an attempt is under way and after one that failed.
    failed: AtomicBool,
}

impl Sharing {
    /// Whether a batch of so many items is shared. The attempt after a failed one is not: the two transactions may have waited
    /// for each other's rows, or the one for a connection longer than the other could stay open, and would again.
    pub fn begin(&self, items: usize, tx: &Tx) -> bool {
        let failed = self.failed.swap(true, Ordering::Relaxed);
        !failed && items >= limits::CONSUMER_SPLIT && tx.dialect().has_parallel_writers()
    }

    /// The attempt had its effect.
    pub fn succeeded(&self) {
        self.failed.store(false, Ordering::Relaxed);
    }
}
