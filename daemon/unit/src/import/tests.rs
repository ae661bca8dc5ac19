use core::num::NonZeroUsize;

use keyward_proto::{KeyType, Scheme};
use proptest::prelude::*;

use super::structure::has_seed;
use super::*;
use crate::test_openssl::{run, verifies};
use crate::{Input, MasterKey, Unit};

fn unit() -> Unit {
    Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::MIN)
}

fn refused(file: &[u8]) -> ImportError {
    unit().import(file).unwrap_err()
}

/// Imports a key and has it sign something that `openssl` verifies under the public key that it
/// sees itself.
fn accepted(file: &[u8], key_type: KeyType) {
    let unit = unit();
    let key = unit.import(file).unwrap_or_else(|error| panic!("{key_type}: {error}"));
    assert_eq!(key.key_type, key_type);
    assert_eq!(key.blob[48..56], 0x104_u64.to_be_bytes());
    let form = if file.starts_with(&[DER_START]) { "-inform DER" } else { "-inform PEM" };
    let point = match key_type {
        KeyType::P256 | KeyType::P384 | KeyType::P521 => " -ec_conv_form uncompressed",
        _ => "",
    };
    let spki = run(&format!("pkey {form} -pubout -outform DER{point}"), file);
    assert_eq!(key.spki, spki, "{key_type}");
    let scheme = key_type.schemes()[0];
    let signature = unit.sign(&key.blob, scheme, Input::Message(b"m")).unwrap();
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
            let signed = unit.sign(&key.blob, *other, Input::Message(b"m"));
            assert_eq!(signed.is_ok(), *other == scheme, "{hash} {other}");
        }
        let signature = unit.sign(&key.blob, scheme, Input::Message(b"m")).unwrap();
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

/// Reads a file with a passphrase; there must be one key in it, that of `pem`.
fn opened(file: &[u8], passphrase: &str, pem: &[u8]) -> KeyFile {
    let read = KeyFile::read(file, Some(passphrase.as_bytes())).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((read.key_count(), read.spki(0).unwrap()), (1, &*run("pkey -pubout -outform DER", pem)));
    unit().import(&read.pkcs8(0).unwrap()).unwrap();
    read
}

#[test]
fn encrypted_keys_are_read_with_their_passphrase() {
    let (ec, rsa) = (genpkey(KeyType::P256), genpkey(KeyType::Rsa(2048)));
    const LEGACY: &str = "-provider legacy -provider default";
    for (pem, args) in [
        (&ec, "pkcs8 -topk8".to_owned()),
        (&ec, "pkcs8 -topk8 -v2 aes-128-cbc -v2prf hmacWithSHA1".into()),
        (&ec, "pkcs8 -topk8 -v2 aes-192-cbc -v2prf hmacWithSHA512".into()),
        (&ec, "pkcs8 -topk8 -v2 des3 -iter 1".into()),
        (&ec, "pkcs8 -topk8 -v2 aes-256-cbc -scrypt".into()),
        (&ec, "pkcs8 -topk8 -v2 aes-256-cbc -scrypt -outform DER".into()),
        (&ec, "pkcs8 -topk8 -v1 PBE-SHA1-3DES".into()),
        (&ec, "pkcs8 -topk8 -v1 PBE-SHA1-2DES -outform DER".into()),
        (&ec, format!("pkcs8 -topk8 -v1 PBE-MD5-DES {LEGACY}")),
        (&ec, format!("pkcs8 -topk8 -v1 PBE-SHA1-DES {LEGACY}")),
        (&ec, format!("pkcs8 -topk8 -v1 PBE-MD5-RC2-64 {LEGACY}")),
        (&ec, format!("pkcs8 -topk8 -v1 PBE-SHA1-RC2-64 {LEGACY}")),
        (&ec, format!("pkcs8 -topk8 -v1 PBE-SHA1-RC2-40 {LEGACY}")),
        (&ec, format!("pkcs8 -topk8 -v1 PBE-SHA1-RC2-128 {LEGACY}")),
        (&ec, "ec -aes128".into()),
        (&ec, "ec -aes256".into()),
        (&rsa, "rsa -traditional -aes192".into()),
        (&rsa, "rsa -traditional -des3".into()),
        (&rsa, format!("rsa -traditional -des {LEGACY}")),
    ] {
        for passphrase in ["secret", "gr\u{fc}n"] {
            let file = run(&format!("{args} -passout pass:{passphrase}"), pem);
            opened(&file, passphrase, pem);
            assert_eq!(refused(&file), ImportError::Encrypted, "{args}");
            let wrong = KeyFile::read(&file, Some(b"wrong")).err();
            // One wrong passphrase in 256 has a right padding, and makes a key of no kind of it.
            assert!(matches!(wrong, Some(ImportError::Passphrase)), "{args}: {wrong:?}");
        }
    }
}

#[test]
fn encryption_that_is_not_read_is_told_with_a_command_that_works() {
    let pem = genpkey(KeyType::P256);
    let both = [certificate(core::str::from_utf8(&pem).unwrap()), pem.clone()].concat();
    let old = "-legacy -keypbe PBE-SHA1-RC4-128 -certpbe PBE-SHA1-RC4-40";
    for (file, told) in [
        (run("ec -camellia128 -passout pass:x", &pem), "the algorithm \"CAMELLIA-128-CBC\""),
        (run("pkcs8 -topk8 -v2 camellia-128-cbc -passout pass:x", &pem), "a kind of PBES2"),
        (
            run("pkcs8 -topk8 -v1 PBE-SHA1-RC4-128 -passout pass:x -provider legacy -provider default", &pem),
            "1.2.840.113549.1.12.1.1",
        ),
        (archive(&format!("-passout pass:x {old}"), &both), "the algorithm 1.2.840.113549.1.12.1"),
    ] {
        let error = KeyFile::read(&file, Some(b"x")).err().unwrap();
        let message = error.to_string();
        assert!(matches!(error, ImportError::Encryption(_)) && message.contains(told), "{message}");
        let commands = message.split_once("first: ").unwrap().1.split_once(", or for PKCS#12: ").unwrap();
        let command = if file.starts_with(b"-----") { commands.0 } else { commands.1 };
        let command = command.strip_prefix("openssl ").unwrap();
        unit()
            .import(&run(&command.replace("-in FILE", "-passin pass:x").replace(" -out NEW", ""), &file))
            .unwrap();
    }
}

#[test]
fn passphrases_that_cost_too_much_are_refused() {
    let pem = genpkey(KeyType::P256);
    let altered = |args: &str, from: &[u8], to: &[u8]| {
        let mut file = run(&format!("pkcs8 -topk8 -passout pass:x -outform DER {args}"), &pem);
        let at = file.windows(from.len()).position(|window| window == from).unwrap();
        file[at..at + to.len()].copy_from_slice(to);
        KeyFile::read(&file, Some(b"x")).err()
    };
    let rounds = [0x02, 0x03, 0x01, 0x00, 0x00];
    for args in ["-v2 aes-256-cbc -iter 65536", "-v1 PBE-SHA1-3DES -iter 65536"] {
        let most = altered(args, &rounds, &[0x02, 0x03, 0x7f, 0xff, 0xff]);
        assert_eq!(most, Some(ImportError::Costly), "{args}");
    }
    // Nor may many together: 64 KiB have room for some hundred keys.
    let one = run("pkcs8 -topk8 -passout pass:x -iter 2000", &pem);
    for (work, expected) in [(6000, None), (5999, Some(ImportError::Costly))] {
        let passphrase = Passphrase { bytes: Some(b"x"), work: &Cell::new(work) };
        assert_eq!(KeyFile::read_with(&one.repeat(3), passphrase).err(), expected);
    }
    let blocks = altered("-scrypt", &[0x40, 0x00, 0x02, 0x01, 0x08], &[0x40, 0x00, 0x02, 0x01, 0x7f]);
    assert_eq!(blocks, Some(ImportError::Costly));
    let lanes = [0x02, 0x01, 0x08, 0x02, 0x01, 0x01];
    assert_eq!(altered("-scrypt", &lanes, &[0x02, 0x01, 0x08, 0x02, 0x01, 0x7f]), Some(ImportError::Costly));
}

/// An archive of a key and its certificate.
fn archive(args: &str, both: &[u8]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), both).unwrap();
    run(&format!("pkcs12 -export -in {} {args}", file.path().display()), &[])
}

#[test]
fn archives_are_read_with_their_certificates() {
    let pem = genpkey(KeyType::P256);
    let certificate = certificate(core::str::from_utf8(&pem).unwrap());
    let both = [&certificate[..], &pem].concat();
    let der = run("x509 -outform DER", &certificate);
    for args in [
        "-passout pass:secret",
        "-passout pass:secret -legacy",
        "-passout pass:gr\u{fc}n",
        "-passout pass:gr\u{fc}n -legacy",
        "-passout pass:secret -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES",
        "-passout pass:secret -legacy -keypbe PBE-SHA1-RC2-128 -certpbe PBE-SHA1-2DES",
        "-passout pass:secret -certpbe NONE",
        "-passout pass:secret -nomac -macalg sha512",
    ] {
        let file = archive(args, &both);
        let passphrase = if args.contains("secret") { "secret" } else { "gr\u{fc}n" };
        let ber = with_open_lengths(&file);
        assert!(ber.starts_with(&[0x30, 0x80]));
        // Where a certificate is in the clear it would be taken apart, too.
        let in_clear = file.windows(der.len()).any(|window| window == der);
        let ber = if in_clear { file.clone() } else { ber };
        for file in [&file, &ber] {
            assert_eq!(opened(file, passphrase, &pem).certificates(), [der.as_slice()], "{args}");
            assert_eq!(refused(file), ImportError::Encrypted, "{args}");
            assert_eq!(KeyFile::read(file, Some(b"wrong")).err(), Some(ImportError::Passphrase), "{args}");
        }
        for end in (4..file.len()).step_by(97) {
            assert!(
                KeyFile::read(&file[..end], Some(passphrase.as_bytes())).is_err(),
                "{args}: cut at {end}"
            );
        }
    }
    for args in ["-passout pass:", "-passout pass: -legacy", "-passout pass:x -keypbe NONE -certpbe NONE"] {
        let file = archive(args, &both);
        assert_eq!(KeyFile::read(&file, None).unwrap().certificates(), [der.as_slice()], "{args}");
        // The unit itself decrypts nothing.
        assert_eq!(unit().import(&file).is_ok(), args.contains("NONE"), "{args}");
    }
    // What is not read by us is read by the command that the message has.
    let message = ImportError::Pkcs12.to_string();
    let (_, command) = message.split_once("program: openssl ").unwrap();
    let text = run(
        &command.replace("-in FILE", "-passin pass:x").replace(" -out NEW", ""),
        &archive("-passout pass:x", &both),
    );
    unit().import(&text).unwrap();
}

/// The same in BER, as browsers and macOS write it: all lengths but the innermost left open, and
/// strings in parts.
fn with_open_lengths(der: &[u8]) -> Vec<u8> {
    let mut ber = Vec::new();
    let mut reader = SliceReader::new(der).unwrap();
    while !reader.is_finished() {
        let value = AnyRef::decode(&mut reader).unwrap();
        let whole = der::Encode::to_der(&value).unwrap();
        match whole[0] {
            0x30 | 0xa0 => {
                ber.extend([&[whole[0], 0x80], &*with_open_lengths(value.value()), &[0, 0]].concat())
            }
            // What is long is cut in two.
            tag @ (0x04 | 0x80) if value.value().len() > 64 => {
                let open = if tag == 0x04 { 0x24 } else { 0xa0 };
                let content = value.value();
                let content =
                    if fields(content).is_ok() { with_open_lengths(content) } else { content.to_vec() };
                let (one, two) = content.split_at(60);
                let part = |part: &[u8]| der::Encode::to_der(&AnyRef::new(Tag::OctetString, part).unwrap());
                ber.extend([&[open, 0x80], &*part(one).unwrap(), &part(two).unwrap(), &[0, 0]].concat());
            }
            _ => ber.extend(whole),
        }
    }
    ber
}

#[test]
fn keys_of_openssh_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let ssh_keygen = |args: &str| {
        let mut command = std::process::Command::new("ssh-keygen");
        let words = args.split(' ').map(|word| word.trim_matches('\''));
        let output = command.args(words).current_dir(&directory).output().unwrap();
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for (args, key_type) in [
        ("-t ed25519", KeyType::Ed25519),
        ("-t ecdsa -b 256", KeyType::P256),
        ("-t ecdsa -b 384", KeyType::P384),
        ("-t ecdsa -b 521", KeyType::P521),
        ("-t rsa -b 2048", KeyType::Rsa(2048)),
    ] {
        let path = directory.path().join("COPY");
        let _ = std::fs::remove_file(&path);
        ssh_keygen(&format!("-q -f COPY -N secret {args}"));
        let error = refused(&std::fs::read(&path).unwrap());
        assert_eq!(error, ImportError::OpenSshEncrypted);
        let message = error.to_string();
        let (_, command) = message.split_once("first: ssh-keygen ").unwrap();
        ssh_keygen(&format!("{command} -P secret"));
        let file = std::fs::read(&path).unwrap();
        let key = unit().import(&file).unwrap_or_else(|error| panic!("{args}: {error}"));
        assert_eq!(key.key_type, key_type);
        if key_type != KeyType::Ed25519 {
            ssh_keygen("-p -q -m PKCS8 -f COPY -N '' -P ''");
            let pem = std::fs::read(&path).unwrap();
            assert_eq!(key.spki, run("pkey -pubout -outform DER", &pem));
        }
        for end in (0..file.len()).step_by(31) {
            refused(&file[..end]);
        }
    }
}

#[test]
fn other_formats_are_named_with_commands_that_work() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let sh = |command: &str| {
        let mut sh = std::process::Command::new("sh");
        let output = sh.args(["-c", command]).current_dir(&directory).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    };
    // What the message says makes a file that is imported.
    let mended = |kind: Kind, more: &str| {
        assert_eq!(refused(&std::fs::read(path("FILE")).unwrap()), ImportError::Other(kind));
        let message = kind.to_string();
        sh(&(message.split_once("first: ").unwrap().1.to_owned() + more));
        let read = KeyFile::read(&std::fs::read(path("NEW")).unwrap(), Some(b"secret")).unwrap();
        assert!(read.key_type(0).is_ok(), "{kind}");
        std::fs::remove_file(path("FILE")).unwrap();
        std::fs::remove_file(path("NEW")).unwrap();
    };
    let pem = String::from_utf8(genpkey(KeyType::P256)).unwrap();
    std::fs::write(path("FILE"), pem.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()).unwrap();
    mended(Kind::Utf16, "");
    for args in ["-t rsa -b 2048", "-t ecdsa -b 256", "-t ed25519"] {
        sh(&format!("puttygen {args} -q -O private -o FILE --new-passphrase /dev/null"));
        mended(Kind::Putty, "");
    }
    for kind in ["JKS", "JCEKS"] {
        sh(&format!(
            "keytool -genkeypair -keyalg EC -groupname secp256r1 -alias a -dname CN=a -keystore FILE \
             -storetype {kind} -storepass secret -keypass secret"
        ));
        mended(Kind::Java, " -srcstorepass secret -deststorepass secret");
    }

    let block = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
    for (file, kind) in [
        ("{\"crv\":\"P-256\",\"kty\":\"EC\",\"d\":\"AA\"}".to_owned(), Kind::Jwk),
        ("pkcs11:token=a;object=b".into(), Kind::Pkcs11),
        (block("PKCS#11 PROVIDER URI"), Kind::Pkcs11),
        (block("TSS2 PRIVATE KEY"), Kind::Tpm),
        (block("PGP PRIVATE KEY BLOCK"), Kind::Pgp),
        (block("PKCS7"), Kind::Pkcs7),
        ("---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n".into(), Kind::Ssh),
    ] {
        assert_eq!(refused(file.as_bytes()), ImportError::Other(kind), "{file}");
    }
    assert_eq!(
        refused(block("ED25519 PRIVATE KEY").as_bytes()),
        ImportError::Label("ED25519 PRIVATE KEY".into())
    );
    accepted_as(&pem, pem.replace("PRIVATE KEY", "ANY PRIVATE KEY").as_bytes());
}

/// Reads the key of `pem` in another form.
fn accepted_as(pem: &str, file: &[u8]) {
    let key = unit().import(file).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(key.spki, run("pkey -pubout -outform DER", pem.as_bytes()));
}

#[test]
fn what_deployment_tools_make_of_pem_is_read() {
    let pem = String::from_utf8(genpkey(KeyType::P256)).unwrap();
    let base64 = String::from_utf8(run("base64 -A", pem.as_bytes())).unwrap();
    let der = run("base64 -A", &run("pkey -outform DER", pem.as_bytes()));
    for text in [
        pem.replace('\n', r"\n"),
        pem.replace('\n', " "),
        format!("{{\"key\":\"{}\"}}", pem.replace('\n', r"\n")),
        format!("data:\n  tls.key: {base64}\n"),
        format!("tls.key: |\n    {}", pem.replace('\n', "\n    ")),
        base64,
        String::from_utf8(der).unwrap(),
    ] {
        accepted_as(&pem, text.as_bytes());
    }
}

#[test]
fn rsa_as_other_libraries_write_it_is_read_or_told_why_not() {
    use crypto_bigint::BoxedUint;
    use der::Encode;
    use der::asn1::UintRef;

    let pem = String::from_utf8(genpkey(KeyType::Rsa(2048))).unwrap();
    let pkcs1 = run("rsa -traditional -outform DER", pem.as_bytes());
    let parts = fields(&pkcs1).unwrap();
    let numbers: Vec<_> = parts.iter().map(|field| field.decode_as::<UintRef<'_>>().unwrap()).collect();
    let with = |at: usize, bytes: &[u8]| {
        let mut content = Vec::new();
        for (number, index) in numbers.iter().zip(0..) {
            let changed = UintRef::new(bytes).unwrap();
            if index == at { &changed } else { number }.encode_to_vec(&mut content).unwrap();
        }
        AnyRef::new(Tag::Sequence, &content).unwrap().to_der().unwrap()
    };
    let big = |at: usize| BoxedUint::from_be_slice(numbers[at].as_bytes(), 4096).unwrap();
    let one = BoxedUint::one_with_precision(4096);
    let totient = big(4).wrapping_sub(&one).wrapping_mul(big(5).wrapping_sub(&one));
    // Below the modulus, above it with as many bits, and longer: each half of the totient gives the
    // same signatures.
    let mut larger = big(3);
    for _ in 0..5 {
        larger = larger.wrapping_add(totient.shr_vartime(1).unwrap());
        accepted_as(&pem, &with(3, &larger.to_be_bytes()));
        let wrong = larger.wrapping_add(&one);
        assert_eq!(refused(&with(3, &wrong.to_be_bytes())), ImportError::Inconsistent);
    }
    assert_eq!(refused(&with(3, &[0xff; 4096])), ImportError::Inconsistent);
    assert_eq!(refused(&with(4, &[0])), ImportError::RsaPrimesMissing);
    assert_eq!(refused(&with(2, &(0b11_u64 << 32).to_be_bytes())), ImportError::RsaExponent(34));

    // PKCS#8 whose algorithm has no parameters.
    let algorithm = AnyRef::new(Tag::Sequence, &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]).unwrap();
    let key = AnyRef::new(Tag::OctetString, &pkcs1).unwrap();
    let content = [vec![2, 1, 0], algorithm.to_der().unwrap(), key.to_der().unwrap()].concat();
    accepted_as(&pem, &AnyRef::new(Tag::Sequence, &content).unwrap().to_der().unwrap());

    let generated = |options: &str| run(&format!("genpkey -algorithm RSA {options}"), &[]);
    let primes = generated("-pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_primes:3");
    assert_eq!(refused(&primes), ImportError::RsaPrimes);
    assert_eq!(refused(&run("rsa -traditional", &primes)), ImportError::RsaPrimes);
    let exponent = generated("-pkeyopt rsa_keygen_pubexp:17179869209");
    assert_eq!(refused(&exponent), ImportError::RsaExponent(35));
    for exponent in ["3", "4294967311"] {
        accepted(&generated(&format!("-pkeyopt rsa_keygen_pubexp:{exponent}")), KeyType::Rsa(2048));
    }
}

#[test]
fn ed25519_as_ring_has_written_it_is_read() {
    let pem = String::from_utf8(genpkey(KeyType::Ed25519)).unwrap();
    let seed = run("pkey -outform DER", pem.as_bytes())[16..].to_vec();
    let public = run("pkey -pubout -outform DER", pem.as_bytes())[12..].to_vec();
    let start = [0x30, 0x53, 2, 1, 1, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    for tag in [&[0xa1, 0x23, 0x03, 0x21, 0x00][..], &[0x81, 0x21, 0x00]] {
        let mut file = [&start[..], &seed, tag, &public].concat();
        file[1] = u8::try_from(file.len() - 2).unwrap();
        accepted_as(&pem, &file);
        *file.last_mut().unwrap() ^= 1;
        assert_eq!(refused(&file), ImportError::Inconsistent);
    }
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
fn other_commands_in_messages_work_too() {
    let pem = genpkey(KeyType::P256);
    let explicit = run("pkey -ec_param_enc explicit", &pem);
    assert_eq!(refused(&explicit), ImportError::ExplicitCurve);
    assert_eq!(refused(&run("ec", &explicit)), ImportError::ExplicitCurve);
    accepted(&run("pkey -ec_param_enc named_curve", &explicit), KeyType::P256);
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
    // Every byte of the private numbers counts, and of the public ones beside them.
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
