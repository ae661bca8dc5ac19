//! Expiry of the certificates in the daemon.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use keyward_proto::Use;

use super::finding::Finding;
use crate::admin::api::KeyView;
use crate::admin::client::AdminClient;
use crate::cli::key::{for_daemon, how_to_allow};
use crate::cli::output::{from_now, time};
use crate::keys::expiry::is_soon;

/// Checks the certificates of enabled keys. The certificate in use may be of an earlier version
/// than the current one.
pub(super) fn check(admin: &AdminClient, runtime_dir: &Path) -> Vec<Finding> {
    let keys = match admin.list() {
        Ok((keys, _)) => keys,
        Err(error) => {
            return vec![Finding::warn(CHECK, format!("not checked: {error}"), "fix that first")];
        }
    };
    let certified = |key: &KeyView| key.state == "enabled" && key.certified().is_some();
    let mut certified: Vec<_> = keys.into_iter().filter(certified).collect();
    certified.sort_by_key(|key| key.certified().map(|(_, certificate)| certificate.expires()));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut findings: Vec<_> = certified.iter().filter_map(|key| finding(key, now, runtime_dir)).collect();
    let more = findings.len().saturating_sub(MOST);
    findings.truncate(MOST);
    if more > 0 {
        let detail = format!("certificates of {more} more keys have expired or will soon");
        let command = for_daemon("keyward cert list".into(), runtime_dir);
        findings.push(Finding::warn(CHECK, detail, format!("list them: {command}")));
    }
    if let (true, Some((_, first))) = (findings.is_empty(), certified.first().and_then(KeyView::certified)) {
        findings.push(Finding::ok(
            CHECK,
            format!(
                "certificates in the daemon: {}, the first expires {}",
                certified.len(),
                from_now(first.expires())
            ),
        ));
    }
    findings
}

/// The command that makes a certificate request for a key. A key without the use `csr`, such as one
/// from the files of a server, first needs that use.
pub(super) fn how_to_request(key: Option<&KeyView>, label: &str, runtime_dir: &Path) -> String {
    let request = for_daemon(format!("keyward csr {label} --subject DN --san NAME"), runtime_dir);
    let is_allowed = |key: &&KeyView| {
        key.uses.iter().any(|one| [Use::Csr, Use::Any].map(Use::name).contains(&one.as_str()))
    };
    match key.filter(|key| !is_allowed(key)) {
        None => request,
        Some(key) => format!(
            "as it was made, for example by certbot; or, for a request by this key, first {}, then {request}",
            how_to_allow(runtime_dir, key, Use::Csr)
        ),
    }
}

fn finding(key: &KeyView, now: u64, runtime_dir: &Path) -> Option<Finding> {
    let label = &key.label;
    let command = |command: String| for_daemon(command, runtime_dir);
    let (number, certificate) = key.certified()?;
    let of_key = format!("of key {label} version {number} for {}", certificate.names_or_subject());
    let version = if number == key.current { String::new() } else { format!(" --version {number}") };
    let request = how_to_request(Some(key), label, runtime_dir);
    let attach = format!(
        "{}; if no server takes it from the daemon: {}",
        command(format!("keyward cert attach {label} --in CHAIN")),
        command(format!("keyward cert detach {label}{version}"))
    );
    let (what, not_before, not_after, fix) = match &certificate.expires_before {
        None => (
            format!("the certificate {of_key}"),
            certificate.not_before,
            certificate.not_after,
            format!("renew it ({request}), then: {attach}"),
        ),
        Some(first) => (
            format!("certificate {} ({}) in the chain {of_key}", first.number, first.subject),
            first.not_before,
            first.not_after,
            format!(
                "get the current chain from the authority, or renew the certificate ({request}), then: {attach}"
            ),
        ),
    };
    if now > not_after {
        let detail = format!("{what} has expired on {}, {}", time(not_after), from_now(not_after));
        return Some(Finding::fail(CHECK, detail, fix));
    }
    if now < certificate.not_before {
        let begin = certificate.not_before;
        let detail =
            format!("the certificate {of_key} is not valid before {}, {}", time(begin), from_now(begin));
        return Some(Finding::warn(CHECK, detail, "check the clock of this machine, or wait"));
    }
    is_soon(not_before, not_after, now).then(|| {
        let detail = format!("{what} expires on {}, {}", time(not_after), from_now(not_after));
        Finding::warn(CHECK, detail, fix)
    })
}

const CHECK: &str = "expiry";
/// Maximum number of keys that findings name.
const MOST: usize = 10;

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;
    use crate::admin::api::{CertificateView, IssuerView, VersionView};

    #[test]
    fn a_certificate_is_reported_in_time() {
        const DAY: u64 = 24 * 3600;
        let here = Path::new("/run/keyward");
        let key = |days: u64| KeyView {
            label: "shop".into(),
            state: "enabled".into(),
            current: 1,
            versions: vec![VersionView {
                number: 1,
                key_type: "p256".into(),
                created: 0,
                public_key: String::new(),
                certificate: Some(CertificateView {
                    subject: String::new(),
                    issuer: String::new(),
                    names: vec!["shop.example".into()],
                    not_before: 1000 * DAY,
                    not_after: (1000 + days) * DAY,
                    fingerprint: String::new(),
                    chain: 1,
                    expires_before: None,
                }),
            }],
            ..KeyView::default()
        };
        let verdict_of = |days: u64, age: i64| {
            let found = finding(&key(days), (1000 * DAY).checked_add_signed(age * 3600).unwrap(), here);
            found.map(|found| found.verdict)
        };
        for (days, age, verdict) in [
            (398, -1, Some(Verdict::Warn)),
            (398, 0, None),
            (398, 24 * 376, None),
            (398, 24 * 378, Some(Verdict::Warn)),
            (90, 24 * 68, None),
            (90, 24 * 70, Some(Verdict::Warn)),
            (6, 24 * 4, None),
            (6, 24 * 5, Some(Verdict::Warn)),
            (6, 24 * 6 + 1, Some(Verdict::Fail)),
        ] {
            assert_eq!(verdict_of(days, age), verdict, "{days} days, after {age} hours");
        }
        // A certificate that expires before it becomes valid has expired, whatever the clock.
        let mut odd = key(6);
        odd.versions[0].certificate.as_mut().unwrap().not_before = 2000 * DAY;
        assert_eq!(finding(&odd, 1500 * DAY, here).unwrap().verdict, Verdict::Fail);
        let mut chain = key(398);
        chain.versions[0].certificate.as_mut().unwrap().expires_before = Some(IssuerView {
            number: 2,
            subject: "CN=Inter".into(),
            not_before: 900 * DAY,
            not_after: 1030 * DAY,
        });
        let found = |day: u64| finding(&chain, day * DAY, here).map(|found| (found.verdict, found.detail));
        assert_eq!(found(1005), None);
        for (day, expected) in [(1010, Verdict::Warn), (1031, Verdict::Fail)] {
            let (verdict, detail) = found(day).unwrap();
            assert!(
                verdict == expected
                    && detail.starts_with("certificate 2 (CN=Inter) in the chain of key shop"),
                "{detail}"
            );
        }
    }
}
