//! Next times of a cron expression, in croniter's steps.
//!
//! croniter runs on the wall clock; the reference then puts the timezone on each result. So a time twice there is
//! due at its first occurrence only, and a time not there at the hour before the gap. What a search for the next
//! match does column by column follows `croniter._calc`, since its results for odd expressions follow from the steps.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{Datelike, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike};

use crate::model::schedule::cron::{CronExpression, DAY, Field, HOUR, MINUTE, MONTH, Nth, SECOND, WEEKDAY, YEAR};

use super::ScheduleError;

/// Years without a match after which croniter gives up.
const YEARS_MAX: i32 = 50;

/// Endless sequence of wall-clock times after a start.
#[derive(Debug)]
pub(super) struct CronTimes {
    expression: CronExpression,
    /// The expression with one of the day columns opened, when they are joined by "or".
    either: Option<[Vec<Field>; 2]>,
    current: NaiveDateTime,
}

impl CronTimes {
    pub(super) fn new(expression: CronExpression, after: NaiveDateTime, day_or: bool) -> Self {
        let fields = &expression.fields;
        let either = (day_or && !fields[DAY].any && !fields[WEEKDAY].any).then(|| {
            [WEEKDAY, DAY].map(|column| {
                let mut opened = fields.clone();
                opened[column] = Field::any();
                opened
            })
        });
        Self { expression, either, current: after }
    }

    pub(super) fn next(&mut self) -> Result<NaiveDateTime, ScheduleError> {
        let nth = &self.expression.nth;
        let next = match &self.either {
            Some([by_day, by_weekday]) => search(by_day, nth, self.current)?.min(search(by_weekday, nth, self.current)?),
            None => search(&self.expression.fields, nth, self.current)?,
        };
        self.current = next;
        Ok(next)
    }
}

fn search(fields: &[Field], nth: &BTreeMap<i32, BTreeSet<Nth>>, after: NaiveDateTime) -> Result<NaiveDateTime, ScheduleError> {
    let with_seconds = fields.len() > SECOND;
    let start = after.with_nanosecond(0).expect("zero is a nanosecond of any second");
    let offset = TimeDelta::seconds(if with_seconds { 1 } else { 60 });
    let mut at = start.checked_add_signed(offset).ok_or(ScheduleError::NoNextDate)?;
    let last_year = at.year() + YEARS_MAX;
    while at.year() <= last_year {
        let Some(moved) = step(fields, nth, at)? else {
            return Ok(if with_seconds { at } else { at.with_second(0).expect("zero is a second of any minute") });
        };
        at = moved;
    }
    Err(ScheduleError::NoNextDate)
}

/// Moves to where the first column that does not match might match; `None` when all do.
fn step(fields: &[Field], nth: &BTreeMap<i32, BTreeSet<Nth>>, at: NaiveDateTime) -> Result<Option<NaiveDateTime>, ScheduleError> {
    let overflow = ScheduleError::NoNextDate;
    if let Some(field) = fields.get(YEAR).filter(|field| !field.any) {
        let year = *field.values.iter().find(|year| **year >= at.year()).ok_or(overflow.clone())?;
        if year != at.year() {
            return NaiveDate::from_ymd_opt(year, 1, 1).map(|date| Some(date.and_time(NaiveTime::MIN))).ok_or(overflow);
        }
    }
    if let Some(months) = distance(&fields[MONTH], at.month() as i32, 12) {
        let first = at.date().with_day(1).expect("every month has a first day");
        let month = first.checked_add_months(Months::new(months as u32)).ok_or(overflow)?;
        return Ok(Some(month.and_time(NaiveTime::MIN)));
    }
    let length = month_length(at.date());
    let midnight = |days: i32| {
        let date = at.date().checked_add_signed(TimeDelta::days(i64::from(days))).ok_or(overflow.clone())?;
        Ok(Some(date.and_time(NaiveTime::MIN)))
    };
    let is_last = fields[DAY].last && at.day() as i32 == length;
    if !is_last && let Some(days) = distance(&fields[DAY], at.day() as i32, length) {
        return midnight(days);
    }
    let weekday = if nth.is_empty() {
        distance(&fields[WEEKDAY], at.weekday().num_days_from_sunday() as i32, 7)
    } else {
        occurrence(nth, at.date(), length)
    };
    if let Some(days) = weekday {
        return midnight(days);
    }
    if let Some(hours) = distance(&fields[HOUR], at.hour() as i32, 24) {
        let hour = at.date().and_hms_opt(at.hour(), 0, 0).expect("taken from a time");
        return hour.checked_add_signed(TimeDelta::hours(i64::from(hours))).map(Some).ok_or(overflow);
    }
    if let Some(minutes) = distance(&fields[MINUTE], at.minute() as i32, 60) {
        let minute = at.with_second(0).expect("zero is a second of any minute");
        return minute.checked_add_signed(TimeDelta::minutes(i64::from(minutes))).map(Some).ok_or(overflow);
    }
    if let Some(field) = fields.get(SECOND)
        && let Some(seconds) = distance(field, at.second() as i32, 60)
    {
        return at.checked_add_signed(TimeDelta::seconds(i64::from(seconds))).map(Some).ok_or(overflow);
    }
    Ok(None)
}

/// How far it is to the next allowed value, around the end if need be; `None` when it is here.
fn distance(field: &Field, value: i32, base: i32) -> Option<i32> {
    if field.any {
        return None;
    }
    let ahead = field.values.iter().copied().find(|allowed| *allowed >= value);
    // The last day of the month comes after all numbers; were it the only entry, it is where the wrap begins too.
    let last = (field.last && base >= value).then_some(base);
    let first = field.values.first().copied().unwrap_or(base);
    let distance = ahead.or(last).map_or(first - value + base, |next| next - value);
    (distance != 0).then_some(distance)
}

fn month_length(date: NaiveDate) -> i32 {
    i32::from(date.num_days_in_month())
}

/// Days to the next wanted occurrence of a weekday in this month, or to the next month.
fn occurrence(nth: &BTreeMap<i32, BTreeSet<Nth>>, date: NaiveDate, length: i32) -> Option<i32> {
    let today = date.day() as i32;
    let first_weekday = (date.weekday().num_days_from_sunday() as i32 - (today - 1)).rem_euclid(7);
    let mut next = length + 1;
    for (weekday, wanted) in nth {
        let first = 1 + (weekday - first_weekday).rem_euclid(7);
        for which in wanted {
            let day = match which {
                Nth::Last => first + (length - first) / 7 * 7,
                Nth::Number(number) => first + (i32::from(*number) - 1) * 7,
            };
            if (today..=length).contains(&day) {
                next = next.min(day);
            }
        }
    }
    (next != today).then_some(next - today)
}
