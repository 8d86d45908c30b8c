//! Evaluates the stream of events: what a batch needs of the database is read in few queries, evaluated in memory, and
//! written in the transaction that also moves the cursor. So each event is evaluated once, whoever leads.
//!
//! Automations are kept in memory and read anew where their [`version`](store::version) has moved, in the transaction of
//! the batch: an event that was published after an automation was made is always evaluated with it. Events that concern no
//! trigger cost no query of their own.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::TimeDelta;
use serde::Deserialize;
use uuid::Uuid;

use super::index::{Index, Place};
use super::ordering::{DEPTH, LOOKBACK, Left, Offered, Seen, Sequencer};
use super::trigger::{Outcome, Stamp, Workspace};
use crate::app::App;
use crate::bus::{BusError, Entry, Position, ReadLimit, Topic};
use crate::clock::Timestamp;
use crate::id::AutomationId;
use crate::limits;
use crate::model::automation::{Automation, BucketKey, ChildFiring};
use crate::model::event::{PERSISTER_GROUP, ReceivedEvent};
use crate::model::json;
use crate::store::{StoreError, Tx, automation_state as state, automations as store, cursors, events};
use crate::telemetry::chain;

/// The consumer group of whoever runs an [`Engine`]: what its cursor has not passed is not evaluated yet.
pub const TRIGGERS_GROUP: &str = "reactive-triggers";

/// Log lines travel as events, and concern no trigger.
const LOG_WRITE: &str = "prefect.log.write";

/// Why a batch was not evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// An entry that is no event.
    #[error("no event: {0}")]
    NoEvent(#[from] serde_json::Error),
    /// More than fits one transaction; smaller batches may.
    #[error("{0} evaluations are too many for one transaction")]
    TooMany(usize),
}

/// What the leader keeps in memory about triggers.
#[derive(Debug, Default)]
pub struct Engine {
    version: Option<store::Version>,
    index: Index,
    seen: Seen,
    /// Events of which the database has followers, or had.
    awaited: HashSet<Uuid>,
    clock: EventsClock,
    /// When each proactive trigger is to be looked at again.
    next_looks: HashMap<(AutomationId, Uuid), Timestamp>,
    stamp: Stamp,
    /// The position up to which entries were evaluated.
    position: Position,
    tidied: Option<Timestamp>,
    /// What is to be remembered once the transaction is committed.
    pending: Vec<Pending>,
}

#[derive(Debug)]
enum Pending {
    Looked { trigger: (AutomationId, Uuid), again: Timestamp },
    Tidied(Timestamp),
}

/// Between two looks at a proactive trigger, at least.
const LOOK_MIN: TimeDelta = TimeDelta::seconds(1);

/// How far the events of the stream are behind the clock.
#[derive(Debug, Default)]
struct EventsClock {
    /// The latest time of an event, and the clock's when it was seen.
    last: Option<(Timestamp, Timestamp)>,
}

impl EventsClock {
    fn update(&mut self, occurred: Timestamp, now: Timestamp) {
        let occurred = occurred.min(now);
        let latest = self.last.map_or(occurred, |(latest, _)| latest.max(occurred));
        self.last = Some((latest, now));
    }

    /// The moment as of which the events so far tell what has happened.
    fn as_of(&self, now: Timestamp) -> Timestamp {
        self.last.map_or(now, |(latest, seen)| now - (seen - latest).max(TimeDelta::zero()))
    }
}

/// What is to be known of an entry before it is read as a whole.
#[derive(Deserialize)]
struct Glance<'e> {
    #[serde(borrow)]
    event: Cow<'e, str>,
    id: Uuid,
    #[serde(default)]
    follows: Option<Uuid>,
    #[serde(with = "json::timestamp")]
    occurred: Timestamp,
    #[serde(with = "json::timestamp")]
    received: Timestamp,
}

impl Glance<'_> {
    /// `awaited`: events of which the database has followers, or had.
    fn offered(&self, awaited: &HashSet<Uuid>) -> Offered {
        let may_be_kept = self.follows.is_some_and(|leader| awaited.contains(&leader));
        Offered { id: self.id, follows: self.follows, received: self.received, may_be_kept }
    }
}

/// An event, and the triggers that it concerns.
struct Meeting {
    event: Arc<ReceivedEvent>,
    places: Vec<Place>,
}

impl Engine {
    /// Evaluates a batch of the stream.
    ///
    /// # Errors
    /// As [`EngineError`] tells; the transaction must not be committed then. The same entries may be given again.
    pub async fn consume(&mut self, app: &App, tx: &mut Tx, entries: &[Entry]) -> Result<(), EngineError> {
        self.refresh(tx).await?;
        let now = app.now();
        if self.index.is_empty() {
            for entry in entries {
                self.seen.note(entry.id, entry.position);
            }
        } else {
            let glances = entries.iter().map(|entry| serde_json::from_slice(&entry.payload)).collect::<Result<Vec<Glance<'_>>, _>>()?;
            let (meetings, left) = self.put_in_order(app, tx, entries, &glances, now).await?;
            self.evaluate(tx, &meetings, entries.len() > 1, now).await?;
            self.settle(tx, left, now).await?;
        }
        let end = entries.last().map_or(0, |entry| entry.position);
        self.position = self.position.max(end);
        Ok(())
    }

    /// Reads the automations anew, where they have changed.
    async fn refresh(&mut self, tx: &mut Tx) -> Result<(), EngineError> {
        let version = store::version(tx).await?;
        if self.version == Some(version) {
            return Ok(());
        }
        if self.version.is_none() {
            self.awaited = state::awaited(tx).await?.into_iter().collect();
        }
        let (automations, unreadable) = store::enabled(tx).await?;
        for error in unreadable {
            tracing::error!(error = chain(&error), "an automation cannot be read and is not evaluated");
        }
        tracing::debug!(automations = automations.len(), "automations are read");
        self.index = Index::new(automations);
        // Triggers have new ids when their automation is changed; what is left of others is forgotten.
        let index = &self.index;
        self.next_looks.retain(|(automation, trigger), _| index.find(*automation, *trigger).is_some());
        self.version = Some(version);
        Ok(())
    }

    /// Finds out which triggers are to meet which events, in which order.
    async fn put_in_order(
        &mut self,
        app: &App,
        tx: &mut Tx,
        entries: &[Entry],
        glances: &[Glance<'_>],
        now: Timestamp,
    ) -> Result<(Vec<Meeting>, Left), EngineError> {
        let gone_by = self.gone_by(app, tx, entries, glances, now).await?;
        let ids: Vec<Uuid> = glances.iter().map(|glance| glance.id).collect();
        let kept = self.followers_of(tx, ids).await?;
        let index = &self.index;
        let mut sequencer = Sequencer::new(&mut self.seen, now, gone_by, kept);
        let mut meetings = Vec::new();
        let mut unread = None;
        for (entry, glance) in entries.iter().zip(glances) {
            if glance.event == LOG_WRITE {
                continue;
            }
            self.clock.update(glance.occurred, now);
            let offered = glance.offered(&self.awaited);
            let read = || serde_json::from_slice::<ReceivedEvent>(&entry.payload);
            let mut evaluate = |event: Option<&Arc<ReceivedEvent>>| {
                let event = match event {
                    Some(event) => event.clone(),
                    None if !index.may_concern(&glance.event) => return,
                    None => match read() {
                        Ok(event) => Arc::new(event),
                        Err(error) => {
                            unread = Some(error);
                            return;
                        }
                    },
                };
                let places = index.concerned(&event.event);
                if !places.is_empty() {
                    meetings.push(Meeting { event, places });
                }
            };
            sequencer.offer(offered, entry.position, read, &mut evaluate)?;
        }
        match unread {
            Some(error) => Err(error.into()),
            None => Ok((meetings, sequencer.finish())),
        }
    }

    /// The leaders of a batch that are not remembered, but went by before it: they are in the database, and not among the
    /// entries that are still to come.
    async fn gone_by(
        &mut self,
        app: &App,
        tx: &mut Tx,
        entries: &[Entry],
        glances: &[Glance<'_>],
        now: Timestamp,
    ) -> Result<HashSet<Uuid>, EngineError> {
        let here: HashSet<Uuid> = glances.iter().map(|glance| glance.id).collect();
        let mut unknown: Vec<Uuid> = Vec::new();
        for (entry, glance) in entries.iter().zip(glances) {
            let offered = glance.offered(&self.awaited);
            if let Some(leader) = offered.leader()
                && glance.event != LOG_WRITE
                && offered.may_wait(now)
                && !self.seen.by(leader, entry.position)
                && !here.contains(&leader)
            {
                unknown.push(leader);
            }
        }
        if unknown.is_empty() {
            return Ok(HashSet::new());
        }
        unknown.sort_unstable();
        unknown.dedup();
        let mut found: HashSet<Uuid> = events::persisted(tx, &unknown).await?.into_iter().collect();
        if found.is_empty() {
            return Ok(found);
        }
        // Some may be waiting for others themselves.
        let persisted: Vec<Uuid> = found.iter().copied().collect();
        for waiting in state::waiting(tx, &persisted).await? {
            found.remove(&waiting);
        }
        // The persister may be ahead of us.
        let end = entries.last().map_or(self.position, |entry| entry.position);
        let persisted_to = cursors::read(tx, PERSISTER_GROUP, &app.stream_name(&Topic::Events)).await?;
        let ahead = persisted_to.saturating_sub(end);
        if ahead > limits::TRIGGERS_LOOK_AHEAD as u64 {
            return Ok(HashSet::new());
        }
        let mut at = end;
        while at < persisted_to {
            let limit = ReadLimit { entries: (persisted_to - at) as usize, bytes: limits::CONSUMER_BATCH_BYTES };
            let coming = app.bus().read(&Topic::Events, at, limit).await?;
            let Some(last) = coming.last() else { break };
            at = last.position;
            for entry in &coming {
                found.remove(&entry.id);
            }
        }
        Ok(found)
    }

    /// The events of the database that wait for one of these, or for one that does, as far as they are dealt with at once.
    async fn followers_of(&self, tx: &mut Tx, mut leaders: Vec<Uuid>) -> Result<Vec<Arc<ReceivedEvent>>, EngineError> {
        let mut all: Vec<Arc<ReceivedEvent>> = Vec::new();
        let mut known = HashSet::new();
        for _ in 0..DEPTH {
            leaders.retain(|leader| self.awaited.contains(leader));
            if leaders.is_empty() {
                break;
            }
            let found = state::followers(tx, &leaders).await?;
            leaders.clear();
            for event in found {
                if known.insert(event.event.id) {
                    leaders.push(event.event.id);
                    all.push(Arc::new(event));
                }
            }
        }
        Ok(all)
    }

    /// Evaluates triggers, and writes what comes of it. `may_split`: the caller can do with less at a time.
    async fn evaluate(&mut self, tx: &mut Tx, meetings: &[Meeting], may_split: bool, now: Timestamp) -> Result<(), EngineError> {
        let evaluations: usize = meetings.iter().map(|meeting| meeting.places.len()).sum();
        if evaluations == 0 {
            return Ok(());
        }
        if evaluations > limits::TRIGGERS_EVALUATIONS && may_split {
            return Err(EngineError::TooMany(evaluations));
        }
        let mut keys: HashSet<BucketKey> = HashSet::new();
        for meeting in meetings {
            for place in &meeting.places {
                if let Some(trigger) = self.index.node(*place).event_trigger() {
                    keys.insert(Workspace::key_of(&self.index, *place, trigger.bucketing_key(&meeting.event.event)));
                }
            }
        }
        let automations: HashSet<AutomationId> = keys.iter().map(|key| key.automation_id).collect();
        let there = self.hold(tx, automations).await?;
        let keys: Vec<&BucketKey> = keys.iter().filter(|key| there.contains(&key.automation_id)).collect();
        let buckets = state::buckets(tx, &keys).await?;
        let firings = self.child_firings(tx, &there).await?;
        let mut workspace = Workspace::new(&self.index, buckets, firings, self.stamp.at_least(now));
        for meeting in meetings {
            for place in &meeting.places {
                if there.contains(&self.index.node(*place).automation.id) {
                    workspace.react(*place, &meeting.event);
                }
            }
        }
        let outcome = workspace.finish();
        self.write(tx, outcome, now).await
    }

    /// Those of the automations that have not been deleted meanwhile; they stay until the end of the transaction.
    async fn hold(&self, tx: &mut Tx, automations: HashSet<AutomationId>) -> Result<HashSet<AutomationId>, EngineError> {
        let ids: Vec<AutomationId> = automations.into_iter().collect();
        Ok(store::hold(tx, &ids).await?.into_iter().collect())
    }

    /// The child firings of those automations that have triggers over others.
    async fn child_firings(&self, tx: &mut Tx, automations: &HashSet<AutomationId>) -> Result<Vec<ChildFiring>, EngineError> {
        let composite: Vec<AutomationId> = automations.iter().copied().filter(|id| self.index.is_composite(*id)).collect();
        if composite.is_empty() { Ok(Vec::new()) } else { Ok(state::child_firings(tx, &composite).await?) }
    }

    async fn write(&mut self, tx: &mut Tx, outcome: Outcome, now: Timestamp) -> Result<(), EngineError> {
        let Outcome { buckets, gone_buckets, firings, gone_firings, fired, stamp } = outcome;
        self.stamp = stamp;
        if !gone_buckets.is_empty() {
            state::delete_buckets(tx, &gone_buckets.iter().collect::<Vec<_>>()).await?;
        }
        if !buckets.is_empty() {
            state::write_buckets(tx, buckets.iter().map(|(key, bucket)| (key, bucket)).collect(), now).await?;
        }
        if !gone_firings.is_empty() {
            state::delete_child_firings(tx, &gone_firings).await?;
        }
        if !firings.is_empty() {
            state::write_child_firings(tx, &firings, now).await?;
        }
        for fired in fired {
            tracing::debug!(automation = %fired.automation.id, trigger = %fired.firing.trigger.id(), "an automation fired");
            let (events, actions) = fired.consequences();
            for event in events {
                tx.emit(event);
            }
            for action in actions {
                tx.act(action);
            }
        }
        Ok(())
    }

    /// Keeps and forgets followers.
    async fn settle(&mut self, tx: &mut Tx, left: Left, now: Timestamp) -> Result<(), EngineError> {
        if !left.to_keep.is_empty() {
            state::keep_followers(tx, &left.to_keep, now).await?;
            self.awaited.extend(left.to_keep.iter().filter_map(|event| event.event.follows));
        }
        if !left.to_forget.is_empty() {
            state::forget_followers(tx, &left.to_forget).await?;
        }
        Ok(())
    }

    /// Does what is due by the clock: evaluates events whose leader never came, looks at one proactive trigger, deletes
    /// buckets that are over. True where more is due.
    ///
    /// # Errors
    /// As [`Self::consume`].
    pub async fn tick(&mut self, app: &App, tx: &mut Tx) -> Result<bool, EngineError> {
        self.pending.clear();
        self.refresh(tx).await?;
        let now = app.now();
        let must_tidy = self.must_tidy(app, now);
        if must_tidy {
            let lost = state::lost_followers(tx, now - LOOKBACK, limits::TRIGGERS_LOST_FOLLOWERS).await?;
            if !lost.is_empty() {
                let more = lost.len() as u64 == limits::TRIGGERS_LOST_FOLLOWERS;
                self.evaluate_lost(tx, lost, now).await?;
                if more {
                    return Ok(true);
                }
            }
        }
        let as_of = self.as_of(app, tx, now).await?;
        if let Some(place) = self.due_proactive(now) {
            self.look(tx, place, now, as_of).await?;
            return Ok(true);
        }
        if must_tidy {
            // Only after all that were due: what is over is not deleted before it was looked at.
            let buffer = TimeDelta::from_std(app.settings().events.expired_bucket_buffer).unwrap_or(TimeDelta::minutes(1));
            state::sweep(tx, as_of - buffer).await?;
            self.pending.push(Pending::Tidied(now));
        }
        Ok(false)
    }

    /// The moment as of which it is known what has happened: not past the first event that waits to be evaluated, as many
    /// do after an outage. Else what is among them would count as what did not happen, and counts that they go on with
    /// would be deleted. (The reference goes by the events so far alone.)
    async fn as_of(&self, app: &App, tx: &mut Tx, now: Timestamp) -> Result<Timestamp, EngineError> {
        let position = cursors::read(tx, TRIGGERS_GROUP, &app.stream_name(&Topic::Events)).await?;
        let limit = ReadLimit { entries: 1, ..ReadLimit::default() };
        let waiting = match app.bus().read(&Topic::Events, position, limit).await {
            Ok(entries) => entries.first().and_then(|entry| Timestamp::from_timestamp_millis(entry.at)),
            // Nothing is left of it; the consumer sees to its cursor.
            Err(BusError::Trimmed { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(self.clock.as_of(waiting.map_or(now, |at| at.min(now))))
    }

    /// True where [`Self::tick`] has something to do.
    pub fn is_due(&self, app: &App) -> bool {
        let now = app.now();
        self.must_tidy(app, now) || self.due_proactive(now).is_some()
    }

    fn must_tidy(&self, app: &App, now: Timestamp) -> bool {
        let granularity = TimeDelta::from_std(app.settings().events.proactive_granularity).unwrap_or(TimeDelta::seconds(5));
        self.tidied.is_none_or(|tidied| now - tidied >= granularity)
    }

    /// The transaction of the last tick is committed.
    pub fn committed(&mut self) {
        for pending in self.pending.drain(..) {
            match pending {
                Pending::Looked { trigger, again } => drop(self.next_looks.insert(trigger, again)),
                Pending::Tidied(at) => self.tidied = Some(at),
            }
        }
    }

    async fn evaluate_lost(&mut self, tx: &mut Tx, lost: Vec<ReceivedEvent>, now: Timestamp) -> Result<(), EngineError> {
        let mut lost: Vec<Arc<ReceivedEvent>> = lost.into_iter().map(Arc::new).collect();
        lost.sort_by_key(|event| event.event.occurred);
        let kept = self.followers_of(tx, lost.iter().map(|event| event.event.id).collect()).await?;
        let (index, position) = (&self.index, self.position);
        let mut meetings = Vec::new();
        let mut sequencer = Sequencer::new(&mut self.seen, now, HashSet::new(), kept);
        let mut evaluate = |event: Option<&Arc<ReceivedEvent>>| {
            if let Some(event) = event {
                let places = index.concerned(&event.event);
                if !places.is_empty() {
                    meetings.push(Meeting { event: event.clone(), places });
                }
            }
        };
        for event in &lost {
            self.clock.update(event.event.occurred, now);
            sequencer.give_up_waiting(event, position, &mut evaluate);
        }
        let left = sequencer.finish();
        self.evaluate(tx, &meetings, false, now).await?;
        self.settle(tx, left, now).await
    }

    fn due_proactive(&self, now: Timestamp) -> Option<Place> {
        self.index.proactive().find(|place| {
            let node = self.index.node(*place);
            self.next_looks.get(&(node.automation.id, node.trigger.id())).is_none_or(|next| *next <= now)
        })
    }

    /// Looks at a proactive trigger: what has not happened in time, as of a moment up to which that is known, makes it fire.
    async fn look(&mut self, tx: &mut Tx, place: Place, now: Timestamp, as_of: Timestamp) -> Result<(), EngineError> {
        let node = self.index.node(place);
        let (automation, trigger_id): (Arc<Automation>, Uuid) = (node.automation.clone(), node.trigger.id());
        let Some(trigger) = node.event_trigger() else { return Ok(()) };
        let (threshold, within, has_one) = (trigger.threshold, trigger.within(), trigger.for_each.is_empty());
        let there = self.hold(tx, HashSet::from([automation.id])).await?;
        let mut again = now + LOOK_MIN;
        if !there.is_empty() {
            if has_one {
                let key = Workspace::key_of(&self.index, place, Vec::new());
                let buckets = state::buckets(tx, &[&key]).await?;
                let mut workspace = Workspace::new(&self.index, buckets, Vec::new(), self.stamp.at_least(now));
                workspace.ensure_proactive(place, as_of);
                let outcome = workspace.finish();
                self.write(tx, outcome, now).await?;
            }
            state::delete_satisfied(tx, automation.id, trigger_id, threshold).await?;
            let due = state::due_buckets(tx, automation.id, trigger_id, as_of, limits::PROACTIVE_BUCKETS).await?;
            let more = due.len() as u64 == limits::PROACTIVE_BUCKETS;
            if !due.is_empty() {
                let keys: Vec<BucketKey> = due.iter().map(|(key, _)| key.clone()).collect();
                let firings = self.child_firings(tx, &there).await?;
                let mut workspace = Workspace::new(&self.index, due, firings, self.stamp.at_least(now));
                for key in &keys {
                    workspace.look(place, key, as_of);
                }
                let outcome = workspace.finish();
                self.write(tx, outcome, now).await?;
            }
            again = as_of + within;
            if let Some(end) = state::next_end(tx, automation.id, trigger_id, as_of).await? {
                again = again.min(end);
            }
            again = if more { now } else { again.max(now + LOOK_MIN) };
        }
        self.pending.push(Pending::Looked { trigger: (automation.id, trigger_id), again });
        Ok(())
    }
}
