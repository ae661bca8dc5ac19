//! Frames: a 32-bit big-endian length, followed by one message.

use prost::Message;
use thiserror::Error;

/// Largest body of a frame, in bytes (256 KiB). A longer body is refused before memory is allocated
/// for it.
pub const MAX_BODY: usize = 256 * 1024;

/// Size of the length that precedes every body, in bytes.
pub const HEADER: usize = 4;

/// Longest message that a client sends whole, in bytes (64 KiB). Of a longer message the client
/// sends the digest.
pub const MAX_WHOLE_MESSAGE: usize = 64 * 1024;

/// Writes `message` as one frame, ready for a single write to the socket.
///
/// # Errors
/// [`FrameError::TooLong`] if the encoded message is longer than [`MAX_BODY`].
pub fn encode(message: &impl Message) -> Result<Vec<u8>, FrameError> {
    let mut frame = Vec::new();
    encode_into(message, &mut frame)?;
    Ok(frame)
}

/// Writes `message` as one frame into a buffer that is used again. The buffer is cleared first.
///
/// # Errors
/// [`FrameError::TooLong`] if the encoded message is longer than [`MAX_BODY`]; the buffer is empty
/// then.
pub fn encode_into(message: &impl Message, frame: &mut Vec<u8>) -> Result<(), FrameError> {
    frame.clear();
    let length = message.encoded_len();
    let header =
        u32::try_from(length).ok().filter(|_| length <= MAX_BODY).ok_or(FrameError::TooLong(length))?;
    frame.reserve(HEADER + length);
    frame.extend_from_slice(&header.to_be_bytes());
    message.encode_raw(frame);
    Ok(())
}

/// Reads the length of a body from the header of its frame.
///
/// # Errors
/// [`FrameError::TooLong`] if the body would be longer than [`MAX_BODY`].
pub fn body_length(header: [u8; HEADER]) -> Result<usize, FrameError> {
    // A u32 fits a usize on every platform where Rust's std has Unix sockets.
    let length = u32::from_be_bytes(header) as usize;
    if length > MAX_BODY {
        return Err(FrameError::TooLong(length));
    }
    Ok(length)
}

/// Splits the first complete frame off `buffer`.
///
/// Returns the body and the number of bytes that the whole frame takes, or `None` while bytes are
/// missing.
///
/// # Errors
/// [`FrameError::TooLong`] as soon as the header announces a body that is too long.
pub fn split(buffer: &[u8]) -> Result<Option<(&[u8], usize)>, FrameError> {
    let Some((header, rest)) = buffer.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = body_length(*header)?;
    Ok(rest.get(..length).map(|body| (body, HEADER + length)))
}

/// Decodes the body of a frame.
///
/// # Errors
/// [`FrameError::Malformed`] if the bytes are not a message of this type.
pub fn decode<M: Message + Default>(body: &[u8]) -> Result<M, FrameError> {
    M::decode(body).map_err(|_| FrameError::Malformed)
}

/// Reason why a frame was refused.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
#[non_exhaustive]
pub enum FrameError {
    /// The body is not the expected message. The other end is at fault.
    #[error("the frame does not hold a message of the keyward protocol")]
    Malformed,
    /// The body is longer than [`MAX_BODY`]. The sender is at fault.
    #[error("the frame announces {0} bytes, more than the {MAX_BODY} that are allowed")]
    TooLong(usize),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{Request, Sign, request, sign};

    fn request(message: Vec<u8>) -> Request {
        Request {
            id: 7,
            deadline_ms: 5000,
            body: Some(request::Body::Sign(Sign {
                label: "shop".into(),
                version: 1,
                scheme: 0x0403,
                input: Some(sign::Input::Message(message)),
                public_key_fingerprint: None,
            })),
            processor: None,
        }
    }

    #[test]
    fn golden_bytes_of_a_sign_request() {
        let frame = encode(&request(vec![0xab, 0xcd])).unwrap();
        let golden = [
            &[0, 0, 0, 0x16][..],               // 22 bytes follow
            &[0x08, 7],                         // id
            &[0x10, 0x88, 0x27],                // deadline_ms
            &[0x22, 0x0f],                      // sign, 15 bytes
            &[0x0a, 4, b's', b'h', b'o', b'p'], // label
            &[0x10, 1],                         // version
            &[0x18, 0x83, 0x08],                // scheme
            &[0x22, 2, 0xab, 0xcd],             // message
        ]
        .concat();
        assert_eq!(frame, golden);
    }

    #[test]
    fn limit_is_exact() {
        assert_eq!(body_length((MAX_BODY as u32).to_be_bytes()), Ok(MAX_BODY));
        assert_eq!(body_length((MAX_BODY as u32 + 1).to_be_bytes()), Err(FrameError::TooLong(MAX_BODY + 1)));
        assert_eq!(split(&[0xff; 4]), Err(FrameError::TooLong(0xffff_ffff)));
        let overhead = request(vec![]).encoded_len() + 16;
        assert!(encode(&request(vec![0; MAX_BODY - overhead])).is_ok());
        assert!(matches!(encode(&request(vec![0; MAX_BODY])), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn split_waits_for_the_whole_frame() {
        let frame = encode(&request(vec![1; 100])).unwrap();
        for end in 0..frame.len() {
            assert_eq!(split(&frame[..end]), Ok(None));
        }
        let mut two = frame.clone();
        two.extend_from_slice(&frame);
        let (body, used) = split(&two).unwrap().unwrap();
        assert_eq!((body, used), (&frame[4..], frame.len()));
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_decodes_to_the_same(id: u64, deadline_ms: u32, message: Vec<u8>) {
            let request = Request { id, deadline_ms, ..request(message) };
            let frame = encode(&request).unwrap();
            let (body, used) = split(&frame).unwrap().unwrap();
            prop_assert_eq!(used, frame.len());
            prop_assert_eq!(decode::<Request>(body).unwrap(), request);
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(Some((body, _))) = split(&bytes) {
                let _ = decode::<Request>(body);
            }
            let _ = decode::<Request>(&bytes);
        }
    }
}
