//! Table of the rpcs of `grep11.Crypto`.

/// Calls a macro with the table of all rpcs. A row has the method of
/// [`Crypto`](keyward_unit::grep11::Crypto), the name of the rpc, and the types of request and
/// response. The brackets have the fields of the request that name mechanisms.
macro_rules! for_each_rpc {
    ($callback:ident) => {
        $callback! {
            generate_random: "GenerateRandom", GenerateRandomRequest -> GenerateRandomResponse;
            digest_init: "DigestInit", DigestInitRequest[mech] -> DigestInitResponse;
            digest: "Digest", DigestRequest -> DigestResponse;
            digest_update: "DigestUpdate", DigestUpdateRequest -> DigestUpdateResponse;
            digest_key: "DigestKey", DigestKeyRequest -> DigestKeyResponse;
            digest_final: "DigestFinal", DigestFinalRequest -> DigestFinalResponse;
            digest_single: "DigestSingle", DigestSingleRequest[mech] -> DigestSingleResponse;
            encrypt_init: "EncryptInit", EncryptInitRequest[mech] -> EncryptInitResponse;
            decrypt_init: "DecryptInit", DecryptInitRequest[mech] -> DecryptInitResponse;
            encrypt_update: "EncryptUpdate", EncryptUpdateRequest -> EncryptUpdateResponse;
            decrypt_update: "DecryptUpdate", DecryptUpdateRequest -> DecryptUpdateResponse;
            encrypt: "Encrypt", EncryptRequest -> EncryptResponse;
            decrypt: "Decrypt", DecryptRequest -> DecryptResponse;
            encrypt_final: "EncryptFinal", EncryptFinalRequest -> EncryptFinalResponse;
            decrypt_final: "DecryptFinal", DecryptFinalRequest -> DecryptFinalResponse;
            encrypt_single: "EncryptSingle", EncryptSingleRequest[mech] -> EncryptSingleResponse;
            decrypt_single: "DecryptSingle", DecryptSingleRequest[mech] -> DecryptSingleResponse;
            sign_init: "SignInit", SignInitRequest[mech] -> SignInitResponse;
            verify_init: "VerifyInit", VerifyInitRequest[mech] -> VerifyInitResponse;
            sign_update: "SignUpdate", SignUpdateRequest -> SignUpdateResponse;
            verify_update: "VerifyUpdate", VerifyUpdateRequest -> VerifyUpdateResponse;
            sign_final: "SignFinal", SignFinalRequest -> SignFinalResponse;
            verify_final: "VerifyFinal", VerifyFinalRequest -> VerifyFinalResponse;
            sign: "Sign", SignRequest -> SignResponse;
            verify: "Verify", VerifyRequest -> VerifyResponse;
            sign_single: "SignSingle", SignSingleRequest[mech] -> SignSingleResponse;
            verify_single: "VerifySingle", VerifySingleRequest[mech] -> VerifySingleResponse;
            reencrypt_single: "ReencryptSingle", ReencryptSingleRequest[dec_mech, enc_mech] -> ReencryptSingleResponse;
            generate_key: "GenerateKey", GenerateKeyRequest[mech] -> GenerateKeyResponse;
            generate_key_pair: "GenerateKeyPair", GenerateKeyPairRequest[mech] -> GenerateKeyPairResponse;
            wrap_key: "WrapKey", WrapKeyRequest[mech] -> WrapKeyResponse;
            unwrap_key: "UnwrapKey", UnwrapKeyRequest[mech] -> UnwrapKeyResponse;
            derive_key: "DeriveKey", DeriveKeyRequest[mech] -> DeriveKeyResponse;
            get_mechanism_list: "GetMechanismList", GetMechanismListRequest -> GetMechanismListResponse;
            get_mechanism_info: "GetMechanismInfo", GetMechanismInfoRequest[mech] -> GetMechanismInfoResponse;
            get_attribute_value: "GetAttributeValue", GetAttributeValueRequest -> GetAttributeValueResponse;
            set_attribute_value: "SetAttributeValue", SetAttributeValueRequest -> SetAttributeValueResponse;
            login: "Login", LoginRequest -> LoginResponse;
            logout: "Logout", LogoutRequest -> LogoutResponse;
            rewrap_key_blob: "RewrapKeyBlob", RewrapKeyBlobRequest -> RewrapKeyBlobResponse;
        }
    };
}
pub(crate) use for_each_rpc;

macro_rules! names {
    ($($method:ident: $rpc:literal, $request:ident$([$($mechanism:ident),+])? -> $response:ident;)+) => {
        /// Names of all rpcs.
        pub(crate) const RPCS: &[&str] = &[$($rpc),+];
    };
}

for_each_rpc!(names);
