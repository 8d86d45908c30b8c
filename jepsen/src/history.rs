//! What clients saw, as JSON lines: the evidence that a verdict rests on. A process does one thing at a time: what it begins
//! has no outcome yet, and its next entry of that name tells it (see [`crate::checker::operations`]).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use crate::client::Outcome;

/// One operation, or one act of the nemesis.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Seconds since the history began.
    pub at: f64,
    /// Who did it.
    pub process: String,
    /// What.
    pub operation: String,
    /// On or with what.
    pub value: Value,
    /// What became of it; `None` when it began.
    pub outcome: Option<Outcome>,
}

/// A history that is being written; clones are the same.
#[derive(Clone)]
pub struct History {
    begun: Instant,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    entries: Vec<Entry>,
    file: BufWriter<File>,
}

impl History {
    /// A history that is also written to `path`, headed by the seed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path, seed: u64, what: &str) -> anyhow::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        writeln!(file, "{}", serde_json::json!({"seed": seed, "run": what}))?;
        Ok(Self { begun: Instant::now(), inner: Arc::new(Mutex::new(Inner { entries: Vec::new(), file })) })
    }

    /// Adds what happened now.
    ///
    /// # Panics
    /// The file cannot be written: a run without evidence is none.
    pub fn add(&self, process: &str, operation: &str, value: Value, outcome: Option<Outcome>) {
        let at = self.begun.elapsed().as_secs_f64();
        let entry = Entry { at, process: process.to_owned(), operation: operation.to_owned(), value, outcome };
        let line = serde_json::to_string(&entry).expect("an entry is plain data");
        let mut inner = self.inner.lock().expect("no holder of this lock panics");
        writeln!(inner.file, "{line}").and_then(|()| inner.file.flush()).expect("the history can be written");
        inner.entries.push(entry);
    }

    /// All entries so far.
    ///
    /// # Panics
    /// A writer panicked.
    pub fn entries(&self) -> Vec<Entry> {
        self.inner.lock().expect("no holder of this lock panics").entries.clone()
    }
}
