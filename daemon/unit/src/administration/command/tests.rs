use aws_lc_rs::signature::{ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

use super::*;

pub(crate) fn person(name: &str) -> (Person, EcdsaKeyPair) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P521_SHA512_ASN1_SIGNING).unwrap();
    let key = PersonKey::from_point(pair.public_key().as_ref()).unwrap();
    (Person { name: name.parse().unwrap(), key }, pair)
}

fn command(instruction: Instruction) -> Command {
    Command { unit: UnitId([0xab; 16]), counter: 12, expires: 1_800_000_000, instruction }
}

/// One of each.
fn instructions() -> Vec<Instruction> {
    let [alice, bob] = ["alice", "bob@example.org"].map(|name| person(name).0);
    let thresholds = Thresholds { signature: 2, revocation: 1 };
    let [one, two, three] = [1, 2, 3].map(|byte| Pattern::of_key(&[byte; 32]));
    vec![
        Instruction::Activate(one),
        Instruction::AddAdministrator(alice.clone()),
        Instruction::Claim { administrators: vec![alice.clone(), bob.clone()], thresholds },
        Instruction::Clear(RegisterName::New, one),
        Instruction::Clear(RegisterName::Current, two),
        Instruction::Commit(three),
        Instruction::GenerateShares { needed: 2, owners: vec![alice.clone(), bob] },
        Instruction::LoadParts(vec![one, two]),
        Instruction::LoadParts(vec![one, two, three]),
        Instruction::LoadShares { needed: 2, shares: vec![(1, one), (3, two), (4, three)] },
        Instruction::RemoveAdministrator { ski: alice.key.ski(), name: alice.name },
        Instruction::SetControlPoints(Profile::Strict),
        Instruction::SetThresholds(thresholds),
        Instruction::Zeroize,
    ]
}

#[test]
fn a_command_is_read_as_it_was_written() {
    for instruction in instructions() {
        let command = command(instruction);
        let text = command.to_text();
        assert_eq!(Command::from_text(&text).unwrap(), command, "{text}");
    }
    let commit = command(Instruction::Commit(Pattern::of_key(&[0; 32]))).to_text();
    assert_eq!(
        commit,
        "keyward unit command 1\nunit: abababababababababababababababab\ncounter: 12\n\
         expires: 2027-01-15T08:00:00Z\ncommand: commit\n\
         pattern: 1a7dfdeaffeedac489287e85be5e9c049a2ff6470f55cf30260f553900000000\n"
    );
}

/// A person reads the command that the unit carries out: no second text means the same.
#[test]
fn each_command_has_one_text() {
    for instruction in instructions() {
        let text = command(instruction).to_text();
        let lines: Vec<_> = text.lines().collect();
        let without = |left_out: usize| {
            let rest = lines.iter().enumerate().filter(|(at, _)| *at != left_out);
            rest.map(|(_, line)| format!("{line}\n")).collect::<String>()
        };
        for left_out in 0..lines.len() {
            let other = without(left_out);
            // A command with fewer parts or persons may be a command, and is then another one.
            if let Ok(read) = Command::from_text(&other) {
                assert_eq!(read.to_text(), other);
            }
        }
        for other in [
            text.trim_end().to_owned(),
            format!("{text}\n"),
            format!("{text}pattern: x\n"),
            format!(" {text}"),
            text.replace('\n', "\r\n"),
            text.replace("counter: 12", "counter: 012"),
            text.replace("counter: 12", "counter: +12"),
            text.replace("T08:00:00Z", "T08:00:00.000Z"),
            text.replace("unit: ab", "unit: AB"),
            text.replace("expires: ", "expires:  "),
            text.replace("command: ", "Command: "),
        ] {
            assert!(Command::from_text(&other).is_err(), "{other}");
        }
    }
}

#[test]
fn impossible_commands_are_refused() {
    let one = Pattern::of_key(&[1; 32]);
    let two = Pattern::of_key(&[2; 32]);
    let (alice, _) = person("alice");
    for (instruction, field) in [
        (Instruction::LoadParts(vec![one]), "part"),
        (Instruction::LoadParts(vec![one, one]), "part"),
        (Instruction::LoadParts(vec![one, two, Pattern::of_key(&[3; 32]), one]), "part"),
        (Instruction::LoadShares { needed: 1, shares: vec![(1, one)] }, "needed"),
        (Instruction::LoadShares { needed: 2, shares: vec![(1, one)] }, "share"),
        (Instruction::LoadShares { needed: 2, shares: vec![(2, one), (1, two)] }, "share"),
        (Instruction::LoadShares { needed: 2, shares: vec![(1, one), (1, two)] }, "share"),
        (Instruction::LoadShares { needed: 2, shares: vec![(0, one), (1, two)] }, "share"),
        (Instruction::GenerateShares { needed: 2, owners: vec![alice.clone()] }, "owner"),
        (Instruction::GenerateShares { needed: 2, owners: vec![alice.clone(); 2] }, "owner"),
    ] {
        let text = command(instruction).to_text();
        assert_eq!(Command::from_text(&text), Err(InvalidCommand::Field(field)), "{text}");
    }
    let administrators = vec![alice; 9];
    let text = command(Instruction::Claim { administrators, thresholds: Thresholds::default() }).to_text();
    assert_eq!(Command::from_text(&text), Err(InvalidCommand::Field("administrator")));
    assert_eq!(Command::from_text(&"x".repeat(9000)), Err(InvalidCommand::Long));
    assert_eq!(Command::from_text(""), Err(InvalidCommand::NoCommand));
}
