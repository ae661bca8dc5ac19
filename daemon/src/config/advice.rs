//! Advice about a configuration that is valid.

use core::time::Duration;

use keyward_proto::Use;

use super::Config;
use crate::policy::authorise::Pattern;

impl Config {
    /// Warnings about settings that are valid but look like a mistake: one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for grant in self.grants.iter() {
            let keys: Vec<_> = grant.keys.iter().map(Pattern::as_str).collect();
            if grant.uses.contains(&Use::Any) {
                warnings.push(format!(
                    "the grant for keys {} includes \"any\": the peer can have any text and any digest signed",
                    keys.join(", ")
                ));
            }
            if grant.who.uid == Some(0) && keys.contains(&"*") && grant.uses.contains(&Use::TlsServer) {
                warnings.push(
                    "a grant lets root serve with every key: grant the user that the server drops to".into(),
                );
            }
        }
        for (number, narrow, wide) in self.grants.overruled() {
            warnings.push(format!(
                "grant number {number} is narrower than grant number {wide}, which lets the same processes use the same keys: a peer needs only one grant, so {narrow} has no effect there"
            ));
        }
        if self.request_timeout < Duration::from_millis(100) {
            warnings.push("request-timeout is below 100ms: a busy machine may refuse handshakes".into());
        }
        warnings
    }

    /// Notes about the uses that are granted, for anyone who checks the configuration: the messages
    /// that each use admits, and narrower uses. One sentence each.
    pub fn notes(&self) -> Vec<String> {
        let about = |one: Use, text: &str| {
            let granted = self.grants.iter().filter(|grant| grant.uses.contains(&one));
            let keys: Vec<_> = granted.flat_map(|grant| grant.keys.iter().map(Pattern::as_str)).collect();
            (!keys.is_empty()).then(|| format!("{one} is granted for keys {}: {text}", keys.join(", ")))
        };
        let notes = [
            about(
                Use::TlsServer,
                "it signs TLS 1.3, and TLS 1.2 with ECDHE where the server offers TLS 1.3 as well; a server with TLS 1.2 \
                 alone, and DTLS 1.2, need tls12-server too, DHE needs tls12-dhe-server, in key and grant; for a server \
                 with TLS 1.3 alone, tls13-server is enough, and an attacker who controls the server chooses less",
            ),
            about(
                Use::Tls12Server,
                "an attacker who controls the server chooses 64 bytes and the public value of the signed message; \
                 offer TLS 1.3 as well and grant tls-server, or TLS 1.3 alone and grant tls13-server, where that is possible",
            ),
            about(
                Use::Tls12DheServer,
                "an attacker who controls the server chooses 64 bytes and up to 1,024 more of the signed message; \
                 drop DHE and grant tls-server, where that is possible",
            ),
            about(
                Use::TlsClient,
                "in TLS 1.2, an attacker who controls the client chooses much of the handshake, up to 64 KiB; \
                 grant tls13-client where the servers speak TLS 1.3",
            ),
        ];
        notes.into_iter().flatten().collect()
    }
}
