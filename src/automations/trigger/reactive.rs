//! An event meets a trigger (`prefect/server/events/triggers.py`).
//!
//! A trigger has one bucket at a time for each value of its labels. An event is counted in it, opens it, or comes too late
//! for it. A reactive trigger fires as soon as it has seen enough and then waits for the rest of the span; a proactive one
//! can only fire when the span is over.

use std::sync::Arc;

use super::{Workspace, after, firing};
use crate::automations::index::Place;
use crate::automations::ordering::LOOKBACK;
use crate::clock::Timestamp;
use crate::model::automation::{Bucket, BucketKey, EventTrigger, Posture};
use crate::model::event::ReceivedEvent;

impl Workspace<'_> {
    /// Evaluates a trigger that covers the event.
    pub fn react(&mut self, place: Place, event: &Arc<ReceivedEvent>) {
        let Some(trigger) = self.index.node(place).event_trigger() else { return };
        let (name, occurred) = (&event.event.event, event.event.occurred);
        let key = Self::key_of(self.index, place, trigger.bucketing_key(&event.event));
        let expected = trigger.expects(name);
        if trigger.starts_after(name) {
            // What opens a bucket does not count in it: it counts from below zero then.
            let count = if expected { -1 } else { 0 };
            self.ensure(&key, occurred, after(occurred, trigger.within()), count, Some(event));
        } else if trigger.after.is_empty() && expected {
            // The first bucket begins early, for events that come out of order.
            let start = occurred.checked_sub_signed(LOOKBACK).unwrap_or(occurred);
            self.ensure(&key, start, after(occurred, trigger.within()), 0, Some(event));
        }
        if expected && self.bucket(&key).is_some() {
            self.evaluate(place, &key, occurred, Some(event));
        }
    }

    /// Opens a bucket unless there is one, which only learns of its last event.
    pub(super) fn ensure(&mut self, key: &BucketKey, start: Timestamp, end: Timestamp, count: i64, event: Option<&Arc<ReceivedEvent>>) {
        let bucket = match self.bucket(key) {
            Some(_) if event.is_none() => return,
            Some(bucket) => Bucket { last_event: event.cloned(), ..bucket.clone() },
            None => Bucket { start, end, count, last_event: event.cloned(), last_operation: "ensure_bucket" },
        };
        self.put(key, Some(bucket));
    }

    fn start_new(&mut self, key: &BucketKey, start: Timestamp, end: Timestamp, count: i64, event: Option<&Arc<ReceivedEvent>>) {
        let bucket = Bucket { start, end, count, last_event: event.cloned(), last_operation: "start_new_bucket" };
        self.put(key, Some(bucket));
    }

    /// Evaluates the bucket at a moment: that of an event, or, without one, of a look at the clock.
    pub(super) fn evaluate(&mut self, place: Place, key: &BucketKey, now: Timestamp, event: Option<&Arc<ReceivedEvent>>) {
        let index = self.index;
        let Some(trigger) = index.node(place).event_trigger() else { return };
        let Some(mut bucket) = self.bucket(key).cloned() else { return };
        if now < bucket.start {
            // Too late for this bucket.
            return;
        }
        let mut to_count = i64::from(event.is_some());
        if to_count > 0 && (trigger.is_immediate() || now < bucket.end) {
            bucket.count += to_count;
            bucket.last_event = event.cloned();
            bucket.last_operation = "increment_bucket";
            to_count = 0;
            self.put(key, Some(bucket.clone()));
        }
        let ready = trigger.posture == Posture::Reactive || bucket.end <= now;
        let enough = trigger.meets_threshold(bucket.count);
        if ready && enough {
            self.fire_bucket(place, trigger, key, &bucket, event);
            self.put(key, None);
        } else if now < bucket.end {
            // The same event opens the bucket and is what it waits for: the span begins anew with it.
            if let Some(event) = event
                && trigger.posture == Posture::Proactive
                && !enough
                && trigger.starts_after(&event.event.event)
                && trigger.expects(&event.event.event)
            {
                let occurred = event.event.occurred;
                self.start_new(key, occurred, after(occurred, trigger.within()), 0, Some(event));
            }
            return;
        }
        // It fired, or its span is over.
        if !trigger.after.is_empty() {
            return self.put(key, None);
        }
        if trigger.within == 0.0 {
            return;
        }
        let start = bucket.end.max(now);
        let end = after(start, trigger.within());
        if trigger.posture == Posture::Reactive && to_count > 0 && start < end {
            // The event belongs to the next span, and may be enough there.
            self.start_new(key, start, end, 0, None);
            self.evaluate(place, key, now, event);
        } else {
            self.start_new(key, start, end, to_count, None);
        }
    }

    fn fire_bucket(&mut self, place: Place, trigger: &EventTrigger, key: &BucketKey, bucket: &Bucket, event: Option<&Arc<ReceivedEvent>>) {
        let labels = trigger.for_each.iter().cloned().zip(key.values.iter().cloned()).collect();
        let triggering = event.or(bucket.last_event.as_ref()).map(|event| (**event).clone());
        let triggered = self.stamp.next();
        let firing = firing(place, self.index, triggered, labels, triggering);
        self.fire(place, firing);
    }
}
