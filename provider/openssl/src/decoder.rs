//! Decoders, see provider-decoder(7): they turn a reference PEM into a key, in every place where
//! OpenSSL reads key files.
//!
//! OpenSSL decodes in chains, so there are two steps. The decoder `DER` with input `pem` recognises
//! our PEM label, and a second decoder turns the body into a key. OpenSSL calls decoders for every
//! key that any part of the program loads. So a decoder must notice quickly that an input is not
//! for it, and report no error: it returns 1 without a result, and OpenSSL tries the next decoder.
//!
//! The second decoder makes keys of every type. OpenSSL finds a decoder only by the name of a key
//! type, so this decoder has the name of one type. More decoders would slow down the loading of
//! every key in every program with this provider. A program that reads PEM and asks for one type
//! finds our keys only if this type is RSA; we know of no such program.

use core::ffi::{CStr, c_int, c_void};
use std::sync::Arc;

use keyward_proto::{KeyType, Reference, pem};

use crate::abi::{self, Algorithm, Callback, Dispatch, SELECT_PRIVATE_KEY};
use crate::entry::{dispatch, entry_points};
use crate::error::{self, Error, Reason};
use crate::key::{DaemonKey, Key};
use crate::params::ParamBuilder;
use crate::upcalls::BioRef;
use crate::{ConfiguredClient, Provider, context};

entry_points! {
    fn does_selection(_provider: *const c_void, selection: c_int) -> c_int {
        Ok(c_int::from(selects_private_key(selection)))
    }

    /// Turns PEM with our label into DER.
    fn decode_pem(
        provider: Option<&Provider>,
        input: *mut c_void,
        selection: c_int,
        callback: Option<Callback>,
        arg: *mut c_void,
        _passphrase: *const c_void,
        _passphrase_arg: *mut c_void,
    ) -> c_int {
        // SAFETY: OpenSSL passes the arguments that provider-decoder(7) promises.
        unsafe { decode(provider, input, selection, callback, arg, pem_to_der) }
    }

    /// Turns the body of a reference into a key.
    fn decode_body(
        provider: Option<&Provider>,
        input: *mut c_void,
        selection: c_int,
        callback: Option<Callback>,
        arg: *mut c_void,
        _passphrase: *const c_void,
        _passphrase_arg: *mut c_void,
    ) -> c_int {
        // SAFETY: OpenSSL passes the arguments that provider-decoder(7) promises.
        unsafe { decode(provider, input, selection, callback, arg, body_to_key) }
    }
}

/// Runs one step of the chain if OpenSSL asks for a private key.
///
/// # Safety
/// The arguments are those of provider-decoder(7): `input` is a BIO of the core, and `callback`
/// takes an array of parameters and `arg`.
unsafe fn decode(
    provider: Option<&Provider>,
    input: *mut c_void,
    selection: c_int,
    callback: Option<Callback>,
    arg: *mut c_void,
    step: fn(&Provider, BioRef<'_>, c_int, Receiver<'_>) -> Result<c_int, Error>,
) -> Result<c_int, Error> {
    let (Some(provider), Some(callback)) = (provider, callback) else { return Err(Error::null()) };
    if !selects_private_key(selection) {
        return Ok(1);
    }
    // SAFETY: the caller vouches for the BIO, and the functions are those of the core.
    let input = unsafe { BioRef::new(&provider.bio, input) };
    // SAFETY: the callback takes the array and the argument that came with it.
    step(provider, input, selection, &mut |params| unsafe { callback(params, arg) })
}

/// The callback that takes the result of a step.
type Receiver<'a> = &'a mut dyn FnMut(*const abi::Param) -> c_int;

fn pem_to_der(
    provider: &Provider,
    input: BioRef<'_>,
    selection: c_int,
    receiver: Receiver<'_>,
) -> Result<c_int, Error> {
    let Some(block) = read_block(input, selection)? else { return Ok(1) };
    let reference = Reference::from_pem(&block)
        .map_err(|error| Error::new(Reason::Reference, format_args!("cannot read key reference: {error}")))?;
    if matches!(reference.public_key().key_type(), KeyType::MlDsa(_)) && !provider.ml_dsa {
        let label = reference.label();
        let text =
            format_args!("cannot load key \"{label}\": this OpenSSL does not know ML-DSA; 3.5 and later do");
        return Err(Error::new(Reason::NotSupported, text));
    }
    let object = ParamBuilder::default().utf8(DATA_STRUCTURE, STRUCTURE).octets(DATA, &reference.to_der());
    Ok(object.pass_to(receiver))
}

fn body_to_key(
    provider: &Provider,
    input: BioRef<'_>,
    _selection: c_int,
    receiver: Receiver<'_>,
) -> Result<c_int, Error> {
    let Some(body) = read_all(input) else { return Ok(1) };
    let Ok(reference) = Reference::from_der(&body) else { return Ok(1) };
    pass_key(&provider.client, reference, receiver)
}

/// Passes a key to OpenSSL as an object reference: a pointer that KEYMGMT_LOAD takes over and
/// clears.
pub(crate) fn pass_key(
    client: &ConfiguredClient,
    reference: Reference,
    callback: impl FnOnce(*const abi::Param) -> c_int,
) -> Result<c_int, Error> {
    let client = client.get()?.clone();
    let Some(name) = type_name(reference.public_key().key_type()) else { return Ok(1) };
    let key = Key::Daemon(Arc::new(DaemonKey { reference, client }));
    let mut key: *mut Key = Box::into_raw(Box::new(key));
    let answer = ParamBuilder::default()
        .integer(TYPE, abi::OBJECT_PKEY)
        .utf8(DATA_TYPE, name)
        .pass_reference_to(REFERENCE, &mut key, callback);
    if !key.is_null() {
        // SAFETY: the pointer came from `into_raw`. KEYMGMT_LOAD clears the pointer when it takes
        // the key, so this key is still ours.
        drop(unsafe { Box::from_raw(key) });
    }
    Ok(answer)
}

/// True if a selection includes private keys. A reference is a private key, so a search for
/// parameters or certificates must not find it.
fn selects_private_key(selection: c_int) -> bool {
    selection == 0 || selection & SELECT_PRIVATE_KEY != 0
}

/// Reads up to the end of the first PEM block. Returns the text of the block if it has our label.
///
/// OpenSSL calls again for the next block only if the oldest error of the queue says "unsupported".
/// It does not call again if the program left an earlier error in the queue. In this case, and if
/// OpenSSL asks for a private key in particular, the search goes on here after certificates.
/// `OSSL_STORE` asks for everything, calls again for each block, and needs the certificates, too.
fn read_block(input: BioRef<'_>, selection: c_int) -> Result<Option<String>, Error> {
    let mut scanned = 0;
    let mut block = Vec::new();
    let mut resume_at = None;
    let skips = selection & SELECT_PRIVATE_KEY != 0 && error::any_queued();
    while scanned < LONGEST_PREAMBLE {
        let mut line = [0u8; LINE];
        let Some(line) = input.read_line(&mut line) else { break };
        if scanned == 0 && pem::is_utf16(line) {
            // No other decoder reads UTF-16, and no other decoder says why.
            let text = "cannot read the key: the file is text in UTF-16; make the reference again, or write it as ASCII: iconv -f UTF-16 -t ASCII FILE > NEW";
            return Err(Error::new(Reason::Reference, text));
        }
        scanned += line.len();
        let trimmed = pem::trimmed(line);
        if !block.is_empty() {
            block.extend_from_slice(line);
            if trimmed.starts_with(b"-----END ") || block.len() > Reference::MAX_PEM {
                break;
            }
        } else if trimmed.starts_with(BEGIN_OURS) {
            block.extend_from_slice(line);
        } else if trimmed.starts_with(b"-----BEGIN ") {
            if !skips || !may_be_skipped(trimmed) {
                break;
            }
            resume_at = resume_at.or_else(|| input.position());
            if resume_at.is_none() {
                break;
            }
        }
    }
    if block.is_empty() {
        if let Some(position) = resume_at {
            input.seek(position);
        }
        return Ok(None);
    }
    let text = String::from_utf8(block);
    text.map(Some).map_err(|_| Error::new(Reason::Reference, "cannot read key reference: it is not text"))
}

/// True if a line begins a certificate or parameters. Any other block may be a key, and the first
/// key of the file counts.
fn may_be_skipped(line: &[u8]) -> bool {
    let label = line.trim_ascii_end();
    label.ends_with(b"CERTIFICATE-----") || label.ends_with(b" PARAMETERS-----")
}

/// Reads the whole input. Returns `None` if the input is longer than any reference.
fn read_all(input: BioRef<'_>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    let mut buffer = [0u8; LINE];
    while let Some(part) = input.read(&mut buffer) {
        body.extend_from_slice(part);
        if body.len() > Reference::MAX_PEM {
            return None;
        }
    }
    Some(body)
}

/// The name of the key management for a key type.
fn type_name(key_type: KeyType) -> Option<&'static str> {
    match key_type {
        KeyType::Rsa(_) => Some("RSA"),
        KeyType::RsaPss(_) => Some("RSA-PSS"),
        KeyType::P256 | KeyType::P384 | KeyType::P521 => Some("EC"),
        KeyType::Ed25519 => Some("ED25519"),
        KeyType::MlDsa(parameters) => Some(parameters.name()),
        _ => None,
    }
}

pub(crate) static ALGORITHMS: &[Algorithm] = &[
    Algorithm::new(c"DER", c"provider=keyward,input=pem", FROM_PEM, c"Keyward reference PEM"),
    Algorithm::new(
        c"RSA",
        c"provider=keyward,input=der,structure=keyward",
        FROM_BODY,
        c"Keyward reference to a key",
    ),
    Algorithm::END,
];

macro_rules! table {
    ($decode:expr) => {
        dispatch! {
            DECODER_NEWCTX => context::lend_provider,
            DECODER_FREECTX => context::return_provider,
            DECODER_DOES_SELECTION => does_selection,
            DECODER_DECODE => $decode,
        }
    };
}

static FROM_PEM: &[Dispatch] = table!(decode_pem);
static FROM_BODY: &[Dispatch] = table!(decode_body);

/// Our own name for the structure, so that OpenSSL offers the body to no other decoder.
const STRUCTURE: &str = "keyward";

const BEGIN_OURS: &[u8] = b"-----BEGIN KEYWARD KEY-----";

/// Bytes to read at a time.
const LINE: usize = 512;

/// Length of the part of a file that is searched for a reference, in bytes.
const LONGEST_PREAMBLE: usize = 1 << 20;

// OSSL_OBJECT_PARAM_*, provider-object(7).
const TYPE: &CStr = c"type";
const DATA: &CStr = c"data";
const DATA_TYPE: &CStr = c"data-type";
const DATA_STRUCTURE: &CStr = c"data-structure";
const REFERENCE: &CStr = c"reference";
