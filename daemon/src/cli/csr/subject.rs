//! Subject of a certificate: a distinguished name (RFC 5280, 4.1.2.6), in either of two written
//! forms.
//!
//! `/O=Shop/CN=shop.example`, the form of `openssl req -subj`, has the parts in the order of the
//! encoding. `CN=shop.example,O=Shop`, the form of RFC 4514, has the parts in reverse order.
//!
//! The parser of x509-cert is not used: it has one error for every fault, and does not check
//! lengths and characters.

use core::str::FromStr;

use der::asn1::{Any, ObjectIdentifier};
use der::{Decode, Encode, Tag};
use thiserror::Error;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::name::{Name, RdnSequence};

/// A distinguished name with at least one part. The parts are in the order of the encoding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Subject(Vec<Vec<Attribute>>);

#[derive(Clone, Debug, Eq, PartialEq)]
struct Attribute {
    kind: &'static Kind,
    value: String,
}

impl Subject {
    /// Name (RFC 5280, 4.1.2.4).
    ///
    /// # Errors
    /// None for a parsed name, which is short.
    pub(super) fn to_name(&self) -> der::Result<Name> {
        let mut name = RdnSequence::default();
        for part in &self.0 {
            let mut attributes = part.iter().map(Attribute::encoded).collect::<der::Result<Vec<_>>>()?;
            // A DER set has no element twice.
            attributes.sort();
            attributes.dedup();
            name.push(attributes.try_into()?);
        }
        Name::from_der(&name.to_der()?)
    }
}

impl FromStr for Subject {
    type Err = InvalidSubject;

    fn from_str(text: &str) -> Result<Self, InvalidSubject> {
        if text.len() > LONGEST {
            return Err(InvalidSubject::TooLong);
        }
        match text.strip_prefix('/') {
            Some(rest) => parts(rest, Form::Openssl).map(Self),
            None => {
                let mut parts = parts(text, Form::Rfc4514)?;
                parts.reverse();
                Ok(Self(parts))
            }
        }
    }
}

/// The written form of a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    Openssl,
    Rfc4514,
}

fn parts(text: &str, form: Form) -> Result<Vec<Vec<Attribute>>, InvalidSubject> {
    let separator = if form == Form::Openssl { '/' } else { ',' };
    let (mut parts, mut part, mut rest) = (Vec::new(), Vec::new(), text);
    loop {
        let (name, value) = rest.split_once('=').ok_or_else(|| InvalidSubject::Shape(rest.into()))?;
        let kind = Kind::from_name(name.trim())?;
        let end = end_of_value(value, separator);
        let unescaped = unescape(&value[..end], form).ok_or(InvalidSubject::Escape(kind.name))?;
        part.push(Attribute::new(kind, unescaped)?);
        let mut after = value[end..].chars();
        let next = after.next();
        rest = after.as_str();
        if next != Some('+') {
            parts.push(core::mem::take(&mut part));
        }
        if next.is_none() {
            return Ok(parts);
        }
    }
}

/// The end of a value: the first separator without a backslash before it, or the end of the text.
fn end_of_value(text: &str, separator: char) -> usize {
    let mut escaped = false;
    let ends = |c: char| {
        let ends = !escaped && (c == separator || c == '+');
        escaped = !escaped && c == '\\';
        ends
    };
    text.find(ends).unwrap_or(text.len())
}

/// The value without its escapes; `None` if the text breaks the rules of its form.
fn unescape(text: &str, form: Form) -> Option<String> {
    let rfc4514 = form == Form::Rfc4514;
    let mut rest = if rfc4514 { text.trim_start_matches(' ') } else { text }.chars();
    if rfc4514 && rest.as_str().starts_with('#') {
        // A value in hexadecimal BER is not supported.
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len());
    // Length without the blanks at the end.
    let mut kept = 0;
    let mut buffer = [0; 4];
    while let Some(c) = rest.next() {
        match c {
            '\\' => {
                // A byte in two hexadecimal digits, or an escaped character (RFC 4514, 3).
                let hex = rest.as_str().get(..2).filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()));
                match hex.filter(|_| rfc4514) {
                    Some(two) => {
                        bytes.push(u8::from_str_radix(two, 16).ok()?);
                        rest = rest.as_str()[2..].chars();
                    }
                    None => {
                        let c = rest.next().filter(|c| !rfc4514 || r##" "#+,;<=>\"##.contains(*c))?;
                        bytes.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
                    }
                }
                kept = bytes.len();
            }
            '"' | ';' | '<' | '>' if rfc4514 => return None,
            c => {
                bytes.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
                if !rfc4514 || c != ' ' {
                    kept = bytes.len();
                }
            }
        }
    }
    bytes.truncate(kept);
    String::from_utf8(bytes).ok()
}

impl Attribute {
    fn new(kind: &'static Kind, value: String) -> Result<Self, InvalidSubject> {
        let printable = |c: char| c.is_ascii_alphanumeric() || " '()+,-./:=?".contains(c);
        let alphabet = match kind.string {
            Tag::PrintableString => value.chars().all(printable),
            Tag::Ia5String => value.chars().all(|c| matches!(c, ' '..='~')),
            _ => !value.chars().any(char::is_control),
        };
        if !alphabet {
            return Err(InvalidSubject::Alphabet(kind.name));
        }
        let (least, most) = kind.lengths;
        if !(least..=most).contains(&value.chars().count()) {
            return Err(match kind.name {
                "C" => InvalidSubject::Country,
                kind => InvalidSubject::Length { kind, least, most },
            });
        }
        Ok(Self { kind, value })
    }

    fn encoded(&self) -> der::Result<AttributeTypeAndValue> {
        let value = Any::new(self.kind.string, self.value.as_bytes())?;
        Ok(AttributeTypeAndValue { oid: self.kind.oid, value })
    }
}

/// A type of attribute.
#[derive(Debug, Eq, PartialEq)]
struct Kind {
    name: &'static str,
    oid: ObjectIdentifier,
    string: Tag,
    /// Least and most characters.
    lengths: (usize, usize),
}

impl Kind {
    const fn new(name: &'static str, oid: &str, string: Tag, lengths: (usize, usize)) -> Self {
        Self { name, oid: ObjectIdentifier::new_unwrap(oid), string, lengths }
    }

    fn from_name(name: &str) -> Result<&'static Self, InvalidSubject> {
        let found = KINDS.iter().find(|kind| kind.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| InvalidSubject::Kind(name.into()))
    }
}

/// The usual types, with the lengths of RFC 5280, appendix A.1.
static KINDS: [Kind; 9] = [
    Kind::new("CN", "2.5.4.3", Tag::Utf8String, (1, 64)),
    Kind::new("serialNumber", "2.5.4.5", Tag::PrintableString, (1, 64)),
    Kind::new("C", "2.5.4.6", Tag::PrintableString, (2, 2)),
    Kind::new("L", "2.5.4.7", Tag::Utf8String, (1, 128)),
    Kind::new("ST", "2.5.4.8", Tag::Utf8String, (1, 128)),
    Kind::new("O", "2.5.4.10", Tag::Utf8String, (1, 64)),
    Kind::new("OU", "2.5.4.11", Tag::Utf8String, (1, 64)),
    Kind::new("emailAddress", "1.2.840.113549.1.9.1", Tag::Ia5String, (1, 255)),
    // A label of DNS.
    Kind::new("DC", "0.9.2342.19200300.100.1.25", Tag::Ia5String, (1, 63)),
];

/// Longest text of a name, in bytes.
const LONGEST: usize = 4096;

/// The reason why a text is not a distinguished name.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
pub(super) enum InvalidSubject {
    #[error("the value of {0} has characters that are not allowed there")]
    Alphabet(&'static str),
    #[error(
        "the value of {0} has a wrong escape: put a backslash before each , + \" \\ < > ; that is part of the value"
    )]
    Escape(&'static str),
    #[error(
        "unknown type {0:?}; the known types are {known}",
        known = KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
    )]
    Kind(String),
    #[error("the value of C must have the two letters of a country, such as DE")]
    Country,
    #[error("the value of {kind} must have {least} to {most} characters")]
    Length { kind: &'static str, least: usize, most: usize },
    #[error("{0:?} is not of the form TYPE=VALUE; write CN=shop.example,O=Shop or /O=Shop/CN=shop.example")]
    Shape(String),
    #[error("longer than {LONGEST} bytes")]
    TooLong,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The parts in the order of the encoding. A plus sign joins the attributes of one part.
    fn read(text: &str) -> Result<Vec<String>, InvalidSubject> {
        let subject: Subject = text.parse()?;
        let attribute = |one: &Attribute| format!("{}={}", one.kind.name, one.value);
        let part = |part: &Vec<Attribute>| part.iter().map(attribute).collect::<Vec<_>>().join("+");
        Ok(subject.0.iter().map(part).collect())
    }

    #[test]
    fn both_forms() {
        for (text, parts) in [
            ("CN=shop.example", &["CN=shop.example"][..]),
            ("/CN=shop.example", &["CN=shop.example"]),
            ("CN=a,O=b,C=DE", &["C=DE", "O=b", "CN=a"]),
            ("cn = a , o = b", &["O=b", "CN=a"]),
            ("/C=DE/O=b/CN=a", &["C=DE", "O=b", "CN=a"]),
            ("/DC=example/DC=shop", &["DC=example", "DC=shop"]),
            ("CN=a+serialNumber=7,O=b", &["O=b", "CN=a+serialNumber=7"]),
            ("/O=b/CN=a+serialNumber=7", &["O=b", "CN=a+serialNumber=7"]),
            (r"O=Sons\, Co\+,CN=a", &["CN=a", "O=Sons, Co+"]),
            (r"O=Sons\2C Co,L=M\C3\BCnchen", &["L=München", "O=Sons, Co"]),
            (r"O=\ b\ ,CN=\#a\\", &[r"CN=#a\", "O= b "]),
            (r"/O=a\/b, c/CN=x\+y=z", &["O=a/b, c", "CN=x+y=z"]),
            ("/L=München/ST= Bayern ", &["L=München", "ST= Bayern "]),
            ("emailAddress=a@shop.example,OU=Web", &["OU=Web", "emailAddress=a@shop.example"]),
        ] {
            assert_eq!(
                read(text).as_deref(),
                Ok(&parts.iter().map(|part| part.to_string()).collect::<Vec<_>>()[..]),
                "{text}"
            );
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let length = |kind, least, most| InvalidSubject::Length { kind, least, most };
        for (text, reason) in [
            ("", InvalidSubject::Shape(String::new())),
            ("/", InvalidSubject::Shape(String::new())),
            ("shop.example", InvalidSubject::Shape("shop.example".into())),
            ("CN=a,", InvalidSubject::Shape(String::new())),
            ("/CN=a/", InvalidSubject::Shape(String::new())),
            ("CN=a,b", InvalidSubject::Shape("b".into())),
            ("XY=a", InvalidSubject::Kind("XY".into())),
            ("/CN=a/2.5.4.3=b", InvalidSubject::Kind("2.5.4.3".into())),
            ("CN=", length("CN", 1, 64)),
            ("CN=  ,O=b", length("CN", 1, 64)),
            ("C=Germany", InvalidSubject::Country),
            ("C=D", InvalidSubject::Country),
            ("C=ÄÖ", InvalidSubject::Alphabet("C")),
            ("serialNumber=a_b", InvalidSubject::Alphabet("serialNumber")),
            ("emailAddress=ä@b", InvalidSubject::Alphabet("emailAddress")),
            ("CN=a\nb", InvalidSubject::Alphabet("CN")),
            (r"CN=a\00", InvalidSubject::Alphabet("CN")),
            (r"CN=a\", InvalidSubject::Escape("CN")),
            (r"/CN=a\", InvalidSubject::Escape("CN")),
            (r"CN=a\x", InvalidSubject::Escape("CN")),
            (r"CN=\ff", InvalidSubject::Escape("CN")),
            (r#"CN="a""#, InvalidSubject::Escape("CN")),
            ("CN=#0c0161", InvalidSubject::Escape("CN")),
            ("CN=a;O=b", InvalidSubject::Escape("CN")),
        ] {
            assert_eq!(read(text), Err(reason), "{text:?}");
        }
        assert_eq!(read(&format!("CN={}", "a".repeat(65))), Err(length("CN", 1, 64)));
        assert!(read(&format!("CN={}", "ä".repeat(64))).is_ok());
        assert_eq!(read(&"CN=a,".repeat(1000)), Err(InvalidSubject::TooLong));
    }

    #[test]
    fn golden_bytes() {
        let subject: Subject = "C=DE+CN=a".parse().unwrap();
        let cn = b"\x30\x08\x06\x03\x55\x04\x03\x0c\x01a";
        let c = b"\x30\x09\x06\x03\x55\x04\x06\x13\x02DE";
        // DER sorts the elements of a set by their bytes.
        let expected = [&b"\x30\x17\x31\x15"[..], cn, c].concat();
        assert_eq!(subject.to_name().unwrap().to_der().unwrap(), expected);
    }

    fn escaped(value: &str, special: &str) -> String {
        value.chars().flat_map(|c| special.contains(c).then_some('\\').into_iter().chain([c])).collect()
    }

    proptest! {
        #[test]
        fn every_value_can_be_written(values in prop::collection::vec("[ -~ä-ü€]{1,40}", 1..5)) {
            let written: Vec<_> =
                values.iter().map(|value| format!("OU={}", escaped(value, r##" "#+,;<=>\"##))).collect();
            let mut parts: Vec<_> = values.iter().map(|value| format!("OU={value}")).collect();
            let openssl: String =
                values.iter().map(|value| format!("/OU={}", escaped(value, r"/+\"))).collect();
            prop_assert_eq!(read(&openssl), Ok(parts.clone()));
            parts.reverse();
            prop_assert_eq!(read(&written.join(",")), Ok(parts));
        }

        #[test]
        fn parsed_names_have_a_bounded_encoding(text in "/?((CN|O|C|DC|x)=[ -~ü\\\\]{0,20}[,/+]?){0,6}") {
            if let Ok(subject) = text.parse::<Subject>() {
                prop_assert!((1..8 * LONGEST).contains(&subject.to_name().unwrap().to_der().unwrap().len()));
            }
        }
    }
}
