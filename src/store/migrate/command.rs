//! `praetor server database ...`: what a person or a script asks for, and what they read.
//!
//! Flags are the reference's (`-y`, `--revision`, a positional revision for `stamp`), so that a chart's
//! `prefect server database upgrade -y` runs unchanged; `--json` is ours.

use std::io::{BufRead, IsTerminal, Write};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Error, Report, wanted};
use crate::store::url::DatabaseUrl;

/// Arguments of `server database`.
#[derive(Debug, Clone, Args)]
pub struct DatabaseArgs {
    /// The database; otherwise the settings decide.
    #[arg(long, global = true, value_name = "URL")]
    pub database_url: Option<String>,
    #[command(subcommand)]
    pub command: DatabaseCommand,
}

/// What to do with the database.
#[derive(Debug, Clone, Subcommand)]
pub enum DatabaseCommand {
    /// Create the tables, or adopt an existing Prefect database.
    Upgrade {
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
        /// Only `head`: there is no half-way.
        #[arg(short, long, default_value = "head")]
        revision: String,
        /// Say what would be done and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Mark the tables as being at a revision of Prefect, without looking at them.
    Stamp {
        /// A revision of Prefect's, or `head`.
        #[arg(default_value = "head")]
        revision: String,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Drop all tables with all data, and create them anew.
    Reset {
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Compare the database with what this version wants; changes nothing.
    Doctor {
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs a command and writes its answer to standard output. `false`: it ran, and found a problem (exit code 1).
///
/// # Errors
/// As the function behind the command; [`Error::NotConfirmed`] without `-y` where the answer is no or nobody can be asked.
pub async fn run(command: DatabaseCommand, url: &DatabaseUrl) -> Result<bool, Error> {
    match command {
        DatabaseCommand::Upgrade { yes, revision, dry_run, json } => {
            let expected = wanted(url).revision;
            if !matches!(revision.as_str(), "head" | "heads") && revision != expected {
                return Err(Error::OnlyHead { expected });
            }
            if dry_run {
                let state = super::check(url).await?;
                say(json, &json!({ "database": url.to_string(), "found": state }), &format!("{url}: {state}"))?;
                return Ok(state.may_upgrade());
            }
            confirm(yes, &format!("Are you sure you want to upgrade the database at {url}?"))?;
            let report = super::upgrade(url).await?;
            say(json, &json!({ "database": url.to_string(), "report": report }), &sentence(url, &report))?;
        }
        DatabaseCommand::Stamp { revision, json } => {
            let revision = super::stamp(url, Some(&revision)).await?;
            let text = format!("The database {url} is stamped with revision {revision}.");
            say(json, &json!({ "database": url.to_string(), "revision": revision }), &text)?;
        }
        DatabaseCommand::Reset { yes, json } => {
            confirm(yes, &format!("Are you sure you want to drop all tables and data of {url} and create them anew?"))?;
            let report = super::reset(url).await?;
            let text = format!("The database {url} was reset; all tables are new and empty.");
            say(json, &json!({ "database": url.to_string(), "report": report }), &text)?;
        }
        DatabaseCommand::Doctor { json } => {
            let diagnosis = super::doctor(url).await?;
            let healthy = diagnosis.healthy();
            say(json, &json!({ "healthy": healthy, "diagnosis": diagnosis }), &diagnosis.to_string())?;
            return Ok(healthy);
        }
    }
    Ok(true)
}

fn sentence(url: &DatabaseUrl, report: &Report) -> String {
    if report.created {
        return format!("The database {url} was empty and has all its tables now.");
    }
    if let Some(adopted) = report.adopted {
        return format!(
            "The database {url} is adopted: Praetor's own tables were added, {} taken slots have leases, {} limits were corrected.",
            adopted.leases, adopted.limits_corrected
        );
    }
    if report.steps.is_empty() {
        format!("The database {url} was up to date; nothing was changed.")
    } else {
        format!("The database {url} ran {} of Praetor's own tables.", report.steps.join(", "))
    }
}

fn say(as_json: bool, json: &serde_json::Value, text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    if as_json {
        writeln!(out, "{json}")?;
    } else {
        writeln!(out, "{text}")?;
    }
    Ok(out.flush()?)
}

fn confirm(yes: bool, question: &str) -> Result<(), Error> {
    if yes {
        return Ok(());
    }
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Error::NotConfirmed);
    }
    let mut out = std::io::stderr().lock();
    write!(out, "{question} [y/n]: ")?;
    out.flush()?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Error::NotConfirmed) }
}
