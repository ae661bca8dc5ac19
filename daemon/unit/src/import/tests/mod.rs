//! Tests of the import: files that `openssl` writes, and files that are refused.

mod encrypted;
mod other_programs;

use core::num::NonZeroUsize;

use der::Decode;
use keyward_proto::{KeyType, Scheme};
use proptest::prelude::*;

use super::structure::has_seed;
use super::*;
use crate::test_openssl::{run, verifies};
use crate::{MasterKey, SigningInput, Unit};

fn unit() -> Unit {
    Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::MIN)
}

fn refused(file: &[u8]) -> ImportError {
    unit().import(file).unwrap_err()
}

/// Imports a key and signs with it. `openssl` verifies the signature with the public key that it
/// reads from the same file.
fn accepted(file: &[u8], key_type: KeyType) {
    let unit = unit();
    let key = unit.import(file).unwrap_or_else(|error| panic!("{key_type}: {error}"));
    assert_eq!(key.key_type, key_type);
    assert_eq!(key.blob[48..56], 0x100_u64.to_be_bytes());
    let form = if file.starts_with(&[DER_START]) { "-inform DER" } else { "-inform PEM" };
    let point = match key_type {
        KeyType::P256 | KeyType::P384 | KeyType::P521 => " -ec_conv_form uncompressed",
        _ => "",
    };
    let spki = run(&format!("pkey {form} -pubout -outform DER{point}"), file);
    assert_eq!(key.spki, spki, "{key_type}");
    let scheme = key_type.schemes()[0];
    let signature = unit.sign(&key.blob, scheme, SigningInput::Message(b"m")).unwrap();
    assert!(verifies(&key.spki, scheme, b"m", &signature), "{key_type}");
}

fn genpkey(key_type: KeyType) -> Vec<u8> {
    let algorithm = match key_type {
        KeyType::P256 => "EC -pkeyopt ec_paramgen_curve:P-256".to_owned(),
        KeyType::P384 => "EC -pkeyopt ec_paramgen_curve:P-384".to_owned(),
        KeyType::P521 => "EC -pkeyopt ec_paramgen_curve:P-521".to_owned(),
        KeyType::Rsa(bits) => format!("RSA -pkeyopt rsa_keygen_bits:{bits}"),
        KeyType::RsaPss(bits) => format!("RSA-PSS -pkeyopt rsa_keygen_bits:{bits}"),
        _ => "ED25519".to_owned(),
    };
    run(&format!("genpkey -algorithm {algorithm}"), &[])
}

#[test]
fn every_form_that_openssl_writes_is_imported() {
    for key_type in [KeyType::P256, KeyType::P384, KeyType::P521, KeyType::Ed25519] {
        let pem = genpkey(key_type);
        accepted(&pem, key_type);
        accepted(&run("pkey -outform DER", &pem), key_type);
    }
    for key_type in [KeyType::P256, KeyType::P384, KeyType::P521] {
        let pem = genpkey(key_type);
        let sec1 = run("ec", &pem);
        assert!(sec1.starts_with(b"-----BEGIN EC PRIVATE KEY"));
        accepted(&sec1, key_type);
        accepted(&run("ec -outform DER", &pem), key_type);
        accepted(&run("ec -conv_form compressed", &pem), key_type);
        accepted(&run("ec -no_public", &pem), key_type);
        accepted(&run("pkey -ec_conv_form compressed -outform DER", &pem), key_type);
    }
    for bits in [2048, 2056, 3072] {
        let (key_type, pem) = (KeyType::Rsa(bits), genpkey(KeyType::Rsa(bits)));
        accepted(&pem, key_type);
        accepted(&run("pkey -outform DER", &pem), key_type);
        let pkcs1 = run("rsa -traditional", &pem);
        assert!(pkcs1.starts_with(b"-----BEGIN RSA PRIVATE KEY"));
        accepted(&pkcs1, key_type);
        accepted(&run("rsa -traditional -outform DER", &pem), key_type);
    }
}

#[test]
fn keys_that_are_bound_to_pss_are_imported_with_their_restrictions() {
    let restricted = |hash: &str, mask: &str, salt: u8| {
        run(
            &format!(
                "genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_pss_keygen_md:{hash} \
                 -pkeyopt rsa_pss_keygen_mgf1_md:{mask} -pkeyopt rsa_pss_keygen_saltlen:{salt}"
            ),
            &[],
        )
    };
    accepted(&genpkey(KeyType::RsaPss(2048)), KeyType::RsaPss(2048));
    accepted(&run("pkey -outform DER", &genpkey(KeyType::RsaPss(2056))), KeyType::RsaPss(2056));
    for (hash, salt, scheme) in [
        ("sha256", 32, Scheme::RsaPssPssSha256),
        ("sha384", 48, Scheme::RsaPssPssSha384),
        ("sha512", 64, Scheme::RsaPssPssSha512),
    ] {
        let pem = restricted(hash, hash, salt);
        let unit = unit();
        let key = unit.import(&pem).unwrap();
        assert_eq!(key.spki, run("pkey -pubout -outform DER", &pem), "{hash}");
        for other in KeyType::RsaPss(2048).schemes() {
            let signed = unit.sign(&key.blob, *other, SigningInput::Message(b"m"));
            assert_eq!(signed.is_ok(), *other == scheme, "{hash} {other}");
        }
        let signature = unit.sign(&key.blob, scheme, SigningInput::Message(b"m")).unwrap();
        assert!(verifies(&key.spki, scheme, b"m", &signature), "{hash}");
    }
    for (hash, mask, salt) in
        [("sha256", "sha1", 32), ("sha1", "sha1", 20), ("sha256", "sha256", 33), ("sha384", "sha384", 20)]
    {
        assert_eq!(
            refused(&restricted(hash, mask, salt)),
            ImportError::PssParameters,
            "{hash} {mask} {salt}"
        );
    }
}

#[test]
fn what_stands_around_the_key_does_not_matter() {
    let with_parameters = run("ecparam -name prime256v1 -genkey", &[]);
    assert!(with_parameters.starts_with(b"-----BEGIN EC PARAMETERS"));
    accepted(&with_parameters, KeyType::P256);

    let key = String::from_utf8(genpkey(KeyType::P256)).unwrap();
    let certificate = String::from_utf8(certificate(&key)).unwrap();
    let bytes = |text: String| text.into_bytes();
    accepted(&bytes(format!("{certificate}{key}")), KeyType::P256);
    accepted(&bytes(format!("{key}{certificate}")), KeyType::P256);
    accepted(&bytes(format!("Bag Attributes\n    friendlyName: shop\n{key}")), KeyType::P256);
    accepted(&bytes(key.replace('\n', "\r\n")), KeyType::P256);
    unit().import(&bytes(format!("\u{feff}{key}"))).unwrap();
    unit().import(&bytes(key.replace('\n', " \n  "))).unwrap();
    unit().import(&bytes(key.replace('\n', "\r"))).unwrap();
}

/// Reads the key of `pem` in another form.
fn accepted_as(pem: &str, file: &[u8]) {
    let key = unit().import(file).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(key.spki, run("pkey -pubout -outform DER", pem.as_bytes()));
}

#[test]
fn several_keys_are_all_found() {
    let (one, two) = (genpkey(KeyType::P256), genpkey(KeyType::Ed25519));
    let certificate = certificate(core::str::from_utf8(&one).unwrap());
    let weak = genpkey(KeyType::Rsa(1024));
    let file = [&one[..], &certificate, &two, &one, &weak].concat();
    assert_eq!(refused(&file), ImportError::Several(3));
    let read = KeyFile::read(&file, None).unwrap();
    let types: Vec<_> = (0..read.key_count()).map(|index| read.key_type(index)).collect();
    assert_eq!(types, [Ok(KeyType::P256), Ok(KeyType::Ed25519), Err(ImportError::RsaSize(1024))]);
    assert_eq!(read.certificates(), [run("x509 -outform DER", &certificate)]);
    accepted_as(core::str::from_utf8(&two).unwrap(), &read.pkcs8(1).unwrap());
}

#[test]
fn public_things_are_no_private_keys() {
    let pem = genpkey(KeyType::Rsa(2048));
    let certificate = certificate(core::str::from_utf8(&pem).unwrap());
    assert_eq!(refused(&certificate), CERTIFICATE);
    assert_eq!(refused(&run("x509 -outform DER", &certificate)), CERTIFICATE);
    assert_eq!(refused(&run("pkey -pubout", &pem)), PUBLIC_KEY);
    assert_eq!(refused(&run("pkey -pubout -outform DER", &pem)), PUBLIC_KEY);
    assert_eq!(refused(&run("rsa -RSAPublicKey_out -outform DER", &pem)), PUBLIC_KEY);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &pem).unwrap();
    let request = format!("req -new -subj /CN=shop -key {}", file.path().display());
    assert_eq!(refused(&run(&request, &[])), REQUEST);
    assert_eq!(refused(&run(&format!("{request} -outform DER"), &[])), REQUEST);
    assert_eq!(PUBLIC_KEY.to_string(), "the file holds a public key, not a private key");
}

#[test]
fn a_reference_is_not_taken_for_a_key() {
    let key = unit().generate(KeyType::P256).unwrap();
    let reference = Reference::new("shop".parse().unwrap(), 1, key.spki).unwrap().to_pem();
    assert_eq!(refused(reference.as_bytes()), ImportError::Reference);
    let der = pem::blocks(reference.as_bytes()).next().unwrap().decode().unwrap();
    assert_eq!(refused(&der), ImportError::Reference);
}

#[test]
fn types_that_are_not_supported_are_named() {
    for (args, name) in [
        ("genpkey -algorithm ED448", "Ed448"),
        ("genpkey -algorithm X25519", "X25519"),
        ("ecparam -name secp256k1 -genkey -noout", "EC on secp256k1"),
        ("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:brainpoolP256r1", "EC on brainpoolP256r1"),
        ("ecparam -name wap-wsg-idm-ecid-wtls7 -genkey -noout", "an unknown type (2.23.43.1.4.7)"),
        ("dsaparam -genkey -noout 1024", "DSA"),
    ] {
        let message = refused(&run(args, &[])).to_string();
        assert!(
            message.starts_with("the file holds a private key of ") && message.contains(name),
            "{message}"
        );
    }
    assert_eq!(refused(&genpkey(KeyType::Rsa(1024))), ImportError::RsaSize(1024));
    let odd = genpkey(KeyType::Rsa(2047));
    assert_eq!(refused(&run("rsa -traditional -outform DER", &odd)), ImportError::RsaSize(2047));
}

#[test]
fn cut_off_files_are_damaged() {
    let pem = genpkey(KeyType::P256);
    let start = b"-----BEGIN".len();
    for end in start..pem.len() - 1 {
        assert_eq!(refused(&pem[..end]), ImportError::Damaged(Form::Pem), "cut at {end}");
    }
    let der = run("pkey -outform DER", &pem);
    for end in 1..der.len() {
        assert_eq!(refused(&der[..end]), ImportError::Damaged(Form::Der), "cut at {end}");
    }
    let text = core::str::from_utf8(&pem).unwrap();
    assert_eq!(refused(text.replacen('M', "*", 1).as_bytes()), ImportError::Damaged(Form::Pem));
    assert_eq!(refused(text.replace("END PRI", "END EC PRI").as_bytes()), ImportError::Damaged(Form::Pem));
    assert_eq!(refused(b""), ImportError::Unknown);
    assert_eq!(refused(b"hello"), ImportError::Unknown);
    assert_eq!(refused(&[der, vec![0]].concat()), ImportError::Damaged(Form::Der));
    assert_eq!(refused(&vec![b'\n'; MAX_FILE + 1]), ImportError::TooLong);
    assert_eq!(refused(&vec![b'\n'; MAX_FILE]), ImportError::Unknown);
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    // Every byte of the private numbers counts, and every byte of the public numbers beside them.
    for key_type in [KeyType::P256, KeyType::Rsa(2048)] {
        let der = run("pkey -outform DER", &genpkey(key_type));
        for position in (60..der.len()).step_by(7) {
            let mut altered = der.clone();
            altered[position] ^= 1;
            refused(&altered);
        }
    }
}

#[test]
fn random_bytes_are_no_seed_however_they_begin() {
    let with = |start: &[u8], length: usize| [start, &vec![7; length - start.len()]].concat();
    assert!(has_seed(&with(&[0x80, 32], 34)), "the seed alone");
    let both = [&with(&[0x30, 0x82, 0x0a, 0x26, 0x04, 32], 38)[..], &with(&[0x04, 0x82, 0x0a, 0x00], 2564)];
    assert!(has_seed(&both.concat()), "and with the expanded key");
    assert!(!has_seed(&with(&[0x04, 0x82, 0x0a, 0x00], 2564)), "the expanded key alone");
    for start in
        [&[0x80, 30][..], &[0x80, 32], &[0x30, 30], &[0x30, 30, 0x04, 28], &[0x30, 30, 0x04, 26, 0x04, 0]]
    {
        assert!(!has_seed(&with(start, 32)), "{start:?} in a bare seed");
        assert!(!has_seed(&with(start, 2560)), "{start:?} in a bare expanded key");
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>) {
        let _ = read(&bytes);
        let _ = read(&[b"-----BEGIN PRIVATE KEY-----\n", bytes.as_slice()].concat());
    }
}

fn certificate(key: &str) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), key).unwrap();
    run(&format!("req -x509 -subj /CN=shop -key {}", file.path().display()), &[])
}
