//! A page per run: operations over time, who led, what was broken, where nothing went through. One file, nothing loaded.

use std::fmt::Write as _;

use crate::client::Outcome;
use crate::history::Entry;
use crate::run::Done;

const WIDTH: f64 = 1100.0;
const LEFT: f64 = 70.0;
const PLOT: f64 = 220.0;
const LANE: f64 = 16.0;
/// How many gaps are listed.
const GAPS: usize = 8;

/// The page.
pub fn page(done: &Done, entries: &[Entry]) -> String {
    let end = entries.last().map_or(1.0, |entry| entry.at.max(1.0));
    let mut page = format!(
        "<!doctype html><meta charset=utf-8><title>{title}</title><style>\
         body{{font:14px/1.5 system-ui,sans-serif;max-width:1200px;margin:24px auto;color:#222}}\
         svg{{display:block;margin:8px 0 24px}} text{{font:11px system-ui,sans-serif;fill:#444}}\
         td,th{{padding:2px 12px 2px 0;text-align:left;vertical-align:top}} .v0{{color:#176117}} .v1{{color:#b00020}} .v2{{color:#8a5a00}}\
         </style><h1>{title}</h1><p class=v{code}><b>{verdict}</b></p>\
         <p>{ok} operations ok, {failed} failed, {unknown} unknown; {faults} faults; {end:.1} s.</p>",
        title = escape(&format!("{}, {}, seed {}", done.workload, done.nemesis, done.seed)),
        code = done.code,
        verdict = escape(&done.verdict),
        ok = done.operations.ok,
        failed = done.operations.failed,
        unknown = done.operations.unknown,
        faults = done.faults.len(),
    );
    page.push_str(&timeline(entries, end));
    page.push_str("<h2>Longest gaps between operations that succeeded</h2><table><tr><th>from<th>to<th>length");
    for (from, to) in gaps(entries).into_iter().take(GAPS) {
        put(&mut page, format_args!("<tr><td>{from:.2} s<td>{to:.2} s<td>{:.2} s", to - from));
    }
    page.push_str("</table><h2>Faults</h2><table><tr><th>what<th>on what<th>proof<th>for");
    for fault in &done.faults {
        let (target, proof) = (escape(&fault.target.to_string()), escape(&fault.proof));
        put(&mut page, format_args!("<tr><td>{}<td>{target}<td>{proof}<td>{:.1} s", escape(&fault.fault), fault.seconds));
    }
    page.push_str("</table>\n");
    page
}

fn timeline(entries: &[Entry], end: f64) -> String {
    let x = |at: f64| LEFT + at / end * (WIDTH - LEFT - 10.0);
    let (leader_top, axis) = (PLOT + 20.0, PLOT + 20.0 + LANE * 7.0);
    let mut svg = format!("<svg width={WIDTH} height={} xmlns='http://www.w3.org/2000/svg'>", axis + 40.0);
    for (name, from, to) in faults(entries, end) {
        let (left, width) = (x(from), (x(to) - x(from)).max(1.0));
        put(
            &mut svg,
            format_args!(
                "<rect x={left:.1} y=0 width={width:.1} height={axis} fill='#d33' fill-opacity='.13'><title>{} {from:.2} to {to:.2} s</title></rect>",
                escape(&name)
            ),
        );
    }
    // Operations per second, in steps of half a second or of a 200th of the run.
    let step = (end / 200.0).max(0.5);
    let buckets = (end / step).ceil() as usize + 1;
    let mut counts = [vec![0_u64; buckets], vec![0; buckets], vec![0; buckets]];
    for entry in entries {
        let line = match entry.outcome {
            Some(Outcome::Ok) => 0,
            Some(Outcome::Failed) => 1,
            Some(Outcome::Unknown) => 2,
            None => continue,
        };
        counts[line][(entry.at / step) as usize] += 1;
    }
    let most = counts.iter().flatten().copied().max().unwrap_or(0).max(1);
    let y = |count: u64| PLOT - count as f64 / most as f64 * (PLOT - 15.0);
    for (line, (counts, (color, name))) in counts.iter().zip([("#1a7f37", "ok"), ("#c77700", "failed"), ("#b00020", "unknown")]).enumerate()
    {
        let mut points = String::new();
        for (at, count) in counts.iter().enumerate() {
            put(&mut points, format_args!("{:.1},{:.1} ", x((at as f64 + 0.5) * step).min(WIDTH), y(*count)));
        }
        put(&mut svg, format_args!("<polyline points='{points}' fill=none stroke='{color}' stroke-width=1.5 />"));
        put(&mut svg, format_args!("<text x={:.0} y=12 style='fill:{color}'>{name}</text>", LEFT + 8.0 + 60.0 * line as f64));
    }
    put(&mut svg, format_args!("<text x=2 y=20>{:.0}/s</text><text x=2 y={PLOT}>0/s</text>", most as f64 / step));
    leaders(&mut svg, entries, end, leader_top, &x);
    for tick in 0..=10 {
        let at = end * f64::from(tick) / 10.0;
        put(&mut svg, format_args!("<text x={:.1} y={:.1} text-anchor=middle>{at:.1} s</text>", x(at), axis + 16.0));
    }
    svg.push_str("</svg>");
    svg
}

/// A lane for each node that led, and one for nobody.
fn leaders(svg: &mut String, entries: &[Entry], end: f64, top: f64, x: &dyn Fn(f64) -> f64) {
    let changes: Vec<(f64, Option<u64>)> = entries
        .iter()
        .filter(|entry| entry.process == "observer" && entry.operation == "leader")
        .map(|entry| (entry.at, entry.value.as_u64()))
        .collect();
    for node in 0..=6_u64 {
        let y = top + LANE * node as f64;
        let mut led = false;
        for (number, (from, leader)) in changes.iter().enumerate() {
            let to = changes.get(number + 1).map_or(end, |(at, _)| *at);
            if leader.unwrap_or(0) == node {
                led = true;
                let color = if node == 0 { "#888" } else { "#2457a6" };
                let width = (x(to) - x(*from)).max(1.0);
                put(
                    svg,
                    format_args!("<rect x={:.1} y={:.1} width={width:.1} height={:.0} fill='{color}' />", x(*from), y + 2.0, LANE - 4.0),
                );
            }
        }
        if led {
            let name = if node == 0 { "no leader".to_owned() } else { format!("leader {node}") };
            put(svg, format_args!("<text x=2 y={:.1}>{name}</text>", y + 12.0));
        }
    }
}

/// Each fault with its begin and end.
fn faults(entries: &[Entry], end: f64) -> Vec<(String, f64, f64)> {
    let mut open: Vec<(String, f64)> = Vec::new();
    let mut found = Vec::new();
    for entry in entries.iter().filter(|entry| entry.process == "nemesis") {
        if entry.value["phase"] == "begin" {
            open.push((entry.operation.clone(), entry.at));
        } else if let Some(at) = open.iter().position(|(name, _)| *name == entry.operation) {
            let (name, from) = open.remove(at);
            found.push((name, from, entry.at));
        }
    }
    // One that did not end is what the run ended with.
    found.extend(open.into_iter().map(|(name, from)| (name, from, end)));
    found
}

/// Stretches without an operation that succeeded, the longest first.
pub fn gaps(entries: &[Entry]) -> Vec<(f64, f64)> {
    let times: Vec<f64> = entries.iter().filter(|entry| entry.outcome == Some(Outcome::Ok)).map(|entry| entry.at).collect();
    let mut gaps: Vec<(f64, f64)> = times.windows(2).map(|pair| (pair[0], pair[1])).collect();
    gaps.sort_by(|one, other| (other.1 - other.0).total_cmp(&(one.1 - one.0)));
    gaps
}

fn put(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("a string takes text");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::run::Operations;

    fn entry(at: f64, process: &str, operation: &str, value: Value, outcome: Option<Outcome>) -> Entry {
        Entry { at, process: process.to_owned(), operation: operation.to_owned(), value, outcome }
    }

    fn history() -> Vec<Entry> {
        vec![
            entry(0.5, "observer", "leader", json!(2), None),
            entry(1.0, "client", "write", json!(1), Some(Outcome::Ok)),
            entry(1.5, "nemesis", "kill", json!({"phase": "begin"}), None),
            entry(4.0, "nemesis", "kill", json!({"phase": "end"}), None),
            entry(4.5, "client", "write", json!(2), Some(Outcome::Ok)),
            entry(4.6, "client", "write", json!(3), Some(Outcome::Unknown)),
            entry(5.0, "nemesis", "pause", json!({"phase": "begin"}), None),
        ]
    }

    #[test]
    fn gaps_are_between_successes_and_the_longest_is_first() {
        let mut entries = history();
        entries.push(entry(5.5, "client", "write", json!(4), Some(Outcome::Ok)));
        assert_eq!(gaps(&entries), [(1.0, 4.5), (4.5, 5.5)]);
    }

    #[test]
    fn a_fault_without_end_lasts_to_the_end() {
        assert_eq!(faults(&history(), 5.0), [("kill".to_owned(), 1.5, 4.0), ("pause".to_owned(), 5.0, 5.0)]);
    }

    #[test]
    fn the_page_names_verdict_faults_and_leader_and_loads_nothing() {
        let done = Done {
            workload: "events".to_owned(),
            nemesis: "kill".to_owned(),
            seed: 7,
            seconds: 5,
            code: 1,
            verdict: "INVALID: <3 lost>".to_owned(),
            operations: Operations { ok: 2, failed: 0, unknown: 1 },
            faults: Vec::new(),
        };
        let page = page(&done, &history());
        for part in ["INVALID: &lt;3 lost&gt;", "leader 2", "<title>kill 1.50 to 4.00 s</title>", "<td>1.00 s<td>4.50 s<td>3.50 s"] {
            assert!(page.contains(part), "no {part} in {page}");
        }
        assert!(!page.contains("src=") && !page.contains("href="));
    }
}
