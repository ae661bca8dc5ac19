//! `keyward key repair`.

use std::io::{self, IsTerminal};

use super::confirm::confirmed;
use super::for_daemon;
use crate::admin::api::RepairedView;
use crate::admin::client::AdminClient;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{self, print, print_json};
use crate::ground::exit;

/// Rebuilds the altered lists of the key store, after a question on a terminal.
pub(super) fn run(client: &Client) -> Result<(), Failure> {
    const QUESTION: &str = "Disable or remove every key whose list in the key store was altered? Restoring a backup would keep the keys. Type yes to confirm: ";
    if io::stdin().is_terminal() && !confirmed(QUESTION, "yes")? {
        return Err(Failure::new(exit::USAGE, "the key store was not repaired"));
    }
    let repaired = AdminClient::new(&client.runtime_dir)
        .and_then(|admin| admin.repair())
        .map_err(|error| Failure::from(error).while_trying("cannot repair the key store"))?;
    if let Some((problem, advice)) = repaired.altered.problem() {
        output::warn(format_args!("{problem}; {advice}"));
    }
    if client.json {
        return print_json(&repaired);
    }
    let RepairedView { lists, disabled, removed, nameless, .. } = repaired;
    let mut text = format!("{lists} lists were rebuilt, {nameless} records without a label were removed.\n");
    if !disabled.is_empty() {
        let command = |verb: &str| for_daemon(format!("keyward key {verb} LABEL"), &client.runtime_dir);
        text += &format!(
            "Disabled, since their records may be old copies: {}\n\
             A key may have been deleted since, or may have lost uses. Look at each key ({}) before: {}\n",
            disabled.join(", "),
            command("show"),
            command("enable")
        );
    }
    if !removed.is_empty() {
        text += &format!("Removed, since their records were altered: {}\n", removed.join(", "));
    }
    print(&text)
}
