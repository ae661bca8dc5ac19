//! `keyward key set-dates`, and dates in options.

use std::time::UNIX_EPOCH;

use clap::Args;

use super::named::Named;
use crate::admin::client::AdminClient;
use crate::admin::request;
use crate::cli::failure::Failure;

#[derive(Args, Debug)]
#[group(required = true, multiple = true, args = ["not_before", "not_after"])]
pub(in crate::cli) struct SetDates {
    #[command(flatten)]
    key: Named,
    /// Date from which the key signs, as in 2027-01-31 or 2027-01-31T12:00:00Z; none removes the
    /// date
    #[arg(long, value_name = "DATE", value_parser = date)]
    not_before: Option<Date>,
    /// Date from which the key signs no more; none removes the date
    #[arg(long, value_name = "DATE", value_parser = date)]
    not_after: Option<Date>,
}

/// A date in an option.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Date {
    /// In seconds since 1970.
    At(u64),
    None,
}

impl SetDates {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { key, not_before, not_after } = self;
        let [not_before, not_after] = [not_before, not_after].map(|date| date.map(Date::seconds));
        let change = request::Change { not_before, not_after, ..request::Change::default() };
        key.run("set the dates of", |admin: &AdminClient, label| admin.change(label, &change))
    }
}

impl Date {
    fn seconds(self) -> Option<u64> {
        match self {
            Self::At(seconds) => Some(seconds),
            Self::None => None,
        }
    }
}

/// Parses a date, or a time as in RFC 3339 in UTC. A date stands for its first second in UTC.
fn date(text: &str) -> Result<Date, String> {
    if text == "none" {
        return Ok(Date::None);
    }
    let with_time = if text.len() == DAY.len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let time = humantime::parse_rfc3339(&with_time).ok();
    let seconds = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    seconds.map(|since| Date::At(since.as_secs())).ok_or_else(|| {
        "no date; write a day (2027-01-31), a time in UTC (2027-01-31T12:00:00Z), or none".to_owned()
    })
}

/// Form of a day.
const DAY: &str = "YYYY-MM-DD";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_days_or_times_in_utc() {
        assert_eq!(date("none"), Ok(Date::None));
        assert_eq!(date("2027-01-31"), Ok(Date::At(1_801_353_600)));
        assert_eq!(date("2027-01-31T00:00:01Z"), Ok(Date::At(1_801_353_601)));
        for bad in [
            "",
            "None",
            "2027",
            "2027-02-30",
            "31.01.2027",
            "2027-01-31 12:00",
            "2027-01-31T12:00:00+01:00",
            "1969-12-31",
        ] {
            assert!(date(bad).is_err(), "{bad}");
        }
    }
}
