//! What happened, as one number; and as lines, for whoever replays a seed.
//!
//! Two runs of one seed have to give the same number: of every segment that arrived, every entry applied, every answer, every fault.

use std::cell::{Cell, RefCell};

thread_local! {
    static SUM: Cell<u64> = const { Cell::new(0) };
    static NOW: Cell<u64> = const { Cell::new(0) };
    /// `None` where nobody reads them.
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Begins anew.
pub(super) fn begin(lines: bool) {
    SUM.set(0);
    NOW.set(0);
    LINES.replace(lines.then(Vec::new));
}

/// It is `now`.
pub(super) fn pass(now: u64) {
    NOW.set(now);
}

/// The time.
pub(super) fn now() -> u64 {
    NOW.get()
}

/// Something happened.
pub(super) fn note(what: u64, which: u64) {
    let fold = |sum: u64, value: u64| (sum ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    SUM.set(fold(fold(fold(SUM.get(), NOW.get()), what), which));
}

/// Something happened that a reader wants to know.
pub(super) fn tell(what: impl FnOnce() -> String) {
    LINES.with_borrow_mut(|lines| {
        if let Some(lines) = lines {
            lines.push(format!("{:>6} ms  {}", NOW.get(), what()));
        }
    });
}

/// What `note` came to.
pub(super) fn sum() -> u64 {
    SUM.get()
}

/// What was told.
pub(super) fn lines() -> Vec<String> {
    LINES.take().unwrap_or_default()
}
