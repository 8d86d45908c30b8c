//! Next times of an interval, in the reference's steps.
//!
//! Below a day the interval runs in absolute time; the days of longer ones run on the wall clock, so a daily
//! interval keeps its hour across daylight saving. Comparisons are between wall clocks, as Python compares times of
//! one timezone; that is why the second of two equal wall-clock times is not due. Sums go through doubles as
//! pendulum's do, since rounding shows in the microseconds.

use chrono::{DateTime, Duration, TimeDelta};
use chrono_tz::Tz;

use crate::model::schedule::{IntervalSchedule, seconds};

use super::ScheduleError;
use super::zone::{self, Fold};

/// Steps from the computed to the first wanted time; a correct computation needs a few.
const CATCH_UP_MAX: usize = 100_000;

/// Endless sequence of times from the first not before a start.
#[derive(Debug)]
pub(super) struct IntervalTimes {
    days: i64,
    seconds: f64,
    next: DateTime<Tz>,
}

impl IntervalTimes {
    pub(super) fn new(schedule: &IntervalSchedule, zone: Tz, start: DateTime<Tz>) -> Result<Self, ScheduleError> {
        let anchor = schedule.anchor_date.with_timezone(&zone);
        let total = seconds(schedule.interval);
        let days = schedule.interval.num_seconds().div_euclid(86_400);
        let periods = (seconds(start - anchor) / total).trunc();
        let mut times = Self {
            days,
            seconds: total - (days * 86_400) as f64,
            next: add_seconds(&anchor, total * periods).ok_or(ScheduleError::OutOfCalendar)?,
        };
        for _ in 0..CATCH_UP_MAX {
            if times.next.naive_local() >= start.naive_local() {
                return Ok(times);
            }
            times.advance()?;
        }
        Err(ScheduleError::TooManySteps)
    }

    pub(super) fn current(&self) -> DateTime<Tz> {
        self.next
    }

    pub(super) fn advance(&mut self) -> Result<(), ScheduleError> {
        let next = if self.days == 0 {
            add_seconds(&self.next, self.seconds)
        } else {
            Duration::try_days(self.days)
                .and_then(|days| self.next.naive_local().checked_add_signed(days))
                .and_then(|wall| wall.checked_add_signed(rounded(self.seconds)?))
                .and_then(|wall| zone::pendulum(self.next.timezone(), wall, Fold::After))
        };
        self.next = next.filter(super::in_calendar).ok_or(ScheduleError::OutOfCalendar)?;
        Ok(())
    }
}

fn add_seconds(at: &DateTime<Tz>, seconds: f64) -> Option<DateTime<Tz>> {
    at.checked_add_signed(rounded(seconds)?)
}

/// Whole microseconds, the fraction rounded half to even as Python's `timedelta` does.
fn rounded(seconds: f64) -> Option<TimeDelta> {
    if seconds.abs() > 1e14 {
        return None;
    }
    let micros = (seconds.fract() * 1e6).round_ties_even() as i64;
    TimeDelta::try_seconds(seconds.trunc() as i64)?.checked_add(&TimeDelta::microseconds(micros))
}
