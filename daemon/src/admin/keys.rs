//! Keys: made, taken in, listed, changed, deleted.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Path, Query, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderName, StatusCode};
use axum::{Extension, Json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::{Fingerprint, KeyType, Label, Use};
use keyward_unit::NewKey;

use super::plain_key::PlainKey;
use super::{Admin, AdminError, Administrator, Answer, Body, parse};
use crate::admin::api::{self, Change, KeyView, MAX_PAGE, MAX_PAGE_LENGTH, Page, RepairedView};
use crate::keys::{self, Key, Listed, Repaired, StoreError, Version};
use crate::lifecycle::{self, Placement, check_abilities, check_uses};

pub(super) async fn list(
    State(admin): State<Admin>,
    Query(query): Query<Vec<(String, String)>>,
) -> Answer<Page> {
    let mut after = None;
    let mut limit = MAX_PAGE;
    for (name, value) in query {
        match name.as_str() {
            "after" => after = Some(value),
            "limit" => {
                limit = value.parse().map_err(|_| AdminError::Invalid("limit is not a number".into()))?
            }
            _ => return Err(AdminError::Invalid(format!("unknown parameter {name}"))),
        }
    }
    let limit = limit.clamp(1, MAX_PAGE);
    let mut keys = admin.daemon.keys.list(after, limit + 1).await?;
    let fitting = fitting(&keys, limit);
    let more = keys.len() > fitting;
    keys.truncate(fitting);
    let view = |listed| match listed {
        Listed::Key(key) => KeyView::of(&key, &admin.daemon.backends),
        Listed::Altered { label, reason } => KeyView::altered(&label, &reason),
    };
    let keys = keys.into_iter().map(view).collect();
    Ok(Json(Page { keys, more, altered: admin.daemon.keys.altered() }))
}

/// How many keys make a page: of those with many versions or long certificates fewer than others, and always one.
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

/// As long as a version may become in JSON: the public key in base64, and the names of its certificate, of which each byte
/// may take three.
fn length_on_page(version: &Version) -> usize {
    1024 + 2 * version.spki.len() + 3 * version.certificates.first().map_or(0, Vec::len)
}

pub(super) async fn generate(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
    body: Body,
) -> Result<(StatusCode, Json<KeyView>), AdminError> {
    let wanted: api::NewKey = parse(&body?)?;
    let label = label(&wanted.label)?;
    let uses = uses(&wanted.uses)?;
    let key_type = wanted.key_type.parse().ok().filter(|known| KeyType::GENERATED.contains(known));
    let key_type = key_type.ok_or_else(|| {
        AdminError::Invalid(format!(
            "cannot generate a key of type {:?}: the types are {}",
            wanted.key_type,
            KeyType::GENERATED.map(|key_type| key_type.to_string()).join(", ")
        ))
    })?;
    let home = Placement::of(&admin.daemon, wanted.backend.as_deref()).await?;
    check_uses(&uses, key_type, wanted.sign_and_decrypt)?;
    refuse_existing(&admin, &label).await?;
    let made = home.backend.generate(key_type, &uses, home.wkid).await?;
    let key = home.store(&admin.daemon, label, uses, &made).await?;
    let view = KeyView::of(&key, &admin.daemon.backends);
    tracing::info!(key = view.label, r#type = view.key_type, uses = ?view.uses, uid = who.uid, "key generated");
    Ok((StatusCode::CREATED, Json(view)))
}

pub(super) async fn import(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
    Path(text): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    file: PlainKey,
) -> Result<(StatusCode, [(HeaderName, &'static str); 1], Json<KeyView>), AdminError> {
    let label = label(&text)?;
    let (mut words, mut backend, mut sign_and_decrypt, mut new_version) = (Vec::new(), None, false, false);
    let flag = |name: &str, value: String| {
        value.parse().map_err(|_| AdminError::Invalid(format!("{name} is neither true nor false")))
    };
    for (name, value) in query {
        match name.as_str() {
            "use" => words.push(value),
            "backend" => backend = Some(value),
            "sign-and-decrypt" => sign_and_decrypt = flag(&name, value)?,
            "new-version" => new_version = flag(&name, value)?,
            _ => return Err(AdminError::Invalid(format!("unknown parameter {name}"))),
        }
    }
    let view = if new_version {
        if !words.is_empty() || backend.is_some() || sign_and_decrypt {
            let reason = "a new version has the uses and the backend of its key; name none";
            return Err(AdminError::Invalid(reason.into()));
        }
        import_version(&admin, label, file).await?
    } else {
        let uses = uses(&words)?;
        let home = Placement::of(&admin.daemon, backend.as_deref()).await?;
        refuse_existing(&admin, &label).await?;
        let made = home.backend.import(file, &uses, home.wkid).await?;
        check_uses(&uses, made.key_type, sign_and_decrypt)?;
        KeyView::of(&*home.store(&admin.daemon, label, uses, &made).await?, &admin.daemon.backends)
    };
    let (key, key_type, version) = (&view.label, &view.key_type, view.current);
    tracing::info!(key, r#type = key_type, version, uses = ?view.uses, uid = who.uid, "key imported");
    // The buffer of the connection holds the file, and goes with the connection.
    Ok((StatusCode::CREATED, [(CONNECTION, "close")], Json(view)))
}

/// Makes the key in a file the current version of a key, whose uses it gets.
async fn import_version(admin: &Admin, label: Label, file: PlainKey) -> Result<KeyView, AdminError> {
    let key = admin.daemon.keys.get(&label).await?.ok_or_else(|| StoreError::Unknown(label.clone()))?;
    refuse_full(&key)?;
    let home = Placement::of(&admin.daemon, Some(&key.backend)).await?;
    let made = home.backend.import(file, &key.uses, home.wkid).await?;
    // Whoever gave the key these uses has accepted them.
    check_uses(&key.uses, made.key_type, true)?;
    if let Some(known) = key.versions.iter().find(|version| version.spki == made.spki) {
        return Err(AdminError::Unfit(format!(
            "the key in the file is version {} of key {label} already",
            known.number
        )));
    }
    add_version(admin, &key, &made).await
}

pub(super) async fn adopt(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
    Path(text): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<KeyView>), AdminError> {
    let label = label(&text)?;
    let adopted: api::Adopted = parse(&body?)?;
    let uses = uses(&adopted.uses)?;
    let decode = |text: &str, what: &str| {
        STANDARD.decode(text).map_err(|_| AdminError::Invalid(format!("the {what} is not base64")))
    };
    let (blob, public) = (decode(&adopted.blob, "blob")?, decode(&adopted.public_key, "public key")?);
    let backend = adopted.backend.as_deref();
    let accepted = adopted.sign_and_decrypt;
    let key = lifecycle::adopt(&admin.daemon, label, uses, accepted, backend, blob, &public).await?;
    let view = KeyView::of(&key, &admin.daemon.backends);
    tracing::info!(key = view.label, r#type = view.key_type, uses = ?view.uses, uid = who.uid, "key adopted");
    Ok((StatusCode::CREATED, Json(view)))
}

pub(super) async fn show(State(admin): State<Admin>, Path(text): Path<String>) -> Answer<KeyView> {
    let label = label(&text)?;
    let key = admin.daemon.keys.get(&label).await?.ok_or(StoreError::Unknown(label))?;
    Ok(Json(KeyView::of(&key, &admin.daemon.backends)))
}

pub(super) async fn change(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
    Path(text): Path<String>,
    body: Body,
) -> Answer<KeyView> {
    let label = label(&text)?;
    let change: Change = parse(&body?)?;
    let state = change.state.map(|name| {
        keys::State::of_name(&name).ok_or_else(|| AdminError::Invalid(format!("no such state: {name:?}")))
    });
    let state = state.transpose()?;
    let uses = change.uses.map(|words| uses(&words)).transpose()?;
    loop {
        let old = admin.daemon.keys.get(&label).await?.ok_or_else(|| StoreError::Unknown(label.clone()))?;
        if let (Some(uses), Some(version)) = (&uses, old.version(0)) {
            check_uses(uses, version.key_type, change.sign_and_decrypt)?;
            check_abilities(uses, &old.backend, version)?;
        }
        let key = Key {
            state: state.unwrap_or(old.state),
            uses: uses.clone().unwrap_or_else(|| old.uses.clone()),
            ..(*old).clone()
        };
        match admin.daemon.keys.put(key).await {
            Ok(key) => {
                let view = KeyView::of(&key, &admin.daemon.backends);
                tracing::info!(key = view.label, state = view.state, uses = ?view.uses, uid = who.uid, "key changed");
                return Ok(Json(view));
            }
            // Someone else changed it in between; every round means that one change succeeded.
            Err(StoreError::Changed(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes a new version, which becomes the current one.
pub(super) async fn rotate(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
    Path(text): Path<String>,
) -> Answer<KeyView> {
    let label = label(&text)?;
    let key = admin.daemon.keys.get(&label).await?.ok_or_else(|| StoreError::Unknown(label.clone()))?;
    let key_type = key.version(0).map(|version| version.key_type);
    let key_type = key_type.filter(|known| KeyType::GENERATED.contains(known)).ok_or_else(|| {
        AdminError::Unfit(format!(
            "no key of the type of key {label} can be made; import one: keyward key import {label} --new-version --in FILE"
        ))
    })?;
    refuse_full(&key)?;
    let home = Placement::of(&admin.daemon, Some(&key.backend)).await?;
    let made = home.backend.generate(key_type, &key.uses, home.wkid).await?;
    let view = add_version(&admin, &key, &made).await?;
    tracing::info!(key = view.label, version = view.current, uid = who.uid, "key rotated");
    Ok(Json(view))
}

/// Stores what was made for a key as the current version of that.
async fn add_version(admin: &Admin, key: &Key, made: &NewKey) -> Result<KeyView, AdminError> {
    let label = &key.label;
    loop {
        let old = admin.daemon.keys.get(label).await?.ok_or_else(|| StoreError::Unknown(label.clone()))?;
        // With other uses, another kind of key would have been made.
        let is_the_same = old.uses == key.uses
            && old.versions.first().map(|version| &version.blob)
                == key.versions.first().map(|version| &version.blob);
        let last = old.versions.last().map_or(0, |version| version.number);
        if !is_the_same {
            return Err(StoreError::Changed(label.clone()).into());
        }
        refuse_full(&old)?;
        let mut key = (*old).clone();
        key.current = last + 1;
        key.versions.push(version(key.current, made));
        match admin.daemon.keys.put(key).await {
            Ok(key) => return Ok(KeyView::of(&key, &admin.daemon.backends)),
            // Someone else changed it in between; every round means that one change succeeded.
            Err(StoreError::Changed(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) async fn delete(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
    Path(text): Path<String>,
) -> Result<StatusCode, AdminError> {
    let label = label(&text)?;
    admin.daemon.keys.delete(&label).await?;
    tracing::info!(key = label.as_str(), uid = who.uid, "key deleted");
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn repair(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
) -> Answer<RepairedView> {
    let Repaired { lists, disabled, removed, nameless } = admin.daemon.keys.repair().await?;
    let names = |labels: Vec<Label>| labels.iter().map(Label::to_string).collect::<Vec<_>>();
    let (disabled, removed) = (names(disabled), names(removed));
    tracing::warn!(lists, ?disabled, ?removed, nameless, uid = who.uid, "index of the key store repaired");
    Ok(Json(RepairedView { lists, disabled, removed, nameless, altered: admin.daemon.keys.altered() }))
}

/// Refuses a label in use before time is spent on a key; [`Placement::store`] makes sure of it.
async fn refuse_existing(admin: &Admin, label: &Label) -> Result<(), AdminError> {
    match admin.daemon.keys.get(label).await? {
        Some(_) => Err(StoreError::Exists(label.clone()).into()),
        None => Ok(()),
    }
}

/// Refuses another version of a key that has as many as it can have.
fn refuse_full(key: &Key) -> Result<(), AdminError> {
    if key.versions.len() < MAX_VERSIONS {
        return Ok(());
    }
    let label = &key.label;
    Err(AdminError::Unfit(format!(
        "key {label} has {MAX_VERSIONS} versions, and cannot have more; make another key"
    )))
}

/// A version that was made just now.
fn version(number: u32, made: &NewKey) -> Version {
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Version {
        number,
        key_type: made.key_type,
        blob: made.blob.clone(),
        next_blob: None,
        fingerprint: Fingerprint::of(&made.spki),
        spki: made.spki.clone(),
        created,
        certificates: Vec::new(),
    }
}

pub(super) fn label(text: &str) -> Result<Label, AdminError> {
    text.parse().map_err(|error| AdminError::Invalid(format!("{text:?} is {error}")))
}

/// The version that a query names; 0, which stands for the current one, where it names none.
pub(super) fn version_of(query: Vec<(String, String)>) -> Result<u32, AdminError> {
    let mut number = 0;
    for (name, value) in query {
        match name.as_str() {
            "version" => {
                number = value.parse().map_err(|_| AdminError::Invalid("version is not a number".into()))?;
            }
            _ => return Err(AdminError::Invalid(format!("unknown parameter {name}"))),
        }
    }
    Ok(number)
}

/// Uses, each once; `tls-server` if there is none.
fn uses(words: &[String]) -> Result<Vec<Use>, AdminError> {
    let mut uses = Vec::new();
    for word in words {
        match word.parse() {
            Ok(u) if uses.contains(&u) => {}
            Ok(u) => uses.push(u),
            Err(_) => {
                let known = Use::ALL.map(Use::name).join(", ");
                return Err(AdminError::Invalid(format!("no such use: {word:?}; the uses are {known}")));
            }
        }
    }
    if uses.is_empty() {
        uses.push(Use::TlsServer);
    }
    Ok(uses)
}

/// Most versions of a key, which are all in memory when it is used.
const MAX_VERSIONS: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::tests::key;

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
