//! One agent works on a plan at a time: two would use up the same order, and the limits of the
//! authority.

use keyward_proto::Label;

use super::RenewalError;
use crate::daemon::Daemon;
use crate::keys::now;
use crate::lifecycle::Error;
use crate::lifecycle::event::Actor;
use crate::renewal::progress::Hold;

/// Lets an agent work on a plan, unless another one does. The agent holds the plan until it says
/// how the work ended, or is gone.
///
/// # Errors
/// [`RenewalError::Ordered`] if another agent works on the plan.
pub(super) fn hold(daemon: &Daemon, actor: Actor, name: &Label) -> Result<(), Error> {
    let pid = actor.pid();
    match daemon.renewals.of(name.as_str()).held {
        Some(hold) if hold.pid == pid => Ok(()),
        Some(hold) if daemon.renewals.is_there(name.as_str(), &hold) => {
            Err(RenewalError::Ordered(name.clone()).into())
        }
        _ => {
            daemon.renewals.update(name.as_str(), |progress| {
                let wishes = progress.wishes;
                progress.held = Some(Hold { pid, since: now(), messages: 0, wishes, revokes: None });
                Ok::<_, RenewalError>(())
            })?;
            daemon.renewals.take(name.as_str());
            Ok(())
        }
    }
}
