//! Filter over log lines, and the search language of its `text` part.

use serde::{Deserialize, Deserializer};

use super::Operator;
use super::part::{AnyOf, Between, Range};
use crate::id::{FlowRunId, TaskRunId};
use crate::model::json::invalid;
use crate::model::log::Log;

/// Characters of a text query at most.
const QUERY_CHARACTERS: usize = 200;

/// Which log lines.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogFilter {
    pub operator: Operator,
    pub level: Option<Range>,
    pub timestamp: Option<Between>,
    pub flow_run_id: Option<AnyOf<FlowRunId>>,
    pub task_run_id: Option<LogFilterTaskRunId>,
    pub text: Option<LogFilterTextSearch>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogFilterTaskRunId {
    pub any_: Option<Vec<TaskRunId>>,
    pub is_null_: Option<bool>,
}

/// A search in message and logger name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFilterTextSearch {
    #[serde(deserialize_with = "query")]
    pub query: String,
}

fn query<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let query = String::deserialize(deserializer)?;
    if query.chars().count() > QUERY_CHARACTERS {
        return Err(invalid("string_too_long", format_args!("String should have at most {QUERY_CHARACTERS} characters")));
    }
    Ok(query)
}

/// A parsed text query, in lower case: words and quoted phrases; `-` or `!` before one excludes it, `+` requires it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextQuery {
    /// One of these.
    pub include: Vec<String>,
    /// None of these.
    pub exclude: Vec<String>,
    /// All of these.
    pub required: Vec<String>,
}

impl TextQuery {
    /// Parses a query; every text is one.
    pub fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        let mut rest = query.trim_start();
        while let Some(first) = rest.chars().next() {
            let prefix = matches!(first, '-' | '!' | '+').then_some(first);
            if prefix.is_some() {
                rest = &rest[1..];
                if rest.chars().next().is_none_or(char::is_whitespace) {
                    rest = rest.trim_start();
                    continue;
                }
            }
            let term = if let Some(quoted) = rest.strip_prefix('"') {
                let (phrase, after) = phrase(quoted);
                rest = after;
                if phrase.trim().is_empty() { String::new() } else { phrase }
            } else {
                let end = rest.find(|letter: char| letter.is_whitespace() || letter == '"').unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                rest = after;
                word.to_owned()
            };
            if !term.is_empty() {
                let list = match prefix {
                    Some('+') => &mut parsed.required,
                    Some(_) => &mut parsed.exclude,
                    None => &mut parsed.include,
                };
                list.push(term.to_lowercase());
            }
            rest = rest.trim_start();
        }
        parsed
    }

    /// True where the line's message and logger name satisfy the query.
    pub fn matches(&self, log: &Log) -> bool {
        let text = format!("{} {}", log.message, log.name).to_lowercase();
        let has = |term: &String| text.contains(term.as_str());
        (self.include.is_empty() || self.include.iter().any(has)) && !self.exclude.iter().any(has) && self.required.iter().all(has)
    }
}

/// What stands before the closing quote (or the end), with `\"` and `\\` unescaped, and what follows.
fn phrase(text: &str) -> (String, &str) {
    let mut phrase = String::new();
    let mut letters = text.char_indices().peekable();
    while let Some((index, letter)) = letters.next() {
        match letter {
            '"' => return (phrase, &text[index + 1..]),
            '\\' => match letters.peek() {
                Some((_, escaped @ ('"' | '\\'))) => {
                    phrase.push(*escaped);
                    letters.next();
                }
                _ => phrase.push('\\'),
            },
            letter => phrase.push(letter),
        }
    }
    (phrase, "")
}

impl LogFilter {
    /// True where a line that is not in the database satisfies the filter.
    pub fn matches(&self, log: &Log) -> bool {
        let parts = [
            self.level.as_ref().map(|level| {
                level.ge_.is_none_or(|least| i64::from(log.level) >= least) && level.le_.is_none_or(|most| i64::from(log.level) <= most)
            }),
            self.timestamp.as_ref().map(|timestamp| {
                timestamp.before_.is_none_or(|before| log.timestamp <= before)
                    && timestamp.after_.is_none_or(|after| log.timestamp >= after)
            }),
            self.flow_run_id.as_ref().map(|id| id.any_.as_ref().is_none_or(|any| log.flow_run_id.is_some_and(|id| any.contains(&id)))),
            self.task_run_id.as_ref().map(|id| {
                id.any_.as_ref().is_none_or(|any| log.task_run_id.is_some_and(|id| any.contains(&id)))
                    && id.is_null_.is_none_or(|null| log.task_run_id.is_none() == null)
            }),
            self.text.as_ref().map(|text| TextQuery::parse(&text.query).matches(log)),
        ];
        let mut given = parts.into_iter().flatten().peekable();
        match self.operator {
            Operator::And => given.all(|holds| holds),
            Operator::Or => given.peek().is_none() || given.any(|holds| holds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_words_and_phrases_with_prefixes() {
        let cases: [(&str, &[&str], &[&str], &[&str]); 9] = [
            ("", &[], &[], &[]),
            ("Error warning", &["error", "warning"], &[], &[]),
            ("error -debug !trace +flow", &["error"], &["debug", "trace"], &["flow"]),
            ("\"connection timeout\" -\"heart beat\"", &["connection timeout"], &["heart beat"], &[]),
            ("- error", &["error"], &[], &[]),
            ("a\"b c\"", &["a", "b c"], &[], &[]),
            ("\"say \\\"hi\\\" \\\\ \\n\"", &["say \"hi\" \\ \\n"], &[], &[]),
            ("\"open end", &["open end"], &[], &[]),
            ("\"  \" x", &["x"], &[], &[]),
        ];
        for (query, include, exclude, required) in cases {
            let parsed = TextQuery::parse(query);
            assert_eq!((parsed.include, parsed.exclude, parsed.required), (owned(include), owned(exclude), owned(required)), "{query}");
        }
    }

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }
}
