//! Deletes the log lines of deleted runs, after the answer and in small transactions: there may be millions. What is
//! left when the process ends meanwhile, the vacuum finds.

use crate::app::App;
use crate::store::StoreError;
use crate::store::logs::{self, Of};

/// Lines deleted at once.
const BATCH_LINES: u64 = 5000;

/// Starts the deletion.
pub fn delete_soon(app: &App, runs: Vec<Of>) {
    if runs.is_empty() {
        return;
    }
    let background = app.clone();
    app.tasks().spawn("logs.delete", async move {
        for run in runs {
            if let Err(error) = delete_all(&background, run).await {
                tracing::warn!(error = %crate::api::error::chain(&error), ?run, "log lines of a deleted run remain until the vacuum");
            }
        }
    });
}

async fn delete_all(app: &App, run: Of) -> Result<(), StoreError> {
    loop {
        let mut tx = app.begin("logs.delete").await?;
        let deleted = logs::delete(&mut tx, run, BATCH_LINES).await?;
        tx.commit().await?;
        if deleted < BATCH_LINES || app.tasks().stopping().is_cancelled() {
            return Ok(());
        }
    }
}
