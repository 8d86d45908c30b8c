//! What a baseline makes, read from its text: the baseline is laid out by us, one column a line, so reading it is safe and
//! there is no second list that could disagree with it.

use std::collections::{BTreeMap, BTreeSet};

/// Tables with their columns, and indexes with their table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// Columns in the order of the table.
    pub tables: BTreeMap<String, Vec<String>>,
    /// Name of an index -> its table. Indexes that a constraint makes are not among them.
    pub indexes: BTreeMap<String, String>,
    /// Types that a baseline makes (Postgres).
    pub types: BTreeSet<String>,
}

impl Expected {
    /// Reads a `baseline.sql`; the revision table is left out.
    pub(super) fn of_baseline(sql: &str) -> Self {
        let mut expected = Self::default();
        let mut table: Option<String> = None;
        for line in sql.lines() {
            if let Some(rest) = line.strip_prefix("CREATE TABLE ") {
                table = Some(name(rest));
                if let Some(table) = &table {
                    expected.tables.insert(table.clone(), Vec::new());
                }
            } else if line.starts_with(')') {
                table = None;
            } else if let Some(rest) = line.strip_prefix("    ") {
                let columns = table.as_ref().and_then(|table| expected.tables.get_mut(table));
                if let Some(columns) = columns
                    && !rest.starts_with(' ')
                    && !rest.starts_with("CONSTRAINT ")
                {
                    columns.push(name(rest));
                }
            } else if let Some(rest) = line.strip_prefix("CREATE TYPE ") {
                expected.types.insert(name(rest));
            } else if let Some(rest) = line.strip_prefix("CREATE INDEX ").or_else(|| line.strip_prefix("CREATE UNIQUE INDEX ")) {
                let (_, target) = split_on(rest).expect("an index of the baseline stands on one line with its table");
                expected.indexes.insert(name(rest), name(target));
            }
        }
        expected.tables.remove("alembic_version");
        expected
    }
}

/// The part before and after ` ON `, whatever its case.
fn split_on(text: &str) -> Option<(&str, &str)> {
    let at = text.to_ascii_lowercase().find(" on ")?;
    Some((&text[..at], &text[at + 4..]))
}

/// The identifier at the beginning of a text, without quotes.
fn name(text: &str) -> String {
    text.trim_start_matches('"').chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}
