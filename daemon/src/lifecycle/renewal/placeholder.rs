//! The placeholder: a certificate that the key of a plan signs for itself, so that a server starts
//! before the first certificate is there. It is the only certificate that the daemon makes.

use core::time::Duration;

use der::asn1::{BitString, GeneralizedTime, OctetString, Uint, UtcTime};
use der::oid::AssociatedOid;
use der::{Decode, Encode, Sequence};
use keyward_plans::PLACEHOLDER;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::name::Name;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

use super::message::{encoding, general_name};
use crate::backend::random;
use crate::config::Plan;
use crate::daemon::Daemon;
use crate::keys::{Key, Version, now};
use crate::lifecycle::Error;
use crate::lifecycle::request::{scheme, sign};

/// TBSCertificate (RFC 5280, 4.1), with the fields that the placeholder has.
#[derive(Sequence)]
struct Fields {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: u8,
    serial_number: Uint,
    signature: AlgorithmIdentifierOwned,
    issuer: Name,
    validity: Validity,
    subject: Name,
    subject_public_key_info: SubjectPublicKeyInfoOwned,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Vec<Extension>,
}

#[derive(Sequence)]
struct Whole {
    fields: Fields,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
}

/// A placeholder for the names of a plan, in DER, which is valid for an hour.
///
/// # Errors
/// [`Error`] says why the key does not sign.
pub(super) async fn made(
    daemon: &Daemon,
    plan: &Plan,
    key: &Key,
    version: &Version,
) -> Result<Vec<u8>, Error> {
    let scheme = scheme(version);
    let fields = fields(plan, version, &scheme.algorithm_identifier()).map_err(encoding)?;
    let bytes = fields.to_der().map_err(encoding)?;
    let signature = sign(daemon, key, version, scheme, &bytes, None).await?;
    let algorithm = fields.signature.clone();
    let signature = BitString::from_bytes(&signature).map_err(encoding)?;
    Ok(Whole { fields, algorithm, signature }.to_der().map_err(encoding)?)
}

fn fields(plan: &Plan, version: &Version, algorithm: &[u8]) -> der::Result<Fields> {
    let names = plan.names.iter().map(general_name).collect::<der::Result<Vec<_>>>()?;
    let value = OctetString::new(SubjectAltName(names).to_der()?)?;
    let extension = Extension { extn_id: SubjectAltName::OID, critical: false, extn_value: value };
    let name: Name = PLACEHOLDER.parse()?;
    let start = now().saturating_sub(60);
    Ok(Fields {
        // Version 3 (RFC 5280, 4.1.2.1).
        version: 2,
        serial_number: Uint::new(&(random() | 1 << 62).to_be_bytes())?,
        signature: AlgorithmIdentifierOwned::from_der(algorithm)?,
        issuer: name.clone(),
        validity: Validity::new(time(start)?, time(start + LIFETIME)?),
        subject: name,
        subject_public_key_info: SubjectPublicKeyInfoOwned::from_der(&version.spki)?,
        extensions: vec![extension],
    })
}

fn time(seconds: u64) -> der::Result<Time> {
    let since = Duration::from_secs(seconds);
    match UtcTime::from_unix_duration(since) {
        Ok(time) => Ok(Time::UtcTime(time)),
        Err(_) => Ok(Time::GeneralTime(GeneralizedTime::from_unix_duration(since)?)),
    }
}

/// Seconds.
const LIFETIME: u64 = 3600;
