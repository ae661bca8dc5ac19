//! Questions that people ask: who used a key, which keys are not used, what was refused.

use std::collections::BTreeMap;

use clap::Args;
use keyward_proto::{Label, Outcome};
use serde_json::json;

use super::choice::{Source, Times, user_name};
use crate::admin::client::AdminClient;
use crate::audit::{Filter, Record};
use crate::cli::client::RUNTIME_DIR;
use crate::cli::failure::Failure;
use crate::cli::output::{note, print_json, print_table, table};
use crate::ground::text::printable;

#[derive(Args, Debug)]
pub(in crate::cli) struct Users {
    /// Label of the key
    #[arg(value_name = "LABEL")]
    label: Label,
    #[command(flatten)]
    question: Question,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Unused {
    /// Time before now without a use, such as 90d
    #[arg(long = "for", value_name = "TIME", default_value = "90d")]
    without: humantime::Duration,
    /// Directory of the daemon's sockets
    #[arg(long, value_name = "DIR", default_value = RUNTIME_DIR)]
    runtime_dir: std::path::PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Refusals {
    #[command(flatten)]
    question: Question,
}

/// The records that a question is about, and the form of the answer.
#[derive(Args, Debug)]
struct Question {
    #[command(flatten)]
    times: Times,
    #[command(flatten)]
    source: Source,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How often something was, and when first and last.
struct Seen {
    times: u64,
    first: String,
    last: String,
}

impl Seen {
    fn add(seen: Option<Self>, record: &Record) -> Self {
        let time = record.time.clone();
        match seen {
            Some(seen) => Self { times: seen.times + record.times(), last: time, ..seen },
            None => Self { times: record.times(), first: time.clone(), last: time },
        }
    }
}

/// Collects the records that a filter admits in rows.
fn collect<K: Ord>(
    source: &Source,
    filter: &Filter,
    key: impl Fn(&Record) -> Option<K>,
) -> Result<BTreeMap<K, Seen>, Failure> {
    let mut rows = BTreeMap::new();
    source.read(filter, 0, false, |record, _| {
        if let Some(key) = key(&record) {
            let seen = Seen::add(rows.remove(&key), &record);
            rows.insert(key, seen);
        }
        Ok(())
    })?;
    Ok(rows)
}

impl Users {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { label, question: Question { times, source, json } } = self;
        let (key, outcome) = (Some(label.to_string()), Some(Outcome::Done.name().into()));
        let filter = Filter { key, outcome, ..times.filter(Some("7d")) };
        let rows = collect(&source, &filter, |record| {
            let peer = record.peer.as_ref()?;
            Some((peer.uid?, peer.unit.clone(), peer.command.clone()))
        })?;
        if json {
            let rows = rows.iter().map(|((uid, unit, command), Seen { times, first, last })| {
                json!({ "uid": uid, "unit": unit, "command": command, "times": times, "first": first, "last": last })
            });
            return print_json(&rows.collect::<Vec<_>>());
        }
        let mut shown = table(&["USER", "UNIT", "PROGRAM", "TIMES", "FIRST", "LAST"]);
        for ((uid, unit, command), seen) in &rows {
            let [unit, command] = [unit, command].map(in_a_row);
            let (first, last) = (second(&seen.first), second(&seen.last));
            shown.add_row([user_name(*uid), unit, command, seen.times.to_string(), first, last]);
        }
        print_table(&shown)
    }
}

impl Unused {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { without, runtime_dir, json } = self;
        let source = Source::of_daemon(runtime_dir);
        let since = super::choice::before_now(*without)?;
        let used = Filter { outcome: Some(Outcome::Done.name().into()), ..Filter::default() };
        let mut begin = None;
        let mut last: BTreeMap<String, String> = BTreeMap::new();
        source.read(&Filter::default(), 0, false, |record, _| {
            begin.get_or_insert_with(|| record.time.clone());
            if let Some(key) = record.key.clone().filter(|_| record.peer.is_some() && used.admits(&record)) {
                last.insert(key, record.time);
            }
            Ok(())
        })?;
        let (keys, _) = AdminClient::new(&source.runtime_dir)
            .and_then(|admin| admin.list())
            .map_err(|error| Failure::from(error).while_trying("cannot list keys"))?;
        let unused: Vec<_> = keys
            .into_iter()
            .map(|key| (last.get(&key.label).cloned(), key.label))
            .filter(|(last, _)| last.as_ref().is_none_or(|last| *last < since))
            .collect();
        // Who deletes a key because of this list must know that the list is about a shorter time.
        if let Some(begin) = begin.filter(|begin| *begin > since) {
            note(format_args!("the audit trail begins at {}, so earlier uses are not known", second(&begin)));
        }
        if json {
            let rows = unused.iter().map(|(last, label)| json!({ "label": label, "last": last }));
            return print_json(&rows.collect::<Vec<_>>());
        }
        let mut shown = table(&["LABEL", "LAST USE"]);
        for (last, label) in unused {
            shown.add_row([label, last.map_or_else(|| "none on record".into(), |last| second(&last))]);
        }
        print_table(&shown)
    }
}

impl Refusals {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Question { times, source, json } = self.question;
        let rows = collect(&source, &times.filter(Some("24h")), |record| {
            let outcome = record.outcome.clone().filter(|_| record.is_refusal())?;
            let unit = record.peer.as_ref().and_then(|peer| peer.unit.clone());
            let act = record.refused_act().map(str::to_owned);
            Some((record.user(), unit, record.key.clone(), act, record.purpose.clone(), outcome))
        })?;
        if json {
            let rows = rows.iter().map(|((uid, unit, key, act, purpose, outcome), Seen { times, first, last })| {
                json!({
                    "uid": uid, "unit": unit, "key": key, "act": act, "purpose": purpose, "outcome": outcome, "times": times,
                    "first": first, "last": last,
                })
            });
            return print_json(&rows.collect::<Vec<_>>());
        }
        let mut shown = table(&["USER", "UNIT", "KEY", "ACT", "PURPOSE", "OUTCOME", "TIMES", "LAST"]);
        for ((uid, unit, key, act, purpose, outcome), seen) in &rows {
            let [unit, key, act, purpose] = [unit, key, act, purpose].map(in_a_row);
            let user = uid.map_or_else(|| "others".into(), user_name);
            let last = second(&seen.last);
            shown.add_row([user, unit, key, act, purpose, printable(outcome), seen.times.to_string(), last]);
        }
        print_table(&shown)
    }
}

/// Text of a record that stays in its row, also in a trail that another program wrote.
fn in_a_row(text: &Option<String>) -> String {
    text.as_deref().map(printable).unwrap_or_default()
}

/// A time of a record, to the second.
fn second(time: &str) -> String {
    format!("{}Z", time.get(..19).unwrap_or(time))
}
