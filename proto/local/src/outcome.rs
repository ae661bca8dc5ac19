use crate::message::Outcome;

impl Outcome {
    /// A short name, for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Done => "done",
            Self::Malformed => "malformed",
            Self::NotSupported => "not-supported",
            Self::NoGrant => "no-grant",
            Self::UnknownKey => "unknown-key",
            Self::UnknownVersion => "unknown-version",
            Self::KeyDisabled => "key-disabled",
            Self::UseRefused => "use-refused",
            Self::UseNotGranted => "use-not-granted",
            Self::OtherMasterKey => "other-master-key",
            Self::BlobDamaged => "blob-damaged",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::Overloaded => "overloaded",
            Self::UnitUnavailable => "unit-unavailable",
            Self::Internal => "internal",
            Self::NoDowngradeSentinel => "no-downgrade-sentinel",
            Self::DheRefused => "dhe-refused",
            Self::OtherDhGroup => "other-dh-group",
            Self::OtherPublicKey => "other-public-key",
            Self::NotRecorded => "not-recorded",
            Self::UnitSealed => "unit-sealed",
        }
    }

    /// Meaning of the outcome for a person who reads the log of the server, and the next step.
    ///
    /// The text is the end of a sentence that names the key: `key "shop" refused: <reason>`. A
    /// command in the text has LABEL for the label of the key; see [`Self::reason_for`].
    pub fn reason(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Malformed => "the daemon could not make sense of the request",
            Self::NotSupported => "the daemon does not support this operation with this key",
            Self::NoGrant => {
                "no grant lets this user use this key; add one to keyward.toml and reload the daemon"
            }
            Self::UnknownKey => "no such key; see: keyward key list",
            Self::UnknownVersion => {
                "the key has no such version; make a new reference: keyward key reference LABEL"
            }
            Self::KeyDisabled => {
                "the key is disabled, deleted, compromised or outside its dates; to see which, run: keyward key show LABEL"
            }
            Self::UseRefused => {
                "the uses of the key do not include messages of this kind; name each that it is to have, as in: \
                 keyward key set-uses LABEL --use tls-server --use csr"
            }
            Self::UseNotGranted => {
                "the grant of this user does not include messages of this kind; see its uses in keyward.toml"
            }
            Self::OtherMasterKey => {
                "the crypto unit has another master key than the one that wraps the key, or none; see: keyward unit list"
            }
            Self::BlobDamaged => "the stored key is damaged; restore the key store from a backup",
            Self::DeadlineExceeded => "the daemon had no answer in time",
            Self::Overloaded => "the daemon is overloaded",
            Self::UnitUnavailable => "the crypto unit is not available; see the log of the daemon",
            Self::Internal | Self::Unspecified => "the daemon failed; see its log",
            Self::NoDowngradeSentinel => {
                "this listener did not offer TLS 1.3 for this connection (DTLS 1.2 never does); offer it, or add the \
                 use tls12-server to the grant, and to the key: \
                 keyward key set-uses LABEL --use tls-server --use tls12-server"
            }
            Self::DheRefused => {
                "key or grant do not include DHE; drop the DHE ciphers, or add the use tls12-dhe-server to the \
                 grant, and to the key: keyward key set-uses LABEL --use tls-server --use tls12-dhe-server"
            }
            Self::OtherDhGroup => {
                "the parameters for DHE are of no known group; use a group of RFC 7919, such as ffdhe2048, or drop DHE"
            }
            Self::NotRecorded => {
                "the daemon cannot write its audit trail, and refuses uses without a record; free space on the file system of the \
                 trail, or see the log of the daemon"
            }
            Self::UnitSealed => {
                "the unit is sealed: its owners have not brought their parts since it started; see: keyward unit list"
            }
            Self::OtherPublicKey => {
                "the reference is for another public key than the daemon has under this label and version; get a certificate \
                 for the key that is there, and make a new reference: keyward key reference LABEL"
            }
        }
    }

    /// The reason for a key, with its label in the commands.
    pub fn reason_for(self, label: &str) -> String {
        self.reason().replace("LABEL", label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Response;

    /// An outcome of a later version is a refusal without a reason, and no broken answer.
    #[test]
    fn an_unknown_outcome_is_unspecified() {
        let response = Response { id: 1, outcome: 1000, body: None };
        let frame = crate::frame::encode(&response).unwrap();
        let read: Response = crate::frame::decode(&frame[crate::frame::HEADER..]).unwrap();
        assert_eq!(read.outcome(), Outcome::Unspecified);
        assert_eq!(Outcome::Unspecified.reason(), Outcome::Internal.reason());
    }
}
