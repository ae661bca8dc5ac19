//! How far a plan is. Facts about keys and certificates are elsewhere ([`super::known`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use keyward_plans::Shown;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::known::{Known, digest, version_of};
use super::revocation::Revocation;
use crate::keys::Key;

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
    /// Public key that the order under way is for, once its request was signed.
    pub(crate) ordered_key: Option<String>,
    /// Names in that request.
    pub(crate) ordered_names: Vec<String>,
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
    /// The newest public key that the authority has refused since the last success.
    pub(crate) refused_key: Option<String>,
    /// The revocation whose message the agent has.
    pub(crate) revoking: Option<Revocation>,
    /// Numbers of versions in a file of before, until the public keys of these versions are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) numbers: Option<Numbers>,
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

/// Numbers of versions of a key, as an earlier version noted them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub(super) struct Numbers {
    /// Label of the key; `None` for the key that the plan has.
    key: Option<String>,
    /// Version that the order under way is for.
    version: Option<u32>,
    /// The newest version that the authority has refused.
    refused_version: Option<u32>,
    /// See [`Known::newer_than`].
    newer_than: Option<u32>,
    /// The newest version that a person has called compromised.
    compromised: Option<u32>,
}

impl Numbers {
    /// Takes the numbers out of the fields of a plan. Adds the names of damaged ones to `lost`.
    fn taken(fields: &mut Map<String, Value>, lost: &mut Vec<String>) -> Option<Self> {
        let key = fields.remove("key").and_then(|key| Some(key.as_str()?.to_owned()));
        let mut number = |name: &str| {
            let value = fields.remove(name).filter(|value| !value.is_null())?;
            let number = value.as_u64().and_then(|number| number.try_into().ok());
            if number.is_none() {
                lost.push(name.to_owned());
            }
            number
        };
        let numbers = Self {
            version: number("version"),
            refused_version: number("refused_version"),
            newer_than: number("newer_than"),
            compromised: number("compromised"),
            key,
        };
        let is_empty = Self { key: numbers.key.clone(), ..Self::default() } == numbers;
        (!is_empty).then_some(numbers)
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
    /// SHA-256 of the certificate in the files, in hexadecimal digits; empty if there are none.
    pub(crate) certificate: String,
    /// True if the daemon has made that certificate.
    #[serde(default)]
    pub(crate) is_placeholder: bool,
    /// Label of its key, and its public key, if they are known.
    #[serde(default)]
    pub(crate) key: Option<String>,
    #[serde(default)]
    pub(crate) public_key: Option<String>,
    /// The certificate at each listener.
    pub(crate) listeners: BTreeMap<SocketAddr, Shown>,
    /// Why the files are not in use, if they are not.
    pub(crate) problem: Option<String>,
}

impl Progress {
    /// The fields of a progress that can be understood, and the names of the others.
    pub(super) fn read(mut fields: Map<String, Value>) -> (Self, Vec<String>) {
        let mut lost = Vec::new();
        let numbers = Numbers::taken(&mut fields, &mut lost);
        let mut progress = Self::deserialize(Value::Object(fields.clone())).unwrap_or_else(|_| {
            let mut kept = Map::new();
            for (name, value) in fields {
                kept.insert(name.clone(), value);
                if Self::deserialize(Value::Object(kept.clone())).is_err() {
                    kept.remove(&name);
                    lost.push(name);
                }
            }
            Self::deserialize(Value::Object(kept)).unwrap_or_default()
        });
        progress.numbers = numbers.or(progress.numbers);
        (progress, lost)
    }

    /// True if a file of before had numbers of versions, whose public keys are not noted yet.
    pub(super) fn has_numbers(&self) -> bool {
        self.numbers.is_some()
    }

    /// True if these are numbers of versions of a key. `is_of_plan` says whether the plan has this
    /// key.
    pub(super) fn has_numbers_of(&self, key: &Key, is_of_plan: bool) -> bool {
        let numbers = self.numbers.as_ref();
        numbers.is_some_and(|numbers| match &numbers.key {
            Some(label) => label == key.label.as_str(),
            None => is_of_plan,
        })
    }

    /// Notes the public keys of the versions of a key whose numbers a file of before has. In the
    /// place of a version that is gone, the one before counts.
    pub(super) fn convert(&mut self, key: &Key, known: &mut Known, now: u64) {
        let Some(numbers) = self.numbers.take() else { return };
        let up_to = |number: u32| key.versions.iter().rev().find(|version| version.number <= number);
        if let Some(version) = numbers.compromised.and_then(up_to) {
            known.note_compromised(digest(&version.spki), now);
        }
        if let Some(version) = numbers.newer_than.and_then(up_to) {
            known.want_newer_than(key, version.number, now);
        }
        if let Some(version) = numbers.refused_version.and_then(up_to) {
            self.refused_key = Some(digest(&version.spki));
        }
        let ordered = numbers.version.and_then(|number| key.version(number));
        self.ordered_key = ordered.map(|version| digest(&version.spki)).or(self.ordered_key.take());
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
        if let Some(window) = self.window.as_mut().filter(|window| !is_sane(window.next_look, MAX_LOOK)) {
            window.next_look = 0;
        }
        self
    }

    /// True if a person has asked for something since the agent has begun to work on the plan.
    pub(crate) fn has_new_wish(&self) -> bool {
        self.held.as_ref().is_some_and(|hold| hold.wishes < self.wishes)
    }

    /// Number of the version of a key that the order under way is for, once its request was signed.
    pub(crate) fn ordered(&self, key: &Key) -> Option<u32> {
        version_of(key, self.ordered_key.as_ref()?).map(|version| version.number)
    }

    /// Number of the newest version of a key that the authority has refused since the last success.
    pub(crate) fn refused_version(&self, key: &Key) -> Option<u32> {
        version_of(key, self.refused_key.as_ref()?).map(|version| version.number)
    }

    /// Forgets the order under way, which is of no use any more.
    pub(crate) fn drop_order(&mut self) {
        (self.order, self.ordered_key) = (None, None);
        self.ordered_names.clear();
    }

    /// Notes that an agent begins to work on the plan.
    pub(crate) fn begin(&mut self, known: &mut Known, pid: i32, now: u64) {
        if self.worked_for < self.wishes {
            self.drop_order();
        }
        self.worked_for = self.wishes;
        // Of a message of an attempt without an end, nobody knows what has become.
        if let Some(revoking) = self.revoking.take() {
            known.lose_sight_of(&revoking);
        }
        self.held = Some(Hold { pid, since: now, messages: 0, wishes: self.wishes });
    }

    /// Notes that the agent gets the message that revokes a certificate. From now on, the authority
    /// may have done it. False if nobody wants the revocation any more: the agent gets no message.
    pub(crate) fn send(&mut self, known: &mut Known, revocation: &Revocation) -> bool {
        let Some(asked) = known.wanted(revocation) else { return false };
        asked.is_sent = true;
        // The same message with another nonce: the authority has refused the one before.
        if !self.revoking.as_ref().is_some_and(|before| before.is(revocation))
            && let Some(before) = self.revoking.replace(revocation.clone())
        {
            known.lose_sight_of(&before);
        }
        true
    }

    /// Notes that people ask for something: failures of before do not count.
    pub(crate) fn forget_failures(&mut self) {
        self.forget_attempts();
        self.forget_revocation_failures();
    }

    /// Notes that failures of before say nothing about the next attempt to renew.
    pub(crate) fn forget_attempts(&mut self) {
        (self.failures, self.next_try, self.last_error) = (0, 0, None);
    }

    pub(crate) fn forget_revocation_failures(&mut self) {
        (self.revocation_failures, self.next_revocation, self.revocation_error) = (0, 0, None);
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
