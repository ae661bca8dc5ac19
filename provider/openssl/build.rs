//! Link flags of the module.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Never unload: thread-local destructors of Rust's standard library may run after dlclose
    // (dlclose(3), rust-lang/rust issue 91979).
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // A missing symbol must show when the module is loaded, not in the middle of a handshake.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,now");
}
