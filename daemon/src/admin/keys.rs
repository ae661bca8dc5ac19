//! Keys: generated, imported, adopted, listed, changed, deleted, restored and destroyed.

use axum::extract::State;
use axum::http::header::CONNECTION;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;

use super::parse::{Document, OfKey, Parameters, number};
use super::plain_key::PlainKey;
use super::{Admin, AdminError, Administrator, Answer, Asker, request};
use crate::admin::api::{KeyView, MAX_PAGE, MAX_PAGE_LENGTH, Made, Page, RepairedView, most_labels};
use crate::admin::purge_view::PurgesView;
use crate::ground::text::printable;
use crate::keys::{Listed, State as KeyState, StoreError, Version};
use crate::lifecycle::{self, Change, Delete, KeySpec, Properties};
use crate::policy::roles::Right;

/// The query of a request for the list of keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    /// The label after which to begin; none for the first key.
    after: Option<String>,
    /// Maximum number of keys on the page.
    #[serde(default = "max_page", deserialize_with = "number")]
    limit: usize,
}

fn max_page() -> usize {
    MAX_PAGE
}

pub(super) async fn list(
    State(admin): State<Admin>,
    Parameters(Range { after, limit }): Parameters<Range>,
) -> Answer<Page> {
    let limit = limit.clamp(1, MAX_PAGE);
    let mut keys = admin.daemon.keys.look_at_list(after, limit + 1).await?;
    let fitting = fitting(&keys, limit);
    let more = keys.len() > fitting;
    keys.truncate(fitting);
    let view = |listed| match listed {
        Listed::Key(key) => KeyView { peers: Vec::new(), ..KeyView::of(&key, &admin.daemon) },
        Listed::Altered { label, reason } => KeyView::altered(&label, &reason),
    };
    let keys = keys.into_iter().map(view).collect();
    Ok(Json(Page { keys, more, altered: admin.daemon.keys.altered() }))
}

/// Number of keys of a page: fewer keys if they have many versions or long certificates, but at
/// least one.
fn fitting(keys: &[Listed], limit: usize) -> usize {
    let lengths = keys.iter().scan(0, |length, key| {
        *length += match key {
            Listed::Key(key) => key.versions.iter().map(length_on_page).sum(),
            Listed::Altered { .. } => 1024,
        };
        Some(*length)
    });
    lengths.take(limit).take_while(|length| *length <= MAX_PAGE_LENGTH).count().max(1)
}

/// Maximum length of a version in JSON, in bytes: the public key in base64, and the names in its
/// certificate, each byte of which may become three.
fn length_on_page(version: &Version) -> usize {
    1024 + 2 * version.spki.len() + 3 * version.certificates.first().map_or(0, Vec::len)
}

pub(super) async fn generate(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    Document(wanted): Document<request::Generate>,
) -> Result<(StatusCode, Json<KeyView>), AdminError> {
    let request::Generate { label, key_type, uses, sign_and_decrypt, backend } = wanted;
    let spec = KeySpec { label, properties: Properties { uses, sign_and_decrypt, backend } };
    let key = lifecycle::generate(&admin.daemon, actor, spec, key_type).await?;
    Ok((StatusCode::CREATED, admin.view(&key)))
}

/// Generates the keys of a list. There is a result for each of them, in their order.
pub(super) async fn generate_all(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    Document(wanted): Document<request::GenerateAll>,
) -> Answer<Vec<Made>> {
    let request::GenerateAll { labels, key_type, uses, sign_and_decrypt, backend } = wanted;
    let (count, most) = (labels.len(), most_labels(key_type));
    if count == 0 || count > most {
        let why = format!("{count} labels, and 1 to {most} are possible for keys of type {key_type}");
        return Err(AdminError::Invalid(why));
    }
    let properties = Properties { uses, sign_and_decrypt, backend };
    let all = lifecycle::generate_all(&admin.daemon, actor, &labels, properties, key_type).await?;
    let made = all.into_iter().map(|made| match made {
        Ok(key) => Made::Key(Box::new(KeyView::of(&key, &admin.daemon))),
        Err(error) => {
            let error = AdminError::from(error);
            error.log();
            Made::Refused { status: error.status().as_u16(), error: printable(&error.to_string()) }
        }
    });
    Ok(Json(made.collect()))
}

pub(super) async fn import(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(label): OfKey,
    Parameters(wanted): Parameters<request::Import>,
    file: PlainKey,
) -> Result<(StatusCode, [(HeaderName, &'static str); 1], Json<KeyView>), AdminError> {
    let request::Import { uses, sign_and_decrypt, backend, new_version } = wanted;
    let key = match new_version {
        true => lifecycle::import_version(&admin.daemon, actor, &label, file).await?,
        false => {
            let spec = KeySpec { label, properties: Properties { uses, sign_and_decrypt, backend } };
            lifecycle::import(&admin.daemon, actor, spec, file).await?
        }
    };
    // The buffer of the connection holds the file until the connection is closed.
    Ok((StatusCode::CREATED, [(CONNECTION, "close")], admin.view(&key)))
}

pub(super) async fn adopt(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(label): OfKey,
    Document(wanted): Document<request::Adopt>,
) -> Result<(StatusCode, Json<KeyView>), AdminError> {
    let request::Adopt { blob, public_key, uses, sign_and_decrypt, backend } = wanted;
    let spec = KeySpec { label, properties: Properties { uses, sign_and_decrypt, backend } };
    let key = lifecycle::adopt(&admin.daemon, actor, spec, blob, &public_key).await?;
    Ok((StatusCode::CREATED, admin.view(&key)))
}

pub(super) async fn show(State(admin): State<Admin>, OfKey(label): OfKey) -> Answer<KeyView> {
    let key = admin.daemon.keys.look(&label).await?.ok_or(StoreError::Unknown(label))?;
    Ok(admin.view(&key))
}

pub(super) async fn change(
    State(admin): State<Admin>,
    Extension(asker): Extension<Asker>,
    OfKey(label): OfKey,
    Document(wanted): Document<request::Change>,
) -> Answer<KeyView> {
    let change = act_of(wanted).map_err(AdminError::Invalid)?;
    let right = match change {
        Change::Disable | Change::Enable => Right::Operate,
        Change::SetDates { .. } | Change::SetDeletion | Change::SetUses { .. } => Right::Manage,
    };
    let actor = asker.may(change.name(), right).await?;
    Ok(admin.view(&*lifecycle::change(&admin.daemon, actor, &label, change).await?))
}

/// The one act that a request asks for. A request for several acts would need the rights of all of
/// them, and a record of each.
fn act_of(wanted: request::Change) -> Result<Change, String> {
    let request::Change { state, not_before, not_after, dual, uses, sign_and_decrypt } = wanted;
    let state = state.map(|state| match state {
        KeyState::Enabled => Ok(Change::Enable),
        KeyState::Disabled => Ok(Change::Disable),
        KeyState::Compromised => Err("a key is compromised with POST /v1/keys/LABEL/compromise"),
    });
    let has_dates = not_before.is_some() || not_after.is_some();
    let dates = has_dates.then_some(Ok(Change::SetDates { not_before, not_after }));
    let deletion = dual.map(|dual| match dual {
        true => Ok(Change::SetDeletion),
        false => Err("a key that needs two users for its deletion needs them for ever"),
    });
    let uses = uses.map(|uses| Ok(Change::SetUses { uses, sign_and_decrypt }));
    let acts = [state, dates, deletion, uses].into_iter().flatten().collect::<Result<Vec<_>, _>>()?;
    match <[Change; 1]>::try_from(acts) {
        Ok([act]) => Ok(act),
        Err(acts) if acts.is_empty() => Err("the change names no property".into()),
        Err(acts) => {
            let names: Vec<_> = acts.iter().map(Change::name).collect();
            Err(format!("the change asks for several acts; send a request for each: {}", names.join(", ")))
        }
    }
}

pub(super) async fn rotate(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(label): OfKey,
) -> Answer<KeyView> {
    Ok(admin.view(&*lifecycle::rotate(&admin.daemon, actor, &label).await?))
}

pub(super) async fn delete(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(label): OfKey,
    Parameters(wanted): Parameters<request::Delete>,
) -> Result<Response, AdminError> {
    let request = Delete { wait: wanted.after, force: wanted.force };
    let deleted = lifecycle::delete(&admin.daemon, actor, &label, request).await?;
    Ok(match deleted {
        Some(key) => admin.view(&key).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

pub(super) async fn compromise(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(label): OfKey,
) -> Answer<KeyView> {
    Ok(admin.view(&*lifecycle::compromise(&admin.daemon, actor, &label).await?))
}

pub(super) async fn restore(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(label): OfKey,
) -> Answer<KeyView> {
    Ok(admin.view(&*lifecycle::restore(&admin.daemon, actor, &label).await?))
}

pub(super) async fn purge(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(label): OfKey,
) -> Answer<PurgesView> {
    lifecycle::purge(&admin.daemon, actor, &label).await?;
    let shred = admin.daemon.keys.shred().await?;
    Ok(Json(PurgesView::of(&admin.daemon, &shred).await?))
}

pub(super) async fn repair(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
) -> Answer<RepairedView> {
    let repaired = lifecycle::repair(&admin.daemon, actor).await?;
    Ok(Json(RepairedView::of(&repaired, admin.daemon.keys.altered())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::keys::Key;
    use crate::keys::tests::key;

    #[test]
    fn a_change_is_one_act() {
        let act = |json| act_of(serde_json::from_value(json).unwrap());
        for (body, name) in [
            (json!({"state": "enabled"}), "enable"),
            (json!({"state": "disabled"}), "disable"),
            (json!({"not_before": null, "not_after": 7}), "set-dates"),
            (json!({"dual": true}), "set-deletion"),
            (json!({"uses": ["csr"], "sign_and_decrypt": true}), "set-uses"),
        ] {
            assert_eq!(act(body).unwrap().name(), name);
        }
        for (body, reason) in [
            (json!({}), "names no property"),
            (json!({"sign_and_decrypt": true}), "names no property"),
            (json!({"state": "compromised"}), "POST /v1/keys/LABEL/compromise"),
            (json!({"dual": false}), "for ever"),
            (json!({"state": "enabled", "dual": false}), "for ever"),
            (json!({"state": "enabled", "not_after": null}), "for each: enable, set-dates"),
            (json!({"dual": true, "uses": []}), "for each: set-deletion, set-uses"),
        ] {
            let refused = act(body).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
    }

    #[test]
    fn pages_are_bounded_by_keys_and_their_length() {
        let with = |versions: usize| {
            let mut key = key("shop");
            key.versions = vec![key.versions[0].clone(); versions];
            key
        };
        let page = |keys: Vec<Key>| keys.into_iter().map(Listed::Key).collect::<Vec<_>>();
        let few = page(vec![with(1); 10]);
        assert_eq!((fitting(&few, 4), fitting(&few, 100)), (4, 10));
        let most = MAX_PAGE_LENGTH / length_on_page(&with(1).versions[0]);
        let many = page(vec![with(most / 2); 10]);
        assert_eq!(fitting(&many, 100), 2);
        assert_eq!(fitting(&page(vec![with(most + 1)]), 100), 1);
        let mut long = with(100);
        long.versions[0].certificates.push(vec![0; MAX_PAGE_LENGTH / 6]);
        assert_eq!(fitting(&page(vec![long; 10]), 100), 1);
    }
}
