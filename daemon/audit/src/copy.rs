//! Copies of records for a collector: journald, or any process with a Unix datagram socket.
//!
//! A collector that is slow, full or gone never delays the trail: what it does not take is counted,
//! and the count is a record.

use core::fmt::Display;
use core::time::Duration;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::Phase;
use crate::acts::uid_of;
use crate::line::Content;

/// Collector that gets a copy of each record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Copy {
    /// The journal of systemd, by its native protocol:
    /// <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.
    Journald,
    /// A process with a Unix datagram socket at a path. Each datagram is the line of a record,
    /// without the line feed.
    Datagram(PathBuf),
}

/// Sends copies.
#[derive(Debug)]
pub(crate) struct Copies {
    path: PathBuf,
    is_journal: bool,
    socket: Option<UnixDatagram>,
    /// When a connection was last tried.
    tried: Option<Instant>,
    datagram: Vec<u8>,
    /// Records that the collector did not take since the last record about them.
    missed: u64,
    /// True if one of them is about more than the trail itself. Otherwise each record about them
    /// would be followed by another one.
    is_worth_a_record: bool,
    /// When the last record about them was written.
    recorded: Option<Instant>,
}

impl Copies {
    /// Copies for a collector. The journal has its socket at a path.
    pub(crate) fn new(copy: &Copy, journal: &Path) -> Self {
        let (path, is_journal) = match copy {
            Copy::Journald => (journal.to_owned(), true),
            Copy::Datagram(path) => (path.clone(), false),
        };
        Self {
            path,
            is_journal,
            socket: None,
            tried: None,
            datagram: Vec::new(),
            missed: 0,
            is_worth_a_record: false,
            recorded: None,
        }
    }

    /// Sends a record. Returns false if the collector does not take it at once.
    pub(crate) fn send(&mut self, seq: u64, content: &Content<'_>, line: &[u8]) -> bool {
        self.datagram.clear();
        if self.is_journal {
            write_fields(&mut self.datagram, seq, content, line);
        } else {
            self.datagram.extend_from_slice(line);
        }
        let is_taken = self.sent();
        if !is_taken {
            self.missed += 1;
            self.is_worth_a_record |= !matches!(content, Content::Uncopied { .. } | Content::Checkpoint(_));
        }
        is_taken
    }

    /// Number of records for a record about them, if it is due: at most once in an interval.
    pub(crate) fn missed(&self, interval: Duration) -> Option<u64> {
        let is_due = self.recorded.is_none_or(|recorded| recorded.elapsed() >= interval);
        (self.is_worth_a_record && is_due).then_some(self.missed)
    }

    /// Notes that a record about some missed records is written.
    pub(crate) fn has_recorded(&mut self, missed: u64) {
        // The record about them may have been missed too.
        self.missed -= missed.min(self.missed);
        self.is_worth_a_record = false;
        self.recorded = Some(Instant::now());
    }

    fn sent(&mut self) -> bool {
        // A collector that was started again has another socket.
        for _ in 0..2 {
            self.connect();
            let Some(socket) = &self.socket else { return false };
            match socket.send(&self.datagram) {
                Ok(_) => return true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                    return false;
                }
                Err(_) => self.socket = None,
            }
        }
        false
    }

    fn connect(&mut self) {
        let has_just_tried = self.tried.is_some_and(|tried| tried.elapsed() < CONNECT_AGAIN);
        if self.socket.is_some() || has_just_tried {
            return;
        }
        self.tried = Some(Instant::now());
        let connect = || {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            socket.connect(&self.path)?;
            Ok::<_, io::Error>(socket)
        };
        self.socket = connect().ok();
    }
}

/// Writes a record as fields of the journal.
fn write_fields(datagram: &mut Vec<u8>, seq: u64, content: &Content<'_>, line: &[u8]) {
    let mut text =
        |name: &str, value: &dyn Display| write_field(datagram, name, value.to_string().as_bytes());
    text("SYSLOG_IDENTIFIER", &"keyward-audit");
    text("KEYWARD_ACTION", &content.action());
    text("KEYWARD_SEQ", &seq);
    let mut is_warning = false;
    match content {
        Content::Use(r#use) => {
            is_warning = r#use.outcome != crate::shards::DONE;
            text("KEYWARD_OUTCOME", &r#use.outcome);
            text("KEYWARD_KEY", &r#use.key.as_str());
            text("KEYWARD_VERSION", &r#use.version);
            text("KEYWARD_UID", &r#use.peer.uid);
        }
        Content::Summary(summary) => {
            text("KEYWARD_COUNT", &summary.tally.count);
            if let Some(group) = &summary.group {
                text("KEYWARD_KEY", &group.key.as_str());
                text("KEYWARD_VERSION", &group.version);
            }
            if let Some(uid) = summary.uid {
                text("KEYWARD_UID", &uid);
            }
        }
        Content::Act(act) => {
            is_warning = matches!(act.phase, Phase::Failed(_) | Phase::Refused(_));
            text("KEYWARD_OUTCOME", &act.phase.name());
            if let Some(key) = &act.key {
                text("KEYWARD_KEY", key);
            }
            if let Some(version) = act.version {
                text("KEYWARD_VERSION", &version);
            }
            text("KEYWARD_UID", &uid_of(&act.actor));
        }
        Content::Refusals(count) => {
            is_warning = true;
            text("KEYWARD_COUNT", &count.refusals);
            if let Some(uid) = count.uid {
                text("KEYWARD_UID", &uid);
            }
        }
        Content::Gap { .. } | Content::Uncopied { .. } => is_warning = true,
        Content::Checkpoint(_) | Content::Removal(_) | Content::Space { .. } | Content::Start { .. } => {}
    }
    text("PRIORITY", if is_warning { &WARNING } else { &INFO });
    write_field(datagram, "MESSAGE", line);
}

/// Writes a field. A value with a line feed has its length before it.
fn write_field(datagram: &mut Vec<u8>, name: &str, value: &[u8]) {
    datagram.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        datagram.push(b'\n');
        datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        datagram.push(b'=');
    }
    // A vector takes everything.
    let _written = datagram.write_all(value);
    datagram.push(b'\n');
}

/// Socket of the journal (systemd-journald.service(8)).
pub(crate) const JOURNAL: &str = "/run/systemd/journal/socket";
/// Time between two records about records that the collector did not take.
pub(crate) const UNCOPIED_EVERY: Duration = Duration::from_secs(60);
/// Time after which a connection is tried again.
const CONNECT_AGAIN: Duration = Duration::from_secs(1);
/// Priorities of syslog(3).
const WARNING: u8 = 4;
const INFO: u8 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_a_line_feed_has_a_length() {
        let mut datagram = Vec::new();
        write_field(&mut datagram, "A", b"b");
        write_field(&mut datagram, "C", b"d\nE=f");
        assert_eq!(datagram, b"A=b\nC\n\x05\0\0\0\0\0\0\0d\nE=f\n");
    }
}
