//! `keyward key rewrap`: moves the keys of a backend to the next master key.

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::for_daemon;
use crate::admin::client::{AdminClient, AdminClientError};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json};
use crate::config::EMBEDDED;

#[derive(Args, Debug)]
pub(in crate::cli) struct Rewrap {
    /// Backend whose units get another master key; embedded for the software crypto unit
    #[arg(long, value_name = "NAME")]
    backend: String,
    /// Finish when the new master key is in force at every unit: delete the blobs that the old
    /// master key has wrapped
    #[arg(long)]
    finish: bool,
    #[command(flatten)]
    client: Client,
}

impl Rewrap {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { backend, finish, client } = self;
        let failed = |error: AdminClientError| {
            let attempt = if finish { "finish rewrapping" } else { "rewrap" };
            Failure::from(error).while_trying(format_args!("cannot {attempt} the keys of backend {backend}"))
        };
        let admin = AdminClient::new(&client.runtime_dir).map_err(failed)?;
        if finish {
            let finished = admin.finish_rewrap(&backend).map_err(failed)?;
            return match client.json {
                true => print_json(&finished),
                false => print(&format!(
                    "{} keys of backend {} are wrapped with the master key {}\n",
                    finished.keys, finished.backend, finished.wkid,
                )),
            };
        }
        let embedded = (backend == EMBEDDED).then(|| admin.prepare_rotation()).transpose().map_err(failed)?;
        let (keys, wrapped) = rewrap_all(&admin, &backend).map_err(failed)?;
        if client.json {
            return print_json(&json!({ "backend": backend, "keys": keys, "wrapped": wrapped }));
        }
        let finish = match embedded.as_ref().filter(|unit| unit.owned) {
            Some(unit) => {
                let pattern = unit.new.pattern.as_deref().unwrap_or("PATTERN");
                format!("keyward unit activate {pattern} --key FILE")
            }
            None => format!("keyward key rewrap --backend {backend} --finish"),
        };
        let finish = for_daemon(finish, &client.runtime_dir);
        print(&format!(
            "{wrapped} blobs wrapped, {keys} keys of backend {backend} are ready for the new master key.\n\
             {}run: {finish}\n",
            if backend == EMBEDDED { "Then " } else { "Put the new master key in force at the units, then " }
        ))
    }
}

/// Wraps all keys of a backend by the next master key, and shows the progress on a terminal.
/// Returns the number of keys, and of blobs that were wrapped.
pub(in crate::cli) fn rewrap_all(admin: &AdminClient, backend: &str) -> Result<(u64, u64), AdminClientError> {
    let bar = ProgressBar::new(admin.status()?.keys);
    bar.set_style(bar_style());
    let (mut keys, mut wrapped, mut after) = (0, 0, None);
    loop {
        let done = admin.rewrap(backend, after.as_deref()).inspect_err(|_| bar.abandon())?;
        keys += done.keys;
        wrapped += done.wrapped;
        bar.set_position(bar.position() + done.looked_at);
        bar.set_message(format!("{wrapped} blobs wrapped"));
        after = done.next;
        if after.is_none() {
            bar.finish_and_clear();
            return Ok((keys, wrapped));
        }
    }
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:40} {pos} of {len} keys, {msg}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
