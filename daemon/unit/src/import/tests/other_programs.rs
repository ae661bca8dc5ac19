//! Files as programs other than `openssl` write them.

use super::*;

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
    // The command in the message makes a file that is imported.
    let converted = |kind: Kind, more: &str| {
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
    converted(Kind::Utf16, "");
    for args in ["-t rsa -b 2048", "-t ecdsa -b 256", "-t ed25519"] {
        sh(&format!("puttygen {args} -q -O private -o FILE --new-passphrase /dev/null"));
        converted(Kind::Putty, "");
    }
    for kind in ["JKS", "JCEKS"] {
        sh(&format!(
            "keytool -genkeypair -keyalg EC -groupname secp256r1 -alias a -dname CN=a -keystore FILE \
             -storetype {kind} -storepass secret -keypass secret"
        ));
        converted(Kind::Java, " -srcstorepass secret -deststorepass secret");
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
    // Exponents below the modulus, above it with as many bits, and longer: adding half of the
    // totient keeps the signatures.
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
fn other_commands_in_messages_work_too() {
    let pem = genpkey(KeyType::P256);
    let explicit = run("pkey -ec_param_enc explicit", &pem);
    assert_eq!(refused(&explicit), ImportError::ExplicitCurve);
    assert_eq!(refused(&run("ec", &explicit)), ImportError::ExplicitCurve);
    accepted(&run("pkey -ec_param_enc named_curve", &explicit), KeyType::P256);
}
