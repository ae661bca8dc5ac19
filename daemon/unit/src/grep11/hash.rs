//! Hash functions and HMAC in parts: a hash in progress can be saved and restored.
//!
//! aws-lc-rs does not export the state of a hash, so the functions are those of the RustCrypto
//! project.

use digest::Digest;
use digest::common::hazmat::SerializableState;
use keyward_grep11::ckm;
use zeroize::Zeroizing;

/// Defines the hash functions: name, implementation, block length in bytes, and the mechanism
/// numbers for the digest and the HMAC, those of PKCS #11 before those of IBM.
macro_rules! hash_functions {
    ($($name:ident: $state:ty, $block:literal, [$($digest:ident)+], [$($hmac:ident)+];)+) => {
        /// A hash function.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub(crate) enum HashFunction {
            $($name,)+
        }

        impl HashFunction {
            /// All hash functions.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),+];

            /// The mechanism numbers of the digest.
            pub(crate) const fn digest_numbers(self) -> &'static [u64] {
                match self {
                    $(Self::$name => &[$(ckm::$digest),+],)+
                }
            }

            /// The mechanism numbers of the HMAC.
            pub(crate) const fn hmac_numbers(self) -> &'static [u64] {
                match self {
                    $(Self::$name => &[$(ckm::$hmac),+],)+
                }
            }

            /// Length of a block, in bytes.
            const fn block(self) -> usize {
                match self {
                    $(Self::$name => $block,)+
                }
            }
        }

        /// A hash in progress.
        #[derive(Clone)]
        pub(crate) enum Hashing {
            $($name(Box<$state>),)+
        }

        impl Hashing {
            pub(crate) fn new(function: HashFunction) -> Self {
                match function {
                    $(HashFunction::$name => Self::$name(Box::default()),)+
                }
            }

            pub(crate) fn update(&mut self, data: &[u8]) {
                match self {
                    $(Self::$name(state) => Digest::update(state.as_mut(), data),)+
                }
            }

            pub(crate) fn finish(self) -> Vec<u8> {
                match self {
                    $(Self::$name(state) => state.finalize().to_vec(),)+
                }
            }

            /// The state of the hash, for [`Self::restore`].
            pub(crate) fn save(&self) -> Zeroizing<Vec<u8>> {
                Zeroizing::new(match self {
                    $(Self::$name(state) => state.serialize().to_vec(),)+
                })
            }

            /// Restores a saved hash. `None` for bytes that [`Self::save`] did not write.
            pub(crate) fn restore(function: HashFunction, saved: &[u8]) -> Option<Self> {
                Some(match function {
                    $(HashFunction::$name => {
                        let saved = saved.try_into().ok()?;
                        Self::$name(Box::new(<$state>::deserialize(saved).ok()?))
                    })+
                })
            }
        }
    };
}

hash_functions! {
    Sha1: sha1::Sha1, 64, [CKM_SHA_1], [CKM_SHA_1_HMAC];
    Sha224: sha2::Sha224, 64, [CKM_SHA224], [CKM_SHA224_HMAC];
    Sha256: sha2::Sha256, 64, [CKM_SHA256], [CKM_SHA256_HMAC];
    Sha384: sha2::Sha384, 128, [CKM_SHA384], [CKM_SHA384_HMAC];
    Sha512: sha2::Sha512, 128, [CKM_SHA512], [CKM_SHA512_HMAC];
    Sha512_224: sha2::Sha512_224, 128, [CKM_SHA512_224 CKM_IBM_SHA512_224],
        [CKM_SHA512_224_HMAC CKM_IBM_SHA512_224_HMAC];
    Sha512_256: sha2::Sha512_256, 128, [CKM_SHA512_256 CKM_IBM_SHA512_256],
        [CKM_SHA512_256_HMAC CKM_IBM_SHA512_256_HMAC];
    Sha3_224: sha3::Sha3_224, 144, [CKM_IBM_SHA3_224], [CKM_IBM_SHA3_224_HMAC];
    Sha3_256: sha3::Sha3_256, 136, [CKM_IBM_SHA3_256], [CKM_IBM_SHA3_256_HMAC];
    Sha3_384: sha3::Sha3_384, 104, [CKM_IBM_SHA3_384], [CKM_IBM_SHA3_384_HMAC];
    Sha3_512: sha3::Sha3_512, 72, [CKM_IBM_SHA3_512], [CKM_IBM_SHA3_512_HMAC];
}

impl HashFunction {
    /// Length of a digest, in bytes.
    pub(crate) fn length(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 | Self::Sha512_224 | Self::Sha3_224 => 28,
            Self::Sha256 | Self::Sha512_256 | Self::Sha3_256 => 32,
            Self::Sha384 | Self::Sha3_384 => 48,
            Self::Sha512 | Self::Sha3_512 => 64,
        }
    }

    /// The digest of data.
    pub(crate) fn digest(self, data: &[u8]) -> Vec<u8> {
        let mut hashing = Hashing::new(self);
        hashing.update(data);
        hashing.finish()
    }

    /// Finds the hash function of a digest mechanism.
    pub(crate) fn from_number(number: u64) -> Option<Self> {
        Self::ALL.iter().copied().find(|function| function.digest_numbers().contains(&number))
    }
}

/// An HMAC (RFC 2104) in progress. Our own code, because the available libraries cannot save the
/// state of an HMAC between parts.
pub(crate) struct Hmac {
    function: HashFunction,
    inner: Hashing,
}

impl Hmac {
    pub(crate) fn new(function: HashFunction, key: &[u8]) -> Self {
        let mut inner = Hashing::new(function);
        inner.update(&padded(function, key, 0x36));
        Self { function, inner }
    }

    /// The HMAC of data.
    pub(crate) fn mac(function: HashFunction, key: &[u8], data: &[u8]) -> Vec<u8> {
        let mut hmac = Self::new(function, key);
        hmac.update(data);
        hmac.finish(key)
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        self.inner.update(data);
    }

    pub(crate) fn finish(self, key: &[u8]) -> Vec<u8> {
        let mut outer = Hashing::new(self.function);
        outer.update(&padded(self.function, key, 0x5c));
        outer.update(&self.inner.finish());
        outer.finish()
    }

    /// The state of the inner hash, for [`Self::restore`].
    pub(crate) fn save(&self) -> Zeroizing<Vec<u8>> {
        self.inner.save()
    }

    pub(crate) fn restore(function: HashFunction, saved: &[u8]) -> Option<Self> {
        let inner = Hashing::restore(function, saved)?;
        Some(Self { function, inner })
    }
}

/// The key, filled up to a block with zeros, each byte combined with `pad`.
fn padded(function: HashFunction, key: &[u8], pad: u8) -> Zeroizing<Vec<u8>> {
    let block = function.block();
    let mut padded = Zeroizing::new(Vec::with_capacity(block));
    if key.len() > block {
        padded.extend_from_slice(&Zeroizing::new(function.digest(key)));
    } else {
        padded.extend_from_slice(key);
    }
    padded.resize(block, 0);
    padded.iter_mut().for_each(|byte| *byte ^= pad);
    padded
}
