//! Notifications to the service manager that started this process, if any: sd_notify(3).

use core::time::Duration;
use std::env;

use sd_notify::NotifyState;

/// Notifies systemd of a reload, if systemd started this process. The reload ends when the process
/// notifies that it is ready.
pub fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// Notifies systemd, if systemd started this process.
pub fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}

/// Time after which systemd ends a daemon that does not report, if it watches the daemon
/// (WatchdogSec= in systemd.service(5)). WATCHDOG_PID does not count: systemd may have started a
/// parent of this process.
pub fn watchdog_interval() -> Option<Duration> {
    let microseconds = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    Some(Duration::from_micros(microseconds)).filter(|interval| !interval.is_zero())
}
