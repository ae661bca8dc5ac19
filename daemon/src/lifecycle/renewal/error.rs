//! Reasons why a step of a plan was refused.

use std::io;
use std::path::PathBuf;

use keyward_proto::Label;
use thiserror::Error;

use crate::ground::text::time;

/// Reason why a step of a plan was refused.
#[derive(Debug, Error)]
pub(crate) enum RenewalError {
    #[error("there is no plan {0} in the configuration; the plans are listed by: keyward cert status")]
    NoPlan(Label),
    #[error("the plan \"{0}\" has a program as its issuer, so it has no messages of ACME, and no revocation")]
    NotAcme(Label),
    #[error(
        "key {0} cannot be the key of an ACME account: it must be of type p256, with the only use acme-account; name another label in account-key"
    )]
    NotAnAccountKey(Label),
    #[error("{url:?} is not a URL of the authority, whose URLs begin with {origin}/")]
    OtherUrl { url: String, origin: String },
    #[error("the nonce is not one of ACME: 1 to 256 letters, digits, - and _ (RFC 8555, 6.5.1)")]
    Nonce,
    #[error("there is no account at the authority yet")]
    NoAccount,
    #[error("there is an order under way for the plan {0}")]
    Ordered(Label),
    #[error("there is no order under way for the plan {0}")]
    NotOrdered(Label),
    #[error("the plan {plan} is not due before {}; to renew it now: keyward cert renew {plan} --now", time(*at))]
    NotDue { plan: Label, at: u64 },
    #[error("the plan {plan} has had {orders} orders within a day, and gets no other before {}", time(*until))]
    ManyOrders { plan: Label, orders: usize, until: u64 },
    #[error(
        "the plan {plan} has no certificate with SHA-256 {certificate} that has not expired; if it was renewed meanwhile, ask again; to see its certificates: keyward cert status {plan}"
    )]
    NotRevocable { plan: Label, certificate: String },
    #[error(
        "a request to revoke names certificates by their SHA-256, or, with reason 1, one version of the key"
    )]
    NothingMeant,
    #[error("nobody asked to revoke the certificate of the plan {0}; to revoke it: keyward cert revoke {0}")]
    NotRevoked(Label),
    #[error("the certificate is for the names {has}, and the plan {plan} has {wants}")]
    OtherNames { plan: Label, has: String, wants: String },
    #[error("the certificate is for another key than the request: version {version} of key {label}")]
    OtherKey { label: Label, version: u32 },
    #[error("the certificate is valid from {} until {}, and now it is {}; set the clock, or ask the authority", time(*not_before), time(*not_after), time(*now))]
    NotValidNow { not_before: u64, not_after: u64, now: u64 },
    #[error("the certificate is valid from {}, and the present one, which it is to replace, from {}; if that is right: keyward cert renew {plan} --now", time(*new), time(*old))]
    NotNew { plan: Label, new: u64, old: u64 },
    #[error("the certificate is the one that the plan {0} has already")]
    Unchanged(Label),
    #[error("the certificate ends on {}, and the present one, which it is to replace, on {}; if that is right: keyward cert renew {plan} --now", time(*new), time(*old))]
    EndsEarlier { plan: Label, new: u64, old: u64 },
    #[error(
        "the certificate is for version {version} of key {label}, which was revoked as compromised, or refused: the next one is for a newer version"
    )]
    RefusedKey { label: Label, version: u32 },
    #[error(
        "no revocation of a certificate of the plan {0} waits; the authority has carried out the last one, or nobody asked for one: keyward cert status {0}"
    )]
    NothingToKeep(Label),
    #[error(
        "the certificate is for a public key that was revoked as compromised; the next one is for a newer version of the key"
    )]
    CompromisedKey,
    #[error("the certificate is revoked, or may be, or is to be")]
    Unwanted,
    #[error("the certificate lives for {} days, more than three times as long as the present one, {} days; if that is right: keyward cert renew {plan} --now", new / 86_400, old / 86_400)]
    TooLong { plan: Label, new: u64, old: u64 },
    #[error("the chain does not lead to a root of the plan: {0}; chain-root of the plan names the roots")]
    OtherRoot(String),
    #[error("cannot read the roots of the plan in {}: {reason}; a daemon that runs reads only files that it knew at its start", path.display())]
    Root { path: PathBuf, reason: String },
    #[error("this system has no roots of authorities; install them: apt install ca-certificates")]
    NoSystemRoots,
    #[error("the plan {0} has an authority, which gets its certificate request in a message")]
    IsAcme(Label),
    #[error("the chain ends at {has}, and the plan {plan} prefers {wanted}")]
    NotPreferred { plan: Label, wanted: String, has: String },
    #[error("the certificate is not for TLS servers: {0}")]
    NotForServers(&'static str),
    #[error("clients do not take the certificate for {name}: {reason}")]
    NotForName { name: String, reason: String },
    #[error("the plan {0} has no certificate yet")]
    NoCertificate(Label),
    #[error("cannot read the MAC key of the account at the authority in {}: {}; if its section is new, restart the daemon, which may read only the files that it knew at its start", .0.display(), .1)]
    Binding(PathBuf, #[source] io::Error),
    #[error("the MAC key in {} is not in base64url, as the authority gives it", .0.display())]
    BindingForm(PathBuf),
    #[error("cannot write the progress of renewals in the state directory: {0}")]
    Progress(#[from] io::Error),
    #[error("cannot make the message: {0}")]
    Encoding(String),
}
