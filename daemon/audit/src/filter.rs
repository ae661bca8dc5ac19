//! Records as a reader sees them, and a filter on them.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::shards::DONE;

/// A record as a reader sees it. Fields that the action does not have are `None`.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    /// Number of the record.
    pub seq: u64,
    /// When it was: RFC 3339 in UTC, so that texts compare as times do.
    pub time: String,
    /// Name of the act or event: `keyward.` and then object and verb.
    pub action: String,
    /// `done`, or the reason why not.
    pub outcome: Option<String>,
    /// Reason why an act has failed.
    pub reason: Option<String>,
    /// Label of the key.
    pub key: Option<String>,
    /// Version of the key.
    pub version: Option<u32>,
    /// Purpose of the message.
    pub purpose: Option<String>,
    /// Signature scheme.
    pub scheme: Option<String>,
    /// The process that used the key.
    pub peer: Option<Party>,
    /// The process that asked for an act.
    pub actor: Option<Party>,
    /// The user of refusals that are counted.
    pub uid: Option<u32>,
    /// Number of refusals that are counted.
    pub refusals: Option<u64>,
    /// Number of uses that are counted.
    pub count: Option<u64>,
    /// Further facts about an act.
    pub details: Option<serde_json::Value>,
}

/// A process in a record.
#[derive(Clone, Debug, Deserialize)]
pub struct Party {
    /// Effective user id when the process connected. `None` for the daemon itself.
    pub uid: Option<u32>,
    /// Process id.
    pub pid: Option<i32>,
    /// Name of the program.
    pub command: Option<String>,
    /// systemd unit.
    pub unit: Option<String>,
}

impl Record {
    /// The user whom the record is about.
    pub fn user(&self) -> Option<u32> {
        self.peer.as_ref().or(self.actor.as_ref()).and_then(|party| party.uid).or(self.uid)
    }

    /// Name of the act that the user was refused, if the record is of a refused act.
    pub fn refused_act(&self) -> Option<&str> {
        self.detail("act").filter(|_| self.action == REFUSED)
    }

    /// Path of the request for the act that the user was refused.
    pub fn refused_path(&self) -> Option<&str> {
        self.detail("path").filter(|_| self.action == REFUSED)
    }

    fn detail(&self, name: &str) -> Option<&str> {
        self.details.as_ref()?.get(name)?.as_str()
    }

    /// True if the record is of a use or an act that was refused, or a number of them.
    pub fn is_refusal(&self) -> bool {
        let is_other = self.outcome.as_deref().is_some_and(|outcome| outcome != DONE);
        is_other && (self.peer.is_some() || self.refusals.is_some() || self.action == REFUSED)
    }

    /// Number of uses or refusals that the record stands for.
    pub fn times(&self) -> u64 {
        self.count.or(self.refusals).unwrap_or(1)
    }
}

/// Records that are wanted. Every condition must hold.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Label of the key.
    pub key: Option<String>,
    /// User id of the peer or the actor.
    pub user: Option<u32>,
    /// Purpose of the message.
    pub purpose: Option<String>,
    /// The outcome.
    pub outcome: Option<String>,
    /// The action, or its beginning up to a dot: `keyward.key` is every action on keys.
    pub action: Option<String>,
    /// Earliest time: RFC 3339 in UTC, or its beginning.
    pub since: Option<String>,
    /// Time after the latest one.
    pub until: Option<String>,
}

impl Filter {
    /// True if a record is wanted.
    pub fn admits(&self, record: &Record) -> bool {
        let is = |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
        is(&self.key, &record.key)
            && is(&self.purpose, &record.purpose)
            && is(&self.outcome, &record.outcome)
            && (self.user.is_none() || self.user == record.user())
            && self.action.as_deref().is_none_or(|wanted| is_within(&record.action, wanted))
            && self.since.as_deref().is_none_or(|since| record.time.as_str() >= since)
            && self.until.as_deref().is_none_or(|until| record.time.as_str() < until)
    }
}

fn is_within(action: &str, wanted: &str) -> bool {
    action.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The text of a time as records have it.
pub fn time_text(time: SystemTime) -> String {
    crate::record::Time(time).to_string()
}

/// Action of the record of a refused act.
const REFUSED: &str = "keyward.admin.refused";
