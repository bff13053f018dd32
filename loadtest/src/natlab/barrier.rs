//! What is kept from a node while it lives: in its own namespace, so that whatever stands before it knows nothing of that.

use std::net::IpAddr;

use patchbay::Device;

use super::tool;

/// Ours, in the node's namespace.
const TABLE: &str = "barrier";

/// Which packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// UDP to others than the relay, and from them.
    BothWays,
    /// UDP to others than the relay.
    Outwards,
    /// UDP from others than the relay.
    Inwards,
    /// Everything to the relay.
    Relay,
}

/// Keeps them away; what was kept away before is not any more.
///
/// # Errors
/// What `nft` said.
pub(super) fn raise(device: &Device, blocked: Blocked, relay: IpAddr) -> anyhow::Result<()> {
    let (mut inwards, mut outwards) = ("", "");
    let from_others = format!("ip saddr != {relay} meta l4proto udp drop");
    let to_others = format!("ip daddr != {relay} meta l4proto udp drop");
    let to_relay = format!("ip daddr {relay} drop");
    match blocked {
        Blocked::BothWays => (inwards, outwards) = (&from_others, &to_others),
        Blocked::Outwards => outwards = &to_others,
        Blocked::Inwards => inwards = &from_others,
        Blocked::Relay => outwards = &to_relay,
    }
    let rules = format!(
        "table inet {TABLE}
        delete table inet {TABLE}
        table inet {TABLE} {{
            chain in {{
                type filter hook input priority 1
                {inwards}
            }}
            chain out {{
                type filter hook output priority 1
                {outwards}
            }}
        }}"
    );
    nft(device, &rules)
}

/// Keeps nothing away.
///
/// # Errors
/// What `nft` said.
pub(super) fn lift(device: &Device) -> anyhow::Result<()> {
    nft(
        device,
        &format!("table inet {TABLE}\ndelete table inet {TABLE}"),
    )
}

fn nft(device: &Device, rules: &str) -> anyhow::Result<()> {
    let spawn = |command| device.spawn_command_sync(command);
    tool::run(spawn, "nft", &["-f", "-"], rules).map(|_| ())
}
