//! Keys as text for people.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::admin::api::KeyView;
use crate::cli::failure::Failure;
use crate::cli::output::{from_now, print, print_table, table, time};

pub(super) fn print_keys(keys: &[KeyView]) -> Result<(), Failure> {
    let mut rows = table(&["LABEL", "TYPE", "VERSION", "STATE", "USES", "BACKEND", "CERTIFICATE"]);
    for key in keys {
        rows.add_row([
            key.label.as_str(),
            &key.key_type,
            &if key.problem.is_none() { key.current.to_string() } else { String::new() },
            &key.state,
            &key.uses.join(", "),
            &key.backend,
            &expires(key),
        ]);
    }
    print_table(&rows)
}

pub(super) fn print_key(key: &KeyView) -> Result<(), Failure> {
    let mut text = format!(
        "label       {}\nstate       {}\ntype        {}\nuses        {}\nbackend     {} ({})\n",
        key.label,
        key.state,
        key.key_type,
        key.uses.join(", "),
        key.backend,
        key.unit
    );
    for version in &key.versions {
        let created = time(version.created);
        let current = if version.number == key.current { ", current" } else { "" };
        text += &format!(
            "version {:<3} {}, since {created}{current}\n            public key SHA-256 {}\n",
            version.number,
            version.key_type,
            fingerprint(&version.public_key)
        );
        if let Some(certificate) = &version.certificate {
            text += &format!(
                "            certificate for {} until {} ({})\n",
                certificate.names_or_subject(),
                time(certificate.not_after),
                from_now(certificate.not_after),
            );
            if let Some(first) = &certificate.expires_before {
                text += &format!(
                    "            certificate {} of its chain ({}) until {} ({})\n",
                    first.number,
                    first.subject,
                    time(first.not_after),
                    from_now(first.not_after),
                );
            }
        }
    }
    print(&text)
}

/// Time until the certificate in use expires, for a column of a table.
fn expires(key: &KeyView) -> String {
    let Some((number, certificate)) = key.certified() else { return String::new() };
    let then = from_now(certificate.expires());
    let verb = if then.starts_with("in ") { "expires" } else { "expired" };
    let version = if number == key.current { String::new() } else { format!(" (version {number})") };
    format!("{verb} {then}{version}")
}

/// SHA-256 of the SubjectPublicKeyInfo. The command `openssl pkey -pubin -outform DER | sha256sum`
/// gives the same digits.
fn fingerprint(public_key: &str) -> String {
    let spki = STANDARD.decode(public_key).unwrap_or_default();
    base16ct::lower::encode_string(&Sha256::digest(spki))
}
