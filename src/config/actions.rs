//! What automations may do in the world outside: calls of webhooks, notifications.

use std::time::Duration;

use super::reader::Reader;

/// Settings of outgoing calls. Names begin with `PRAETOR_ACTIONS_`.
#[derive(Clone, Debug)]
pub struct ActionsSettings {
    /// `_TIMEOUT_SECONDS`: how long one request may take, its answer included; default 10. (A custom webhook has its own.)
    pub timeout: Duration,
    /// `_REDIRECTS`: redirects that are followed; default 0, as the reference's webhooks.
    pub redirects: usize,
    /// `_PRIVATE_ADDRESSES`: whether private and local addresses may be called; default yes. A block may refuse them for
    /// itself (`allow_private_urls`).
    pub private_addresses: bool,
    /// `_CALLS`: calls that are made at a time; default 32.
    pub calls: usize,
}

impl ActionsSettings {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            timeout: reader.positive(&["PRAETOR_ACTIONS_TIMEOUT_SECONDS"], 10.0),
            redirects: reader.value(&["PRAETOR_ACTIONS_REDIRECTS"], 0),
            private_addresses: reader.value(&["PRAETOR_ACTIONS_PRIVATE_ADDRESSES"], true),
            calls: reader.within(&["PRAETOR_ACTIONS_CALLS"], 32, 1, 1000),
        }
    }
}
