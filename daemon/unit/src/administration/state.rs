//! The state of a unit: who owns it, and what its registers have. The state contains no master key.
//!
//! The state is a JSON object in a file of its own, apart from the key store. A MAC under the
//! master key in force authenticates the file: who can write the file without the master key cannot
//! make himself an administrator.

use core::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use super::command::{MAX_ADMINISTRATORS, Thresholds, UnitId};
use super::part::PARTS;
use super::person::{Person, PersonKey};
use super::register::{Contents, Origin, Register, SealedShare};
use super::shares::{MAX_SHARES, is_number_of_shares};
use super::signed::ClaimSecret;
use crate::error::UnitError;
use crate::profile::Profile;

/// The state of a unit.
#[derive(Clone, Debug)]
pub struct State {
    pub(crate) unit: UnitId,
    pub(crate) key: Arc<UnitKey>,
    /// The claim secret, until somebody owns the unit.
    pub(crate) claim: Option<ClaimSecret>,
    pub(crate) administrators: Vec<Person>,
    /// Both 0 until somebody owns the unit.
    pub(crate) thresholds: Thresholds,
    /// Counter of the last command.
    pub(crate) counter: u64,
    pub(crate) current: Register,
    pub(crate) new: Register,
    /// The master keys of the registers, encrypted for a start without people.
    pub(crate) kept: Option<Vec<u8>>,
    /// True once the unit was zeroized: only its owners give it a master key again.
    pub(crate) erased: bool,
    /// The control points that the owners have set.
    pub(crate) profile: Option<Profile>,
}

impl State {
    /// The state of a unit that nobody owns, with an identity and a claim secret of its own.
    ///
    /// # Errors
    /// [`UnitError::Crypto`] if the system gives no random bytes.
    pub fn new() -> Result<Self, UnitError> {
        let random = || {
            let mut bytes = [0; 16];
            rand::fill(&mut bytes).map(|()| bytes).map_err(|_| UnitError::Crypto("make a unit"))
        };
        Ok(Self {
            unit: UnitId(random()?),
            key: Arc::new(UnitKey::generate()?),
            claim: Some(ClaimSecret::of(random()?)),
            administrators: Vec::new(),
            thresholds: Thresholds::default(),
            counter: 0,
            current: Register::Empty,
            new: Register::Empty,
            kept: None,
            erased: false,
            profile: None,
        })
    }

    /// The identity of the unit.
    pub fn unit(&self) -> UnitId {
        self.unit
    }

    /// The public key of the unit, which signs its importer keys.
    pub fn unit_key(&self) -> PersonKey {
        self.key.public
    }

    /// True until somebody owns the unit.
    pub fn is_unowned(&self) -> bool {
        self.claim.is_some()
    }

    /// The secret that owns the unit; `None` when somebody has claimed it.
    pub fn claim_secret(&self) -> Option<&ClaimSecret> {
        self.claim.as_ref()
    }

    /// True once the unit was zeroized. It takes a master key from its owners only.
    pub fn is_erased(&self) -> bool {
        self.erased
    }

    /// The administrators.
    pub fn administrators(&self) -> &[Person] {
        &self.administrators
    }

    /// The thresholds; both 0 for a unit that nobody owns.
    pub fn thresholds(&self) -> Thresholds {
        self.thresholds
    }

    /// Counter of the next command.
    pub fn next_counter(&self) -> u64 {
        self.counter.saturating_add(1)
    }

    /// The control points that the owners have set for clients of GREP11; `None` if they have set
    /// none.
    pub fn profile(&self) -> Option<Profile> {
        self.profile
    }

    /// The register of the master key in force.
    pub fn current(&self) -> &Register {
        &self.current
    }

    /// The register of the master key that will be in force.
    pub fn new_register(&self) -> &Register {
        &self.new
    }

    /// The state as one line of JSON, without a line feed. The line contains the private key of the
    /// unit and the claim secret.
    pub fn to_json(&self) -> Zeroizing<String> {
        // `Stored` has nothing that JSON cannot express.
        Zeroizing::new(serde_json::to_string(&Stored::of(self)).unwrap_or_default())
    }

    /// Reads the output of [`Self::to_json`].
    ///
    /// # Errors
    /// [`InvalidState`] if another program has written it.
    pub fn from_json(text: &str) -> Result<Self, InvalidState> {
        let read = || {
            let stored: Stored = serde_json::from_str(text).ok().filter(|_| text.len() <= MAX_STATE)?;
            stored.check()
        };
        read().ok_or(InvalidState)
    }
}

/// The P-521 key of a unit, which signs its importer keys.
pub(crate) struct UnitKey {
    pair: EcdsaKeyPair,
    /// The key as PKCS#8.
    private: Zeroizing<Vec<u8>>,
    pub(crate) public: PersonKey,
}

impl UnitKey {
    fn generate() -> Result<Self, UnitError> {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P521_SHA512_ASN1_SIGNING, &SystemRandom::new());
        made.ok()
            .and_then(|made| Self::read(made.as_ref()))
            .ok_or(UnitError::Crypto("make the key of a unit"))
    }

    fn read(pkcs8: &[u8]) -> Option<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P521_SHA512_ASN1_SIGNING, pkcs8).ok()?;
        let public = PersonKey::from_point(pair.public_key().as_ref()).ok()?;
        Some(Self { pair, private: Zeroizing::new(pkcs8.to_vec()), public })
    }

    /// Signs a message: ECDSA with SHA-512, in DER.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, UnitError> {
        let signed = self.pair.sign(&SystemRandom::new(), message);
        Ok(signed.map_err(|_| UnitError::Crypto("sign as the unit"))?.as_ref().to_vec())
    }
}

impl fmt::Debug for UnitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnitKey({})", self.public.ski())
    }
}

/// The form of the state in the file. Keys are in base64, and patterns in hexadecimal digits.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    unit: String,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claim: Option<String>,
    administrators: Vec<StoredPerson>,
    signature_threshold: u8,
    revocation_threshold: u8,
    counter: u64,
    current: StoredRegister,
    new: StoredRegister,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<String>,
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    erased: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    control_points: Option<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StoredPerson {
    name: String,
    key: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StoredRegister {
    state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pattern: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wkid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    needed: Option<u8>,
    /// Indexes and patterns of shares; indexes from 1 for parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<(u8, String)>,
    /// Encrypted shares, in the order of `parts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    shares: Vec<StoredShare>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StoredShare {
    owner: StoredPerson,
    index: u8,
    pattern: String,
    sealed: String,
}

impl Stored {
    fn of(state: &State) -> Self {
        Self {
            format: FORMAT,
            unit: state.unit.to_string(),
            key: STANDARD.encode(&*state.key.private),
            claim: state.claim.as_ref().map(|secret| secret.as_str().to_owned()),
            administrators: state.administrators.iter().map(StoredPerson::of).collect(),
            signature_threshold: state.thresholds.signature,
            revocation_threshold: state.thresholds.revocation,
            counter: state.counter,
            current: StoredRegister::of(&state.current),
            new: StoredRegister::of(&state.new),
            kept: state.kept.as_ref().map(|kept| STANDARD.encode(kept)),
            erased: state.erased,
            control_points: state.profile.map(|profile| profile.to_string()),
        }
    }

    fn check(self) -> Option<State> {
        let administrators: Vec<Person> =
            self.administrators.into_iter().map(StoredPerson::check).collect::<Option<_>>()?;
        let thresholds =
            Thresholds { signature: self.signature_threshold, revocation: self.revocation_threshold };
        let current = self.current.check()?;
        let new = self.new.check()?;
        let registers_fit = matches!(current, Register::Empty | Register::Valid(_))
            && !matches!(new, Register::Valid(_))
            && (new == Register::Empty || new.pattern() != current.pattern());
        let owners_fit = match self.claim {
            Some(_) => {
                let has_set = self.control_points.is_some();
                administrators.is_empty() && thresholds == Thresholds::default() && !has_set
            }
            None => can_own(&administrators, thresholds),
        };
        (self.format == FORMAT && registers_fit && owners_fit).then_some(())?;
        Some(State {
            unit: self.unit.parse().ok()?,
            key: Arc::new(UnitKey::read(&Zeroizing::new(STANDARD.decode(self.key).ok()?))?),
            claim: self.claim.map(|secret| ClaimSecret::from_text(&secret)),
            administrators,
            thresholds,
            counter: self.counter,
            current,
            new,
            kept: self.kept.map(|kept| STANDARD.decode(kept)).transpose().ok()?,
            erased: self.erased,
            profile: self.control_points.map(|name| name.parse()).transpose().ok()?,
        })
    }
}

impl StoredPerson {
    fn of(person: &Person) -> Self {
        Self { name: person.name.to_string(), key: STANDARD.encode(person.key.to_spki()) }
    }

    fn check(self) -> Option<Person> {
        let key = PersonKey::from_spki(&STANDARD.decode(self.key).ok()?).ok()?;
        Some(Person { name: self.name.parse().ok()?, key })
    }
}

impl StoredShare {
    fn of(share: &SealedShare) -> Self {
        Self {
            owner: StoredPerson::of(&share.owner),
            index: share.index,
            pattern: share.pattern.to_string(),
            sealed: STANDARD.encode(&share.sealed),
        }
    }

    fn check(self, needed: u8) -> Option<SealedShare> {
        Some(SealedShare {
            owner: self.owner.check()?,
            needed,
            index: self.index,
            pattern: self.pattern.parse().ok()?,
            sealed: STANDARD.decode(self.sealed).ok()?,
        })
    }
}

impl StoredRegister {
    fn of(register: &Register) -> Self {
        let origin = register.contents().map(|contents| &contents.origin);
        let (needed, parts) = match origin {
            None | Some(Origin::Machine) => (None, Vec::new()),
            Some(Origin::Parts(parts)) => (None, (1..).zip(parts.iter().copied()).collect()),
            Some(Origin::Shares { needed, shares }) => (Some(*needed), shares.clone()),
        };
        Self {
            state: register.state().into(),
            pattern: register.pattern().map(|pattern| pattern.to_string()),
            wkid: register.contents().map(|contents| contents.wkid.to_string()),
            needed,
            parts: parts.into_iter().map(|(index, pattern)| (index, pattern.to_string())).collect(),
            shares: register
                .contents()
                .into_iter()
                .flat_map(|key| &key.shares)
                .map(StoredShare::of)
                .collect(),
        }
    }

    fn check(self) -> Option<Register> {
        if self.state == Register::Empty.state() {
            let has_nothing = self.pattern.is_none() && self.wkid.is_none() && self.needed.is_none();
            let has_nothing = has_nothing && self.shares.is_empty();
            return (has_nothing && self.parts.is_empty()).then_some(Register::Empty);
        }
        let parts = self.parts.into_iter().map(|(index, pattern)| Some((index, pattern.parse().ok()?)));
        let parts: Vec<_> = parts.collect::<Option<_>>()?;
        let origin = match self.needed {
            None if parts.is_empty() => Origin::Machine,
            None => (PARTS.contains(&parts.len())
                && parts.iter().map(|(index, _)| *index).eq(1..=parts.len() as u8))
            .then(|| Origin::Parts(parts.iter().map(|(_, pattern)| *pattern).collect()))?,
            Some(needed) => {
                let indexes_fit = parts.is_sorted_by(|(one, _), (next, _)| one < next)
                    && parts.iter().all(|(index, _)| (1..=MAX_SHARES).contains(index));
                (is_number_of_shares(needed) && parts.len() >= usize::from(needed) && indexes_fit)
                    .then_some(Origin::Shares { needed, shares: parts })?
            }
        };
        let (pattern, wkid) = (self.pattern?.parse().ok()?, self.wkid?.parse().ok()?);
        let needed = self.needed.unwrap_or_default();
        let shares: Vec<_> =
            self.shares.into_iter().map(|share| share.check(needed)).collect::<Option<_>>()?;
        let of_shares = || shares.iter().map(|share| (share.index, share.pattern));
        let fits = match &origin {
            Origin::Shares { shares: patterns, .. } => {
                shares.is_empty() || of_shares().eq(patterns.iter().copied())
            }
            Origin::Machine | Origin::Parts(_) => shares.is_empty(),
        };
        let contents = fits.then_some(Contents { pattern, wkid, origin, shares })?;
        [
            Register::Committed(contents.clone()),
            Register::Uncommitted(contents.clone()),
            Register::Valid(contents),
        ]
        .into_iter()
        .find(|register| register.state() == self.state)
    }
}

/// True if these administrators and thresholds can own a unit.
pub fn can_own(administrators: &[Person], thresholds: Thresholds) -> bool {
    let number = administrators.len();
    let in_reach = |threshold: u8| (1..=number).contains(&usize::from(threshold));
    let are_different = administrators.iter().enumerate().all(|(place, person)| {
        administrators[..place].iter().all(|other| other.name != person.name && other.key != person.key)
    });
    number <= MAX_ADMINISTRATORS
        && are_different
        && in_reach(thresholds.signature)
        && in_reach(thresholds.revocation)
}

/// A text that is not the state of a unit. The error quotes nothing of the text.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
#[error("the state of the unit is damaged, or of another version of the program")]
pub struct InvalidState;

/// Format of the state of this version.
const FORMAT: u32 = 1;
/// Longest state, in bytes. Eight administrators and two registers of 16 shares have some 25,000.
pub const MAX_STATE: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::super::command::tests::person;
    use super::super::pattern::Pattern;
    use super::*;
    use crate::wkid::Wkid;

    fn full() -> State {
        let [one, two, three] = [1, 2, 3].map(|byte| Pattern::of_key(&[byte; 32]));
        let owners = ["alice", "bob", "carol"].map(|name| person(name).0);
        let share = |(index, pattern)| {
            let owner = owners[0].clone();
            SealedShare { owner, needed: 2, index, pattern, sealed: vec![index; 184] }
        };
        State {
            claim: None,
            administrators: owners.to_vec(),
            thresholds: Thresholds { signature: 2, revocation: 3 },
            counter: 17,
            profile: Some(Profile::Open),
            current: Register::Valid(Contents {
                pattern: one,
                wkid: Wkid::from_bytes([1; 16]),
                origin: Origin::Parts(vec![two, three]),
                shares: Vec::new(),
            }),
            new: Register::Committed(Contents {
                pattern: two,
                wkid: Wkid::from_bytes([2; 16]),
                origin: Origin::Shares { needed: 2, shares: vec![(1, one), (2, two), (5, three)] },
                shares: [(1, one), (2, two), (5, three)].map(share).to_vec(),
            }),
            kept: Some(vec![7; 100]),
            erased: true,
            ..State::new().unwrap()
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        for state in [State::new().unwrap(), full()] {
            let text = state.to_json();
            let again = State::from_json(&text).unwrap();
            assert_eq!(*again.to_json(), *text);
            assert_eq!(again.unit_key(), state.unit_key());
            let message = again.key.sign(b"message").unwrap();
            assert!(state.unit_key().has_signed(b"message", &message));
        }
    }

    #[test]
    fn impossible_states_are_refused() {
        let text = full().to_json();
        let one = Pattern::of_key(&[1; 32]).to_string();
        for (from, to) in [
            ("\"format\":1", "\"format\":2"),
            ("\"counter\":17", "\"counter\":-1"),
            ("\"counter\":17", "\"counter\":17,\"more\":1"),
            ("\"signature_threshold\":2", "\"signature_threshold\":0"),
            ("\"signature_threshold\":2", "\"signature_threshold\":4"),
            ("\"revocation_threshold\":3", "\"revocation_threshold\":0"),
            ("\"name\":\"bob\"", "\"name\":\"alice\""),
            ("\"name\":\"bob\"", "\"name\":\"b ob\""),
            ("\"state\":\"valid\"", "\"state\":\"committed\""),
            ("\"state\":\"valid\"", "\"state\":\"empty\""),
            ("\"state\":\"committed\"", "\"state\":\"valid\""),
            ("\"needed\":2", "\"needed\":4"),
            ("\"needed\":2", "\"needed\":1"),
            ("[5,", "[2,"),
            ("[5,", "[17,"),
            (one.as_str(), "00"),
            ("\"key\":\"", "\"key\":\"AAAA"),
        ] {
            let altered = text.replacen(from, to, 1);
            assert_ne!(altered, *text, "{from}");
            assert!(State::from_json(&altered).is_err(), "{to}");
        }
        let unowned = State::new().unwrap().to_json();
        let altered = unowned.replacen("\"signature_threshold\":0", "\"signature_threshold\":1", 1);
        assert!(State::from_json(&unowned).is_ok() && State::from_json(&altered).is_err());
        assert!(State::from_json(&" ".repeat(MAX_STATE + 1)).is_err());
    }
}
