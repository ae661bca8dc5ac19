//! Changes of the properties of keys.

use std::sync::Arc;

use keyward_proto::{Label, Use};

use super::Error;
use super::event::{Act, Action, Actor, begin};
use super::life::{carry_out, refuse_unknown};
use super::uses::{check_abilities, check_uses, each_once};
use crate::daemon::Daemon;
use crate::keys::{Key, State, Verb};

/// The properties of a key to replace. None stands for the property as it is.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) state: Option<State>,
    /// Time from which the key signs, in seconds since 1970; `Some(None)` removes the time.
    pub(crate) not_before: Option<Option<u64>>,
    /// Time from which the key signs no more, in seconds since 1970; `Some(None)` removes the time.
    pub(crate) not_after: Option<Option<u64>>,
    /// True if a second user must ask for the deletion from now on, for ever.
    pub(crate) dual: bool,
    /// The new uses of the key; an empty list stands for `tls-server`.
    pub(crate) uses: Option<Vec<Use>>,
    /// True if the actor accepts that one RSA key signs and decrypts.
    pub(crate) sign_and_decrypt: bool,
}

/// Enables or disables a key, or replaces its dates or its uses.
///
/// # Errors
/// [`Error`] says why the key cannot have these properties. The key is unchanged then.
pub(crate) async fn change(
    daemon: &Daemon,
    actor: Actor,
    label: &Label,
    change: Change,
) -> Result<Arc<Key>, Error> {
    let (action, verbs) = (change.action(), change.verbs());
    let uses = change.uses.map(each_once);
    let apply = |key: &mut Key| {
        for verb in &verbs {
            carry_out(key, *verb)?;
        }
        if let (Some(uses), Some(version)) = (&uses, key.version(0)) {
            check_uses(uses, version.key_type, change.sign_and_decrypt)?;
            if let Some(backend) = daemon.backends.get(&key.backend) {
                check_abilities(uses, backend, version)?;
            }
        }
        if let Some(uses) = &uses {
            key.uses.clone_from(uses);
        }
        Ok::<_, Error>(())
    };
    refuse_unknown(daemon, label).await?;
    let begun = begin(daemon, actor, action, Some(label)).await?;
    let (key, ()) = begun.result(daemon.keys.update(label, apply).await).await?;
    begun.done(Act::Change(&key), None).await?;
    Ok(key)
}

impl Change {
    /// The act. A change of more than the state is no act that goes without a record.
    fn action(&self) -> Action {
        let has_dates = self.not_before.is_some() || self.not_after.is_some();
        match self.state {
            _ if self.uses.is_some() => Action::SetUses,
            _ if self.dual => Action::SetDeletion,
            _ if has_dates => Action::SetDates,
            Some(State::Enabled) => Action::Enable,
            Some(State::Disabled) => Action::Disable,
            Some(State::Compromised) => Action::Compromise,
            None => Action::SetUses,
        }
    }

    /// The verbs of the change. A change without a property is a change of properties.
    fn verbs(&self) -> Vec<Verb> {
        let Self { state, not_before, not_after, dual, .. } = *self;
        let state = state.map(|state| match state {
            State::Enabled => Verb::Enable,
            State::Disabled => Verb::Disable,
            State::Compromised => Verb::Compromise,
        });
        let dates =
            (not_before.is_some() || not_after.is_some()).then_some(Verb::SetDates { not_before, not_after });
        let dual = dual.then_some(Verb::RequireSecondUser);
        [Some(Verb::ChangeProperties), state, dates, dual].into_iter().flatten().collect()
    }
}
