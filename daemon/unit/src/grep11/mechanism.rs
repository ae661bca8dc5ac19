//! The mechanisms on offer, and their parameters.

use std::sync::LazyLock;

use keyward_grep11::mechanism::Parameter;
use keyward_grep11::{self as proto, MechanismInfo, ckf, ckm, ckr};
use keyward_grep11::{
    GetMechanismInfoRequest, GetMechanismInfoResponse, GetMechanismListRequest, GetMechanismListResponse,
};

use super::crypto::Crypto;
use super::error::Error;
use super::hash::HashFunction;
use super::pss::Pss;
use super::rsa_size::{OFFERED, VERIFIED};
use crate::object::Secret;
use crate::profile::Profile;

impl Crypto {
    /// Lists the mechanisms on offer.
    ///
    /// # Errors
    /// None.
    pub fn get_mechanism_list(&self, _: GetMechanismListRequest) -> Result<GetMechanismListResponse, Error> {
        let profile = self.unit.profile();
        let offers = OFFERS.iter().filter(|offer| offer.uses_in(profile) != 0);
        Ok(GetMechanismListResponse { mechs: offers.map(|offer| offer.number).collect() })
    }

    /// Returns the key sizes and uses of a mechanism.
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID` for a mechanism that is not on offer.
    pub fn get_mechanism_info(
        &self,
        request: GetMechanismInfoRequest,
    ) -> Result<GetMechanismInfoResponse, Error> {
        let number = proto::number(request.mech);
        let profile = self.unit.profile();
        let offer = OFFERS.iter().find(|offer| offer.number == number);
        let offer = offer.ok_or_else(|| not_offered(number))?;
        let flags = offer.uses_in(profile);
        if flags == 0 {
            return Err(switched_off(number, profile));
        }
        let (mut min_key_size, max_key_size) = offer.sizes;
        if number == ckm::CKM_GENERIC_SECRET_KEY_GEN {
            min_key_size = profile.shortest_secret() as u64 * 8;
        }
        Ok(GetMechanismInfoResponse { mech_info: Some(MechanismInfo { min_key_size, max_key_size, flags }) })
    }

    /// The mechanism of a request, if it is on offer for a use, which is a flag of [`ckf`].
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD` without a mechanism, `CKR_MECHANISM_INVALID` if the mechanism is not on
    /// offer.
    pub(crate) fn offered(
        &self,
        mechanism: Option<proto::Mechanism>,
        flag: u64,
    ) -> Result<proto::Mechanism, Error> {
        let mut mechanism = mechanism.ok_or_else(|| {
            Error::new(ckr::CKR_ARGUMENTS_BAD, "the request has no mechanism in field Mech")
        })?;
        mechanism.mechanism = proto::number(mechanism.mechanism);
        let (number, profile) = (mechanism.mechanism, self.unit.profile());
        match OFFERS.iter().find(|offer| offer.number == number) {
            Some(offer) if offer.uses_in(profile) & flag != 0 => Ok(mechanism),
            Some(offer) if offer.flags & flag != 0 => Err(switched_off(number, profile)),
            Some(_) => {
                let detail = format!("{} is not a mechanism for this call", name(number));
                Err(Error::new(ckr::CKR_MECHANISM_INVALID, detail))
            }
            None => Err(not_offered(number)),
        }
    }
}

/// A mechanism on offer.
pub(crate) struct Offer {
    pub(crate) number: u64,
    /// Smallest and largest key in bits; in bytes for AES, as PKCS #11 has it; zeros without a key.
    sizes: (u64, u64),
    /// The uses of the mechanism: flags of [`ckf`].
    pub(crate) flags: u64,
}

impl Offer {
    /// The uses of the mechanism that a profile leaves.
    fn uses_in(&self, profile: Profile) -> u64 {
        profile.uses(self.number, self.flags)
    }
}

/// The offers, in the order that clients see. `CKM_RSA_PKCS` is the first, because some clients
/// rely on it.
pub(crate) static OFFERS: LazyLock<Vec<Offer>> = LazyLock::new(|| {
    const CRYPT: u64 = ckf::CKF_ENCRYPT | ckf::CKF_DECRYPT;
    const SIGN: u64 = ckf::CKF_SIGN | ckf::CKF_VERIFY;
    const TRANSPORT: u64 = ckf::CKF_WRAP | ckf::CKF_UNWRAP;
    const EC: (u64, u64) = (256, 521);
    const CURVE25519: (u64, u64) = (256, 256);
    const AES: (u64, u64) = (16, 32);
    const GENERIC: (u64, u64) = (8, Secret::MAX_GENERIC as u64 * 8);

    let mut offers = Vec::new();
    let mut offer = |number, sizes, flags| offers.push(Offer { number, sizes, flags });
    let [rsa, verified] = [OFFERED, VERIFIED].map(|bits| (*bits.start() as u64, *bits.end() as u64));
    offer(ckm::CKM_RSA_PKCS, verified, CRYPT | SIGN | TRANSPORT);
    for number in [
        ckm::CKM_SHA1_RSA_PKCS,
        ckm::CKM_SHA224_RSA_PKCS,
        ckm::CKM_SHA256_RSA_PKCS,
        ckm::CKM_SHA384_RSA_PKCS,
        ckm::CKM_SHA512_RSA_PKCS,
    ] {
        offer(number, rsa, SIGN);
    }
    for number in [
        ckm::CKM_RSA_PKCS_PSS,
        ckm::CKM_SHA1_RSA_PKCS_PSS,
        ckm::CKM_SHA224_RSA_PKCS_PSS,
        ckm::CKM_SHA256_RSA_PKCS_PSS,
        ckm::CKM_SHA384_RSA_PKCS_PSS,
        ckm::CKM_SHA512_RSA_PKCS_PSS,
    ] {
        offer(number, rsa, SIGN);
    }
    offer(ckm::CKM_RSA_PKCS_OAEP, rsa, CRYPT | TRANSPORT);
    offer(ckm::CKM_RSA_PKCS_KEY_PAIR_GEN, rsa, ckf::CKF_GENERATE_KEY_PAIR);
    offer(ckm::CKM_EC_KEY_PAIR_GEN, EC, ckf::CKF_GENERATE_KEY_PAIR);
    for number in [
        ckm::CKM_ECDSA,
        ckm::CKM_ECDSA_SHA1,
        ckm::CKM_ECDSA_SHA224,
        ckm::CKM_ECDSA_SHA256,
        ckm::CKM_ECDSA_SHA384,
        ckm::CKM_ECDSA_SHA512,
        ckm::CKM_IBM_ECDSA_SHA224,
        ckm::CKM_IBM_ECDSA_SHA256,
        ckm::CKM_IBM_ECDSA_SHA384,
        ckm::CKM_IBM_ECDSA_SHA512,
    ] {
        offer(number, EC, SIGN);
    }
    offer(ckm::CKM_IBM_ED25519_SHA512, CURVE25519, SIGN);
    offer(ckm::CKM_ECDH1_DERIVE, EC, ckf::CKF_DERIVE);
    offer(ckm::CKM_IBM_EC_X25519, CURVE25519, ckf::CKF_DERIVE);
    // ML-DSA is measured by its public key: 1312 to 2592 bytes (FIPS 204, table 2).
    const ML_DSA: (u64, u64) = (1312 * 8, 2592 * 8);
    offer(ckm::CKM_IBM_ML_DSA_KEY_PAIR_GEN, ML_DSA, ckf::CKF_GENERATE_KEY_PAIR);
    offer(ckm::CKM_IBM_ML_DSA, ML_DSA, SIGN);
    offer(ckm::CKM_AES_KEY_GEN, AES, ckf::CKF_GENERATE);
    for number in [ckm::CKM_AES_ECB, ckm::CKM_AES_CBC, ckm::CKM_AES_CBC_PAD] {
        offer(number, AES, CRYPT | TRANSPORT);
    }
    offer(ckm::CKM_GENERIC_SECRET_KEY_GEN, GENERIC, ckf::CKF_GENERATE);
    offer(ckm::CKM_IBM_TRANSPORTKEY, (256, 4096), ckf::CKF_UNWRAP);
    for function in HashFunction::ALL {
        for number in function.digest_numbers() {
            offer(*number, (0, 0), ckf::CKF_DIGEST);
        }
        for number in function.hmac_numbers() {
            offer(*number, GENERIC, SIGN);
        }
    }
    offers
});

/// Refuses a mechanism, or a use of one, that only another profile has.
fn switched_off(number: u64, profile: Profile) -> Error {
    let detail = format!(
        "{} is switched off for this call by the control points of the unit, profile {profile}; its owner \
         sees and sets them with: keyward unit control-points",
        name(number)
    );
    Error::new(ckr::CKR_MECHANISM_INVALID, detail)
}

pub(crate) fn not_offered(number: u64) -> Error {
    Error::new(ckr::CKR_MECHANISM_INVALID, format!("{} is not offered here", name(number)))
}

/// The name of a mechanism, or its number.
pub(crate) fn name(number: u64) -> String {
    ckm::name(number).map_or_else(|| format!("mechanism {number:#x}"), str::to_owned)
}

/// Refuses a parameter that does not fit its mechanism.
pub(crate) fn bad_parameter(mechanism: &proto::Mechanism, needed: &str) -> Error {
    let name = name(mechanism.mechanism);
    Error::new(ckr::CKR_MECHANISM_PARAM_INVALID, format!("the parameter of {name} must be {needed}"))
}

/// # Errors
/// `CKR_MECHANISM_PARAM_INVALID` if there is a parameter.
pub(crate) fn no_parameter(mechanism: &proto::Mechanism) -> Result<(), Error> {
    match &mechanism.parameter {
        None => Ok(()),
        Some(Parameter::ParameterB(bytes)) if bytes.is_empty() => Ok(()),
        Some(_) => Err(bad_parameter(mechanism, "absent")),
    }
}

/// The IV of a block cipher with blocks of 16 bytes.
pub(crate) fn iv(mechanism: &proto::Mechanism) -> Result<[u8; 16], Error> {
    match &mechanism.parameter {
        Some(Parameter::ParameterB(iv)) => iv.as_slice().try_into().ok(),
        _ => None,
    }
    .ok_or_else(|| bad_parameter(mechanism, "an IV of 16 bytes in ParameterB"))
}

/// The parameter of PSS. `hash` is the hash function of the mechanism, if the mechanism has one.
pub(crate) fn pss(mechanism: &proto::Mechanism, hash: Option<HashFunction>) -> Result<Pss, Error> {
    let Some(Parameter::RsapssParameter(parameter)) = &mechanism.parameter else {
        return Err(bad_parameter(mechanism, "an RSAPSSParm"));
    };
    let named = HashFunction::from_number(proto::number(parameter.hash_mech))
        .filter(|named| hash.is_none_or(|needed| needed == *named))
        .ok_or_else(|| bad_parameter(mechanism, "one with the digest of the mechanism as HashMech"))?;
    let mask = mask(parameter.mgf)
        .ok_or_else(|| bad_parameter(mechanism, "one with a known mask generation function"))?;
    let salt = match parameter.salt_byte_count {
        // XCP_PSS_DEFAULT_VALUE of EP11.
        0xffff_ffff => named.length(),
        given => usize::try_from(given).unwrap_or(usize::MAX),
    };
    if salt > named.length() {
        return Err(bad_parameter(mechanism, "one with a salt not longer than the digest"));
    }
    Ok(Pss { hash: named, mask, salt })
}

/// The parameter of OAEP: digest, digest of the mask, label (RFC 8017, 7.1).
pub(crate) fn oaep(mechanism: &proto::Mechanism) -> Result<(HashFunction, HashFunction, Vec<u8>), Error> {
    use proto::rsaoaep_parm::ParmType;

    let Some(Parameter::RsaoaepParameter(parameter)) = &mechanism.parameter else {
        return Err(bad_parameter(mechanism, "an RSAOAEPParm"));
    };
    let hash = HashFunction::from_number(proto::number(parameter.hash_mech))
        .ok_or_else(|| bad_parameter(mechanism, "one with a digest as HashMech"))?;
    let mask = mask(parameter.mgf)
        .ok_or_else(|| bad_parameter(mechanism, "one with a known mask generation function"))?;
    let label = match ParmType::try_from(parameter.encoding_parm_type) {
        Ok(ParmType::CkzNoDataSpecified) if parameter.encoding_parm.is_empty() => Vec::new(),
        Ok(ParmType::CkzDataSpecifiied) if parameter.encoding_parm.len() <= MAX_LABEL => {
            parameter.encoding_parm.clone()
        }
        _ => return Err(bad_parameter(mechanism, "one with a label of at most 4096 bytes, or none")),
    };
    Ok((hash, mask, label))
}

/// The hash of a mask generation function. PSS and OAEP use the same numbers.
fn mask(number: i32) -> Option<HashFunction> {
    use proto::rsapss_parm::Mask;

    Some(match Mask::try_from(number).ok()? {
        Mask::CkgMgf1None => return None,
        Mask::CkgMgf1Sha1 => HashFunction::Sha1,
        Mask::CkgMgf1Sha224 => HashFunction::Sha224,
        Mask::CkgMgf1Sha256 => HashFunction::Sha256,
        Mask::CkgMgf1Sha384 => HashFunction::Sha384,
        Mask::CkgMgf1Sha512 => HashFunction::Sha512,
        Mask::CkgIbmMgf1Sha3224 => HashFunction::Sha3_224,
        Mask::CkgIbmMgf1Sha3256 => HashFunction::Sha3_256,
        Mask::CkgIbmMgf1Sha3384 => HashFunction::Sha3_384,
        Mask::CkgIbmMgf1Sha3512 => HashFunction::Sha3_512,
    })
}

/// Longest label of OAEP, in bytes.
const MAX_LABEL: usize = 4096;
