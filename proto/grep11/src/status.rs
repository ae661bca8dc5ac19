use prost::Message;

/// google.rpc.Status, the content of `grpc-status-details-bin` in a gRPC status.
#[derive(Clone, Eq, Message, PartialEq)]
pub struct RpcStatus {
    /// Status code of gRPC.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Text for a person.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Details; a GREP11 server sends exactly one.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// google.protobuf.Any.
#[derive(Clone, Eq, Message, PartialEq)]
pub struct Any {
    /// Type of the message in `value`.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded message.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}
