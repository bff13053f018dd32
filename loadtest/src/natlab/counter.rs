//! How many connectivity checks leave a node, counted by the kernel in front of it: what it says of itself is not asked.

use anyhow::Context as _;
use patchbay::Device;
use remora_proto::wire::FIRST_BYTE_CHECK;
use serde_json::Value;

use super::tool;

/// Ours, in the node's namespace.
const TABLE: &str = "natlab";

/// Counts from now on: UDP payloads that begin as a question does (`proto::path::check`); those through the relay are in frames.
///
/// # Errors
/// What `nft` said.
pub(super) fn install(device: &Device) -> anyhow::Result<()> {
    let question = u16::from(FIRST_BYTE_CHECK) << 8;
    let rules = format!(
        "table inet {TABLE} {{
            counter checks {{ }}
            chain out {{
                type filter hook output priority 0;
                meta l4proto udp @th,64,16 {question:#06x} counter name checks
            }}
        }}"
    );
    let spawn = |command| device.spawn_command_sync(command);
    tool::run(spawn, "nft", &["-f", "-"], &rules).map(|_| ())
}

/// How many there were since the last time.
///
/// # Errors
/// What `nft` said.
pub(super) fn take(device: &Device) -> anyhow::Result<u64> {
    let args = ["-j", "reset", "counters", "table", "inet", TABLE];
    let spawn = |command| device.spawn_command_sync(command);
    let said = tool::run(spawn, "nft", &args, "")?;
    let said: Value = serde_json::from_str(&said).context("nft -j prints JSON")?;
    let objects = said["nftables"].as_array().context("nft lists objects")?;
    let mut packets = objects
        .iter()
        .filter_map(|object| object["counter"]["packets"].as_u64());
    packets.next().context("nft does not list the counter")
}
