//! Next times of recurrence rules, in dateutil's steps.
//!
//! Rules run on the wall clock from their start; the timezone is put on each result. A period is expanded to a set
//! of days, these are filtered by all the `BY...` lists, and combined with the times of a day: `rrule._iter`.
//! Rules of a day or less begin near the wanted start instead of at their own, at a step of the same
//! progression; dateutil gets to the same place by walking.
//! With `COUNT` that is only done where every step gives one date.

use std::iter::Peekable;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;

use crate::model::schedule::rrule::{AnchoredRule, Frequency, RRuleError, Rule, gcd, legacy_start, parse, times};

use super::year::Year;
use super::{ScheduleError, in_calendar, zone};

/// Days, periods and dates looked at after which a rule is given up. Every day of the calendar is three million, every
/// minute since the legacy start four million; what needs more has no date at all, or a tiny period and a far start.
const STEPS_MAX: u64 = 12_000_000;
/// No two readings of a wall clock are further apart.
const MARGIN: TimeDelta = TimeDelta::days(2);

type Step = Result<NaiveDateTime, ScheduleError>;

impl From<RRuleError> for ScheduleError {
    fn from(error: RRuleError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// All dates of a recurrence from a start on.
#[derive(Debug)]
pub(super) struct RRuleTimes {
    included: Vec<Peekable<Walk>>,
    excluded: Vec<Peekable<Walk>>,
    last: Option<NaiveDateTime>,
    /// Whether equal dates are merged; a single rule has none, but dateutil does not look.
    set: bool,
    zone: Tz,
    start: DateTime<Utc>,
    /// Dates before this wall clock cannot be after the start.
    floor: NaiveDateTime,
}

/// Either kind of source.
#[derive(Debug)]
enum Walk {
    Rule(Box<RuleWalk>),
    Dates(std::vec::IntoIter<NaiveDateTime>),
}

impl Iterator for Walk {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        match self {
            Self::Rule(rule) => rule.next(),
            Self::Dates(dates) => dates.next().map(Ok),
        }
    }
}

impl RRuleTimes {
    pub(super) fn new(text: &str, zone: Tz, start: DateTime<Utc>) -> Result<Self, ScheduleError> {
        let recurrence = parse(text)?;
        let floor = start.with_timezone(&zone).naive_local() - MARGIN;
        let (first, aware) = recurrence.start.unwrap_or_else(|| (legacy_start(), false));
        let walks = |rules: &[Rule], mut dates: Vec<NaiveDateTime>| -> Result<Vec<_>, ScheduleError> {
            dates.sort_unstable();
            let mut walks = vec![Walk::Dates(dates.into_iter()).peekable()];
            for rule in rules {
                walks.push(Walk::Rule(Box::new(RuleWalk::new(rule.anchor(first, aware)?, floor)?)).peekable());
            }
            Ok(walks)
        };
        Ok(Self {
            included: walks(&recurrence.rules, recurrence.dates)?,
            excluded: walks(&recurrence.excluded_rules, recurrence.excluded_dates)?,
            last: None,
            set: recurrence.set,
            zone,
            start,
            floor,
        })
    }

    pub(super) fn next(&mut self) -> Result<Option<DateTime<Tz>>, ScheduleError> {
        while let Some(wall) = self.next_wall()? {
            if wall < self.floor {
                continue;
            }
            let date = zone::dateutil(self.zone, wall).filter(in_calendar).ok_or(ScheduleError::OutOfCalendar)?;
            if date >= self.start {
                return Ok(Some(date));
            }
        }
        Ok(None)
    }

    fn next_wall(&mut self) -> Result<Option<NaiveDateTime>, ScheduleError> {
        loop {
            let Some(wall) = pop_least(&mut self.included)? else { return Ok(None) };
            if !self.set {
                return Ok(Some(wall));
            }
            if self.last.replace(wall) == Some(wall) {
                continue;
            }
            let mut excluded = false;
            for walk in &mut self.excluded {
                while let Some(next) = walk.next_if(|next| next.as_ref().map_or(true, |next| *next < wall)) {
                    next?;
                }
                excluded |= walk.peek() == Some(&Ok(wall));
            }
            if !excluded {
                return Ok(Some(wall));
            }
        }
    }
}

fn pop_least(walks: &mut [Peekable<Walk>]) -> Result<Option<NaiveDateTime>, ScheduleError> {
    let mut least: Option<(usize, NaiveDateTime)> = None;
    for (at, walk) in walks.iter_mut().enumerate() {
        match walk.peek() {
            None => {}
            Some(Err(error)) => return Err(error.clone()),
            Some(Ok(date)) if least.is_none_or(|(_, least)| *date < least) => least = Some((at, *date)),
            Some(Ok(_)) => {}
        }
    }
    match least {
        Some((at, _)) => walks[at].next().transpose(),
        None => Ok(None),
    }
}

/// One rule and where it stands.
#[derive(Debug)]
struct RuleWalk {
    rule: AnchoredRule,
    year: Year,
    at: Position,
    /// Times of the day at this position.
    times: Vec<NaiveTime>,
    /// Days of this period that pass, and whether any did not.
    days: Vec<NaiveDate>,
    filtered: bool,
    /// The day that `days` is about, for periods below a day.
    opened: Option<(i64, i64, i64)>,
    /// With `BYSETPOS`, the chosen dates of this period.
    chosen: Option<Vec<NaiveDateTime>>,
    /// Dates of this period already looked at.
    looked_at: usize,
    count: Option<i64>,
    steps: u64,
    done: bool,
}

#[derive(Clone, Copy, Debug)]
struct Position {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    weekday: i64,
}

impl Iterator for RuleWalk {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        while !self.done {
            match self.look() {
                Ok(None) => {}
                Ok(Some(date)) => return Some(Ok(date)),
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

fn empty_rule() -> ScheduleError {
    ScheduleError::Invalid("Invalid combination of interval and byhour resulting in empty rule.".to_owned())
}

/// The last step of the rule's progression before `floor`, if it may begin there, and what remains of `COUNT`.
fn nearer(rule: &AnchoredRule, floor: NaiveDateTime) -> (NaiveDateTime, Option<i64>) {
    let all = (rule.start, rule.count);
    let unit = match rule.frequency {
        Frequency::Daily => 86_400,
        Frequency::Hourly => 3_600,
        Frequency::Minutely => 60,
        Frequency::Secondly => 1,
        _ => return all,
    };
    let away = (floor - rule.start).num_seconds();
    let period = rule.interval.saturating_mul(unit);
    if period <= 0 || away <= 0 || (rule.count.is_some() && !one_date_a_period(rule)) {
        return all;
    }
    let periods = away / period;
    let begin = TimeDelta::try_seconds(periods * period).and_then(|skipped| rule.start.checked_add_signed(skipped));
    begin.map_or(all, |begin| (begin, rule.count.map(|count| count - periods)))
}

/// Whether every period of a day or less gives exactly one date, beginning with the start.
fn one_date_a_period(rule: &AnchoredRule) -> bool {
    let (start, frequency) = (rule.start.time(), rule.frequency);
    let plain = |list: &[i64], value: u32, level: Frequency| {
        if frequency >= level { list.is_empty() } else { list == [i64::from(value)] }
    };
    rule.by_set_position.is_empty()
        && rule.by_month.is_empty()
        && rule.by_month_day.is_empty()
        && rule.by_negative_month_day.is_empty()
        && rule.by_year_day.is_empty()
        && rule.by_easter.is_empty()
        && rule.by_week_number.is_empty()
        && rule.by_weekday.is_empty()
        && rule.by_nth_weekday.is_empty()
        && plain(&rule.by_hour, start.hour(), Frequency::Hourly)
        && plain(&rule.by_minute, start.minute(), Frequency::Minutely)
        && plain(&rule.by_second, start.second(), Frequency::Secondly)
}

impl RuleWalk {
    fn new(rule: AnchoredRule, floor: NaiveDateTime) -> Result<Self, ScheduleError> {
        let (begin, count) = nearer(&rule, floor);
        let at = Position {
            year: i64::from(begin.year()),
            month: i64::from(begin.month()),
            day: i64::from(begin.day()),
            hour: i64::from(begin.hour()),
            minute: i64::from(begin.minute()),
            second: i64::from(begin.second()),
            weekday: i64::from(begin.weekday().num_days_from_monday()),
        };
        let off = |list: &[i64], value: i64, level: Frequency| rule.frequency >= level && !list.is_empty() && !list.contains(&value);
        let idle = off(&rule.by_hour, at.hour, Frequency::Hourly)
            || off(&rule.by_minute, at.minute, Frequency::Minutely)
            || off(&rule.by_second, at.second, Frequency::Secondly);
        let mut walk = Self {
            year: Year::new(&rule, at.year, at.month)?,
            count,
            rule,
            at,
            times: Vec::new(),
            days: Vec::new(),
            filtered: false,
            opened: None,
            chosen: None,
            looked_at: 0,
            steps: 0,
            done: false,
        };
        if !idle {
            walk.times = walk.times_here()?;
        }
        walk.open()?;
        Ok(walk)
    }

    fn spend(&mut self, steps: u64) -> Result<(), ScheduleError> {
        self.steps += steps;
        if self.steps > STEPS_MAX { Err(ScheduleError::TooManySteps) } else { Ok(()) }
    }

    fn times_here(&self) -> Result<Vec<NaiveTime>, ScheduleError> {
        let rule = &self.rule;
        let (hour, minute, second) = ([self.at.hour], [self.at.minute], [self.at.second]);
        Ok(match rule.frequency {
            Frequency::Hourly => times(&hour, &rule.by_minute, &rule.by_second)?,
            Frequency::Minutely => times(&hour, &minute, &rule.by_second)?,
            Frequency::Secondly => times(&hour, &minute, &second)?,
            _ => rule.times.clone(),
        })
    }

    /// Looks at one date, or moves on to the next period.
    fn look(&mut self) -> Result<Option<NaiveDateTime>, ScheduleError> {
        let date = match &self.chosen {
            Some(chosen) => chosen.get(self.looked_at).copied(),
            None => match self.times.len() {
                0 => None,
                times => {
                    let day = self.days.get(self.looked_at / times);
                    day.map(|day| day.and_time(self.times[self.looked_at % times]))
                }
            },
        };
        let Some(date) = date else {
            self.advance()?;
            if !self.done {
                self.open()?;
            }
            return Ok(None);
        };
        if self.looked_at > 0 {
            self.spend(1)?;
        }
        self.looked_at += 1;
        if self.rule.until.is_some_and(|until| date > until) {
            self.done = true;
            return Ok(None);
        }
        if date < self.rule.start {
            return Ok(None);
        }
        if let Some(count) = &mut self.count {
            *count -= 1;
            if *count < 0 {
                self.done = true;
                return Ok(None);
            }
        }
        Ok(Some(date))
    }

    /// Expands the period at this position.
    fn open(&mut self) -> Result<(), ScheduleError> {
        self.spend(1)?;
        let today = (self.at.year, self.at.month, self.at.day);
        if self.opened != Some(today) || self.rule.frequency < Frequency::Daily {
            let range = self.year.period(&self.rule, self.at.month, self.at.day)?;
            self.spend((range.end - range.start) as u64)?;
            self.filtered = false;
            self.days.clear();
            for index in range {
                match self.year.day(&self.rule, index)? {
                    Some(day) => self.days.push(day),
                    None => self.filtered = true,
                }
            }
            self.opened = Some(today);
        }
        self.looked_at = 0;
        self.chosen = None;
        if !self.rule.by_set_position.is_empty() && !self.times.is_empty() {
            let times = self.times.len() as i64;
            let days = self.days.len() as i64;
            let mut chosen = Vec::new();
            for position in &self.rule.by_set_position {
                let position = if *position < 0 { *position } else { position - 1 };
                let (day, time) = (position.div_euclid(times), position.rem_euclid(times));
                let day = if day < 0 { day + days } else { day };
                if (0..days).contains(&day) {
                    chosen.push(self.days[day as usize].and_time(self.times[time as usize]));
                }
            }
            chosen.sort_unstable();
            chosen.dedup();
            self.chosen = Some(chosen);
        }
        Ok(())
    }

    fn rebuild(&mut self) -> Result<(), ScheduleError> {
        if self.at.year > 9999 {
            self.done = true;
            return Ok(());
        }
        if self.year.is(self.at.year, self.at.month) {
            return Ok(());
        }
        self.year = Year::new(&self.rule, self.at.year, self.at.month)?;
        Ok(())
    }

    /// Moves to the next period.
    fn advance(&mut self) -> Result<(), ScheduleError> {
        let interval = self.rule.interval;
        match self.rule.frequency {
            Frequency::Yearly => {
                self.at.year += interval;
                return self.rebuild();
            }
            Frequency::Monthly => {
                let months = self.at.month - 1 + interval;
                if self.at.month + interval > 12 {
                    self.at.year += months.div_euclid(12);
                    self.at.month = months.rem_euclid(12) + 1;
                } else {
                    self.at.month += interval;
                }
                return self.rebuild();
            }
            Frequency::Weekly => {
                let begin = (self.at.weekday - self.rule.week_start).rem_euclid(7);
                self.at.day += interval * 7 - begin;
                self.at.weekday = self.rule.week_start;
            }
            Frequency::Daily => self.at.day += interval,
            Frequency::Hourly => self.advance_hour()?,
            Frequency::Minutely => self.advance_minute()?,
            Frequency::Secondly => self.advance_second()?,
        }
        if self.rule.frequency >= Frequency::Hourly {
            self.times = self.times_here()?;
        }
        self.carry_days()
    }

    fn advance_hour(&mut self) -> Result<(), ScheduleError> {
        let interval = self.rule.interval;
        if self.filtered {
            self.at.hour += (23 - self.at.hour).checked_div_euclid(interval).ok_or_else(empty_rule)? * interval;
        }
        let (days, hour, additions) = next_value(self.at.hour, interval, &self.rule.by_hour, 24)?;
        self.spend(additions)?;
        self.at.hour = hour;
        self.at.day += days;
        Ok(())
    }

    fn advance_minute(&mut self) -> Result<(), ScheduleError> {
        let interval = self.rule.interval;
        if self.filtered {
            let left = 1_439 - (self.at.hour * 60 + self.at.minute);
            self.at.minute += left.checked_div_euclid(interval).ok_or_else(empty_rule)? * interval;
        }
        for _ in 0..1_440 / gcd(interval.abs(), 1_440) {
            let (hours, minute, additions) = next_value(self.at.minute, interval, &self.rule.by_minute, 60)?;
            self.spend(additions)?;
            self.at.minute = minute;
            self.at.day += (self.at.hour + hours).div_euclid(24);
            self.at.hour = (self.at.hour + hours).rem_euclid(24);
            if allows(&self.rule.by_hour, self.at.hour) {
                return Ok(());
            }
        }
        Err(empty_rule())
    }

    fn advance_second(&mut self) -> Result<(), ScheduleError> {
        let interval = self.rule.interval;
        if self.filtered {
            let left = 86_399 - (self.at.hour * 3_600 + self.at.minute * 60 + self.at.second);
            self.at.second += left.checked_div_euclid(interval).ok_or_else(empty_rule)? * interval;
        }
        for _ in 0..86_400 / gcd(interval.abs(), 86_400) {
            let (minutes, second, additions) = next_value(self.at.second, interval, &self.rule.by_second, 60)?;
            self.spend(additions)?;
            self.at.second = second;
            let minutes = self.at.minute + minutes;
            self.at.minute = minutes.rem_euclid(60);
            let hours = self.at.hour + minutes.div_euclid(60);
            self.at.hour = hours.rem_euclid(24);
            self.at.day += hours.div_euclid(24);
            if allows(&self.rule.by_hour, self.at.hour)
                && allows(&self.rule.by_minute, self.at.minute)
                && allows(&self.rule.by_second, self.at.second)
            {
                return Ok(());
            }
        }
        Err(empty_rule())
    }

    /// Brings a day beyond its month into the calendar.
    fn carry_days(&mut self) -> Result<(), ScheduleError> {
        while self.at.day > 28 {
            let length = month_length(self.at.year, self.at.month)?;
            if self.at.day <= length {
                break;
            }
            self.spend(1)?;
            self.at.day -= length;
            self.at.month += 1;
            if self.at.month == 13 {
                self.at.month = 1;
                self.at.year += 1;
                if self.at.year > 9999 {
                    self.done = true;
                    return Ok(());
                }
            }
        }
        self.rebuild()
    }
}

fn allows(list: &[i64], value: i64) -> bool {
    list.is_empty() || list.contains(&value)
}

/// Adds the interval until the value is in the list (or once, without a list); the carry, the value, the additions.
fn next_value(mut value: i64, interval: i64, list: &[i64], base: i64) -> Result<(i64, i64, u64), ScheduleError> {
    let mut carry = 0;
    for additions in 1..=base {
        carry += (value + interval).div_euclid(base);
        value = (value + interval).rem_euclid(base);
        if allows(list, value) {
            return Ok((carry, value, additions as u64));
        }
    }
    Err(empty_rule())
}

fn month_length(year: i64, month: i64) -> Result<i64, ScheduleError> {
    let date = i32::try_from(year).ok().and_then(|year| NaiveDate::from_ymd_opt(year, u32::try_from(month).ok()?, 1));
    date.map(|date| i64::from(date.num_days_in_month())).ok_or(ScheduleError::OutOfCalendar)
}
