//! Times in the configuration file, as text.

use core::time::Duration;

use super::error::InvalidSetting;

/// Reads a time like `5s` or `500ms`, from 1 ms to an hour.
pub(super) fn timeout(setting: &str, text: &str) -> Result<Duration, InvalidSetting> {
    let range = Duration::from_millis(1)..=Duration::from_secs(3600);
    humantime::parse_duration(text).ok().filter(|duration| range.contains(duration)).ok_or_else(|| {
        let reason = format!("{text:?} is not a time between 1ms and 1h, like 5s or 500ms");
        InvalidSetting::new(setting, reason)
    })
}

/// The text of a time, which [`timeout`] reads.
pub(super) fn duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}
