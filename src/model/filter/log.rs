//! Filter over log lines, and the search language of its `text` part.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::Operator;
use super::part::{AnyOf, Between, Range};
use crate::id::{FlowRunId, TaskRunId};
use crate::model::json::invalid;
use crate::model::log::Log;
use crate::model::text_search::TextSearch;

/// Characters of a text query at most.
const QUERY_CHARACTERS: usize = 200;

/// Which log lines.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogFilter {
    pub operator: Operator,
    pub level: Option<Range>,
    pub timestamp: Option<Between>,
    pub flow_run_id: Option<AnyOf<FlowRunId>>,
    pub task_run_id: Option<LogFilterTaskRunId>,
    pub text: Option<LogFilterTextSearch>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogFilterTaskRunId {
    pub any_: Option<Vec<TaskRunId>>,
    pub is_null_: Option<bool>,
}

/// A search in message and logger name.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
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
            self.text.as_ref().map(|text| TextSearch::parse(&text.query).matches(&format!("{} {}", log.message, log.name))),
        ];
        let mut given = parts.into_iter().flatten().peekable();
        match self.operator {
            Operator::And => given.all(|holds| holds),
            Operator::Or => given.peek().is_none() || given.any(|holds| holds),
        }
    }
}
