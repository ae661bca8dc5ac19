//! One agent works on a plan at a time: two would use up the same order, and the limits of the
//! authority.

use keyward_proto::Label;

use super::RenewalError;
use crate::daemon::Daemon;
use crate::keys::now;
use crate::lifecycle::Error;
use crate::lifecycle::event::Actor;

/// Lets an agent work on a plan, unless another one does. The agent holds the plan until it says
/// how the work ended, or is gone.
///
/// # Errors
/// [`RenewalError::Ordered`] if another agent works on the plan.
pub(super) fn hold(daemon: &Daemon, actor: Actor, name: &Label) -> Result<(), Error> {
    match daemon.renewals.of(name.as_str()).held {
        Some(hold) if hold.pid == actor.pid() => Ok(()),
        _ => begin(daemon, actor, name),
    }
}

/// Notes that an agent begins to work on a plan, unless another one works on it. The end of an
/// earlier attempt of the same process may never have come.
///
/// # Errors
/// See [`hold`].
pub(super) fn begin(daemon: &Daemon, actor: Actor, name: &Label) -> Result<(), Error> {
    let pid = actor.pid();
    let other = daemon.renewals.of(name.as_str()).held.filter(|hold| hold.pid != pid);
    if other.is_some_and(|hold| daemon.renewals.is_there(name.as_str(), &hold)) {
        return Err(RenewalError::Ordered(name.clone()).into());
    }
    daemon.renewals.update(name.as_str(), |progress, known| {
        progress.begin(known, pid, now());
        Ok::<_, RenewalError>(())
    })?;
    daemon.renewals.take(name.as_str());
    Ok(())
}
