//! x
use crate::cli::DevArgs;
pub async fn run(_args: DevArgs) -> anyhow::Result<()> {
    Ok(())
}
