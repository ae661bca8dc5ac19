//! The form of records: one JSON object on each line.
//!
//! Every record begins with `seq`, `time` and `action`, and ends with `prev`: the SHA-256 of the
//! line before it, without the line feed.

use core::time::Duration;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::hash::Digits;
use crate::record::Time;
use crate::refusals::Count;
use crate::retention::Removal;
use crate::shards::{DONE, REFUSED_ACT};
use crate::summaries::{Summary, Tally};
use crate::{Act, Actor, Checkpoint, Hash, KeyUse, Name, Phase, use_line};

/// A record in its place.
pub(crate) enum Content<'a> {
    Use(&'a KeyUse),
    Act(&'a Act),
    Checkpoint(&'a Checkpoint),
    /// The trail goes on after a start of the daemon. `lost` is the length in bytes of a record
    /// that an earlier process did not write to its end. `rewound` is the number of a record that
    /// a checkpoint covers, and that is not in the trail as it was.
    Start {
        lost: u64,
        rewound: Option<u64>,
    },
    /// Refusals of a user without a record of their own.
    Refusals(&'a Count),
    /// Uses of keys, and records of acts that were carried out nevertheless, without a record,
    /// because records could not be written in time.
    Gap {
        uses: u64,
        acts: u64,
    },
    /// Uses of one second that were carried out.
    Summary(&'a Summary),
    /// From now on, uses go into summaries, or no longer. `free` is in per cent.
    Space {
        free: u8,
        summaries: bool,
    },
    /// Files at the beginning of the trail are removed.
    Removal(&'a Removal),
    /// Records that a collector has no copy of.
    Uncopied {
        records: u64,
    },
}

impl Content<'_> {
    /// Action of the record.
    pub(crate) fn action(&self) -> &'static str {
        match self {
            Self::Use(_) => USE,
            Self::Act(act) => act.action,
            Self::Checkpoint(_) => CHECKPOINT,
            Self::Start { .. } => START,
            Self::Refusals(count) if count.outcome == REFUSED_ACT => ADMIN_REFUSALS,
            Self::Refusals(_) => REFUSALS,
            Self::Gap { .. } => GAP,
            Self::Summary(_) => USES,
            Self::Space { .. } => SPACE,
            Self::Removal(_) => REMOVAL,
            Self::Uncopied { .. } => UNCOPIED,
        }
    }
}

/// Writes a record as a line, without the line feed.
pub(crate) fn write(line: &mut Vec<u8>, seq: u64, now: SystemTime, content: &Content<'_>, prev: Hash) {
    let time = Time(now);
    // Neither numbers nor texts fail, and a vector takes everything.
    let _written = match content {
        Content::Use(r#use) => {
            use_line::write(line, seq, r#use, prev);
            Ok(())
        }
        Content::Act(act) => serde_json::to_writer(line, &ActLine::new(seq, time, act, prev)),
        Content::Checkpoint(checkpoint) => {
            serde_json::to_writer(line, &CheckpointLine::new(seq, checkpoint, prev))
        }
        Content::Start { lost, rewound } => {
            let (lost, rewound) = (*lost, *rewound);
            serde_json::to_writer(line, &StartLine { seq, time, action: START, lost, rewound, prev })
        }
        Content::Refusals(Count { uid, outcome, refusals, from, to }) => {
            let (action, outcome) =
                (content.action(), if *outcome == REFUSED_ACT { "refused" } else { outcome });
            let (uid, refusals) = (*uid, *refusals);
            let [from, to] = [*from, *to].map(|second| Time(UNIX_EPOCH + Duration::from_secs(second)));
            serde_json::to_writer(
                line,
                &RefusalsLine { seq, time, action, outcome, uid, refusals, from, to, prev },
            )
        }
        Content::Gap { uses, acts } => {
            let (uses, acts) = (*uses, *acts);
            serde_json::to_writer(line, &GapLine { seq, time, action: GAP, uses, acts, prev })
        }
        Content::Summary(summary) => serde_json::to_writer(line, &SummaryLine::new(seq, time, summary, prev)),
        Content::Space { free, summaries } => {
            let (free, summaries) = (*free, *summaries);
            serde_json::to_writer(line, &SpaceLine { seq, time, action: SPACE, free, summaries, prev })
        }
        Content::Uncopied { records } => serde_json::to_writer(
            line,
            &UncopiedLine { seq, time, action: UNCOPIED, records: *records, prev },
        ),
        Content::Removal(Removal { first, last, hash, reason }) => serde_json::to_writer(
            line,
            &RemovalLine {
                seq,
                time,
                action: REMOVAL,
                first: *first,
                last: *last,
                hash: *hash,
                reason,
                prev,
            },
        ),
    };
}

/// The part of every record that places it in the trail.
#[derive(Debug, Deserialize)]
pub(crate) struct Link {
    pub(crate) seq: u64,
    pub(crate) time: String,
    pub(crate) action: String,
    pub(crate) prev: Hash,
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    seq: u64,
    time: Time,
    action: &'static str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<Digits<8>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purpose: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheme: Option<&'a str>,
    peer: SummaryPeer<'a>,
    count: u64,
    from: Time,
    to: Time,
    prev: Hash,
}

#[derive(Serialize)]
struct SummaryPeer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
}

impl<'a> SummaryLine<'a> {
    fn new(seq: u64, time: Time, summary: &'a Summary, prev: Hash) -> Self {
        let Tally { count, from, to } = summary.tally;
        let group = summary.group.as_ref();
        Self {
            seq,
            time,
            action: USES,
            outcome: DONE,
            key: group.map(|group| &group.key),
            version: group.map(|group| group.version),
            fingerprint: group.and_then(|group| Some(Digits(group.fingerprint?.to_be_bytes()))),
            purpose: group.and_then(|group| group.purpose),
            scheme: group.and_then(|group| group.scheme),
            peer: SummaryPeer {
                uid: summary.uid,
                gid: group.map(|group| group.gid),
                command: group.and_then(|group| group.command.as_deref()),
                unit: group.and_then(|group| group.unit.as_deref()),
            },
            count,
            from: Time(from),
            to: Time(to),
            prev,
        }
    }
}

#[derive(Serialize)]
struct ActLine<'a> {
    seq: u64,
    time: Time,
    action: &'static str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    actor: &'a Actor,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    details: &'a serde_json::Map<String, serde_json::Value>,
    prev: Hash,
}

impl<'a> ActLine<'a> {
    fn new(seq: u64, time: Time, act: &'a Act, prev: Hash) -> Self {
        let outcome = act.phase.name();
        let reason = match &act.phase {
            Phase::Begun | Phase::Done => None,
            Phase::Failed(reason) | Phase::Refused(reason) => Some(reason.as_str()),
        };
        let Act { action, ref actor, ref key, version, ref details, .. } = *act;
        Self { seq, time, action, outcome, reason, key: key.as_deref(), version, actor, details, prev }
    }
}

#[derive(Serialize)]
struct CheckpointLine<'a> {
    seq: u64,
    time: &'a str,
    action: &'static str,
    through: u64,
    hash: Hash,
    signature: &'a str,
    prev: Hash,
}

impl<'a> CheckpointLine<'a> {
    fn new(seq: u64, checkpoint: &'a Checkpoint, prev: Hash) -> Self {
        let Checkpoint { ref time, through, hash, ref signature } = *checkpoint;
        Self { seq, time, action: CHECKPOINT, through, hash, signature, prev }
    }
}

/// The part of the record of a start that a verification needs.
#[derive(Debug, Deserialize)]
pub(crate) struct Started {
    #[serde(default)]
    pub(crate) rewound: Option<u64>,
}

#[derive(Serialize)]
struct StartLine {
    seq: u64,
    time: Time,
    action: &'static str,
    lost: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rewound: Option<u64>,
    prev: Hash,
}

#[derive(Serialize)]
struct SpaceLine {
    seq: u64,
    time: Time,
    action: &'static str,
    free: u8,
    summaries: bool,
    prev: Hash,
}

#[derive(Serialize)]
struct GapLine {
    seq: u64,
    time: Time,
    action: &'static str,
    uses: u64,
    acts: u64,
    prev: Hash,
}

#[derive(Serialize)]
struct UncopiedLine {
    seq: u64,
    time: Time,
    action: &'static str,
    records: u64,
    prev: Hash,
}

#[derive(Serialize)]
struct RemovalLine {
    seq: u64,
    time: Time,
    action: &'static str,
    first: u64,
    last: u64,
    hash: Hash,
    reason: &'static str,
    prev: Hash,
}

/// The part of a record of a removal that verification needs.
#[derive(Debug, Deserialize)]
pub(crate) struct Removed {
    pub(crate) last: u64,
    pub(crate) hash: Hash,
}

#[derive(Serialize)]
struct RefusalsLine<'a> {
    seq: u64,
    time: Time,
    action: &'static str,
    outcome: &'a str,
    /// Without it, the count is of users that were too many to count apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    refusals: u64,
    from: Time,
    to: Time,
    prev: Hash,
}

pub(crate) const USE: &str = "keyward.key.use";
const USES: &str = "keyward.key.uses";
const ADMIN_REFUSALS: &str = "keyward.admin.refusals";
const REFUSALS: &str = "keyward.key.refusals";
pub(crate) const CHECKPOINT: &str = "keyward.audit.checkpoint";
pub(crate) const START: &str = "keyward.audit.start";
pub(crate) const REMOVAL: &str = "keyward.audit.removal";
const SPACE: &str = "keyward.audit.space";
const UNCOPIED: &str = "keyward.audit.uncopied";
const GAP: &str = "keyward.audit.gap";
