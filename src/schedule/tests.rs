//! The reference's answers (`testdata/golden.json`, made by `tests/compat/schedule_golden.py`) must be ours.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::*;
use crate::model::schedule::rrule;

fn golden() -> Value {
    serde_json::from_str(include_str!("testdata/golden.json")).expect("golden.json is JSON")
}

fn rows<'a>(golden: &'a Value, key: &str) -> &'a [Value] {
    golden[key].as_array().expect("a list of rows")
}

fn moment(text: &Value) -> DateTime<Utc> {
    text.as_str().expect("a string").parse().expect("a moment")
}

fn schedule(value: Value) -> Schedule {
    serde_json::from_value(value).expect("a schedule")
}

/// Hundreds of wrong answers help nobody; a few of each kind do.
fn report(wrong: &[String], total: usize) {
    let shown: Vec<&str> = wrong.iter().take(12).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} of {total} differ, among them\n{}", wrong.len(), shown.join("\n"));
}

#[test]
fn dates_equal_the_reference() {
    let golden = golden();
    let cases = rows(&golden, "cases");
    let mut wrong = Vec::new();
    for case in cases {
        let n = usize::try_from(case[1].as_u64().expect("a number")).expect("small");
        let end = Some(&case[3]).filter(|end| !end.is_null()).map(moment);
        let found = serde_json::from_value::<Schedule>(case[0].clone()).map_err(|error| error.to_string()).and_then(|schedule| {
            let dates = dates(&schedule, n, moment(&case[2]), end).map_err(|error| error.to_string())?;
            Ok(dates.iter().map(ToString::to_string).collect::<Vec<_>>())
        });
        let same = match (&found, &case[4]) {
            (Err(_), Value::Null) => true,
            (Ok(found), Value::Array(_)) => json!(found) == case[4],
            _ => false,
        };
        if !same {
            wrong.push(format!("{case}\n    but found {found:?}"));
        }
    }
    assert!(cases.len() > 900, "the golden file is whole");
    report(&wrong, cases.len());
}

#[test]
fn what_the_reference_refuses_is_refused() {
    let golden = golden();
    let refused = rows(&golden, "refused");
    let wrong: Vec<String> =
        refused.iter().filter(|body| serde_json::from_value::<Schedule>((*body).clone()).is_ok()).map(ToString::to_string).collect();
    assert!(refused.len() > 100, "the golden file is whole");
    report(&wrong, refused.len());
}

#[test]
fn recurrence_rules_are_normalized_as_by_the_reference() {
    let golden = golden();
    let cases = rows(&golden, "normalized");
    let mut wrong = Vec::new();
    for case in cases {
        let stored = rrule::normalize(case[0].as_str().unwrap_or_default(), case[1].as_str(), moment(&case[2]));
        if json!(stored) != case[3] {
            wrong.push(format!("{case}\n    but found {stored:?}"));
        }
    }
    assert!(cases.len() > 100, "the golden file is whole");
    report(&wrong, cases.len());
}

#[test]
fn idempotency_key_shows_the_local_time_as_python_prints_it() {
    let daily = schedule(json!({"cron": "0 0 * * *", "timezone": "America/New_York"}));
    let date = &dates(&daily, 1, moment(&json!("2026-11-23T12:00:00Z")), None).expect("due")[0];
    assert_eq!(
        idempotency_key(Uuid::nil(), Uuid::max(), date),
        "scheduled 00000000-0000-0000-0000-000000000000 ffffffff-ffff-ffff-ffff-ffffffffffff \
         2026-11-24 00:00:00-05:00"
    );
    let anchored = schedule(json!({"interval": 86400, "anchor_date": "2026-11-22T21:29:34.426689Z",
        "timezone": "America/New_York"}));
    let date = &dates(&anchored, 1, moment(&json!("2026-11-23T12:00:00Z")), None).expect("due")[0];
    assert_eq!(date.to_string(), "2026-11-23 16:29:34.426689-05:00");
    assert_eq!(date.instant(), moment(&json!("2026-11-23T21:29:34.426689Z")));
}

#[test]
fn taking_dates_one_by_one_stops_before_what_does_not_exist() {
    let last = schedule(json!({"cron": "0 0 1 1 * 0 2027-2028"}));
    let mut dates = generate(&last, 10, moment(&json!("2026-11-24T00:00:00Z")), None).expect("begins");
    assert_eq!(dates.next().expect("one").expect("due").to_string(), "2027-01-01 00:00:00+00:00");
    assert_eq!(dates.next().expect("two").expect("due").to_string(), "2028-01-01 00:00:00+00:00");
    assert_eq!(dates.next(), Some(Err(ScheduleError::NoNextDate)));
    assert_eq!(dates.next(), None);
}

#[test]
fn no_schedule_is_searched_for_ever() {
    let start = moment(&json!("2026-11-24T00:00:00Z"));
    let hopeless = [
        json!({"rrule": "FREQ=DAILY;INTERVAL=0"}),
        json!({"rrule": "FREQ=SECONDLY;BYMONTH=13;BYHOUR=3"}),
        json!({"rrule": "FREQ=SECONDLY;BYSECOND=0,1,2,3,4;COUNT=900000000"}),
        json!({"rrule": "FREQ=DAILY;INTERVAL=-1"}),
        json!({"cron": "0 0 31 2 *"}),
    ];
    for body in hopeless {
        assert!(dates(&schedule(body.clone()), 3, start, None).is_err(), "{body}");
    }
    // Thousand candidates without a fresh date end the search, as in the reference.
    let always = schedule(json!({"rrule": "DTSTART:20270101T000000\nRRULE:FREQ=DAILY;INTERVAL=0"}));
    assert_eq!(dates(&always, 3, start, None).map(|dates| dates.len()), Ok(1));
}

#[test]
fn high_frequency_rules_begin_near_the_start() {
    let secondly = schedule(json!({"rrule": "DTSTART:20000101T000000\nRRULE:FREQ=SECONDLY;INTERVAL=7"}));
    let mut walk = generate(&secondly, 2, moment(&json!("2026-11-24T00:00:00Z")), None).expect("begins");
    assert_eq!(walk.next().expect("one").expect("due").to_string(), "2026-11-24 00:00:03+00:00");
}
