//! Recurrence rules as dateutil's `rrulestr` understands them: text to rules.
//!
//! Promises dateutil's grammar (one `RRULE`, or lines of `DTSTART`, `RRULE`, `RDATE`, `EXRULE`, `EXDATE`) and its
//! error texts. Times are wall-clock: the schedule's timezone is put on afterwards, whatever offset the text had.
//! Dates inside are ISO 8601 in the basic or extended form; dateutil's free-form dates are refused.
//! Walking a rule through time is `crate::schedule::rrule`.

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike, Utc};

use super::zone_named;

/// Longest rule accepted, in characters: about a year of `RDATE`s.
pub const RRULE_CHARACTERS_MAX: usize = 6500;

/// How often; ordered as dateutil orders them, so `freq >= Hourly` means "below a day".
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Frequency {
    /// Every `interval` years.
    Yearly,
    /// Every `interval` months.
    Monthly,
    /// Every `interval` weeks.
    Weekly,
    /// Every `interval` days.
    Daily,
    /// Every `interval` hours.
    Hourly,
    /// Every `interval` minutes.
    Minutely,
    /// Every `interval` seconds.
    Secondly,
}

/// Why a rule was refused; the text is dateutil's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RRuleError {
    /// The text could not be read.
    #[error("{0}")]
    Syntax(String),
    /// A `BYHOUR`, `BYMINUTE` or `BYSECOND` that the interval never meets from this start.
    #[error("Invalid rrule byxxx generates an empty set.")]
    EmptySet,
}

fn syntax<T>(text: impl Into<String>) -> Result<T, RRuleError> {
    Err(RRuleError::Syntax(text.into()))
}

/// A rule as written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// How often.
    pub frequency: Frequency,
    /// Periods from one to the next; dateutil accepts any integer.
    pub interval: i64,
    /// First day of the week, Monday is 0.
    pub week_start: i64,
    /// At most so many dates, counted from the start.
    pub count: Option<i64>,
    /// No date after this; whether it carried an offset.
    pub until: Option<(NaiveDateTime, bool)>,
    /// `BYSETPOS`.
    pub by_set_position: Option<Vec<i64>>,
    /// `BYMONTH`.
    pub by_month: Option<Vec<i64>>,
    /// `BYMONTHDAY`.
    pub by_month_day: Option<Vec<i64>>,
    /// `BYYEARDAY`.
    pub by_year_day: Option<Vec<i64>>,
    /// `BYEASTER`: days from Easter Sunday.
    pub by_easter: Option<Vec<i64>>,
    /// `BYWEEKNO`.
    pub by_week_number: Option<Vec<i64>>,
    /// `BYDAY`: weekday (Monday is 0) and its occurrence, if given.
    pub by_weekday: Option<Vec<(i64, Option<i64>)>>,
    /// `BYHOUR`.
    pub by_hour: Option<Vec<i64>>,
    /// `BYMINUTE`.
    pub by_minute: Option<Vec<i64>>,
    /// `BYSECOND`.
    pub by_second: Option<Vec<i64>>,
}

/// A parsed text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recurrence {
    /// `DTSTART`, and whether it carried an offset or a known `TZID`.
    pub start: Option<(NaiveDateTime, bool)>,
    /// The rules; exactly one unless `set`.
    pub rules: Vec<Rule>,
    /// Rules whose dates are taken out.
    pub excluded_rules: Vec<Rule>,
    /// Single dates.
    pub dates: Vec<NaiveDateTime>,
    /// Single dates taken out.
    pub excluded_dates: Vec<NaiveDateTime>,
    /// Whether dateutil makes a set of it rather than a single rule.
    pub set: bool,
}

/// A rule with all that follows from its start filled in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AnchoredRule {
    /// First possible date, whole seconds.
    pub start: NaiveDateTime,
    /// See [`Rule::frequency`].
    pub frequency: Frequency,
    /// See [`Rule::interval`].
    pub interval: i64,
    /// See [`Rule::week_start`].
    pub week_start: i64,
    /// See [`Rule::count`].
    pub count: Option<i64>,
    /// See [`Rule::until`].
    pub until: Option<NaiveDateTime>,
    /// Empty when absent, as all the lists below.
    pub by_set_position: Vec<i64>,
    /// Months.
    pub by_month: Vec<i64>,
    /// Days from the beginning of a month.
    pub by_month_day: Vec<i64>,
    /// Days from the end of a month, negative.
    pub by_negative_month_day: Vec<i64>,
    /// Days of the year, negative from its end.
    pub by_year_day: Vec<i64>,
    /// Days from Easter Sunday.
    pub by_easter: Vec<i64>,
    /// ISO-like week numbers.
    pub by_week_number: Vec<i64>,
    /// Weekdays.
    pub by_weekday: Vec<i64>,
    /// Weekdays with their occurrence in the month or year.
    pub by_nth_weekday: Vec<(i64, i64)>,
    /// Hours.
    pub by_hour: Vec<i64>,
    /// Minutes.
    pub by_minute: Vec<i64>,
    /// Seconds.
    pub by_second: Vec<i64>,
    /// Times of a day, ascending; empty for frequencies below a day.
    pub times: Vec<NaiveTime>,
}

/// The start dateutil is given when the text has none.
pub fn legacy_start() -> NaiveDateTime {
    NaiveDate::from_ymd_opt(2020, 1, 1).expect("a date of the calendar").and_time(NaiveTime::MIN)
}

/// Reads and checks a text as the API does when a schedule is created.
///
/// A rule without `DTSTART` is checked as dateutil does with the present time, except that a set emptied by that
/// accident of time is let pass here (it depends on the hour at which one looks) and refused when dates are asked.
///
/// # Errors
/// [`RRuleError::Syntax`] with dateutil's text.
pub fn validate(text: &str) -> Result<(), RRuleError> {
    let recurrence = parse(text)?;
    for rule in recurrence.rules.iter().chain(&recurrence.excluded_rules) {
        let aware = recurrence.start.map_or_else(|| rule.until.is_some_and(|(_, aware)| aware), |(_, aware)| aware);
        let start = recurrence.start.map_or_else(legacy_start, |(start, _)| start);
        match rule.anchor(start, aware) {
            Err(RRuleError::EmptySet) if recurrence.start.is_none() => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Puts a `DTSTART` in front of a rule without one, as the API does before it stores a schedule.
///
/// Rules by the minute or second without `COUNT` get a recent start in the same phase, so that nobody needs to walk
/// from 2020; all others get 2020-01-01. Unreadable text and text with `DTSTART` is returned unchanged.
pub fn normalize(text: &str, timezone: Option<&str>, now: DateTime<Utc>) -> String {
    if text.to_uppercase().contains("DTSTART") {
        return text.to_owned();
    }
    let legacy = legacy_start();
    let Ok(recurrence) = parse(text) else { return text.to_owned() };
    if recurrence.rules.iter().chain(&recurrence.excluded_rules).any(|rule| rule.anchor(legacy, false).is_err()) {
        return text.to_owned();
    }
    let start = recent_start(&recurrence, timezone, now).unwrap_or(legacy);
    format!("DTSTART:{}\n{text}", start.format("%Y%m%dT%H%M%S"))
}

fn recent_start(recurrence: &Recurrence, timezone: Option<&str>, now: DateTime<Utc>) -> Option<NaiveDateTime> {
    let [rule] = recurrence.rules.as_slice() else { return None };
    let unit = match rule.frequency {
        Frequency::Secondly => 1,
        Frequency::Minutely => 60,
        _ => return None,
    };
    if recurrence.set || rule.count.is_some() {
        return None;
    }
    let period = rule.interval.checked_mul(unit).filter(|period| *period > 0)?;
    let zone = timezone.and_then(zone_named).unwrap_or(chrono_tz::UTC);
    let elapsed = (now.with_timezone(&zone).naive_local() - legacy_start()).num_seconds();
    if elapsed <= 0 {
        return None;
    }
    legacy_start().checked_add_signed(TimeDelta::try_seconds(elapsed / period * period)?)
}

/// Reads a text.
///
/// # Errors
/// [`RRuleError::Syntax`] with dateutil's text.
pub fn parse(original: &str) -> Result<Recurrence, RRuleError> {
    let text = original.to_uppercase();
    if text.trim().is_empty() {
        return syntax("empty string");
    }
    let lines: Vec<&str> = text.split_whitespace().collect();
    let mut recurrence = Recurrence {
        start: None,
        rules: Vec::new(),
        excluded_rules: Vec::new(),
        dates: Vec::new(),
        excluded_dates: Vec::new(),
        set: false,
    };
    if let [line] = lines.as_slice()
        && (!text.contains(':') || text.starts_with("RRULE:"))
    {
        recurrence.rules.push(parse_rule(line)?);
        return Ok(recurrence);
    }
    let mut excluded = Vec::new();
    let mut dates = Vec::new();
    let mut excluded_rules = Vec::new();
    let mut rules = Vec::new();
    for line in lines {
        let (property, value) = line.split_once(':').unwrap_or(("RRULE", line));
        let mut parameters = property.split(';');
        let name = parameters.next().unwrap_or_default();
        let mut refuse = |what: &str, allowed: &str| match parameters.find(|parameter| *parameter != allowed) {
            Some(parameter) => syntax(format!("unsupported {what} parm: {parameter}")),
            None => Ok(()),
        };
        match name {
            "RRULE" => {
                refuse("RRULE", "\0")?;
                rules.push(value);
            }
            "EXRULE" => {
                refuse("EXRULE", "\0")?;
                excluded_rules.push(value);
            }
            "RDATE" => {
                refuse("RDATE", "VALUE=DATE-TIME")?;
                dates.push(value);
            }
            "EXDATE" => excluded.extend(parse_dates(value, parameters, original)?.into_iter().map(|(at, _)| at)),
            "DTSTART" => match parse_dates(value, parameters, original)?.as_slice() {
                [one] => recurrence.start = Some(*one),
                _ => return syntax(format!("Multiple DTSTART values specified:{value}")),
            },
            other => return syntax(format!("unsupported property: {other}")),
        }
    }
    recurrence.set = rules.len() > 1 || !dates.is_empty() || !excluded_rules.is_empty() || !excluded.is_empty();
    if !recurrence.set && rules.is_empty() {
        return syntax("list index out of range");
    }
    recurrence.rules = rules.into_iter().map(parse_rule).collect::<Result<_, _>>()?;
    for date in dates.iter().flat_map(|value| value.split(',')) {
        recurrence.dates.push(parse_date(date)?.0);
    }
    recurrence.excluded_rules = excluded_rules.into_iter().map(parse_rule).collect::<Result<_, _>>()?;
    recurrence.excluded_dates = excluded;
    Ok(recurrence)
}

fn pair(text: &str, separator: char) -> Result<(&str, &str), RRuleError> {
    match text.split(separator).collect::<Vec<_>>().as_slice() {
        [name, value] => Ok((name, value)),
        [_] => syntax("not enough values to unpack (expected 2, got 1)"),
        _ => syntax("too many values to unpack (expected 2)"),
    }
}

fn parse_rule(line: &str) -> Result<Rule, RRuleError> {
    let value = if line.contains(':') {
        let (name, value) = pair(line, ':')?;
        if name != "RRULE" {
            return syntax("unknown parameter name");
        }
        value
    } else {
        line
    };
    let mut frequency = None;
    let mut rule = Rule {
        frequency: Frequency::Yearly,
        interval: 1,
        week_start: 0,
        count: None,
        until: None,
        by_set_position: None,
        by_month: None,
        by_month_day: None,
        by_year_day: None,
        by_easter: None,
        by_week_number: None,
        by_weekday: None,
        by_hour: None,
        by_minute: None,
        by_second: None,
    };
    for part in value.split(';') {
        let (name, value) = pair(part, '=')?;
        let known = match name {
            "FREQ" => frequency_named(value).map(|named| frequency = Some(named)),
            "INTERVAL" => integer(value).map(|number| rule.interval = number),
            "COUNT" => integer(value).map(|number| rule.count = Some(number)),
            "WKST" => weekday_named(value).map(|day| rule.week_start = day),
            "UNTIL" => parse_date(value).ok().map(|until| rule.until = Some(until)),
            "BYDAY" | "BYWEEKDAY" => weekdays(value).map(|list| rule.by_weekday = Some(list)),
            _ => {
                let list = match name {
                    "BYSETPOS" => &mut rule.by_set_position,
                    "BYMONTH" => &mut rule.by_month,
                    "BYMONTHDAY" => &mut rule.by_month_day,
                    "BYYEARDAY" => &mut rule.by_year_day,
                    "BYEASTER" => &mut rule.by_easter,
                    "BYWEEKNO" => &mut rule.by_week_number,
                    "BYHOUR" => &mut rule.by_hour,
                    "BYMINUTE" => &mut rule.by_minute,
                    "BYSECOND" => &mut rule.by_second,
                    other => return syntax(format!("unknown parameter '{other}'")),
                };
                value.split(',').map(integer).collect::<Option<Vec<_>>>().map(|numbers| *list = Some(numbers))
            }
        };
        if known.is_none() {
            return syntax(format!("invalid '{name}': {value}"));
        }
    }
    let Some(named) = frequency else {
        return syntax("rrule.__init__() missing 1 required positional argument: 'freq'");
    };
    rule.frequency = named;
    Ok(rule)
}

fn integer(text: &str) -> Option<i64> {
    // Small enough that no sum or product below can overflow.
    text.trim().parse().ok().filter(|number: &i64| number.abs() <= 1 << 40)
}

fn frequency_named(text: &str) -> Option<Frequency> {
    Some(match text {
        "YEARLY" => Frequency::Yearly,
        "MONTHLY" => Frequency::Monthly,
        "WEEKLY" => Frequency::Weekly,
        "DAILY" => Frequency::Daily,
        "HOURLY" => Frequency::Hourly,
        "MINUTELY" => Frequency::Minutely,
        "SECONDLY" => Frequency::Secondly,
        _ => return None,
    })
}

fn weekday_named(text: &str) -> Option<i64> {
    ["MO", "TU", "WE", "TH", "FR", "SA", "SU"].iter().position(|name| *name == text).map(|at| at as i64)
}

/// `MO`, `+1MO`, `-1FR`, `MO(+1)`.
fn weekdays(text: &str) -> Option<Vec<(i64, Option<i64>)>> {
    text.split(',')
        .map(|item| {
            let (day, nth) = if let Some((day, rest)) = item.split_once('(') {
                (day, Some(integer(rest.get(..rest.len().checked_sub(1)?)?)?))
            } else {
                let at = item.find(|c: char| !"+-0123456789".contains(c))?;
                let nth = if at == 0 { None } else { Some(integer(&item[..at])?) };
                (&item[at..], nth)
            };
            (nth != Some(0)).then_some(())?;
            Some((weekday_named(day)?, nth))
        })
        .collect()
}

fn parse_dates<'a>(
    value: &str,
    parameters: impl Iterator<Item = &'a str>,
    original: &str,
) -> Result<Vec<(NaiveDateTime, bool)>, RRuleError> {
    let mut zoned = false;
    let mut typed = false;
    for parameter in parameters {
        if let Some(name) = parameter.strip_prefix("TZID=") {
            // The text was made upper case; the name as written is what a timezone is looked up by.
            let written = original
                .match_indices("TZID=")
                .filter_map(|(at, _)| original[at + 5..].split_once(':'))
                .map(|(name, _)| name)
                .find(|written| written.to_uppercase() == name);
            zoned = written.is_some_and(|name| zone_named(name).is_some());
        } else if !matches!(parameter, "VALUE=DATE-TIME" | "VALUE=DATE") {
            return syntax(format!("unsupported parm: {parameter}"));
        } else if std::mem::replace(&mut typed, true) {
            return syntax(format!("Duplicate value parameter found in: {parameter}"));
        }
    }
    let mut dates = Vec::new();
    for text in value.split(',') {
        let (date, aware) = parse_date(text)?;
        if zoned && aware {
            return syntax("DTSTART/EXDATE specifies multiple timezone");
        }
        dates.push((date, aware || zoned));
    }
    Ok(dates)
}

/// A basic or extended ISO 8601 date or time; tells whether it had an offset, and drops it.
fn parse_date(text: &str) -> Result<(NaiveDateTime, bool), RRuleError> {
    let unknown = || RRuleError::Syntax(format!("Unknown string format: {text}"));
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time),
        None if text.len() > 8 && text.bytes().all(|b| b.is_ascii_digit()) => text.split_at(8),
        None => (text, ""),
    };
    let date = NaiveDate::parse_from_str(date, if date.contains('-') { "%Y-%m-%d" } else { "%Y%m%d" })
        .ok()
        .filter(|parsed| (1..=9999).contains(&parsed.year()) && matches!(date.len(), 8 | 10))
        .ok_or_else(unknown)?;
    let (time, aware) = match time.strip_suffix('Z') {
        Some(time) => (time, true),
        None => match time.find(['+', '-']) {
            Some(at) if time[at + 1..].bytes().all(|b| b.is_ascii_digit() || b == b':') => (&time[..at], true),
            Some(_) => return Err(unknown()),
            None => (time, false),
        },
    };
    let time = match time {
        "" if !aware => NaiveTime::MIN,
        time => {
            let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
            let digits: String = whole.chars().filter(|c| *c != ':').collect();
            let number = |at: usize| digits.get(at..at + 2).and_then(|two| two.parse::<u32>().ok());
            if !matches!(digits.len(), 2 | 4 | 6) || fraction.len() > 6 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(unknown());
            }
            let micro = format!("{fraction:0<6}").parse().map_err(|_| unknown())?;
            NaiveTime::from_hms_micro_opt(number(0).unwrap_or(99), number(2).unwrap_or(0), number(4).unwrap_or(0), micro)
                .ok_or_else(unknown)?
        }
    };
    Ok((date.and_time(time), aware))
}

fn sorted(list: Option<&Vec<i64>>) -> Vec<i64> {
    list.map(|list| list.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()).unwrap_or_default()
}

/// The members of `list` that steps of `interval` can reach from `start`, modulo `base`.
fn reachable(list: Vec<i64>, start: i64, interval: i64, base: i64) -> Result<Vec<i64>, RRuleError> {
    let common = gcd(interval.abs(), base);
    let list: Vec<i64> = list.into_iter().filter(|number| (number - start).rem_euclid(common) == 0).collect();
    if list.is_empty() { Err(RRuleError::EmptySet) } else { Ok(list) }
}

/// Greatest common divisor of two numbers that are not negative.
pub fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Rule {
    /// Fixes the rule to its start, filling in what the start implies.
    ///
    /// `aware` says whether the start carries an offset; `UNTIL` must agree with it.
    ///
    /// # Errors
    /// What dateutil's constructor refuses.
    pub fn anchor(&self, start: NaiveDateTime, aware: bool) -> Result<AnchoredRule, RRuleError> {
        if self.until.is_some_and(|(_, until_aware)| until_aware != aware) {
            return syntax("RRULE UNTIL values must be specified in UTC when DTSTART is timezone-aware");
        }
        let start = start.with_nanosecond(0).expect("zero is a nanosecond of any second");
        let positions = self.by_set_position.clone().unwrap_or_default();
        if positions.iter().any(|position| *position == 0 || position.abs() > 366) {
            return syntax("bysetpos must be between 1 and 366, or between -366 and -1");
        }
        let (mut month, mut month_day, mut weekday) = (self.by_month.clone(), self.by_month_day.clone(), self.by_weekday.clone());
        if self.by_week_number.is_none()
            && self.by_year_day.is_none()
            && self.by_easter.is_none()
            && month_day.is_none()
            && weekday.is_none()
        {
            match self.frequency {
                Frequency::Yearly => {
                    month = month.or_else(|| Some(vec![i64::from(start.month())]));
                    month_day = Some(vec![i64::from(start.day())]);
                }
                Frequency::Monthly => month_day = Some(vec![i64::from(start.day())]),
                Frequency::Weekly => weekday = Some(vec![(i64::from(start.weekday().num_days_from_monday()), None)]),
                _ => {}
            }
        }
        let month_day = sorted(month_day.as_ref());
        let (mut by_weekday, mut by_nth_weekday) = (BTreeSet::new(), BTreeSet::new());
        for (day, nth) in weekday.unwrap_or_default() {
            match nth.filter(|_| self.frequency <= Frequency::Monthly) {
                Some(nth) => drop(by_nth_weekday.insert((day, nth))),
                None => drop(by_weekday.insert(day)),
            }
        }
        let clock = [
            (&self.by_hour, Frequency::Hourly, i64::from(start.hour()), 24),
            (&self.by_minute, Frequency::Minutely, i64::from(start.minute()), 60),
            (&self.by_second, Frequency::Secondly, i64::from(start.second()), 60),
        ];
        let mut lists = Vec::with_capacity(3);
        for (list, level, at, base) in clock {
            lists.push(match list {
                None if self.frequency < level => vec![at],
                None => Vec::new(),
                Some(_) if self.frequency == level => reachable(sorted(list.as_ref()), at, self.interval, base)?,
                Some(_) => sorted(list.as_ref()),
            });
        }
        let [by_hour, by_minute, by_second] = <[Vec<i64>; 3]>::try_from(lists).expect("three were pushed");
        let times = if self.frequency >= Frequency::Hourly { Vec::new() } else { times(&by_hour, &by_minute, &by_second)? };
        Ok(AnchoredRule {
            start,
            frequency: self.frequency,
            interval: self.interval,
            week_start: self.week_start,
            count: self.count,
            until: self.until.map(|(until, _)| until),
            by_set_position: positions,
            by_month: sorted(month.as_ref()),
            by_negative_month_day: month_day.iter().copied().filter(|day| *day < 0).collect(),
            by_month_day: month_day.into_iter().filter(|day| *day > 0).collect(),
            by_year_day: sorted(self.by_year_day.as_ref()),
            by_easter: sorted(self.by_easter.as_ref()),
            by_week_number: sorted(self.by_week_number.as_ref()),
            by_weekday: by_weekday.into_iter().collect(),
            by_nth_weekday: by_nth_weekday.into_iter().collect(),
            by_hour,
            by_minute,
            by_second,
            times,
        })
    }
}

/// Every combination, ascending.
///
/// # Errors
/// A number which no clock shows, with Python's text.
pub fn times(hours: &[i64], minutes: &[i64], seconds: &[i64]) -> Result<Vec<NaiveTime>, RRuleError> {
    for (values, end, name) in [(hours, 24, "hour"), (minutes, 60, "minute"), (seconds, 60, "second")] {
        if values.iter().any(|value| !(0..end).contains(value)) {
            return syntax(format!("{name} must be in 0..{}", end - 1));
        }
    }
    let mut times: Vec<NaiveTime> = hours
        .iter()
        .flat_map(|hour| minutes.iter().flat_map(move |minute| seconds.iter().map(move |second| (hour, minute, second))))
        .filter_map(|(hour, minute, second)| NaiveTime::from_hms_opt(*hour as u32, *minute as u32, *second as u32))
        .collect();
    times.sort_unstable();
    Ok(times)
}
