//! Compiles `schema/*.proto` with protox, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=schema");
    let files = [
        "control.proto",
        "device.proto",
        "mesh.proto",
        "org.proto",
        "record.proto",
        "session.proto",
    ];
    let descriptors = protox::compile(files, ["schema"])?;
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
