//! `remora netcheck`: what the network lets through, what its NAT does, and with which others a direct path is likely.
//!
//! ```text
//!  the relay ◀── connection, its latency ──┐
//!  its ports ◀── proto::path::survey ──────┼─▶ Report ─▶ person, or --json
//!  gateway   ◀── path::portmap ────────────┘
//! ```

/// How others see this computer.
mod look;
/// The relays that there are to choose from.
mod near;
/// What has been found.
mod report;

use std::time::Duration;

use remora_proto::id::RelayAddr;
use tokio::time::{MissedTickBehavior, interval};

pub(crate) use self::{look::is_own, near::Listed, report::nat_name};

use self::report::Report;
use crate::{
    cli,
    config::File,
    doctor::{Found, Verdict},
    error::{Exit, Failure},
    terminal::console::print_data,
};

/// `remora netcheck`
///
/// # Errors
/// The relay cannot be used; what has been found is printed all the same.
pub async fn run(file: &File, args: cli::Netcheck) -> Result<Exit, Failure> {
    let relays = file.relays(&args.relays.relay)?;
    let Some(every) = args.every else {
        let looked = look::around(&relays, args.tcp.tcp_only).await;
        print(&looked.report, args.json)?;
        return looked.close().await.map_or(Ok(Exit::Ok), Err);
    };
    let mut ticks = interval(Duration::from_secs(every));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let looked = look::around(&relays, args.tcp.tcp_only).await;
        print(&looked.report, args.json)?;
        if let Some(failure) = looked.close().await {
            tracing::debug!(%failure, "the relay could not be used");
        }
    }
}

/// The same in short, for `remora doctor`: what is wrong, and what to do.
pub(crate) async fn findings(relays: &[RelayAddr], tcp_only: bool) -> Vec<Found> {
    let looked = look::around(relays, tcp_only).await;
    let mut found = looked.report.findings();
    found.push(match looked.close().await {
        None => Found::new(
            "relay",
            Verdict::Fine,
            "the relay lets this computer in, and the clocks agree",
        ),
        Some(failure) => Found::new(
            "relay",
            Verdict::Fault,
            format!("{}: {}", failure.code, failure.line),
        ),
    });
    found
}

fn print(report: &Report, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return print_data(&report.json().to_string());
    }
    report.lines().iter().try_for_each(|line| print_data(line))
}
