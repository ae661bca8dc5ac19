use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use keyward_proto::{KeyType, Label, Use};
use keyward_unit::{MasterKey, Wkid};

use super::event::{Action, begin};
use super::*;
use crate::backend::{Backend, Backends, Embedded};
use crate::config::{Config, EMBEDDED};
use crate::daemon::Daemon;
use crate::keys::tests::unlocked;
use crate::keys::{State, StoreError, now};
use crate::policy::roles::Role;

const ACTOR: Actor = Actor::User { uid: 2, pid: 1, role: Role::Manager };

/// A daemon with an embedded unit, and the name of the master key of the unit.
async fn daemon(state_dir: &Path) -> (Arc<Daemon>, Wkid) {
    let unit = Embedded::with_master_key(MasterKey::generate().unwrap());
    let wkid = unit.unit().wkid().unwrap();
    let backends = Backends::new(vec![Backend::embedded(unit)]);
    let store = unlocked(state_dir);
    let secret = state_dir.join("unseal.key");
    fs::write(&secret, Embedded::SECRET).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let mut config = Config::default();
    config.embedded.unseal_key = Some(secret);
    let daemon = Arc::new(Daemon::new(config, Vec::new(), false, store, backends));
    daemon.keys.set_wkid(EMBEDDED, wkid, None).await.unwrap();
    (daemon, wkid)
}

/// Gives the unit a next master key.
async fn prepare(daemon: &Daemon) -> Wkid {
    let custody = prepare_rotation(daemon, ACTOR).await.unwrap();
    custody.state.new_register().contents().unwrap().wkid
}

fn label() -> Label {
    "shop".parse().unwrap()
}

fn spec(uses: &[Use]) -> KeySpec {
    KeySpec { label: label(), properties: Properties { uses: uses.to_vec(), ..Properties::default() } }
}

/// A new P-256 key for TLS servers.
async fn generated(daemon: &Daemon) -> Arc<crate::keys::Key> {
    generate(daemon, ACTOR, spec(&[]), KeyType::P256).await.unwrap()
}

/// A user who stops a key many times at the same time has no further acts that nothing limits.
#[tokio::test]
async fn one_act_at_a_time_stops_a_key_beyond_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, _) = daemon(dir.path()).await;
    generated(&daemon).await;
    while daemon.may_act(ACTOR.uid()) {}
    let label = label();
    let stop = |action| begin(&daemon, ACTOR, action, Some(&label));
    let first = stop(Action::Disable).await.unwrap();
    assert!(matches!(stop(Action::Disable).await, Err(Error::ManyActs)));
    assert!(stop(Action::Compromise).await.is_ok(), "another act");
    let other = Actor::User { uid: 1, pid: 1, role: Role::Operator };
    while daemon.may_act(other.uid()) {}
    assert!(begin(&daemon, other, Action::Disable, Some(&label)).await.is_ok(), "another user");
    drop(first);
    assert!(stop(Action::Disable).await.is_ok());
}

#[tokio::test]
async fn a_new_key_has_each_use_once() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, _) = daemon(dir.path()).await;
    let twice = spec(&[Use::Csr, Use::Csr, Use::TlsClient]);
    let key = generate(&daemon, ACTOR, twice, KeyType::P256).await.unwrap();
    assert_eq!(key.uses, [Use::Csr, Use::TlsClient]);
    let again = generate(&daemon, ACTOR, spec(&[]), KeyType::P256).await;
    assert!(matches!(again, Err(Error::Store(StoreError::Exists(_)))));
    let none = Change::SetUses { uses: Vec::new(), sign_and_decrypt: false };
    let key = change(&daemon, ACTOR, &label(), none).await.unwrap();
    assert_eq!((&*key.uses, key.state), (&[Use::TlsServer][..], State::Enabled));
}

#[tokio::test]
async fn rotation_adds_a_version_and_keeps_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, wkid) = daemon(dir.path()).await;
    let unknown = rotate(&daemon, ACTOR, &label()).await;
    assert!(matches!(unknown, Err(Error::Store(StoreError::Unknown(_)))));

    let first = generated(&daemon).await;
    let second = rotate(&daemon, ACTOR, &label()).await.unwrap();
    assert_eq!((first.current, second.current, second.versions.len()), (1, 2, 2));
    assert_eq!(second.versions[0].blob, first.versions[0].blob);
    assert_ne!(second.versions[0].spki, second.versions[1].spki);
    let header = keyward_unit::Header::read(&second.versions[1].blob).unwrap();
    assert_eq!(header.wkid(), wkid);
    assert_eq!(daemon.keys.get(&label()).await.unwrap().unwrap().current, 2);

    delete(&daemon, ACTOR, &label(), Delete::default()).await.unwrap();
    purge(&daemon, ACTOR, &label()).await.unwrap();
    assert!(daemon.keys.get(&label()).await.unwrap().is_none());
}

#[tokio::test]
async fn after_a_rewrap_the_next_master_key_is_put_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, old) = daemon(dir.path()).await;
    generated(&daemon).await;
    let key = rotate(&daemon, ACTOR, &label()).await.unwrap();

    assert!(matches!(finish_rewrap(&daemon, ACTOR, EMBEDDED).await, Err(Error::NothingCommitted(_))));
    let next = prepare(&daemon).await;
    let early = finish_rewrap(&daemon, ACTOR, EMBEDDED).await;
    let Err(Error::NotRewrapped { labels, .. }) = early else { panic!("not one blob is wrapped yet") };
    assert_eq!(labels, [label()]);

    for wrapped in [2, 0] {
        let done = rewrap(&daemon, ACTOR, EMBEDDED, None).await.unwrap();
        assert_eq!((done.looked_at, done.keys, done.wrapped, done.next), (1, 1, wrapped, None));
    }
    // A version that is made now waits for the next run.
    rotate(&daemon, ACTOR, &label()).await.unwrap();
    assert!(matches!(finish_rewrap(&daemon, ACTOR, EMBEDDED).await, Err(Error::NotRewrapped { .. })));
    assert_eq!(rewrap(&daemon, ACTOR, EMBEDDED, None).await.unwrap().wrapped, 1);

    let finished = finish_rewrap(&daemon, ACTOR, EMBEDDED).await.unwrap();
    assert_eq!((finished.wkid, finished.keys), (next, 1));
    assert_ne!(old, next);
    let settled = daemon.keys.get(&label()).await.unwrap().unwrap();
    assert_eq!(settled.versions.len(), 3);
    for (now, before) in settled.versions.iter().zip(&key.versions) {
        assert_eq!((now.number, &now.spki), (before.number, &before.spki));
        assert_ne!(now.blob, before.blob);
    }
    for version in &settled.versions {
        assert_eq!(keyward_unit::Header::read(&version.blob).unwrap().wkid(), next);
        assert!(version.next_blob.is_none());
    }
    assert_eq!(daemon.keys.wkid(EMBEDDED).await.unwrap(), Some(next));
}

#[tokio::test]
async fn a_used_key_is_deleted_by_force_and_destroyed_when_its_time_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, _) = daemon(dir.path()).await;
    generated(&daemon).await;
    let request = |wait, force| Delete { wait, force };
    let usage = daemon.keys.usage();
    usage.note("shop", 33, Some(&"nginx.service".into()), Some(&"nginx".into()), now() - 3700);
    usage.note("shop", 0, None, Some(&"curl".into()), now() - 120);
    let refused = delete(&daemon, ACTOR, &label(), request(None, false)).await.err().unwrap().to_string();
    assert!(refused.contains("(id 0) with curl, used it 2 minutes ago; "), "{refused}");
    assert!(refused.ends_with(": keyward key delete shop --yes --force"), "{refused}");
    let wait = Some(93_600);
    let refused = delete(&daemon, ACTOR, &label(), request(wait, false)).await.err().unwrap().to_string();
    assert!(refused.ends_with(": keyward key delete shop --yes --after 1day2h --force"), "{refused}");
    let short = delete(&daemon, ACTOR, &label(), request(Some(3599), true)).await;
    assert!(matches!(short, Err(Error::ShortWait(_))));
    assert!(daemon.keys.get(&label()).await.unwrap().unwrap().may_sign(now()));
    let early = purge(&daemon, ACTOR, &label()).await;
    assert!(matches!(early, Err(Error::NotDeletedYet(_))));

    let deleted = delete(&daemon, ACTOR, &label(), request(Some(3600), true)).await.unwrap().unwrap();
    assert!(!deleted.may_sign(now()));
    let again = generate(&daemon, ACTOR, spec(&[]), KeyType::P256).await;
    assert!(matches!(again, Err(Error::LabelOfDeleted { .. })));
    // The waiting period has not ended, whatever the caller believes.
    let early = life::destroy_overdue(&daemon, &label()).await;
    assert!(matches!(early, Err(Error::Store(StoreError::Changed(_)))));
    let past = |key: &mut crate::keys::Key| {
        key.life.deletion.as_mut().unwrap().destroy_at = now();
        Ok::<_, StoreError>(())
    };
    daemon.keys.update(&label(), past).await.unwrap();
    life::destroy_overdue(&daemon, &label()).await.unwrap();
    assert!(daemon.keys.get(&label()).await.unwrap().is_none());
    assert!(usage.of_key("shop").is_empty(), "another key with the label begins anew");
    let gone = restore(&daemon, ACTOR, &label()).await;
    assert!(matches!(gone, Err(Error::Store(StoreError::Unknown(_)))));

    // A use more than an hour ago does not matter.
    generated(&daemon).await;
    usage.note("shop", 33, None, None, now() - 3600);
    delete(&daemon, ACTOR, &label(), Delete::default()).await.unwrap();
}

#[tokio::test]
async fn a_key_whose_last_use_is_not_known_is_deleted_by_force() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, _) = daemon(dir.path()).await;
    generated(&daemon).await;
    // The key is older than the daemon, which has started just now.
    let age = |created| {
        move |key: &mut crate::keys::Key| {
            key.versions[0].created = created;
            Ok::<_, StoreError>(())
        }
    };
    let usage = daemon.keys.usage();
    let since = usage.since("shop");
    daemon.keys.update(&label(), age(since - 1)).await.unwrap();
    let request = |wait, force| Delete { wait, force };
    let refused = delete(&daemon, ACTOR, &label(), request(Some(86_400), false)).await.err().unwrap();
    let refused = refused.to_string();
    assert!(refused.contains("not known whether key shop was used before "), "{refused}");
    assert!(refused.ends_with(": keyward key delete shop --yes --after 1day --force"), "{refused}");
    assert!(daemon.keys.get(&label()).await.unwrap().unwrap().may_sign(now()));
    delete(&daemon, ACTOR, &label(), request(Some(86_400), true)).await.unwrap();
    restore(&daemon, ACTOR, &label()).await.unwrap();
    // A key that was made since cannot have been used before.
    daemon.keys.update(&label(), age(since)).await.unwrap();
    delete(&daemon, ACTOR, &label(), Delete::default()).await.unwrap();
}

#[tokio::test]
async fn a_waiting_period_has_at_most_ten_years() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, _) = daemon(dir.path()).await;
    generated(&daemon).await;
    let most = 10 * 31_557_600;
    for wait in [most + 1, u64::MAX] {
        let refused = delete(&daemon, ACTOR, &label(), Delete { wait: Some(wait), force: true }).await;
        assert!(matches!(refused, Err(Error::LongWait(_))));
    }
    delete(&daemon, ACTOR, &label(), Delete { wait: Some(most), force: true }).await.unwrap();
}

#[tokio::test]
async fn a_deleted_key_moves_to_the_next_master_key() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, _) = daemon(dir.path()).await;
    generated(&daemon).await;
    delete(&daemon, ACTOR, &label(), Delete::default()).await.unwrap();
    let next = prepare(&daemon).await;
    rewrap(&daemon, ACTOR, EMBEDDED, None).await.unwrap();
    finish_rewrap(&daemon, ACTOR, EMBEDDED).await.unwrap();
    let csr = Change::SetUses { uses: vec![Use::Csr], sign_and_decrypt: false };
    assert!(matches!(change(&daemon, ACTOR, &label(), csr).await, Err(Error::Deleted { .. })));
    let restored = restore(&daemon, ACTOR, &label()).await.unwrap();
    assert!(restored.may_sign(now()));
    let header = keyward_unit::Header::read(&restored.versions[0].blob).unwrap();
    assert_eq!(header.wkid(), next);
}

#[tokio::test]
async fn only_requests_for_the_key_are_signed() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, _) = daemon(dir.path()).await;
    generated(&daemon).await;
    let refused = sign_request(&daemon, ACTOR, &label(), 0, b"no request").await;
    assert!(matches!(refused, Err(Error::NotForRequests { .. })));
    let csr = Change::SetUses { uses: vec![Use::Csr], sign_and_decrypt: false };
    change(&daemon, ACTOR, &label(), csr).await.unwrap();
    let refused = sign_request(&daemon, ACTOR, &label(), 0, b"no request").await;
    assert!(matches!(refused, Err(Error::NotARequest { number: 1, .. })));
    let disabled = Change::Disable;
    change(&daemon, ACTOR, &label(), disabled).await.unwrap();
    let refused = sign_request(&daemon, ACTOR, &label(), 0, b"no request").await;
    assert!(matches!(refused, Err(Error::Disabled(_))));
    let refused = detach(&daemon, ACTOR, &label(), 0).await;
    assert!(matches!(refused, Err(Error::NoCertificate { number: 1, .. })));
}

/// The old master key is the only way back, so nobody gives up a change in which a key has lost its
/// old blob.
#[tokio::test]
async fn a_change_that_has_begun_to_end_is_not_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, old) = daemon(dir.path()).await;
    generated(&daemon).await;
    assert!(matches!(give_up_rotation(&daemon, ACTOR).await, Err(Error::NoChange)));
    let new = prepare(&daemon).await;
    rewrap(&daemon, ACTOR, EMBEDDED, None).await.unwrap();
    {
        let locked = rewrap::lock(&daemon, EMBEDDED).await.unwrap();
        rewrap::refuse_to_cut_off(&daemon, new, &locked).await.unwrap();
    }
    // As after a kill in the middle of the end.
    let replace = |key: &mut crate::keys::Key| {
        key.versions[0].blob = key.versions[0].next_blob.take().unwrap();
        Ok::<_, StoreError>(())
    };
    daemon.keys.update(&label(), replace).await.unwrap();
    assert!(matches!(give_up_rotation(&daemon, ACTOR).await, Err(Error::StoreNeedsNew)));
    {
        let locked = rewrap::lock(&daemon, EMBEDDED).await.unwrap();
        let cut_off = rewrap::refuse_to_cut_off(&daemon, new, &locked).await;
        assert!(matches!(cut_off, Err(Error::StoreNeedsNew)), "no register is emptied either");
    }
    // Two at a time end it once.
    let (one, two) =
        tokio::join!(finish_rewrap(&daemon, ACTOR, EMBEDDED), finish_rewrap(&daemon, ACTOR, EMBEDDED));
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    let unit = daemon.backends.embedded_unit().unwrap();
    assert!(unit.wkid() == daemon.keys.master_key().await.unwrap() && unit.wkid() != Some(old));
    let key = daemon.keys.get(&label()).await.unwrap().unwrap();
    assert!(unit.public_key(&key.versions[0].blob).is_ok());
}
