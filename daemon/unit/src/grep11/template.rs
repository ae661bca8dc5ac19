//! Templates: the attributes that a client asks for, in either dialect, checked and typed.

use std::collections::BTreeMap;

use keyward_grep11::attribute_value::OneAttr;
use keyward_grep11::{AttributeValue, cka, ckr};

use super::error::Error;
use crate::blob::Attributes;

/// A template. Every attribute is known and has a value of its type.
pub(crate) struct Template {
    booleans: BTreeMap<u64, bool>,
    integers: BTreeMap<u64, u64>,
    bytes: BTreeMap<u64, Vec<u8>>,
    /// True if the template had attributes that are accepted and not kept.
    ignored: bool,
}

impl Template {
    /// Reads the two forms of a template. The typed form counts for an attribute that is in both.
    ///
    /// # Errors
    /// `CKR_ATTRIBUTE_TYPE_INVALID` for an attribute that no key here has,
    /// `CKR_ATTRIBUTE_VALUE_INVALID` for a value of the wrong type or length.
    pub(crate) fn read(
        typed: BTreeMap<u64, AttributeValue>,
        plain: BTreeMap<u64, Vec<u8>>,
    ) -> Result<Self, Error> {
        if typed.len().max(plain.len()) > MAX_ATTRIBUTES {
            let detail = format!("the template has more than {MAX_ATTRIBUTES} attributes");
            return Err(Error::new(ckr::CKR_TEMPLATE_INCONSISTENT, detail));
        }
        let mut template = Self {
            booleans: BTreeMap::new(),
            integers: BTreeMap::new(),
            bytes: BTreeMap::new(),
            ignored: false,
        };
        let plain = plain.into_iter().map(|(number, value)| (number, Some(OneAttr::AttributeB(value))));
        let typed = typed.into_iter().map(|(number, value)| (number, value.one_attr));
        for (number, value) in plain.chain(typed) {
            // Some clients send attributes without a value when they have none to set.
            let Some(value) = value else { continue };
            template.add(keyward_grep11::number(number), value)?;
        }
        Ok(template)
    }

    fn add(&mut self, number: u64, value: OneAttr) -> Result<(), Error> {
        let name = name(number);
        let wrong = |needed: &str| {
            Error::new(ckr::CKR_ATTRIBUTE_VALUE_INVALID, format!("the value of {name} is not {needed}"))
        };
        match kind(number).ok_or_else(|| unknown(number))? {
            Kind::Boolean => {
                let value = match value {
                    OneAttr::AttributeTf(value) => value,
                    OneAttr::AttributeB(bytes) if bytes == [0] || bytes == [1] => bytes == [1],
                    _ => return Err(wrong("a boolean")),
                };
                self.booleans.insert(number, value);
            }
            Kind::Integer => {
                // A vendor's class or key type is a number like that of an attribute.
                let is_enumerated = [cka::CKA_CLASS, cka::CKA_KEY_TYPE].contains(&number);
                let value = match value {
                    OneAttr::AttributeI(value) if is_enumerated => Some(value.cast_unsigned()),
                    OneAttr::AttributeI(value) => u64::try_from(value).ok(),
                    OneAttr::AttributeB(bytes) => integer(&bytes),
                    OneAttr::AttributeTf(_) => None,
                };
                let value = value.ok_or_else(|| wrong("a whole number of at most 8 bytes"))?;
                let value = if is_enumerated { keyward_grep11::number(value) } else { value };
                self.integers.insert(number, value);
            }
            Kind::Bytes => match value {
                OneAttr::AttributeB(bytes) if bytes.len() <= MAX_VALUE => {
                    self.bytes.insert(number, bytes);
                }
                _ => return Err(wrong(&format!("a string of at most {MAX_VALUE} bytes"))),
            },
            Kind::Ignored => self.ignored = true,
        }
        Ok(())
    }

    pub(crate) fn integer(&self, number: u64) -> Option<u64> {
        self.integers.get(&number).copied()
    }

    /// An integer that the template must have.
    ///
    /// # Errors
    /// `CKR_TEMPLATE_INCOMPLETE` without the attribute.
    pub(crate) fn needed_integer(&self, number: u64) -> Result<u64, Error> {
        self.integer(number).ok_or_else(|| missing(number))
    }

    pub(crate) fn boolean(&self, number: u64) -> Option<bool> {
        self.booleans.get(&number).copied()
    }

    pub(crate) fn bytes(&self, number: u64) -> Option<&[u8]> {
        self.bytes.get(&number).map(Vec::as_slice)
    }

    /// The length of the key in bytes, `CKA_VALUE_LEN`. Zero means the default, as if the attribute
    /// was left out.
    pub(crate) fn value_length(&self) -> Result<Option<usize>, Error> {
        let length = self.integer(cka::CKA_VALUE_LEN).filter(|length| *length != 0);
        length.map(usize::try_from).transpose().map_err(|_| {
            Error::new(ckr::CKR_ATTRIBUTE_VALUE_INVALID, "the value of CKA_VALUE_LEN is out of range")
        })
    }

    /// Checks that class and type, if the template has them, are those of the new key.
    ///
    /// # Errors
    /// `CKR_TEMPLATE_INCONSISTENT` for another class or type.
    pub(crate) fn expect(&self, class: u64, key_type: u64) -> Result<(), Error> {
        for (number, needed) in [(cka::CKA_CLASS, class), (cka::CKA_KEY_TYPE, key_type)] {
            if let Some(given) = self.integer(number).filter(|given| *given != needed) {
                let detail = format!("{} is {given:#x} where it can only be {needed:#x}", name(number));
                return Err(Error::new(ckr::CKR_TEMPLATE_INCONSISTENT, detail));
            }
        }
        Ok(())
    }

    /// The attributes of a new key: `defaults`, changed by the template.
    ///
    /// # Errors
    /// `CKR_ATTRIBUTE_VALUE_INVALID` for an attribute that is not offered.
    pub(crate) fn attributes(&self, defaults: Attributes) -> Result<Attributes, Error> {
        let mut attributes = defaults;
        for (number, value) in &self.booleans {
            attributes = apply(attributes, *number, *value)?;
        }
        Ok(attributes)
    }

    /// Checks that the template agrees with the attributes that only the unit sets.
    ///
    /// # Errors
    /// `CKR_ATTRIBUTE_READ_ONLY` for another value.
    pub(crate) fn agrees(&self, attributes: Attributes) -> Result<(), Error> {
        let differs = |(number, bit): &&(u64, u64)| {
            self.booleans.get(number).is_some_and(|given| *given != attributes.has(*bit))
        };
        match READ_ONLY.iter().find(differs) {
            None => Ok(()),
            Some((number, bit)) => {
                let (name, value) = (name(*number), attributes.has(*bit));
                let detail = format!("{name} is set by the crypto unit only, and is {value}");
                Err(Error::new(ckr::CKR_ATTRIBUTE_READ_ONLY, detail))
            }
        }
    }

    /// The booleans that the template sets.
    pub(crate) fn booleans(&self) -> impl Iterator<Item = (u64, bool)> {
        self.booleans.iter().map(|(number, value)| (*number, *value))
    }

    /// True if the template has more than boolean attributes that a key keeps.
    pub(crate) fn has_more_than_booleans(&self) -> bool {
        !self.integers.is_empty() || !self.bytes.is_empty() || self.ignored
    }
}

/// Sets one boolean attribute.
pub(crate) fn apply(attributes: Attributes, number: u64, value: bool) -> Result<Attributes, Error> {
    if let Some((_, bit)) = SETTABLE.iter().find(|(known, _)| *known == number) {
        return Ok(attributes.with(*bit, value));
    }
    match value {
        true if NOT_OFFERED.contains(&number) => Err(Error::new(
            ckr::CKR_ATTRIBUTE_VALUE_INVALID,
            format!("{} cannot be true here: it is not offered", name(number)),
        )),
        // Template::agrees checks the attributes that only the unit sets.
        _ => Ok(attributes),
    }
}

/// The name of an attribute, or its number.
pub(crate) fn name(number: u64) -> String {
    cka::name(number).map_or_else(|| format!("attribute {number:#x}"), str::to_owned)
}

/// Refuses an attribute that no key here has.
pub(crate) fn unknown(number: u64) -> Error {
    Error::new(ckr::CKR_ATTRIBUTE_TYPE_INVALID, format!("no key here has {}", name(number)))
}

/// Refuses a template without a needed attribute.
pub(crate) fn missing(number: u64) -> Error {
    Error::new(ckr::CKR_TEMPLATE_INCOMPLETE, format!("{} is missing in the template", name(number)))
}

/// Boolean attributes that a template may set, with their bits.
pub(crate) const SETTABLE: &[(u64, u64)] = &[
    (cka::CKA_EXTRACTABLE, Attributes::EXTRACTABLE),
    (cka::CKA_MODIFIABLE, Attributes::MODIFIABLE),
    (cka::CKA_IBM_RESTRICTABLE, Attributes::RESTRICTABLE),
    (cka::CKA_IBM_USE_AS_DATA, Attributes::USE_AS_DATA),
    (cka::CKA_SIGN, Attributes::SIGN),
    (cka::CKA_DECRYPT, Attributes::DECRYPT),
    (cka::CKA_ENCRYPT, Attributes::ENCRYPT),
    (cka::CKA_DERIVE, Attributes::DERIVE),
    (cka::CKA_UNWRAP, Attributes::UNWRAP),
    (cka::CKA_WRAP, Attributes::WRAP),
    (cka::CKA_VERIFY, Attributes::VERIFY),
    (cka::CKA_WRAP_WITH_TRUSTED, Attributes::WRAP_WITH_TRUSTED),
];

/// Boolean attributes that only the unit sets, with their bits.
pub(crate) const READ_ONLY: &[(u64, u64)] = &[
    (cka::CKA_LOCAL, Attributes::LOCAL),
    (cka::CKA_NEVER_EXTRACTABLE, Attributes::NEVER_EXTRACTABLE),
    (cka::CKA_TRUSTED, Attributes::TRUSTED),
    (cka::CKA_IBM_PROTKEY_NEVER_EXTRACTABLE, Attributes::PROTECTED_KEY_NEVER_EXTRACTABLE),
];

/// Boolean attributes that are always false here.
pub(crate) const NOT_OFFERED: &[u64] = &[
    cka::CKA_IBM_ATTRBOUND,
    cka::CKA_IBM_NEVER_MODIFIABLE,
    cka::CKA_IBM_PROTKEY_EXTRACTABLE,
    cka::CKA_IBM_RETAINKEY,
    cka::CKA_SIGN_RECOVER,
    cka::CKA_VERIFY_RECOVER,
];

enum Kind {
    Boolean,
    Integer,
    Bytes,
    /// Accepted in any form and not kept: keys here have no names, and are always private and
    /// sensitive.
    Ignored,
}

fn kind(number: u64) -> Option<Kind> {
    let known = |list: &[(u64, u64)]| list.iter().any(|(known, _)| *known == number);
    if known(SETTABLE) || known(READ_ONLY) || NOT_OFFERED.contains(&number) {
        return Some(Kind::Boolean);
    }
    Some(match number {
        cka::CKA_CLASS
        | cka::CKA_KEY_TYPE
        | cka::CKA_VALUE_LEN
        | cka::CKA_MODULUS_BITS
        | cka::CKA_PUBLIC_EXPONENT
        | cka::CKA_IBM_PARAMETER_SET => Kind::Integer,
        cka::CKA_EC_PARAMS | cka::CKA_IBM_PQC_PARAMS => Kind::Bytes,
        cka::CKA_TOKEN
        | cka::CKA_PRIVATE
        | cka::CKA_SENSITIVE
        | cka::CKA_ALWAYS_SENSITIVE
        | cka::CKA_COPYABLE
        | cka::CKA_LABEL
        | cka::CKA_ID
        | cka::CKA_SUBJECT
        | cka::CKA_START_DATE
        | cka::CKA_END_DATE
        | cka::CKA_IBM_STD_COMPLIANCE1 => Kind::Ignored,
        _ => return None,
    })
}

/// Reads a number, big-endian, with or without leading zeros.
fn integer(bytes: &[u8]) -> Option<u64> {
    let digits = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
    if bytes.is_empty() || digits.len() > 8 {
        return None;
    }
    Some(digits.iter().fold(0, |number, digit| number << 8 | u64::from(*digit)))
}

const MAX_ATTRIBUTES: usize = 64;
/// Longest value of an attribute, in bytes.
const MAX_VALUE: usize = 4096;
