//! Warnings about certificates that clients may refuse.

use std::time::{SystemTime, UNIX_EPOCH};

use super::output::{from_now, note, time, warn};
use crate::keys::certificates::Chain;

/// Warns of attached certificates that clients may refuse.
pub(super) fn warn_of_chain(chain: &Chain) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if chain.repeated > 0 {
        note("a certificate that is in the file several times was attached once");
    }
    warnings(chain, now).iter().for_each(warn);
}

/// Reasons why clients may refuse the certificates.
fn warnings(chain: &Chain, now: u64) -> Vec<String> {
    let mut warnings = Vec::new();
    for (certificate, number) in chain.certificates.iter().zip(1..) {
        let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
        let which = match number {
            1 => "the certificate".to_owned(),
            _ => format!("certificate {number} in the file ({})", certificate.subject()),
        };
        if now < not_before {
            warnings.push(format!(
                "{which} is not valid before {}, {}",
                time(not_before),
                from_now(not_before)
            ));
        }
        if now > not_after {
            warnings.push(format!("{which} has expired on {}, {}", time(not_after), from_now(not_after)));
        }
    }
    if let Some(first) = chain.certificates.first() {
        if first.names().is_empty() {
            warnings.push(
                "the certificate has no SubjectAltName: most clients refuse such a certificate of a server; request one with names: keyward csr LABEL --subject DN --san NAME"
                    .into(),
            );
        }
        if first.is_authority() {
            warnings.push(
                "the certificate is for an authority (CA:TRUE), not for a server or client: many clients refuse it"
                    .into(),
            );
        }
    }
    for number in chain.check().unwrap_or_default() {
        warnings.push(format!(
            "the signature on certificate {number} in the file has an algorithm that keyward does not verify, such as SHA-1; many clients refuse it"
        ));
    }
    warnings
}
