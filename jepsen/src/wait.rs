//! Waiting on a predicate with a deadline, the only way to wait.

use std::time::Duration;

use tokio::time::Instant;

/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks at `predicate` until it gives a value, at most for `within`.
///
/// # Errors
/// The deadline, named by `what`.
pub async fn until<T, F: AsyncFnMut() -> Option<T>>(within: Duration, what: &str, mut predicate: F) -> anyhow::Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = predicate().await {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            anyhow::bail!("within {:.1} s this did not happen: {what}", within.as_secs_f64());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
