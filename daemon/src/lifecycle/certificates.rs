//! Certificates, attached to versions of keys.

use std::sync::Arc;

use keyward_proto::Label;

use super::Error;
use super::details::Act;
use super::event::{Action, Actor, begin};
use super::life::{check, refuse_unknown};
use crate::daemon::Daemon;
use crate::keys::certificates::{Certificate, Chain};
use crate::keys::{Key, Verb, Version};

/// Attaches a chain to the version with the public key of the first certificate. The chain replaces
/// the certificates that were attached before. Returns the key, and the number of the version.
///
/// # Errors
/// [`Error`] says why the chain does not belong to the key.
pub(crate) async fn attach(
    daemon: &Daemon,
    actor: Actor,
    label: &Label,
    chain: &Chain,
) -> Result<(Arc<Key>, u32), Error> {
    refuse_unknown(daemon, label).await?;
    let begun = begin(daemon, actor, Action::Attach, Some(label)).await?;
    let attached = daemon.keys.update(label, |key| set_chain(key, chain)).await;
    let (key, number) = begun.result(attached).await?;
    let not_after = chain.certificates.iter().map(Certificate::not_after).min();
    begun.done(Act::Attach { not_after }, Some(number)).await?;
    Ok((key, number))
}

/// Removes the certificates of a version; number 0 stands for the current version. Returns the key
/// as it was before, and the number of the version.
///
/// # Errors
/// [`Error`] says which versions have certificates.
pub(crate) async fn detach(
    daemon: &Daemon,
    actor: Actor,
    label: &Label,
    number: u32,
) -> Result<(Key, u32), Error> {
    refuse_unknown(daemon, label).await?;
    let begun = begin(daemon, actor, Action::Detach, Some(label)).await?;
    let clear = |key: &mut Key| {
        let before = key.clone();
        clear(key, number).map(|number| (before, number))
    };
    let (_, (before, number)) = begun.result(daemon.keys.update(label, clear).await).await?;
    begun.done(Act::Detach, Some(number)).await?;
    Ok((before, number))
}

fn clear(key: &mut Key, number: u32) -> Result<u32, Error> {
    check(key, Verb::ChangeProperties)?;
    let number = if number == 0 { key.current } else { number };
    let has_some = |version: &&Version| !version.certificates.is_empty();
    let certified = key.versions.iter().filter(has_some).map(|version| version.number).collect();
    let label = key.label.clone();
    match key.versions.iter_mut().find(|version| version.number == number) {
        None => Err(Error::NoVersion { label, number }),
        Some(version) if version.certificates.is_empty() => {
            Err(Error::NoCertificate { label, number, certified })
        }
        Some(version) => {
            version.certificates.clear();
            Ok(number)
        }
    }
}

/// Attaches a chain to its version. Returns the number of the version.
fn set_chain(key: &mut Key, chain: &Chain) -> Result<u32, Error> {
    check(key, Verb::ChangeProperties)?;
    let spkis: Vec<_> = chain.certificates.iter().map(Certificate::spki).collect();
    let at = key.versions.iter().position(|version| spkis.first() == Some(&version.spki.as_slice()));
    let Some(version) = at.and_then(|at| key.versions.get_mut(at)) else {
        let label = key.label.clone();
        let is_of_key = |spki: &&[u8]| key.versions.iter().any(|version| version.spki == **spki);
        return Err(match spkis.iter().position(is_of_key) {
            Some(at) => Error::CertificateNotFirst { label, number: at + 1 },
            None => Error::CertificateOfOtherKey(label),
        });
    };
    chain.check()?;
    version.certificates = chain.certificates.iter().map(|one| one.der().to_vec()).collect();
    Ok(version.number)
}
