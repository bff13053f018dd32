//! The addresses of this computer's interfaces.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags, sys::socket::SockaddrStorage};
use remora_proto::path::candidate::{Candidate, Kind, Subnet};

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Where a socket can be reached on it.
    pub candidate: Candidate,
    /// The network around it.
    pub subnet: Subnet,
}

/// Where sockets that are bound to all addresses of their family, at these ports, can be reached by those who can reach an
/// interface of this computer. In the system's order, each once.
pub fn hosts(bases: &[SocketAddr]) -> Vec<Host> {
    let interfaces = match getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "the interfaces' addresses are not known");
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for interface in interfaces {
        if !interface
            .flags
            .contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING)
        {
            continue;
        }
        let Some(address) = interface.address else {
            continue;
        };
        let ip = ip_of(&address);
        let Some(ip) = ip.filter(|ip| is_useful(*ip)) else {
            continue;
        };
        let base = bases.iter().find(|base| base.is_ipv4() == ip.is_ipv4());
        let Some(base) = base else { continue };
        let mask = interface.netmask.as_ref().and_then(ip_of);
        found.push(Host {
            candidate: Candidate {
                kind: Kind::Host,
                address: SocketAddr::new(ip, base.port()),
            },
            subnet: Subnet {
                address: ip,
                prefix: mask.map_or(u8::MAX, prefix),
            },
        });
    }
    found.dedup();
    found
}

/// All candidates of these hosts, the gateway's port that leads here, and how the relay sees us; from this computer that is no help
/// to others.
pub fn candidates(
    hosts: &[Host],
    mapped: Option<SocketAddrV4>,
    seen: Option<SocketAddr>,
    allow_loopback: bool,
) -> Vec<Candidate> {
    let seen = seen.filter(|seen| allow_loopback || !seen.ip().is_loopback());
    let reflexive = seen.map(|address| Candidate {
        kind: Kind::ServerReflexive,
        address,
    });
    // First: of many, the last are not told. And once: who is not behind a NAT is seen as it is.
    let hosts = hosts.iter().map(|host| host.candidate);
    let mapped = mapped.map(|address| Candidate {
        kind: Kind::PortMapped,
        address: address.into(),
    });
    mapped
        .into_iter()
        .chain(reflexive)
        .chain(hosts.filter(|host| Some(host.address) != seen))
        .collect()
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    let v6 = address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
    v4.or(v6)
}

/// How many ones a mask begins with.
fn prefix(mask: IpAddr) -> u8 {
    let ones = match mask {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    };
    u8::try_from(ones).unwrap_or(u8::MAX)
}

/// Whether anybody else could reach it.
fn is_useful(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_others_can_reach_is_named() {
        let both = ["0.0.0.0:4000", "[::]:6000"].map(|base| base.parse().expect("an address"));
        for bases in [&both[..], &both[..1], &both[1..], &[]] {
            for Host { candidate, subnet } in hosts(bases) {
                let Candidate { kind, address } = candidate;
                assert!(
                    subnet.contains(address.ip()) && subnet.prefix > 0,
                    "{subnet:?}"
                );
                assert_eq!(kind, Kind::Host);
                let mut of_family = bases
                    .iter()
                    .filter(|base| base.is_ipv4() == address.is_ipv4());
                assert!(
                    of_family.any(|base| base.port() == address.port()),
                    "{address}"
                );
                assert!(is_useful(address.ip()), "{address}");
            }
        }
        for ip in ["127.0.0.1", "169.254.3.4", "::1", "fe80::1", "0.0.0.0"] {
            assert!(!is_useful(ip.parse().expect("an address")), "{ip}");
        }
    }
}
