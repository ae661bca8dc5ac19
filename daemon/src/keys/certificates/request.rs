//! The bytes of a certificate request (PKCS #10, RFC 2986).

use der::asn1::{BitString, OctetString, SetOfVec};
use der::oid::AssociatedOid;
use der::{Decode, Encode};
use keyward_proto::{Scheme, SchemeFamily};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo, ExtensionReq, Version};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

/// CertificationRequestInfo for a public key: the part that is signed.
///
/// # Errors
/// If the names are longer than this DER encoder supports (256 MiB), or `spki` is not a
/// SubjectPublicKeyInfo.
pub(crate) fn info(subject: Option<Name>, names: Vec<GeneralName>, spki: &[u8]) -> der::Result<CertReqInfo> {
    let mut attributes = SetOfVec::new();
    if !names.is_empty() {
        attributes.insert(alternative_names(names, subject.is_none())?.try_into()?)?;
    }
    Ok(CertReqInfo {
        version: Version::V1,
        subject: subject.unwrap_or_default(),
        public_key: SubjectPublicKeyInfoOwned::from_der(spki)?,
        attributes,
    })
}

/// The complete request in DER; `None` for a scheme that must not sign requests.
pub(crate) fn whole(info: CertReqInfo, scheme: Scheme, signature: &[u8]) -> Option<Vec<u8>> {
    // Some authorities refuse RSASSA-PSS by a key that is not restricted to it.
    if scheme.family() == SchemeFamily::RsaPss {
        return None;
    }
    let algorithm = AlgorithmIdentifierOwned::from_der(&scheme.algorithm_identifier()).ok()?;
    CertReq { info, algorithm, signature: BitString::from_bytes(signature).ok()? }.to_der().ok()
}

/// The extension subjectAltName (RFC 5280, 4.2.1.6), which is critical if there is no subject.
fn alternative_names(names: Vec<GeneralName>, critical: bool) -> der::Result<ExtensionReq> {
    let mut each_once = Vec::new();
    for name in names {
        if !each_once.contains(&name) {
            each_once.push(name);
        }
    }
    let extn_value = OctetString::new(SubjectAltName(each_once).to_der()?)?;
    Ok(ExtensionReq(vec![Extension { extn_id: SubjectAltName::OID, critical, extn_value }]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ed25519 key with an arbitrary point.
    fn spki() -> Vec<u8> {
        let header = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        [&header[..], &[7; 32]].concat()
    }

    fn names(texts: &[&str]) -> Vec<GeneralName> {
        let name = |text: &&str| GeneralName::DnsName(der::asn1::Ia5String::new(*text).unwrap());
        texts.iter().map(name).collect()
    }

    #[test]
    fn repeated_names_are_removed() {
        let twice = info(None, names(&["shop.example", "shop.example", "a.example"]), &spki()).unwrap();
        assert_eq!(twice, info(None, names(&["shop.example", "a.example"]), &spki()).unwrap());
    }

    #[test]
    fn only_schemes_that_authorities_accept_sign() {
        let info = info(None, names(&["shop.example"]), &spki()).unwrap();
        assert!(whole(info.clone(), Scheme::RsaPssRsaeSha256, &[1]).is_none());
        let request = whole(info.clone(), Scheme::Ed25519, &[1; 64]).unwrap();
        // The request contains the signed bytes unchanged.
        let signed = info.to_der().unwrap();
        assert!(request.windows(signed.len()).any(|part| part == signed));
    }
}
