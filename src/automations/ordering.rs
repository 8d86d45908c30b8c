//! Events in the order in which they follow one another (`prefect/server/events/ordering/`): an event that says what it
//! follows waits until that has been dealt with, for a while; an event is dealt with once.
//!
//! Everything goes by positions of the stream, so that a batch which is tried again after a failure comes out the same.
//! Unlike the reference what waits is kept in the database. Like there, one event releases [`DEPTH`] followers of followers
//! and no more, whatever a client has chained, so that the work of a batch is bounded; those behind them are dealt with
//! when they have waited for long enough.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use chrono::TimeDelta;
use uuid::Uuid;

use crate::bus::Position;
use crate::clock::Timestamp;
use crate::limits;
use crate::model::event::ReceivedEvent;

/// How long an event waits for the one that it follows.
pub const LOOKBACK: TimeDelta = TimeDelta::minutes(15);

/// How deep the followers of followers go that one event releases.
pub const DEPTH: usize = 20;

/// Which events have been dealt with, and at which position; the newest of them.
#[derive(Debug, Default)]
pub struct Seen {
    at: HashMap<Uuid, Position>,
    order: VecDeque<Uuid>,
}

impl Seen {
    /// Notes that an event was dealt with at a position. The first time counts.
    pub fn note(&mut self, id: Uuid, position: Position) {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.at.entry(id) {
            entry.insert(position);
            self.order.push_back(id);
            if self.order.len() > limits::TRIGGERS_SEEN_EVENTS
                && let Some(oldest) = self.order.pop_front()
            {
                self.at.remove(&oldest);
            }
        }
    }

    /// True where the event was dealt with before this position.
    pub fn before(&self, id: Uuid, position: Position) -> bool {
        self.at.get(&id).is_some_and(|at| *at < position)
    }

    /// True where the event was dealt with at this position or before.
    pub fn by(&self, id: Uuid, position: Position) -> bool {
        self.at.get(&id).is_some_and(|at| *at <= position)
    }
}

/// What is to be known of an event before anything else.
#[derive(Debug, Clone, Copy)]
pub struct Offered {
    pub id: Uuid,
    pub follows: Option<Uuid>,
    pub received: Timestamp,
    /// The database may have it among those that wait.
    pub may_be_kept: bool,
}

impl Offered {
    /// What has to go before it, where that is another event.
    pub fn leader(&self) -> Option<Uuid> {
        self.follows.filter(|leader| *leader != self.id)
    }

    /// True where it is young enough to wait.
    pub fn may_wait(&self, now: Timestamp) -> bool {
        now - self.received < LOOKBACK
    }
}

struct Waiting {
    event: Arc<ReceivedEvent>,
    /// The database has it.
    kept: bool,
}

/// Brings one batch into order.
pub struct Sequencer<'s> {
    seen: &'s mut Seen,
    now: Timestamp,
    /// Leaders that went by long ago.
    gone_by: HashSet<Uuid>,
    waiting: HashMap<Uuid, Vec<Waiting>>,
    waiting_ids: HashSet<Uuid>,
    /// Rows of the database that need not wait any more.
    released: HashSet<Uuid>,
}

/// What is left of a batch.
#[derive(Debug, Default)]
pub struct Left {
    /// Events to keep until their leader comes.
    pub to_keep: Vec<Arc<ReceivedEvent>>,
    /// Events to forget in the database.
    pub to_forget: Vec<Uuid>,
}

impl<'s> Sequencer<'s> {
    /// Begins a batch. `kept` are the events of the database that wait for one of it; `gone_by` are leaders that are known
    /// to have been dealt with, though `seen` does not remember.
    pub fn new(seen: &'s mut Seen, now: Timestamp, gone_by: HashSet<Uuid>, kept: Vec<Arc<ReceivedEvent>>) -> Self {
        let mut sequencer = Self { seen, now, gone_by, waiting: HashMap::new(), waiting_ids: HashSet::new(), released: HashSet::new() };
        for event in kept {
            sequencer.wait(event, true);
        }
        sequencer
    }

    fn wait(&mut self, event: Arc<ReceivedEvent>, kept: bool) {
        let Some(leader) = event.event.follows else { return };
        if self.waiting_ids.insert(event.event.id) {
            self.waiting.entry(leader).or_default().push(Waiting { event, kept });
        }
    }

    /// Deals with the next event of the stream: calls `evaluate` with it (`None`: the event itself) and then with those
    /// that waited for it, or has it wait. `read` gives the whole event, where it is needed.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn offer<E>(
        &mut self,
        offered: Offered,
        position: Position,
        read: impl FnOnce() -> Result<ReceivedEvent, E>,
        evaluate: &mut impl FnMut(Option<&Arc<ReceivedEvent>>),
    ) -> Result<(), E> {
        if self.seen.before(offered.id, position) {
            return Ok(());
        }
        if let Some(leader) = offered.leader()
            && offered.may_wait(self.now)
            && !self.seen.by(leader, position)
            && !self.gone_by.contains(&leader)
        {
            if !self.waiting_ids.contains(&offered.id) {
                self.wait(Arc::new(read()?), false);
            }
            return Ok(());
        }
        self.seen.note(offered.id, position);
        if self.stop_waiting(&offered) || offered.may_be_kept {
            self.released.insert(offered.id);
        }
        evaluate(None);
        self.release(offered.id, position, evaluate);
        Ok(())
    }

    /// An event that waits, behind others that were too many at once, may come again when its leader has been dealt with.
    fn stop_waiting(&mut self, offered: &Offered) -> bool {
        let Some(leader) = offered.follows.filter(|_| self.waiting_ids.contains(&offered.id)) else { return false };
        let Some(waiting) = self.waiting.get_mut(&leader) else { return false };
        let before = waiting.len();
        waiting.retain(|waiting| waiting.event.event.id != offered.id);
        waiting.len() < before
    }

    /// Deals with what waits for an event, in the order in which it occurred, each before its own followers, to the depth
    /// of [`DEPTH`].
    fn release(&mut self, leader: Uuid, position: Position, evaluate: &mut impl FnMut(Option<&Arc<ReceivedEvent>>)) {
        let at = |depth| move |waiting| (depth, waiting);
        let mut stack: Vec<(usize, Waiting)> = self.waiting_for(leader).into_iter().map(at(1)).collect();
        while let Some((depth, Waiting { event, kept })) = stack.pop() {
            // One that was given up may follow those that follow it.
            if kept && !self.released.insert(event.event.id) {
                continue;
            }
            // What waits was not dealt with, whatever a try that failed may have noted.
            self.seen.note(event.event.id, position);
            evaluate(Some(&event));
            if depth < DEPTH {
                stack.extend(self.waiting_for(event.event.id).into_iter().map(at(depth + 1)));
            } else if self.waiting.contains_key(&event.event.id) {
                tracing::info!(event.id = %event.event.id, "more events follow one another than are dealt with at once; the rest waits");
            }
        }
    }

    /// What waits for an event, the last first.
    fn waiting_for(&mut self, leader: Uuid) -> Vec<Waiting> {
        let mut waiting = self.waiting.remove(&leader).unwrap_or_default();
        waiting.sort_by_key(|waiting| std::cmp::Reverse(waiting.event.event.occurred));
        waiting
    }

    /// Deals with an event whose leader never came, as if it followed nothing; not again where another one that was given up
    /// has released it.
    pub fn give_up_waiting(
        &mut self,
        event: &Arc<ReceivedEvent>,
        position: Position,
        evaluate: &mut impl FnMut(Option<&Arc<ReceivedEvent>>),
    ) {
        if !self.released.insert(event.event.id) {
            return;
        }
        self.seen.note(event.event.id, position);
        evaluate(Some(event));
        self.release(event.event.id, position, evaluate);
    }

    /// Ends the batch.
    pub fn finish(self) -> Left {
        let mut to_keep: Vec<Arc<ReceivedEvent>> =
            self.waiting.into_values().flatten().filter(|waiting| !waiting.kept).map(|waiting| waiting.event).collect();
        to_keep.sort_by_key(|event| event.event.id);
        let mut to_forget: Vec<Uuid> = self.released.into_iter().collect();
        to_forget.sort_unstable();
        Left { to_keep, to_forget }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::{Event, Resource};

    fn event(id: u128, follows: Option<u128>, occurred: i64) -> ReceivedEvent {
        let at = Timestamp::from_timestamp(occurred, 0).expect("a moment");
        let event = Event {
            occurred: at,
            event: "x".into(),
            resource: Resource::new(),
            related: Vec::new(),
            payload: serde_json::Map::new(),
            id: Uuid::from_u128(id),
            follows: follows.map(Uuid::from_u128),
        };
        ReceivedEvent { event, received: Timestamp::from_timestamp(1000, 0).expect("a moment") }
    }

    /// Offers events at positions from `from` on; gives the order of their evaluation, and what is left.
    fn run(seen: &mut Seen, now: i64, kept: Vec<ReceivedEvent>, from: Position, events: &[ReceivedEvent]) -> (Vec<u128>, Left) {
        let now = Timestamp::from_timestamp(now, 0).expect("a moment");
        let mut sequencer = Sequencer::new(seen, now, HashSet::new(), kept.into_iter().map(Arc::new).collect());
        let mut order = Vec::new();
        for (index, event) in events.iter().enumerate() {
            let id = event.event.id;
            let offered = Offered { id, follows: event.event.follows, received: event.received, may_be_kept: false };
            let mut evaluate = |of: Option<&Arc<ReceivedEvent>>| order.push(of.map_or(id, |event| event.event.id).as_u128());
            sequencer.offer(offered, from + index as u64, || Ok::<_, ()>(event.clone()), &mut evaluate).expect("no error");
        }
        (order, sequencer.finish())
    }

    #[test]
    fn followers_wait_for_their_leaders_within_a_batch() {
        let events = [event(3, Some(2), 3), event(2, Some(1), 2), event(4, Some(1), 1), event(1, None, 0), event(5, Some(3), 5)];
        let (order, left) = run(&mut Seen::default(), 1001, Vec::new(), 1, &events);
        assert_eq!(order, [1, 4, 2, 3, 5], "by time, each before its own followers");
        assert!(left.to_keep.is_empty() && left.to_forget.is_empty());
    }

    #[test]
    fn what_is_kept_is_released_by_a_later_batch_once() {
        let mut seen = Seen::default();
        let (order, left) = run(&mut seen, 1001, Vec::new(), 1, &[event(2, Some(1), 2), event(2, Some(1), 2)]);
        assert!(order.is_empty());
        assert_eq!(left.to_keep.len(), 1);
        let again = [event(2, Some(1), 2), event(1, None, 1), event(2, Some(1), 2)];
        let (order, left) = run(&mut seen, 1001, vec![event(2, Some(1), 2)], 3, &again);
        assert_eq!(order, [1, 2]);
        assert_eq!(left.to_forget, [Uuid::from_u128(2)]);
    }

    #[test]
    fn a_repetition_is_passed_over_but_a_second_try_is_none() {
        let mut seen = Seen::default();
        let events = [event(1, None, 0), event(2, Some(1), 1), event(1, None, 0)];
        assert_eq!(run(&mut seen, 1001, Vec::new(), 7, &events).0, [1, 2]);
        assert_eq!(run(&mut seen, 1001, Vec::new(), 7, &events).0, [1, 2], "the same positions again: the transaction failed");
        assert!(run(&mut seen, 1001, Vec::new(), 20, &events).0.is_empty(), "later positions: repetitions");
    }

    #[test]
    fn an_old_event_waits_for_nobody_and_nobody_waits_for_itself() {
        let later = 1000 + 15 * 60;
        assert_eq!(run(&mut Seen::default(), later, Vec::new(), 1, &[event(2, Some(1), 0)]).0, [2]);
        assert!(run(&mut Seen::default(), later - 1, Vec::new(), 1, &[event(2, Some(1), 0)]).0.is_empty());
        assert_eq!(run(&mut Seen::default(), 1001, Vec::new(), 1, &[event(2, Some(2), 0)]).0, [2]);
    }

    #[test]
    fn events_that_follow_each_other_end() {
        let (order, left) = run(&mut Seen::default(), 1001, Vec::new(), 1, &[event(1, Some(2), 0), event(2, Some(1), 0)]);
        assert!(order.is_empty());
        assert_eq!(left.to_keep.len(), 2);
    }

    /// A chain that comes from its end to its beginning: event 0, followed by 1, and so on up to `last`.
    fn backwards(last: u128) -> Vec<ReceivedEvent> {
        (0..=last).rev().map(|id| event(id, id.checked_sub(1), id as i64)).collect()
    }

    #[test]
    fn one_event_releases_so_many_that_follow_one_another_and_the_rest_waits() {
        let depth = DEPTH as u128;
        let mut seen = Seen::default();
        let (order, left) = run(&mut seen, 1001, Vec::new(), 1, &backwards(depth + 2));
        assert_eq!(order, (0..=depth).collect::<Vec<_>>());
        let waits = |left: &Left| left.to_keep.iter().map(|event| event.event.id.as_u128()).collect::<Vec<_>>();
        assert_eq!(waits(&left), [depth + 1, depth + 2]);
        assert!(left.to_forget.is_empty());

        // One of the rest comes again: it need not wait any more, and takes with it what waits for it.
        let again = [event(depth + 1, Some(depth), 0)];
        let (order, left) = run(&mut seen, 1001, left.to_keep.iter().map(|event| (**event).clone()).collect(), 100, &again);
        assert_eq!(order, [depth + 1, depth + 2]);
        assert_eq!(left.to_forget, [depth + 1, depth + 2].map(Uuid::from_u128));
        assert!(left.to_keep.is_empty());
    }

    #[test]
    fn events_that_are_given_up_together_are_dealt_with_once() {
        let later = Timestamp::from_timestamp(1000 + 15 * 60, 0).expect("a moment");
        for lost in [[event(2, Some(1), 2), event(3, Some(2), 3)], [event(2, Some(3), 2), event(3, Some(2), 3)]] {
            let lost: Vec<Arc<ReceivedEvent>> = lost.into_iter().map(Arc::new).collect();
            let mut seen = Seen::default();
            let mut sequencer = Sequencer::new(&mut seen, later, HashSet::new(), lost.clone());
            let mut order = Vec::new();
            for event in &lost {
                sequencer.give_up_waiting(event, 9, &mut |event| order.extend(event.map(|event| event.event.id.as_u128())));
            }
            assert_eq!(order, [2, 3]);
            assert_eq!(sequencer.finish().to_forget, [2, 3].map(Uuid::from_u128));
        }
    }
}
