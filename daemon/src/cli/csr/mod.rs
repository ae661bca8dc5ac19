//! `keyward csr`: a certificate request, signed in the crypto unit.

mod san;
mod subject;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use der::Encode;
use keyward_proto::{Label, PublicKey, Scheme, Use};
use pem_rfc7468::LineEnding;
use serde_json::json;

use super::client::Client;
use super::failure::Failure;
use super::key::{for_daemon, how_to_allow};
use super::output::{print, print_json};
use crate::admin::api::{KeyView, MAX_KEY_FILE};
use crate::admin::client::AdminClient;
use crate::ground::exit;
use crate::keys::certificates::request;
use san::San;
use subject::Subject;

#[derive(Args, Debug)]
#[command(override_usage = "keyward csr <LABEL> [OPTIONS]")]
pub(super) struct Csr {
    /// Label of the key
    #[arg(value_name = "LABEL", required_unless_present = "names")]
    label: Option<Label>,
    /// Subject of the certificate: /O=Shop/CN=shop.example, which is encoded in this order, or
    /// CN=shop.example,O=Shop, the form of RFC 4514, which is encoded in reverse order
    #[arg(long, value_name = "DN")]
    subject: Option<Subject>,
    /// Names of the certificate, any number, after LABEL: DNS names and IP addresses, or names with
    /// their kind: DNS:, IP:, email: or URI:
    #[arg(long = "san", value_name = "NAME", num_args = 1..)]
    names: Vec<San>,
    /// Version of the key [default: the current version]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    version: Option<u32>,
    #[command(flatten)]
    client: Client,
}

impl Csr {
    pub(super) fn run(self) -> Result<(), Failure> {
        let label = self.label.as_ref().ok_or_else(|| {
            Failure::new(
                exit::USAGE,
                "cannot make a certificate request without a label: --san takes all words after it as names; write \
                 keyward csr LABEL --san NAME...",
            )
        })?;
        let (version, pem) = self.make(label).map_err(|failure| {
            failure.while_trying(format_args!("cannot make a certificate request for key {label}"))
        })?;
        if self.client.json {
            return print_json(&json!({ "label": label.as_str(), "version": version, "pem": pem }));
        }
        print(&pem)
    }

    fn make(&self, label: &Label) -> Result<(u32, String), Failure> {
        if self.subject.is_none() && self.names.is_empty() {
            return Err(Failure::new(exit::USAGE, "it would have no name; give --subject, --san or both"));
        }
        let admin = AdminClient::new(&self.client.runtime_dir)?;
        let key = admin.show(label.as_str())?;
        self.refuse_other_uses(&key)?;
        let number = self.version.unwrap_or(key.current);
        let version = key.versions.iter().find(|version| version.number == number).ok_or_else(|| {
            let show = for_daemon(format!("keyward key show {label}"), &self.client.runtime_dir);
            Failure::new(
                exit::NO_INPUT,
                format_args!("the key has no version {number}; list the versions: {show}"),
            )
        })?;
        let spki =
            STANDARD.decode(&version.public_key).ok().filter(|spki| PublicKey::from_spki(spki).is_ok());
        let spki =
            spki.ok_or_else(|| Failure::new(exit::SOFTWARE, "the daemon sent an unknown public key"))?;

        let too_long = |_| Failure::new(exit::DATA, "it would be too long; give fewer names");
        let subject = self.subject.as_ref().map(Subject::to_name).transpose().map_err(too_long)?;
        let names =
            self.names.iter().map(San::to_general_name).collect::<Result<_, _>>().map_err(too_long)?;
        let info = request::info(subject, names, &spki).map_err(too_long)?;
        let signed_part = info.to_der().map_err(too_long)?;
        if signed_part.len() > MAX_KEY_FILE {
            let length = signed_part.len();
            return Err(Failure::new(
                exit::DATA,
                format_args!(
                    "it would have {length} bytes, but may have at most {MAX_KEY_FILE}; give fewer names"
                ),
            ));
        }
        let signed = admin.sign_request(label.as_str(), number, signed_part)?;
        let scheme = Scheme::ALL.into_iter().find(|scheme| scheme.name() == signed.scheme);
        let whole = scheme
            .zip(STANDARD.decode(&signed.signature).ok())
            .and_then(|(scheme, signature)| request::whole(info, scheme, &signature));
        let whole = whole.ok_or_else(|| {
            Failure::new(
                exit::SOFTWARE,
                "the daemon used an unknown signature scheme; run the keyward of the same version as the daemon",
            )
        })?;
        let pem = pem_rfc7468::encode_string("CERTIFICATE REQUEST", LineEnding::LF, &whole);
        Ok((number, pem.map_err(|error| Failure::new(exit::SOFTWARE, error))?))
    }

    /// Refuses keys without the use csr, as the daemon does. The command line checks too, because
    /// only it can print the runtime directory in its advice.
    fn refuse_other_uses(&self, key: &KeyView) -> Result<(), Failure> {
        let has = |needed: Use| key.uses.iter().any(|u| u == needed.name());
        if has(Use::Csr) || has(Use::Any) {
            return Ok(());
        }
        let how = how_to_allow(&self.client.runtime_dir, key, Use::Csr);
        let uses = key.uses.join(", ");
        Err(Failure::new(
            exit::NO_PERMISSION,
            format_args!("the uses of the key are {uses}, without csr; allow it: {how}"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::purpose::{Purpose, classify};

    /// An Ed25519 key with an arbitrary point.
    fn spki() -> Vec<u8> {
        let header = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        [&header[..], &[7; 32]].concat()
    }

    #[test]
    fn the_daemon_recognises_the_request() {
        let subject: Subject = "CN=shop.example,O=Shop+OU=Web".parse().unwrap();
        let names: Vec<San> = ["shop.example", "192.0.2.1"].map(|name| name.parse().unwrap()).into();
        for (subject, names) in [(Some(&subject), &names[..]), (Some(&subject), &[]), (None, &names)] {
            let names = names.iter().map(|name| name.to_general_name().unwrap()).collect();
            let info = request::info(subject.map(|subject| subject.to_name().unwrap()), names, &spki());
            assert_eq!(classify(&info.unwrap().to_der().unwrap(), &spki()), Purpose::CertificateRequest);
        }
    }
}
