//! Compiles the .proto files without protoc: protox reads them, tonic-prost-build writes the code.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/fleet.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::codec::Small")
        .compile_fds(files)?;
    Ok(())
}
