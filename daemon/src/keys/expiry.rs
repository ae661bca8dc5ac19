//! Expiry of certificates: keeps the metric of certificates that expire up to date.

use core::time::Duration;
use std::collections::HashMap;

use keyward_proto::Label;
use tokio::time::sleep;

use super::certificates::first_to_expire;
use super::{Key, Keys, StoreError, now};
use crate::observe::expiries::{Expiries, Expiry};

/// Keeps `expiries` up to date: reads every key once, then each key that is changed. Never returns.
pub(crate) async fn follow(expiries: &Expiries, keys: &Keys) {
    let changes = keys.changes();
    let mut revisions = changes.subscribe();
    let mut seen = 0;
    loop {
        // A change that comes while the keys are read is handled in the next round.
        revisions.mark_unchanged();
        let new = changes.since(seen, |_| true);
        let read = match new.everything {
            true => read_all(expiries, keys).await,
            false => read_some(expiries, keys, &new.labels).await,
        };
        match read {
            Ok(()) => {
                seen = new.revision;
                if revisions.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // The daemon has said at its start that the store is locked.
                if !matches!(error, StoreError::Locked(_)) {
                    tracing::warn!("the metric of expiring certificates is not up to date: {error}");
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// Reads a page at a time, so that other work with the store does not wait long.
async fn read_all(expiries: &Expiries, keys: &Keys) -> Result<(), StoreError> {
    let (mut found, mut after) = (HashMap::new(), None);
    loop {
        let page = keys.list(after, PAGE).await?;
        let last = page.len() < PAGE;
        after = page.last().map(|listed| listed.label().to_string());
        let keys = page.into_iter().filter_map(|listed| listed.key().ok());
        found.extend(keys.filter_map(|key| Some((key.label.clone(), expiry_of(&key)?))));
        if last {
            break;
        }
    }
    expiries.replace(found);
    Ok(())
}

async fn read_some(expiries: &Expiries, keys: &Keys, labels: &[String]) -> Result<(), StoreError> {
    for label in labels.iter().filter_map(|label| label.parse::<Label>().ok()) {
        let expiry = match keys.stored(&label).await {
            Ok(key) => key.as_ref().and_then(expiry_of),
            Err(StoreError::Altered(_) | StoreError::Unlisted(_)) => None,
            Err(error) => return Err(error),
        };
        expiries.set(label, expiry);
    }
    Ok(())
}

/// Expiry time of the certificates that a key uses; `None` if the key is not enabled or has none.
fn expiry_of(key: &Key) -> Option<Expiry> {
    if !key.may_sign(now()) {
        return None;
    }
    let version = key.certified()?;
    let (_, first) = first_to_expire(&version.certificates)?;
    let (not_before, not_after) = (first.not_before(), first.not_after());
    Some(Expiry { version: version.number, not_before, not_after })
}

/// True if a valid certificate should have been renewed by now. Times are in seconds since 1970.
pub(crate) fn is_soon(not_before: u64, not_after: u64, now: u64) -> bool {
    let soon = SOON.min(not_after.saturating_sub(not_before) / 4);
    not_after.saturating_sub(now) < soon
}

/// Seconds before expiry (21 days) by which a certificate should have been renewed. For a
/// certificate that is valid for less than four times as long, it is a quarter of that time.
const SOON: u64 = 21 * 24 * 3600;
/// Number of keys that are read from the store at a time.
const PAGE: usize = 256;
/// Pause before a store that cannot be read is read again.
const PAUSE: Duration = Duration::from_secs(60);
