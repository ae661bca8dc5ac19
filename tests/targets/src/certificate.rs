//! Certificates that administrators attach, in PEM and DER. An accepted certificate must read the
//! same from its stored form.

use keyward::keys::certificates::{Certificate, Chain, MAX_CHAIN};

/// Feeds an input to the decoder.
pub fn run(bytes: &[u8]) {
    if let Ok(certificate) = Certificate::from_der(bytes) {
        assert_eq!(certificate.der(), bytes);
        let _ = (certificate.subject(), certificate.issuer(), certificate.fingerprint());
    }
    if let Ok(chain) = Chain::read(bytes) {
        assert!((1..=MAX_CHAIN).contains(&chain.certificates.len()));
        for certificate in &chain.certificates {
            assert_eq!(Certificate::from_der(certificate.der()).as_ref(), Ok(certificate));
        }
        let _ = chain.check();
    }
}
