//! What a gateway does, as its kernel is told: nftables' rules for each behaviour of the simulation, and the time for which its
//! connection tracking remembers.
//!
//! patchbay's own rules know no address-dependent filtering of a single mapping, no sequential ports and no blocks of them.

/// Mappings for the asking.
pub(super) mod mapping;

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use anyhow::Context as _;
use patchbay::{Ipv4Net, Router};
use remora_proto::{
    random::Random,
    sim::internet::{Behaviour, DependsOn, Ports},
};

use super::{edge::Outwards, tool};

/// As many ports as a sequential gateway has before it begins anew: nftables takes no longer list at once.
const SEQUENCE: u16 = 4096;

/// A gateway's place.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    /// Its interface outwards.
    wan: &'a str,
    /// Its address there.
    outer: Ipv4Addr,
    /// The network inside.
    inside: Ipv4Net,
}

/// What it does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Duties {
    /// To IPv4.
    pub(super) behaviour: Behaviour,
    /// What it lets out.
    pub(super) outwards: Outwards,
    /// Mappings for the asking.
    pub(super) maps_ports: bool,
    /// A firewall for IPv6 that lets in what answers.
    pub(super) has_v6: bool,
}

/// Makes `router` do so, and forget whatever it was told before.
///
/// # Errors
/// What `nft` said.
pub(super) fn install(router: &Router, duties: &Duties) -> anyhow::Result<()> {
    let outer = router.uplink_ip().context("a gateway without an outside")?;
    let place = Place {
        // patchbay's names, of routers at the core and of others.
        wan: if router.iface("ix").is_some() {
            "ix"
        } else {
            "wan"
        },
        outer,
        inside: router
            .downstream_cidr()
            .context("a gateway without an inside")?,
    };
    let mut rules = "flush ruleset\n".to_owned();
    rules += &v4(duties, &place);
    if duties.has_v6 {
        rules += &v6(&place);
    }
    let spawn = |command| router.spawn_command_sync(command);
    tool::run(spawn, "nft", &["-f", "-"], &rules)?;
    let expiry_s = duties.behaviour.expiry.as_secs().to_string();
    router.run_sync(move || {
        for name in ["udp_timeout", "udp_timeout_stream"] {
            let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
            std::fs::write(path, &expiry_s)?;
        }
        // Where bridges are asked, too, what returns to the network that it came from is lost.
        let bridges = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
        if bridges.exists() {
            std::fs::write(bridges, "0")?;
        }
        Ok(())
    })
}

/// The address that others see, if the gateway translates.
pub(super) fn outer(router: &Router, behaviour: &Behaviour) -> Option<IpAddr> {
    let outer = router.uplink_ip().filter(|_| !behaviour.is_firewall);
    outer.map(IpAddr::V4)
}

fn v4(duties: &Duties, place: &Place<'_>) -> String {
    let Duties {
        behaviour,
        outwards,
        maps_ports,
        ..
    } = duties;
    let Place { wan, .. } = place;
    let (mut head, mut forward) = (String::new(), String::new());
    forward += match *outwards {
        Outwards::Everything => "",
        Outwards::Tcp => "meta l4proto udp drop\n",
        Outwards::Proxy => "drop\n",
    };
    if !behaviour.is_firewall {
        head += &translation(behaviour, place, *maps_ports);
        if behaviour.mapping == DependsOn::Nothing {
            // Before the source is translated.
            let key = "udp sport : ip saddr . udp sport";
            writeln!(forward, "oif {wan} update @inner {{ {key} }}").ok();
        }
    }
    if behaviour.filtering == DependsOn::Address {
        // For each inner port by itself. What goes out is seen before its source is translated, what comes in after its
        // destination is.
        head += &set(
            behaviour,
            "contacted",
            "ipv4_addr . ipv4_addr . inet_service",
        );
        let key = "ip daddr . ip saddr . udp sport";
        writeln!(forward, "oif {wan} update @contacted {{ {key} }}").ok();
    }
    writeln!(forward, "iif {wan} ct state established,related accept").ok();
    match behaviour.filtering {
        // Only what was sent to the gateway itself.
        DependsOn::Nothing => writeln!(forward, "iif {wan} ct status dnat accept").ok(),
        DependsOn::Address => {
            let key = "ip saddr . ip daddr . udp dport";
            writeln!(forward, "iif {wan} {key} @contacted accept").ok()
        }
        DependsOn::AddressAndPort => None,
    };
    if *maps_ports {
        writeln!(forward, "iif {wan} ct status dnat accept").ok();
    }
    // A stranger's packet leaves no trace: an entry of it in the connection tracking would take its port from a mapping to come.
    format!(
        "table ip natlab {{
            {head}
            chain input {{
                type filter hook input priority 0
                iif {wan} meta l4proto udp ct state new drop
            }}
            chain forward {{
                type filter hook forward priority 0
                {forward}
                iif {wan} drop
            }}
        }}\n"
    )
}

fn set(behaviour: &Behaviour, name: &str, of: &str) -> String {
    let expiry_s = behaviour.expiry.as_secs();
    let kind = if of.contains(':') { "map" } else { "set" };
    format!(
        "{kind} {name} {{
            type {of}
            flags dynamic,timeout
            timeout {expiry_s}s
            size 65536
        }}\n"
    )
}

/// Sources outwards, and destinations inwards.
fn translation(behaviour: &Behaviour, place: &Place<'_>, maps_ports: bool) -> String {
    let Place { wan, outer, inside } = place;
    let (mut head, mut inwards, mut outwards) = (String::new(), String::new(), String::new());
    if maps_ports {
        head += mapping::SETS;
        inwards = format!("iif {wan} meta l4proto udp dnat to udp dport map @mapped_in\n");
        outwards = format!(
            "oif {wan} meta l4proto udp snat to {outer} : ip saddr . udp sport map @mapped_out\n"
        );
    }
    if behaviour.mapping == DependsOn::Nothing {
        head += &set(
            behaviour,
            "inner",
            "inet_service : ipv4_addr . inet_service",
        );
        let from = if behaviour.hairpin {
            format!("ip daddr {outer}")
        } else {
            format!("iif {wan}")
        };
        inwards += &format!("{from} meta l4proto udp dnat to udp dport map @inner");
    }
    if behaviour.hairpin {
        // To the outside's view of one inside from the outside's view of the other (RFC 4787 §6, REQ-9).
        writeln!(outwards, "ip saddr {inside} ct status dnat snat to {outer}").ok();
    }
    let udp = format!("oif {wan} meta l4proto udp snat to {outer}");
    match behaviour.ports {
        Ports::Preserved => {}
        Ports::Sequential(_) => {
            let first = somewhere();
            // As a list, for nftables do not turn the number that they count to the network's byte order.
            let ports = (0..SEQUENCE).map(|at| format!("{at} : {}", first + at));
            let ports = ports.collect::<Vec<_>>().join(", ");
            let next = format!("numgen inc mod {SEQUENCE} map {{ {ports} }}");
            writeln!(outwards, "{udp} : {next}").ok();
        }
        Ports::Block(size) => {
            let first = somewhere() / size * size;
            writeln!(outwards, "{udp}:{first}-{} random", first + (size - 1)).ok();
        }
        Ports::Random => {
            writeln!(outwards, "{udp} random").ok();
        }
    }
    writeln!(outwards, "oif {wan} snat to {outer}").ok();
    format!(
        "{head}
        chain prerouting {{
            type nat hook prerouting priority dstnat
            {inwards}
        }}
        chain postrouting {{
            type nat hook postrouting priority srcnat
            {outwards}
        }}\n"
    )
}

/// A port that no other gateway begins at.
fn somewhere() -> u16 {
    20_000 + u16::from_be_bytes(Random::system().bytes()) % 20_000
}

/// A firewall; nobody translates IPv6.
fn v6(place: &Place<'_>) -> String {
    let Place { wan, .. } = place;
    format!(
        "table ip6 natlab {{
            chain forward {{
                type filter hook forward priority 0
                iif {wan} ct state established,related accept
                iif {wan} drop
            }}
        }}\n"
    )
}
