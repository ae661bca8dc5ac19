//! The audit trail in the status, for the daemon and for the client.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::audit::{Checkpoint, Signing, Status, Summed, Trail, Unwritten};

/// The audit trail.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct AuditView {
    /// Number of the last record.
    pub(crate) last: u64,
    /// The last checkpoint, as the file `head` has it.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// Time of the oldest record that is not signed, or a time shortly before it, in seconds since
    /// 1970.
    pub(crate) unsigned_since: Option<u64>,
    /// Reason why the unit has not signed when it was last asked.
    pub(crate) signing_problem: Option<String>,
    /// Reason why records cannot be written now.
    pub(crate) failure: Option<String>,
    /// Uses of keys without a record since the start.
    pub(crate) unwritten: u64,
    /// Number of a signed record that was not in the trail as it was when the daemon started.
    #[serde(default)]
    pub(crate) rewound: Option<u64>,
    /// Reason why uses go into summaries: `policy` or `space`.
    pub(crate) summaries: Option<String>,
    /// Free part of the file system in per cent; none if nothing has looked yet.
    pub(crate) free: Option<u8>,
    /// Files with records; none if nothing has looked yet.
    pub(crate) files: Option<u64>,
    /// Length of all files in bytes; none if nothing has looked yet.
    pub(crate) bytes: Option<u64>,
    /// When the thread that writes has last looked for work, in seconds since 1970.
    pub(crate) looked: Option<u64>,
}

impl AuditView {
    pub(crate) fn of(trail: Result<&Trail, Unwritten>) -> Self {
        let status = match trail {
            Ok(trail) => trail.status(),
            Err(reason) => return Self { failure: Some(reason.to_string()), ..Self::default() },
        };
        let Status {
            looked, last, checkpoint, signing, unsigned_since, failure, unwritten, summaries, ..
        } = status;
        Self {
            last,
            checkpoint,
            // Before the first key nothing can sign.
            unsigned_since: unsigned_since.filter(|_| signing != Signing::NoKey).map(by_the_clock),
            signing_problem: match signing {
                Signing::Fails { reason, .. } => Some(reason),
                _ => None,
            },
            failure,
            unwritten,
            rewound: status.rewound,
            summaries: summaries.map(|summed| {
                match summed {
                    Summed::Policy => "policy",
                    Summed::Space => "space",
                }
                .into()
            }),
            free: status.free,
            files: status.extent.map(|extent| extent.files),
            bytes: status.extent.map(|extent| extent.bytes),
            looked: looked.map(by_the_clock),
        }
    }

    /// Problems that an administrator must know of. `now` is in seconds since 1970.
    pub(crate) fn problems(&self, now: u64) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(failure) = &self.failure {
            problems.push(format!(
                "the audit trail cannot be written: {failure}; acts of administrators are refused, except disabling a key"
            ));
        }
        if let Some(through) = self.rewound {
            problems.push(format!(
                "record {through} of the audit trail was signed, and was not there as it was when the daemon started: the end of the trail was cut off or replaced"
            ));
        }
        if self.unsigned_since.is_some_and(|since| now.saturating_sub(since) > UNSIGNED) {
            problems.push("the audit trail has records that are not signed for more than ten minutes".into());
        }
        if let Some(reason) = &self.signing_problem {
            problems.push(format!("the audit trail is not signed: {reason}"));
        }
        if self.summaries.as_deref() == Some("space") {
            let free = self.free.unwrap_or_default();
            problems.push(format!(
                "uses of keys are recorded in summaries, because {free} % of the file system of the audit trail are free"
            ));
        }
        problems
    }
}

/// The time of a moment by the clock as the clock is set now, in seconds since 1970.
fn by_the_clock(moment: Instant) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(moment.elapsed()).as_secs()
}

/// Time in seconds after which a record should be signed: ten times the interval of checkpoints.
const UNSIGNED: u64 = 600;
