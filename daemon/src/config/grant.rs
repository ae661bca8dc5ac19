//! `[[grant]]`: the keys and uses of some peers.

use core::num::NonZeroU32;
use std::sync::Arc;

use keyward_proto::Use;
use serde::{Deserialize, Serialize};

use super::error::InvalidSetting;
use super::names::{gid_of, group_name, user};
use crate::policy::authorise::{Grant, Limits, Pattern, Who};

/// A section `[[grant]]` as text.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawGrant {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    keys: Vec<String>,
    #[serde(default = "default_uses")]
    uses: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_flight: Option<NonZeroU32>,
}

impl RawGrant {
    /// The text of a checked grant.
    pub(super) fn of(grant: &Grant) -> Self {
        Self {
            user: None,
            group: grant.who.gid.map(group_name),
            uid: grant.who.uid,
            unit: grant.who.service.as_deref().map(str::to_owned),
            keys: grant.keys.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
            uses: grant.uses.iter().map(|u| u.name().to_owned()).collect(),
            rate: grant.limits.rate,
            in_flight: grant.limits.in_flight,
        }
    }

    /// Checks the grant. `number` is its place in the file, from 1.
    pub(super) fn check(self, number: usize) -> Result<Grant, InvalidSetting> {
        let wrong = |reason: String| InvalidSetting::new(format!("grant number {number}"), reason);
        let uid = user(self.user, self.uid).map_err(wrong)?;
        let gid = self.group.map(|group| gid_of(&group)).transpose().map_err(wrong)?;
        let service = self.unit.map(service).transpose().map_err(wrong)?;
        let who = Who { uid, gid, service };
        if who == Who::default() {
            return Err(wrong("name at least one of user, uid, group and unit".into()));
        }
        if self.keys.is_empty() || self.uses.is_empty() {
            return Err(wrong("keys and uses must not be empty".into()));
        }
        let pattern =
            |key: &String| key.parse::<Pattern>().map_err(|error| wrong(format!("{key:?} is {error}")));
        let one_use = |u: &String| {
            match u.parse::<Use>() {
            Ok(Use::AcmeAccount) => Err(wrong(
                "acme-account cannot be granted: the daemon makes the requests of an ACME account itself and signs none \
                 for a peer; take it out of uses"
                    .into(),
            )),
            parsed => parsed.map_err(|error| wrong(format!("{u:?}: {error}"))),
        }
        };
        Ok(Grant {
            who,
            keys: self.keys.iter().map(pattern).collect::<Result<_, _>>()?,
            uses: self.uses.iter().map(one_use).collect::<Result<_, _>>()?,
            limits: Limits { rate: self.rate, in_flight: self.in_flight },
        })
    }
}

fn default_uses() -> Vec<String> {
    vec![Use::TlsServer.name().into()]
}

/// Checks the name of a service, which is part of the path of the cgroup (systemd.unit(5)).
fn service(name: String) -> Result<Arc<str>, String> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b":-_.\\@".contains(&c);
    match name.strip_suffix(".service") {
        Some(stem) if stem.ends_with('@') => Err(format!(
            "unit {name:?} is a template, which no process runs in; name an instance, like \"{stem}shop.service\""
        )),
        // systemd keeps these services below user.slice.
        Some(stem) if stem.starts_with("user@") => Err(format!(
            "unit {name:?} is a user's own, where that user makes services of any name; grant it by user alone"
        )),
        Some(stem) if !stem.is_empty() && name.len() <= 255 && name.bytes().all(allowed) => Ok(name.into()),
        _ => Err(format!("unit {name:?} is not the name of a service, like \"nginx.service\"")),
    }
}
