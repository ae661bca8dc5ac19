use std::sync::Arc;

use keyward_grep11::{cka, ckr};

use super::error::Error;
use super::template::Template;
use crate::blob::Attributes;
use crate::profile::{Class, Origin};
use crate::unit::Unit;

/// A crypto unit as the service `grep11.Crypto`.
pub struct Crypto {
    pub(super) unit: Arc<Unit>,
    /// True if decryption reports a wrong PKCS #1 v1.5 padding as an error.
    pub(super) padding_errors: bool,
}

impl Crypto {
    /// Serves a unit.
    pub fn new(unit: impl Into<Arc<Unit>>) -> Self {
        Self { unit: unit.into(), padding_errors: false }
    }

    /// Behaves as older firmware: decryption reports a wrong PKCS #1 v1.5 padding as an error.
    pub fn with_padding_errors(self) -> Self {
        Self { padding_errors: true, ..self }
    }

    /// The attributes of a new key: `defaults`, changed by the template.
    ///
    /// # Errors
    /// `CKR_TEMPLATE_INCONSISTENT` for a key that the control points do not admit.
    pub(super) fn attributes_of_new(
        &self,
        template: &Template,
        defaults: Attributes,
        origin: Origin,
        class: Class,
    ) -> Result<Attributes, Error> {
        let profile = self.unit.profile();
        let unwraps = template.boolean(cka::CKA_UNWRAP) == Some(true);
        let attributes = template.attributes(profile.defaults(defaults, class, unwraps))?;
        profile.admits(origin, class, attributes).map_err(|reason| self.inadmissible(reason))?;
        Ok(attributes)
    }

    /// Checks the length of a new secret key, in bytes.
    ///
    /// # Errors
    /// `CKR_KEY_SIZE_RANGE` for a key that the control points do not admit.
    pub(super) fn check_length(&self, length: usize) -> Result<(), Error> {
        let (profile, shortest) = (self.unit.profile(), self.unit.profile().shortest_secret());
        match length >= shortest {
            true => Ok(()),
            false => Err(Error::new(
                ckr::CKR_KEY_SIZE_RANGE,
                format!(
                    "a secret key has at least {shortest} bytes here, not {length}: control points of the unit, profile {profile}"
                ),
            )),
        }
    }

    /// Refuses keys on curves that TLS does not sign with, if the control points do.
    ///
    /// # Errors
    /// `CKR_CURVE_NOT_SUPPORTED`.
    pub(super) fn check_curve_beyond_tls(&self) -> Result<(), Error> {
        match self.unit.profile().makes_keys_beyond_tls() {
            true => Ok(()),
            false => Err(Error::new(
                ckr::CKR_CURVE_NOT_SUPPORTED,
                "the control points of the unit, profile tls, admit keys for signatures of TLS: P-256, P-384, P-521 and Ed25519",
            )),
        }
    }

    /// Checks that a key has the attribute that its use needs.
    ///
    /// # Errors
    /// `CKR_KEY_FUNCTION_NOT_PERMITTED` without the attribute, or if the control points keep this
    /// use apart from another use of the key.
    pub(super) fn permitted(&self, attributes: Attributes, bit: u64, attribute: &str) -> Result<(), Error> {
        let (code, profile) = (ckr::CKR_KEY_FUNCTION_NOT_PERMITTED, self.unit.profile());
        if !attributes.has(bit) {
            let detail = format!("the key may not be used so: its attribute {attribute} is false");
            return Err(Error::new(code, detail));
        }
        profile.admits_use(attributes, bit).map_err(|reason| {
            let detail = format!(
                "the key may not be used so: {reason}; control points of the unit, profile {profile}"
            );
            Error::new(code, detail)
        })
    }

    fn inadmissible(&self, reason: &str) -> Error {
        let profile = self.unit.profile();
        Error::new(
            ckr::CKR_TEMPLATE_INCONSISTENT,
            format!("{reason}; control points of the unit, profile {profile}"),
        )
    }
}
