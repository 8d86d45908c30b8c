//! `jepsen planted` by itself.

use clap::Parser;

#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    planted: jepsen::planted::Args,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    anyhow::ensure!(jepsen::planted::run(&Args::parse().planted).await?, "not every bug was found");
    Ok(())
}
