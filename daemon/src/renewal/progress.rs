//! How far a plan is.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use keyward_plans::Shown;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Progress of a plan. Times are in seconds since 1970.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Progress {
    /// URL of the order that is under way.
    pub(crate) order: Option<String>,
    /// The agent that works on the plan, until it has said how the work ended.
    pub(crate) held: Option<Hold>,
    /// Times of the last orders.
    pub(crate) orders: Vec<u64>,
    /// Times of the last messages that order the same again, with another nonce.
    pub(crate) nonces: Vec<u64>,
    /// Version of the key that the order under way is for, once its request was signed.
    pub(crate) version: Option<u32>,
    /// Time of the last success.
    pub(crate) renewed_at: Option<u64>,
    /// Failures since then.
    pub(crate) failures: u32,
    /// Time before which nothing is tried.
    pub(crate) next_try: u64,
    /// The last failure, in the words of the authority.
    pub(crate) last_error: Option<Failed>,
    /// Time at which a person asked for a renewal that has not succeeded yet.
    pub(crate) asked_at: Option<u64>,
    /// True if the authority refused that the order replaces the present certificate.
    pub(crate) is_replaced: bool,
    /// Number of wishes of people for a renewal or a revocation so far. An attempt that began
    /// before the last one does not fulfil that wish.
    pub(crate) wishes: u64,
    /// Number of wishes when the last attempt began. Its order and its version of the key are of no
    /// use for a later wish.
    pub(crate) worked_for: u64,
    /// The last certificates that an issuer gave, and where they came from, the last one last.
    pub(crate) issued: Vec<Issued>,
    /// SHA-256 of the certificates that an authority has revoked, the last one last.
    pub(crate) revoked: Vec<String>,
    /// The newest version of the key that the authority has refused.
    pub(crate) refused_version: Option<u32>,
    /// The next certificate is for a newer version of the key than this one, which the authority or
    /// a person has refused. Counts until a newer version is current.
    pub(crate) newer_than: Option<u32>,
    /// Certificates that a person asked to revoke, the first one first.
    pub(crate) revocations: Vec<Revocation>,
    /// The revocation whose message the agent has.
    pub(crate) revoking: Option<Revocation>,
    /// Label of the key that the numbers of versions here are about.
    pub(crate) key: Option<String>,
    /// The newest version of the key that a person has called compromised. It gets no certificate
    /// any more.
    pub(crate) compromised: Option<u32>,
    /// Failures of revocations since the last success, and the time before which none is tried.
    pub(crate) revocation_failures: u32,
    pub(crate) next_revocation: u64,
    /// The last failure of a revocation.
    pub(crate) revocation_error: Option<Failed>,
    /// The window that the authority suggested last.
    pub(crate) window: Option<Window>,
    /// Result of the last deployment.
    pub(crate) deployed: Option<Deployed>,
}

/// An agent that works on a plan. Another one waits.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Hold {
    /// Process id of the agent.
    pub(crate) pid: i32,
    /// Time at which it began.
    pub(crate) since: u64,
    /// Number of messages for the same order: the authority may want another nonce.
    pub(crate) messages: u32,
    /// Number of wishes of people when it began.
    #[serde(default)]
    pub(crate) wishes: u64,
}

/// A certificate that an issuer gave.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Issued {
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub(crate) certificate: String,
    /// URL of the directory of its authority; `None` for a program.
    pub(crate) directory: Option<String>,
}

/// A certificate to be revoked: another one may be there before the authority has done it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Revocation {
    /// Reason (RFC 5280, 5.3.1).
    pub(crate) reason: u8,
    /// The certificate in DER, in base64url.
    pub(crate) certificate: String,
    /// URL of the directory of the authority that has issued the certificate.
    pub(crate) directory: String,
    /// End of the certificate, in seconds since 1970. Nobody revokes an expired one.
    #[serde(default = "never")]
    pub(crate) not_after: u64,
    /// True if the agent got the message for the authority, which may have carried it out, and has
    /// not refused it.
    #[serde(default)]
    pub(crate) is_sent: bool,
}

const fn never() -> u64 {
    u64::MAX
}

impl Revocation {
    /// True for the same certificate and reason.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (&self.certificate, self.reason) == (&other.certificate, other.reason)
    }
}

/// A failure.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Failed {
    pub(crate) at: u64,
    /// Kind of the failure: the type of the error of ACME without its prefix, or a word of the
    /// agent.
    pub(crate) kind: String,
    pub(crate) detail: String,
}

/// A window for the renewal of a certificate (RFC 9773).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Window {
    /// Id of the certificate that the window is for.
    pub(crate) certificate: String,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Time in the window that was chosen; `None` if the window has no length.
    pub(crate) chosen: Option<u64>,
    /// Page that says why the authority suggests this.
    pub(crate) explanation: Option<String>,
    /// Time of the next question for the window.
    pub(crate) next_look: u64,
}

/// Result of a deployment.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Deployed {
    /// SHA-256 of the certificate in the files, in hexadecimal digits.
    pub(crate) certificate: String,
    /// The certificate at each listener.
    pub(crate) listeners: BTreeMap<SocketAddr, Shown>,
    /// Why the files are not in use, if they are not.
    pub(crate) problem: Option<String>,
}

impl Progress {
    /// The fields of a damaged progress that can be understood, and the names of the others.
    pub(super) fn salvaged(part: Value) -> (Self, Vec<String>) {
        let Value::Object(fields) = part else { return (Self::default(), vec!["everything".into()]) };
        let (mut kept, mut lost) = (Map::new(), Vec::new());
        for (name, mut value) in fields {
            if let (Some(asked), "revocations") = (value.as_array_mut(), name.as_str()) {
                let before = asked.len();
                asked.retain(|one| Revocation::deserialize(one).is_ok());
                if asked.len() < before {
                    lost.push("some revocations".into());
                }
            }
            kept.insert(name.clone(), value);
            if Self::deserialize(Value::Object(kept.clone())).is_err() {
                kept.remove(&name);
                lost.push(name);
            }
        }
        (Self::deserialize(Value::Object(kept)).unwrap_or_default(), lost)
    }

    /// The progress as it counts now. Times that lie farther in the future than this daemon ever
    /// sets them come from a clock that was wrong, and count for nothing.
    pub(super) fn at(mut self, now: u64) -> Self {
        let is_sane = |at: u64, longest: u64| at <= now.saturating_add(longest);
        if !is_sane(self.next_try, MAX_WAIT) {
            self.next_try = 0;
        }
        self.renewed_at = self.renewed_at.filter(|at| is_sane(*at, SLACK));
        self.held = self.held.filter(|hold| is_sane(hold.since, SLACK));
        self.orders.retain(|at| is_sane(*at, SLACK));
        self.nonces.retain(|at| is_sane(*at, SLACK));
        self.asked_at = self.asked_at.map(|at| at.min(now));
        if !is_sane(self.next_revocation, MAX_WAIT) {
            self.next_revocation = 0;
        }
        let before = self.revocations.len();
        self.revocations.retain(|asked| asked.not_after > now);
        if self.revocations.is_empty() && before > 0 {
            self.forget_revocation_failures();
        }
        if let Some(window) = self.window.as_mut().filter(|window| !is_sane(window.next_look, MAX_LOOK)) {
            window.next_look = 0;
        }
        self
    }

    /// True if a person has asked for something since the agent has begun to work on the plan.
    pub(crate) fn has_new_wish(&self) -> bool {
        self.held.as_ref().is_some_and(|hold| hold.wishes < self.wishes)
    }

    /// Takes the numbers of versions for those of this key. Numbers of another key count for
    /// nothing.
    pub(crate) fn take_key(&mut self, label: &str) {
        if self.key.as_deref().is_some_and(|known| known != label) {
            (self.compromised, self.newer_than, self.refused_version) = (None, None, None);
            (self.order, self.version) = (None, None);
        }
        self.key = Some(label.to_owned());
    }

    /// Notes that an agent begins to work on the plan.
    pub(crate) fn begin(&mut self, pid: i32, now: u64) {
        if self.worked_for < self.wishes {
            (self.order, self.version) = (None, None);
        }
        self.worked_for = self.wishes;
        // Of a message of an attempt without an end, nobody knows what has become.
        self.revoking = None;
        self.held = Some(Hold { pid, since: now, messages: 0, wishes: self.wishes });
    }

    /// Notes that people ask for something: failures of before do not count.
    pub(crate) fn forget_failures(&mut self) {
        (self.failures, self.next_try, self.last_error) = (0, 0, None);
        self.forget_revocation_failures();
    }

    pub(crate) fn forget_revocation_failures(&mut self) {
        (self.revocation_failures, self.next_revocation, self.revocation_error) = (0, 0, None);
    }

    /// Versions of the key up to this one get no certificate.
    pub(crate) fn refused(&self) -> Option<u32> {
        self.newer_than.max(self.compromised)
    }

    /// Notes a certificate that an issuer gave.
    pub(crate) fn note_issued(&mut self, issued: Issued) {
        self.issued.retain(|known| known.certificate != issued.certificate);
        self.issued.push(issued);
        let surplus = self.issued.len().saturating_sub(MOST_NOTED);
        self.issued.drain(..surplus);
    }

    /// Notes a certificate that an authority has revoked.
    pub(crate) fn note_revoked(&mut self, fingerprint: String) {
        self.revoked.retain(|known| *known != fingerprint);
        self.revoked.push(fingerprint);
        let surplus = self.revoked.len().saturating_sub(MOST_NOTED);
        self.revoked.drain(..surplus);
    }

    /// Asks for a revocation. Another reason for the same certificate replaces the one before.
    /// False if there are too many.
    pub(crate) fn revoke(&mut self, revocation: Revocation) -> bool {
        let is_same = |asked: &Revocation| asked.certificate == revocation.certificate;
        // The authority may have carried out the one before.
        let is_sent = self.revocations.iter().any(|asked| is_same(asked) && asked.is_sent);
        self.revocations.retain(|asked| !is_same(asked));
        let revocation = Revocation { is_sent, ..revocation };
        let has_room = self.revocations.len() < MOST_REVOCATIONS;
        if has_room {
            self.revocations.push(revocation);
        }
        has_room
    }

    /// Notes that a version of the key is current: a refusal of an older one is of the past.
    pub(crate) fn note_current(&mut self, number: u32) {
        self.newer_than = self.newer_than.filter(|refused| number <= *refused);
    }
}

impl Deployed {
    /// True if every listener shows the certificate.
    pub(crate) fn is_served(&self) -> bool {
        self.problem.is_none() && self.listeners.values().all(|shown| shown.problem.is_none())
    }
}

/// Longest time until the next attempt: a week, with its spread.
const MAX_WAIT: u64 = 8 * 86_400;
/// Longest time until the next question for a window.
const MAX_LOOK: u64 = 2 * 86_400;
/// Seconds by which a clock is set back in daily use.
const SLACK: u64 = 60;
/// Maximum number of revocations of a plan that the authorities have not carried out yet.
pub(crate) const MOST_REVOCATIONS: usize = 16;
/// Most certificates of a plan whose issuers, or whose revocations, are remembered.
const MOST_NOTED: usize = 64;
