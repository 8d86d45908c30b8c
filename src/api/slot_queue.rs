//! Lets requests for slots of full concurrency limits wait a moment, in the order in which they came.
//!
//! The reference refuses at once and says when to come again; a slot that comes back meanwhile lies idle, and goes to
//! whoever happens to ask next. Here a refused request stands in the line of its limits for [`limits::SLOT_WAIT`]. The
//! first of a line tries again when a commit on any node gave slots of its limits back, and now and then without having
//! been told. Nobody who comes later is served before it on this node; between nodes, and between lines that share a
//! limit, the first to ask wins.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::hints;
use crate::app::App;
use crate::bus::Topic;
use crate::id::ConcurrencyLimitId;
use crate::limits;
use crate::store::concurrency_limits::HINTS;

/// A handle; clones are the same queue.
#[derive(Clone)]
pub struct SlotQueue {
    lines: Arc<Mutex<Lines>>,
    stopping: CancellationToken,
}

/// One line for each set of limits that is waited for.
#[derive(Default)]
struct Lines {
    lines: HashMap<Arc<[ConcurrencyLimitId]>, VecDeque<Waiter>>,
    /// Over all lines.
    waiting: usize,
    /// Of all that ever stood in one.
    entered: u64,
}

struct Waiter {
    number: u64,
    slots: i64,
    turn: Arc<Notify>,
}

impl Lines {
    /// Has the first of each line try that waits for one of the limits; of all lines where `these` is `None`.
    fn wake(&self, these: Option<&dyn Fn(&ConcurrencyLimitId) -> bool>) {
        for (limits, line) in &self.lines {
            if these.is_none_or(|these| limits.iter().any(these))
                && let Some(first) = line.front()
            {
                first.turn.notify_one();
            }
        }
    }
}

/// A place in a line; dropped, it is left.
pub struct Place {
    queue: SlotQueue,
    limits: Arc<[ConcurrencyLimitId]>,
    number: u64,
    turn: Arc<Notify>,
}

impl SlotQueue {
    /// Starts the queue of this node.
    pub fn start(app: &App) -> Self {
        let queue = Self { lines: Arc::default(), stopping: app.tasks().stopping() };
        app.tasks().spawn_vital("slot_queue", queue.clone().listen(app.clone()));
        queue
    }

    async fn listen(self, app: App) {
        let topic = Topic::from(HINTS);
        let mut position = app.bus().last(&topic);
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                hinted = hints::wait(&app, &topic, position) => {
                    position = hinted.position;
                    let told = |limit: &ConcurrencyLimitId| hinted.bodies.contains(&limit.to_string());
                    self.lines.lock().wake(if hinted.all { None } else { Some(&told) });
                }
            }
        }
    }

    /// Whether somebody waits for slots of just these limits: who comes later must not pass.
    pub fn is_waited_for(&self, limits: &[ConcurrencyLimitId]) -> bool {
        let lines = self.lines.lock();
        lines.waiting > 0 && lines.lines.contains_key(&line_of(limits))
    }

    /// A place at the end of the line of these limits; `None` where too many wait on this node.
    pub fn enter(&self, limits: &[ConcurrencyLimitId], slots: i64) -> Option<Place> {
        let mut lines = self.lines.lock();
        if lines.waiting >= limits::SLOT_WAITERS {
            return None;
        }
        lines.waiting += 1;
        lines.entered += 1;
        let (number, limits, turn) = (lines.entered, line_of(limits), Arc::new(Notify::new()));
        lines.lines.entry(limits.clone()).or_default().push_back(Waiter { number, slots, turn: turn.clone() });
        Some(Place { queue: self.clone(), limits, number, turn })
    }
}

fn line_of(limits: &[ConcurrencyLimitId]) -> Arc<[ConcurrencyLimitId]> {
    let mut limits = limits.to_vec();
    limits.sort_unstable();
    limits.dedup();
    limits.into()
}

impl Place {
    /// Waits until it is worth trying; false where that is not to come before `deadline`, or the node stops.
    pub async fn turn(&self, deadline: Instant) -> bool {
        loop {
            let look = deadline.min(Instant::now() + limits::SLOT_LOOK);
            tokio::select! {
                biased;
                () = self.queue.stopping.cancelled() => return false,
                () = self.turn.notified() => return true,
                () = tokio::time::sleep_until(look) => {
                    if look >= deadline {
                        return false;
                    }
                    if self.ahead().is_none() {
                        return true;
                    }
                }
            }
        }
    }

    /// The slots that those want who are before it; `None` for the first.
    pub fn ahead(&self) -> Option<i64> {
        let lines = self.queue.lines.lock();
        let line = lines.lines.get(&self.limits)?;
        let before = line.iter().take_while(|waiter| waiter.number != self.number);
        before.map(|waiter| waiter.slots).reduce(i64::saturating_add)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.queue.lines.lock();
        lines.waiting -= 1;
        let Some(line) = lines.lines.get_mut(&self.limits) else { return };
        line.retain(|waiter| waiter.number != self.number);
        // Whatever it leaves may be enough for the next, who was not told.
        match line.front() {
            Some(next) => next.turn.notify_one(),
            None => {
                lines.lines.remove(&self.limits);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn queue() -> SlotQueue {
        SlotQueue { lines: Arc::default(), stopping: CancellationToken::new() }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(10)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_of_each_line_is_told_and_the_next_when_it_leaves() {
        let queue = queue();
        let (a, b) = (ConcurrencyLimitId::fresh(), ConcurrencyLimitId::fresh());
        assert!(!queue.is_waited_for(&[a]));
        let first = queue.enter(&[a], 2).expect("room");
        let second = queue.enter(&[a], 3).expect("room");
        let both = queue.enter(&[b, a, a], 1).expect("room");
        assert!(queue.is_waited_for(&[a]) && queue.is_waited_for(&[a, b]) && !queue.is_waited_for(&[b]));
        assert_eq!((first.ahead(), second.ahead(), both.ahead()), (None, Some(2), None));

        queue.lines.lock().wake(Some(&|limit| *limit == a));
        assert!(first.turn(soon()).await && both.turn(soon()).await);
        assert!(!second.turn(soon()).await, "it is not its turn");
        queue.lines.lock().wake(Some(&|limit| *limit == b));
        assert!(both.turn(soon()).await);
        assert!(!first.turn(soon()).await, "nothing came back");

        drop(first);
        assert_eq!(second.ahead(), None);
        assert!(second.turn(soon()).await, "the next is told");
        drop((second, both));
        assert!(!queue.is_waited_for(&[a]));
        assert_eq!(queue.lines.lock().lines.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_looks_without_being_told_and_the_others_do_not() {
        let queue = queue();
        let a = ConcurrencyLimitId::fresh();
        let (first, second) = (queue.enter(&[a], 1).expect("room"), queue.enter(&[a], 1).expect("room"));
        let deadline = Instant::now() + limits::SLOT_LOOK * 3;
        assert!(first.turn(deadline).await);
        assert!(Instant::now() < deadline);
        assert!(!second.turn(deadline).await);
        queue.stopping.cancel();
        assert!(!first.turn(Instant::now() + limits::SLOT_LOOK * 3).await);
    }

    #[tokio::test]
    async fn only_so_many_wait() {
        let queue = queue();
        let a = ConcurrencyLimitId::fresh();
        let mut places: Vec<Place> = (0..limits::SLOT_WAITERS).map(|_| queue.enter(&[a], 1).expect("room")).collect();
        assert!(queue.enter(&[a], 1).is_none());
        places.pop();
        assert!(queue.enter(&[a], 1).is_some());
    }
}
