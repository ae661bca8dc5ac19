//! Changes of the properties of keys, and deletion of keys.

use std::sync::Arc;

use keyward_proto::{Label, Use};

use super::Error;
use super::event::{Act, Action, Actor, begin};
use super::uses::{check_abilities, check_uses, each_once};
use crate::daemon::Daemon;
use crate::keys::{Key, State};

/// The properties of a key to replace. None stands for the property as it is.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) state: Option<State>,
    /// The new uses of the key; an empty list stands for `tls-server`.
    pub(crate) uses: Option<Vec<Use>>,
    /// True if the actor accepts that one RSA key signs and decrypts.
    pub(crate) sign_and_decrypt: bool,
}

/// Enables or disables a key, or replaces its uses.
///
/// # Errors
/// [`Error`] says why the key cannot have these uses.
pub(crate) async fn change(
    daemon: &Daemon,
    actor: Actor,
    label: &Label,
    change: Change,
) -> Result<Arc<Key>, Error> {
    let action = match change.state {
        Some(State::Disabled) => Action::Disable,
        Some(State::Enabled) => Action::Enable,
        None => Action::SetUses,
    };
    let uses = change.uses.map(each_once);
    let apply = |key: &mut Key| {
        if let (Some(uses), Some(version)) = (&uses, key.version(0)) {
            check_uses(uses, version.key_type, change.sign_and_decrypt)?;
            if let Some(backend) = daemon.backends.get(&key.backend) {
                check_abilities(uses, backend, version)?;
            }
        }
        key.state = change.state.unwrap_or(key.state);
        if let Some(uses) = &uses {
            key.uses.clone_from(uses);
        }
        Ok::<_, Error>(())
    };
    let begun = begin(daemon, actor, action, Some(label)).await?;
    let (key, ()) = begun.result(daemon.keys.update(label, apply).await).await?;
    begun.done(Act::Change(&key), None).await?;
    Ok(key)
}

/// Deletes a key with all its versions, also a key whose record was altered.
///
/// # Errors
/// [`Error::Store`] if there is no such key, or the store cannot be written.
pub(crate) async fn delete(daemon: &Daemon, actor: Actor, label: &Label) -> Result<(), Error> {
    let begun = begin(daemon, actor, Action::Delete, Some(label)).await?;
    begun.result(daemon.keys.delete(label).await).await?;
    begun.done(Act::Delete, None).await
}
