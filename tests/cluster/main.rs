//! Three real nodes on Postgres, killed and paused while published clients work.
//!
//! Each test is short, for every day. `PRAETOR_TEST_LONG=1` makes `events` and `schedule` as long as they were promised:
//! 50,000 events over ten kills of the Raft leader, five minutes of a schedule with the services leader killed every 20 s;
//! and `background_tasks`: 1,000 tasks over three nodes and three workers; `calls`: 20,000 events over 100 automations with
//! the services leader killed 50 times; `outage`: Postgres away for 60 s; `rolling`: three rolling restarts.
//! Run with `--nocapture`, they print their figures.

#![expect(clippy::disallowed_methods, reason = "a test is no part of the server: it has its own time, ids and tasks")]

#[path = "../harness/mod.rs"]
mod harness;

mod background_tasks;
mod calls;
mod database_failover;
mod events;
mod failover;
mod health;
mod leases;
mod logs;
mod members;
mod outage;
mod outbox;
mod paused;
mod rolling;
mod schedule;
mod services;
mod triggers;
mod worker_channel;

/// Whether the long forms are asked for.
fn long() -> bool {
    std::env::var("PRAETOR_TEST_LONG").is_ok_and(|value| value == "1")
}
