//! Requests of every GREP11 call, one after the other. Later calls can use the results of earlier
//! calls, such as blobs and states, as a client would.
//!
//! The input is a list. Each entry has a byte for the call, two bytes for the length of the
//! request, and the encoded request. A key, state or object of one byte stands for the known object
//! with that number.

use std::cell::RefCell;

use keyward_grep11::{self as proto, ckm};
use keyward_unit::grep11::Crypto;
use prost::Message;

use crate::scene::{Scene, check};

thread_local! {
    static SCENE: RefCell<Scene> = RefCell::new(Scene::new());
}

/// Feeds an input to the decoder.
pub fn run(input: &[u8]) {
    SCENE.with_borrow_mut(|scene| {
        let kept = scene.objects.len();
        let mut rest = input;
        for _ in 0..MAX_CALLS {
            let Some(([rpc, low, high], after)) = rest.split_first_chunk() else { break };
            let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
            let (request, after) = after.split_at(length);
            rest = after;
            let (received, sent) = call(&scene.crypto, *rpc, request, &mut scene.objects);
            assert!(sent <= 2 * received + MAX_ANSWER, "{sent} bytes were made of {received}");
        }
        scene.objects.truncate(kept);
    });
}

/// Defines a call: the fields of the request that can stand for an object, and the fields of the
/// response that are objects.
macro_rules! calls {
    ($($number:literal $method:ident $request:ident [$($from:ident)*] -> [$($to:ident)*];)+) => {
        /// Makes a call, and returns the lengths of request and response.
        fn call(crypto: &Crypto, rpc: u8, request: &[u8], objects: &mut Vec<Vec<u8>>) -> (usize, usize) {
            match rpc % RPCS {
                $($number => {
                    let Ok(mut request) = proto::$request::decode(request) else { return (0, 0) };
                    let _ = &mut request;
                    $(
                        if let [number] = request.$from.as_slice() {
                            request.$from = objects[usize::from(*number) % objects.len()].clone();
                        }
                    )*
                    if TooSlow::too_slow(&request) {
                        return (0, 0);
                    }
                    let received = request.encoded_len();
                    match crypto.$method(request) {
                        Ok(response) => {
                            let sent = response.encoded_len();
                            $(objects.push(response.$to);)*
                            (received, sent)
                        }
                        Err(error) => {
                            check(&error);
                            (received, error.detail().len())
                        }
                    }
                })+
                _ => (0, 0),
            }
        }
    };
}

calls! {
    0 generate_random GenerateRandomRequest [] -> [];
    1 digest_init DigestInitRequest [] -> [state];
    2 digest DigestRequest [state] -> [];
    3 digest_update DigestUpdateRequest [state] -> [state];
    4 digest_key DigestKeyRequest [state key_bytes] -> [state];
    5 digest_final DigestFinalRequest [state] -> [];
    6 digest_single DigestSingleRequest [] -> [];
    7 encrypt_init EncryptInitRequest [key_bytes] -> [state];
    8 decrypt_init DecryptInitRequest [key_bytes] -> [state];
    9 encrypt_update EncryptUpdateRequest [state] -> [state ciphered];
    10 decrypt_update DecryptUpdateRequest [state] -> [state];
    11 encrypt EncryptRequest [state] -> [ciphered];
    12 decrypt DecryptRequest [state] -> [];
    13 encrypt_final EncryptFinalRequest [state] -> [];
    14 decrypt_final DecryptFinalRequest [state] -> [];
    15 encrypt_single EncryptSingleRequest [key_bytes] -> [ciphered];
    16 decrypt_single DecryptSingleRequest [key_bytes ciphered] -> [];
    17 sign_init SignInitRequest [priv_key_bytes] -> [state];
    18 verify_init VerifyInitRequest [pub_key_bytes] -> [state];
    19 sign_update SignUpdateRequest [state] -> [state];
    20 verify_update VerifyUpdateRequest [state] -> [state];
    21 sign_final SignFinalRequest [state] -> [signature];
    22 verify_final VerifyFinalRequest [state signature] -> [];
    23 sign SignRequest [state] -> [signature];
    24 verify VerifyRequest [state signature] -> [];
    25 sign_single SignSingleRequest [priv_key_bytes] -> [signature];
    26 verify_single VerifySingleRequest [pub_key_bytes signature] -> [];
    27 reencrypt_single ReencryptSingleRequest [dec_key_bytes enc_key_bytes ciphered] -> [reciphered];
    28 generate_key GenerateKeyRequest [] -> [key_bytes];
    29 generate_key_pair GenerateKeyPairRequest [] -> [priv_key_bytes pub_key_bytes];
    30 wrap_key WrapKeyRequest [key_bytes ke_k_bytes] -> [wrapped];
    31 unwrap_key UnwrapKeyRequest [ke_k_bytes wrapped] -> [unwrapped_bytes];
    32 derive_key DeriveKeyRequest [base_key_bytes] -> [new_key_bytes];
    33 get_mechanism_list GetMechanismListRequest [] -> [];
    34 get_mechanism_info GetMechanismInfoRequest [] -> [];
    35 get_attribute_value GetAttributeValueRequest [object] -> [];
    36 set_attribute_value SetAttributeValueRequest [object] -> [object];
    37 login LoginRequest [] -> [];
    38 logout LogoutRequest [] -> [];
    39 rewrap_key_blob RewrapKeyBlobRequest [wrapped_key_bytes] -> [rewrapped_key_bytes];
}

const RPCS: u8 = 40;
const MAX_CALLS: usize = 16;
/// Longest answer in bytes, in addition to twice the request: GenerateRandom returns up to a
/// million bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Generating RSA keys takes seconds with the sanitizers.
trait TooSlow {
    fn too_slow(&self) -> bool {
        false
    }
}

macro_rules! fast {
    ($($request:ident)+) => { $(impl TooSlow for proto::$request {})+ };
}

fast! {
    GenerateRandomRequest DigestInitRequest DigestRequest DigestUpdateRequest DigestKeyRequest DigestFinalRequest
    DigestSingleRequest EncryptInitRequest DecryptInitRequest EncryptUpdateRequest DecryptUpdateRequest
    EncryptRequest DecryptRequest EncryptFinalRequest DecryptFinalRequest EncryptSingleRequest DecryptSingleRequest
    SignInitRequest VerifyInitRequest SignUpdateRequest VerifyUpdateRequest SignFinalRequest VerifyFinalRequest
    SignRequest VerifyRequest SignSingleRequest VerifySingleRequest ReencryptSingleRequest GenerateKeyRequest
    WrapKeyRequest UnwrapKeyRequest DeriveKeyRequest GetMechanismListRequest GetMechanismInfoRequest
    GetAttributeValueRequest SetAttributeValueRequest LoginRequest LogoutRequest RewrapKeyBlobRequest
}

impl TooSlow for proto::GenerateKeyPairRequest {
    fn too_slow(&self) -> bool {
        self.mech.as_ref().is_some_and(|mechanism| mechanism.mechanism == ckm::CKM_RSA_PKCS_KEY_PAIR_GEN)
    }
}
