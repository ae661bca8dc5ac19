//! Certificates that an authority gives.

use super::by_hand::{ByHand, NEVER_SERVED};
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

/// A failure says nothing about the certificate of the plan any more, once its reason is gone.
#[test]
fn a_failure_does_not_outlive_its_reason() {
    let agent = ByHand::start(NEVER_SERVED);
    agent.renew();
    let names = "names = [\"shop.example\", \"www.shop.example\"]";
    agent.change(names, "names = [\"typo.example\"]");
    agent.begin();
    agent.failed("rejectedIdentifier");
    assert_eq!(agent.plan()["state"], "failing");
    agent.change("names = [\"typo.example\"]", names);
    let plan = agent.plan();
    assert_eq!(
        (&plan["state"], &plan["failures"], &plan["last_error"]),
        (&json!("valid"), &json!(0), &Value::Null)
    );
}

/// The chain is attached, and then the disk is full: the agent brings the chain again, and nobody
/// orders another one.
#[test]
fn a_chain_that_was_attached_is_not_ordered_again() {
    let agent = ByHand::start("new-key = true\n");
    agent.renew();
    let renewed_at = agent.plan()["renewed_at"].as_u64().unwrap();
    agent.cert(&["renew", "shop", "--now"]);
    let csr = agent.order();
    let [file, aside] = ["renewals.json", "aside"].map(|name| agent.scene.daemon.path("state").join(name));
    fs::rename(&file, &aside).unwrap();
    // Nothing can be written in the place of a directory.
    fs::create_dir(&file).unwrap();
    let (status, answer) = agent.send(&csr, 90, "-30");
    assert_eq!(status, 507, "{answer}");
    fs::remove_dir(&file).unwrap();
    fs::rename(&aside, &file).unwrap();
    let plan = agent.plan();
    assert_eq!((&plan["state"], &plan["certificate"]["version"]), (&json!("due"), &json!(2)), "{plan}");
    assert_eq!(agent.current(), 2, "no listener is waited for");
    assert_eq!(agent.begin(), agent.here.as_str(), "the order goes on");
    let chain = fs::read(csr.with_extension("pem")).unwrap();
    let (status, answer) = agent.post("chain", &chain);
    assert_eq!(status, 200, "{answer}");
    agent.report(json!("end"));
    let plan = agent.plan();
    assert_eq!((&plan["state"], &plan["failures"]), (&json!("valid"), &json!(0)), "{plan}");
    assert!(plan["renewed_at"].as_u64().unwrap() >= renewed_at);
    agent.cert(&["renew", "shop", "--now"]);
    agent.order();
    let (status, answer) = agent.post("chain", &chain);
    assert!(status == 409, "a chain of before for another order: {answer}");
}
