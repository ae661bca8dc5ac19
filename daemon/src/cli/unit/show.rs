//! `keyward unit status`: who owns the embedded unit, and the state of its master keys.

use crate::admin::client::AdminClient;
use crate::admin::unit_view::{AwaitedView, OwnedUnitView, RegisterView};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json};
use crate::cli::status::opened;

pub(super) fn show(client: &Client) -> Result<(), Failure> {
    let unit = AdminClient::new(&client.runtime_dir)
        .and_then(|admin| admin.unit())
        .map_err(|error| Failure::from(error).while_trying("cannot show the unit"))?;
    match client.json {
        true => print_json(&unit),
        false => print(&text(&unit)),
    }
}

fn text(unit: &OwnedUnitView) -> String {
    let mut text = format!("unit             {}\nunit key         {}\n", unit.unit, unit.unit_key);
    text += match (unit.owned, unit.sealed, unit.current.pattern.is_some()) {
        (true, true, _) => "state            sealed: the owners of the master key must bring their parts\n",
        (false, true, _) => {
            "state            sealed: the file or secret of this host with its master key is missing\n"
        }
        (false, false, false) => "state            nobody owns the unit\n",
        (false, false, true) => "state            open; nobody owns the unit\n",
        (true, false, false) => "state            without a master key\n",
        (true, false, true) => "state            open\n",
    };
    if !unit.opening.is_empty() {
        let opened = opened(&unit.opening, !unit.sealed, unit.next_start_fails);
        text += &format!("opened           {opened}\n");
    }
    text += &format!("next command     {}\n", unit.next_counter);
    if unit.owned {
        text += &format!(
            "thresholds       {} signatures, {} to remove an administrator\n",
            unit.signature_threshold, unit.revocation_threshold
        );
    }
    for person in &unit.administrators {
        text += &format!("administrator    {}, {}\n", person.name, person.ski);
    }
    text += &register("current register", &unit.current);
    text += &register("new register", &unit.new);
    unit.awaited.iter().for_each(|awaited| text += &awaited_text(awaited));
    text
}

fn register(name: &str, register: &RegisterView) -> String {
    let pattern = register.pattern.as_ref().map(|pattern| format!(", {pattern}")).unwrap_or_default();
    format!("{name:16} {}{pattern}\n", register.state)
}

fn awaited_text(awaited: &AwaitedView) -> String {
    let AwaitedView { register, needed, parts, arrived } = awaited;
    let mut text = format!(
        "waits for        the {register} register: {} of {} parts are here, {needed} are needed\n",
        arrived.len(),
        parts.len()
    );
    for part in parts {
        let state = if arrived.contains(part) { "here" } else { "missing" };
        text += &format!("                 {part} {state}\n");
    }
    text
}
