use prost::Message;

/// google.rpc.Status, which a gRPC status carries in `grpc-status-details-bin`.
#[derive(Clone, Eq, Message, PartialEq)]
pub struct RpcStatus {
    /// Of gRPC.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For a person.
    #[prost(string, tag = "2")]
    pub message: String,
    /// A GREP11 server sends one.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// google.protobuf.Any.
#[derive(Clone, Eq, Message, PartialEq)]
pub struct Any {
    /// What `value` is.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message, encoded.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}
