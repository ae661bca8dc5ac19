//! Keys at units: made, taken in, moved to another master key.

use keyward_grep11::attribute_value::OneAttr;
use keyward_grep11::crypto_client::CryptoClient;
use keyward_grep11::mechanism::Parameter;
use keyward_grep11::{
    AttributeValue, DecryptSingleRequest, GenerateKeyPairRequest, KeyBlob, Mechanism, RewrapKeyBlobRequest,
    RsaoaepParm, SignSingleRequest, UnwrapKeyRequest, cka, ckk, ckm, cko, ckr, rsaoaep_parm,
};
use keyward_proto::{KeyType, PublicKey, oid};
use keyward_unit::{Header, Transported, Wkid};
use std::collections::BTreeMap;

use super::connection::Connection;
use super::http2::Sender;
use crate::backend::Abilities;
use crate::backend::pool::failure::Failure;
use crate::backend::request::Trace;
use crate::config::Dialect;

/// A private key that a unit has wrapped, and its public key as SubjectPublicKeyInfo.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) blob: Vec<u8>,
    pub(super) spki: Vec<u8>,
}

impl Pair {
    /// The same, if it is wrapped by that master key, where one is asked for.
    ///
    /// # Errors
    /// [`Failure::OtherMasterKey`]: the unit was given another one since it was connected to.
    pub(super) fn wrapped_by(self, wanted: Option<Wkid>) -> Result<Self, Failure> {
        match (wanted, Header::read(&self.blob).map(|header| header.wkid())) {
            (Some(wanted), Some(wkid)) if wkid != wanted => Err(Failure::OtherMasterKey(Some(wkid))),
            _ => Ok(self),
        }
    }
}

impl Connection {
    /// Signs; the answer is what the unit says.
    pub(super) async fn sign(
        &self,
        blob: &[u8],
        mechanism: Mechanism,
        data: Vec<u8>,
        trace: &Trace,
    ) -> Result<Vec<u8>, Failure> {
        let (priv_key, priv_key_bytes) = argument(self.dialect(), blob);
        let request = SignSingleRequest { priv_key, priv_key_bytes, mech: Some(mechanism), data };
        let sign =
            |mut client: CryptoClient<Sender>, request| async move { client.sign_single(request).await };
        Ok(self.call(request, Some(trace), sign).await?.signature)
    }

    /// Decrypts with the padding of PKCS #1 v1.5. That a unit finds the padding wrong is an answer like any other: nothing,
    /// so that what follows cannot tell it from what newer firmware makes up.
    pub(super) async fn decrypt(
        &self,
        blob: &[u8],
        ciphertext: &[u8],
        trace: &Trace,
    ) -> Result<Vec<u8>, Failure> {
        let (key, key_bytes) = argument(self.dialect(), blob);
        let mechanism = Mechanism { mechanism: ckm::CKM_RSA_PKCS, parameter: None };
        let request =
            DecryptSingleRequest { key, key_bytes, mech: Some(mechanism), ciphered: ciphertext.to_vec() };
        let decrypt =
            |mut client: CryptoClient<Sender>, request| async move { client.decrypt_single(request).await };
        match self.call(request, Some(trace), decrypt).await {
            Ok(answer) => Ok(answer.plain),
            Err(failure) if failure.is_of_the_padding() => Ok(Vec::new()),
            Err(failure) => Err(failure),
        }
    }

    /// Has a key pair made that is able to do this and cannot be taken out.
    pub(super) async fn generate(&self, key_type: KeyType, abilities: Abilities) -> Result<Pair, Failure> {
        let mut pair = self
            .generate_pair(
                key_type,
                &attributes_of(abilities, [cka::CKA_VERIFY, cka::CKA_ENCRYPT]),
                &private(abilities),
            )
            .await?;
        if let KeyType::RsaPss(_) = key_type {
            // Units know no such bond: it is in the public key, and kept by the daemon.
            let bound = PublicKey::bind_to_pss(&pair.spki, None);
            pair.spki = bound.ok_or_else(|| Failure::severe("asked for an RSA key, it made another one"))?;
        }
        let made = PublicKey::from_spki(&pair.spki).ok().map(|key| key.key_type());
        match Header::read(&pair.blob) {
            Some(_) if made != Some(key_type) => {
                Err(Failure::severe(format_args!("asked for a key of type {key_type}, it made another one")))
            }
            Some(header) if header.extractable() => {
                Err(Failure::severe("asked for a key that cannot be taken out, it made one that can"))
            }
            Some(header) if !abilities.are_covered_by(abilities_of(&header)) => {
                Err(Failure::severe("it made a key that does not do what was asked for"))
            }
            Some(_) => Ok(pair),
            None => Err(Failure::severe("what it makes are no blobs of Enterprise PKCS #11")),
        }
    }

    /// Has a pair made for one import: whoever has the public half can wrap keys, and only the unit unwrap them.
    pub(super) async fn generate_transport_key(&self) -> Result<Pair, Failure> {
        self.generate_pair(TRANSPORT_KEY, &[cka::CKA_WRAP], &[cka::CKA_UNWRAP]).await
    }

    async fn generate_pair(
        &self,
        key_type: KeyType,
        public: &[u64],
        private: &[u64],
    ) -> Result<Pair, Failure> {
        let (mechanism, number, value) = making(key_type);
        let mut pub_key_template = attributes(&[(number, value)]);
        for attribute in public {
            pub_key_template.extend(attributes(&[(*attribute, OneAttr::AttributeTf(true))]));
        }
        if let KeyType::Rsa(_) | KeyType::RsaPss(_) = key_type {
            pub_key_template.extend(attributes(&[(cka::CKA_PUBLIC_EXPONENT, OneAttr::AttributeI(65537))]));
        }
        let request = GenerateKeyPairRequest {
            mech: Some(Mechanism { mechanism, parameter: None }),
            priv_key_template: only(private),
            pub_key_template,
            ..GenerateKeyPairRequest::default()
        };
        let generate = |mut client: CryptoClient<Sender>, request| async move {
            client.generate_key_pair(request).await
        };
        let made = self.call(request, None, generate).await?;
        let blob = blob_of(made.priv_key, made.priv_key_bytes);
        let public = blob_of(made.pub_key, made.pub_key_bytes);
        let spki = keyward_unit::spki_of_public_key_blob(&public);
        let spki =
            spki.ok_or_else(|| Failure::severe("it made a public key that is no SubjectPublicKeyInfo"))?;
        Ok(Pair { blob, spki })
    }

    /// Takes in a private key that was wrapped for `transport_key`.
    pub(super) async fn import(
        &self,
        transport_key: &Pair,
        wrapped: &Transported,
        abilities: Abilities,
    ) -> Result<Pair, Failure> {
        let oaep = RsaoaepParm {
            hash_mech: ckm::CKM_SHA_1,
            mgf: rsaoaep_parm::Mask::CkgMgf1Sha1.into(),
            encoding_parm_type: rsaoaep_parm::ParmType::CkzNoDataSpecified.into(),
            encoding_parm: Vec::new(),
        };
        let mut template = only(&[cka::CKA_UNWRAP]);
        template.extend(attributes(&[
            (cka::CKA_CLASS, integer(cko::CKO_SECRET_KEY)),
            (cka::CKA_KEY_TYPE, integer(ckk::CKK_AES)),
            (cka::CKA_VALUE_LEN, OneAttr::AttributeI(32)),
        ]));
        let mechanism = Mechanism {
            mechanism: ckm::CKM_RSA_PKCS_OAEP,
            parameter: Some(Parameter::RsaoaepParameter(oaep)),
        };
        let (aes, _) =
            self.unwrap_key(&transport_key.blob, mechanism, &wrapped.wrapped_aes_key, template).await?;

        let key_type = match wrapped.key_type {
            KeyType::Rsa(_) | KeyType::RsaPss(_) => ckk::CKK_RSA,
            KeyType::MlDsa(_) => ckk::CKK_IBM_ML_DSA,
            _ => ckk::CKK_EC,
        };
        let mut template = only(&private(abilities));
        template.extend(attributes(&[
            (cka::CKA_CLASS, integer(cko::CKO_PRIVATE_KEY)),
            (cka::CKA_KEY_TYPE, integer(key_type)),
        ]));
        let mechanism = Mechanism {
            mechanism: ckm::CKM_AES_CBC_PAD,
            parameter: Some(Parameter::ParameterB(wrapped.iv.to_vec())),
        };
        let (blob, check_sum) = self.unwrap_key(&aes, mechanism, &wrapped.wrapped_key, template).await?;
        // The unit tells the public key, followed by a length.
        match (keyward_unit::spki_of_public_key_blob(&check_sum), Header::read(&blob)) {
            (_, None) => Err(Failure::severe("what it makes are no blobs of Enterprise PKCS #11")),
            (_, Some(header)) if header.extractable() || !abilities.are_covered_by(abilities_of(&header)) => {
                Err(Failure::severe(
                    "asked to take in a key that cannot be taken out, for certain uses, it made another one",
                ))
            }
            (Some(spki), _) if is_of(&spki, &wrapped.spki) => Ok(Pair { blob, spki: wrapped.spki.clone() }),
            _ => Err(Failure::severe("it took in a key, and tells a public key that is not of that")),
        }
    }

    async fn unwrap_key(
        &self,
        key: &[u8],
        mechanism: Mechanism,
        wrapped: &[u8],
        template: BTreeMap<u64, AttributeValue>,
    ) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let (ke_k, ke_k_bytes) = argument(self.dialect(), key);
        let request = UnwrapKeyRequest {
            ke_k,
            ke_k_bytes,
            mech: Some(mechanism),
            wrapped: wrapped.to_vec(),
            template,
            ..UnwrapKeyRequest::default()
        };
        let unwrap =
            |mut client: CryptoClient<Sender>, request| async move { client.unwrap_key(request).await };
        let made = self.call(request, None, unwrap).await?;
        Ok((blob_of(made.unwrapped, made.unwrapped_bytes), made.check_sum))
    }

    /// Has a blob wrapped by the master key that is to come.
    pub(super) async fn rewrap(&self, blob: &[u8]) -> Result<Vec<u8>, Failure> {
        let (wrapped_key, wrapped_key_bytes) = argument(self.dialect(), blob);
        let request = RewrapKeyBlobRequest { wrapped_key, wrapped_key_bytes };
        let rewrap =
            |mut client: CryptoClient<Sender>, request| async move { client.rewrap_key_blob(request).await };
        let made = self.call(request, None, rewrap).await.map_err(|failure| match failure {
            // It has the present one, or it could not have been asked.
            Failure::NoMasterKey(reason) => {
                Failure::Refused { code: ckr::CKR_IBM_WK_NOT_INITIALIZED, reason }
            }
            other => other,
        })?;
        Ok(blob_of(made.rewrapped_key, made.rewrapped_key_bytes))
    }
}

/// Whether a unit tells the public key that it was to take in: it knows no RSA keys that are bound to RSASSA-PSS.
fn is_of(told: &[u8], wanted: &[u8]) -> bool {
    match PublicKey::from_spki(wanted) {
        Ok(PublicKey::RsaPss { parameters, .. }) => {
            PublicKey::bind_to_pss(told, parameters).as_deref() == Some(wanted)
        }
        _ => told == wanted,
    }
}

/// A key as an argument: in one form and not in the other.
fn argument(dialect: Dialect, blob: &[u8]) -> (Option<KeyBlob>, Vec<u8>) {
    match dialect {
        Dialect::KeyBlob => {
            (Some(KeyBlob { key_blobs: vec![blob.to_vec()], ..KeyBlob::default() }), Vec::new())
        }
        Dialect::Bytes => (None, blob.to_vec()),
    }
}

/// A key out of a response, which has it in one form or in both.
pub(super) fn blob_of(newer: Option<KeyBlob>, older: Vec<u8>) -> Vec<u8> {
    newer.and_then(|key| key.key_blobs.into_iter().next()).filter(|blob| !blob.is_empty()).unwrap_or(older)
}

/// How a key is made: mechanism, and the attribute that says which.
pub(crate) fn making(key_type: KeyType) -> (u64, u64, OneAttr) {
    let curve = match key_type {
        KeyType::Rsa(bits) | KeyType::RsaPss(bits) => {
            let bits = OneAttr::AttributeI(bits.into());
            return (ckm::CKM_RSA_PKCS_KEY_PAIR_GEN, cka::CKA_MODULUS_BITS, bits);
        }
        KeyType::MlDsa(parameters) => {
            let set = integer(keyward_unit::parameter_set(parameters));
            return (ckm::CKM_IBM_ML_DSA_KEY_PAIR_GEN, cka::CKA_IBM_PARAMETER_SET, set);
        }
        KeyType::P384 => oid::SECP384R1,
        KeyType::P521 => oid::SECP521R1,
        KeyType::Ed25519 => oid::ED25519,
        _ => oid::SECP256R1,
    };
    // An OBJECT IDENTIFIER in DER; none of these takes more than 127 bytes.
    let mut parameters = vec![6, u8::try_from(curve.as_bytes().len()).unwrap_or_default()];
    parameters.extend_from_slice(curve.as_bytes());
    (ckm::CKM_EC_KEY_PAIR_GEN, cka::CKA_EC_PARAMS, OneAttr::AttributeB(parameters))
}

/// Abilities that the header of a blob names.
pub(super) fn abilities_of(header: &Header) -> Abilities {
    Abilities { signs: header.signs(), decrypts: header.decrypts() }
}

fn private(abilities: Abilities) -> Vec<u64> {
    attributes_of(abilities, [cka::CKA_SIGN, cka::CKA_DECRYPT])
}

/// The attributes that stand for abilities, of which `sign` and `decrypt` are those of one half of the pair.
fn attributes_of(abilities: Abilities, [sign, decrypt]: [u64; 2]) -> Vec<u64> {
    let all = [(abilities.signs, sign), (abilities.decrypts, decrypt)];
    all.into_iter().filter_map(|(wanted, attribute)| wanted.then_some(attribute)).collect()
}

/// What a key may do: this, and nothing else; and it cannot be taken out.
fn only(what: &[u64]) -> BTreeMap<u64, AttributeValue> {
    const ALL: [u64; 7] = [
        cka::CKA_SIGN,
        cka::CKA_DECRYPT,
        cka::CKA_DERIVE,
        cka::CKA_UNWRAP,
        cka::CKA_WRAP,
        cka::CKA_EXTRACTABLE,
        // So that nobody switches on later what is off now.
        cka::CKA_MODIFIABLE,
    ];
    let no = ALL.map(|attribute| (attribute, OneAttr::AttributeTf(what.contains(&attribute))));
    attributes(&no)
}

fn attributes(list: &[(u64, OneAttr)]) -> BTreeMap<u64, AttributeValue> {
    list.iter().map(|(number, value)| (*number, AttributeValue { one_attr: Some(value.clone()) })).collect()
}

fn integer(number: u64) -> OneAttr {
    // None here has more than 31 bits.
    OneAttr::AttributeI(i64::try_from(number).unwrap_or_default())
}

/// Strong enough to carry an AES key past the next years; 4096 bits would take a unit seconds to make.
const TRANSPORT_KEY: KeyType = KeyType::Rsa(3072);
