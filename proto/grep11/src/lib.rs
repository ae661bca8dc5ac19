//! GREP11 is Enterprise PKCS #11 over gRPC. This crate has its messages, numbers, client and
//! server.
//!
//! Everything except the [numbers](ckm) is generated from `grep11.proto`, which documents the
//! messages. The messages have the fields of every public revision, so one schema serves old and
//! new clients.

#![forbid(unsafe_code)]

mod numbers;
mod status;

pub use generated::*;
pub use numbers::{cka, ckf, ckk, ckm, cko, ckp, ckr, number};
pub use status::{Any, RpcStatus};

#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/grep11.rs"));
}

/// The compiled `grep11.proto` as an encoded FileDescriptorSet, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/grep11.bin"));

/// Type of the detail that a failed call carries (google.protobuf.Any): a [`Grep11Error`].
pub const ERROR_TYPE_URL: &str = "type.googleapis.com/grep11.Grep11Error";
