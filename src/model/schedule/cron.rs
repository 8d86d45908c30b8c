//! Cron expressions as croniter understands them: text to fields.
//!
//! Promises to accept and refuse what croniter 6 accepts and refuses (five to seven columns, names, steps, `L`,
//! `#`, `?`, the `@hourly` family) and to expand to the same values. Random (`R`) and hashed (`H`) expressions are
//! refused in every form: a replacement server must compute the same times as its twin. Walking the fields through
//! time is `crate::schedule::cron`.

use std::collections::{BTreeMap, BTreeSet};

/// Position of a column; seconds come sixth and years seventh, as in croniter.
pub const MINUTE: usize = 0;
/// See [`MINUTE`].
pub const HOUR: usize = 1;
/// See [`MINUTE`].
pub const DAY: usize = 2;
/// See [`MINUTE`].
pub const MONTH: usize = 3;
/// See [`MINUTE`].
pub const WEEKDAY: usize = 4;
/// See [`MINUTE`].
pub const SECOND: usize = 5;
/// See [`MINUTE`].
pub const YEAR: usize = 6;

const RANGES: [(i32, i32); 7] = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6), (0, 59), (1970, 2099)];
const WHOLE: [usize; 7] = [60, 24, 31, 12, 7, 60, 130];
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const ALIASES: [(&str, &str); 7] = [
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];
/// Longest expression looked at. Valid ones are far shorter; this bounds the work on hostile ones.
pub const EXPRESSION_BYTES_MAX: usize = 4096;

/// Why an expression was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CronError {
    /// Not a cron expression.
    #[error("not a valid cron expression")]
    Syntax,
    /// Contains an `R` or a bare `H`.
    #[error("random and hashed expressions are unsupported")]
    Random,
}

/// One column. `any` wins over `values`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Field {
    /// The column holds `*` (or all its values, where that means the same).
    pub any: bool,
    /// Allowed values in ascending order.
    pub values: Vec<i32>,
    /// The last day of the month; only in the day column, and ordered after all values.
    pub last: bool,
}

impl Field {
    /// The column that allows everything.
    pub fn any() -> Self {
        Self { any: true, ..Self::default() }
    }
}

/// Which occurrence of a weekday in its month.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Nth {
    /// 1 to 5.
    Number(u8),
    /// The last one.
    Last,
}

/// An expanded expression.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CronExpression {
    /// 5, 6 (with seconds) or 7 (and years) columns.
    pub fields: Vec<Field>,
    /// Weekday (Sunday is 0) to its wanted occurrences in a month; empty when no `#` or `L` weekday was given.
    pub nth: BTreeMap<i32, BTreeSet<Nth>>,
}

/// Parses an expression.
///
/// # Errors
/// [`CronError`] where croniter refuses, and for every random or hashed form.
pub fn parse(expression: &str) -> Result<CronExpression, CronError> {
    if expression.len() > EXPRESSION_BYTES_MAX {
        return Err(CronError::Syntax);
    }
    let lower = expression.to_lowercase();
    let text = ALIASES.iter().find(|(name, _)| *name == lower).map_or(lower.as_str(), |(_, text)| text);
    let columns: Vec<&str> = text.split_whitespace().collect();
    if !(5..=7).contains(&columns.len()) {
        return Err(CronError::Syntax);
    }
    let mut nth = BTreeMap::new();
    let mut random = false;
    let mut fields = Vec::with_capacity(columns.len());
    for (index, column) in columns.iter().enumerate() {
        match hash_form(column) {
            Some('h') => return Err(CronError::Syntax),
            Some(_) => {
                random = true;
                fields.push(Field::any());
            }
            None => fields.push(expand(index, column, &columns, &mut nth)?),
        }
    }
    if !nth.is_empty() {
        let weekdays = &fields[WEEKDAY];
        let mixed = weekdays.values.iter().any(|day| !nth.contains_key(day));
        if mixed && weekdays.values.len() + usize::from(weekdays.any) != WHOLE[WEEKDAY] {
            return Err(CronError::Syntax);
        }
    }
    if random { Err(CronError::Random) } else { Ok(CronExpression { fields, nth }) }
}

/// `h`, `r(0-9)`, `h/5`, ...: the letter, when the column has that form.
fn hash_form(column: &str) -> Option<char> {
    let kind = column.chars().next().filter(|c| matches!(c, 'h' | 'r'))?;
    let mut rest = &column[1..];
    if let Some(inner) = rest.strip_prefix('(') {
        let (range, after) = inner.split_once(')')?;
        let (begin, end) = range.split_once('-')?;
        if !digits(begin) || !digits(end) {
            return None;
        }
        rest = after;
    }
    if let Some(divisor) = rest.strip_prefix('/') {
        return digits(divisor).then_some(kind);
    }
    rest.is_empty().then_some(kind)
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A term still to be looked at: the text between commas, or what a range came apart into.
struct Term {
    text: String,
    nth: Option<Nth>,
}

fn expand(index: usize, column: &str, columns: &[&str], nths: &mut BTreeMap<i32, BTreeSet<Nth>>) -> Result<Field, CronError> {
    let mut column = column;
    if column.contains('?') {
        if column != "?" || !matches!(index, DAY | WEEKDAY) {
            return Err(CronError::Syntax);
        }
        column = "*";
    }
    let mut values = BTreeSet::new();
    let (mut any, mut last) = (false, false);
    let mut terms: Vec<Term> = column.split(',').map(|text| Term { text: text.to_owned(), nth: None }).collect();
    while let Some(Term { mut text, mut nth }) = terms.pop() {
        if index == WEEKDAY && nth.is_none() {
            (text, nth) = weekday_occurrence(text)?;
        }
        let (min, max) = RANGES[index];
        if let Some((low, high, step)) = as_range(&text, min, max) {
            let numbers = range(index, columns.len(), low, high, step)?;
            // A range of weekdays keeps its `#n`; `L` never stands with a range.
            let nth = nth.filter(|nth| *nth != Nth::Last);
            terms.extend(numbers.into_iter().map(|number| Term { text: number.to_string(), nth }));
            continue;
        }
        if text == "*" {
            any = true;
            continue;
        }
        let number = name(index, &text)?;
        let Some(number) = number else {
            last = true;
            continue;
        };
        let number = alias(index, columns.len(), number);
        if number < min || number > max {
            return Err(CronError::Syntax);
        }
        values.insert(number);
        if let Some(nth) = nth {
            nths.entry(number).or_default().insert(nth);
        }
    }
    let mut field = Field { any, values: values.into_iter().collect(), last };
    if field.values.len() + usize::from(any) + usize::from(last) == WHOLE[index] {
        // All days named one by one are a wildcard only when the other day column is one as well, because
        // otherwise the two columns would no longer be joined by "or".
        let keep = (index == DAY && !columns[WEEKDAY].contains('*')) || (index == WEEKDAY && !columns[DAY].contains('*'));
        if !keep {
            field = Field::any();
        }
    }
    Ok(field)
}

/// Takes `2#3`, `mon-fri#1` and `l5` apart.
fn weekday_occurrence(text: String) -> Result<(String, Option<Nth>), CronError> {
    if let Some((head, number)) = text.rsplit_once('#') {
        let named = head
            .split_once('-')
            .is_some_and(|(a, b)| (WEEKDAYS.contains(&a) && WEEKDAYS.contains(&b)) || (MONTHS.contains(&a) && MONTHS.contains(&b)));
        let word = !head.is_empty() && head.chars().all(|c| c.is_alphanumeric() || c == '_');
        if digits(number) && (named || word) {
            return match number.parse::<u8>() {
                Ok(n @ 1..=5) => Ok((head.to_owned(), Some(Nth::Number(n)))),
                _ => Err(CronError::Syntax),
            };
        }
    } else if let Some(day) = text.strip_prefix('l').filter(|day| digits(day)) {
        return Ok((day.to_owned(), Some(Nth::Last)));
    }
    Ok((text, None))
}

/// `a-b/s`, `*/s` (which is `min-max/s`) and `a/s` (which is `a-max/s`).
fn as_range(text: &str, min: i32, max: i32) -> Option<(String, String, String)> {
    let split = |text: &str| -> Option<(String, String, String)> {
        let (low, rest) = text.split_once('-')?;
        let (high, step) = rest.split_once('/').map_or((rest, "1"), |(high, step)| (high, step));
        (!low.is_empty() && !high.is_empty() && !high.contains('-') && digits(step))
            .then(|| (low.to_owned(), high.to_owned(), step.to_owned()))
    };
    let whole = match text.strip_prefix("*/") {
        Some(step) if !step.is_empty() => format!("{min}-{max}/{step}"),
        _ => text.to_owned(),
    };
    split(&whole).or_else(|| {
        let (low, step) = text.rsplit_once('/')?;
        (!low.is_empty() && !step.is_empty()).then(|| split(&format!("{low}-{max}/{step}"))).flatten()
    })
}

fn range(index: usize, columns: usize, low: String, high: String, step: String) -> Result<Vec<i32>, CronError> {
    let high = if index == DAY && high == "l" { "31".to_owned() } else { high };
    let bound = |text: &str| name(index, text)?.ok_or(CronError::Syntax);
    let low = alias(index, columns, bound(&low)?);
    let high = alias(index, columns, bound(&high)?);
    let step: usize = step.parse().map_err(|_| CronError::Syntax)?;
    let (min, max) = RANGES[index];
    if low.max(high) > max || step == 0 {
        return Err(CronError::Syntax);
    }
    if low == high {
        return Ok((min..=max).step_by(step).collect());
    }
    Ok(if low > high {
        // Backwards: `sat-mon`, `nov-feb/2`. The step goes on over the seam, as croniter counts it.
        let mut numbers: Vec<i32> = (low..=max).step_by(step).collect();
        let reached = *numbers.last().ok_or(CronError::Syntax)?;
        if reached < min {
            return Err(CronError::Syntax);
        }
        let (unused, position, length) = ((max - reached) as usize, (reached - min) as usize, (max - min + 1) as usize);
        let skip = if position.saturating_add(step) > length && unused < step { step - unused } else { 0 };
        let first = i32::try_from(skip).ok().and_then(|skip| min.checked_add(skip)).ok_or(CronError::Syntax)?;
        numbers.extend((first..=high).step_by(step));
        numbers
    } else {
        (low..=high).step_by(step).collect()
    })
}

/// A number, a name of the column, or `None` for `l` in the day column.
fn name(index: usize, text: &str) -> Result<Option<i32>, CronError> {
    if digits(text) {
        return text.parse().map(Some).map_err(|_| CronError::Syntax);
    }
    let position = |names: &[&str]| names.iter().position(|name| *name == text).map(|at| at as i32);
    match index {
        DAY if text == "l" => Ok(None),
        MONTH => position(&MONTHS).map(|at| Some(at + 1)).ok_or(CronError::Syntax),
        WEEKDAY => position(&WEEKDAYS).map(Some).ok_or(CronError::Syntax),
        _ => Err(CronError::Syntax),
    }
}

/// Sunday as 7 in five columns, day 0 in six: croniter's exact set of exceptions.
fn alias(index: usize, columns: usize, number: i32) -> i32 {
    match (index, number, columns) {
        (WEEKDAY, 7, 5) => 0,
        (DAY, 0, 6) => 1,
        _ => number,
    }
}
