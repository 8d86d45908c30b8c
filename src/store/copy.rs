//! Rows in the form that Postgres' binary `COPY` takes.
//!
//! For the many rows of one batch: they go to the table as they come, without a plan and without a pass of the executor for each.

use crate::store::bulk::Column;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// 2000-01-01, from which Postgres counts, in microseconds since 1970.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The version of `jsonb`'s binary form.
const JSONB: u8 = 1;

/// All rows, or `None` where a column's binary form depends on what the table calls its type.
pub(super) fn binary<'a>(columns: impl Iterator<Item = &'a Column> + Clone) -> Option<Vec<u8>> {
    let rows = columns.clone().next()?.len();
    let count = i16::try_from(columns.clone().count()).ok()?;
    let mut out = Vec::with_capacity(rows * 128);
    out.extend_from_slice(SIGNATURE);
    // Neither flags nor an extension.
    out.extend_from_slice(&[0; 8]);
    for row in 0..rows {
        out.extend_from_slice(&count.to_be_bytes());
        for column in columns.clone() {
            match column {
                Column::Uuid(items) => put(&mut out, items[row].map(uuid::Uuid::into_bytes)),
                Column::Text(items) | Column::Enum(_, items) | Column::JsonText("json", items) => put(&mut out, items[row].as_deref()),
                Column::JsonText(_, items) => put_jsonb(&mut out, items[row].as_deref()),
                Column::Timestamp(items) => {
                    put(&mut out, items[row].map(|at| (at.timestamp_micros() - EPOCH_MICROS).to_be_bytes()));
                }
                Column::Bool(items) => put(&mut out, items[row].map(|set| [u8::from(set)])),
                Column::Json(_) | Column::Integer(_) | Column::Seconds(_) => return None,
            }
        }
    }
    out.extend_from_slice(&(-1_i16).to_be_bytes());
    Some(out)
}

fn put(out: &mut Vec<u8>, value: Option<impl AsRef<[u8]>>) {
    match value {
        Some(value) => {
            put_length(out, value.as_ref().len());
            out.extend_from_slice(value.as_ref());
        }
        None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
    }
}

fn put_jsonb(out: &mut Vec<u8>, text: Option<&str>) {
    let Some(text) = text else { return put(out, None::<&str>) };
    put_length(out, text.len() + 1);
    out.push(JSONB);
    out.extend_from_slice(text.as_bytes());
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    // What is longer than Postgres can hold it refuses by itself.
    out.extend_from_slice(&i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes());
}
