//! The groups of finite fields for DHE, byte for byte.
//!
//! All primes of RFC 3526 and of RFC 7919 have the same form: 64 one bits, then the first bits of
//! pi or of e with a small number added, then 64 one bits. So two constants and ten small numbers
//! give all of the primes.

/// True if the bytes are the prime of a group of RFC 7919, or of RFC 3526 from 2,048 bits. All
/// these groups have the generator 2.
pub(super) fn has_prime(prime: &[u8]) -> bool {
    let Some((_, with_pi, with_e)) = ADDED.iter().find(|(length, ..)| *length == prime.len()) else {
        return false;
    };
    is_made_of(prime, &PI, *with_pi) || is_made_of(prime, &E, *with_e)
}

/// True if a prime is made of the first digits of a constant, with a number added to the last
/// digit.
fn is_made_of(prime: &[u8], constant: &[u8], added: u64) -> bool {
    let middle = prime.strip_prefix(&ONES).and_then(|rest| rest.strip_suffix(&ONES));
    let Some((front, last)) = middle.and_then(<[u8]>::split_last_chunk::<8>) else { return false };
    let Some((digits, last_digits)) = constant.get(..front.len() + 8).and_then(<[u8]>::split_last_chunk::<8>)
    else {
        return false;
    };
    // The sum has no carry in any of the ten primes.
    // The 64 one bits at the end come from subtracting 1, so the part before them is lower by 1.
    front == digits
        && u64::from_be_bytes(*last_digits).checked_add(added - 1) == Some(u64::from_be_bytes(*last))
}

const ONES: [u8; 8] = [0xff; 8];

/// Length of the prime in bytes, the number that RFC 3526 (3 to 7) adds to the digits of pi, and
/// the number that RFC 7919 (appendix A) adds to the digits of e.
const ADDED: [(usize, u64, u64); 5] = [
    (256, 124_476, 560_316),
    (384, 1_690_314, 2_625_351),
    (512, 240_904, 5_736_041),
    (768, 929_484, 15_705_020),
    (1024, 4_743_158, 10_965_728),
];

/// Reads a constant in hexadecimal digits.
const fn bytes(hex: &str) -> [u8; 1008] {
    let hex = hex.as_bytes();
    assert!(hex.len() == 2 * 1008, "two digits for each byte");
    let mut bytes = [0; 1008];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = digit(hex[2 * at]) << 4 | digit(hex[2 * at + 1]);
        at += 1;
    }
    bytes
}

const fn digit(digit: u8) -> u8 {
    if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 }
}

/// The first 8,064 bits of pi: two bits before the point, and the bits after it.
static PI: [u8; 1008] = bytes(
    "c90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404ddef9519b3cd3a431b\
     302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7edee386bfb5a899fa5\
     ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f83655d23dca3ad96\
     1c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3be39e772c180e8603\
     9b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa051015728e5a8aaac42d\
     ad33170d04507a33a85521abdf1cba64ecfb850458dbef0a8aea71575d060c7db3970f85a6e1e4c7abf5ae8cdb0933d7\
     1e8c94e04a25619dcee3d2261ad2ee6bf12ffa06d98a0864d87602733ec86a64521f2b18177b200cbbe117577a615d6c\
     770988c0bad946e208e24fa074e5ab3143db5bfce0fd108e4b82d120a92108011a723c12a787e6d788719a10bdba5b26\
     99c327186af4e23c1a946834b6150bda2583e9ca2ad44ce8dbbbc2db04de8ef92e8efc141fbecaa6287c59474e6bc05d\
     99b2964fa090c3a2233ba186515be7ed1f612970cee2d7afb81bdd762170481cd0069127d5b05aa993b4ea988d8fddc1\
     86ffb7dc90a6c08f4df435c93402849236c3fab4d27c7026c1d4dcb2602646dec9751e763dba37bdf8ff9406ad9e530e\
     e5db382f413001aeb06a53ed9027d831179727b0865a8918da3edbebcf9b14ed44ce6cbaced4bb1bdb7f1447e6cc254b\
     332051512bd7af426fb8f401378cd2bf5983ca01c64b92ecf032ea15d1721d03f482d7ce6e74fef6d55e702f46980c82\
     b5a84031900b1c9e59e7c97fbec7e8f323a97a7e36cc88be0f1d45b7ff585ac54bd407b22b4154aacc8f6d7ebf48e1d8\
     14cc5ed20f8037e0a79715eef29be32806a1d58bb7c5da76f550aa3d8a1fbff0eb19ccb1a313d55cda56c9ec2ef29632\
     387fe8d76e3c0468043e8f663f4860ee12bf2d5b0b7474d6e694f91e6dbe115974a3926f12fee5e438777cb6a932df8c\
     d8bec4d073b931ba3bc832b68d9dd300741fa7bf8afc47ed2576f6936ba424663aab639c5ae4f5683423b4742bf1c978\
     238f16cbe39d652de3fdb8befc848ad922222e04a4037c0713eb57a81a23f0c73473fc646cea306b4bcbc8862f8385dd\
     fa9d4b7fa2c087e879683303ed5bdd3a062b3cf5b3a278a66d2a13f83f44f82ddf310ee074ab6a364597e899a0255dc1\
     64f31cc50846851df9ab48195ded7ea1b1d510bd7ee74d73faf36bc31ecfa268359046f4eb879f924009438b481c6cd7\
     889a002ed5ee382bc9190da6fc026e479558e4475677e9aa9e3050e2765694dfc81f56e880b96e7160c980dd98a573ea",
);

/// The first 8,064 bits of e: two bits before the point, and the bits after it.
static E: [u8; 1008] = bytes(
    "adf85458a2bb4a9aafdc5620273d3cf1d8b9c583ce2d3695a9e13641146433fbcc939dce249b3ef97d2fe363630c75d8\
     f681b202aec4617ad3df1ed5d5fd65612433f51f5f066ed0856365553ded1af3b557135e7f57c935984f0c70e0e68b77\
     e2a689daf3efe8721df158a136ade73530acca4f483a797abc0ab182b324fb61d108a94bb2c8e3fbb96adab760d7f468\
     1d4f42a3de394df4ae56ede76372bb190b07a7c8ee0a6d709e02fce1cdf7e2ecc03404cd28342f619172fe9ce98583ff\
     8e4f1232eef28183c3fe3b1b4c6fad733bb5fcbc2ec22005c58ef1837d1683b2c6f34a26c1b2effa886b4238611fcfdc\
     de355b3b6519035bbc34f4def99c023861b46fc9d6e6c9077ad91d2691f7f7ee598cb0fac186d91caefe130985139270\
     b4130c93bc437944f4fd4452e2d74dd364f2e21e71f54bff5cae82ab9c9df69ee86d2bc522363a0dabc521979b0deada\
     1dbf9a42d5c4484e0abcd06bfa53ddef3c1b20ee3fd59d7c25e41d2b669e1ef16e6f52c3164df4fb7930e9e4e58857b6\
     ac7d5f42d69f6d187763cf1d5503400487f55ba57e31cc7a7135c886efb4318aed6a1e012d9e6832a907600a918130c4\
     6dc778f971ad0038092999a333cb8b7a1a1db93d7140003c2a4ecea9f98d0acc0a8291cdcec97dcf8ec9b55a7f88a46b\
     4db5a851f44182e1c68a007e5e0dd9020bfd64b645036c7a4e677d2c38532a3a23ba4442caf53ea63bb454329b7624c8\
     917bdd64b1c0fd4cb38e8c334c701c3acdad0657fccfec719b1f5c3e4e46041f388147fb4cfdb477a52471f7a9a96910\
     b855322edb6340d8a00ef092350511e30abec1fff9e3a26e7fb29f8c183023c3587e38da0077d9b4763e4e4b94b2bbc1\
     94c6651e77caf992eeaac0232a281bf6b3a739c1226116820ae8db5847a67cbef9c9091b462d538cd72b03746ae77f5e\
     62292c311562a846505dc82db854338ae49f5235c95b91178ccf2dd5cacef403ec9d1810c6272b045b3b71f9dc6b80d6\
     3fdd4a8e9adb1e6962a69526d43161c1a41d570d7938dad4a40e329ccff46aaa36ad004cf600c8381e425a31d951ae64\
     fdb23fcec9509d43687feb69edd1cc5e0b8cc3bdf64b10ef86b63142a3ab8829555b2f747c932665cb2c0f1cc01bd702\
     29388839d2af05e454504ac78b7582822846c0ba35c35f5c59160cc046fd8251541fc68c9c86b022bb7099876a460e74\
     51a8a93109703fee1c217e6c3826e52c51aa691e0e423cfc99e9e31650c1217b624816cdad9a95f9d5b8019488d9c0a0\
     a1fe3075a577e23183f81d4a3f2fa4571efc8ce0ba8a4fe8b6855dfe72b0a66eded2fbabfbe58a30fafabe1c5d71a87e\
     2f741ef8c1fe86fea6bbfde530677f0d97d11d49f7a8443d0822e506a9f4614e011e2a94838ff88cd68c8bb7c51eef6d",
);

#[cfg(test)]
pub(super) mod tests {
    use std::process::Command;

    use super::*;

    /// Names of the groups in the openssl program.
    const NAMES: [&str; 10] = [
        "modp_2048",
        "modp_3072",
        "modp_4096",
        "modp_6144",
        "modp_8192",
        "ffdhe2048",
        "ffdhe3072",
        "ffdhe4096",
        "ffdhe6144",
        "ffdhe8192",
    ];

    /// The prime of a group, from the constants.
    pub(crate) fn prime(length: usize, is_of_rfc_7919: bool) -> Vec<u8> {
        let (_, with_pi, with_e) = ADDED.into_iter().find(|(known, ..)| *known == length).unwrap();
        let (constant, added) = if is_of_rfc_7919 { (&E, with_e) } else { (&PI, with_pi) };
        let (front, last) = constant[..length - 16].split_last_chunk::<8>().unwrap();
        let last = (u64::from_be_bytes(*last) + added - 1).to_be_bytes();
        [&ONES[..], front, &last, &ONES].concat()
    }

    #[test]
    fn primes_are_as_in_openssl() {
        for name in NAMES {
            let group = format!("group:{name}");
            let words = ["genpkey", "-genparam", "-algorithm", "DHX", "-pkeyopt", &group];
            let output = Command::new("openssl").args(words).output().unwrap();
            let (_, parameters) = pem_rfc7468::decode_vec(&output.stdout).unwrap();
            let length = name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().unwrap() / 8;
            let expected = prime(length, name.starts_with("ffdhe"));
            assert!(has_prime(&expected), "{name}");
            assert!(parameters.windows(length).any(|window| window == expected), "{name}");
        }
    }

    #[test]
    fn a_prime_with_any_other_byte_is_unknown() {
        for length in [256, 384, 512, 768, 1024] {
            for is_of_rfc_7919 in [false, true] {
                let prime = prime(length, is_of_rfc_7919);
                for at in 0..length {
                    let mut changed = prime.clone();
                    changed[at] ^= 1;
                    assert!(!has_prime(&changed), "{length}, byte {at}");
                }
                assert!(!has_prime(&prime[1..]) && !has_prime(&[&[0][..], &prime].concat()));
            }
        }
        assert!(!has_prime(&[]) && !has_prime(&[0xff; 256]));
    }
}
