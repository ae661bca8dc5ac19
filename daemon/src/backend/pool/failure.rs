//! Why a unit did not do what it was asked, and whether another one may.

use keyward_grep11::{ERROR_TYPE_URL, Grep11Error, RpcStatus, ckr};
use keyward_proto::Outcome;
use keyward_unit::Wkid;
use prost::Message;
use tonic::{Code, Status};

use crate::ground::text::printable;

/// What became of one attempt at one unit.
#[derive(Clone, Debug)]
pub(in crate::backend) enum Failure {
    /// One of both does not take the certificate of the other.
    Certificate(String),
    /// The unit is busy; it says so itself.
    Busy(String),
    /// The peer's time was over before that of the unit.
    Hurried,
    /// It gave no answer in time.
    Late,
    /// It has no master key at all.
    NoMasterKey(String),
    /// It has another master key than the key.
    OtherMasterKey(Option<Wkid>),
    /// It does not offer the mechanism, or not with this parameter.
    NotOffered(String),
    /// It cannot do what was asked with this key, and no other unit could.
    Refused { code: u64, reason: String },
    /// It refused the token, or there is none.
    Token(String),
    /// It answered with what is no signature by the public key: it errs, or the public key is of another key.
    WrongSignature,
    /// It is out of order, or what leads to it is; `severe` if there is no point in asking again.
    Unit { reason: String, severe: bool },
}

impl Failure {
    /// A unit that cannot be reached or understood.
    pub(in crate::backend) fn severe(reason: impl ToString) -> Self {
        Self::Unit { reason: reason.to_string(), severe: true }
    }

    /// What a status means.
    pub(in crate::backend) fn of(status: &Status) -> Self {
        let Some(error) = detail(status) else { return Self::without_detail(status) };
        // Its text begins with the name of the number where a person is to read it.
        let reason = match ckr::name(error.code) {
            Some(name) if !status.message().starts_with(name) => {
                format!("{name}: {}", one_line(&error.detail))
            }
            Some(_) => one_line(status.message()),
            None => format!("{:#x}: {}", error.code, one_line(&error.detail)),
        };
        match error.code {
            ckr::CKR_IBM_GREP11_NOT_AUTHENTICATED | ckr::CKR_USER_NOT_LOGGED_IN => Self::Token(reason),
            ckr::CKR_IBM_WKID_MISMATCH => Self::OtherMasterKey(None),
            ckr::CKR_MECHANISM_INVALID
            | ckr::CKR_MECHANISM_PARAM_INVALID
            | ckr::CKR_FUNCTION_NOT_SUPPORTED => Self::NotOffered(reason),
            ckr::CKR_HOST_MEMORY | ckr::CKR_DEVICE_MEMORY => Self::Busy(reason),
            ckr::CKR_GENERAL_ERROR
            | ckr::CKR_FUNCTION_FAILED
            | ckr::CKR_DEVICE_ERROR
            | ckr::CKR_DEVICE_REMOVED
            | ckr::CKR_FUNCTION_CANCELED
            | ckr::CKR_IBM_INTERNAL_ERROR
            | ckr::CKR_IBM_TRANSPORT_ERROR
            | ckr::CKR_IBM_OA_API_ERROR
            | ckr::CKR_IBM_REQ_TIMEOUT
            | ckr::CKR_IBM_ERROR_STATE => Self::Unit { reason, severe: false },
            ckr::CKR_IBM_WK_NOT_INITIALIZED => Self::NoMasterKey(reason),
            // Of the data: whatever else the unit says, another attempt would end in the same way.
            code if BAD_DATA.contains(&code) => Self::Refused { code, reason },
            _ if error.retry => Self::Unit { reason, severe: false },
            code => Self::Refused { code, reason },
        }
    }

    /// Whether a ciphertext has no plaintext under this key, as far as the unit can tell: its padding is wrong.
    pub(in crate::backend) fn is_of_the_padding(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if BAD_DATA.contains(code))
    }

    /// Not from a unit that speaks GREP11, or not from a unit at all.
    fn without_detail(status: &Status) -> Self {
        let reason = match core::error::Error::source(status) {
            Some(source) => one_line(&crate::ground::causes::causes(source)),
            None => one_line(&format!("{}: {}", status.code(), status.message())),
        };
        match status.code() {
            Code::Unauthenticated => Self::Token(reason),
            Code::PermissionDenied => Self::Refused { code: ckr::CKR_ACTION_PROHIBITED, reason },
            Code::ResourceExhausted => Self::Busy(reason),
            Code::DeadlineExceeded => Self::Late,
            Code::Unimplemented | Code::NotFound => {
                Self::severe(format_args!("it speaks no GREP11: {reason}"))
            }
            _ => Self::Unit { reason, severe: false },
        }
    }

    /// Whether another unit, or the same one over another connection, may do better.
    pub(in crate::backend) fn is_worth_another_attempt(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Hurried => f.write_str("it was not given its time"),
            Self::Late => f.write_str("it gave no answer in time"),
            Self::OtherMasterKey(Some(wkid)) => write!(f, "it has another master key: {wkid}"),
            Self::OtherMasterKey(None) => f.write_str("it has another master key"),
            Self::WrongSignature => f.write_str("it answered with a signature that does not verify"),
            Self::Certificate(reason)
            | Self::Busy(reason)
            | Self::NoMasterKey(reason)
            | Self::NotOffered(reason)
            | Self::Refused { reason, .. }
            | Self::Token(reason)
            | Self::Unit { reason, .. } => f.write_str(reason),
        }
    }
}

/// The error of GREP11 in a status: exactly one detail, which is of that type.
fn detail(status: &Status) -> Option<Grep11Error> {
    let told = RpcStatus::decode(status.details()).ok()?;
    let [detail] = told.details.as_slice() else { return None };
    if detail.type_url != ERROR_TYPE_URL {
        return None;
    }
    Grep11Error::decode(detail.value.as_slice()).ok()
}

/// Outcome that a peer learns when a unit refuses with this number of PKCS #11.
pub(in crate::backend) fn outcome_of(code: u64) -> Outcome {
    match code {
        ckr::CKR_IBM_BLOB_ERROR | ckr::CKR_KEY_HANDLE_INVALID | ckr::CKR_OBJECT_HANDLE_INVALID => {
            Outcome::BlobDamaged
        }
        ckr::CKR_KEY_FUNCTION_NOT_PERMITTED
        | ckr::CKR_KEY_TYPE_INCONSISTENT
        | ckr::CKR_KEY_SIZE_RANGE
        | ckr::CKR_IBM_STATIC_POLICY => Outcome::NotSupported,
        _ => Outcome::Internal,
    }
}

/// Text of somebody else, for a line of ours.
fn one_line(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    printable(text.trim())
}

/// Errors by which units say that what they were given does not fit the key; of a ciphertext that is as long as the
/// modulus, that its padding is wrong.
const BAD_DATA: [u64; 4] = [
    ckr::CKR_DATA_INVALID,
    ckr::CKR_DATA_LEN_RANGE,
    ckr::CKR_ENCRYPTED_DATA_INVALID,
    ckr::CKR_ENCRYPTED_DATA_LEN_RANGE,
];

/// In characters.
const LONGEST: usize = 300;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status(code: u64, retry: bool) -> Status {
        let detail = Grep11Error { code, detail: "why\nso".into(), retry };
        let any = keyward_grep11::Any { type_url: ERROR_TYPE_URL.into(), value: detail.encode_to_vec() };
        let told = RpcStatus { code: 13, message: "m".into(), details: vec![any] };
        Status::with_details(Code::Internal, "m", told.encode_to_vec().into())
    }

    #[test]
    fn errors_of_units_are_told_from_errors_of_requests() {
        let of = |code, retry| Failure::of(&status(code, retry));
        assert!(matches!(of(ckr::CKR_DEVICE_ERROR, false), Failure::Unit { severe: false, .. }));
        assert!(matches!(of(ckr::CKR_IBM_WKID_MISMATCH, false), Failure::OtherMasterKey(None)));
        assert!(matches!(of(ckr::CKR_IBM_GREP11_NOT_AUTHENTICATED, false), Failure::Token(_)));
        assert!(matches!(of(ckr::CKR_MECHANISM_INVALID, false), Failure::NotOffered(_)));
        assert!(matches!(of(ckr::CKR_KEY_SIZE_RANGE, true), Failure::Unit { .. }), "it says: try again");
        let refused = of(ckr::CKR_KEY_FUNCTION_NOT_PERMITTED, false);
        assert!(!refused.is_worth_another_attempt());
        assert_eq!(refused.to_string(), "CKR_KEY_FUNCTION_NOT_PERMITTED: why so");
    }

    #[test]
    fn a_wrong_padding_is_no_fault_of_the_unit() {
        for code in
            [ckr::CKR_ENCRYPTED_DATA_INVALID, ckr::CKR_ENCRYPTED_DATA_LEN_RANGE, ckr::CKR_DATA_INVALID]
        {
            for retry in [false, true] {
                let failure = Failure::of(&status(code, retry));
                assert!(failure.is_of_the_padding() && !failure.is_worth_another_attempt(), "{failure}");
            }
        }
        for code in [ckr::CKR_DEVICE_ERROR, ckr::CKR_KEY_FUNCTION_NOT_PERMITTED, ckr::CKR_IBM_WKID_MISMATCH] {
            assert!(!Failure::of(&status(code, false)).is_of_the_padding(), "{code:#x}");
        }
    }

    #[test]
    fn what_is_no_error_of_grep11_is_a_fault_of_the_unit() {
        assert!(matches!(Failure::of(&Status::unavailable("gone")), Failure::Unit { severe: false, .. }));
        assert!(matches!(Failure::of(&Status::unimplemented("")), Failure::Unit { severe: true, .. }));
        assert!(matches!(Failure::of(&Status::unauthenticated("")), Failure::Token(_)));
        let garbage = Status::with_details(Code::Internal, "", vec![0xff; 10].into());
        assert!(matches!(Failure::of(&garbage), Failure::Unit { .. }));
    }

    proptest! {
        #[test]
        fn whatever_a_unit_says_is_one_short_line(code: i32, text: String, number: u64, detail: String, rest: Vec<u8>) {
            let error = Grep11Error { code: number, detail, retry: false }.encode_to_vec();
            let any = keyward_grep11::Any { type_url: ERROR_TYPE_URL.into(), value: error };
            let told = RpcStatus { code, message: text.clone(), details: vec![any] }.encode_to_vec();
            for details in [told, rest] {
                let failure = Failure::of(&Status::with_details(code.into(), text.clone(), details.into()));
                let line = failure.to_string();
                prop_assert!(line.lines().count() <= 1 && line.chars().count() < 400, "{line}");
            }
        }
    }
}
