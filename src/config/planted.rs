//! Bugs on purpose, in builds with the feature `planted-bugs`: fault runs show by them that they would be found. In every
//! other build [`Planted::is_here`] is false for the compiler, and nothing of them is left.

use std::sync::OnceLock;

/// A bug. `PRAETOR_FAILPOINT` takes it by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// `planted.ack_early`: a pong is sent before what was read ahead of its ping is committed.
    AckEarly,
    /// `planted.no_dedupe`: the bus appends a message again whose id it has.
    NoDedupe,
    /// `planted.no_fence`: services do not look whether their node still leads, and hear of it late.
    NoFence,
    /// `planted.cursor_without_effect`: a consumer passes over some batches.
    CursorWithoutEffect,
    /// `planted.stale_read`: a node answers some reads of runs and variables as it did a little earlier.
    StaleRead,
    /// `planted.no_limit`: leases are given whether or not slots are left.
    NoLimit,
    /// `planted.lease_leak`: slots of leases that ran out are not taken back.
    LeaseLeak,
    /// `planted.slot_twice`: each process has keys of its own for the slots of schedules.
    SlotTwice,
    /// `planted.ack_ignored`: a background task that was acknowledged is handed out again.
    AckIgnored,
    /// `planted.action_key`: each attempt at an action has a key of its own.
    ActionKey,
    /// `planted.epoch_back`: a node tells of an older epoch now and then.
    EpochBack,
}

static HERE: OnceLock<Planted> = OnceLock::new();

impl Planted {
    const ALL: [(&'static str, Self); 11] = [
        ("planted.ack_early", Self::AckEarly),
        ("planted.no_dedupe", Self::NoDedupe),
        ("planted.no_fence", Self::NoFence),
        ("planted.cursor_without_effect", Self::CursorWithoutEffect),
        ("planted.stale_read", Self::StaleRead),
        ("planted.no_limit", Self::NoLimit),
        ("planted.lease_leak", Self::LeaseLeak),
        ("planted.slot_twice", Self::SlotTwice),
        ("planted.ack_ignored", Self::AckIgnored),
        ("planted.action_key", Self::ActionKey),
        ("planted.epoch_back", Self::EpochBack),
    ];

    /// The bug of this name, in a build that has it.
    pub(super) fn of(name: &str) -> Option<Self> {
        let named = Self::ALL.into_iter().find(|(known, _)| *known == name);
        named.filter(|_| cfg!(feature = "planted-bugs")).map(|(_, bug)| bug)
    }

    /// Has this process have the bug from now on.
    pub(super) fn plant(self) {
        // A process reads its settings once.
        let _first = HERE.set(self);
    }

    /// Whether this process has the bug.
    #[inline]
    pub fn is_here(self) -> bool {
        cfg!(feature = "planted-bugs") && HERE.get() == Some(&self)
    }
}

/// What was read, or with [`Planted::StaleRead`] what was read under this key up to half a second earlier.
#[cfg(feature = "planted-bugs")]
#[expect(clippy::disallowed_methods, reason = "a bug has no clock")]
pub fn stale<T: Clone + Send + 'static>(key: impl FnOnce() -> String, fresh: T) -> T {
    use std::any::Any;
    use std::collections::HashMap;
    use std::time::{Duration, Instant};

    use parking_lot::Mutex;

    type Seen = HashMap<String, (Instant, Box<dyn Any + Send>)>;
    static SEEN: Mutex<Option<Seen>> = Mutex::new(None);
    if !Planted::StaleRead.is_here() {
        return fresh;
    }
    let key = key();
    let mut seen = SEEN.lock();
    let seen = seen.get_or_insert_default();
    match seen.get(&key).map(|(at, value)| (at.elapsed(), value.downcast_ref::<T>())) {
        Some((age, Some(value))) if age < Duration::from_millis(500) => value.clone(),
        _ => {
            seen.insert(key, (Instant::now(), Box::new(fresh.clone())));
            fresh
        }
    }
}

/// What was read.
#[cfg(not(feature = "planted-bugs"))]
#[inline]
pub fn stale<T>(_: impl FnOnce() -> String, fresh: T) -> T {
    fresh
}
