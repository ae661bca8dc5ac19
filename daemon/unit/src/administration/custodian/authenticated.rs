//! The file of a state, which the master keys of its registers authenticate.

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::super::command::RegisterName;
use super::super::state::State;
use crate::master_key::{MasterKey, WrappingKeys};

/// The file of a state: the state in a line, and in the next one a MAC of that line under the
/// master key of each register, the current one first. So nobody gets a unit to take a master key
/// whose owners have not vouched for the rest of the state.
pub(super) struct Authenticated {
    line: Zeroizing<String>,
    macs: [Option<[u8; 32]>; 2],
}

impl Authenticated {
    /// Reads the text of a file. `None` if the text is not one of a state.
    pub(super) fn read(text: &str) -> Option<(State, Self)> {
        let (line, macs) = text.strip_suffix('\n')?.split_once('\n')?;
        let (current, new) = macs.strip_prefix(MACS)?.split_once(' ')?;
        let macs = [read_mac(current)?, read_mac(new)?];
        Some((State::from_json(line).ok()?, Self { line: Zeroizing::new(line.to_owned()), macs }))
    }

    /// The text of a file with this line, for these master keys.
    pub(super) fn text(line: &str, keys: [Option<&MasterKey>; 2]) -> Zeroizing<String> {
        let mac = |key: &MasterKey| {
            let mac = hmac::sign(&WrappingKeys::derive(key).unit_state, line.as_bytes());
            base16ct::lower::encode_string(mac.as_ref())
        };
        let [current, new] = keys.map(|key| key.map_or(NO_MAC.to_owned(), mac));
        Zeroizing::new(format!("{line}\n{MACS}{current} {new}\n"))
    }

    /// True if the master key of a register authenticates the line.
    pub(super) fn is_genuine(&self, register: RegisterName, key: &MasterKey) -> bool {
        let [current, new] = self.macs;
        let mac = match register {
            RegisterName::Current => current,
            RegisterName::New => new,
        };
        let state_key = WrappingKeys::derive(key).unit_state;
        mac.is_some_and(|mac| hmac::verify(&state_key, self.line.as_bytes(), &mac).is_ok())
    }
}

/// Reads a MAC in hexadecimal digits, or the sign for none.
fn read_mac(text: &str) -> Option<Option<[u8; 32]>> {
    if text == NO_MAC {
        return Some(None);
    }
    let mut mac = [0; 32];
    let length = base16ct::lower::decode(text, &mut mac).ok()?.len();
    (length == mac.len()).then_some(Some(mac))
}

const MACS: &str = "macs ";
const NO_MAC: &str = "-";
