//! Commands that a unit would never carry out. They are refused where they are made, before people
//! sign them in different places.

use keyward_unit::administration::{
    Instruction, MAX_ADMINISTRATORS, Pattern, Refusal, RegisterName, Thresholds, can_own,
};

use crate::admin::unit_view::{OwnedUnitView, RegisterView};
use crate::cli::failure::Failure;
use crate::ground::exit;

/// Refuses an instruction that a unit in this state does not carry out, whoever signs it.
///
/// # Errors
/// [`Failure`] with the words of the unit.
pub(super) fn refuse_impossible(unit: &OwnedUnitView, instruction: &Instruction) -> Result<(), Failure> {
    refusal(unit, instruction).map_or(Ok(()), |refusal| Err(Failure::new(exit::CANNOT_CREATE, refusal)))
}

fn refusal(unit: &OwnedUnitView, instruction: &Instruction) -> Option<Refusal> {
    let thresholds =
        Thresholds { signature: unit.signature_threshold, revocation: unit.revocation_threshold };
    match (unit.owned, instruction) {
        (false, Instruction::Claim { administrators, thresholds }) => {
            return (!can_own(administrators, *thresholds)).then_some(Refusal::Owners);
        }
        (true, Instruction::Claim { .. }) => return Some(Refusal::Owned),
        (_, Instruction::SetControlPoints(_)) if !unit.serves_grep11 => return Some(Refusal::ServesTls),
        (false, _) => return Some(Refusal::Unowned),
        (true, _) => {}
    }
    let administrators = unit.administrators.len();
    match instruction {
        Instruction::AddAdministrator(_) if administrators >= MAX_ADMINISTRATORS => {
            Some(Refusal::ManyAdministrators)
        }
        Instruction::AddAdministrator(person) => {
            let (name, ski) = (person.name.as_str(), person.key.ski().to_string());
            let known = unit.administrators.iter().find(|known| known.name == name || known.ski == ski)?;
            known.name.parse().ok().map(Refusal::Known)
        }
        Instruction::RemoveAdministrator { .. }
            if !can_reach(thresholds, administrators.saturating_sub(1)) =>
        {
            Some(Refusal::LastAdministrators { thresholds, administrators })
        }
        Instruction::SetThresholds(asked) if !can_reach(*asked, administrators) => {
            Some(Refusal::Thresholds { asked: *asked, administrators })
        }
        Instruction::SetControlPoints(_) if unit.current.state == "empty" => Some(Refusal::WithoutMasterKey),
        Instruction::Commit(pattern) if unit.new.state == "committed" && has(&unit.new) == Some(*pattern) => {
            Some(Refusal::AlreadyCommitted)
        }
        Instruction::Activate(pattern)
            if unit.new.state == "uncommitted" && has(&unit.new) == Some(*pattern) =>
        {
            Some(Refusal::NotCommitted)
        }
        Instruction::Activate(pattern) | Instruction::Commit(pattern) => {
            other_pattern(RegisterName::New, &unit.new, *pattern)
        }
        Instruction::Clear(RegisterName::New, pattern) => {
            other_pattern(RegisterName::New, &unit.new, *pattern)
        }
        Instruction::Clear(RegisterName::Current, pattern) => {
            other_pattern(RegisterName::Current, &unit.current, *pattern)
        }
        Instruction::GenerateShares { .. } | Instruction::LoadParts(_) | Instruction::LoadShares { .. } => {
            has(&unit.new).map(Refusal::NotEmpty)
        }
        _ => None,
    }
}

fn other_pattern(register: RegisterName, view: &RegisterView, pattern: Pattern) -> Option<Refusal> {
    let has = has(view);
    (has != Some(pattern)).then_some(Refusal::OtherPattern { register, has })
}

fn has(register: &RegisterView) -> Option<Pattern> {
    register.pattern.as_ref()?.parse().ok()
}

fn can_reach(thresholds: Thresholds, administrators: usize) -> bool {
    let reach = |threshold: u8| (1..=administrators).contains(&usize::from(threshold));
    reach(thresholds.signature) && reach(thresholds.revocation)
}
