//! Whether a node can work, part by part. Each part of the node reports its own state; `/readyz` shows all of them. A
//! part that never reported counts as not ready.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

/// The parts' states; clones are the same.
#[derive(Clone, Default)]
pub struct Readiness {
    parts: Arc<RwLock<BTreeMap<&'static str, Option<String>>>>,
    notes: Arc<RwLock<BTreeMap<&'static str, String>>>,
}

impl Readiness {
    /// No parts yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes `part` known, as not ready for `reason`.
    pub fn not_ready(&self, part: &'static str, reason: impl Into<String>) {
        self.parts.write().insert(part, Some(reason.into()));
    }

    /// `part` can work.
    pub fn ready(&self, part: &'static str) {
        self.parts.write().insert(part, None);
    }

    /// What there is to tell of a part that can work.
    pub fn note(&self, part: &'static str, note: String) {
        self.notes.write().insert(part, note);
    }

    /// What was last told of a part.
    pub fn noted(&self, part: &str) -> Option<String> {
        self.notes.read().get(part).cloned()
    }

    /// `part` is not here any more.
    pub fn forget(&self, part: &str) {
        self.parts.write().remove(part);
        self.notes.write().remove(part);
    }

    /// Whether every part can.
    pub fn is_ready(&self) -> bool {
        let parts = self.parts.read();
        !parts.is_empty() && parts.values().all(Option::is_none)
    }

    /// Each part with the reason why it cannot, by name.
    pub fn parts(&self) -> Vec<(&'static str, Option<String>)> {
        self.parts.read().iter().map(|(part, reason)| (*part, reason.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_when_all_its_parts_are() {
        let readiness = Readiness::new();
        assert!(!readiness.is_ready(), "no part has reported");
        readiness.ready("database");
        assert!(readiness.is_ready());
        readiness.not_ready("cluster", "there is no leader");
        assert!(!readiness.is_ready());
        assert_eq!(readiness.parts(), [("cluster", Some("there is no leader".to_owned())), ("database", None)]);
        readiness.ready("cluster");
        assert!(readiness.is_ready());
    }
}
