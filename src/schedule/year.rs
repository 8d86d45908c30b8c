//! The days of one year that pass a recurrence rule's filters.
//!
//! Days are counted from 0 on January 1; a week may reach into the next year, so seven more exist. Indexing follows
//! dateutil's lists, in which a negative index counts from the end and one too large raises.

use std::ops::Range;

use chrono::{Datelike, NaiveDate, TimeDelta};

use crate::model::schedule::rrule::{AnchoredRule, Frequency};

use super::ScheduleError;

/// A year as one rule sees it, in one month where the rule counts weekdays by month.
#[derive(Debug)]
pub(super) struct Year {
    year: i64,
    month: i64,
    first: NaiveDate,
    /// Weekday of January 1, Monday is 0.
    weekday: i64,
    length: i64,
    next_length: i64,
    weeks: Vec<bool>,
    nth_weekdays: Vec<bool>,
    easter: Vec<bool>,
}

fn index_error() -> ScheduleError {
    ScheduleError::Invalid("list index out of range".to_owned())
}

fn january(year: i64) -> Result<NaiveDate, ScheduleError> {
    let year = i32::try_from(year).ok().filter(|year| (1..=10_000).contains(year));
    year.and_then(|year| NaiveDate::from_ymd_opt(year, 1, 1)).ok_or(ScheduleError::OutOfCalendar)
}

fn length(year: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    365 + i64::from(leap)
}

/// Sets a bit the way Python indexes.
fn set(mask: &mut [bool], index: i64) -> Result<(), ScheduleError> {
    let at = if index < 0 { index + mask.len() as i64 } else { index };
    *usize::try_from(at).ok().and_then(|at| mask.get_mut(at)).ok_or_else(index_error)? = true;
    Ok(())
}

impl Year {
    pub(super) fn new(rule: &AnchoredRule, year: i64, month: i64) -> Result<Self, ScheduleError> {
        let first = january(year)?;
        let mut this = Self {
            year,
            month,
            first,
            weekday: i64::from(first.weekday().num_days_from_monday()),
            length: length(year),
            next_length: length(year + 1),
            weeks: Vec::new(),
            nth_weekdays: Vec::new(),
            easter: Vec::new(),
        };
        if !rule.by_week_number.is_empty() {
            this.weeks = this.weeks(rule)?;
        }
        if !rule.by_nth_weekday.is_empty() {
            this.nth_weekdays = this.nth_weekdays(rule)?;
        }
        if !rule.by_easter.is_empty() {
            let mut mask = vec![false; this.length as usize + 7];
            for offset in &rule.by_easter {
                set(&mut mask, easter(year) + offset)?;
            }
            this.easter = mask;
        }
        Ok(this)
    }

    pub(super) fn is(&self, year: i64, month: i64) -> bool {
        self.year == year && (self.month == month || self.nth_weekdays.is_empty())
    }

    /// The days of the period around a date.
    pub(super) fn period(&self, rule: &AnchoredRule, month: i64, day: i64) -> Result<Range<i64>, ScheduleError> {
        Ok(match rule.frequency {
            Frequency::Yearly => 0..self.length,
            Frequency::Monthly => self.month_range(month)?,
            frequency => {
                let first = self.month_range(month)?.start + day - 1;
                let left = if frequency == Frequency::Weekly {
                    match (rule.week_start - self.weekday_at(first)).rem_euclid(7) {
                        0 => 7,
                        days => days,
                    }
                } else {
                    1
                };
                first..first + left
            }
        })
    }

    /// The date of a day, if it passes every filter.
    pub(super) fn day(&self, rule: &AnchoredRule, index: i64) -> Result<Option<NaiveDate>, ScheduleError> {
        let date = self.first.checked_add_signed(TimeDelta::days(index)).ok_or(ScheduleError::OutOfCalendar)?;
        let day = i64::from(date.day());
        let from_end = day - i64::from(date.num_days_in_month()) - 1;
        let listed = |list: &[i64], value: i64| list.is_empty() || list.contains(&value);
        let masked = |mask: &[bool]| mask.is_empty() || mask.get(index as usize).copied().unwrap_or(false);
        let passes = listed(&rule.by_month, i64::from(date.month()))
            && masked(&self.weeks)
            && listed(&rule.by_weekday, self.weekday_at(index))
            && masked(&self.nth_weekdays)
            && masked(&self.easter)
            && (rule.by_month_day.is_empty() && rule.by_negative_month_day.is_empty()
                || rule.by_month_day.contains(&day)
                || rule.by_negative_month_day.contains(&from_end))
            && (rule.by_year_day.is_empty() || self.year_day(&rule.by_year_day, index));
        if passes && date.year() > 9999 {
            return Err(ScheduleError::OutOfCalendar);
        }
        Ok(passes.then_some(date))
    }

    fn year_day(&self, list: &[i64], index: i64) -> bool {
        if index < self.length {
            list.contains(&(index + 1)) || list.contains(&(index - self.length))
        } else {
            list.contains(&(index + 1 - self.length)) || list.contains(&(index - self.length - self.next_length))
        }
    }

    fn weekday_at(&self, index: i64) -> i64 {
        (self.weekday + index).rem_euclid(7)
    }

    fn month_range(&self, month: i64) -> Result<Range<i64>, ScheduleError> {
        let first = u32::try_from(month).ok().and_then(|month| self.first.with_month(month));
        let first = first.ok_or_else(|| ScheduleError::Invalid("not enough values to unpack".to_owned()))?;
        let start = i64::from(first.ordinal0());
        Ok(start..start + i64::from(first.num_days_in_month()))
    }

    /// Days in the wanted weeks; a week belongs to the year in which it has four days or more.
    fn weeks(&self, rule: &AnchoredRule) -> Result<Vec<bool>, ScheduleError> {
        let mut mask = vec![false; self.length as usize + 7];
        let wanted = &rule.by_week_number;
        let week_start = rule.week_start;
        let first = (7 - self.weekday + week_start).rem_euclid(7);
        let (begin, days) =
            if first >= 4 { (0, self.length + (self.weekday - week_start).rem_euclid(7)) } else { (first, self.length - first) };
        let number = days / 7 + days % 7 / 4;
        let mut fill = |mut index: i64| -> Result<(), ScheduleError> {
            for _ in 0..7 {
                set(&mut mask, index)?;
                index += 1;
                if self.weekday_at(index) == week_start {
                    break;
                }
            }
            Ok(())
        };
        let week_begin = |week: i64| begin + week * 7 - if begin == first { 0 } else { 7 - first };
        for week in wanted {
            let week = if *week < 0 { week + number + 1 } else { *week };
            if (1..=number).contains(&week) {
                fill(if week > 1 { week_begin(week - 1) } else { begin })?;
            }
        }
        if wanted.contains(&1) && week_begin(number) < self.length {
            // The first week of next year may begin in this one.
            fill(week_begin(number))?;
        }
        if begin > 0 {
            // The last week of last year may end in this one.
            let last = if wanted.contains(&-1) {
                -1
            } else {
                let year = self.year - 1;
                let weekday = i64::from(january(year)?.weekday().num_days_from_monday());
                if (7 - weekday + week_start).rem_euclid(7) >= 4 {
                    52 + (length(year) + (weekday - week_start).rem_euclid(7)) % 7 / 4
                } else {
                    52 + (self.length - begin) % 7 / 4
                }
            };
            if wanted.contains(&last) {
                mask[..begin as usize].fill(true);
            }
        }
        Ok(mask)
    }

    /// Days which are the nth of their weekday in the month, or in the year.
    fn nth_weekdays(&self, rule: &AnchoredRule) -> Result<Vec<bool>, ScheduleError> {
        let months = if rule.frequency == Frequency::Yearly { rule.by_month.clone() } else { vec![self.month] };
        let mut ranges: Vec<_> = months.into_iter().map(|month| self.month_range(month)).collect::<Result<_, _>>()?;
        if ranges.is_empty() {
            ranges.push(0..self.length);
        }
        let mut mask = vec![false; self.length as usize];
        for range in ranges {
            for (weekday, nth) in &rule.by_nth_weekday {
                let index = if *nth < 0 {
                    let last = range.end - 1 + (nth + 1) * 7;
                    last - (self.weekday_at(last) - weekday).rem_euclid(7)
                } else {
                    let first = range.start + (nth - 1) * 7;
                    if first >= 385 - self.weekday {
                        return Err(index_error());
                    }
                    first + (weekday - self.weekday_at(first)).rem_euclid(7)
                };
                if range.contains(&index) {
                    set(&mut mask, index)?;
                }
            }
        }
        Ok(mask)
    }
}

/// Days from January 1 to Easter Sunday of the western churches.
fn easter(year: i64) -> i64 {
    let (golden, century) = (year % 19, year / 100);
    let h = (century - century / 4 - (8 * century + 13) / 25 + 19 * golden + 15) % 30;
    let full_moon = h - (h / 28) * (1 - (h / 28) * (29 / (h + 1)) * ((21 - golden) / 11));
    let weekday = (year + year / 4 + full_moon + 2 - century + century / 4) % 7;
    // March 28 is day 86, in a leap year 87.
    length(year) - 365 + 86 + full_moon - weekday
}
