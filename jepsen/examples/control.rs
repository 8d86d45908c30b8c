//! `jepsen control` by itself.

use clap::Parser;

#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    control: jepsen::control::Args,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    println!("{}", jepsen::control::run(&Args::parse().control).await?);
    Ok(())
}
