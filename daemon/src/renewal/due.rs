//! When a certificate is renewed, and when an attempt that failed is repeated: pure functions.

/// Time from which and until which a certificate is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Validity {
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
}

impl Validity {
    fn lifetime(self) -> u64 {
        self.not_after.saturating_sub(self.not_before)
    }
}

/// Facts that decide when a plan is due.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts {
    /// Validity of the certificate that the plan has; `None` if there is none for its names.
    pub(crate) present: Option<Validity>,
    /// Time that was chosen in the window that the authority suggested for this very certificate.
    pub(crate) suggested: Option<u64>,
    /// Time of the last success.
    pub(crate) renewed_at: Option<u64>,
    /// Time before which nothing is tried, after a failure.
    pub(crate) next_try: u64,
    /// Time at which a person asked for it.
    pub(crate) asked_at: Option<u64>,
    /// A number that differs from plan to plan, so that not all are due at once.
    pub(crate) spread: u64,
}

/// Time at which a plan is due, in seconds since 1970.
pub(crate) fn due(facts: &Facts) -> u64 {
    if let Some(asked_at) = facts.asked_at {
        return facts.next_try.max(asked_at);
    }
    // The orders of a day are counted elsewhere, so names that have changed need not wait.
    let Some(present) = facts.present else { return facts.next_try };
    let lifetime = present.lifetime();
    let left = match lifetime < SHORT {
        true => lifetime / 2,
        false => lifetime / 3,
    };
    let early = facts.spread % (lifetime / SPREAD).max(1);
    let fallback = present.not_after.saturating_sub(left.saturating_add(early));
    // A window of the authority only brings the time forward.
    let at = facts.suggested.map_or(fallback, |suggested| suggested.min(fallback));
    // Never two in a row, whatever the authority suggests, unless the certificate ends before that.
    let pause = MIN_PAUSE.min(lifetime / 20);
    let after_pause = facts.renewed_at.map_or(0, |at| at.saturating_add(pause));
    at.max(facts.next_try).max(after_pause.min(present.not_after))
}

/// Kind of a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// The authority says when to come back, in seconds from now.
    Wait(u64),
    /// The unit or the disk of this daemon is not there. That is no fault of the authority, so the
    /// order goes on soon after its return.
    Here,
    /// Repeating does not help before a person has changed something.
    NeedsPerson,
    /// Anything else.
    Other,
}

impl Failure {
    /// The kind of an error of ACME (RFC 8555, 6.7), without its prefix.
    pub(crate) fn of(kind: &str, retry_after: Option<u64>) -> Self {
        const OF_PERSONS: [&str; 9] = [
            "accountDoesNotExist",
            "badCSR",
            "caa",
            "externalAccountRequired",
            "invalidContact",
            "invalidProfile",
            "rejectedIdentifier",
            "unsupportedIdentifier",
            "userActionRequired",
        ];
        match retry_after {
            _ if kind == "unit" => Self::Here,
            Some(seconds) => Self::Wait(seconds),
            None if OF_PERSONS.contains(&kind) => Self::NeedsPerson,
            None => Self::Other,
        }
    }
}

/// Time of the next attempt. `failures` is the number of failures in a row, at least 1. `present`
/// is the validity of the certificate that the plan has.
pub(crate) fn next_try(
    now: u64,
    failure: Failure,
    failures: u32,
    present: Option<Validity>,
    spread: u64,
) -> u64 {
    let pause = match (failure, failures) {
        // An authority that wants to be asked each second uses up the records of the daemon.
        (Failure::Wait(seconds), _) => seconds.clamp(60, LONGEST_WAIT),
        (Failure::Here, failures) => 5 << failures.clamp(1, 6),
        (Failure::NeedsPerson, _) => DAY,
        (Failure::Other, 0 | 1) => 60,
        (Failure::Other, 2) => 600,
        (Failure::Other, 3) => 6000,
        (Failure::Other, _) => DAY,
    };
    let pause = present.map_or(pause, |present| match failure {
        // The authority is obeyed, but not until the certificate has ended.
        Failure::Wait(seconds) if seconds >= 60 => {
            pause.min((present.not_after.saturating_sub(now) / 4).max(SHORTEST_LIMIT))
        }
        // A certificate of minutes cannot wait for a day.
        _ => pause.min((present.lifetime() / 20).max(1)),
    });
    now.saturating_add(pause).saturating_add(spread % (pause / 10).max(1))
}

/// Time of the next attempt to have a certificate revoked: the sooner, the better.
pub(crate) fn next_revocation(now: u64, failure: Failure, failures: u32, spread: u64) -> u64 {
    let next = next_try(now, failure, failures, None, spread);
    next.min(now.saturating_add(LONGEST_WAIT_OF_REVOCATION))
}

/// A time in the window that an authority suggests (RFC 9773, 4.2); `None` if the window has no
/// length, which counts as no answer.
pub(crate) fn chosen(start: u64, end: u64, random: u64) -> Option<u64> {
    let length = end.checked_sub(start).filter(|length| *length > 0)?;
    Some(start.saturating_add(random % length))
}

/// Seconds until the authority is asked for a window again (RFC 9773, 4.3).
pub(crate) fn next_look(retry_after: Option<u64>) -> u64 {
    retry_after.map_or(6 * 3600, |seconds| seconds.clamp(60, DAY))
}

/// Certificates that live shorter are renewed at half of their life.
const SHORT: u64 = 10 * DAY;
/// Part of the lifetime over which renewals are spread.
const SPREAD: u64 = 100;
/// Shortest time between two successes.
const MIN_PAUSE: u64 = 3600;
/// Longest time that an authority can ask to wait: the limits of Let's Encrypt end within a week.
const LONGEST_WAIT: u64 = 7 * DAY;
/// Time that an authority can always ask to wait, however soon the certificate ends.
const SHORTEST_LIMIT: u64 = 3600;
/// Longest time until a revocation is tried again.
const LONGEST_WAIT_OF_REVOCATION: u64 = 6 * 3600;
const DAY: u64 = 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn facts(age: u64, lifetime: u64) -> Facts {
        let not_before = NOW - age;
        Facts {
            present: Some(Validity { not_before, not_after: not_before + lifetime }),
            renewed_at: Some(not_before),
            ..Facts::default()
        }
    }

    #[test]
    fn without_a_window_a_third_of_the_life_is_left_or_a_half() {
        for (lifetime, left) in
            [(90 * DAY, 30 * DAY), (47 * DAY, 47 * DAY / 3), (160 * 3600, 80 * 3600), (60, 30)]
        {
            let facts = facts(0, lifetime);
            assert_eq!(due(&facts), NOW + lifetime - left, "{lifetime}");
            let spread = due(&Facts { spread: u64::MAX, ..facts });
            assert!(spread <= due(&facts) && due(&facts) - spread <= lifetime / 100, "{lifetime}");
        }
    }

    #[test]
    fn a_window_only_brings_the_time_forward() {
        let facts = facts(10 * DAY, 90 * DAY);
        let at = |suggested| due(&Facts { suggested: Some(suggested), ..facts });
        assert_eq!(at(NOW - 1), NOW - 1, "a window in the past: the certificate is revoked");
        assert_eq!(at(NOW + 80 * DAY), due(&facts), "a window after the end");
    }

    #[test]
    fn two_successes_are_an_hour_apart_unless_a_person_asks() {
        let facts = Facts { suggested: Some(NOW - DAY), ..facts(60, 90 * DAY) };
        assert_eq!(due(&facts), NOW - 60 + 3600);
        assert_eq!(due(&Facts { asked_at: Some(NOW - 5), ..facts }), NOW - 5);
        let failed = Facts { asked_at: Some(NOW - 5), next_try: NOW + 600, ..facts };
        assert_eq!(due(&failed), NOW + 600, "and again after a failure");
        let short = Facts { suggested: Some(NOW - DAY), ..self::facts(1, 60) };
        assert_eq!(due(&short), NOW - 1 + 3);
        let none = Facts { present: None, renewed_at: Some(NOW), ..facts };
        assert_eq!(due(&none), 0, "the names have changed");
    }

    #[test]
    fn failures_are_repeated_ever_more_seldom() {
        let pause = |failure, failures, lifetime: Option<u64>| {
            let present = lifetime.map(|lifetime| Validity { not_before: NOW, not_after: NOW + lifetime });
            next_try(NOW, failure, failures, present, 0) - NOW
        };
        let pauses = [1, 2, 3, 4, 50].map(|failures| pause(Failure::Other, failures, Some(90 * DAY)));
        assert_eq!(pauses, [60, 600, 6000, DAY, DAY]);
        assert_eq!(pause(Failure::NeedsPerson, 1, None), DAY);
        assert_eq!([1, 2, 50].map(|failures| pause(Failure::Here, failures, None)), [10, 20, 320]);
        assert_eq!(pause(Failure::Wait(1200), 1, Some(60)), 1200);
        assert_eq!([None, Some(60)].map(|life| pause(Failure::Wait(1), 1, life)), [60, 3]);
        assert_eq!(pause(Failure::Wait(u64::MAX), 1, None), 7 * DAY);
        // At most a part of what is left of the certificate, and an hour at its end.
        let left = [90 * DAY, 6 * DAY, DAY, 3600, 0].map(Some);
        let pauses = left.map(|left| pause(Failure::Wait(7 * DAY), 1, left));
        assert_eq!(pauses, [7 * DAY, 36 * 3600, 6 * 3600, 3600, 3600]);
        let revocation = |failure, failures| next_revocation(NOW, failure, failures, 0) - NOW;
        assert_eq!(revocation(Failure::Wait(7 * DAY), 1), 6 * 3600);
        assert_eq!([1, 2, 4].map(|failures| revocation(Failure::Other, failures)), [60, 600, 6 * 3600]);
        assert_eq!(pause(Failure::Other, 9, Some(60)), 3);
        assert_eq!(Failure::of("rateLimited", Some(5)), Failure::Wait(5));
        assert_eq!(Failure::of("caa", None), Failure::NeedsPerson);
        assert_eq!(Failure::of("unit", None), Failure::Here);
        assert_eq!(Failure::of("serverInternal", None), Failure::Other);
        // A day with a spread of a tenth.
        assert!(next_try(NOW, Failure::NeedsPerson, 1, None, u64::MAX) <= NOW + DAY + DAY / 10);
    }

    #[test]
    fn a_time_in_the_window_is_chosen() {
        for random in [0, 1, 99, 100, u64::MAX] {
            assert!((NOW..NOW + 100).contains(&chosen(NOW, NOW + 100, random).unwrap()));
        }
        assert!(chosen(NOW, NOW, 1).is_none() && chosen(NOW, NOW - 1, 1).is_none());
        assert_eq!([None, Some(1), Some(u64::MAX)].map(next_look), [6 * 3600, 60, DAY]);
    }
}
