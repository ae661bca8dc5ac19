use core::fmt;

use der::asn1::ObjectIdentifier;

/// An unsupported algorithm or curve, shown by its name if the name is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyName(pub(super) ObjectIdentifier);

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(oid, _)| *oid == self.0) {
            Some((_, name)) => write!(f, "a private key of type {name}"),
            None => write!(f, "a private key of an unknown type ({})", self.0),
        }
    }
}

// RFC 3279, 2.3.2.
pub(super) const DSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10040.4.1");

/// Unsupported algorithms and curves that key files really have.
const NAMES: &[(ObjectIdentifier, &str)] = &[
    (DSA, "DSA"),
    // RFC 4055.
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.7"), "RSA bound to OAEP"),
    // PKCS #3 and RFC 3279, 2.3.3.
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.3.1"), "DH"),
    (ObjectIdentifier::new_unwrap("1.2.840.10046.2.1"), "DH"),
    // RFC 8410, 3.
    (ObjectIdentifier::new_unwrap("1.3.101.110"), "X25519"),
    (ObjectIdentifier::new_unwrap("1.3.101.111"), "X448"),
    (ObjectIdentifier::new_unwrap("1.3.101.113"), "Ed448"),
    // RFC 5480, 2.1.1.1, and SEC 2.
    (ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.1"), "EC on P-192"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.33"), "EC on P-224"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.10"), "EC on secp256k1"),
    // RFC 5639, 4.1.
    (ObjectIdentifier::new_unwrap("1.3.36.3.3.2.8.1.1.7"), "EC on brainpoolP256r1"),
    (ObjectIdentifier::new_unwrap("1.3.36.3.3.2.8.1.1.11"), "EC on brainpoolP384r1"),
    (ObjectIdentifier::new_unwrap("1.3.36.3.3.2.8.1.1.13"), "EC on brainpoolP512r1"),
    // GM/T 0006-2012.
    (ObjectIdentifier::new_unwrap("1.2.156.10197.1.301"), "EC on SM2"),
];
