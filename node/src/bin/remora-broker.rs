//! `remora-broker`: see `remora::broker`.

use std::process::ExitCode;

use clap::Parser as _;
use remora::broker::{Args, run};

fn main() -> ExitCode {
    let args = Args::parse();
    // What systemd writes down.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
