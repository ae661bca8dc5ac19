//! Keys as text for people.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width};
use sha2::{Digest, Sha256};

use crate::admin::api::{ApprovalView, KeyView};
use crate::cli::failure::Failure;
use crate::cli::output::{ago, columns, from_now, print, print_table, table, table_without_titles, time};
use crate::ground::ownership::Name;
use crate::keys::Deletion;

/// Table of keys that is printed a part at a time. The first part decides about the columns: if
/// that part is wider than a terminal, the table lacks the columns that matter least.
#[derive(Default)]
pub(super) struct KeyTable {
    /// The columns and the width of each one; none before the first part.
    columns: Vec<(usize, usize)>,
}

impl KeyTable {
    /// Prints the next keys.
    pub(super) fn print(&mut self, keys: &[KeyView]) -> Result<(), Failure> {
        print_table(&self.part(keys, columns()))
    }

    fn part(&mut self, keys: &[KeyView], width: Option<u16>) -> Table {
        let rows: Vec<_> = keys.iter().map(cells).collect();
        let is_first = self.columns.is_empty();
        if is_first {
            self.columns = shown(&rows, width);
        }
        let titles: Vec<_> = self.columns.iter().map(|(column, _)| TITLES[*column]).collect();
        let mut table = if is_first { table(&titles) } else { table_without_titles() };
        table.set_content_arrangement(ContentArrangement::Disabled);
        let of_row = |row: &[String; 8]| {
            self.columns.iter().map(|(column, _)| row[*column].clone()).collect::<Vec<_>>()
        };
        table.add_rows(rows.iter().map(of_row));
        for (column, (_, width)) in table.column_iter_mut().zip(&self.columns) {
            let with_blanks = u16::try_from(width + 2).unwrap_or(u16::MAX);
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(with_blanks)));
        }
        table
    }
}

/// The columns that have a place, with their widths.
fn shown(rows: &[[String; 8]], width: Option<u16>) -> Vec<(usize, usize)> {
    let width_of = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(TITLES[column].len())
    };
    let mut shown: Vec<_> = (0..TITLES.len()).map(|column| (column, width_of(column))).collect();
    for title in LEAST {
        // Two blanks are between columns.
        let needed: usize = shown.iter().map(|(_, width)| width + 2).sum();
        if width.is_none_or(|width| needed <= usize::from(width) + 2) {
            break;
        }
        shown.retain(|(column, _)| TITLES[*column] != title);
    }
    shown
}

fn cells(key: &KeyView) -> [String; 8] {
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
        let of = |width| KeyTable::default().part(&keys, width).lines().collect::<Vec<_>>();
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

    #[test]
    fn the_parts_of_a_table_have_the_same_columns() {
        let key = |label: &str| KeyView {
            label: label.into(),
            state: "enabled".into(),
            key_type: "p256".into(),
            backend: "embedded".into(),
            ..KeyView::default()
        };
        let mut table = KeyTable::default();
        let mut lines = |keys: &[KeyView]| table.part(keys, Some(90)).lines().collect::<Vec<_>>();
        let first = lines(&[key("shop.example.org"), key("mail")]);
        let second = lines(&[key("a"), key("b")]);
        let longer = lines(&[key("a.label.that.is.longer.than.the.ones.before")]);
        assert_eq!((first.len(), second.len(), longer.len()), (3, 2, 1));
        let place = |line: &String| line.find("enabled").unwrap();
        assert_eq!(place(&first[1]), place(&second[0]), "{first:#?} {second:#?}");
        assert!(longer[0].contains("before") && place(&longer[0]) > place(&first[1]), "{longer:#?}");
    }
}
