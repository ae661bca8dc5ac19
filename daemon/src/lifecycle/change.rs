//! Changes of the properties of keys.

use std::sync::Arc;

use keyward_proto::{Label, Use};

use super::Error;
use super::details::Act;
use super::event::{Action, Actor, begin};
use super::life::{carry_out, refuse_unknown, stop};
use super::uses::{check_abilities, check_uses, each_once};
use crate::daemon::Daemon;
use crate::keys::{Key, Verb};

/// An act that changes properties of a key.
#[derive(Debug)]
pub(crate) enum Change {
    /// The key signs no more, until it is enabled.
    Disable,
    /// A disabled key signs again.
    Enable,
    /// Replaces dates, in seconds since 1970. None leaves a date as it is; `Some(None)` removes it.
    SetDates {
        /// Time from which the key signs.
        not_before: Option<Option<u64>>,
        /// Time from which the key signs no more.
        not_after: Option<Option<u64>>,
    },
    /// A second user must ask for the deletion from now on, for ever.
    SetDeletion,
    /// Replaces the uses of the key.
    SetUses {
        /// The new uses; an empty list stands for `tls-server`.
        uses: Vec<Use>,
        /// True if the actor accepts that one RSA key signs and decrypts.
        sign_and_decrypt: bool,
    },
}

/// Carries out a change.
///
/// # Errors
/// [`Error`] says why the key does not admit the change. The key is unchanged then.
pub(crate) async fn change(
    daemon: &Daemon,
    actor: Actor,
    label: &Label,
    change: Change,
) -> Result<Arc<Key>, Error> {
    let (action, verb) = (change.action(), change.verb());
    let uses = match change {
        Change::SetUses { uses, sign_and_decrypt } => Some((each_once(uses), sign_and_decrypt)),
        _ => None,
    };
    let apply = |key: &mut Key| {
        carry_out(key, verb)?;
        let Some((uses, sign_and_decrypt)) = &uses else { return Ok(()) };
        if let Some(version) = key.version(0) {
            check_uses(uses, version.key_type, *sign_and_decrypt)?;
            if let Some(backend) = daemon.backends.get(&key.backend) {
                check_abilities(uses, backend, version)?;
            }
        }
        key.uses.clone_from(uses);
        Ok::<_, Error>(())
    };
    refuse_unknown(daemon, label).await?;
    let begun = begin(daemon, actor, action, Some(label)).await?;
    let changed = match verb {
        Verb::Disable => stop(daemon, label, verb).await,
        _ => daemon.keys.update(label, apply).await.map(|(key, ())| key),
    };
    let key = begun.result(changed).await?;
    begun.done(Act::Change(&key), None).await?;
    Ok(key)
}

impl Change {
    /// Name of the act, as docs/roles.md has it.
    pub(crate) fn name(&self) -> &'static str {
        let name = self.action().name();
        name.strip_prefix("keyward.key.").unwrap_or(name)
    }

    fn action(&self) -> Action {
        match self {
            Self::Disable => Action::Disable,
            Self::Enable => Action::Enable,
            Self::SetDates { .. } => Action::SetDates,
            Self::SetDeletion => Action::SetDeletion,
            Self::SetUses { .. } => Action::SetUses,
        }
    }

    fn verb(&self) -> Verb {
        match *self {
            Self::Disable => Verb::Disable,
            Self::Enable => Verb::Enable,
            Self::SetDates { not_before, not_after } => Verb::SetDates { not_before, not_after },
            Self::SetDeletion => Verb::RequireSecondUser,
            Self::SetUses { .. } => Verb::ChangeProperties,
        }
    }
}
