//! Files under a passphrase.

use super::*;

/// Reads a file with a passphrase. It must hold the key of `pem`, and no other.
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
            // Every 256th wrong passphrase gives a right padding, but no key.
            assert!(matches!(wrong, Some(ImportError::Passphrase)), "{args}: {wrong:?}");
        }
    }
}

#[test]
fn encryption_that_is_not_read_is_told_with_a_command_that_works() {
    let pem = genpkey(KeyType::P256);
    let both = [certificate(core::str::from_utf8(&pem).unwrap()), pem.clone()].concat();
    let old = "-legacy -keypbe PBE-SHA1-RC4-128 -certpbe PBE-SHA1-RC4-40";
    for (file, named) in [
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
        assert!(matches!(error, ImportError::Encryption(_)) && message.contains(named), "{message}");
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
    // Several keys share the limit: 64 KiB have room for some hundred keys.
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
        // The conversion would also change a certificate in the clear.
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
    // The command in the message reads archives that Keyward cannot read.
    let message = ImportError::Pkcs12.to_string();
    let (_, command) = message.split_once("program: openssl ").unwrap();
    let text = run(
        &command.replace("-in FILE", "-passin pass:x").replace(" -out NEW", ""),
        &archive("-passout pass:x", &both),
    );
    unit().import(&text).unwrap();
}

/// Converts DER to BER, as browsers and macOS write it: indefinite lengths except for the innermost
/// values, and strings in parts.
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
            // A long string is cut in two.
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
