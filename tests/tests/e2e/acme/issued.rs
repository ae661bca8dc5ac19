//! Certificates that an authority gives.

use super::by_hand::ByHand;
use super::*;

/// Clients of a server take the certificate for each name of the plan, and for nothing else.
#[test]
fn only_the_certificate_of_a_server_is_taken() {
    let agent = ByHand::start("");
    let csr = agent.order();
    let names = "subjectAltName=DNS:shop.example,DNS:www.shop.example";
    for (extensions, words) in [
        ("subjectAltName=email:shop.example,email:www.shop.example", "not the name of a server"),
        ("subjectAltName=URI:shop.example,URI:www.shop.example", "not the name of a server"),
        (&format!("{names},otherName:1.2.3;UTF8:x"), "not the name of a server"),
        (&format!("{names}\nbasicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign"), "one of an authority"),
        (&format!("{names}\nkeyUsage=cRLSign"), "its key usage lacks digitalSignature"),
        (&format!("{names}\nextendedKeyUsage=clientAuth"), "its extended key usage lacks serverAuth"),
    ] {
        let (status, answer) = agent.send_with(&csr, extensions);
        assert!(status == 409 && answer.to_string().contains(words), "{extensions}: {status} {answer}");
    }
    let right = format!("{names}\nkeyUsage=digitalSignature\nextendedKeyUsage=serverAuth");
    let (status, answer) = agent.send_with(&csr, &right);
    assert_eq!(status, 200, "{answer}");
}

/// A certificate that begins before the present one is taken if a person asks: the authority may
/// have set its clock back.
#[test]
fn a_certificate_with_an_earlier_begin_is_taken_if_a_person_asks() {
    let agent = ByHand::start("");
    agent.renew();
    agent.cert(&["renew", "shop", "--now"]);
    let csr = agent.order();
    let (status, answer) = agent.send(&csr, 90, "-12h");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(agent.plan()["state"], "valid");
}
