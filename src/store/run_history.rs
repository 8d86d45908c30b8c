//! Aggregates over runs: history by interval and state, average lateness. Sums are made by the database in whole
//! microseconds, so that they do not depend on the order of the rows.

use std::collections::BTreeMap;

use sea_query::{Asterisk, CaseStatement, Cond, Condition, Expr, ExprTrait, Func, Query};

use crate::clock::Timestamp;
use crate::model::filter::Filters;
use crate::model::run::{HistoryInterval, HistoryState};
use crate::model::state::StateType;
use crate::store::filter::related;
use crate::store::schema as t;
use crate::store::{Dialect, StoreError, Tx};

/// Intervals of a history at most; the rest is cut off.
const INTERVALS: i64 = 500;

/// Which table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    Flow,
    Task,
}

struct Columns {
    state_type: Expr,
    state_name: Expr,
    state_timestamp: Expr,
    start: Expr,
    expected: Expr,
    total: Expr,
}

impl Runs {
    fn columns(self) -> Columns {
        let flow = |column| Expr::col((t::FlowRun::Table, column));
        let task = |column| Expr::col((t::TaskRun::Table, column));
        match self {
            Self::Flow => Columns {
                state_type: flow(t::FlowRun::StateType),
                state_name: flow(t::FlowRun::StateName),
                state_timestamp: flow(t::FlowRun::StateTimestamp),
                start: flow(t::FlowRun::StartTime),
                expected: flow(t::FlowRun::ExpectedStartTime),
                total: flow(t::FlowRun::TotalRunTime),
            },
            Self::Task => Columns {
                state_type: task(t::TaskRun::StateType),
                state_name: task(t::TaskRun::StateName),
                state_timestamp: task(t::TaskRun::StateTimestamp),
                start: task(t::TaskRun::StartTime),
                expected: task(t::TaskRun::ExpectedStartTime),
                total: task(t::TaskRun::TotalRunTime),
            },
        }
    }

    fn filter(self, filters: &Filters, dialect: Dialect) -> Condition {
        match self {
            Self::Flow => related::flow_runs(filters, dialect),
            Self::Task => related::task_runs(filters, dialect),
        }
    }
}

/// Microseconds by which a run started late, or is late `now`; 0 for the others.
fn lateness(columns: &Columns, now: Timestamp, dialect: Dialect) -> Expr {
    let micros = |moment: &Expr| dialect.epoch_micros(moment.clone());
    let waiting = columns
        .start
        .clone()
        .is_null()
        .and(columns.state_type.clone().is_not_in(StateType::TERMINAL))
        .and(columns.expected.clone().lt(now));
    CaseStatement::new()
        .case(columns.start.clone().gt(columns.expected.clone()), micros(&columns.start).sub(micros(&columns.expected)))
        .case(waiting, Expr::val(now.timestamp_micros()).sub(micros(&columns.expected)))
        .finally(0)
        .into()
}

/// The average lateness of flow runs in seconds; `None` where no run matches.
pub async fn average_lateness(tx: &mut Tx, filters: &Filters, now: Timestamp) -> Result<Option<f64>, StoreError> {
    let dialect = tx.dialect();
    let mut select = Query::select();
    select
        .expr_as(dialect.float(Func::avg(lateness(&Runs::Flow.columns(), now, dialect))), "average")
        .from(t::FlowRun::Table)
        .cond_where(related::flow_runs(filters, dialect));
    Ok(tx.fetch_one(&select).await?.get::<Option<f64>>("average")?.map(|micros| micros / 1e6))
}

/// Runs by the interval in which they were expected to start, and by their state.
pub async fn history(
    tx: &mut Tx,
    runs: Runs,
    filters: &Filters,
    (start, end): (Timestamp, Timestamp),
    interval_micros: i64,
    now: Timestamp,
) -> Result<Vec<HistoryInterval>, StoreError> {
    let (first, span) = (start.timestamp_micros(), Ord::max((end - start).num_microseconds().unwrap_or(i64::MAX), 0));
    let count = Ord::min(span.saturating_add(interval_micros - 1) / interval_micros, INTERVALS);
    let moment = |index: i64| Timestamp::from_timestamp_micros(first.saturating_add(index.saturating_mul(interval_micros))).unwrap_or(end);
    let dialect = tx.dialect();
    let columns = runs.columns();
    let running = columns.state_type.clone().eq(StateType::Running);
    let since: Expr = CaseStatement::new()
        .case(running, Expr::val(now.timestamp_micros()).sub(dialect.epoch_micros(columns.state_timestamp.clone())))
        .finally(0)
        .into();
    let run_time = dialect.epoch_micros(columns.total.clone()).add(since);
    let bucket = dialect.epoch_micros(columns.expected.clone()).sub(first).div(interval_micros);
    let positive_sum = |micros: Expr| dialect.integer(Func::sum(dialect.greatest(micros, Expr::val(0_i64))));
    let mut select = Query::select();
    select
        .expr_as(bucket, "bucket")
        .expr_as(columns.state_type.clone(), "state_type")
        .expr_as(columns.state_name.clone(), "state_name")
        .expr_as(Func::count(Expr::col(Asterisk)), "count")
        .expr_as(positive_sum(run_time), "run_time")
        .expr_as(positive_sum(lateness(&columns, now, dialect)), "lateness")
        .cond_where(
            Cond::all()
                .add(columns.expected.clone().gte(start))
                .add(columns.expected.clone().lt(moment(count)))
                .add(columns.state_type.clone().is_not_null())
                .add(runs.filter(filters, dialect)),
        )
        .group_by_columns(["bucket", "state_type", "state_name"])
        .order_by("bucket", sea_query::Order::Asc)
        .order_by("state_type", sea_query::Order::Asc)
        .order_by("state_name", sea_query::Order::Asc);
    match runs {
        Runs::Flow => select.from(t::FlowRun::Table),
        Runs::Task => select.from(t::TaskRun::Table),
    };
    let mut by_interval: BTreeMap<i64, Vec<HistoryState>> = BTreeMap::new();
    for row in tx.fetch_all(&select).await? {
        by_interval.entry(row.get("bucket")?).or_default().push(HistoryState {
            state_type: row.get("state_type")?,
            state_name: row.get::<Option<String>>("state_name")?.unwrap_or_default(),
            count_runs: row.get("count")?,
            sum_estimated_run_time: row.get::<i64>("run_time")? as f64 / 1e6,
            sum_estimated_lateness: row.get::<i64>("lateness")? as f64 / 1e6,
        });
    }
    let mut interval = |index| HistoryInterval {
        interval_start: moment(index),
        interval_end: moment(index + 1),
        states: by_interval.remove(&index).unwrap_or_default(),
    };
    Ok((0..count).map(&mut interval).collect())
}
