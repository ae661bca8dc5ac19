//! Frames from the other end of the socket, on either side. A decoded frame must encode to the same
//! frame.

use keyward_proto::frame;
use keyward_proto::message::{Request, Response};

/// Feeds an input to the decoder.
pub fn run(bytes: &[u8]) {
    if let Ok(Some((body, used))) = frame::split(bytes) {
        assert_eq!(used, frame::HEADER + body.len());
        decode(body);
    }
    decode(bytes);
}

fn decode(body: &[u8]) {
    if let Ok(request) = frame::decode::<Request>(body)
        && let Ok(again) = frame::encode(&request)
    {
        assert_eq!(frame::decode::<Request>(&again[frame::HEADER..]), Ok(request));
    }
    if let Ok(response) = frame::decode::<Response>(body)
        && let Ok(again) = frame::encode(&response)
    {
        assert_eq!(frame::decode::<Response>(&again[frame::HEADER..]), Ok(response));
    }
}
