//! Keys with a version and an expiry. They expire when time moves on in `apply`, not when a reader looks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::command::{KeyCondition, Reply};
use super::rules::{KEY_BYTES_MAX, Rules};
use super::wire::proto;

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    /// Its bytes.
    pub bytes: Bytes,
    /// Grows with each change of any key; never used twice.
    pub version: u64,
    /// When it is gone.
    pub expires_at: Option<i64>,
}

/// The map that readers share.
pub(super) type Shared = Arc<RwLock<BTreeMap<Bytes, Value>>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Keys {
    map: Shared,
    version: u64,
    bytes: u64,
    by_expiry: BTreeSet<(i64, Bytes)>,
}

impl Keys {
    /// Keys in a map that readers already know.
    pub fn new(map: Shared) -> Keys {
        Keys { map, ..Keys::default() }
    }

    /// `Command::SetKey`.
    pub fn set(
        &mut self,
        now: i64,
        rules: &Rules,
        key: &Bytes,
        bytes: &Bytes,
        expires_after_ms: Option<u64>,
        condition: KeyCondition,
    ) -> Reply {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Reply::Refused(format!("a key has 1 to {KEY_BYTES_MAX} bytes, not {}", key.len()));
        }
        let (old_version, old_bytes, count) = {
            let map = self.map.read();
            let old = map.get(key);
            (old.map(|old| old.version), old.map(|old| (key.len() + old.bytes.len()) as u64), map.len() as u64)
        };
        let holds = match condition {
            KeyCondition::Always => true,
            KeyCondition::IfAbsent => old_version.is_none(),
            KeyCondition::IfVersion(version) => old_version == Some(version),
        };
        if !holds {
            return Reply::KeyConflict(old_version);
        }
        let size = (key.len() + bytes.len()) as u64;
        let total = self.bytes - old_bytes.unwrap_or(0) + size;
        if total > rules.keys_bytes_max {
            return Reply::Refused(format!("keys may hold {} bytes altogether", rules.keys_bytes_max));
        }
        if old_version.is_none() && count >= rules.keys_max {
            return Reply::Refused(format!("there may be {} keys", rules.keys_max));
        }
        self.remove(key);
        self.version += 1;
        // Copies, so that a small key does not keep the batch that brought it in memory.
        let (key, bytes) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(bytes));
        let expires_at = expires_after_ms.map(|after| now.saturating_add_unsigned(after));
        self.insert(key, Value { bytes, version: self.version, expires_at });
        Reply::KeyAt(self.version)
    }

    /// `Command::DeleteKey`.
    pub fn delete(&mut self, key: &Bytes, if_version: Option<u64>) -> Reply {
        let version = self.map.read().get(key).map(|value| value.version);
        if if_version.is_some() && if_version != version {
            return Reply::KeyConflict(version);
        }
        self.remove(key);
        Reply::Done
    }

    /// Removes what has had its time: gone at the instant `expires_at`.
    pub fn expire(&mut self, now: i64) {
        while let Some((at, key)) = self.by_expiry.first() {
            if *at > now {
                break;
            }
            let key = key.clone();
            self.remove(&key);
        }
    }

    /// As a snapshot holds them, by key; and the newest version.
    pub fn save(&self) -> (Vec<proto::KeyState>, u64) {
        let keys = self.map.read();
        let keys = keys.iter().map(|(key, value)| proto::KeyState {
            key: key.clone(),
            value: value.bytes.clone(),
            version: value.version,
            expires_at_ms: value.expires_at,
        });
        (keys.collect(), self.version)
    }

    /// Replaces all by what [`Keys::save`] gave.
    pub fn load(&mut self, keys: Vec<proto::KeyState>, version: u64) {
        self.map.write().clear();
        self.by_expiry.clear();
        self.bytes = 0;
        self.version = version;
        for key in keys {
            let bytes = Bytes::copy_from_slice(&key.value);
            let value = Value { bytes, version: key.version, expires_at: key.expires_at_ms };
            self.insert(Bytes::copy_from_slice(&key.key), value);
        }
    }

    fn insert(&mut self, key: Bytes, value: Value) {
        self.bytes += (key.len() + value.bytes.len()) as u64;
        if let Some(at) = value.expires_at {
            self.by_expiry.insert((at, key.clone()));
        }
        self.map.write().insert(key, value);
    }

    fn remove(&mut self, key: &Bytes) {
        let Some(old) = self.map.write().remove(key) else { return };
        self.bytes -= (key.len() + old.bytes.len()) as u64;
        if let Some(at) = old.expires_at {
            self.by_expiry.remove(&(at, key.clone()));
        }
    }

    #[cfg(test)]
    pub fn check(&self) {
        let map = self.map.read();
        assert_eq!(self.bytes, map.iter().map(|(key, value)| (key.len() + value.bytes.len()) as u64).sum::<u64>());
        assert_eq!(self.by_expiry.len(), map.values().filter(|value| value.expires_at.is_some()).count());
        assert!(map.values().all(|value| value.version <= self.version));
    }
}
