//! The graph of a flow run: its task runs, or the subflow runs that they stand for, as nodes; an edge from each input
//! that is a run. The database gives the rows, the edges are put together here.

use std::collections::HashMap;

use sea_query::{Expr, ExprTrait, Order, Query};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::{FlowRunId, TaskRunId};
use crate::model::graph::{Edge, Graph, GraphArtifact, GraphState, Node, NodeKind};
use crate::model::state::StateType;
use crate::model::task_run::{RunInput, TaskInputs};
use crate::store::schema as t;
use crate::store::states::{self, Owner};
use crate::store::{Row, StoreError, Tx};

/// The key of the inputs which say what a task run runs inside of.
const PARENTS: &str = "__parents__";

/// What became of the request for a graph.
#[derive(Debug)]
pub enum Outcome {
    Found(Graph),
    NoSuchRun,
    TooLarge,
}

/// Bounds of a graph.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Nodes, before those that ended earlier than `since` are left out.
    pub nodes: usize,
    pub artifacts: usize,
}

struct Found {
    node: Node,
    inputs: TaskInputs,
}

/// Reads the graph of a flow run with the nodes that have not ended before `since`.
pub async fn read(tx: &mut Tx, id: FlowRunId, since: Option<Timestamp>, bounds: Bounds) -> Result<Outcome, StoreError> {
    let mut select = Query::select();
    select
        .columns([t::FlowRun::StartTime, t::FlowRun::ExpectedStartTime, t::FlowRun::EndTime])
        .from(t::FlowRun::Table)
        .and_where(Expr::col(t::FlowRun::Id).eq(id));
    let Some(run) = tx.fetch_optional(&select).await? else { return Ok(Outcome::NoSuchRun) };
    let found = nodes(tx, id, bounds.nodes).await?;
    if found.len() > bounds.nodes {
        return Ok(Outcome::TooLarge);
    }
    let mut artifacts = artifacts(tx, id, bounds.artifacts).await?;
    let states = states::list(tx, Owner::FlowRun(id)).await?.into_iter().map(GraphState::from).collect();
    let mut nodes: Vec<Node> = connected(found);
    nodes.retain(|node| since.is_none_or(|since| node.end_time.is_none_or(|end| end >= since)));
    for node in &mut nodes {
        node.artifacts = artifacts.remove(&Some(TaskRunId(node.id))).unwrap_or_default();
    }
    Ok(Outcome::Found(Graph {
        start_time: run.get::<Option<Timestamp>>("start_time")?.or(run.get("expected_start_time")?),
        end_time: run.get("end_time")?,
        root_node_ids: nodes.iter().filter(|node| node.parents.is_empty()).map(|node| node.id).collect(),
        nodes: nodes.into_iter().map(|node| (node.id, node)).collect(),
        artifacts: artifacts.remove(&None).unwrap_or_default(),
        states,
    }))
}

async fn nodes(tx: &mut Tx, id: FlowRunId, limit: usize) -> Result<Vec<Found>, StoreError> {
    let (task, sub, flow) = (
        |column| Expr::col((t::TaskRun::Table, column)),
        |column| Expr::col(("subflow", column)),
        |column| Expr::col((t::Flow::Table, column)),
    );
    let mut select = Query::select();
    select
        .expr_as(task(t::TaskRun::Id), "id")
        .expr_as(task(t::TaskRun::Name), "name")
        .expr_as(task(t::TaskRun::StateType), "state_type")
        .expr_as(task(t::TaskRun::StartTime), "start_time")
        .expr_as(task(t::TaskRun::ExpectedStartTime), "expected_start_time")
        .expr_as(task(t::TaskRun::EndTime), "end_time")
        .expr_as(task(t::TaskRun::TaskInputs), "task_inputs")
        .expr_as(sub(t::FlowRun::Id), "sub_id")
        .expr_as(sub(t::FlowRun::Name), "sub_name")
        .expr_as(sub(t::FlowRun::StateType), "sub_state_type")
        .expr_as(sub(t::FlowRun::StartTime), "sub_start_time")
        .expr_as(sub(t::FlowRun::ExpectedStartTime), "sub_expected_start_time")
        .expr_as(sub(t::FlowRun::EndTime), "sub_end_time")
        .expr_as(flow(t::Flow::Name), "flow_name")
        .from(t::TaskRun::Table)
        .join_as(
            sea_query::JoinType::LeftJoin,
            t::FlowRun::Table,
            "subflow",
            sub(t::FlowRun::ParentTaskRunId).equals((t::TaskRun::Table, t::TaskRun::Id)),
        )
        .left_join(t::Flow::Table, flow(t::Flow::Id).equals(("subflow", t::FlowRun::FlowId)))
        .and_where(task(t::TaskRun::FlowRunId).eq(id))
        .order_by((t::TaskRun::Table, t::TaskRun::Id), Order::Asc)
        .limit(limit as u64 + 1);
    let rows = tx.fetch_all(&select).await?;
    rows.iter().filter_map(|row| decode(row).transpose()).collect()
}

/// A node; none where the run has no state, or no time at all.
fn decode(row: &Row) -> Result<Option<Found>, StoreError> {
    let moment = |column| row.get::<Option<Timestamp>>(column);
    let state_type: Option<StateType> = row.get("state_type")?;
    let start =
        moment("sub_start_time")?.or(moment("sub_expected_start_time")?).or(moment("start_time")?).or(moment("expected_start_time")?);
    let (Some(start_time), Some(state_type)) = (start, row.get::<Option<StateType>>("sub_state_type")?.or(state_type)) else {
        return Ok(None);
    };
    let completed = row.get::<Option<StateType>>("state_type")? == Some(StateType::Completed);
    let end_time = moment("sub_end_time")?.or(moment("end_time")?);
    let end_time = if completed { end_time.or(moment("expected_start_time")?) } else { end_time };
    let (kind, id, label) = match row.get::<Option<Uuid>>("sub_id")? {
        Some(id) => (NodeKind::FlowRun, id, format!("{} / {}", row.get::<String>("flow_name")?, row.get::<String>("sub_name")?)),
        None => (NodeKind::TaskRun, row.get("id")?, row.get("name")?),
    };
    let (parents, children, encapsulating, artifacts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let node = Node { kind, id, label, state_type, start_time, end_time, parents, children, encapsulating, artifacts };
    Ok(Some(Found { node, inputs: row.json("task_inputs")? }))
}

/// The nodes with their edges, by start and end; the other ends are ordered by their start.
fn connected(found: Vec<Found>) -> Vec<Node> {
    let (mut nodes, inputs): (Vec<Node>, Vec<(Uuid, TaskInputs)>) = found
        .into_iter()
        .map(|found| {
            let id = found.node.id;
            (found.node, (id, found.inputs))
        })
        .unzip();
    let places: HashMap<Uuid, usize> = nodes.iter().enumerate().map(|(place, node)| (node.id, place)).collect();
    let starts: HashMap<Uuid, (Timestamp, Uuid)> = nodes.iter().map(|node| (node.id, (node.start_time, node.id))).collect();
    for (child, inputs) in &inputs {
        for (key, sources) in inputs {
            for source in sources {
                let parent = match source {
                    RunInput::TaskRun { id } => id.0,
                    RunInput::FlowRun { id } => id.0,
                    RunInput::Parameter { .. } | RunInput::Constant { .. } => continue,
                };
                let Some(parent_place) = places.get(&parent) else { continue };
                if key == PARENTS {
                    nodes[places[child]].encapsulating.push(Edge { id: parent });
                } else {
                    nodes[places[child]].parents.push(Edge { id: parent });
                    nodes[*parent_place].children.push(Edge { id: *child });
                }
            }
        }
    }
    for node in &mut nodes {
        for edges in [&mut node.parents, &mut node.children, &mut node.encapsulating] {
            edges.sort_by_key(|edge| starts[&edge.id]);
            edges.dedup();
        }
    }
    nodes.sort_by_key(|node| (node.start_time, node.end_time.is_none(), node.end_time, node.id));
    nodes
}

async fn artifacts(tx: &mut Tx, id: FlowRunId, limit: usize) -> Result<HashMap<Option<TaskRunId>, Vec<GraphArtifact>>, StoreError> {
    let artifact = |column| Expr::col((t::Artifact::Table, column));
    let collection = |column| Expr::col((t::ArtifactCollection::Table, column));
    let mut select = Query::select();
    select
        .columns(
            [t::Artifact::Id, t::Artifact::Created, t::Artifact::Key, t::Artifact::Type, t::Artifact::Data, t::Artifact::TaskRunId]
                .map(|column| (t::Artifact::Table, column)),
        )
        .expr_as(collection(t::ArtifactCollection::Id), "collection_id")
        .from(t::Artifact::Table)
        .left_join(
            t::ArtifactCollection::Table,
            collection(t::ArtifactCollection::Key)
                .equals((t::Artifact::Table, t::Artifact::Key))
                .and(collection(t::ArtifactCollection::LatestId).equals((t::Artifact::Table, t::Artifact::Id))),
        )
        .and_where(artifact(t::Artifact::FlowRunId).eq(id))
        .and_where(artifact(t::Artifact::Type).ne("result"))
        .order_by((t::Artifact::Table, t::Artifact::Created), Order::Asc)
        .order_by((t::Artifact::Table, t::Artifact::Id), Order::Asc)
        .limit(limit as u64);
    let mut by_task: HashMap<Option<TaskRunId>, Vec<GraphArtifact>> = HashMap::new();
    for row in tx.fetch_all(&select).await? {
        let (key, kind): (Option<String>, Option<String>) = (row.get("key")?, row.get("type")?);
        let data = if kind.as_deref() == Some("progress") { row.get("data")? } else { None };
        let is_latest = key.is_none() || row.get::<Option<Uuid>>("collection_id")?.is_some();
        by_task.entry(row.get("task_run_id")?).or_default().push(GraphArtifact {
            id: row.get("id")?,
            created: row.get("created")?,
            key,
            kind,
            is_latest,
            data,
        });
    }
    Ok(by_task)
}
