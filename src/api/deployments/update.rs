//! `PATCH /deployments/{id}`. Schedules are matched by their slugs where all of them have one, else replaced as a whole.

use std::collections::HashMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::NoContent;
use serde_json::{Map, Value};

use super::crud::{limit_to, queue_for, replace_schedules, require_limit};
use super::runs::{Hydrator, circular};
use super::{body, locked, missing_stop};
use crate::api::error::ApiError;
use crate::api::extract::{self, Json, Path, Shaped};
use crate::api::job_variables;
use crate::api::openapi::{Routes, patch};
use crate::api::work_pools::pools;
use crate::app::App;
use crate::clock::Timestamp;
use crate::events::deployment as events;
use crate::id::{DeploymentId, DeploymentScheduleId};
use crate::model::Patch;
use crate::model::deployment::{
    Deployment, DeploymentChange, DeploymentSchedule, DeploymentScheduleCreate, DeploymentScheduleUpdate, DeploymentUpdate,
};
use crate::parameters::{Invalid, Options, validate};
use crate::store::deployments::{self as store, Key};
use crate::store::scheduled_runs::{self, Which};
use crate::store::{Tx, deployment_schedules};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Deployments").route("/deployments/{id}", patch(update))
}

fn unprocessable(detail: impl Into<String>) -> ApiError {
    ApiError::detail(StatusCode::UNPROCESSABLE_ENTITY, detail)
}

/// What becomes of a deployment's schedules.
#[derive(Debug)]
enum Plan {
    /// They stay.
    Keep,
    /// These instead.
    Replace(Vec<DeploymentScheduleCreate>),
    /// Some change, some come.
    Merge { changes: Vec<(DeploymentScheduleId, DeploymentScheduleUpdate)>, creates: Vec<DeploymentScheduleCreate> },
}

fn plan(existing: &[DeploymentSchedule], given: Patch<Vec<DeploymentScheduleUpdate>>) -> Result<Plan, ApiError> {
    let by_slug: HashMap<&str, DeploymentScheduleId> =
        existing.iter().filter_map(|schedule| Some((schedule.slug.as_deref()?, schedule.id))).collect();
    let all_have_slugs = !existing.is_empty() && by_slug.len() == existing.len();
    let given = match given {
        Patch::Value(given) => given,
        Patch::Absent | Patch::Null => return Ok(Plan::Keep),
    };
    if !all_have_slugs {
        return Ok(Plan::Replace(given.iter().filter_map(DeploymentScheduleUpdate::as_create).collect()));
    }
    if given.iter().any(|schedule| schedule.slug.is_none()) {
        return Err(unprocessable("Please provide a slug for each schedule in your request to ensure schedules are updated correctly."));
    }
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let mut replaced: Vec<String> = Vec::new();
    for target in given.iter().filter_map(|schedule| filled(&schedule.replaces)) {
        if replaced.contains(&target) {
            return Err(unprocessable(format!("Multiple schedules have 'replaces' targeting the same slug: {target}")));
        }
        replaced.push(target);
    }
    for schedule in &given {
        if let (Some(slug), Some(replaces)) = (filled(&schedule.slug), filled(&schedule.replaces))
            && by_slug.contains_key(slug.as_str())
            && !replaced.contains(&slug)
        {
            return Err(unprocessable(format!(
                "Cannot rename schedule from '{replaces}' to '{slug}': a schedule with slug '{slug}' already exists."
            )));
        }
    }
    let (mut changes, mut creates) = (Vec::new(), Vec::new());
    for schedule in given {
        let target = filled(&schedule.replaces).or_else(|| schedule.slug.clone()).unwrap_or_default();
        if let Some(id) = by_slug.get(target.as_str()) {
            changes.push((*id, schedule));
        } else {
            let create = schedule.as_create();
            creates
                .push(create.ok_or_else(|| unprocessable("Unable to create new deployment schedules without a schedule configuration."))?);
        }
    }
    Ok(Plan::Merge { changes, creates })
}

/// Puts a plan into effect.
async fn apply(tx: &mut Tx, id: DeploymentId, plan: Plan, now: Timestamp) -> Result<(), ApiError> {
    match plan {
        Plan::Keep => {}
        Plan::Replace(schedules) => replace_schedules(tx, id, schedules, now).await?,
        Plan::Merge { changes, creates } => {
            // Slugs first move out of each other's way.
            let renamed: Vec<DeploymentScheduleId> = changes
                .iter()
                .filter(|(_, change)| change.replaces.as_ref().is_some_and(|replaces| !replaces.is_empty()))
                .map(|change| change.0)
                .collect();
            deployment_schedules::clear_slugs(tx, &renamed).await?;
            for (schedule, change) in &changes {
                deployment_schedules::update(tx, id, *schedule, now, change).await?;
            }
            deployment_schedules::insert(tx, id, now, &creates).await?;
        }
    }
    Ok(())
}

/// The parameters must fit the schema, where that is enforced.
fn check_parameters(update: &DeploymentUpdate, existing: &Deployment) -> Result<(), ApiError> {
    if !update.enforce_parameter_schema.as_value().copied().unwrap_or(existing.enforce_parameter_schema) {
        return Ok(());
    }
    let schema = update.parameter_openapi_schema.as_value().or(existing.parameter_openapi_schema.as_ref());
    let Some(schema) = schema.filter(|schema| schema.is_object()) else {
        return Err(ApiError::conflict(
            "Error updating deployment: Cannot update parameters because parameter schema enforcement is enabled and the deployment does \
             not have a valid parameter schema.",
        ));
    };
    let parameters: &Map<String, Value> = update.parameters.as_value().unwrap_or(&existing.parameters);
    let options = Options { ignore_required: true, ..Options::default() };
    validate(&Value::Object(parameters.clone()), schema, options).map_err(|error| match error {
        Invalid::Circular => circular(),
        error => ApiError::conflict(format!("Error updating deployment: {error}")),
    })
}

/// Change a deployment.
async fn update(
    State(app): State<App>,
    Path(id): Path<DeploymentId>,
    Json(given): Json<Shaped<DeploymentUpdate>>,
) -> Result<NoContent, ApiError> {
    let mut update = body::update(extract::bounds(&app), given.value)?;
    let now = app.now();
    let mut tx = app.begin("deployments.update").await?;
    let before = locked(&mut tx, id, missing_stop).await?;
    let plan = plan(&before.schedules, std::mem::take(&mut update.schedules))?;

    let pool = update.work_pool_name.as_value().filter(|name| !name.is_empty()).cloned();
    if let Some(name) = &pool {
        let pool = pools::by_name(&mut tx, name).await?;
        job_variables::check_update(&pool, update.job_variables.as_ref())?;
    }
    if let Patch::Value(parameters) = &update.parameters {
        let hydrated = Hydrator::load(&mut tx, [parameters]).await?.hydrate(parameters);
        let hydrated = hydrated
            .map_err(|error| ApiError::detail(StatusCode::BAD_REQUEST, format!("Error hydrating deployment parameters: {error}")))?;
        update.parameters = Patch::Value(hydrated);
    }
    check_parameters(&update, &before)?;
    require_limit(&mut tx, update.global_concurrency_limit_id.as_value()).await?;

    let queue = match &update.work_pool_name {
        // Asked to leave its pool, it leaves its queue.
        Patch::Null => Patch::Null,
        Patch::Absent | Patch::Value(_) => {
            let name = update.work_queue_name.as_value().map(String::as_str);
            queue_for(&mut tx, pool.as_deref(), name, now).await?.map_or(Patch::Absent, Patch::Value)
        }
    };
    let limit = update.concurrency_limit.clone();
    let mut change = DeploymentChange::from(update);
    change.work_queue_id = queue;
    if !store::update(&mut tx, id, now, &change).await? {
        return Err(missing_stop());
    }
    scheduled_runs::delete(&mut tx, &[id], Which::AutomaticAfter(now)).await?;
    if let Some(limit) = limit.into_option() {
        limit_to(&mut tx, id, limit, now).await?;
    }
    let after = store::read(&mut tx, &Key::Id(id)).await?.ok_or_else(missing_stop)?;
    let changes = store::changes(&before, &after);
    if !changes.is_empty() {
        tx.emit(events::updated(&after, changes, now));
    }
    apply(&mut tx, id, plan, now).await?;
    tx.commit().await?;
    Ok(NoContent)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn existing(slugs: &[Option<&str>]) -> Vec<DeploymentSchedule> {
        let now = crate::model::json::parse_timestamp("2026-01-02T03:04:05Z").expect("valid");
        let schedule = serde_json::from_value(json!({"cron": "* * * * *"})).expect("valid");
        let one = |slug: Option<&str>| DeploymentSchedule {
            id: DeploymentScheduleId::fresh(),
            created: now,
            updated: now,
            deployment_id: None,
            schedule: Clone::clone(&schedule),
            active: true,
            max_scheduled_runs: None,
            parameters: Map::new(),
            slug: slug.map(str::to_owned),
        };
        slugs.iter().copied().map(one).collect()
    }

    fn given(value: Value) -> Patch<Vec<DeploymentScheduleUpdate>> {
        Patch::Value(serde_json::from_value(value).expect("valid"))
    }

    fn refusal(existing: &[DeploymentSchedule], value: Value) -> String {
        plan(existing, given(value)).expect_err("must be refused").to_string()
    }

    #[test]
    fn schedules_are_matched_by_slug_where_all_have_one() {
        let slugged = existing(&[Some("a"), Some("b")]);
        let cron = json!({"cron": "0 0 * * *"});
        assert!(matches!(plan(&slugged, Patch::Absent), Ok(Plan::Keep)));
        match plan(&slugged, given(json!([{"slug": "a"}, {"slug": "c", "schedule": cron}, {"slug": "d", "replaces": "b"}]))) {
            Ok(Plan::Merge { changes, creates }) => {
                assert_eq!(changes.iter().map(|change| change.0).collect::<Vec<_>>(), [slugged[0].id, slugged[1].id]);
                assert_eq!(creates.len(), 1);
            }
            other => panic!("expected a merge, got {other:?}"),
        }
        assert!(
            matches!(plan(&existing(&[None, Some("a")]), given(json!([{"schedule": cron}, {}]))), Ok(Plan::Replace(new)) if new.len() == 1)
        );
        assert!(matches!(plan(&[], given(json!([{"schedule": cron}]))), Ok(Plan::Replace(new)) if new.len() == 1));
        assert!(refusal(&slugged, json!([{"schedule": cron}])).contains("Please provide a slug"));
        assert!(refusal(&slugged, json!([{"slug": "new"}])).contains("without a schedule configuration"));
        assert!(refusal(&slugged, json!([{"slug": "b", "replaces": "a"}])).contains("already exists"));
        assert!(refusal(&slugged, json!([{"slug": "x", "replaces": "a"}, {"slug": "y", "replaces": "a"}])).contains("Multiple schedules"));
    }
}
