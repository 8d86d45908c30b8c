//! Runs a [`Consume`]r: reads the local bus from its cursor and writes effect and cursor in one transaction, so an entry
//! takes effect once, whoever leads. (A consumer whose effect bears it may share a batch with a second transaction, see
//! `sharing`; it is fenced too, and what it wrote is written again in vain where the first fails.) The bus is told of the cursor afterwards, only so that it can trim.
//!
//! A transient failure (database, bus) is tried again for ever. Any other is narrowed down to the entry that causes it,
//! by halves; that one is kept as a dead letter after [`limits::CONSUMER_ATTEMPTS`], and the rest goes on. A dead letter that
//! someone asks to be replayed goes through its consumer alone, between two batches; its effect and its removal are one
//! transaction, so it takes effect once.

use std::time::{Duration, Instant};

use super::driver::{now, report};
use super::status::Board;
use super::{Consume, Lead, ServiceError, unpanicked};
use crate::bus::{BusError, Entry, Position, ReadLimit, Start, Topic};
use crate::config::Planted;
use crate::limits;
use crate::store::dead_letters::{self, DeadLetter, Kept};
use crate::store::{StoreError, cursors};
use crate::telemetry::{chain, metrics};

/// Runs until dropped.
pub async fn run(lead: &Lead, service: &dyn Consume, board: &Board) {
    let name = service.name();
    board.started(name, Duration::ZERO, lead.app.now());
    let mut pause = limits::CONSUMER_RETRY;
    loop {
        let started = now();
        let error = match consume(lead, service, board, &mut pause).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if !matches!(error, ServiceError::Store(StoreError::Fenced { .. })) {
            report(lead, name, started, board, &Err(chain(&error)));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(limits::CONSUMER_RETRY_MAX);
    }
}

/// Consumes until something fails.
async fn consume(
    lead: &Lead,
    service: &dyn Consume,
    board: &Board,
    pause: &mut Duration,
) -> Result<std::convert::Infallible, ServiceError> {
    let (app, topic, group) = (&lead.app, service.topic(), service.name());
    let stream = app.stream_name(&topic);
    // Where the bus knows the group to be. A new leader does not wait for the group's log before its first batch: the queue of
    // what was sent again after the old one is long.
    let mut told: Option<Position> = None;
    let mut position = cursors::read(&mut app.read("consumer.cursor").await?, group, &stream).await?;
    let entries = service.batch_entries().min(limits::CONSUMER_FIRST_ENTRIES);
    let mut limit = ReadLimit { entries, bytes: limits::CONSUMER_BATCH_BYTES };
    let (mut replayed, mut looked): (Option<Instant>, Option<Instant>) = (None, None);
    let pace = service.pace();
    loop {
        if replayed.is_none_or(|at| at.elapsed() >= limits::REPLAY_LOOK) {
            replay(lead, service).await?;
            replayed = Some(now());
        }
        if let Some(pace) = pace
            && looked.is_none_or(|at| at.elapsed() >= pace)
        {
            service.look(lead).await?;
            looked = Some(now());
        }
        let entries = match app.bus().read(&topic, position, limit).await {
            Ok(entries) => entries,
            Err(BusError::Trimmed { first }) => {
                // Only an operator who deleted our cursor, or a group that expired, can bring this about.
                tracing::error!(group, position, first, "entries of the stream were trimmed before they were consumed");
                position = skip_to(lead, group, &stream, position, first - 1).await?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        board.lag(group, app.bus().last(&topic).saturating_sub(position));
        if entries.is_empty() {
            if tell(lead, &topic, group, &mut told).await? < position {
                app.bus().advance_group(topic.clone(), group, position).await?;
                told = Some(position);
            }
            // Idle is well: say so now and then.
            board.succeeded(group, Duration::ZERO, app.now());
            // Elapsing is no error: look again, so that an idle consumer keeps telling that it is alive.
            let _woken = tokio::time::timeout(pace.unwrap_or(limits::CONSUMER_IDLE), app.bus().wait_past(&topic, position)).await;
            continue;
        }
        if let Some(urgent) = service.gives_way_to() {
            // Elapsing is no error: the urgent one may fail, and this one is not to stand still.
            let _caught_up = tokio::time::timeout(limits::CONSUMER_YIELD, board.caught_up(urgent, limits::CONSUMER_BEHIND)).await;
        }
        let started = now();
        position = take(lead, service, &stream, position, &entries).await?;
        limit.entries = (limit.entries * 2).min(service.batch_entries());
        *pause = limits::CONSUMER_RETRY;
        report(lead, group, started, board, &Ok(entries.len() as u64));
        if position.saturating_sub(tell(lead, &topic, group, &mut told).await?) >= limits::CONSUMER_TELL_ENTRIES {
            app.bus().advance_group(topic.clone(), group, position).await?;
            told = Some(position);
        }
        if app.bus().last(&topic).saturating_sub(position) < limit.entries as u64 / 2 {
            // A lonely entry was taken at once; a thin stream of them is taken in batches.
            tokio::time::sleep(limits::CONSUMER_GATHER.saturating_sub(started.elapsed())).await;
        }
    }
}

/// Where the bus knows the group to be; sees to it that it knows of it.
async fn tell(lead: &Lead, topic: &Topic, group: &str, told: &mut Option<Position>) -> Result<Position, BusError> {
    if let Some(told) = told {
        return Ok(*told);
    }
    Ok(*told.insert(lead.app.bus().ensure_group(topic.clone(), group, Start::First).await?))
}

/// Has the effect of `entries`, narrowing down to those that cannot be processed. Gives the new cursor.
async fn take(
    lead: &Lead,
    service: &dyn Consume,
    stream: &str,
    mut position: Position,
    entries: &[Entry],
) -> Result<Position, ServiceError> {
    // A stack of slices, in order: halves instead of recursion.
    let mut left = vec![entries];
    while let Some(slice) = left.pop() {
        match attempt(lead, service, stream, position, slice).await {
            Ok(to) => position = to,
            Err(error) if error.is_transient() => return Err(error),
            Err(_) if slice.len() > 1 => {
                let (first, second) = slice.split_at(slice.len() / 2);
                left.push(second);
                left.push(first);
            }
            Err(error) => position = give_up(lead, service, stream, position, &slice[0], error).await?,
        }
    }
    Ok(position)
}

/// One transaction: effect and cursor.
async fn attempt(lead: &Lead, service: &dyn Consume, stream: &str, from: Position, entries: &[Entry]) -> Result<Position, ServiceError> {
    let to = entries.last().map_or(from, |entry| entry.position);
    let mut tx = lead.begin(service.name()).await?;
    if !(Planted::CursorWithoutEffect.is_here() && to.is_multiple_of(3)) {
        unpanicked(service.consume(lead, &mut tx, entries)).await?;
    }
    move_cursor(lead, &mut tx, service.name(), stream, from, to).await?;
    tx.commit().await?;
    Ok(to)
}

async fn move_cursor(
    lead: &Lead,
    tx: &mut crate::store::Tx,
    group: &str,
    stream: &str,
    from: Position,
    to: Position,
) -> Result<(), ServiceError> {
    if cursors::advance(tx, group, stream, from, to, lead.app.now()).await? || Planted::NoFence.is_here() {
        return Ok(());
    }
    // Somebody else of this group has been here; begin again from the cursor of the database.
    Err(BusError::Unknown(format!("the cursor of {group} in {stream} is no longer at {from}")).into())
}

async fn skip_to(lead: &Lead, group: &str, stream: &str, from: Position, to: Position) -> Result<Position, ServiceError> {
    let mut tx = lead.begin("consumer.skip").await?;
    move_cursor(lead, &mut tx, group, stream, from, to).await?;
    tx.commit().await?;
    Ok(to)
}

/// Tries a single entry a few times more, then keeps it as a dead letter and moves on.
async fn give_up(
    lead: &Lead,
    service: &dyn Consume,
    stream: &str,
    position: Position,
    entry: &Entry,
    mut error: ServiceError,
) -> Result<Position, ServiceError> {
    for _ in 1..limits::CONSUMER_ATTEMPTS {
        match attempt(lead, service, stream, position, std::slice::from_ref(entry)).await {
            Ok(to) => return Ok(to),
            Err(again) if again.is_transient() => return Err(again),
            Err(again) => error = again,
        }
    }
    let group = service.name();
    let letter = DeadLetter {
        id: entry.id,
        stream: stream.to_owned(),
        group,
        position: entry.position,
        payload: entry.payload.to_vec(),
        error: chain(&error),
        attempts: limits::CONSUMER_ATTEMPTS,
    };
    let mut tx = lead.begin("consumer.dead_letter").await?;
    dead_letters::insert(&mut tx, &letter, lead.app.now()).await?;
    move_cursor(lead, &mut tx, group, stream, position, entry.position).await?;
    tx.commit().await?;
    metrics::dead_letter(group);
    tracing::error!(group, message.id = %letter.id, error = letter.error, "an entry could not be processed and is kept as a dead letter");
    Ok(entry.position)
}

/// Replays what someone asked for, the oldest first.
async fn replay(lead: &Lead, service: &dyn Consume) -> Result<(), ServiceError> {
    let group = service.name();
    let mut tx = lead.app.read("consumer.dead_letters").await?;
    let (kept, asked) = dead_letters::count(&mut tx, Some(group)).await?;
    metrics::dead_letters_kept(group, kept);
    if asked == 0 {
        return Ok(());
    }
    let letters = dead_letters::asked_for(&mut tx, group, limits::REPLAY_BATCH).await?;
    drop(tx);
    for letter in letters {
        match again(lead, service, &letter).await {
            Ok(()) => {
                metrics::dead_letter_replayed(group);
                tracing::info!(group, message.id = %letter.id, "a dead letter was replayed");
            }
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                let mut tx = lead.begin("consumer.replay_failed").await?;
                dead_letters::failed_again(&mut tx, letter.id, group, &chain(&error)).await?;
                tx.commit().await?;
                tracing::warn!(group, message.id = %letter.id, error = chain(&error), "a dead letter failed again and is kept");
            }
        }
    }
    Ok(())
}

/// One transaction: the effect of a dead letter, and its removal.
async fn again(lead: &Lead, service: &dyn Consume, letter: &Kept) -> Result<(), ServiceError> {
    let entry =
        Entry { position: letter.position, at: letter.created.timestamp_millis(), id: letter.id, payload: letter.payload.clone().into() };
    let mut tx = lead.begin("consumer.replay").await?;
    if dead_letters::take(&mut tx, letter.id, service.name()).await? {
        service.consume(lead, &mut tx, &[entry]).await?;
        tx.commit().await?;
    }
    Ok(())
}
