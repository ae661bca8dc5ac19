//! gRPC status of a failed call.

use keyward_grep11::{Any, ERROR_TYPE_URL, Grep11Error, RpcStatus, ckr};
use keyward_unit::grep11::Error;
use prost::Message;
use tonic::{Code, Status};

/// Returns the status of a failed call. The error number is in a detail, the error name in the
/// message.
pub(crate) fn status(error: &Error) -> Status {
    let code = match error.code() {
        ckr::CKR_IBM_GREP11_NOT_AUTHENTICATED => Code::Unauthenticated,
        ckr::CKR_DEVICE_ERROR => Code::Unavailable,
        ckr::CKR_HOST_MEMORY => Code::ResourceExhausted,
        ckr::CKR_FUNCTION_NOT_SUPPORTED | ckr::CKR_MECHANISM_INVALID => Code::Unimplemented,
        ckr::CKR_FUNCTION_FAILED | ckr::CKR_GENERAL_ERROR => Code::Internal,
        ckr::CKR_KEY_FUNCTION_NOT_PERMITTED | ckr::CKR_KEY_UNEXTRACTABLE => Code::PermissionDenied,
        _ => Code::InvalidArgument,
    };
    let retry = matches!(error.code(), ckr::CKR_DEVICE_ERROR | ckr::CKR_HOST_MEMORY);
    let detail = Grep11Error { code: error.code(), detail: error.detail().into(), retry };
    let message = error.to_string();
    let details = RpcStatus {
        code: code.into(),
        message: message.clone(),
        details: vec![Any { type_url: ERROR_TYPE_URL.into(), value: detail.encode_to_vec() }],
    };
    Status::with_details(code, message, details.encode_to_vec().into())
}
