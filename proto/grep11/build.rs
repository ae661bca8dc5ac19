//! Compiles `grep11.proto` with a protobuf compiler written in Rust, so `protoc` is not needed.

use std::path::Path;
use std::{env, fs};

use protox::prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=grep11.proto");
    let descriptors = protox::compile(["grep11.proto"], ["."])?;
    let out_dir = env::var("OUT_DIR")?;
    fs::write(Path::new(&out_dir).join("grep11.bin"), descriptors.encode_to_vec())?;

    let mut prost = prost_build::Config::new();
    // Attributes are encoded in order, so the same request has the same bytes.
    prost.btree_map(["."]);
    let service = env::var_os("CARGO_FEATURE_SERVICE").is_some();
    tonic_prost_build::configure()
        .build_client(service)
        .build_server(service)
        .compile_fds_with_config(descriptors, prost)?;
    Ok(())
}
