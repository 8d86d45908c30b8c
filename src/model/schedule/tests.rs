use serde_json::json;

use super::*;

fn read(value: Value) -> Result<String, String> {
    let schedule: Result<Schedule, _> = serde_json::from_value(value);
    // The kind of error stands before the message, between control characters.
    let message = |error: serde_json::Error| error.to_string().rsplit('\u{1}').next().unwrap_or_default().to_owned();
    schedule.map(|schedule| serde_json::to_string(&schedule).expect("a schedule prints")).map_err(message)
}

#[test]
fn schedules_print_as_the_reference_prints_them() {
    let cases = [
        (
            json!({"interval": 0.1234567, "anchor_date": "2020-01-01T00:00:00.123456-04:00"}),
            r#"{"interval":0.123457,"anchor_date":"2020-01-01T00:00:00.123456-04:00","timezone":"UTC"}"#,
        ),
        (
            json!({"interval": "P1DT2H3.5S", "anchor_date": "2020-01-01"}),
            r#"{"interval":93603.5,"anchor_date":"2020-01-01T00:00:00Z","timezone":"UTC"}"#,
        ),
        (
            json!({"interval": "1 day, 0:00:00", "anchor_date": 1577836800, "timezone": "Europe/London"}),
            r#"{"interval":86400.0,"anchor_date":"2020-01-01T00:00:00Z","timezone":"Europe/London"}"#,
        ),
        (
            json!({"interval": "P1M", "anchor_date": "2020-01-01 05:00+00:00", "timezone": null}),
            r#"{"interval":2592000.0,"anchor_date":"2020-01-01T05:00:00Z","timezone":"UTC"}"#,
        ),
        (json!({"cron": "* * * * *"}), r#"{"cron":"* * * * *","timezone":null,"day_or":true}"#),
        (json!({"cron": "@daily", "day_or": "false", "timezone": ""}), r#"{"cron":"@daily","timezone":"","day_or":false}"#),
        (json!({"rrule": "FREQ=DAILY"}), r#"{"rrule":"FREQ=DAILY","timezone":"UTC"}"#),
    ];
    for (given, printed) in cases {
        assert_eq!(read(given).as_deref(), Ok(printed));
    }
}

#[test]
fn refusals_have_the_words_of_the_reference() {
    let cases = [
        (json!({"interval": 0}), "Value error, interval must be positive"),
        (json!({"interval": "3600"}), "Input should be a valid timedelta"),
        (json!({"interval": 1e20}), "Input should be a valid timedelta"),
        (json!({"interval": 60, "anchor_date": "junk"}), "Value error, Unable to parse string [junk]"),
        (
            json!({"cron": "* * * * *", "timezone": "foo"}),
            "Value error, Invalid timezone: \"foo\" (specify in IANA tzdata format, for example, America/New_York)",
        ),
        (json!({"cron": "bad"}), "Value error, Invalid cron string: \"bad\""),
        (json!({"cron": "H * * * *"}), "Value error, Invalid cron string: \"H * * * *\""),
        (json!({"cron": "R * * * *"}), "Value error, Random and Hashed expressions are unsupported, received: \"R * * * *\""),
        (json!({"cron": "* * * * *", "x": 1}), "Extra inputs are not permitted"),
        (json!({"rrule": ""}), "Value error, Invalid RRule string \"\": empty string"),
        (json!({"rrule": "FREQ=X"}), "Value error, Invalid RRule string \"FREQ=X\": invalid 'FREQ': X"),
        (json!({"rrule": "FREQ=DAILY;BYHOUR=25"}), "Value error, Invalid RRule string \"FREQ=DAILY;BYHOUR=25\": hour must be in 0..23"),
        (
            json!({"rrule": "RRULE:FREQ=DAILY;FOO=1"}),
            "Value error, Invalid RRule string \"RRULE:FREQ=DAILY;FOO=1\": unknown parameter 'FOO'",
        ),
    ];
    for (given, words) in cases {
        let refused = read(given.clone()).expect_err("it is refused");
        // The findings of all kinds of schedule, as JSON.
        assert!(refused.contains(&json!(words).to_string()), "{given}: {refused}");
    }
    let long = "RDATE:20200101T000000\n".repeat(400);
    let refused = read(json!({"rrule": long})).expect_err("too long");
    assert!(refused.contains(r#"...\"\nMax length is 6500, got 8800""#), "{refused}");
}

#[test]
fn every_member_of_the_union_complains() {
    let now = DateTime::UNIX_EPOCH;
    let issues = Schedule::from_json(&json!({"interval": 0}), now).expect_err("zero");
    let listed: Vec<(&str, Option<&str>, &str)> =
        issues.iter().map(|issue| (issue.location[0].as_str(), issue.location.get(1).map(String::as_str), issue.kind)).collect();
    assert_eq!(
        listed,
        [
            (INTERVAL, Some("interval"), "value_error"),
            (CRON, Some("cron"), "missing"),
            (CRON, Some("interval"), "extra_forbidden"),
            (RRULE, Some("rrule"), "missing"),
            (RRULE, Some("interval"), "extra_forbidden"),
        ]
    );
    let anchored = Schedule::from_json(&json!({"interval": 1}), now).expect("valid");
    assert!(matches!(anchored, Schedule::Interval(interval) if interval.anchor_date == now));
}

#[test]
fn durations_and_anchors_have_the_reference_s_forms() {
    let seconds_of = |text: &str| interval::duration(&json!(text)).map(seconds);
    for (text, expected) in [
        ("PT1H", 3600.0),
        ("P1.5D", 129_600.0),
        ("+P1D", 86_400.0),
        ("-P1D", -86_400.0),
        ("P1W", 604_800.0),
        ("1:00:00", 3600.0),
        ("01:00", 3600.0),
        ("100:00:00.5", 360_000.5),
        ("3 days", 259_200.0),
        ("3d", 259_200.0),
        ("2 days 01:00:00", 176_400.0),
    ] {
        assert_eq!(seconds_of(text), Some(expected), "{text}");
    }
    for text in ["", "P", "PT", "p1d", "1:00", "1:2:3", "00:60", "1 01:00:00", "01:00:00 ", "3600", "zz"] {
        assert_eq!(seconds_of(text), None, "{text}");
    }
    let printed = |text: &str| interval::moment(&json!(text)).map(|at| interval::print_moment(&at));
    for (text, expected) in [
        ("2020-01-01T00", "2020-01-01T00:00:00Z"),
        ("2020-01-01T00:00", "2020-01-01T00:00:00Z"),
        ("20200101T000000", "2020-01-01T00:00:00Z"),
        ("2020-01-01T00:00:00+0100", "2020-01-01T00:00:00+01:00"),
        ("2020-01-01T00:00:00.1234567Z", "2020-01-01T00:00:00.123456Z"),
        ("1577836800", "2020-01-01T00:00:00Z"),
    ] {
        assert_eq!(printed(text).as_deref(), Some(expected), "{text}");
    }
    for text in ["2020-1-1", " 2020-01-01", "2020-01-01T24:00:00Z", "2020-01-01T23:59:60Z", "2020-13-01", "junk"] {
        assert_eq!(printed(text), None, "{text}");
    }
}
