//! Length of the records of acts.

use serde_json::{Map, Value};

use crate::reading::MAX_LINE;
use crate::{Act, Actor, Name, Phase};

/// An act whose record is not longer than a record may be. Longer details are replaced by their
/// length.
pub(crate) fn in_a_line(act: Act) -> Act {
    with_details_within(act, MAX_LINE / 2)
}

/// An act that a user without the role has asked for, with a record of at most 4 KiB: the user may
/// have chosen every part of it.
pub(crate) fn refused(mut act: Act) -> Act {
    if let Phase::Refused(reason) = &mut act.phase {
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
    }
    if let Some(key) = &mut act.key {
        key.truncate(key.floor_char_boundary(Name::MAX));
    }
    with_details_within(act, MAX_DETAILS)
}

/// User who acts.
pub(crate) fn uid_of(actor: &Actor) -> u32 {
    actor.uid
}

fn with_details_within(mut act: Act, length: usize) -> Act {
    let bytes = serde_json::to_vec(&act.details).map_or(usize::MAX, |text| text.len());
    if bytes > length {
        act.details = Map::from_iter([(OMITTED.to_owned(), Value::from(bytes))]);
    }
    act
}

/// Detail with the length of the details that have no room, in bytes of JSON.
const OMITTED: &str = "omitted_bytes";
/// Length of a reason, in bytes.
const MAX_REASON: usize = 256;
/// Length of details of a refused act, in bytes of JSON.
const MAX_DETAILS: usize = 512;
