//! Verbs: the changes of the state of a key, and the standings that admit each verb.

use super::Key;
use super::state::{Approval, Deletion, Life, Standing, State};

/// A change that an administrator asks for. Times are seconds since 1970.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verb {
    /// Let a disabled key sign again.
    Enable,
    /// Keep the key from signing.
    Disable,
    /// Keep the key from signing for ever.
    Compromise,
    /// Replace dates. `None` leaves a date as it is; `Some(None)` removes the date.
    SetDates {
        /// Time from which the key signs.
        not_before: Option<Option<u64>>,
        /// Time from which the key signs no more.
        not_after: Option<Option<u64>>,
    },
    /// Require a second user for the deletion, for ever.
    RequireSecondUser,
    /// Delete the key, and destroy it after a waiting period.
    Delete {
        /// User id of the administrator.
        by: u32,
        /// Waiting period in seconds.
        wait: u64,
    },
    /// Undo a deletion, or withdraw the request of the first of two users.
    Restore,
    /// Destroy a deleted key.
    Purge,
    /// Give the key another private key, as its next version.
    AddVersion,
    /// Replace uses or certificates.
    ChangeProperties,
}

/// Result of a verb.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// The key is as the verb says.
    Done,
    /// A second user must ask for the deletion, too.
    Approved,
    /// The request of the first of two users is withdrawn.
    Withdrawn,
}

/// Reason why a key does not admit a verb.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Inadmissible {
    /// The key is compromised, which cannot be undone.
    Compromised,
    /// The last date would not be later than the first date.
    DatesReversed {
        /// Time from which the key would sign.
        not_before: u64,
        /// Time from which the key would sign no more.
        not_after: u64,
    },
    /// The key is deleted.
    Deleted(Deletion),
    /// The key is not deleted.
    NotDeleted,
    /// The first of the two users has asked again.
    SameUser(Approval),
}

impl Key {
    /// Carries a verb out.
    ///
    /// # Errors
    /// [`Inadmissible`] says why the key does not admit the verb. The key is unchanged then.
    pub fn apply(&mut self, verb: Verb, now: u64) -> Result<Effect, Inadmissible> {
        self.admits(verb)?;
        match verb {
            Verb::Enable => self.state = State::Enabled,
            Verb::Disable => self.state = State::Disabled,
            Verb::Compromise => self.state = State::Compromised,
            Verb::SetDates { not_before, not_after } => {
                let not_before = not_before.unwrap_or(self.life.not_before);
                let not_after = not_after.unwrap_or(self.life.not_after);
                if let (Some(not_before), Some(not_after)) = (not_before, not_after)
                    && not_after <= not_before
                {
                    return Err(Inadmissible::DatesReversed { not_before, not_after });
                }
                self.life = Life { not_before, not_after, ..self.life.clone() };
            }
            Verb::RequireSecondUser => self.life.dual = true,
            Verb::Delete { by, wait } => return self.delete(by, wait, now),
            Verb::Restore => {
                let withdrawn = self.life.approval.take().is_some() && self.life.deletion.is_none();
                self.life.deletion = None;
                return Ok(if withdrawn { Effect::Withdrawn } else { Effect::Done });
            }
            Verb::Purge | Verb::AddVersion | Verb::ChangeProperties => {}
        }
        Ok(Effect::Done)
    }

    /// The table of the verbs: refuses a verb that the standing of the key does not admit. Dates
    /// prevent no verb.
    ///
    /// # Errors
    /// [`Inadmissible`] is the reason.
    pub fn admits(&self, verb: Verb) -> Result<(), Inadmissible> {
        let is_pending = self.life.approval.is_some();
        match (self.life.deletion, verb) {
            (_, Verb::Compromise) => return Ok(()),
            (Some(_), Verb::Restore | Verb::Purge) => return Ok(()),
            (None, Verb::Restore) if is_pending => return Ok(()),
            (None, Verb::Restore | Verb::Purge) => return Err(Inadmissible::NotDeleted),
            (Some(deletion), _) => return Err(Inadmissible::Deleted(deletion)),
            (None, _) => {}
        }
        match (self.state, verb) {
            (State::Compromised, Verb::Enable | Verb::Disable | Verb::SetDates { .. } | Verb::AddVersion) => {
                Err(Inadmissible::Compromised)
            }
            _ => Ok(()),
        }
    }

    fn delete(&mut self, by: u32, wait: u64, now: u64) -> Result<Effect, Inadmissible> {
        let mut wait = wait;
        if self.life.dual {
            match self.life.approval.filter(|approval| now < approval.until()) {
                None => {
                    self.life.approval = Some(Approval { by, at: now, wait });
                    return Ok(Effect::Approved);
                }
                Some(approval) if approval.by == by => return Err(Inadmissible::SameUser(approval)),
                // Neither of the two users alone shortens the time to undo the deletion.
                Some(approval) => wait = wait.max(approval.wait),
            }
        }
        self.life.approval = None;
        self.life.deletion = Some(Deletion { by, at: now, destroy_at: now.saturating_add(wait) });
        Ok(Effect::Done)
    }
}

/// True if a change keeps a key from signing, or is one of the acts that must not fail.
pub(super) fn is_urgent(before: &Key, after: &Key, now: u64) -> bool {
    let becomes = |standing: fn(&Key) -> bool| !standing(before) && standing(after);
    becomes(|key| key.state == State::Compromised)
        || becomes(|key| key.life.deletion.is_some())
        || (before.may_sign(now) && after.standing(now) != Standing::Active)
}

#[cfg(test)]
mod tests {
    use super::super::tests::key;
    use super::*;

    const NOW: u64 = 1_000_000;
    const DELETE: Verb = Verb::Delete { by: 7, wait: 3600 };
    const DATES: Verb = Verb::SetDates { not_before: Some(None), not_after: None };
    const VERBS: [Verb; 10] = [
        Verb::Enable,
        Verb::Disable,
        Verb::Compromise,
        DATES,
        Verb::RequireSecondUser,
        DELETE,
        Verb::Restore,
        Verb::Purge,
        Verb::AddVersion,
        Verb::ChangeProperties,
    ];

    fn with(standing: Standing) -> Key {
        let mut key = key("shop");
        match standing {
            Standing::Active => {}
            Standing::PreActive => key.life.not_before = Some(NOW + 1),
            Standing::Suspended => key.state = State::Disabled,
            Standing::Deactivated => key.life.not_after = Some(NOW),
            Standing::Compromised => key.state = State::Compromised,
            Standing::Deleted => {
                key.life.deletion = Some(Deletion { by: 7, at: NOW, destroy_at: NOW + 3600 });
            }
        }
        assert_eq!(key.standing(NOW), standing);
        key
    }

    /// Every standing with every verb: the standing afterwards, or the word for the refusal.
    #[test]
    fn each_standing_admits_the_verbs_of_the_table() {
        // Columns: the verbs in their order.
        #[rustfmt::skip]
        let table = [
            (Standing::PreActive, ["pre-active", "suspended", "compromised", "active", "pre-active",
                "deleted", "not deleted", "not deleted", "pre-active", "pre-active"]),
            (Standing::Active, ["active", "suspended", "compromised", "active", "active",
                "deleted", "not deleted", "not deleted", "active", "active"]),
            (Standing::Suspended, ["active", "suspended", "compromised", "suspended", "suspended",
                "deleted", "not deleted", "not deleted", "suspended", "suspended"]),
            (Standing::Deactivated, ["deactivated", "suspended", "compromised", "deactivated", "deactivated",
                "deleted", "not deleted", "not deleted", "deactivated", "deactivated"]),
            (Standing::Compromised, ["refused", "refused", "compromised", "refused", "compromised",
                "deleted", "not deleted", "not deleted", "refused", "compromised"]),
            (Standing::Deleted, ["is deleted", "is deleted", "deleted", "is deleted", "is deleted",
                "is deleted", "active", "deleted", "is deleted", "is deleted"]),
        ];
        assert_eq!(table.map(|(standing, _)| standing), Standing::ALL);
        for (standing, row) in table {
            for (verb, expected) in VERBS.into_iter().zip(row) {
                let mut key = with(standing);
                let before = (key.state, key.life.clone());
                let found = match key.apply(verb, NOW) {
                    Ok(_) => key.standing(NOW).name(),
                    Err(refused) => {
                        assert_eq!((key.state, key.life), before, "a refused verb changes nothing");
                        match refused {
                            Inadmissible::Compromised => "refused",
                            Inadmissible::Deleted(_) => "is deleted",
                            Inadmissible::NotDeleted => "not deleted",
                            other => panic!("{other:?}"),
                        }
                    }
                };
                assert_eq!(found, expected, "{standing:?}, {verb:?}");
            }
        }
    }

    #[test]
    fn a_restored_key_is_as_it_was_before_its_deletion() {
        for standing in Standing::ALL.into_iter().filter(|standing| *standing != Standing::Deleted) {
            let mut key = with(standing);
            key.apply(DELETE, NOW).unwrap();
            assert_eq!(key.standing(NOW), Standing::Deleted);
            key.apply(Verb::Restore, NOW).unwrap();
            assert_eq!(key.standing(NOW), standing);
        }
        let mut key = with(Standing::Deleted);
        key.apply(Verb::Compromise, NOW).unwrap();
        key.apply(Verb::Restore, NOW).unwrap();
        assert_eq!(key.standing(NOW), Standing::Compromised);
    }

    #[test]
    fn a_second_user_deletes_within_seven_days() {
        let delete = |by| Verb::Delete { by, wait: 3600 };
        let mut key = key("shop");
        key.apply(Verb::RequireSecondUser, NOW).unwrap();
        assert_eq!(key.apply(delete(1), NOW), Ok(Effect::Approved));
        assert_eq!(key.standing(NOW), Standing::Active);
        let first = Approval { by: 1, at: NOW, wait: 3600 };
        assert_eq!(key.apply(delete(1), NOW + 5), Err(Inadmissible::SameUser(first)));
        let mut late = key.clone();

        assert_eq!(key.apply(delete(2), first.until() - 1), Ok(Effect::Done));
        assert_eq!(key.standing(NOW), Standing::Deleted);
        key.apply(Verb::Restore, NOW).unwrap();
        assert!(key.life.approval.is_none() && key.life.dual, "the next deletion needs two users again");

        assert_eq!(
            late.apply(delete(2), first.until()),
            Ok(Effect::Approved),
            "the first request is too old"
        );
        assert_eq!(late.apply(Verb::Restore, NOW), Ok(Effect::Withdrawn));
        assert_eq!(late.apply(Verb::Restore, NOW), Err(Inadmissible::NotDeleted));
    }

    #[test]
    fn the_longer_wait_of_two_users_counts() {
        for (first, second) in [(3600, 7200), (7200, 3600), (7200, 7200)] {
            let mut key = key("shop");
            key.apply(Verb::RequireSecondUser, NOW).unwrap();
            key.apply(Verb::Delete { by: 1, wait: first }, NOW).unwrap();
            key.apply(Verb::Delete { by: 2, wait: second }, NOW + 10).unwrap();
            let destroy_at = key.life.deletion.map(|deletion| deletion.destroy_at);
            assert_eq!(destroy_at, Some(NOW + 10 + 7200), "{first} {second}");
        }
        let old: Approval = serde_json::from_str(r#"{"by": 1, "at": 5}"#).unwrap();
        assert_eq!(old, Approval { by: 1, at: 5, wait: 0 });
    }

    #[test]
    fn dates_are_set_one_by_one_and_in_order() {
        let mut key = key("shop");
        let mut set = |not_before, not_after| {
            key.apply(Verb::SetDates { not_before, not_after }, NOW)
                .map(|_| (key.life.not_before, key.life.not_after))
        };
        assert_eq!(set(Some(Some(10)), None), Ok((Some(10), None)));
        assert_eq!(set(None, Some(Some(11))), Ok((Some(10), Some(11))));
        for not_after in [9, 10] {
            let refused = Inadmissible::DatesReversed { not_before: 10, not_after };
            assert_eq!(set(None, Some(Some(not_after))), Err(refused));
        }
        assert_eq!(set(Some(None), Some(Some(9))), Ok((None, Some(9))));
    }

    #[test]
    fn urgent_changes_stop_a_key() {
        let urgent = |before: &Key, verb| {
            let mut after = before.clone();
            after.apply(verb, NOW).unwrap();
            is_urgent(before, &after, NOW)
        };
        let past = Verb::SetDates { not_before: None, not_after: Some(Some(NOW)) };
        let future = Verb::SetDates { not_before: None, not_after: Some(Some(NOW + 1)) };
        for verb in [Verb::Disable, Verb::Compromise, DELETE, past] {
            assert!(urgent(&with(Standing::Active), verb), "{verb:?}");
        }
        for verb in [Verb::Enable, future, Verb::RequireSecondUser, Verb::ChangeProperties] {
            assert!(!urgent(&with(Standing::Active), verb), "{verb:?}");
        }
        assert!(urgent(&with(Standing::Suspended), Verb::Compromise));
        assert!(urgent(&with(Standing::Deleted), Verb::Compromise));
        assert!(urgent(&with(Standing::Suspended), DELETE));
        assert!(!urgent(&with(Standing::Suspended), Verb::Enable));
        assert!(!urgent(&with(Standing::Deleted), Verb::Restore));
    }
}
