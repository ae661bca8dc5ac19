//! A client of the GREP11 server, with its token.

use std::thread;
use std::time::{Duration, Instant};

use keyward_grep11::attribute_value::OneAttr;
use keyward_grep11::crypto_client::CryptoClient;
use keyward_grep11::{
    AttributeValue, GenerateKeyPairRequest, GetMechanismListRequest, KeyBlob, Mechanism, SignSingleRequest,
    cka, ckm,
};
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::PATIENCE;

/// A connection of a client.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) calls: CryptoClient<Channel>,
    pub(crate) token: String,
}

impl Client {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        request
    }

    pub(crate) async fn list(&mut self) -> Result<(), Status> {
        let mut request = self.request(GetMechanismListRequest::default());
        request.set_timeout(PATIENCE);
        self.calls.get_mechanism_list(request).await.map(drop)
    }

    /// Generates a key that signs, and returns its blob.
    async fn key(&mut self, mechanism: u64, attributes: &[(u64, OneAttr)]) -> Vec<u8> {
        let template = |attributes: &[(u64, OneAttr)]| {
            let typed = |(number, value): &(u64, OneAttr)| {
                (*number, AttributeValue { one_attr: Some(value.clone()) })
            };
            attributes.iter().map(typed).collect()
        };
        let request = self.request(GenerateKeyPairRequest {
            mech: Some(Mechanism { mechanism, parameter: None }),
            pub_key_template: template(attributes),
            priv_key_template: template(&[(cka::CKA_SIGN, OneAttr::AttributeTf(true))]),
            ..GenerateKeyPairRequest::default()
        });
        let pair = self.calls.generate_key_pair(request).await.unwrap().into_inner();
        pair.priv_key.unwrap().key_blobs.swap_remove(0)
    }

    pub(crate) async fn p256(&mut self) -> Key {
        let curve = [(cka::CKA_EC_PARAMS, OneAttr::AttributeB(b"P-256".to_vec()))];
        Key(ckm::CKM_ECDSA_SHA256, self.key(ckm::CKM_EC_KEY_PAIR_GEN, &curve).await)
    }

    pub(crate) async fn rsa4096(&mut self) -> Key {
        self.rsa(4096).await
    }

    pub(crate) async fn rsa(&mut self, bits: i64) -> Key {
        let size = [
            (cka::CKA_MODULUS_BITS, OneAttr::AttributeI(bits)),
            (cka::CKA_PUBLIC_EXPONENT, OneAttr::AttributeB(vec![1, 0, 1])),
        ];
        Key(ckm::CKM_SHA256_RSA_PKCS, self.key(ckm::CKM_RSA_PKCS_KEY_PAIR_GEN, &size).await)
    }

    pub(crate) async fn sign(&mut self, key: &Key, deadline: Duration) -> Result<(), Status> {
        let mut request = self.request(SignSingleRequest {
            priv_key: Some(KeyBlob { key_blobs: vec![key.1.clone()], ..KeyBlob::default() }),
            mech: Some(Mechanism { mechanism: key.0, parameter: None }),
            data: vec![7; 130],
            ..SignSingleRequest::default()
        });
        request.set_timeout(deadline);
        self.calls.sign_single(request).await.map(drop)
    }

    /// Median and 99th percentile of the times of signatures.
    pub(crate) fn speed(&mut self, runtime: &Runtime, key: &Key, seconds: u64) -> [Duration; 2] {
        let mut took = Vec::new();
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            let begin = Instant::now();
            runtime.block_on(self.sign(key, PATIENCE)).unwrap();
            took.push(begin.elapsed());
            // Without a pause, this client itself would keep a processor busy.
            thread::sleep(Duration::from_millis(2));
        }
        took.sort_unstable();
        [50, 99].map(|percent| took[took.len() * percent / 100])
    }
}

/// The mechanism of a key, and its blob.
pub(crate) struct Key(u64, Vec<u8>);
