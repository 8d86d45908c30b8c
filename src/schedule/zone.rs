//! Wall clock to instant, as the three libraries beneath the reference do it.
//!
//! They differ exactly where it hurts: pendulum without and with `fold` for a time that does not exist or exists
//! twice, and dateutil, which knows no transition after 2037.

use chrono::offset::LocalResult;
use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::{OffsetComponents, Tz};

/// Which of two readings of a wall-clock time is meant (PEP 495).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fold {
    /// The offset before the transition.
    Before,
    /// The offset after the transition.
    After,
}

/// Further from any wall-clock time than any offset, and nearer than any second transition.
const MARGIN: TimeDelta = TimeDelta::hours(26);

fn offsets(zone: Tz, wall: NaiveDateTime) -> (FixedOffset, FixedOffset) {
    match zone.offset_from_local_datetime(&wall) {
        LocalResult::Single(offset) => (offset.fix(), offset.fix()),
        LocalResult::Ambiguous(before, after) => (before.fix(), after.fix()),
        LocalResult::None => {
            let at = |moment: Option<NaiveDateTime>| zone.offset_from_utc_datetime(&moment.unwrap_or(wall)).fix();
            (at(wall.checked_sub_signed(MARGIN)), at(wall.checked_add_signed(MARGIN)))
        }
    }
}

fn instant(wall: NaiveDateTime, offset: FixedOffset) -> Option<DateTime<Utc>> {
    wall.checked_sub_offset(offset).map(|utc| utc.and_utc())
}

/// pendulum's `create`: a time twice there is the reading of `fold`; a time not there moves over the gap, backwards
/// for [`Fold::Before`] and forwards for [`Fold::After`].
pub(super) fn pendulum(zone: Tz, wall: NaiveDateTime, fold: Fold) -> Option<DateTime<Tz>> {
    let (before, after) = offsets(zone, wall);
    // In a gap the offset of the other side is what moves the time over it.
    let offset = if (after.local_minus_utc() > before.local_minus_utc()) == (fold == Fold::Before) { after } else { before };
    instant(wall, offset).map(|at| at.with_timezone(&zone))
}

/// dateutil's reading: the first of two; the offset after the transition in a gap; standard time for ever after the
/// last transition a 32-bit file knows.
pub(super) fn dateutil(zone: Tz, wall: NaiveDateTime) -> Option<DateTime<Tz>> {
    let (before, after) = offsets(zone, wall);
    let late = if wall.year() < 2037 { None } else { last_transition(zone) };
    let offset = match late {
        Some((transition, standard)) if wall >= transition => standard,
        _ if after.local_minus_utc() > before.local_minus_utc() => after,
        _ => before,
    };
    instant(wall, offset).map(|at| at.with_timezone(&zone))
}

/// The last transition before 2038 in standard time and the offset of standard time, for zones that still have one.
fn last_transition(zone: Tz) -> Option<(NaiveDateTime, FixedOffset)> {
    let day = |month| NaiveDate::from_ymd_opt(2037, month, 1)?.and_hms_opt(0, 0, 0);
    let (mut low, mut high) = (day(7)?, day(12)?);
    let offset = |utc: &NaiveDateTime| zone.offset_from_utc_datetime(utc);
    let (summer, winter) = (offset(&low), offset(&high));
    if summer.fix() == winter.fix() {
        return None;
    }
    let standard = if summer.dst_offset().is_zero() { summer.fix() } else { winter.fix() };
    while high - low > TimeDelta::seconds(1) {
        let middle = low + (high - low) / 2;
        if offset(&middle).fix() == summer.fix() { low = middle } else { high = middle }
    }
    Some((high.checked_add_offset(standard)?, standard))
}
