//! A certificate authority for tests, made with the openssl program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::tool::succeed;
use crate::{Daemon, KEY_TYPES, OpenSsl};

/// An authority with a plain key file. It certifies keys without their private halves.
#[derive(Debug)]
pub struct Pki {
    directory: PathBuf,
}

impl Pki {
    /// Makes an authority in a directory.
    pub fn new(directory: &Path) -> Self {
        let pki = Self { directory: directory.to_owned() };
        succeed(
            openssl(&["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
                .args(["-subj", "/CN=Test CA", "-days", "2", "-addext", "basicConstraints=critical,CA:true"])
                .arg("-keyout")
                .arg(pki.path("ca.key"))
                .arg("-out")
                .arg(pki.ca()),
        );
        fs::write(pki.path("leaf.ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").expect("extensions");
        pki
    }

    /// An authority elsewhere, whose certificate is `ca.pem` in a directory. It certifies nothing
    /// here.
    pub fn elsewhere(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The certificate of the authority.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The certificate of the authority, for rustls.
    pub fn ca_der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.ca()).expect("the certificate of the authority")
    }

    /// Certifies the public key of a reference for `localhost`, without using the private key.
    pub fn certify(&self, daemon: &Daemon, reference: &Path) -> PathBuf {
        self.certify_with(OpenSsl::System, daemon, reference)
    }

    /// Certifies with the programs of a version of OpenSSL, which must know the type of the key;
    /// see [`Pki::certify`].
    pub fn certify_with(&self, openssl: OpenSsl, daemon: &Daemon, reference: &Path) -> PathBuf {
        let public = reference.with_extension("pub");
        let mut pkey = daemon.openssl_of(openssl, &["pkey", "-pubout", "-in"]);
        succeed(pkey.arg(reference).arg("-out").arg(&public));
        self.certify_public_with(openssl, &public)
    }

    /// Certifies for a DNS name, valid for this many days; see [`Pki::certify`].
    pub fn certify_as(&self, daemon: &Daemon, reference: &Path, name: &str, days: i32) -> PathBuf {
        let extensions = self.path("name.ext");
        fs::write(&extensions, format!("subjectAltName=DNS:{name}\n")).expect("extensions");
        let public = reference.with_extension("pub");
        succeed(daemon.openssl(&["pkey", "-pubout", "-in"]).arg(reference).arg("-out").arg(&public));
        self.certified(OpenSsl::System, &public, name, &extensions, days)
    }

    /// Certifies a public key in PEM with these extensions, for this many days.
    pub fn certify_with_extensions(&self, public: &Path, extensions: &str, days: i32) -> PathBuf {
        let file = self.path("other.ext");
        fs::write(&file, extensions).expect("extensions");
        self.certified(OpenSsl::System, public, "localhost", &file, days)
    }

    /// Makes another certificate of the authority, valid for this many days.
    pub fn renewed_ca(&self, days: i32) -> PathBuf {
        let (renewed, extensions) = (self.path("renewed.pem"), self.path("ca.ext"));
        fs::write(&extensions, "basicConstraints=critical,CA:true\n").expect("extensions");
        let mut x509 = openssl(&["x509", "-new", "-subj", "/CN=Test CA", "-days", &days.to_string()]);
        x509.arg("-extfile")
            .arg(extensions)
            .arg("-signkey")
            .arg(self.path("ca.key"))
            .arg("-out")
            .arg(&renewed);
        succeed(&mut x509);
        renewed
    }

    /// Certifies a public key in PEM for `localhost`.
    pub fn certify_public(&self, public: &Path) -> PathBuf {
        self.certify_public_with(OpenSsl::System, public)
    }

    fn certify_public_with(&self, openssl: OpenSsl, public: &Path) -> PathBuf {
        self.certified(openssl, public, "localhost", &self.path("leaf.ext"), 2)
    }

    fn certified(
        &self,
        openssl: OpenSsl,
        public: &Path,
        name: &str,
        extensions: &Path,
        days: i32,
    ) -> PathBuf {
        let days = days.to_string();
        let mut x509 = openssl.program(&["x509", "-new", "-subj", &format!("/CN={name}"), "-days", &days]);
        x509.arg("-extfile").arg(extensions);
        self.made_by(x509, public)
    }

    /// Certifies a public key in PEM without extensions, so in version 1 of X.509.
    pub fn certify_bare(&self, public: &Path) -> PathBuf {
        self.made_by(openssl(&["x509", "-new", "-subj", "/CN=localhost"]), public)
    }

    fn made_by(&self, mut x509: Command, public: &Path) -> PathBuf {
        let certificate = public.with_extension("crt");
        x509.arg("-force_pubkey")
            .arg(public)
            .arg("-CA")
            .arg(self.ca())
            .arg("-CAkey")
            .arg(self.path("ca.key"));
        succeed(x509.arg("-out").arg(&certificate));
        certificate
    }

    /// Certifies a new plain key for `localhost`: certificate and private key, as PEM files.
    pub fn leaf(&self, name: &str) -> (PathBuf, PathBuf) {
        let (key, public) = (self.path(&format!("{name}.key")), self.path(&format!("{name}.pub")));
        succeed(
            openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"])
                .arg(&key),
        );
        succeed(openssl(&["pkey", "-pubout", "-in"]).arg(&key).arg("-out").arg(&public));
        (self.certify_public(&public), key)
    }

    /// Renews the certificate of a key that [`Pki::leaf`] has made.
    pub fn leaf_again(&self, name: &str) -> PathBuf {
        self.certify_public(&self.path(&format!("{name}.pub")))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// A plain private key of one of [`KEY_TYPES`], in PEM. Each process makes it once, because
/// generating RSA keys takes long.
pub fn plain_key(key_type: &str) -> &'static str {
    static MADE: [OnceLock<String>; KEY_TYPES.len()] = [const { OnceLock::new() }; KEY_TYPES.len()];
    let number = KEY_TYPES.iter().position(|known| *known == key_type).expect("a known key type");
    MADE[number].get_or_init(|| {
        let mut command = openssl(&["genpkey", "-algorithm"]);
        let bound = key_type.strip_prefix("rsa-pss").map(|bits| ("RSA-PSS", bits));
        match bound.or(key_type.strip_prefix("rsa").map(|bits| ("RSA", bits))) {
            Some((algorithm, bits)) => {
                command.args([algorithm, "-pkeyopt", &format!("rsa_keygen_bits:{bits}")])
            }
            None if key_type == "ed25519" => command.arg("ED25519"),
            None => {
                let curve = key_type.replace('p', "P-");
                command.args(["EC", "-pkeyopt", &format!("ec_paramgen_curve:{curve}")])
            }
        };
        succeed(&mut command)
    })
}

/// The system's openssl program, without the provider.
pub fn openssl(words: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(words).env_remove("OPENSSL_CONF");
    command
}
