//! `remora-loadtest`: loads a fleet of relays and reports what it cost. A skeleton: no scenario is here yet.

use std::{io::Write, process::ExitCode};

use clap::Parser;

/// Load a fleet of Remora relays and report what it cost (no scenario is here yet)
#[derive(Debug, Parser)]
#[command(name = "remora-loadtest", version)]
struct Cli {}

fn main() -> ExitCode {
    Cli::parse();
    let line = "remora-loadtest: this version has no scenario yet; see `remora-loadtest --help`";
    // When even standard error is closed, the exit code has to do.
    match writeln!(std::io::stderr(), "{line}") {
        Ok(()) | Err(_) => ExitCode::from(2),
    }
}
