//! The filters of Python's `humanize` that templates of the reference have: sizes, numbers, times in words.

use chrono::TimeDelta;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind};

use super::objects::{Delta, Moment};
use crate::clock::Timestamp;

/// Adds them; times are told as seen from `now`.
pub fn add(environment: &mut Environment<'_>, now: Timestamp) {
    environment.add_filter("humanize_naturaldelta", |value: Value| seconds(&value, None).map(|seconds| natural_delta(seconds.abs())));
    environment.add_filter("humanize_naturaltime", move |value: Value| {
        let past = seconds(&value, Some(now))?;
        let words = natural_delta(past.abs());
        Ok::<_, Error>(match words.as_str() {
            "a moment" => "now".to_owned(),
            _ if past < 0.0 => format!("{words} from now"),
            _ => format!("{words} ago"),
        })
    });
    environment.add_filter("humanize_naturalday", move |value: Value| moment(&value).map(|at| natural_day(at, now)));
    environment.add_filter("humanize_naturaldate", move |value: Value| {
        let at = moment(&value)?;
        let far = (at.date_naive() - now.date_naive()).num_days().abs() >= FAR_DAYS;
        Ok::<_, Error>(if far { at.format("%b %d %Y").to_string() } else { natural_day(at, now) })
    });
    environment.add_filter("humanize_precisedelta", |value: Value| seconds(&value, None).map(|seconds| precise_delta(seconds.abs())));
    environment.add_filter("humanize_naturalsize", |value: Value, named: minijinja::value::Kwargs| {
        let (binary, bytes) = (named.get::<Option<bool>>("binary")?.unwrap_or(false), number(&value)?);
        named.assert_all_used()?;
        Ok::<_, Error>(natural_size(bytes, binary))
    });
    environment.add_filter("humanize_intcomma", |value: Value| number(&value).map(|_| comma(&super::python::text(&value))));
    environment.add_filter("humanize_intword", |value: Value| number(&value).map(|number| in_words(number, &value)));
    environment.add_filter("humanize_ordinal", |value: Value| {
        let number = number(&value)? as i64;
        let ending = match (number.abs() % 100, number.abs() % 10) {
            (11..=13, _) => "th",
            (_, 1) => "st",
            (_, 2) => "nd",
            (_, 3) => "rd",
            _ => "th",
        };
        Ok::<_, Error>(format!("{number}{ending}"))
    });
    environment.add_filter("humanize_apnumber", |value: Value| {
        const WORDS: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
        let number = number(&value)? as i64;
        let word = usize::try_from(number).ok().and_then(|number| WORDS.get(number));
        Ok::<_, Error>(word.map_or_else(|| number.to_string(), |word| (*word).to_owned()))
    });
}

/// Days from which on a date is told with its year: five months.
const FAR_DAYS: i64 = 5 * 365 / 12;

fn number(value: &Value) -> Result<f64, Error> {
    match value.as_str() {
        Some(text) => text.trim().replace(',', "").parse().map_err(|_| Error::new(ErrorKind::InvalidOperation, "not a number")),
        None => f64::try_from(value.clone()),
    }
}

fn moment(value: &Value) -> Result<Timestamp, Error> {
    let found = value.downcast_object_ref::<Moment>().map(|moment| moment.0.to_utc());
    found.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "not a moment"))
}

/// Of a duration or a number; of a moment, how long it was ago.
fn seconds(value: &Value, now: Option<Timestamp>) -> Result<f64, Error> {
    if let Some(delta) = value.downcast_object_ref::<Delta>() {
        return Ok(delta.seconds());
    }
    if let (Some(now), Some(at)) = (now, value.downcast_object_ref::<Moment>()) {
        return Ok((now - at.0.to_utc()).num_microseconds().unwrap_or_default() as f64 / 1e6);
    }
    number(value)
}

fn plural(count: i64, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

fn natural_delta(seconds: f64) -> String {
    let whole = seconds as i64;
    let (days, rest) = (whole / 86_400, whole % 86_400);
    let (years, days) = (days / 365, days % 365);
    let months = (days as f64 / 30.5) as i64;
    match (years, days) {
        (0, 0) => match rest {
            0 => "a moment".to_owned(),
            1 => "a second".to_owned(),
            2..60 => format!("{rest} seconds"),
            60..120 => "a minute".to_owned(),
            120..3600 => format!("{} minutes", rest / 60),
            3600..7200 => "an hour".to_owned(),
            _ => format!("{} hours", rest / 3600),
        },
        (0, 1) => "a day".to_owned(),
        (0, _) => match months {
            0 => format!("{days} days"),
            1 => "a month".to_owned(),
            months => format!("{months} months"),
        },
        (1, 0) => "a year".to_owned(),
        (1, _) if months == 0 => format!("1 year, {}", plural(days, "day")),
        (1, _) => format!("1 year, {}", plural(months, "month")),
        (years, _) => format!("{} years", comma(&years.to_string())),
    }
}

fn natural_day(at: Timestamp, now: Timestamp) -> String {
    match (at.date_naive() - now.date_naive()).num_days() {
        0 => "today".to_owned(),
        1 => "tomorrow".to_owned(),
        -1 => "yesterday".to_owned(),
        _ => at.format("%b %d").to_string(),
    }
}

fn precise_delta(seconds: f64) -> String {
    let delta = TimeDelta::microseconds((seconds * 1e6).round() as i64);
    let mut days = delta.num_days();
    let years = days / 365;
    days %= 365;
    let months = (days as f64 / 30.5) as i64;
    days = (days as f64 - months as f64 * 30.5) as i64;
    let rest = seconds % 86_400.0;
    let last = (rest % 60.0 * 100.0).round() / 100.0;
    let mut parts = Vec::new();
    for (count, word) in
        [(years, "year"), (months, "month"), (days, "day"), ((rest / 3600.0) as i64, "hour"), ((rest / 60.0) as i64 % 60, "minute")]
    {
        if count > 0 {
            parts.push(plural(count, word));
        }
    }
    if last > 0.0 || parts.is_empty() {
        parts.push(if last.fract() == 0.0 { plural(last as i64, "second") } else { format!("{last:.2} seconds") });
    }
    match parts.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

fn natural_size(bytes: f64, binary: bool) -> String {
    let (base, suffixes) = if binary {
        (1024.0, [" KiB", " MiB", " GiB", " TiB", " PiB", " EiB", " ZiB", " YiB"])
    } else {
        (1000.0, [" kB", " MB", " GB", " TB", " PB", " EB", " ZB", " YB"])
    };
    if bytes.abs() < base {
        return plural(bytes as i64, "Byte");
    }
    let power = (bytes.abs().log(base) as usize).clamp(1, suffixes.len());
    format!("{:.1}{}", bytes / base.powi(power as i32), suffixes[power - 1])
}

fn comma(number: &str) -> String {
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(whole, fraction)| (whole, Some(fraction)));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return number.to_owned();
    }
    let mut out = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

fn in_words(number: f64, value: &Value) -> String {
    const WORDS: [&str; 6] = ["thousand", "million", "billion", "trillion", "quadrillion", "quintillion"];
    if number.abs() < 1000.0 {
        return super::python::text(value);
    }
    let power = ((number.abs().log10() / 3.0) as usize).clamp(1, WORDS.len());
    format!("{:.1} {}", number / 1000_f64.powi(power as i32), WORDS[power - 1])
}
