//! Requests that wait for a unit. Users take turns, so a user with more requests than the units can
//! serve does not take the share of other users.

use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyward_unit::Wkid;

use crate::ground::fair::{self, Full, Gate, User};

/// Requests in lines, one line for each set of master keys: a request that no free unit can serve
/// must not delay other requests.
pub(super) struct Queue {
    lines: Mutex<Lines>,
    /// Maximum number of requests in a line.
    most: usize,
}

#[derive(Default)]
struct Lines {
    /// Number of requests in all lines.
    waiting: usize,
    by_wkids: HashMap<Box<[Wkid]>, Line>,
}

struct Line {
    length: usize,
    /// Gate to the head of the line, which admits one request at a time.
    head: Arc<Gate>,
}

impl Queue {
    /// Queue with at most `most` requests in each line.
    pub(super) fn new(most: usize) -> Self {
        Self { lines: Mutex::default(), most }
    }

    /// Number of requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.lines().waiting
    }

    /// True if a request waits for a unit with one of these master keys.
    pub(super) fn has_line(&self, wkids: &[Wkid]) -> bool {
        let lines = self.lines();
        lines.waiting > 0 && lines.by_wkids.contains_key(wkids)
    }

    /// Joins the line for these master keys.
    pub(super) fn join<'a>(&'a self, wkids: &'a [Wkid]) -> Ticket<'a> {
        let mut lines = self.lines();
        lines.waiting += 1;
        let line = lines.by_wkids.entry(wkids.into()).or_insert_with(|| Line {
            length: 0,
            head: Arc::new(Gate::new(usize::from(self.most > 0), self.most.saturating_sub(1))),
        });
        line.length += 1;
        Ticket { queue: self, wkids, head: Arc::clone(&line.head) }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ticket for a line. Dropping the ticket leaves the line.
pub(super) struct Ticket<'a> {
    queue: &'a Queue,
    wkids: &'a [Wkid],
    head: Arc<Gate>,
}

impl Ticket<'_> {
    /// Waits until the request is at the head of the line. The request stays at the head until the
    /// returned place is dropped.
    ///
    /// # Errors
    /// [`Full`] if the line is full, and no other user has more requests in the line.
    pub(super) async fn head(&self, user: User) -> Result<fair::GatePermit, Full> {
        self.head.enter(user, CALL).await
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut lines = self.queue.lines();
        lines.waiting = lines.waiting.saturating_sub(1);
        if let Some(line) = lines.by_wkids.get_mut(self.wkids) {
            line.length = line.length.saturating_sub(1);
            if line.length == 0 {
                lines.by_wkids.remove(self.wkids);
            }
        }
    }
}

/// Cost of a call for the turns of users. All calls cost the same, since the daemon does not know
/// how long a unit is busy with a call.
const CALL: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn wkid(byte: u8) -> Wkid {
        format!("{byte:02x}").repeat(16).parse().unwrap()
    }

    #[test]
    fn a_line_exists_while_requests_wait_in_it() {
        let (one, other) = ([wkid(1)], [wkid(1), wkid(2)]);
        let queue = Queue::new(3);
        let first = queue.join(&one);
        let second = queue.join(&one);
        let third = queue.join(&other);
        assert_eq!(queue.waiting(), 3);
        assert!(Arc::ptr_eq(&first.head, &second.head) && !Arc::ptr_eq(&first.head, &third.head));
        drop(first);
        assert!(queue.has_line(&one) && queue.has_line(&other));
        drop(second);
        assert!(!queue.has_line(&one) && queue.has_line(&other));
        drop(third);
        assert!(queue.waiting() == 0 && queue.lines().by_wkids.is_empty());
    }

    #[tokio::test]
    async fn a_user_with_few_requests_finds_room_in_a_full_line() {
        let queue = Queue::new(3);
        let keys = [wkid(1)];
        let ticket = queue.join(&keys);
        let first = ticket.head(1).await.unwrap();
        let (second, third) = (ticket.head(1), ticket.head(1));
        tokio::pin!(second, third);
        for waits in [&mut second, &mut third] {
            assert!(tokio::time::timeout(Duration::ZERO, waits).await.is_err());
        }
        assert!(ticket.head(1).await.is_err());
        let other = ticket.head(2);
        tokio::pin!(other);
        assert!(tokio::time::timeout(Duration::ZERO, &mut other).await.is_err());
        assert!(third.await.is_err(), "made room for the other user");
        drop(first);
        other.await.unwrap();
        assert!(Queue::new(0).join(&keys).head(1).await.is_err());
    }
}
