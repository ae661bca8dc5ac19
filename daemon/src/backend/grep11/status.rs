//! Conversion of the status of a failed call to a [`Failure`].

use keyward_grep11::{ERROR_TYPE_URL, Grep11Error, RpcStatus, ckr};
use prost::Message;
use tonic::{Code, Status};

use crate::backend::pool::{Failure, Refusal};
use crate::ground::causes::causes;
use crate::ground::text::printable;

/// Failure for the status of a call.
pub(super) fn failure_of(status: &Status) -> Failure {
    let Some(error) = detail(status) else { return without_detail(status) };
    // The reason begins with the name of the error number, for the person who reads it.
    let reason = match ckr::name(error.code) {
        Some(name) if !status.message().starts_with(name) => {
            format!("{name}: {}", one_line(&error.detail))
        }
        Some(_) => one_line(status.message()),
        None => format!("{:#x}: {}", error.code, one_line(&error.detail)),
    };
    match error.code {
        ckr::CKR_IBM_GREP11_NOT_AUTHENTICATED | ckr::CKR_USER_NOT_LOGGED_IN => Failure::Credential(reason),
        ckr::CKR_IBM_WKID_MISMATCH => Failure::OtherMasterKey(None),
        ckr::CKR_MECHANISM_INVALID | ckr::CKR_MECHANISM_PARAM_INVALID | ckr::CKR_FUNCTION_NOT_SUPPORTED => {
            Failure::NotOffered(reason)
        }
        ckr::CKR_HOST_MEMORY | ckr::CKR_DEVICE_MEMORY => Failure::Busy(reason),
        ckr::CKR_GENERAL_ERROR
        | ckr::CKR_FUNCTION_FAILED
        | ckr::CKR_DEVICE_ERROR
        | ckr::CKR_DEVICE_REMOVED
        | ckr::CKR_FUNCTION_CANCELED
        | ckr::CKR_IBM_INTERNAL_ERROR
        | ckr::CKR_IBM_TRANSPORT_ERROR
        | ckr::CKR_IBM_OA_API_ERROR
        | ckr::CKR_IBM_REQ_TIMEOUT
        | ckr::CKR_IBM_ERROR_STATE => Failure::Unit { reason, severe: false },
        ckr::CKR_IBM_WK_NOT_INITIALIZED => Failure::NoMasterKey(reason),
        code => match refusal_of(code) {
            // Another attempt would fail in the same way, even if the unit says that it may retry.
            Refusal::BadData => Failure::Refused { refusal: Refusal::BadData, reason },
            _ if error.retry => Failure::Unit { reason, severe: false },
            refusal => Failure::Refused { refusal, reason },
        },
    }
}

/// Kind of refusal for an error number of PKCS #11.
fn refusal_of(code: u64) -> Refusal {
    match code {
        ckr::CKR_DATA_INVALID
        | ckr::CKR_DATA_LEN_RANGE
        | ckr::CKR_ENCRYPTED_DATA_INVALID
        | ckr::CKR_ENCRYPTED_DATA_LEN_RANGE => Refusal::BadData,
        ckr::CKR_IBM_BLOB_ERROR | ckr::CKR_KEY_HANDLE_INVALID | ckr::CKR_OBJECT_HANDLE_INVALID => {
            Refusal::BlobDamaged
        }
        ckr::CKR_KEY_FUNCTION_NOT_PERMITTED
        | ckr::CKR_KEY_TYPE_INCONSISTENT
        | ckr::CKR_KEY_SIZE_RANGE
        | ckr::CKR_IBM_STATIC_POLICY => Refusal::NotAllowed,
        _ => Refusal::Other,
    }
}

/// Failure for a status without an error of GREP11: of another server, or of the connection.
fn without_detail(status: &Status) -> Failure {
    let reason = match core::error::Error::source(status) {
        Some(source) => one_line(&causes(source)),
        None => one_line(&format!("{}: {}", status.code(), status.message())),
    };
    match status.code() {
        Code::Unauthenticated => Failure::Credential(reason),
        Code::PermissionDenied => Failure::Refused { refusal: Refusal::Other, reason },
        Code::ResourceExhausted => Failure::Busy(reason),
        Code::DeadlineExceeded => Failure::Timeout,
        Code::Unimplemented | Code::NotFound => {
            Failure::severe(format_args!("it is no GREP11 server: {reason}"))
        }
        _ => Failure::Unit { reason, severe: false },
    }
}

/// Error of GREP11 in a status, which must have exactly one detail, of that type.
fn detail(status: &Status) -> Option<Grep11Error> {
    let status = RpcStatus::decode(status.details()).ok()?;
    let [detail] = status.details.as_slice() else { return None };
    if detail.type_url != ERROR_TYPE_URL {
        return None;
    }
    Grep11Error::decode(detail.value.as_slice()).ok()
}

/// Text of a unit in one line, for the log.
fn one_line(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    printable(text.trim())
}

/// Maximum length of a text of a unit, in characters.
const LONGEST: usize = 300;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_of_the_padding(failure: &Failure) -> bool {
        matches!(failure, Failure::Refused { refusal: Refusal::BadData, .. })
    }

    fn status(code: u64, retry: bool) -> Status {
        let detail = Grep11Error { code, detail: "why\nso".into(), retry };
        let any = keyward_grep11::Any { type_url: ERROR_TYPE_URL.into(), value: detail.encode_to_vec() };
        let status = RpcStatus { code: 13, message: "m".into(), details: vec![any] };
        Status::with_details(Code::Internal, "m", status.encode_to_vec().into())
    }

    #[test]
    fn errors_of_units_differ_from_errors_of_requests() {
        let of = |code, retry| failure_of(&status(code, retry));
        assert!(matches!(of(ckr::CKR_DEVICE_ERROR, false), Failure::Unit { severe: false, .. }));
        assert!(matches!(of(ckr::CKR_IBM_WKID_MISMATCH, false), Failure::OtherMasterKey(None)));
        assert!(matches!(of(ckr::CKR_IBM_GREP11_NOT_AUTHENTICATED, false), Failure::Credential(_)));
        assert!(matches!(of(ckr::CKR_MECHANISM_INVALID, false), Failure::NotOffered(_)));
        assert!(
            matches!(of(ckr::CKR_KEY_SIZE_RANGE, true), Failure::Unit { .. }),
            "the unit says that it may be retried"
        );
        let refused = of(ckr::CKR_KEY_FUNCTION_NOT_PERMITTED, false);
        assert!(!refused.is_worth_another_attempt());
        assert_eq!(refused.to_string(), "CKR_KEY_FUNCTION_NOT_PERMITTED: why so");
    }

    #[test]
    fn a_wrong_padding_is_no_failure_of_the_unit() {
        for code in
            [ckr::CKR_ENCRYPTED_DATA_INVALID, ckr::CKR_ENCRYPTED_DATA_LEN_RANGE, ckr::CKR_DATA_INVALID]
        {
            for retry in [false, true] {
                let failure = failure_of(&status(code, retry));
                assert!(is_of_the_padding(&failure) && !failure.is_worth_another_attempt(), "{failure}");
            }
        }
        for code in [ckr::CKR_DEVICE_ERROR, ckr::CKR_KEY_FUNCTION_NOT_PERMITTED, ckr::CKR_IBM_WKID_MISMATCH] {
            assert!(!is_of_the_padding(&failure_of(&status(code, false))), "{code:#x}");
        }
    }

    #[test]
    fn a_status_without_an_error_of_grep11_is_a_failure_of_the_unit() {
        assert!(matches!(failure_of(&Status::unavailable("gone")), Failure::Unit { severe: false, .. }));
        assert!(matches!(failure_of(&Status::unimplemented("")), Failure::Unit { severe: true, .. }));
        assert!(matches!(failure_of(&Status::unauthenticated("")), Failure::Credential(_)));
        let garbage = Status::with_details(Code::Internal, "", vec![0xff; 10].into());
        assert!(matches!(failure_of(&garbage), Failure::Unit { .. }));
    }

    proptest! {
        #[test]
        fn any_text_of_a_unit_becomes_one_short_line(code: i32, text: String, number: u64, detail: String, rest: Vec<u8>) {
            let error = Grep11Error { code: number, detail, retry: false }.encode_to_vec();
            let any = keyward_grep11::Any { type_url: ERROR_TYPE_URL.into(), value: error };
            let status = RpcStatus { code, message: text.clone(), details: vec![any] }.encode_to_vec();
            for details in [status, rest] {
                let failure = failure_of(&Status::with_details(code.into(), text.clone(), details.into()));
                let line = failure.to_string();
                prop_assert!(line.lines().count() <= 1 && line.chars().count() < 400, "{line}");
            }
        }
    }
}
