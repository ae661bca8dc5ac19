//! Control points: the mechanisms that a unit offers, and the uses that one key may have.
//!
//! A client of GREP11 holds blobs, and may call the unit as often as it likes. The attributes of a
//! key keep two of its uses apart only if no call gives the same key another attribute. The
//! profiles [`Strict`](Profile::Strict) and [`Tls`](Profile::Tls) see to that:
//!
//! - No key leaves the unit, and a client cannot add a use to a key.
//! - A key that unwraps other keys does nothing else. Otherwise a client would decrypt the wrapped
//!   key as data.
//! - Where a key comes from decides whether the key may unwrap: see [`Profile::admits`]. Otherwise
//!   a client would take in the wrapping key a second time, with another use.
//! - A secret key has at least 16 bytes. A client finds a shorter one by trying.

use core::fmt;
use core::str::FromStr;
use core::sync::atomic::{AtomicU8, Ordering};

use keyward_grep11::{ckf, ckm};
use thiserror::Error;

use crate::blob::Attributes;
use crate::object::SecretKind;

/// The control points of a unit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Profile {
    /// Signatures and decryption for TLS, and what is needed to make and import such keys.
    Tls,
    /// Every mechanism, and keys whose uses are kept apart. No key leaves the unit.
    Strict,
    /// Everything that GREP11 has. The template of a client alone says what a key may do.
    Open,
}

impl Profile {
    /// All profiles, the strictest first.
    pub const ALL: [Self; 3] = [Self::Tls, Self::Strict, Self::Open];

    /// Name in commands, files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Strict => "strict",
            Self::Open => "open",
        }
    }

    /// The uses of a mechanism in this profile, of those that the unit offers: flags of [`ckf`].
    pub(crate) fn uses(self, mechanism: u64, offered: u64) -> u64 {
        /// A ciphertext without authentication would make each attempt to unwrap an oracle.
        fn unwraps(mechanism: u64) -> bool {
            [ckm::CKM_RSA_PKCS_OAEP, ckm::CKM_AES_CBC_PAD, ckm::CKM_IBM_TRANSPORTKEY].contains(&mechanism)
        }
        const SIGN: u64 = ckf::CKF_SIGN | ckf::CKF_VERIFY;
        match self {
            Self::Open => offered,
            Self::Strict if unwraps(mechanism) => offered & !ckf::CKF_WRAP,
            Self::Strict => offered & !(ckf::CKF_WRAP | ckf::CKF_UNWRAP),
            Self::Tls => match mechanism {
                ckm::CKM_RSA_PKCS => offered & (SIGN | ckf::CKF_DECRYPT),
                ckm::CKM_RSA_PKCS_OAEP | ckm::CKM_AES_CBC_PAD => offered & ckf::CKF_UNWRAP,
                // Clients make an AES key to learn the name of the master key.
                ckm::CKM_AES_KEY_GEN => offered,
                _ if is_hmac(mechanism) => 0,
                _ => offered & (SIGN | ckf::CKF_GENERATE_KEY_PAIR),
            },
        }
    }

    /// The attributes of a new key without a template. `unwraps` is true if the template asks for
    /// a key that unwraps: such a key has no further use unless the template asks for it.
    pub(crate) fn defaults(self, defaults: Attributes, class: Class, unwraps: bool) -> Attributes {
        let has_uses = !unwraps && (self, class) != (Self::Tls, Class::Aes);
        match self {
            Self::Open => defaults,
            Self::Tls | Self::Strict => {
                defaults.with(Attributes::MODIFIABLE | if has_uses { 0 } else { USES }, false)
            }
        }
    }

    /// Checks the attributes of a new key.
    ///
    /// # Errors
    /// The reason why the key is refused.
    pub(crate) fn admits(self, origin: Origin, class: Class, attributes: Attributes) -> Result<(), Reason> {
        if self == Self::Open {
            return Ok(());
        }
        if class == Class::Public {
            return Ok(());
        }
        if attributes.has(Attributes::EXTRACTABLE) {
            return Err("CKA_EXTRACTABLE cannot be true: no key leaves this unit");
        }
        if attributes.has(Attributes::WRAP) {
            return Err("CKA_WRAP cannot be true: no key leaves this unit");
        }
        if attributes.has(Attributes::USE_AS_DATA) {
            return Err(
                "CKA_IBM_USE_AS_DATA cannot be true: the digest of a key can be as useful as the key",
            );
        }
        if self == Self::Tls && attributes.has_any(USES & !(Attributes::SIGN | Attributes::DECRYPT)) {
            return Err("a private key may sign, decrypt or unwrap");
        }
        if (self, class) == (Self::Tls, Class::Aes) && attributes.has_any(USES) {
            return Err("an AES key has no use but to unwrap");
        }
        let unwraps = attributes.has(Attributes::UNWRAP);
        if unwraps && attributes.has_any(USES) {
            return Err("a key with CKA_UNWRAP may have no other use");
        }
        match (class, origin) {
            // The wrapped AES key of an import would be data for such a key.
            (Class::Aes, Origin::Unwrapped) if attributes.has_any(USES) => {
                Err("an AES key from elsewhere may have no other use than CKA_UNWRAP")
            }
            (Class::Aes, Origin::Unwrapped) | (Class::Rsa, Origin::Generated) => Ok(()),
            // Whoever takes in, or derives, the key once more could give it another use.
            _ if unwraps => Err(
                "CKA_UNWRAP is for an RSA key that was made here, and for an AES key that such a key unwraps",
            ),
            _ => Ok(()),
        }
    }

    /// Checks the use of a key that was made in another profile: `use_` is one bit of its
    /// attributes.
    ///
    /// # Errors
    /// The reason why the use is refused.
    pub(crate) fn admits_use(self, attributes: Attributes, use_: u64) -> Result<(), Reason> {
        let is_apart = match use_ {
            Attributes::UNWRAP => !attributes.has_any(USES),
            _ => !attributes.has(Attributes::UNWRAP),
        };
        match self {
            Self::Tls | Self::Strict if !is_apart => {
                Err("its attributes are CKA_UNWRAP and another use, and these are kept apart here")
            }
            _ => Ok(()),
        }
    }

    /// True if a client may turn attributes of a key on. The blob before the change stays valid, so
    /// the same key would have both uses.
    pub(crate) fn adds_uses(self) -> bool {
        self == Self::Open
    }

    /// True if an unwrapped plaintext may have any form that a key has. False if it must be the one
    /// form that the unit writes, and if no answer tells why another plaintext is refused.
    pub(crate) fn takes_any_form(self) -> bool {
        self == Self::Open
    }

    /// Shortest secret key that is made here, in bytes.
    pub(crate) fn shortest_secret(self) -> usize {
        match self {
            Self::Open => 1,
            Self::Tls | Self::Strict => 16,
        }
    }

    /// True if keys on curves that TLS does not sign with are made here.
    pub(crate) fn makes_keys_beyond_tls(self) -> bool {
        self != Self::Tls
    }
}

fn is_hmac(mechanism: u64) -> bool {
    ckm::name(mechanism).is_some_and(|name| name.ends_with("_HMAC"))
}

/// Everything that a private or secret key may do, but for wrapping and unwrapping.
const USES: u64 = Attributes::SIGN
    | Attributes::VERIFY
    | Attributes::DECRYPT
    | Attributes::ENCRYPT
    | Attributes::DERIVE
    | Attributes::USE_AS_DATA;

/// Where a new key comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Origin {
    Generated,
    Derived,
    Unwrapped,
}

/// The kind of a new key, as far as control points tell kinds apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Class {
    Public,
    Rsa,
    /// A private key other than RSA.
    Private,
    Aes,
    /// A generic secret.
    Generic,
}

impl From<SecretKind> for Class {
    fn from(kind: SecretKind) -> Self {
        match kind {
            SecretKind::Aes => Self::Aes,
            SecretKind::Generic => Self::Generic,
        }
    }
}

/// Reason why a profile refuses a key.
type Reason = &'static str;

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, UnknownProfile> {
        Self::ALL.into_iter().find(|profile| profile.name() == name).ok_or(UnknownProfile)
    }
}

/// A text that is not the name of a profile.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("the profiles are tls, strict and open")]
pub struct UnknownProfile;

/// The profile of a unit, which threads read while another one sets it.
pub(crate) struct ProfileInForce(AtomicU8);

impl ProfileInForce {
    pub(crate) fn new(profile: Profile) -> Self {
        Self(AtomicU8::new(profile as u8))
    }

    pub(crate) fn get(&self) -> Profile {
        let number = self.0.load(Ordering::Acquire);
        Profile::ALL.into_iter().find(|profile| *profile as u8 == number).unwrap_or(Profile::Tls)
    }

    pub(crate) fn set(&self, profile: Profile) {
        self.0.store(profile as u8, Ordering::Release);
    }
}
