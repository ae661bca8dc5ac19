//! One connection to a unit over GREP11, and all calls over the connection.

use core::future::Future;
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use keyward_grep11::attribute_value::OneAttr;
use keyward_grep11::crypto_client::CryptoClient;
use keyward_grep11::mechanism::Parameter;
use keyward_grep11::{
    AttributeValue, DecryptSingleRequest, GenerateKeyPairRequest, GenerateKeyRequest,
    GetMechanismListRequest, Mechanism, RewrapKeyBlobRequest, RsaoaepParm, SignSingleRequest,
    UnwrapKeyRequest, cka, ckk, ckm, cko, rsaoaep_parm,
};
use keyward_proto::{KeyType, PublicKey};
use keyward_unit::{Header, Transported, Wkid};
use tonic::codegen::http;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Response, Status};

use super::http2::{self, Sender};
use super::status::failure_of;
use super::token::{Token, TokenError, Tokens};
use super::wire::{abilities_of, argument, attributes, blob_of, generation, integer, only, private, public};
use crate::backend::network::{self, TlsClient};
use crate::backend::pool::{self, Failure, Refusal};
use crate::backend::{Abilities, Trace};
use crate::config::{Dialect, Endpoint};
use crate::ground::causes::causes;
use crate::ground::renewed::Renewed;

/// Access to the units of a backend, shared by all connections.
pub(super) struct Access {
    pub(super) tls: Option<Arc<Renewed<TlsClient>>>,
    pub(super) tokens: Arc<Tokens>,
    pub(super) dialect: Dialect,
    pub(super) keepalive: Duration,
}

impl Access {
    /// TLS settings in force.
    pub(super) fn tls(&self) -> Option<Arc<TlsClient>> {
        self.tls.as_ref().map(|tls| tls.get())
    }

    /// Problem of the present TLS files, if they cannot be used.
    pub(super) fn files_problem(&self) -> Option<String> {
        self.tls.as_ref()?.problem()
    }
}

/// Open connection to a unit.
pub(super) struct Connection {
    access: Arc<Access>,
    client: CryptoClient<Sender>,
    sender: Sender,
    /// Master key of the unit.
    pub(super) wkid: Wkid,
    /// Network round trip time: the time of connecting, which takes one packet each way.
    round_trip: Duration,
}

/// Private key that a unit has wrapped, and its public key as SubjectPublicKeyInfo.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) blob: Vec<u8>,
    pub(super) spki: Vec<u8>,
}

impl Pair {
    /// Returns the pair if the master key `wanted` has wrapped it; `None` stands for any master
    /// key.
    ///
    /// # Errors
    /// [`Failure::OtherMasterKey`] if the master key of the unit was changed after the connection
    /// was opened.
    pub(super) fn wrapped_by(self, wanted: Option<Wkid>) -> Result<Self, Failure> {
        match (wanted, Header::read(&self.blob).map(|header| header.wkid())) {
            (Some(wanted), Some(wkid)) if wkid != wanted => Err(Failure::OtherMasterKey(Some(wkid))),
            _ => Ok(self),
        }
    }
}

impl pool::Connection for Connection {
    fn wkid(&self) -> Wkid {
        self.wkid
    }

    fn round_trip(&self) -> Duration {
        self.round_trip
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    async fn closed(&self) {
        self.sender.closed().await;
    }
}

impl Connection {
    /// Connects, and has the unit make a blob, whose header names the master key of the unit.
    /// GREP11 has no other way to ask for the master key.
    ///
    /// # Errors
    /// [`Failure`] says which step failed.
    pub(super) async fn open(
        endpoint: &Endpoint,
        access: &Arc<Access>,
        tls: Option<Arc<TlsClient>>,
    ) -> Result<Self, Failure> {
        let connected = network::connect(endpoint).await;
        let (stream, round_trip) = connected.map_err(|error| unreachable("connect", &error))?;
        let refusal = network::TlsRefusal::default();
        let sender = match &tls {
            None => http2::handshake(stream, access.keepalive).await,
            Some(tls) => {
                let stream = tls.connect(&endpoint.host, stream, &refusal).await;
                let stream = stream.map_err(|error| no_tls(&error, &refusal))?;
                http2::handshake(stream, access.keepalive).await
            }
        };
        let no_http = |error| Failure::severe(format_args!("it is no HTTP/2 server: {}", causes(&error)));
        let sender = sender.map_err(no_http)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let origin = http::Uri::builder().scheme(scheme).authority(endpoint.to_string()).path_and_query("/");
        let origin = origin.build().map_err(Failure::severe)?;
        let client = CryptoClient::with_origin(sender.clone(), origin);
        let (access, wkid) = (Arc::clone(access), Wkid::from_bytes([0; 16]));
        let mut connection = Self { access, client, sender, wkid, round_trip };
        // In TLS 1.3 a unit refuses the certificate of the client after the handshake of the client
        // is complete.
        let wkid = connection.ask_for_wkid().await.map_err(|failure| match (failure, refusal.get()) {
            (Failure::Unit { .. }, Some(refusal)) => Failure::Certificate(refusal.clone()),
            (failure, _) => failure,
        });
        connection.wkid = wkid?;
        Ok(connection)
    }

    /// Calls the unit. If the unit refuses the token, calls again with another token.
    async fn call<Q: Clone, A, F>(
        &self,
        message: Q,
        trace: Option<Trace>,
        rpc: impl Fn(CryptoClient<Sender>, Request<Q>) -> F,
    ) -> Result<A, Failure>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let parent = trace.and_then(|trace| trace.parent().parse().ok());
        let ask = async |message: Q, token: Option<&Token>| {
            let answer = rpc(self.client.clone(), request(message, token, parent.as_ref())).await;
            answer.map(Response::into_inner).map_err(|status| failure_of(&status))
        };
        let no_token = |error: TokenError| Failure::Credential(error.to_string());
        let tokens = &self.access.tokens;
        // The message is needed twice only if the unit may refuse the token.
        let (token, again) = match tokens.current() {
            Ok(None) => (None, None),
            Ok(token) => (token, Some(message.clone())),
            Err(_) => {
                tokens.replace(None).await.map_err(no_token)?;
                (tokens.current().map_err(no_token)?, None)
            }
        };
        match (ask(message, token.as_deref()).await, again) {
            (Err(Failure::Credential(reason)), Some(message)) => {
                let replaced = tokens.replace(token.as_ref()).await;
                replaced.map_err(|error| Failure::Credential(format!("{reason}; {error}")))?;
                ask(message, tokens.current().map_err(no_token)?.as_deref()).await
            }
            (answer, _) => answer,
        }
    }

    /// Numbers of the mechanisms that the unit offers, sorted.
    ///
    /// # Errors
    /// [`Failure`] says why there is no list.
    pub(super) async fn mechanisms(&self) -> Result<Vec<u64>, Failure> {
        let list = |mut client: CryptoClient<Sender>, request| async move {
            client.get_mechanism_list(request).await
        };
        let mut mechanisms = self.call(GetMechanismListRequest {}, None, list).await?.mechs;
        mechanisms.sort_unstable();
        Ok(mechanisms)
    }

    async fn ask_for_wkid(&self) -> Result<Wkid, Failure> {
        let length = AttributeValue { one_attr: Some(OneAttr::AttributeI(32)) };
        let request = GenerateKeyRequest {
            mech: Some(Mechanism { mechanism: ckm::CKM_AES_KEY_GEN, parameter: None }),
            template: [(cka::CKA_VALUE_LEN, length)].into(),
            ..GenerateKeyRequest::default()
        };
        let generate =
            |mut client: CryptoClient<Sender>, request| async move { client.generate_key(request).await };
        let made = self.call(request, None, generate).await.map_err(|failure| match failure {
            // A unit that cannot make an AES key cannot be used, whatever the reason.
            Failure::Refused { reason, .. } | Failure::NotOffered(reason) => Failure::severe(reason),
            other => other,
        })?;
        let blob = blob_of(made.key, made.key_bytes);
        let header = Header::read(&blob);
        header.map(|header| header.wkid()).ok_or_else(|| {
            Failure::severe("its keys are no blobs of Enterprise PKCS #11, so its master key is not known")
        })
    }

    /// Signs. Returns the signature of the unit, not verified yet.
    pub(super) async fn sign(
        &self,
        blob: &[u8],
        mechanism: Mechanism,
        data: Vec<u8>,
        trace: Trace,
    ) -> Result<Vec<u8>, Failure> {
        let (priv_key, priv_key_bytes) = argument(self.access.dialect, blob);
        let request = SignSingleRequest { priv_key, priv_key_bytes, mech: Some(mechanism), data };
        let sign =
            |mut client: CryptoClient<Sender>, request| async move { client.sign_single(request).await };
        Ok(self.call(request, Some(trace), sign).await?.signature)
    }

    /// Decrypts with the padding of PKCS #1 v1.5. The result is empty for a wrong padding. Older
    /// firmware reports a wrong padding as an error; newer firmware returns a random message.
    pub(super) async fn decrypt(
        &self,
        blob: &[u8],
        ciphertext: &[u8],
        trace: Trace,
    ) -> Result<Vec<u8>, Failure> {
        let (key, key_bytes) = argument(self.access.dialect, blob);
        let mechanism = Mechanism { mechanism: ckm::CKM_RSA_PKCS, parameter: None };
        let request =
            DecryptSingleRequest { key, key_bytes, mech: Some(mechanism), ciphered: ciphertext.to_vec() };
        let decrypt =
            |mut client: CryptoClient<Sender>, request| async move { client.decrypt_single(request).await };
        match self.call(request, Some(trace), decrypt).await {
            Ok(answer) => Ok(answer.plain),
            Err(Failure::Refused { refusal: Refusal::BadData, .. }) => Ok(Vec::new()),
            Err(failure) => Err(failure),
        }
    }

    /// Has the unit make a key pair with these abilities. The private key cannot be extracted.
    pub(super) async fn generate(&self, key_type: KeyType, abilities: Abilities) -> Result<Pair, Failure> {
        let mut pair = self.generate_pair(key_type, &public(abilities), &private(abilities)).await?;
        if let KeyType::RsaPss(_) = key_type {
            // Units do not have RSA keys for RSASSA-PSS only. The daemon puts this restriction into
            // the public key, and enforces it.
            let bound = PublicKey::bind_to_pss(&pair.spki, None);
            pair.spki =
                bound.ok_or_else(|| Failure::severe("it was asked for an RSA key and made another key"))?;
        }
        let made = PublicKey::from_spki(&pair.spki).ok().map(|key| key.key_type());
        match Header::read(&pair.blob) {
            Some(_) if made != Some(key_type) => Err(Failure::severe(format_args!(
                "it was asked for a key of type {key_type} and made another key"
            ))),
            Some(header) if header.extractable() => {
                Err(Failure::severe("it was asked for a key that cannot be extracted and made one that can"))
            }
            Some(header) if !abilities.are_covered_by(abilities_of(&header)) => {
                Err(Failure::severe("it made a key without the uses that it was asked for"))
            }
            Some(_) => Ok(pair),
            None => Err(Failure::severe("its keys are no blobs of Enterprise PKCS #11")),
        }
    }

    /// Has the unit make a pair for one import. Anyone with the public half can wrap keys, and only
    /// the unit can unwrap them.
    pub(super) async fn generate_transport_key(&self) -> Result<Pair, Failure> {
        self.generate_pair(TRANSPORT_KEY, &[cka::CKA_WRAP], &[cka::CKA_UNWRAP]).await
    }

    async fn generate_pair(
        &self,
        key_type: KeyType,
        of_public: &[u64],
        of_private: &[u64],
    ) -> Result<Pair, Failure> {
        let (mechanism, number, value) = generation(key_type);
        let mut pub_key_template = attributes(&[(number, value)]);
        for attribute in of_public {
            pub_key_template.extend(attributes(&[(*attribute, OneAttr::AttributeTf(true))]));
        }
        if let KeyType::Rsa(_) | KeyType::RsaPss(_) = key_type {
            pub_key_template.extend(attributes(&[(cka::CKA_PUBLIC_EXPONENT, OneAttr::AttributeI(65537))]));
        }
        let request = GenerateKeyPairRequest {
            mech: Some(Mechanism { mechanism, parameter: None }),
            priv_key_template: only(of_private),
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
        let spki = spki.ok_or_else(|| Failure::severe("its public key is no SubjectPublicKeyInfo"))?;
        Ok(Pair { blob, spki })
    }

    /// Imports a private key that was wrapped for `transport_key`.
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
        // The checksum is the public key, followed by a length.
        match (keyward_unit::spki_of_public_key_blob(&check_sum), Header::read(&blob)) {
            (_, None) => Err(Failure::severe("its keys are no blobs of Enterprise PKCS #11")),
            (_, Some(header)) if header.extractable() || !abilities.are_covered_by(abilities_of(&header)) => {
                Err(Failure::severe(
                    "the key that it imported can be extracted, or does not have the uses that it was asked for",
                ))
            }
            (Some(spki), _) if is_of(&spki, &wrapped.spki) => Ok(Pair { blob, spki: wrapped.spki.clone() }),
            _ => Err(Failure::severe("it imported a key, and reports the public key of another key")),
        }
    }

    async fn unwrap_key(
        &self,
        key: &[u8],
        mechanism: Mechanism,
        wrapped: &[u8],
        template: BTreeMap<u64, AttributeValue>,
    ) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let (ke_k, ke_k_bytes) = argument(self.access.dialect, key);
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

    /// Has the unit wrap a blob by the next master key.
    pub(super) async fn rewrap(&self, blob: &[u8]) -> Result<Vec<u8>, Failure> {
        let (wrapped_key, wrapped_key_bytes) = argument(self.access.dialect, blob);
        let request = RewrapKeyBlobRequest { wrapped_key, wrapped_key_bytes };
        let rewrap =
            |mut client: CryptoClient<Sender>, request| async move { client.rewrap_key_blob(request).await };
        let made = self.call(request, None, rewrap).await.map_err(|failure| match failure {
            // A unit without a master key would not have been asked, so this is a refusal.
            Failure::NoMasterKey(reason) => Failure::Refused { refusal: Refusal::Other, reason },
            other => other,
        })?;
        Ok(blob_of(made.rewrapped_key, made.rewrapped_key_bytes))
    }
}

/// True if the public key that the unit reports is the public key that was imported. Units do not
/// have RSA keys for RSASSA-PSS only.
fn is_of(named: &[u8], wanted: &[u8]) -> bool {
    match PublicKey::from_spki(wanted) {
        Ok(PublicKey::RsaPss { parameters, .. }) => {
            PublicKey::bind_to_pss(named, parameters).as_deref() == Some(wanted)
        }
        _ => named == wanted,
    }
}

/// Message of a call, with its metadata.
fn request<Q>(message: Q, token: Option<&Token>, parent: Option<&MetadataValue<Ascii>>) -> Request<Q> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    if let Some(token) = token {
        metadata.insert("authorization", token.header.clone());
    }
    if let Some(parent) = parent {
        metadata.insert("traceparent", parent.clone());
    }
    request
}

/// Failure of a TLS handshake, with the reason of the unit if it sent one.
fn no_tls(error: &io::Error, refusal: &network::TlsRefusal) -> Failure {
    match refusal.get() {
        Some(refusal) => Failure::Certificate(refusal.clone()),
        None if network::is_of_the_certificate(error) => {
            Failure::Certificate(unreachable("agree on TLS", error).to_string())
        }
        None => unreachable("agree on TLS", error),
    }
}

fn unreachable(attempt: &str, error: &io::Error) -> Failure {
    Failure::severe(format_args!("cannot {attempt}: {}", causes(error)))
}

/// Type of a transport key. 3072 bits are strong enough for an AES key, and a unit needs seconds to
/// make an RSA key of 4096 bits.
const TRANSPORT_KEY: KeyType = KeyType::Rsa(3072);
