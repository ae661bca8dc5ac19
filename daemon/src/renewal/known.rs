//! Facts about keys and certificates. No plan owns them: a plan may get another key, other names or
//! another name, and may get the former ones back.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::former::FormerOrder;
use super::revocation::{At, KEY_COMPROMISE, Revocation, never};
use crate::keys::certificates::Certificate;
use crate::keys::{Key, Version};

/// Facts about keys and certificates. Public keys are known by [`digest`], certificates by their
/// fingerprint (SHA-256 in hexadecimal digits). Times are in seconds since 1970.
///
/// No clock takes a fact away. A person says a word for each public key and each revocation here,
/// so the lists have some thousand entries after years.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Known {
    /// Public keys that a person has called compromised, and when. A version of a key gets no
    /// certificate any more if the version is one of these, or is older than one of these.
    compromised: BTreeMap<String, u64>,
    /// Public keys that the authority or a person has refused, and when. The next certificate of a
    /// key is for a newer version than the one here. Counts until a newer version is current.
    newer_than: BTreeMap<String, u64>,
    /// Certificates that an authority has revoked, or may have, and their ends.
    revoked: BTreeMap<String, u64>,
    /// Issuers of certificates.
    issued: BTreeMap<String, Issued>,
    /// Certificates that a person asked to revoke, the first one first. A certificate is here once.
    revocations: Vec<Revocation>,
    /// Orders whose certificates, if an authority has issued any, are to be revoked.
    former_orders: Vec<FormerOrder>,
}

/// Issuer of a certificate.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Issued {
    /// URL of the directory of the authority; `None` for a program.
    pub(crate) directory: Option<String>,
    /// Label of the account key; `None` if nobody knows.
    #[serde(default)]
    pub(crate) account_key: Option<String>,
    /// End of the certificate.
    #[serde(default = "never")]
    pub(crate) not_after: u64,
}

impl Issued {
    /// The account that has ordered the certificate; `None` for a program.
    pub(crate) fn at(&self) -> Option<At> {
        let directory = self.directory.clone()?;
        Some(At { directory, account_key: self.account_key.clone() })
    }
}

/// SHA-256 of a public key (SubjectPublicKeyInfo in DER), in hexadecimal digits.
pub(crate) fn digest(spki: &[u8]) -> String {
    base16ct::lower::encode_string(&Sha256::digest(spki))
}

/// The version of a key with a public key.
pub(crate) fn version_of<'k>(key: &'k Key, digest: &str) -> Option<&'k Version> {
    key.versions.iter().rev().find(|version| self::digest(&version.spki) == digest)
}

impl Known {
    /// The newest version of a key that a person has called compromised. It gets no certificate any
    /// more, and neither do older versions.
    pub(crate) fn compromised(&self, key: &Key) -> Option<u32> {
        newest_in(&self.compromised, key)
    }

    /// True if a person has called this very public key compromised.
    pub(crate) fn is_compromised(&self, digest: &str) -> bool {
        self.compromised.contains_key(digest)
    }

    /// The next certificate is for a newer version of a key than this one, which the authority or a
    /// person has refused.
    pub(crate) fn newer_than(&self, key: &Key) -> Option<u32> {
        newest_in(&self.newer_than, key).filter(|refused| key.current <= *refused)
    }

    /// Versions of a key up to this one get no certificate.
    pub(crate) fn refused(&self, key: &Key) -> Option<u32> {
        self.newer_than(key).max(self.compromised(key))
    }

    /// True if an authority has revoked a certificate, or may have.
    pub(crate) fn is_revoked(&self, certificate: &Certificate) -> bool {
        self.revoked.contains_key(&certificate.fingerprint())
    }

    /// True if an authority has revoked a certificate, or may have, or is to do it.
    pub(crate) fn is_unwanted(&self, certificate: &Certificate) -> bool {
        let der = URL_SAFE_NO_PAD.encode(certificate.der());
        self.is_revoked(certificate) || self.revocations.iter().any(|asked| asked.certificate == der)
    }

    /// Issuer of a certificate, if it is known.
    pub(crate) fn issuer(&self, certificate: &Certificate) -> Option<&Issued> {
        self.issued.get(&certificate.fingerprint())
    }

    /// Certificates that a person asked to revoke, without the ones that have expired. A clock that
    /// is wrong hides them, and takes none away.
    pub(crate) fn revocations(&self, now: u64) -> impl Iterator<Item = &Revocation> {
        self.revocations.iter().filter(move |asked| asked.not_after > now)
    }

    /// Notes that a person has called a public key compromised.
    pub(crate) fn note_compromised(&mut self, digest: String, now: u64) {
        self.compromised.entry(digest).or_insert(now);
    }

    /// Notes that the next certificate of a key is for a newer version than this one.
    pub(crate) fn want_newer_than(&mut self, key: &Key, number: u32, now: u64) {
        let number = self.newer_than(key).unwrap_or_default().max(number);
        let Some(version) = key.version(number) else { return };
        // One of a key is enough.
        self.newer_than.retain(|refused, _| version_of(key, refused).is_none());
        self.newer_than.insert(digest(&version.spki), now);
    }

    /// Notes a certificate that an issuer gave, and which is in the place of another one. Issuers
    /// of certificates that had ended long before this one began are forgotten.
    pub(crate) fn note_issued(&mut self, certificate: &Certificate, at: Option<At>, replaced: Option<&str>) {
        replaced.map(|replaced| self.issued.remove(replaced));
        let not_after = certificate.not_after();
        let begin = certificate.not_before();
        self.issued.retain(|_, issued| issued.not_after.saturating_add(LONG) > begin);
        let (directory, account_key) = at.map(|at| (at.directory, at.account_key)).unzip();
        let issued = Issued { directory, account_key: account_key.flatten(), not_after };
        self.issued.insert(certificate.fingerprint(), issued);
    }

    /// Notes that an authority has revoked a certificate, or may have.
    pub(crate) fn note_revoked(&mut self, revocation: &Revocation) {
        if let Some(certificate) = revocation.read_certificate() {
            self.revoked.insert(certificate.fingerprint(), certificate.not_after());
        }
    }

    /// Orders whose certificates, if an authority has issued any, are to be revoked.
    pub(crate) fn former_orders(&self) -> &[FormerOrder] {
        &self.former_orders
    }

    /// Notes an order whose certificate is to be revoked.
    pub(crate) fn note_former(&mut self, order: FormerOrder) {
        self.former_orders.retain(|known| known.url != order.url);
        self.former_orders.push(order);
    }

    /// True if a certificate is that of an order which is to be revoked, of the account of a key at
    /// the authority with this directory.
    pub(crate) fn is_of_former(&self, certificate: &Certificate, directory: &str, account_key: &str) -> bool {
        let mut orders = self.former_orders.iter();
        orders.any(|order| order.at.is(directory, account_key) && order.is_of(certificate))
    }

    /// Asks to revoke the certificate of an order for a compromised key. This ends the order, so
    /// that there is one revocation for each.
    pub(crate) fn revoke_former(&mut self, certificate: &Certificate) {
        let Some(at) = self.former_orders.iter().position(|order| order.is_of(certificate)) else { return };
        let FormerOrder { at, plan, key, .. } = self.former_orders.remove(at);
        if !self.is_unwanted(certificate) {
            self.revoke(Revocation::of(certificate, KEY_COMPROMISE, at, plan, key));
        }
    }

    /// Notes that the agent looks at some orders now. The pauses grow with the age.
    pub(crate) fn read_formers(&mut self, urls: &[String], now: u64) {
        for order in self.former_orders.iter_mut().filter(|order| urls.contains(&order.url)) {
            order.read(now);
        }
    }

    /// Gives up an order whose certificate was to be revoked.
    pub(crate) fn give_up_former(&mut self, url: &str) {
        self.former_orders.retain(|order| order.url != url);
    }

    /// Asks for a revocation. Another reason for the same certificate replaces the one before.
    pub(crate) fn revoke(&mut self, mut revocation: Revocation) {
        let is_same = |asked: &Revocation| asked.certificate == revocation.certificate;
        // The authority may have carried out the one before.
        revocation.is_sent = self.revocations.iter().any(|asked| is_same(asked) && asked.is_sent);
        self.revocations.retain(|asked| !is_same(asked));
        self.revocations.push(revocation);
    }

    /// The revocation of the same certificate that a person still wants, whatever its reason.
    pub(crate) fn wanted(&mut self, revocation: &Revocation) -> Option<&mut Revocation> {
        self.revocations.iter_mut().find(|asked| asked.certificate == revocation.certificate)
    }

    /// Notes that the authority has carried out a revocation. Another reason for the same
    /// certificate is still wanted.
    pub(crate) fn end(&mut self, revocation: &Revocation) {
        self.revocations.retain(|asked| !asked.is(revocation));
        self.note_revoked(revocation);
    }

    /// Gives up the revocation of a certificate. A certificate that the authority may have revoked
    /// counts as revoked.
    pub(crate) fn give_up(&mut self, revocation: &Revocation) {
        let Some(at) = self.revocations.iter().position(|asked| asked.certificate == revocation.certificate)
        else {
            return;
        };
        let given_up = self.revocations.remove(at);
        if given_up.is_sent {
            self.note_revoked(&given_up);
        }
    }

    /// Notes that nobody knows what has become of a message that the agent has. If nobody wants the
    /// revocation any more, the certificate counts as revoked.
    pub(crate) fn lose_sight_of(&mut self, revocation: &Revocation) {
        match self.wanted(revocation) {
            Some(asked) => asked.is_sent = true,
            None => self.note_revoked(revocation),
        }
    }

    /// Notes that the authority has not carried out a revocation. One that has failed does not keep
    /// the others waiting. False if nobody wants it any more.
    pub(crate) fn note_failed(&mut self, tried: &Revocation, is_answered: bool) -> bool {
        let Some(at) = self.revocations.iter().position(|asked| asked.certificate == tried.certificate)
        else {
            if !is_answered {
                self.note_revoked(tried);
            }
            return false;
        };
        let asked = self.revocations.remove(at);
        // Without an answer, the authority may have done it. A refusal is one of this message, and
        // not of the messages before.
        let is_sent = asked.is_sent && (!is_answered || tried.is_sent);
        self.revocations.push(Revocation { is_sent, ..asked });
        true
    }

    /// Takes the facts out of the fields of a file, one by one, so that a damaged one takes nothing
    /// from the others. Adds the damage to `lost`.
    pub(super) fn read(&mut self, fields: &mut Map<String, Value>, lost: &mut Vec<String>) {
        // The end of a certificate that is not known never comes.
        for (name, times, unknown) in [
            ("compromised", &mut self.compromised, 0),
            ("newer_than", &mut self.newer_than, 0),
            ("revoked", &mut self.revoked, never()),
        ] {
            for (of, time) in elements(fields.remove(name), name, lost) {
                if !time.is_u64() {
                    lost.push(format!("the time of {of} in {name}"));
                }
                times.insert(of, time.as_u64().unwrap_or(unknown));
            }
        }
        for (of, part) in elements(fields.remove("issued"), "issued", lost) {
            match Issued::deserialize(part) {
                Ok(issued) => drop(self.issued.insert(of, issued)),
                Err(_) => lost.push(format!("the issuer of the certificate {of}")),
            }
        }
        match fields.remove("former_orders") {
            Some(Value::Array(orders)) => {
                for order in orders {
                    match FormerOrder::deserialize(order) {
                        Ok(order) => self.former_orders.push(order),
                        Err(_) => lost.push("some former_orders".into()),
                    }
                }
            }
            Some(_) => lost.push("former_orders".into()),
            None => {}
        }
        match fields.remove("revocations") {
            Some(Value::Array(asked)) => self.read_revocations(&asked, ("", ""), "revocations", lost),
            Some(_) => lost.push("revocations".into()),
            None => {}
        }
    }

    /// Takes the facts out of the fields of a plan in a file of before, where they had their place.
    pub(super) fn read_of_plan(
        &mut self,
        plan: &str,
        fields: &mut Map<String, Value>,
        lost: &mut Vec<String>,
    ) {
        /// A certificate that an issuer gave, in a file of before.
        #[derive(Deserialize)]
        struct Former {
            certificate: String,
            directory: Option<String>,
        }

        let mut list = |name: &str, lost: &mut Vec<String>| match fields.remove(name) {
            Some(Value::Array(elements)) => elements,
            None => Vec::new(),
            Some(_) => {
                lost.push(format!("{name} of the plan {plan}"));
                Vec::new()
            }
        };
        for element in list("revoked", lost) {
            match element.as_str() {
                Some(fingerprint) => drop(self.revoked.insert(fingerprint.to_owned(), never())),
                None => lost.push(format!("some of revoked of the plan {plan}")),
            }
        }
        for element in list("issued", lost) {
            match Former::deserialize(element) {
                Ok(Former { certificate, directory }) => {
                    let issued = Issued { directory, account_key: None, not_after: never() };
                    self.issued.insert(certificate, issued);
                }
                Err(_) => lost.push(format!("some of issued of the plan {plan}")),
            }
        }
        let asked = list("revocations", lost);
        let key = fields.get("key").and_then(Value::as_str).unwrap_or_default();
        self.read_revocations(&asked, (plan, key), &format!("revocations of the plan {plan}"), lost);
    }

    fn read_revocations(
        &mut self,
        asked: &[Value],
        (plan, key): (&str, &str),
        field: &str,
        lost: &mut Vec<String>,
    ) {
        for part in asked {
            let Some((mut revocation, is_whole)) = Revocation::salvaged(part) else {
                lost.push(format!("some {field}"));
                continue;
            };
            if !is_whole {
                lost.push(format!("parts of some {field}"));
            }
            if revocation.plan.is_empty() {
                (revocation.plan, revocation.key) = (plan.to_owned(), key.to_owned());
            }
            let known = revocation.read_certificate();
            let known = known.and_then(|certificate| self.issuer(&certificate)?.at());
            if let Some(at) = known.filter(|_| revocation.at.directory.is_empty()) {
                revocation.at = at;
            }
            let is_sent = revocation.is_sent;
            self.revoke(revocation);
            if let Some(asked) = self.revocations.last_mut() {
                asked.is_sent |= is_sent;
            }
        }
    }
}

/// The newest version of a key whose public key is in a set.
fn newest_in(set: &BTreeMap<String, u64>, key: &Key) -> Option<u32> {
    if set.is_empty() {
        return None;
    }
    let newest = key.versions.iter().rev().find(|version| set.contains_key(&digest(&version.spki)));
    newest.map(|version| version.number)
}

fn elements(field: Option<Value>, name: &str, lost: &mut Vec<String>) -> Map<String, Value> {
    match field {
        Some(Value::Object(elements)) => elements,
        None => Map::new(),
        Some(_) => {
            lost.push(name.to_owned());
            Map::new()
        }
    }
}

/// Seconds between the end of a certificate and the begin of another one, after which the issuer of
/// the former one is forgotten: 30 days.
const LONG: u64 = 30 * 86_400;
#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::keys::tests::key;
    use crate::renewal::revocation::tests::revocation;

    /// A key with versions of these public keys, the last one current.
    pub(in crate::renewal) fn key_of(label: &str, publics: &[u8]) -> Key {
        let mut key = key(label);
        let first = key.versions.remove(0);
        key.versions.extend((1..).zip(publics).map(|(number, public)| Version {
            number,
            spki: vec![*public],
            ..first.clone()
        }));
        key.current = key.versions.len() as u32;
        key
    }

    #[test]
    fn a_public_key_is_compromised_wherever_it_is() {
        let mut known = Known::default();
        let shop = key_of("shop", &[1, 2, 3]);
        known.note_compromised(digest(&[2]), 5);
        known.want_newer_than(&key_of("other", &[7, 8]), 2, 5);
        assert_eq!(
            (known.compromised(&shop), known.refused(&shop)),
            (Some(2), Some(2)),
            "and the older ones"
        );
        assert_eq!(known.compromised(&key_of("renamed", &[2])), Some(1));
        assert_eq!(known.refused(&key_of("shop", &[5])), None, "a key that was made anew");
        // One that is not current yet was refused.
        let mut two = key_of("shop", &[3, 4]);
        two.current = 1;
        known.want_newer_than(&two, 1, 5);
        assert_eq!(known.newer_than(&two), Some(1));
        known.want_newer_than(&two, 2, 5);
        assert_eq!(known.newer_than(&two), Some(2));
        assert_eq!(known.newer_than.len(), 2, "one of each key");
        let mut three = key_of("shop", &[3, 4, 5]);
        assert_eq!(known.newer_than(&three), None, "a newer one is current");
        three.current = 2;
        assert_eq!(known.newer_than(&three), Some(2));
    }

    #[test]
    fn a_revocation_that_may_have_happened_is_not_forgotten() {
        let (certificate, asked) = revocation(4);
        let mut known = Known::default();
        // Nobody has the message.
        known.revoke(asked.clone());
        known.give_up(&asked);
        assert!(!known.is_revoked(&certificate) && known.wanted(&asked).is_none());
        // The message has another reason than the person wants by now.
        known.revoke(asked.clone());
        known.wanted(&asked).unwrap().is_sent = true;
        known.revoke(Revocation { reason: 1, ..asked.clone() });
        let mut refused = known.clone();
        assert!(refused.note_failed(&asked, true) && !refused.wanted(&asked).unwrap().is_sent);
        assert!(known.note_failed(&asked, false) && known.wanted(&asked).unwrap().is_sent);
        let mut done = known.clone();
        done.end(&asked);
        assert!(done.is_revoked(&certificate) && done.wanted(&asked).unwrap().reason == 1);
        known.give_up(&asked);
        assert!(known.is_revoked(&certificate) && known.wanted(&asked).is_none());
        // Whatever becomes of a message of which nobody knows.
        for lose in [
            |known: &mut Known, asked: &Revocation| known.lose_sight_of(asked),
            |known: &mut Known, asked: &Revocation| {
                assert!(!known.note_failed(asked, false));
            },
        ] {
            let mut known = Known::default();
            lose(&mut known, &asked);
            assert!(known.is_revoked(&certificate));
        }
    }

    #[test]
    fn only_issuers_of_certificates_that_ended_long_before_another_one_are_forgotten() {
        let (certificate, _) = revocation(4);
        let begin = certificate.not_before();
        let mut known = Known::default();
        for (name, not_after) in [("past", begin - LONG), ("ended", begin - LONG + 1), ("never", never())] {
            known.issued.insert(name.into(), Issued { directory: None, account_key: None, not_after });
        }
        known.note_issued(&certificate, None, None);
        let kept: Vec<_> = known.issued.into_keys().collect();
        assert!(
            kept.len() == 3 && kept.contains(&"ended".into()) && kept.contains(&"never".into()),
            "{kept:?}"
        );
    }

    #[test]
    fn the_certificate_of_a_former_order_is_revoked_once() {
        let (certificate, _) = revocation(1);
        let mut known = Known::default();
        let order = FormerOrder {
            url: "https://ca/1".into(),
            at: At { directory: "https://ca/dir".into(), account_key: Some("one".into()) },
            plan: "shop".into(),
            key: "shop".into(),
            public_key: digest(certificate.spki()),
            names: vec!["Shop.example".into()],
            since: 100,
            next_look: 0,
        };
        let others = [
            FormerOrder { url: "https://ca/2".into(), names: vec!["x.example".into()], ..order.clone() },
            FormerOrder { url: "https://ca/3".into(), public_key: digest(&[1]), ..order.clone() },
        ];
        others.iter().for_each(|other| known.note_former(other.clone()));
        assert!(!known.is_of_former(&certificate, "https://ca/dir", "one"));
        known.revoke_former(&certificate);
        assert_eq!(known.revocations(0).count(), 0, "of no order");
        known.note_former(order.clone());
        assert!(known.is_of_former(&certificate, "https://ca/dir", "one"));
        assert!(!known.is_of_former(&certificate, "https://ca/dir", "two"));
        assert!(!known.is_of_former(&certificate, "https://other/dir", "one"));
        known.read_formers(&[order.url], 5_000);
        let looks: Vec<_> = known.former_orders().iter().map(|order| order.next_look).collect();
        assert_eq!(looks, [0, 0, 9_900]);
        assert!(!known.former_orders()[2].is_to_be_read(5_000));
        for _ in 0..2 {
            known.revoke_former(&certificate);
            assert_eq!((known.revocations(0).count(), known.former_orders()), (1, &others[..]));
        }
    }
}
