//! First step: administrators own the unit.

use keyward_unit::administration::{
    ClaimSecret, Instruction, MAX_ADMINISTRATORS, Person, PersonName, Thresholds,
};

use super::Session;
use super::dialogue::{names, number, say, step};
use super::orders::Order;
use super::people::ADMINISTRATOR;
use crate::admin::unit_view::PersonView;
use crate::cli::failure::Failure;

impl Session {
    /// Has the administrators make their keys, and claim the unit.
    pub(super) fn claim(&mut self) -> Result<(), Failure> {
        let failed = |error| Failure::from(error).while_trying("cannot claim the unit");
        // Before anybody makes a key: only root can claim.
        let secret = self.admin.claim_secret().map_err(failed)?;
        let secret = secret.map(|secret| ClaimSecret::from_text(&secret));
        step("Administrators", "all administrators")?;
        say(
            "Nobody owns the unit. Each administrator makes a key in a\ndirectory, such as a USB stick, and takes it home.",
        )?;
        let people: Vec<PersonName> = names("Names of the administrators", 1, MAX_ADMINISTRATORS)?;
        let default = if people.len() > 1 { 2 } else { 1 };
        let thresholds = Thresholds {
            signature: number("How many must sign", 1, people.len(), default)?,
            revocation: number("How many must sign the removal of one", 1, people.len(), default)?,
        };
        let mut administrators: Vec<Person> = Vec::new();
        for name in &people {
            let is_unfit = |person: &Person| administrators.iter().any(|other| other.key == person.key);
            administrators.push(self.obtain(&ADMINISTRATOR, name, true, is_unfit)?);
        }
        step("Claim the unit", &format!("everybody; {} administrators sign", thresholds.signature))?;
        say("Everybody compares the identities below with the papers.\n")?;
        let views: Vec<_> = administrators
            .iter()
            .map(|person| PersonView { name: person.name.to_string(), ski: person.key.ski().to_string() })
            .collect();
        self.order(Order {
            instruction: Instruction::Claim { administrators, thresholds },
            needed: thresholds.signature,
            administrators: &views,
            secret: secret.as_ref(),
        })
    }
}
