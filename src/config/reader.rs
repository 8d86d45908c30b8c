//! Reads single values out of a set of variables and gathers every problem instead of stopping at the first.
//!
//! Values are written as the reference's settings library reads them: `true`/`1`/`yes`/`on`, durations as seconds
//! (`90`, `1.5`), as `HH:MM:SS` (optionally after `N days,`) or as ISO 8601 (`PT15M`). An empty value counts as absent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::secret::Secret;

/// The variables a process was started with: name in upper case to value. Flags are put over the environment
/// under the name of their variable, so that there is one way in.
pub type Variables = BTreeMap<String, String>;

/// Reads values and remembers what was read and what was wrong.
pub struct Reader<'a> {
    variables: &'a Variables,
    read: BTreeSet<String>,
    problems: Vec<String>,
    notes: Vec<String>,
}

impl<'a> Reader<'a> {
    /// A reader over `variables`, with nothing read yet.
    pub fn new(variables: &'a Variables) -> Self {
        Self { variables, read: BTreeSet::new(), problems: Vec::new(), notes: Vec::new() }
    }

    /// The value under the first of `names` that is set, or `default`. A bad value is a problem and gives `default`.
    pub fn value<T: FromText>(&mut self, names: &[&str], default: T) -> T {
        self.optional(names).unwrap_or(default)
    }

    /// As [`Reader::value`], without a default.
    pub fn optional<T: FromText>(&mut self, names: &[&str]) -> Option<T> {
        let mut found: Option<(&str, &str)> = None;
        for name in names {
            self.read.insert((*name).to_owned());
            if found.is_none()
                && let Some(text) = self.variables.get(*name)
                && !text.trim().is_empty()
            {
                found = Some((name, text));
            }
        }
        let (name, text) = found?;
        match T::from_text(text.trim()) {
            Ok(value) => Some(value),
            Err(expected) => {
                let shown = if T::SECRET { "the value" } else { text };
                self.problem(format!("{name} must be {expected}; change {shown:?}"));
                None
            }
        }
    }

    /// A value which must lie within a range; outside it is a problem.
    pub fn within<T: FromText + PartialOrd + std::fmt::Display + Copy>(&mut self, names: &[&str], default: T, least: T, most: T) -> T {
        let value = self.value(names, default);
        if value < least || value > most {
            self.problem(format!("{} must be between {least} and {most}; it is {value}", names[0]));
            return default;
        }
        value
    }

    /// A duration in seconds which must be above zero.
    pub fn positive(&mut self, names: &[&str], default_seconds: f64) -> Duration {
        let value = self.value(names, Duration::from_secs_f64(default_seconds));
        if value.is_zero() {
            self.problem(format!("{} must be above zero seconds", names[0]));
            return Duration::from_secs_f64(default_seconds);
        }
        value
    }

    /// Records a problem: one sentence that says what to change.
    pub fn problem(&mut self, sentence: impl Into<String>) {
        self.problems.push(sentence.into());
    }

    /// Records what is allowed but should be known: one sentence, logged at start.
    pub fn note(&mut self, sentence: impl Into<String>) {
        self.notes.push(sentence.into());
    }

    /// What was noted so far.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The names under `prefixes` that are set and that nobody read.
    pub fn unread(&self, prefixes: &[&str]) -> Vec<String> {
        let known = |name: &String| self.read.contains(name);
        let wanted = |name: &String| prefixes.iter().any(|prefix| name.starts_with(prefix));
        self.variables.keys().filter(|name| wanted(name) && !known(name)).cloned().collect()
    }

    /// All problems, in the order in which they were found.
    pub fn into_problems(self) -> Vec<String> {
        self.problems
    }
}

/// A value that can be read from a variable's text.
pub trait FromText: Sized {
    /// Whether the text must not be repeated in a message.
    const SECRET: bool = false;

    /// Reads the text, or says what was expected, as the end of "NAME must be ...".
    fn from_text(text: &str) -> Result<Self, String>;
}

macro_rules! from_text_by_parse {
    ($($kind:ty => $expected:literal),+ $(,)?) => {$(
        impl FromText for $kind {
            fn from_text(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| $expected.to_owned())
            }
        }
    )+};
}

from_text_by_parse! {
    u16 => "a whole number from 0 to 65535",
    u32 => "a whole number of at least 0",
    u64 => "a whole number of at least 0",
    usize => "a whole number of at least 0",
    i64 => "a whole number",
}

impl FromText for f64 {
    fn from_text(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err("a number".to_owned()),
        }
    }
}

impl FromText for String {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl FromText for PathBuf {
    fn from_text(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("~/")
            && let Some(home) = std::env::home_dir()
        {
            return Ok(home.join(rest));
        }
        Ok(PathBuf::from(text))
    }
}

impl FromText for Secret {
    const SECRET: bool = true;

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Secret::new(text))
    }
}

impl FromText for bool {
    fn from_text(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
            "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
            _ => Err("true or false".to_owned()),
        }
    }
}

impl FromText for Duration {
    fn from_text(text: &str) -> Result<Self, String> {
        duration(text).ok_or_else(|| "a duration of at least 0, as seconds (90), HH:MM:SS or ISO 8601 (PT90S)".to_owned())
    }
}

fn duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    if let Some(iso) = text.strip_prefix('P') {
        return iso_duration(iso);
    }
    let (days, clock) = match text.split_once("day") {
        Some((days, rest)) => (days.trim().parse::<u64>().ok()?, rest.trim_start_matches('s').trim_start_matches(',').trim()),
        None => (0, text),
    };
    let mut seconds = (days * 86_400) as f64;
    if !clock.is_empty() {
        let parts: Vec<&str> = clock.split(':').collect();
        if parts.len() != 3 && parts.len() != 2 {
            return None;
        }
        let number = |index: usize| parts.get(index).map_or(Some(0.0), |part| part.parse::<f64>().ok());
        seconds += number(0)? * 3600.0 + number(1)? * 60.0 + number(2)?;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

fn iso_duration(text: &str) -> Option<Duration> {
    let mut seconds = 0.0;
    let mut number = String::new();
    let mut in_time = false;
    let mut any = false;
    for character in text.chars() {
        match character {
            '0'..='9' | '.' => number.push(character),
            'T' if number.is_empty() && !in_time => in_time = true,
            unit => {
                let scale = match (in_time, unit) {
                    (false, 'W') => 604_800.0,
                    (false, 'D') => 86_400.0,
                    (true, 'H') => 3600.0,
                    (true, 'M') => 60.0,
                    (true, 'S') => 1.0,
                    _ => return None,
                };
                seconds += number.parse::<f64>().ok()? * scale;
                number.clear();
                any = true;
            }
        }
    }
    (any && number.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn durations_are_read_in_each_form() {
        for (text, seconds) in [
            ("90", 90.0),
            ("1.5", 1.5),
            ("00:01:30", 90.0),
            ("1 day, 00:00:01", 86_401.0),
            ("7 days", 604_800.0),
            ("PT15M", 900.0),
            ("P1DT2H", 93_600.0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["-1", "soon", "P", "PT", "PT5", "1:2:3:4", "NaN"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn the_first_name_that_is_set_wins_and_an_empty_one_does_not_count() {
        let set = variables(&[("A", ""), ("B", "2"), ("C", "3")]);
        let mut reader = Reader::new(&set);
        assert_eq!(reader.value(&["A", "B", "C"], 1_u32), 2);
        assert_eq!(reader.value(&["D"], 4_u32), 4);
        assert!(reader.into_problems().is_empty());
    }

    #[test]
    fn every_problem_is_kept_and_names_its_variable() {
        let set = variables(&[("PORT", "http"), ("ON", "maybe"), ("SHARE", "7")]);
        let mut reader = Reader::new(&set);
        assert_eq!(reader.value(&["PORT"], 4200_u16), 4200);
        assert!(reader.value(&["ON"], true));
        assert_eq!(reader.within(&["SHARE"], 1_u32, 0, 5), 1);
        let problems = reader.into_problems();
        assert_eq!(problems.len(), 3);
        assert_eq!(problems[0], "PORT must be a whole number from 0 to 65535; change \"http\"");
        assert_eq!(problems[2], "SHARE must be between 0 and 5; it is 7");
    }

    #[test]
    fn unread_names_are_listed() {
        let set = variables(&[("PRAETOR_NODE_ID", "1"), ("PRAETOR_NODE_IDD", "2"), ("PATH", "/bin")]);
        let mut reader = Reader::new(&set);
        reader.value(&["PRAETOR_NODE_ID"], 1_u64);
        assert_eq!(reader.unread(&["PRAETOR_"]), ["PRAETOR_NODE_IDD"]);
    }
}
