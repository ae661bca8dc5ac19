//! Decoders, see provider-decoder(7): a reference PEM becomes a key, wherever OpenSSL reads key files.
//!
//! Two steps, since OpenSSL decodes in chains: `DER` with input `pem` recognises our PEM label, and a second
//! decoder turns the body into a key. They are called for every key that any part of the program loads, so
//! they must see quickly that something is not theirs, and then say nothing: returning 1 without having
//! produced anything lets the search go on.
//!
//! The second decoder makes keys of every type, though it has the name of one, which it needs to be found at
//! all: each further decoder would make the loading of any key slower, in every program that has us loaded.
//! So a program that reads PEM and insists on a type beforehand, which none that we know of does, finds our
//! keys only if that is RSA.

use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::ptr;
use std::sync::Arc;

use keyward_proto::{KeyType, Reference, pem};

use crate::abi::{self, Algorithm, Callback, Dispatch, SELECT_PRIVATE_KEY};
use crate::entry::{dispatch, entry_points};
use crate::error::{self, Error, Reason};
use crate::key::{Held, Key};
use crate::params::Lent;
use crate::{Bio, ConfiguredClient, Provider, context};

entry_points! {
    fn does_selection(_provider: *const c_void, selection: c_int) -> c_int {
        Ok(c_int::from(wanted(selection)))
    }

    /// PEM to DER, for our label alone.
    fn decode_pem(
        provider: Option<&Provider>,
        input: *mut c_void,
        selection: c_int,
        callback: Option<Callback>,
        arg: *mut c_void,
        _passphrase: *const c_void,
        _passphrase_arg: *mut c_void,
    ) -> c_int {
        let (Some(provider), Some(callback)) = (provider, callback) else { return Err(Error::null()) };
        if !wanted(selection) {
            return Ok(1);
        }
        let Some(block) = read_block(provider.bio, input, selection)? else { return Ok(1) };
        let reference = Reference::from_pem(&block).map_err(|error| {
            Error::new(Reason::Reference, format_args!("cannot read key reference: {error}"))
        })?;
        if matches!(reference.public_key().key_type(), KeyType::MlDsa(_)) && !provider.ml_dsa {
            let label = reference.label();
            let text = format_args!("cannot load key \"{label}\": this OpenSSL does not know ML-DSA; 3.5 and later do");
            return Err(Error::new(Reason::NotSupported, text));
        }
        let lent = Lent::default()
            .utf8(DATA_STRUCTURE, STRUCTURE)
            .octets(DATA, &reference.to_der());
        // SAFETY: provider-decoder(7): the callback takes the array and the argument that came with it.
        Ok(lent.hand_to(|params| unsafe { callback(params, arg) }))
    }

    /// The body of a reference to a key.
    fn decode_body(
        provider: Option<&Provider>,
        input: *mut c_void,
        selection: c_int,
        callback: Option<Callback>,
        arg: *mut c_void,
        _passphrase: *const c_void,
        _passphrase_arg: *mut c_void,
    ) -> c_int {
        let (Some(provider), Some(callback)) = (provider, callback) else { return Err(Error::null()) };
        if !wanted(selection) {
            return Ok(1);
        }
        let Some(body) = read_all(provider.bio, input) else { return Ok(1) };
        let Ok(reference) = Reference::from_der(&body) else { return Ok(1) };
        // SAFETY: provider-decoder(7): the callback takes the array and the argument that came with it.
        hand_over(&provider.client, reference, |params| unsafe { callback(params, arg) })
    }
}

/// Gives a key to OpenSSL as an object reference: the bytes of a pointer that keymgmt load takes over.
pub(crate) fn hand_over(
    client: &ConfiguredClient,
    reference: Reference,
    callback: impl FnOnce(*const abi::Param) -> c_int,
) -> Result<c_int, Error> {
    let client = Arc::clone(client.get()?);
    let Some(name) = type_name(reference.public_key().key_type()) else { return Ok(1) };
    let key = Key::Held(Arc::new(Held { reference, client }));
    let mut key: *mut Key = Box::into_raw(Box::new(key));
    let answer = Lent::default()
        .integer(TYPE, abi::OBJECT_PKEY)
        .utf8(DATA_TYPE, name)
        .hand_reference_to(REFERENCE, &mut key, callback);
    if !key.is_null() {
        // SAFETY: keymgmt load clears the pointer when it takes the key, so this one is still ours.
        drop(unsafe { Box::from_raw(key) });
    }
    Ok(answer)
}

/// A reference stands for a private key: searches for parameters or certificates must not find one.
fn wanted(selection: c_int) -> bool {
    selection == 0 || selection & SELECT_PRIVATE_KEY != 0
}

/// Reads up to the first PEM block, and returns its text if it has our label.
///
/// OpenSSL comes again for the next block only if the oldest error of the queue says "unsupported",
/// so not where a program has left an earlier error there. Then the reference is looked for behind
/// certificates, here and now: if a private key is asked for by name. `OSSL_STORE` asks for
/// everything, comes again for each block, and wants the certificates, too.
fn read_block(bio: Bio, input: *mut c_void, selection: c_int) -> Result<Option<String>, Error> {
    let mut scanned = 0;
    let mut block = Vec::new();
    let mut passed = None;
    let passes = selection & SELECT_PRIVATE_KEY != 0 && error::any_queued();
    while scanned < LONGEST_PREAMBLE {
        let mut line = [0u8; LINE];
        let room = c_int::try_from(line.len()).unwrap_or(c_int::MAX);
        // SAFETY: BIO_gets(3): writes at most `room` bytes, a NUL among them.
        let got = unsafe { (bio.gets)(input, line.as_mut_ptr().cast::<c_char>(), room) };
        let Some(line) = usize::try_from(got).ok().filter(|got| *got > 0).and_then(|got| line.get(..got))
        else {
            break;
        };
        if scanned == 0 && pem::is_utf16(line) {
            // Nobody else will read it either, and say why.
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
            if !passes || !may_be_passed(trimmed) {
                break;
            }
            passed = passed.or_else(|| position(bio, input));
            if passed.is_none() {
                break;
            }
        }
    }
    if block.is_empty() {
        if let Some(position) = passed {
            // SAFETY: BIO_seek(3): takes a number alone. Where it fails, so does OpenSSL's own
            // before the next decoder.
            unsafe { (bio.ctrl)(input, abi::BIO_SEEK, position, ptr::null_mut()) };
        }
        return Ok(None);
    }
    let text = String::from_utf8(block);
    text.map(Some).map_err(|_| Error::new(Reason::Reference, "cannot read key reference: it is not text"))
}

/// Where the next byte would be read from, if that can be told.
fn position(bio: Bio, input: *mut c_void) -> Option<c_long> {
    // SAFETY: BIO_tell(3): takes nothing.
    let position = unsafe { (bio.ctrl)(input, abi::BIO_TELL, 0, ptr::null_mut()) };
    Some(c_long::from(position)).filter(|position| *position >= 0)
}

/// Whether what a line begins is a certificate or parameters. Anything else may be a key, which
/// goes before one behind it.
fn may_be_passed(line: &[u8]) -> bool {
    let label = line.trim_ascii_end();
    label.ends_with(b"CERTIFICATE-----") || label.ends_with(b" PARAMETERS-----")
}

/// Reads the whole input, unless it is longer than any reference.
fn read_all(bio: Bio, input: *mut c_void) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut part = [0u8; LINE];
        let mut got = 0;
        // SAFETY: BIO_read_ex(3): writes at most the given number of bytes, and says how many.
        let more = unsafe { (bio.read_ex)(input, part.as_mut_ptr().cast(), part.len(), &raw mut got) };
        if more == 0 {
            return Some(body);
        }
        body.extend_from_slice(part.get(..got)?);
        if body.len() > Reference::MAX_PEM {
            return None;
        }
    }
}

/// The name of the key management that a type belongs to.
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

/// A name of our own for the structure, so that no other decoder is offered the body.
const STRUCTURE: &str = "keyward";

const BEGIN_OURS: &[u8] = b"-----BEGIN KEYWARD KEY-----";

/// Bytes that are read at a time.
const LINE: usize = 512;

/// How much of a file is searched for a reference, in bytes.
const LONGEST_PREAMBLE: usize = 1 << 20;

// OSSL_OBJECT_PARAM_*, provider-object(7).
const TYPE: &CStr = c"type";
const DATA: &CStr = c"data";
const DATA_TYPE: &CStr = c"data-type";
const DATA_STRUCTURE: &CStr = c"data-structure";
const REFERENCE: &CStr = c"reference";
