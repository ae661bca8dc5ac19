//! Keys as text for people.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comfy_table::{ContentArrangement, Table};
use sha2::{Digest, Sha256};

use crate::admin::api::{ApprovalView, KeyView};
use crate::cli::failure::Failure;
use crate::cli::output::{ago, columns, from_now, print, print_table, table, time};
use crate::ground::ownership::Name;
use crate::keys::Deletion;

pub(super) fn print_keys(keys: &[KeyView]) -> Result<(), Failure> {
    print_table(&list(keys, columns()))
}

/// Table of keys with whole cells. If it is wider than a terminal, it lacks the columns that matter
/// least.
fn list(keys: &[KeyView], width: Option<u16>) -> Table {
    let cells = |key: &KeyView| {
        [
            key.label.clone(),
            key.key_type.clone(),
            if key.problem.is_none() { key.current.to_string() } else { String::new() },
            state(key),
            key.uses.join(", "),
            key.backend.clone(),
            expires(key),
            key.last_used.map(ago).unwrap_or_default(),
        ]
    };
    let titles = TITLES.map(str::to_owned);
    let rows: Vec<_> = [titles].into_iter().chain(keys.iter().map(cells)).collect();
    let width_of = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut shown: Vec<_> = (0..TITLES.len()).collect();
    for title in LEAST {
        // Two blanks are between columns.
        let needed: usize = shown.iter().map(|column| width_of(*column) + 2).sum();
        if width.is_none_or(|width| needed <= usize::from(width) + 2) {
            break;
        }
        shown.retain(|column| TITLES[*column] != title);
    }
    let of_row = |row: &[String; 8]| shown.iter().map(|column| row[*column].clone()).collect::<Vec<_>>();
    let mut table = table(&shown.iter().map(|column| TITLES[*column]).collect::<Vec<_>>());
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.add_rows(rows[1..].iter().map(of_row));
    table
}

const TITLES: [&str; 8] = ["LABEL", "TYPE", "VERSION", "STATE", "USES", "BACKEND", "CERTIFICATE", "LAST USE"];

/// Columns that a narrow terminal does not show, the first one first.
const LEAST: [&str; 6] = ["BACKEND", "VERSION", "USES", "TYPE", "LAST USE", "CERTIFICATE"];

pub(super) fn print_key(key: &KeyView) -> Result<(), Failure> {
    let mut text = format!(
        "label       {}\nstate       {}\ntype        {}\nuses        {}\nbackend     {} ({})\n",
        key.label,
        state_in_full(key),
        key.key_type,
        key.uses.join(", "),
        key.backend,
        key.unit
    );
    text += &life(key);
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

/// State of a key, for a column of a table.
fn state(key: &KeyView) -> String {
    match (key.deletion, key.approval) {
        (Some(deletion), _) => format!("{}, destroyed {}", key.state, from_now(deletion.destroy_at)),
        (None, Some(_)) => format!("{}, deletion asked for", key.state),
        (None, None) => key.state.clone(),
    }
}

/// State of a key, with the word of NIST SP 800-57 if that is another one.
fn state_in_full(key: &KeyView) -> String {
    match key.standing.as_deref().filter(|standing| *standing != key.state) {
        Some(standing) => format!("{} ({standing})", key.state),
        None => key.state.clone(),
    }
}

/// Lines about dates, deletion and last uses.
fn life(key: &KeyView) -> String {
    let mut text = String::new();
    if let Some(date) = key.not_before {
        text += &format!("not before  {} ({})\n", time(date), from_now(date));
    }
    if let Some(date) = key.not_after {
        text += &format!("not after   {} ({})\n", time(date), from_now(date));
    }
    if let Some(Deletion { by, at, destroy_at }) = key.deletion {
        let then = from_now(destroy_at);
        text += &format!(
            "deleted     {} by {}, destroyed at {} ({then})\n",
            time(at),
            Name(by),
            time(destroy_at)
        );
    }
    if key.dual {
        text += "deletion    needs two users\n";
    }
    if let Some(ApprovalView { by, at, until }) = key.approval {
        text += &format!(
            "            {} asked at {}; another user can delete the key until {}\n",
            Name(by),
            time(at),
            time(until)
        );
    }
    if let (None, Some(since)) = (key.last_used, key.usage_since) {
        text += &format!("last use    none since {} ({})\n", time(since), ago(since));
    }
    for (number, peer) in key.peers.iter().enumerate() {
        let title = if number == 0 { "last use" } else { "" };
        let command = peer.command.as_ref().map(|command| format!(", {command}")).unwrap_or_default();
        let unit = peer.unit.as_ref().map(|unit| format!(", {unit}")).unwrap_or_default();
        let times = if peer.count == 1 { "once".to_owned() } else { format!("{} times", peer.count) };
        text += &format!(
            "{title:<12}{} ({}) by {}{unit}{command}, {times}\n",
            time(peer.last),
            ago(peer.last),
            Name(peer.uid)
        );
    }
    if let (Some(last), Some(since)) = (key.last_used, key.usage_since)
        && last < since
    {
        text += &format!(
            "            a later use before {} may be missing: the daemon was not stopped in order\n",
            time(since)
        );
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::now;

    #[test]
    fn a_narrow_list_has_whole_cells() {
        let key = |label: &str| KeyView {
            label: label.into(),
            state: "enabled".into(),
            key_type: "rsa-pss4096".into(),
            uses: vec!["tls-server".into(), "csr".into()],
            backend: "embedded".into(),
            current: 1,
            last_used: Some(now() - 100_000),
            ..KeyView::default()
        };
        let deletion = Deletion { by: 0, at: now(), destroy_at: now() + 2_500_000 };
        let deleted = KeyView { deletion: Some(deletion), state: "deleted".into(), ..key("mail") };
        let keys = [key("shop.example.org"), deleted];
        let of = |width| list(&keys, width).lines().collect::<Vec<_>>();
        let all = of(None);
        assert!(TITLES.iter().all(|title| all[0].contains(title)), "{all:?}");
        for width in [40, 80, 100, 120, 140] {
            let lines = of(Some(width));
            assert_eq!(lines.len(), 1 + keys.len(), "{lines:#?}");
            for (line, key) in lines[1..].iter().zip(&keys) {
                assert!(line.contains(&key.label) && line.contains(&state(key)), "{line}");
            }
            let is_least = width < 60;
            assert!(is_least || lines.iter().all(|line| line.trim().len() <= width.into()), "{lines:#?}");
        }
        let lines = of(Some(80));
        assert!(
            lines[0].contains("LAST USE") && lines[2].contains("deleted, destroyed in 28 days"),
            "{lines:#?}"
        );
        assert!(!lines[0].contains("BACKEND"), "{lines:#?}");
    }
}
