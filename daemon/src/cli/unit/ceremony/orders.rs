//! Commands of the ceremony: administrators sign them one after another, and the unit carries them
//! out.

use core::time::Duration;

use keyward_unit::administration::{AdministratorKey, ClaimSecret, Instruction, SignedCommand};

use super::super::issue::next_command;
use super::super::sign::shown;
use super::super::signers::sign_with_key_in;
use super::Session;
use super::dialogue::{again, parsed, say};
use super::notes::Noted;
use crate::admin::unit_view::PersonView;
use crate::cli::failure::Failure;
use crate::keys::now;

/// A command, before anybody has signed it.
pub(super) struct Order<'o> {
    pub(super) instruction: Instruction,
    /// Number of signatures that the unit needs.
    pub(super) needed: u8,
    pub(super) administrators: &'o [PersonView],
    /// Secret of a unit that nobody owns.
    pub(super) secret: Option<&'o ClaimSecret>,
}

impl Session {
    /// Has a command signed, and carried out.
    pub(super) fn order(&mut self, order: Order<'_>) -> Result<(), Failure> {
        let unit = self.unit()?;
        let name = order.instruction.name();
        let mut signed = SignedCommand::new(next_command(&unit, LIFE, order.instruction)?);
        if let Some(secret) = order.secret {
            signed = signed.with_claim_of(secret);
        }
        say(format_args!("The administrators sign this command:\n\n{}", narrow(&shown(signed.command()))))?;
        let signers = signers(order.administrators, usize::from(order.needed))?;
        for signer in &signers {
            self.sign(signer, &mut signed)?;
        }
        self.admin
            .unit_commands(signed.to_text())
            .map_err(|error| Failure::from(error).while_trying(format_args!("cannot {name}")))?;
        say(format_args!("The unit has carried out the command {}: {name}.", signed.command().counter))?;
        self.notes.commands.push(Noted {
            command: name.into(),
            counter: signed.command().counter,
            time: now(),
            signers: signers.iter().map(|signer| signer.name.clone()).collect(),
        });
        self.notes.save()
    }

    /// Has an administrator sign. The only place that knows where the key of the administrator is.
    fn sign(&mut self, signer: &PersonView, signed: &mut SignedCommand) -> Result<(), Failure> {
        say(format_args!("\n{}, please come to the terminal, and sign.", signer.name))?;
        let (file, ()) = self.find(&signer.name, "key", "key", |text| {
            let person = AdministratorKey::person_of_file(text).ok()?;
            (person.key.ski().to_string() == signer.ski).then_some(())
        })?;
        again(|| sign_with_key_in(&file, &self.passphrase, core::slice::from_mut(signed), None).map(drop))
    }
}

/// Asks who signs.
fn signers(administrators: &[PersonView], needed: usize) -> Result<Vec<&PersonView>, Failure> {
    let first: Vec<_> = administrators.iter().take(needed).map(|person| person.name.as_str()).collect();
    let question = format!("Who signs, {needed} of {}", administrators.len());
    parsed(&question, Some(&first.join(" ")), |answer| {
        let mut signers: Vec<&PersonView> = Vec::new();
        for word in answer.split([' ', ',']).filter(|word| !word.is_empty()) {
            let known = administrators.iter().find(|person| person.name == word);
            let known = known.ok_or_else(|| format!("{word} is not an administrator"))?;
            if signers.iter().any(|signer| signer.ski == known.ski) {
                return Err(format!("{word} is there twice"));
            }
            signers.push(known);
        }
        match signers.len() == needed {
            true => Ok(signers),
            false => Err(format!("{needed} must sign")),
        }
    })
}

/// Cuts public keys at the width of the screen. The identities below them are their hashes.
fn narrow(text: &str) -> String {
    let cut = |line: &str| match line.char_indices().nth(WIDTH) {
        Some((end, _)) if !line.starts_with(' ') => format!("{}...\n", line.get(..end).unwrap_or(line)),
        _ => format!("{line}\n"),
    };
    text.lines().map(cut).collect()
}

/// Time for which a command is valid: the people are all here.
const LIFE: Duration = Duration::from_secs(3600);
/// Columns of a line that is not cut.
const WIDTH: usize = 76;
