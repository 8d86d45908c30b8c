//! When schedules are due: pure arithmetic, no clock.
//!
//! Promises the very instants, order and idempotency keys which the reference (its server on Python 3.11, with
//! pendulum, croniter and dateutil) computes, across daylight saving; `testdata/golden.json` holds its answers. Where
//! the reference raises, an error comes out here. Every search is bounded. To add a kind of schedule, add its type to
//! `crate::model::schedule` and a sequence of times beside the three.

mod cron;
mod interval;
mod rrule;
#[cfg(test)]
mod tests;
mod year;
mod zone;

use std::collections::HashSet;
use std::fmt;

use chrono::{DateTime, Datelike, NaiveDateTime, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;
use uuid::Uuid;

use self::cron::CronTimes;
use self::interval::IntervalTimes;
use self::rrule::RRuleTimes;
use self::zone::Fold;
use crate::model::schedule::{Schedule, zone_named};

/// Candidates looked at beyond which the reference stops, with duplicates.
pub const ITERATIONS_MAX: usize = 1000;

/// Why a schedule has no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// The schedule's timezone is none.
    #[error("unknown timezone \"{0}\"")]
    Timezone(String),
    /// The schedule's text cannot be read; only for values which were never checked.
    #[error("invalid schedule: {0}")]
    Invalid(String),
    /// A cron expression that does not match within fifty years.
    #[error("failed to find next date")]
    NoNextDate,
    /// A date before year 1 or after year 9999.
    #[error("date value out of range")]
    OutOfCalendar,
    /// The search took more steps than any sensible schedule needs.
    #[error("too many steps to the next date")]
    TooManySteps,
}

/// An instant and the timezone whose wall clock the schedule follows.
///
/// Prints as Python prints it: `2026-11-24 00:00:00-05:00`, microseconds only when there are any.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ScheduledDate(DateTime<Tz>);

impl ScheduledDate {
    /// The instant.
    pub fn instant(&self) -> DateTime<Utc> {
        self.0.to_utc()
    }

    /// What its timezone's clock shows.
    pub fn wall(&self) -> NaiveDateTime {
        self.0.naive_local()
    }
}

impl fmt::Display for ScheduledDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.0.fixed_offset();
        let fraction = if at.timestamp_subsec_micros() == 0 { "" } else { ".%6f" };
        let offset = if at.offset().local_minus_utc() % 60 == 0 { "%:z" } else { "%::z" };
        write!(f, "{}", at.format(&format!("%Y-%m-%d %H:%M:%S{fraction}{offset}")))
    }
}

/// The key under which a run is scheduled at most once, whichever server does it.
pub fn idempotency_key(deployment_id: Uuid, schedule_id: Uuid, date: &ScheduledDate) -> String {
    format!("scheduled {deployment_id} {schedule_id} {date}")
}

/// The first `n` dates from `start` (inclusive) to `end` (inclusive), ordered by wall clock.
///
/// # Errors
/// [`ScheduleError`] where the reference raises, and when a bound is met.
pub fn dates(schedule: &Schedule, n: usize, start: DateTime<Utc>, end: Option<DateTime<Utc>>) -> Result<Vec<ScheduledDate>, ScheduleError> {
    let mut dates = generate(schedule, n, start, end)?.collect::<Result<Vec<_>, _>>()?;
    dates.sort_by_key(ScheduledDate::wall);
    Ok(dates)
}

/// The same dates one by one, as the scheduler takes them: it stops early, and what comes after may not even exist.
///
/// # Errors
/// [`ScheduleError`] at once for what cannot begin, else as an item, after which nothing comes.
pub fn generate(schedule: &Schedule, n: usize, start: DateTime<Utc>, end: Option<DateTime<Utc>>) -> Result<Dates, ScheduleError> {
    let (start, end) = (micros(start), end.map(micros));
    let (source, zone) = match schedule {
        Schedule::Interval(interval) => {
            let zone = zone(&interval.timezone)?;
            (Source::Interval(IntervalTimes::new(interval, zone, start.with_timezone(&zone))?), zone)
        }
        Schedule::Cron(cron) => {
            let zone = zone(cron.timezone.as_deref().filter(|name| !name.is_empty()).unwrap_or("UTC"))?;
            let expression = crate::model::schedule::cron::parse(&cron.cron).map_err(|error| ScheduleError::Invalid(error.to_string()))?;
            // A second earlier, so that a match at the start counts; a started second counts as over.
            let whole = if start.timestamp_subsec_micros() == 0 { TimeDelta::seconds(1) } else { TimeDelta::zero() };
            let after = start.checked_sub_signed(whole).ok_or(ScheduleError::OutOfCalendar)?;
            let wall = after.with_timezone(&zone).naive_local();
            (Source::Cron(CronTimes::new(expression, wall, cron.day_or)), zone)
        }
        Schedule::RRule(rule) => {
            let zone = zone(rule.timezone.as_deref().unwrap_or("None"))?;
            (Source::RRule(Box::new(RRuleTimes::new(&rule.rrule, zone, start)?)), zone)
        }
    };
    let end = end.map(|end| end.with_timezone(&zone));
    Ok(Dates { source, zone, n, end, seen: HashSet::new(), counter: 0, done: false })
}

fn zone(name: &str) -> Result<Tz, ScheduleError> {
    zone_named(name).ok_or_else(|| ScheduleError::Timezone(name.to_owned()))
}

/// Whether Python can hold it.
fn in_calendar(at: &DateTime<Tz>) -> bool {
    (1..=9999).contains(&at.year())
}

#[derive(Debug)]
enum Source {
    Interval(IntervalTimes),
    Cron(CronTimes),
    RRule(Box<RRuleTimes>),
}

/// Iterator of [`generate`].
#[derive(Debug)]
pub struct Dates {
    source: Source,
    zone: Tz,
    n: usize,
    end: Option<DateTime<Tz>>,
    /// Wall clocks given out: Python takes times of one timezone for equal when their wall clocks are.
    seen: HashSet<NaiveDateTime>,
    counter: usize,
    done: bool,
}

impl Dates {
    /// The next candidate.
    fn candidate(&mut self) -> Result<Option<DateTime<Tz>>, ScheduleError> {
        match &mut self.source {
            Source::Interval(times) => {
                if self.counter > 0 {
                    times.advance()?;
                }
                Ok(Some(times.current()))
            }
            Source::Cron(times) => {
                let date = zone::pendulum(self.zone, times.next()?, Fold::Before).filter(in_calendar);
                date.map(Some).ok_or(ScheduleError::OutOfCalendar)
            }
            Source::RRule(times) => times.next(),
        }
    }

    fn past_end(&self, date: &DateTime<Tz>) -> bool {
        self.end.as_ref().is_some_and(|end| match self.source {
            Source::RRule(_) => date > end,
            _ => date.naive_local() > end.naive_local(),
        })
    }
}

impl Iterator for Dates {
    type Item = Result<ScheduledDate, ScheduleError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            let date = match self.candidate() {
                Ok(Some(date)) if !self.past_end(&date) => date,
                Ok(_) => {
                    self.done = true;
                    return None;
                }
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            };
            let fresh = self.seen.insert(date.naive_local());
            self.done = self.seen.len() >= self.n || self.counter > ITERATIONS_MAX;
            self.counter += 1;
            if fresh {
                return Some(Ok(ScheduledDate(date)));
            }
        }
        None
    }
}

/// Whole microseconds, as Python holds them.
fn micros(at: DateTime<Utc>) -> DateTime<Utc> {
    at.with_nanosecond(at.nanosecond() / 1_000 * 1_000).unwrap_or(at)
}
