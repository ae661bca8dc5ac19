//! Signed commands for a unit. An accepted text is the text of the commands, and no command without
//! genuine signatures changes a unit.

use std::sync::LazyLock;

use keyward_unit::administration::{Refusal, SignedCommand, State, Surroundings};

/// A unit that nobody owns.
static UNIT: LazyLock<State> = LazyLock::new(|| State::new().expect("random bytes"));

const HERE: Surroundings = Surroundings { now: 0, has_current: true, has_new: true, serves_grep11: true };

/// Feeds an input to the decoder.
pub fn run(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(commands) = SignedCommand::read_all(text) else { return };
    let again: String = commands.iter().map(SignedCommand::to_text).collect();
    assert_eq!(SignedCommand::read_all(&again).as_ref(), Ok(&commands));
    for command in &commands {
        assert!(text.contains(&command.command().to_text()));
        // Nobody guesses the identity of the unit.
        let refusal = UNIT.apply(command, HERE).expect_err("a command for another unit");
        assert!(matches!(refusal, Refusal::OtherUnit { .. }));
    }
}
