//! `keyward reload`: puts the configuration file in force.

use clap::Args;

use super::client::Client;
use super::failure::Failure;
use super::output::{print, print_json, warn};
use crate::admin::client::AdminClient;

#[derive(Args, Debug)]
pub(super) struct Reload {
    #[command(flatten)]
    client: Client,
}

impl Reload {
    pub(super) fn run(self) -> Result<(), Failure> {
        let reloaded = AdminClient::new(&self.client.runtime_dir)
            .and_then(|admin| admin.reload())
            .map_err(|error| Failure::from(error).while_trying("cannot reload the configuration"))?;
        for problem in &reloaded.problems {
            warn(problem);
        }
        if self.client.json {
            return print_json(&reloaded);
        }
        let waiting = reloaded.waiting_for_restart.join(", ");
        print(&match waiting.is_empty() {
            true => "configuration reloaded\n".to_owned(),
            false => format!(
                "configuration reloaded, except for settings that need a restart of the daemon: {waiting}\n"
            ),
        })
    }
}
