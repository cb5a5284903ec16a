//! Compiles the .proto files without protoc: protox reads them, tonic-prost-build writes the code. Stamps the version.

use std::{env, error::Error};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-env-changed=FLEET_VERSION");
    println!("cargo:rustc-env=FLEET_STAMP={}", version()?);
    let files = protox::compile(["proto/fleet.proto", "proto/rescue.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::codec::Small")
        .compile_fds(files)?;
    Ok(())
}

/// `FLEET_VERSION` if it is set, so that two releases of one tree can differ; else the package's.
fn version() -> Result<String, Box<dyn Error>> {
    let told = env::var("FLEET_VERSION").ok().filter(|told| !told.is_empty());
    let version = told.map_or_else(|| env::var("CARGO_PKG_VERSION"), Ok)?;
    let numbers: Vec<&str> = version.split('.').collect();
    let number = |text: &&str| text.parse::<u32>().is_ok_and(|number| number.to_string() == **text);
    if numbers.len() != 3 || !numbers.iter().all(number) {
        return Err(format!("FLEET_VERSION `{version}` is not a version such as 1.2.3").into());
    }
    Ok(version)
}
