//! Compiles `keyward.proto` with a protobuf compiler written in Rust, so `protoc` is not needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=keyward.proto");
    let descriptors = protox::compile(["keyward.proto"], ["."])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
