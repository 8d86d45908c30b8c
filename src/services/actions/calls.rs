//! Calls to the world outside: webhooks and notifications that actions wrote down.
//!
//! Each tick starts what there is to start and does not wait for it: at most so many calls at a time, and few of one block,
//! so that one that hangs or fails holds up no other. The outcome is told, and the call forgotten, in one transaction. A
//! call whose node dies in between is made again by the next leader under the same idempotency key (the invocation), so
//! that its receiver can tell.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::http::{Answer, Http};
use super::{Failure, GROUP, Report, fail, inputs, notification, tell};
use crate::automations::render::RenderError;
use crate::blocks::document;
use crate::clock::Timestamp;
use crate::limits;
use crate::model::automation::Action;
use crate::model::block::BlockDocument;
use crate::model::event::{Event, Resource};
use crate::services::{Done, Lead, ServiceError, Tick};
use crate::store::action_calls::{self, ActionCall};
use crate::store::dead_letters::{self, DeadLetter};
use crate::telemetry::{chain, metrics};

/// Makes the calls.
#[derive(Default)]
pub struct ActionCalls {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Calls that are being made, with their blocks.
    under_way: Mutex<HashMap<Uuid, Uuid>>,
    http: Http,
}

impl ActionCalls {
    /// With nothing under way.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Tick for ActionCalls {
    fn name(&self) -> &'static str {
        "action_calls"
    }

    fn period(&self) -> Duration {
        limits::ACTION_CALLS_LOOK
    }

    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        let most = lead.app.settings().actions.calls;
        let (ids, busy, free) = {
            let under_way = self.state.under_way.lock();
            let mut of_block: HashMap<Uuid, usize> = HashMap::new();
            under_way.values().for_each(|block| *of_block.entry(*block).or_default() += 1);
            let busy: Vec<Uuid> =
                of_block.into_iter().filter(|(_, calls)| *calls >= limits::ACTION_CALLS_OF_BLOCK).map(|(block, _)| block).collect();
            (under_way.keys().copied().collect::<Vec<_>>(), busy, most.saturating_sub(under_way.len()))
        };
        if free == 0 {
            return Ok(Done::default());
        }
        let due = action_calls::list(&mut lead.app.read("action_calls.list").await?, &ids, &busy, free as u64).await?;
        let mut started = 0;
        for call in due {
            if self.start(lead, call) {
                started += 1;
            }
        }
        Ok(Done { items: started, more: false })
    }
}

impl ActionCalls {
    /// Starts a call on a task of its own; false where its block is busy.
    fn start(&self, lead: &Lead, call: ActionCall) -> bool {
        {
            let mut under_way = self.state.under_way.lock();
            if under_way.values().filter(|block| **block == call.block_document_id).count() >= limits::ACTION_CALLS_OF_BLOCK {
                return false;
            }
            under_way.insert(call.id, call.block_document_id);
        }
        let (lead, guard) = (lead.clone(), Guard { state: Arc::clone(&self.state), id: call.id });
        let tasks = lead.app.tasks().clone();
        tasks.spawn("action.call", async move {
            if let Err(error) = make(&lead, &guard.state.http, &call).await {
                tracing::warn!(invocation = %call.id, error = chain(&error), "the outcome of an action's call could not be told; it is made again");
                // Not at once, so that a database that is away is not asked in a hurry.
                tokio::time::sleep(limits::CONSUMER_RETRY_MAX).await;
            }
            drop(guard);
        });
        true
    }
}

/// Takes a call off the list when its task ends, whichever way.
struct Guard {
    state: Arc<State>,
    id: Uuid,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.state.under_way.lock().remove(&self.id);
    }
}

/// Makes a call and tells its outcome.
async fn make(lead: &Lead, http: &Http, call: &ActionCall) -> Result<(), ServiceError> {
    let mut report = Report::default();
    let called = tokio::time::timeout(limits::ACTION_CALL, perform(lead, http, call, &mut report)).await;
    let failed = match called.unwrap_or_else(|_| fail(format!("not done after {} s", limits::ACTION_CALL.as_secs()))) {
        Ok(()) => None,
        Err(Failure::Expected(reason)) => Some(reason),
        Err(Failure::Service(error)) if error.is_transient() => return Err(error),
        Err(Failure::Service(error)) => return put_aside(lead, call, &error).await,
    };
    let mut tx = lead.begin("action_calls.told").await?;
    if action_calls::delete(&mut tx, call.id).await? {
        tell(&mut tx, &call.action, report, failed, lead.app.now());
        tx.commit().await?;
    }
    Ok(())
}

/// Keeps a call that this server cannot make as a dead letter of the actions.
async fn put_aside(lead: &Lead, call: &ActionCall, error: &ServiceError) -> Result<(), ServiceError> {
    let letter = DeadLetter {
        id: call.id,
        stream: lead.app.stream_name(&crate::bus::Topic::Actions),
        group: GROUP,
        position: 0,
        payload: serde_json::to_vec(&call.action).map_err(|error| ServiceError::Poison(error.to_string()))?,
        error: chain(error),
        attempts: 1,
    };
    let mut tx = lead.begin("action_calls.dead_letter").await?;
    action_calls::delete(&mut tx, call.id).await?;
    dead_letters::insert(&mut tx, &letter, lead.app.now()).await?;
    tx.commit().await?;
    metrics::dead_letter(GROUP);
    tracing::error!(group = GROUP, message.id = %call.id, error = letter.error, "a call could not be made and is kept as a dead letter");
    Ok(())
}

async fn perform(lead: &Lead, http: &Http, call: &ActionCall, report: &mut Report) -> Result<(), Failure> {
    let (kind, what) = match &call.action.action {
        Action::CallWebhook(_) => ("call-webhook", "webhook"),
        _ => ("send-notification", "notification"),
    };
    let app = &lead.app;
    let cipher = app.block_cipher().await;
    let cipher = cipher.map_err(|error| Failure::Expected(format!("The {what} block was invalid: {error}")))?;
    let mut tx = app.read("action_calls.block").await?;
    let block = match document::by_id(&mut tx, &cipher, call.block_document_id.into(), true).await {
        Ok(Some(block)) => block,
        Ok(None) => {
            return fail(format!("Unexpected status from '{kind}' action: 404"));
        }
        Err(crate::blocks::BlockError::Store(error)) => return Err(error.into()),
        Err(error) => return fail(format!("The {what} block was invalid: {error}")),
    };
    let slug = block.block_type.as_ref().map(|block_type| block_type.slug.clone()).unwrap_or_default();
    let capabilities = block.block_schema.as_ref().map(|schema| schema.capabilities.clone()).unwrap_or_default();
    if what == "webhook" && slug != "webhook" {
        return fail("The referenced block was not a webhook block");
    }
    if what == "notification" && !capabilities.iter().any(|capability| capability == "notify") {
        return fail("The referenced block was not a notification block");
    }
    report.relate(format!("prefect.block-document.{}", call.block_document_id), "block", Some(&block.name));
    report.relate(format!("prefect.block-type.{slug}"), "block-type", None);
    report.loaded = Some(loaded(&block, &slug, app.now()));
    match &call.action.action {
        Action::CallWebhook(webhook) => {
            let texts = inputs::rendered(lead, &mut tx, &call.action, &[&webhook.payload]).await?;
            drop(tx);
            let text = taken(texts, report)?.pop().unwrap_or_default();
            webhook_call(lead, http, call, &block, text, report).await
        }
        Action::SendNotification(send) => {
            let texts = inputs::rendered(lead, &mut tx, &call.action, &[&send.subject, &send.body]).await?;
            drop(tx);
            let texts = taken(texts, report)?;
            notify(lead, http, call, &slug, &block.data, &texts[0], &texts[1], report).await
        }
        _ => fail("no call"),
    }
}

/// The event that a block was loaded for its use.
fn loaded(block: &BlockDocument, slug: &str, now: Timestamp) -> Event {
    let resource = Resource::from_iter([
        ("prefect.resource.id".to_owned(), format!("prefect.block-document.{}", block.id)),
        ("prefect.resource.name".to_owned(), block.name.clone()),
    ]);
    let of_type = Resource::from_iter([
        ("prefect.resource.id".to_owned(), format!("prefect.block-type.{slug}")),
        ("prefect.resource.role".to_owned(), "block-type".to_owned()),
    ]);
    Event {
        occurred: now,
        event: format!("prefect.block.{slug}.loaded"),
        resource,
        related: vec![of_type],
        payload: Map::new(),
        id: crate::id::v7(),
        follows: None,
    }
}

fn taken(texts: Result<Vec<String>, RenderError>, report: &mut Report) -> Result<Vec<String>, Failure> {
    texts.map_err(|error| {
        let told = format!("Failed to render template due to the following error: {error}");
        report.details.insert("template_error".to_owned(), told.into());
        report.details.insert("template_source".to_owned(), error.template.clone().into());
        Failure::Expected(format!("Template rendering failed: {error}"))
    })
}

async fn webhook_call(
    lead: &Lead,
    http: &Http,
    call: &ActionCall,
    block: &BlockDocument,
    payload: String,
    report: &mut Report,
) -> Result<(), Failure> {
    let request = notification::webhook(&block.data, payload)
        .map_err(|error| Failure::Expected(format!("The webhook block was invalid: {error}")))?;
    match http.send(&lead.app.settings().actions, call.id, request).await {
        Ok(Answer { status, text, headers }) => {
            report.details.insert("status_code".to_owned(), status.into());
            report.details.insert("response_body".to_owned(), truncated(&text).into());
            let headers: Map<String, Value> = headers.into_iter().map(|(name, value)| (name, json!(value))).collect();
            report.details.insert("response_headers".to_owned(), Value::Object(headers));
            Ok(())
        }
        Err(error) => fail(format!("Webhook call failed: {error}")),
    }
}

#[expect(clippy::too_many_arguments, reason = "a call with its block and its texts")]
async fn notify(
    lead: &Lead,
    http: &Http,
    call: &ActionCall,
    slug: &str,
    data: &Map<String, Value>,
    subject: &str,
    body: &str,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut failed = |log: String| {
        report.details.insert("notification_log".to_owned(), log.into());
        fail("Notification failed")
    };
    let settings = &lead.app.settings().actions;
    if let Some(mail) = notification::mail(slug, data) {
        let sent = match mail {
            Ok(mail) => mail.send(settings, call.id, subject, body, lead.app.now()).await,
            Err(error) => Err(vec![error]),
        };
        return sent.or_else(|errors| failed(errors.iter().map(|error| format!("{slug}: {error}")).collect::<Vec<_>>().join("\n")));
    }
    let requests = match notification::requests(slug, data, subject, body, lead.app.now()) {
        Ok(requests) => requests,
        Err(error) => return failed(error),
    };
    let mut errors = Vec::new();
    for request in requests {
        match http.send(settings, call.id, request).await {
            Ok(answer) if answer.status < 400 => {}
            Ok(answer) => errors.push(format!("{slug}: the service answered {}: {}", answer.status, truncated(&answer.text))),
            Err(error) => errors.push(format!("{slug}: {error}")),
        }
    }
    if errors.is_empty() { Ok(()) } else { failed(errors.join("\n")) }
}

/// The beginning and the end of a text of more than a thousand characters, as the reference.
fn truncated(text: &str) -> String {
    const CHARACTERS: usize = 1000;
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= CHARACTERS {
        return text.to_owned();
    }
    let (beginning, end) = (&letters[..CHARACTERS / 2], &letters[letters.len() - CHARACTERS / 2..]);
    let omitted = letters.len() - CHARACTERS;
    let proposed: String =
        beginning.iter().copied().chain(format!("...{omitted} additional characters...").chars()).chain(end.iter().copied()).collect();
    if proposed.chars().count() < letters.len() { proposed } else { text.to_owned() }
}
