//! Form of the file of the progress: it is read part by part, so that a damaged part takes nothing
//! from the others, and so are the files of earlier versions.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::known::Known;
use super::progress::Progress;
use crate::ground::replace::replace;
use crate::keys::Key;

/// Form of the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Stored {
    /// Account at each directory and of each key: the URL, a space, and the thumbprint.
    pub(super) accounts: BTreeMap<String, Account>,
    #[serde(flatten)]
    pub(super) known: Known,
    /// Progress by the name of the plan. A plan that is gone may come back.
    pub(super) plans: BTreeMap<String, Progress>,
    /// True if a file of before had numbers of versions, and a public key is still to be noted.
    #[serde(skip)]
    has_numbers: bool,
}

/// An account at an authority.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Account {
    /// URL of the account (RFC 8555, 7.3); `None` if the authority does not know the account any
    /// more.
    pub(crate) url: Option<String>,
    /// URL of the account before, and the time until which the daemon knew it.
    pub(crate) former: Option<(String, u64)>,
}

/// Damage of the file.
#[derive(Clone, Debug)]
pub(super) struct Damage {
    /// Words for a person.
    pub(super) words: String,
    /// Copy of the damaged file.
    pub(super) copy: PathBuf,
}

impl Stored {
    /// Reads the file. A file that is missing counts as empty: the accounts and certificates are
    /// found again. If the file was written once, its absence is damage, and a note is kept in the
    /// place of a copy. Of a damaged file, the parts that can be understood count, and a copy is
    /// kept under another name. Returns the damage, too, also one of before whose copy is still
    /// there.
    ///
    /// # Errors
    /// The file cannot be read, or its copy cannot be written: nothing may be written in its place.
    pub(super) fn open(file: &Path, was_written: bool) -> Result<(Self, Option<Damage>), String> {
        let bytes = match fs::read(file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return match Damage::of_before(file) {
                    None if was_written => {
                        Damage::missing(file).map(|damage| (Self::default(), Some(damage)))
                    }
                    before => Ok((Self::default(), before)),
                };
            }
            Err(error) => return Err(unreadable(file, &error)),
        };
        let (stored, damage) = Self::read(&bytes);
        let Some(damage) = damage else { return Ok((stored, Damage::of_before(file))) };
        // The same damage has one copy, however often the file is read.
        let digest = base16ct::lower::encode_string(&Sha256::digest(&bytes));
        let copy = file.with_added_extension(format!("damaged.{}", digest.get(..16).unwrap_or_default()));
        let kept = if copy.exists() { Ok(()) } else { replace(&copy, &bytes, 0o600) };
        kept.map_err(|error| {
            // A disk without room has no room for a part of the copy.
            let _ = fs::remove_file(copy.with_added_extension("new"));
            format!(
                "the progress of renewals in {} is damaged: {damage}; no certificate is renewed or revoked, because a copy cannot be kept in {}: {error}",
                file.display(),
                copy.display()
            )
        })?;
        let words = format!(
            "the progress of renewals in {} was damaged: {damage}; a copy is in {}; look at each plan (keyward cert status), ask again for what is missing, and remove the copy",
            file.display(),
            copy.display()
        );
        Ok((stored, Some(Damage { words, copy })))
    }

    /// Reads the bytes of a file. Returns the damage, too.
    pub(super) fn read(bytes: &[u8]) -> (Self, Option<String>) {
        let mut fields = match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return (Self::default(), Some("it is no JSON object; all plans begin anew".into())),
            Err(error) => return (Self::default(), Some(format!("{error}; all plans begin anew"))),
        };
        let (mut stored, mut lost) = (Self::default(), Vec::new());
        stored.known.read(&mut fields, &mut lost);
        for (name, part) in parts(&mut fields, "accounts", &mut lost) {
            match serde_json::from_value(part) {
                Ok(account) => drop(stored.accounts.insert(name, account)),
                Err(_) => lost.push(format!("the account at {name}")),
            }
        }
        for (name, part) in parts(&mut fields, "plans", &mut lost) {
            let Value::Object(mut fields) = part else {
                lost.push(format!("everything of the plan {name}"));
                continue;
            };
            stored.known.read_of_plan(&name, &mut fields, &mut lost);
            let (progress, damaged) = Progress::read(fields);
            lost.extend(damaged.into_iter().map(|field| format!("{field} of the plan {name}")));
            stored.has_numbers |= progress.has_numbers();
            stored.plans.insert(name, progress);
        }
        let damage = (!lost.is_empty()).then(|| format!("lost are: {}", lost.join(", ")));
        (stored, damage)
    }

    /// True if a file of before has numbers of versions of a key, of which the public keys are not
    /// noted yet. `plan` is a plan with this key.
    pub(super) fn has_numbers_of(&self, plan: &str, key: &Key) -> bool {
        self.has_numbers
            && self.plans.iter().any(|(name, progress)| progress.has_numbers_of(key, name == plan))
    }

    /// Notes the public keys in the place of the numbers of versions of a key.
    pub(super) fn convert(&mut self, plan: &str, key: &Key, now: u64) {
        for (name, progress) in &mut self.plans {
            if progress.has_numbers_of(key, name == plan) {
                progress.convert(key, &mut self.known, now);
            }
        }
        self.has_numbers = self.plans.values().any(Progress::has_numbers);
    }
}

impl Damage {
    /// Notes that the file is missing. An empty one takes its place, so that this is said until a
    /// person has removed the note, and not again after that.
    fn missing(file: &Path) -> Result<Self, String> {
        let copy = file.with_added_extension(MISSING);
        let words = format!(
            "the progress of renewals in {} is missing, and was there before: the daemon does not know any more which keys were called compromised and which certificates are revoked or to be revoked; stop the daemon and put the file back from a backup, or look at each plan (keyward cert status) and ask again for what is missing; then remove the note {}",
            file.display(),
            copy.display()
        );
        let written = replace(&copy, words.as_bytes(), 0o600).and_then(|()| replace(file, b"{}", 0o600));
        match written {
            Ok(()) => Ok(Self { words, copy }),
            Err(error) => Err(format!(
                "{words}; no certificate is renewed or revoked, because this cannot be noted: {error}"
            )),
        }
    }

    /// The damage of an earlier time, if its copy is there: no person has looked yet.
    fn of_before(file: &Path) -> Option<Self> {
        let begin = format!("{}.damaged", file.file_name()?.to_str()?);
        let entries = fs::read_dir(file.parent()?).ok()?.flatten();
        let mut copies: Vec<_> = entries
            .map(|entry| entry.path())
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&begin)))
            .filter(|path| path.extension().is_none_or(|end| end != "new"))
            .collect();
        copies.sort();
        let copy = copies.into_iter().next()?;
        let words = format!(
            "the progress of renewals in {} was damaged or missing at an earlier time; a copy or a note is in {}; look at each plan (keyward cert status), ask again for what is missing, and remove that file",
            file.display(),
            copy.display()
        );
        Some(Self { words, copy })
    }
}

/// End of the name of the note that the file was missing.
pub(super) const MISSING: &str = "damaged.missing";

/// Words for a file that cannot be read.
fn unreadable(file: &Path, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("give the file to the user of the daemon: chown keyward {}", file.display())
        }
        _ => "put the file back, or, if it is lost, remove what is in its place".to_owned(),
    };
    format!(
        "the progress of renewals in {} cannot be read: {error}; no certificate is renewed or revoked until it can; {advice}",
        file.display()
    )
}

fn parts(fields: &mut Map<String, Value>, name: &str, lost: &mut Vec<String>) -> Map<String, Value> {
    match fields.remove(name) {
        Some(Value::Object(parts)) => parts,
        None => Map::new(),
        Some(_) => {
            lost.push(name.to_owned());
            Map::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::known::digest;
    use super::super::known::tests::key_of;
    use super::super::revocation::Revocation;
    use super::super::revocation::tests::revocation;
    use super::*;

    /// Reads a file, which is not damaged, and must read the same after it was written again.
    fn read(file: &Value) -> Stored {
        let (stored, damage) = Stored::read(file.to_string().as_bytes());
        assert_eq!(damage, None);
        let again = Stored::read(&serde_json::to_vec(&stored).unwrap());
        assert_eq!(again, (stored.clone(), None));
        stored
    }

    #[test]
    fn a_file_of_before_is_converted() {
        let (certificate, asked) = revocation(1);
        let mut former = serde_json::to_value(&asked).unwrap();
        for new in ["plan", "key", "not_after"] {
            former.as_object_mut().unwrap().remove(new);
        }
        let (revoked, issued) = (certificate.fingerprint(), "ab".repeat(32));
        let mut stored = read(&json!({ "accounts": {}, "plans": {
            "shop": {
                "order": "https://ca/1", "version": 3, "key": "shop", "compromised": 1, "newer_than": 2,
                "refused_version": 2, "revoked": [revoked], "revocations": [former], "wishes": 4,
                "issued": [{ "certificate": issued, "directory": "https://ca/dir" }], "renewed_at": 7,
            },
            "gone": { "key": "other", "compromised": 5 },
            "early": { "compromised": 1 },
        }}));
        assert!(stored.known.is_revoked(&certificate));
        assert_eq!(stored.known.revocations(0).collect::<Vec<_>>(), [&asked]);
        let text = serde_json::to_string(&stored.known).unwrap();
        assert!(text.contains(&issued), "{text}");
        let shop = &stored.plans["shop"];
        assert_eq!((shop.order.as_deref(), shop.renewed_at, shop.wishes), (Some("https://ca/1"), Some(7), 4));

        // The numbers stay until their key is there, with whatever plan.
        let mut shop = key_of("shop", &[1, 2, 3]);
        shop.current = 1;
        let other = key_of("other", &[7, 8]);
        assert!(!stored.has_numbers_of("shop", &key_of("third", &[9])));
        assert!(stored.has_numbers_of("shop", &shop) && stored.has_numbers_of("x", &other));
        stored.convert("shop", &shop, 9);
        let progress = &stored.plans["shop"];
        assert_eq!((progress.ordered(&shop), progress.refused_version(&shop)), (Some(3), Some(2)));
        assert_eq!((stored.known.compromised(&shop), stored.known.newer_than(&shop)), (Some(1), Some(2)));
        assert!(!stored.has_numbers_of("shop", &shop) && stored.has_numbers_of("x", &other));
        // The fifth version is gone.
        stored.convert("x", &other, 9);
        assert_eq!(stored.known.compromised(&other), Some(2));
        // Without a label, the numbers are those of the key of the plan.
        let early = key_of("early", &[6]);
        assert!(!stored.has_numbers_of("x", &early));
        stored.convert("early", &early, 9);
        assert_eq!(stored.known.compromised(&early), Some(1));
        assert!(!stored.has_numbers);
        assert_eq!(read(&serde_json::to_value(&stored).unwrap()), stored);
    }

    #[test]
    fn a_damaged_element_takes_nothing_from_the_others() {
        let (certificate, asked) = revocation(4);
        let (second, other) = revocation(1);
        let damaged = |asked: &Revocation| {
            let mut damaged = serde_json::to_value(asked).unwrap();
            (damaged["reason"], damaged["is_sent"], damaged["directory"]) =
                (json!("x"), json!(5), json!(null));
            damaged
        };
        let compromised = digest(&[1]);
        let file = json!({
            "compromised": { compromised.as_str(): "x" },
            "newer_than": 5,
            "revoked": { "aa": null, "bb": 7 },
            "issued": { "cc": 1, second.fingerprint(): { "directory": "https://ca/other" } },
            "revocations": [damaged(&other), { "certificate": "x" }, { "certificate": "x", "reason": 4, "directory": "d" }],
            "former_orders": [5],
            "plans": {
                "shop": { "revoked": [1, "dd"], "revocations": [damaged(&asked), 1], "failures": "x", "wishes": 3 },
                "x": 1,
            },
            "accounts": [],
        });
        let (stored, damage) = Stored::read(file.to_string().as_bytes());
        assert_eq!(
            damage.unwrap(),
            format!(
                "lost are: the time of {compromised} in compromised, newer_than, the time of aa in revoked, the issuer of the certificate cc, some former_orders, parts of some revocations, some revocations, some revocations, accounts, some of revoked of the plan shop, parts of some revocations of the plan shop, some revocations of the plan shop, failures of the plan shop, everything of the plan x"
            )
        );
        assert!(stored.known.is_compromised(&compromised));
        let text = serde_json::to_string(&stored.known).unwrap();
        assert!(["aa", "bb", "dd"].iter().all(|of| text.contains(&format!("\"{of}\":"))), "{text}");
        // The authority may have revoked them.
        let kept: Vec<_> = stored.known.revocations(0).cloned().collect();
        assert!(kept.iter().all(|one| one.is_sent && one.reason == 0), "{kept:?}");
        assert_eq!((&kept[0].certificate, &kept[1].certificate), (&other.certificate, &asked.certificate));
        assert_eq!(kept[0].at.directory, "https://ca/other", "from its issuer");
        assert!(kept[1].at.is("https://any/dir", "any") && kept[1].plan == "shop");
        assert_eq!(kept[1].not_after, certificate.not_after());
        assert_eq!(stored.plans["shop"].wishes, 3);
    }
}
