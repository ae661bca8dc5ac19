//! Records of the DNS that keep an authority from issuing: CAA (RFC 8659), and broken signatures
//! (DNSSEC). The program dig(1) asks the resolver of this host.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use super::finding::Finding;
use crate::ground::dig::{self, Answer};

/// Who is to issue.
#[derive(Clone, Copy)]
pub(super) struct Issuer<'p> {
    /// Domain of the authority in CAA records.
    pub(super) domain: &'p str,
    /// URL of the account there, if there is one.
    pub(super) account: Option<&'p str>,
    /// How the names are validated, such as `http-01` (RFC 8657, 4).
    pub(super) method: &'p str,
}

/// Checks what an authority looks up for a name.
pub(super) fn check(check: &'static str, name: &str, issuer: &Issuer<'_>) -> Vec<Finding> {
    // Authorities look up nothing for addresses.
    if name.parse::<IpAddr>().is_ok() {
        return Vec::new();
    }
    if !Path::new(dig::PROGRAM).exists() {
        let fix = "install it: apt install bind9-dnsutils";
        return vec![Finding::warn(
            check,
            format!("CAA and DNSSEC of {name} not checked: {} is not there", dig::PROGRAM),
            fix,
        )];
    }
    let host = name.trim_start_matches("*.");
    let broken = |host: &str| {
        let fix = "correct the signatures of the zone, or its DS record at the parent; see: dnsviz.net";
        let detail = format!(
            "the signatures of {host} (DNSSEC) are broken, and authorities look up nothing that is not validated"
        );
        Finding::fail(check, detail, fix)
    };
    if ask(host, "A").is_some_and(|answer| is_broken(&answer, host, "A")) {
        return vec![broken(host)];
    }
    let mut at = host;
    loop {
        let Some(answer) = ask(at, "CAA") else {
            let detail = format!("CAA of {at} not checked: the resolver of this host does not answer");
            return vec![Finding::warn(check, detail, "see /etc/resolv.conf")];
        };
        if is_broken(&answer, at, "CAA") {
            return vec![broken(at)];
        }
        if answer.status == "SERVFAIL" {
            let detail =
                format!("the look-up of the CAA records of {at} fails, and authorities refuse to issue then");
            return vec![Finding::fail(
                check,
                detail,
                "correct the server of the zone, which must answer for CAA",
            )];
        }
        let records: Vec<_> = answer.data.iter().filter_map(|line| Caa::read(line)).collect();
        if !records.is_empty() {
            return refusal(check, name, at, &records, issuer).into_iter().collect();
        }
        // The records of the nearest parent count (RFC 8659, 3).
        match at.split_once('.') {
            Some((_, parent)) if parent.contains('.') => at = parent,
            _ => return Vec::new(),
        }
    }
}

/// A CAA record: its property, and the value.
#[derive(Debug, Eq, PartialEq)]
struct Caa {
    tag: String,
    value: String,
}

impl Caa {
    /// Reads a line of dig, such as `0 issue "ca.example; accounturi=https://ca.example/1"`.
    fn read(line: &str) -> Option<Self> {
        let (_, rest) = line.trim().split_once(' ')?;
        let (tag, value) = rest.trim().split_once(' ')?;
        Some(Self { tag: tag.to_ascii_lowercase(), value: value.trim().trim_matches('"').to_owned() })
    }

    /// True if the record lets an authority issue for an account, by its method.
    fn admits(&self, issuer: &Issuer<'_>) -> bool {
        let (domain, rest) = self.value.split_once(';').unwrap_or((&self.value, ""));
        let parameter = |name: &str| {
            let mut all = rest.split(';').filter_map(|part| part.trim().split_once('='));
            all.find(|(known, _)| known.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        let is_account = |named: &str| issuer.account.is_none_or(|account| named == account);
        let is_method = |named: &str| named.split(',').any(|one| one.trim() == issuer.method);
        domain.trim().eq_ignore_ascii_case(issuer.domain)
            && parameter("accounturi").is_none_or(is_account)
            && parameter("validationmethods").is_none_or(is_method)
    }
}

/// A finding if none of the records lets the authority issue.
fn refusal(
    check: &'static str,
    name: &str,
    at: &str,
    records: &[Caa],
    issuer: &Issuer<'_>,
) -> Option<Finding> {
    let of = |tag: &str| records.iter().filter(|one| one.tag == tag).collect::<Vec<_>>();
    let (issue, wild) = (of("issue"), of("issuewild"));
    // For a star, issuewild counts if there is one (RFC 8659, 4.3).
    let counted = if name.starts_with("*.") && !wild.is_empty() { wild } else { issue };
    if counted.is_empty() || counted.iter().any(|one| one.admits(issuer)) {
        return None;
    }
    let values: Vec<_> = counted.iter().map(|one| format!("\"{}\"", one.value)).collect();
    let Issuer { domain, method, .. } = issuer;
    let detail = format!(
        "the CAA records of {at} admit {}, and not {domain} by {method} for {name}",
        values.join(" and ")
    );
    Some(Finding::fail(check, detail, "add the record that keyward cert status PLAN prints"))
}

/// True if the resolver answers only a client that does not want validation.
fn is_broken(answer: &Answer, name: &str, kind: &str) -> bool {
    let unchecked = || run(&["+cd", name, kind]);
    answer.status == "SERVFAIL" && unchecked().is_some_and(|answer| answer.status != "SERVFAIL")
}

fn ask(name: &str, kind: &str) -> Option<Answer> {
    run(&[name, kind])
}

fn run(words: &[&str]) -> Option<Answer> {
    let options = ["+time=3", "+tries=2", "+nocookie"];
    let output = Command::new(dig::PROGRAM).args(dig::OPTIONS).args(options).args(words).output().ok()?;
    dig::read(&String::from_utf8_lossy(&output.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_property_and_a_value() {
        let expected =
            Caa { tag: "issue".into(), value: "ca.example; accounturi=https://ca.example/1".into() };
        assert_eq!(Caa::read("0 issue \"ca.example; accounturi=https://ca.example/1\""), Some(expected));
    }

    #[test]
    fn records_admit_an_authority_and_an_account() {
        let refused = |name: &str, records: &[&str], account: Option<&str>| {
            let records: Vec<_> = records.iter().map(|line| Caa::read(line).unwrap()).collect();
            let issuer = Issuer { domain: "ca.example", account, method: "http-01" };
            refusal("renewal", name, "shop.example", &records, &issuer).is_some()
        };
        let mine = "0 issue \"ca.example; accounturi=https://ca.example/1\"";
        for (name, records, account, is_refused) in [
            ("shop.example", vec!["0 issue \"ca.example\""], None, false),
            ("shop.example", vec!["0 issue \"CA.example\""], None, false),
            ("shop.example", vec!["0 issue \"other.example\""], None, true),
            ("shop.example", vec!["0 issue \";\""], None, true),
            ("shop.example", vec!["0 iodef \"mailto:a@shop.example\""], None, false),
            ("shop.example", vec![mine], Some("https://ca.example/1"), false),
            ("shop.example", vec![mine], Some("https://ca.example/2"), true),
            ("shop.example", vec![mine], None, false),
            ("shop.example", vec!["0 issue \"ca.example; validationmethods=dns-01\""], None, true),
            ("shop.example", vec!["0 issue \"ca.example; validationmethods=dns-01,http-01\""], None, false),
            ("*.shop.example", vec![mine, "0 issuewild \";\""], None, true),
            ("*.shop.example", vec!["0 issue \";\"", "0 issuewild \"ca.example\""], None, false),
            ("shop.example", vec!["0 issue \"ca.example\"", "0 issuewild \";\""], None, false),
        ] {
            assert_eq!(refused(name, &records, account), is_refused, "{name} {records:?}");
        }
    }
}
