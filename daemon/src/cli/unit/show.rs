//! `keyward unit status`: who owns the embedded unit, and the state of its master keys.

use crate::admin::client::AdminClient;
use crate::admin::unit_view::{AwaitedView, OwnedUnitView, RegisterView};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json};
use crate::cli::status::opened;
use crate::config::EMBEDDED;

pub(super) fn show(client: &Client) -> Result<(), Failure> {
    let failed = |error| Failure::from(error).while_trying("cannot show the unit").at(&client.runtime_dir);
    let admin = AdminClient::new(&client.runtime_dir).map_err(failed)?;
    let unit = admin.unit().map_err(failed)?;
    if client.json {
        return print_json(&unit);
    }
    // A secret of the host that is gone, or opens nothing: the daemon knows why.
    let problem = if needs_secret(&unit) { problem(&admin) } else { None };
    print(&text(&unit, problem.as_deref()))
}

/// True if the unit is sealed, and nobody has parts that unseal it.
fn needs_secret(unit: &OwnedUnitView) -> bool {
    unit.sealed && unit.current.needed == Some(0)
}

fn problem(admin: &AdminClient) -> Option<String> {
    admin.units().ok()?.into_iter().find(|unit| unit.backend == EMBEDDED)?.problem
}

fn text(unit: &OwnedUnitView, problem: Option<&str>) -> String {
    let mut text = format!("unit             {}\nunit key\n  {}\n", unit.unit, unit.unit_key);
    let has_key = unit.current.pattern.is_some();
    text += match (unit.owned, unit.sealed) {
        _ if needs_secret(unit) => "state            sealed: no secret of this host opens it\n",
        (_, true) => "state            sealed: the owners of the master key must bring their parts\n",
        (false, false) if has_key => "state            open; nobody owns the unit\n",
        (false, false) => "state            nobody owns the unit\n",
        (true, false) if has_key => "state            open\n",
        (true, false) => "state            without a master key\n",
    };
    problem.iter().for_each(|problem| text += &wrapped("reason           ", problem));
    if !unit.opening.is_empty() {
        let opened = opened(&unit.opening, !unit.sealed, unit.next_start_fails);
        text += &format!("opened           {opened}\n");
    }
    text += &format!("control points   {}\n", unit.control_points);
    text += &format!("next command     {}\n", unit.next_counter);
    if unit.owned {
        text += &format!(
            "thresholds       {} to sign, {} to remove an administrator\n",
            unit.signature_threshold, unit.revocation_threshold
        );
    }
    for person in &unit.administrators {
        text += &format!("administrator    {}\n  {}\n", person.name, person.ski);
    }
    text += &register("current register", &unit.current);
    text += &register("new register", &unit.new);
    unit.awaited.iter().for_each(|awaited| text += &awaited_text(awaited));
    text
}

fn register(name: &str, register: &RegisterView) -> String {
    let pattern = register.pattern.as_ref().map(|pattern| format!("  {pattern}\n")).unwrap_or_default();
    let wkid = register.wkid.as_ref().map(|wkid| format!(", in backups {wkid}")).unwrap_or_default();
    format!("{name:16} {}{wkid}\n{pattern}", register.state)
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
        text += &format!("  {part} {state}\n");
    }
    text
}

/// A text after a label, in lines of at most [`COLUMNS`] if its words are short enough.
fn wrapped(label: &str, text: &str) -> String {
    let (mut lines, mut line) = (String::new(), label.trim_end().to_owned());
    for word in text.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines += &format!("{line}\n");
            line = String::new();
        }
        let gap = label.len().saturating_sub(line.chars().count()).max(1);
        line += &format!("{}{word}", " ".repeat(gap));
    }
    lines + &line + "\n"
}

const COLUMNS: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::unit_view::PersonView;

    fn digits() -> String {
        "0123456789abcdef".repeat(4)
    }

    fn unit(needed: usize) -> OwnedUnitView {
        let register = |state: &str, needed| RegisterView {
            state: state.into(),
            pattern: Some(digits()),
            wkid: Some("0".repeat(32)),
            needed: Some(needed),
            parts: Vec::new(),
            shares: Vec::new(),
        };
        OwnedUnitView {
            unit: "0".repeat(32),
            unit_key: digits(),
            serves_grep11: false,
            control_points: "tls".into(),
            owned: true,
            sealed: true,
            opening: "unprotected".into(),
            next_start_fails: true,
            next_counter: 1000,
            signature_threshold: 8,
            revocation_threshold: 8,
            administrators: vec![PersonView { name: "x".repeat(30), ski: digits() }],
            current: register("valid", needed),
            new: register("uncommitted", 16),
            store_needs: None,
            awaited: vec![AwaitedView {
                register: "current".into(),
                needed: 16,
                parts: vec![digits(); 16],
                arrived: vec![digits(); 16],
            }],
        }
    }

    #[test]
    fn the_state_fits_a_terminal_and_keeps_numbers_in_one_piece() {
        let problem = "the secret does not open the master keys that the unit keeps ".repeat(5);
        for needed in [0, 2] {
            let shown = text(&unit(needed), Some(problem.trim_end()));
            for line in shown.lines() {
                assert!(line.chars().count() <= COLUMNS, "{line}");
            }
            assert_eq!(shown.matches(&digits()).count(), 4 + 16, "{shown}");
        }
    }

    #[test]
    fn only_owners_of_parts_are_asked_for_them() {
        let shown = text(&unit(0), Some("the secret does not open the master keys"));
        assert!(shown.contains("sealed: no secret of this host opens it\n"), "{shown}");
        assert!(shown.contains("reason           the secret does not open"), "{shown}");
        let of_owners = text(&OwnedUnitView { owned: false, ..unit(2) }, None);
        assert!(of_owners.contains("sealed: the owners of the master key must bring their parts"));
    }
}
