//! Attributes of keys: reading and changing them.

use der::Encode;
use keyward_grep11::attribute_value::OneAttr;
use keyward_grep11::{
    AttributeValue, GetAttributeValueRequest, GetAttributeValueResponse, SetAttributeValueRequest,
    SetAttributeValueResponse, cka, cko, ckr,
};

use super::check_sum::check_value;
use super::crypto::Crypto;
use super::error::Error;
use super::key_type::{key_type, parameter_set};
use super::public_key::public_attributes;
use super::public_material::PublicMaterial;
use super::rsa_size::bit_length;
use super::template::{NOT_OFFERED, READ_ONLY, SETTABLE, Template, apply, name, unknown};
use crate::blob::{self, Attributes};
use crate::object::Material;

impl Crypto {
    /// Returns the attributes of a key that the request names, each in the form in which the
    /// request names it.
    ///
    /// # Errors
    /// `CKR_ATTRIBUTE_SENSITIVE` for the secret part of a private or secret key,
    /// `CKR_ATTRIBUTE_TYPE_INVALID` for an attribute that the key does not have.
    pub fn get_attribute_value(
        &self,
        request: GetAttributeValueRequest,
    ) -> Result<GetAttributeValueResponse, Error> {
        if request.attributes.len().max(request.attributes_bytes.len()) > MAX_ATTRIBUTES {
            let detail = format!("more than {MAX_ATTRIBUTES} attributes were asked for");
            return Err(Error::new(ckr::CKR_ARGUMENTS_BAD, detail));
        }
        let key = self.described(&request.object)?;
        let mut response = GetAttributeValueResponse::default();
        for number in request.attributes.into_keys() {
            let value = AttributeValue { one_attr: Some(self.attribute(&key, number)?) };
            response.attributes.insert(number, value);
        }
        for number in request.attributes_bytes.into_keys() {
            let value = match self.attribute(&key, number)? {
                OneAttr::AttributeB(bytes) => bytes,
                OneAttr::AttributeTf(value) => vec![value.into()],
                OneAttr::AttributeI(value) => value.to_be_bytes().to_vec(),
            };
            response.attributes_bytes.insert(number, value);
        }
        Ok(response)
    }

    /// Changes boolean attributes of a key and returns a new blob. The old blob stays valid.
    ///
    /// # Errors
    /// `CKR_ATTRIBUTE_READ_ONLY` for an attribute that cannot be changed.
    pub fn set_attribute_value(
        &self,
        request: SetAttributeValueRequest,
    ) -> Result<SetAttributeValueResponse, Error> {
        let changes = Template::read(request.attributes, request.attributes_bytes)?;
        if changes.has_more_than_booleans() {
            let detail = "only boolean attributes that say what a key may do can be changed";
            return Err(Error::new(ckr::CKR_ATTRIBUTE_READ_ONLY, detail));
        }
        if is_public(&request.object) {
            let key = self.public_key(&request.object)?;
            let attributes = key.attributes.ok_or_else(bare)?;
            let attributes = self.changed(attributes, &changes)?;
            return Ok(SetAttributeValueResponse { object: self.wrap_public(&key.spki, attributes)? });
        }
        let keys = self.unit.keys()?;
        let (attributes, plain) = blob::unwrap(&keys, &request.object)?;
        let object = blob::wrap(&keys, self.changed(attributes, &changes)?, &plain)?;
        Ok(SetAttributeValueResponse { object })
    }

    fn described(&self, object: &[u8]) -> Result<Described, Error> {
        if is_public(object) {
            let key = self.public_key(object)?;
            return Ok(Described {
                class: cko::CKO_PUBLIC_KEY,
                attributes: key.attributes.ok_or_else(bare)?,
                key_type: key.material.key_type(),
                length: None,
                check_value: None,
                public: Some((key.material, key.spki)),
            });
        }
        let object = self.unit.unwrapped(object)?;
        let (class, length, check_value) = match &object.material {
            Material::Secret(secret) => {
                (cko::CKO_SECRET_KEY, Some(secret.value.len()), Some(check_value(secret)?))
            }
            _ => (cko::CKO_PRIVATE_KEY, None, None),
        };
        let public = match object.material.spki() {
            Some(spki) => Some((self.public_key(spki)?.material, spki.to_vec())),
            None => None,
        };
        let key_type = key_type(&object.material);
        Ok(Described { class, attributes: object.attributes, key_type, length, check_value, public })
    }

    fn attribute(&self, key: &Described, number: u64) -> Result<OneAttr, Error> {
        let number = keyward_grep11::number(number);
        let none = || unknown(number);
        let integer = |value: u64| i64::try_from(value).map(OneAttr::AttributeI).map_err(|_| none());
        let bit = |list: &[(u64, u64)]| list.iter().find(|(known, _)| *known == number).map(|(_, bit)| *bit);
        if let Some(bit) = bit(SETTABLE).or_else(|| bit(READ_ONLY)) {
            return Ok(OneAttr::AttributeTf(key.attributes.has(bit)));
        }
        if NOT_OFFERED.contains(&number) {
            return Ok(OneAttr::AttributeTf(false));
        }
        let secret = key.class != cko::CKO_PUBLIC_KEY;
        match number {
            cka::CKA_CLASS => integer(key.class),
            cka::CKA_KEY_TYPE => integer(key.key_type),
            cka::CKA_TOKEN => Ok(OneAttr::AttributeTf(false)),
            cka::CKA_PRIVATE | cka::CKA_SENSITIVE => Ok(OneAttr::AttributeTf(secret)),
            // An imported key was somewhere else before (PKCS #11 2.40, 4.10.2).
            cka::CKA_ALWAYS_SENSITIVE => Ok(OneAttr::AttributeTf(
                secret
                    && (key.attributes.has(Attributes::LOCAL)
                        || key.attributes.has(Attributes::NEVER_EXTRACTABLE)),
            )),
            cka::CKA_VALUE | cka::CKA_PRIVATE_EXPONENT if secret => Err(Error::new(
                ckr::CKR_ATTRIBUTE_SENSITIVE,
                format!("{} of a private or secret key never leaves the unit", name(number)),
            )),
            cka::CKA_VALUE_LEN => integer(key.length.ok_or_else(none)? as u64),
            cka::CKA_CHECK_VALUE => key.check_value.clone().map(OneAttr::AttributeB).ok_or_else(none),
            cka::CKA_GREP11_WKID => Ok(OneAttr::AttributeB(self.unit.keys()?.wkid.as_bytes().to_vec())),
            _ => self.public_attribute(key, number),
        }
    }

    /// An attribute of the public half of a key.
    fn public_attribute(&self, key: &Described, number: u64) -> Result<OneAttr, Error> {
        let (material, spki) = key.public.as_ref().ok_or_else(|| unknown(number))?;
        match number {
            cka::CKA_PUBLIC_KEY_INFO => Ok(OneAttr::AttributeB(spki.clone())),
            cka::CKA_IBM_MACED_PUBLIC_KEY_INFO => {
                let attributes = match key.class {
                    cko::CKO_PUBLIC_KEY => key.attributes,
                    _ => public_attributes(key.attributes),
                };
                Ok(OneAttr::AttributeB(self.wrap_public(spki, attributes)?))
            }
            _ => public_number(material, number).ok_or_else(|| unknown(number)),
        }
    }
}

/// An attribute that the numbers of a public key determine.
fn public_number(material: &PublicMaterial, number: u64) -> Option<OneAttr> {
    use PublicMaterial::{Ec, Ed25519, Koblitz, MlDsa, Rsa, RsaPss, X25519};

    let integer = |value: u64| i64::try_from(value).ok().map(OneAttr::AttributeI);
    let bytes = |value: &[u8]| Some(OneAttr::AttributeB(value.to_vec()));
    match (number, material) {
        (cka::CKA_EC_PARAMS, material) => bytes(&material.curve()?.to_der().ok()?),
        (cka::CKA_EC_POINT, Ec(_, point) | Koblitz(point) | Ed25519(point) | X25519(point)) => bytes(point),
        (cka::CKA_MODULUS, Rsa { modulus, .. } | RsaPss { modulus, .. }) => bytes(modulus),
        (cka::CKA_MODULUS_BITS, Rsa { modulus, .. } | RsaPss { modulus, .. }) => {
            integer(bit_length(modulus) as u64)
        }
        (cka::CKA_PUBLIC_EXPONENT, Rsa { exponent, .. } | RsaPss { exponent, .. }) => bytes(exponent),
        (cka::CKA_IBM_PARAMETER_SET, MlDsa(parameters, _)) => integer(parameter_set(*parameters)),
        _ => None,
    }
}

impl Crypto {
    /// The attributes of a key after changes.
    fn changed(&self, from: Attributes, changes: &Template) -> Result<Attributes, Error> {
        changes.agrees(from)?;
        let mut to = from;
        for (number, value) in changes.booleans() {
            let after = apply(to, number, value)?;
            if after == to {
                continue;
            }
            let refuse = |why: &str| {
                let detail = format!("{} cannot be changed to {value}: {why}", name(number));
                Err(Error::new(ckr::CKR_ATTRIBUTE_READ_ONLY, detail))
            };
            // A restrictable key can lose permissions even if it is not modifiable.
            let modifiable =
                from.has(Attributes::MODIFIABLE) || (from.has(Attributes::RESTRICTABLE) && !value);
            if !modifiable {
                return refuse("the key is not modifiable");
            }
            let profile = self.unit.profile();
            if value && !profile.adds_uses() && number != cka::CKA_WRAP_WITH_TRUSTED {
                return refuse(&format!(
                    "a client can only take attributes away; control points of the unit, profile {profile}"
                ));
            }
            // PKCS #11 2.40, table 27: these attributes change in one direction only.
            match (number, value) {
                (cka::CKA_EXTRACTABLE, true) => return refuse("a key that may not leave the unit never may"),
                (cka::CKA_WRAP_WITH_TRUSTED, false) => return refuse("it changes in one direction only"),
                _ => to = after,
            }
        }
        Ok(to)
    }
}

/// The attributes of a key, ready to be returned.
struct Described {
    class: u64,
    attributes: Attributes,
    key_type: u64,
    length: Option<usize>,
    check_value: Option<Vec<u8>>,
    public: Option<(PublicMaterial, Vec<u8>)>,
}

/// True for a public key, which begins with the tag of a SEQUENCE; a blob begins with zeros.
fn is_public(object: &[u8]) -> bool {
    object.first() == Some(&0x30)
}

fn bare() -> Error {
    let detail = "a bare public key has no attributes; UnwrapKey with CKM_IBM_TRANSPORTKEY takes it in";
    Error::new(ckr::CKR_OBJECT_HANDLE_INVALID, detail)
}

const MAX_ATTRIBUTES: usize = 64;

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;

    use keyward_proto::KeyType;

    use super::*;
    use crate::{MasterKey, Unit};

    #[test]
    fn rsa_keys_tell_their_numbers_also_where_they_are_bound_to_a_padding() {
        let unit = Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::MIN);
        let keys = [KeyType::Rsa(2048), KeyType::RsaPss(2048)].map(|kind| unit.generate(kind).unwrap());
        let crypto = Crypto::new(unit);
        for key in keys {
            let attribute = |object: &[u8], number: u64| {
                let attributes = [(number, AttributeValue::default())].into();
                let object = object.to_vec();
                let request = GetAttributeValueRequest { object, attributes, ..Default::default() };
                let value = crypto.get_attribute_value(request).unwrap().attributes.remove(&number);
                value.unwrap().one_attr.unwrap()
            };
            let OneAttr::AttributeB(public) = attribute(&key.blob, cka::CKA_IBM_MACED_PUBLIC_KEY_INFO) else {
                panic!("a public key")
            };
            for object in [&key.blob, &public] {
                let OneAttr::AttributeB(modulus) = attribute(object, cka::CKA_MODULUS) else {
                    panic!("bytes")
                };
                assert!(key.spki.windows(256).any(|part| part == modulus));
                assert_eq!(attribute(object, cka::CKA_MODULUS_BITS), OneAttr::AttributeI(2048));
                assert_eq!(attribute(object, cka::CKA_PUBLIC_EXPONENT), OneAttr::AttributeB(vec![1, 0, 1]));
            }
        }
    }
}
