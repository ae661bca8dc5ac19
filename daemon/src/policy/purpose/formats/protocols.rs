//! Signed messages of other protocols.

use super::super::bytes::Bytes;
use super::search::holds;

/// SSH: user authentication, which is the session identifier (a hash), byte 50 and the name of the
/// user (RFC 4252, 7); and messages that begin with a name of OpenSSH, such as a certificate
/// (PROTOCOL.certkeys) or a proof of host keys (PROTOCOL, 2.5).
///
/// Chance: 2^-24 for the zeros, times less than 2^-20. For a client whose random begins with zeros
/// only the second factor counts.
pub(super) fn is_ssh(message: &[u8]) -> bool {
    let Some(length) = message.strip_prefix(&[0, 0, 0]).and_then(<[u8]>::first) else { return false };
    let mut rest = Bytes(message);
    let Some(first) = rest.prefixed::<4>() else { return false };
    match length {
        20 | 32 | 48 | 64 if rest.0.first() == Some(&SSH_MSG_USERAUTH_REQUEST) => {
            Bytes(&rest.0[1..]).prefixed::<4>().is_some()
        }
        8.. => first.iter().all(u8::is_ascii_graphic) && holds(first, b"@openssh.com"),
        _ => false,
    }
}

/// COSE: Sig_structure and Countersign_structure, arrays of CBOR that begin with a context (RFC
/// 9052, 4.4; RFC 9338, 3.3). Verifiers build them on their own, so each has one form. Chance:
/// 2^-80.
pub(super) fn is_cose(message: &[u8]) -> bool {
    let Some((0x84..=0x86, text)) = message.split_first() else { return false };
    let contexts: [&[u8]; 6] = [
        b"\x69Signature",
        b"\x6aSignature1",
        b"\x70CounterSignature",
        b"\x71CounterSignature0",
        b"\x72CounterSignatureV2",
        b"\x73CounterSignature0V2",
    ];
    contexts.iter().any(|context| text.starts_with(context))
}

/// IKEv2: the first message of an exchange, which begins the octets that AUTH signs, then the nonce
/// of the other side and a MAC, each of 16 bytes or more (RFC 7296, 2.15). The message has version
/// 2 at 17, IKE_SA_INIT or IKE_SESSION_RESUME at 18, message id 0 at 20, its length at 24, and a
/// first payload that fits into it at 28 (RFC 7296, 3.1 and 3.2; RFC 5723).
///
/// Chance: 2^-70, and 10^-8 for a client whose random has zeros in exactly these places.
pub(super) fn is_ike(message: &[u8]) -> bool {
    let Some(header) = message.first_chunk::<32>() else { return false };
    let [version, exchange, _flags, id @ .., a, b, c, d, _next, _critical, high, low] = &header[17..] else {
        return false;
    };
    let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
    let payload = usize::from(u16::from_be_bytes([*high, *low]));
    version >> 4 == 2
        && matches!(exchange, 34 | 38)
        && *id == [0; 4]
        && length <= message.len().saturating_sub(16 + 16)
        && (4..=length.saturating_sub(28)).contains(&payload)
}

/// OpenPGP: the signed bytes end in a trailer. The trailer has the length of the signed part of the
/// signature (RFC 9580, 5.2.4, versions 4 and 6; draft-koch-librepgp, 5.2.4, version 5).
/// Chance: 2^-36.
pub(super) fn ends_as_openpgp(message: &[u8]) -> bool {
    let trailer = |end: &[u8]| {
        let length =
            end[2..].iter().try_fold(0usize, |n, byte| n.checked_mul(256)?.checked_add((*byte).into()));
        let start = length.and_then(|length| message.len().checked_sub(end.len())?.checked_sub(length));
        start.and_then(|start| message.get(start)) == end.first()
    };
    message.last_chunk::<6>().is_some_and(|end| matches!(end, [4 | 6, 0xff, ..]) && trailer(end))
        || message.last_chunk::<10>().is_some_and(|end| matches!(end, [5, 0xff, ..]) && trailer(end))
}

/// OpenPGP: a signature of version 3 over a key has no such trailer. Its signed bytes begin with
/// the key (RFC 4880, 5.2.4). Chance: 2^-27.
pub(super) fn is_openpgp_key(message: &[u8]) -> bool {
    let [0x99, high, low, 2..=4, _, _, _, _, algorithm, ..] = message else { return false };
    usize::from(u16::from_be_bytes([*high, *low])) + 3 <= message.len()
        && matches!(algorithm, 1..=3 | 16..=19 | 22 | 25..=28)
}

/// DNSSEC: RRSIG without its signature, then the records that it covers (RFC 4034, 3.1.8.1).
/// Chance: 2^-60.
pub(super) fn is_rrsig(message: &[u8]) -> bool {
    let name = |rest: &mut Bytes<'_>| -> Option<()> {
        while !rest.prefixed::<1>().filter(|label| label.len() < 64)?.is_empty() {}
        Some(())
    };
    let records = || -> Option<()> {
        let mut rest = Bytes(message);
        let fixed: &[u8; 18] = rest.take(18)?.first_chunk()?;
        // The numbers of algorithms, RFC 8624, 3.1.
        matches!(fixed[2], 1 | 3 | 5..=8 | 10 | 12..=17).then_some(())?;
        name(&mut rest)?;
        // At least one record.
        loop {
            name(&mut rest)?;
            let [type_high, type_low, _, class, ttl @ ..] = *rest.take(8)?.first_chunk::<8>()?;
            let same = [type_high, type_low] == fixed[..2] && class == 1 && ttl == fixed[4..8];
            rest.prefixed::<2>().filter(|_| same)?;
            if rest.0.is_empty() {
                return Some(());
            }
        }
    };
    message.get(2).is_some_and(|algorithm| *algorithm <= 17) && records().is_some()
}

/// Certificate transparency: the bytes that a log signs for a certificate (RFC 6962, 3.2). Chance:
/// 2^-70. Zeros alone never have this format.
pub(super) fn is_sct(message: &[u8]) -> bool {
    let entry = || -> Option<()> {
        let mut rest = Bytes(message.strip_prefix(&[0, 0])?);
        rest.take(8)?;
        match *rest.take(2)?.first_chunk()? {
            [0, 0] => {}
            [0, 1] => drop(rest.take(32)?),
            _ => return None,
        }
        let certificate = rest.prefixed::<3>()?;
        rest.prefixed::<2>()?;
        (certificate.first() == Some(&0x30) && rest.0.is_empty()).then_some(())
    };
    entry().is_some()
}

/// HIP: a packet whose checksum is zero. Its length is in units of eight bytes, without the first
/// unit (RFC 7401, 5.1 and 5.2.14). Chance: 2^-38.
pub(super) fn is_hip(message: &[u8]) -> bool {
    matches!(message, [59, length, 0..=0x7f, 0x11 | 0x21, 0, 0, ..] if usize::from(*length) * 8 + 8 == message.len())
}

/// PASETO, versions 1, 2 and 4: a count, then the header with its length before it (PASETO
/// specification, PAE). Chance: 2^-120.
pub(super) fn is_paseto(message: &[u8]) -> bool {
    message.get(1..8) == Some(&[0; 7]) && has_at(message, 18, b".public.")
}

/// Attestations of TPM 1.2: TPM_QUOTE_INFO2, TPM_QUOTE_INFO and TPM_SIGN_INFO (TPM Main, part 2,
/// 11). Chance: 2^-40.
pub(super) fn is_tpm12(message: &[u8]) -> bool {
    has_at(message, 0, b"\x00\x36QUT2")
        || has_at(message, 0, b"\x00\x05SIGN")
        || (has_at(message, 0, b"\x01\x01") && has_at(message, 4, b"QUOT"))
}

/// Participants of DDS: a row of properties, the first of which is a hash (DDS Security, 9.3.2.5).
/// Chance: 2^-56.
pub(super) fn is_dds(message: &[u8]) -> bool {
    has_at(message, 0, b"\0\0\0") && has_at(message, 8, b"hash_c")
}

fn has_at(message: &[u8], from: usize, mark: &[u8]) -> bool {
    message.get(from..).is_some_and(|rest| rest.starts_with(mark))
}

/// RFC 4252, 6.
const SSH_MSG_USERAUTH_REQUEST: u8 = 50;
