//! The gateway by which this computer's packets to strangers leave, over IPv4.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
};

/// A gateway, from this computer's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Ours, in its network.
    pub own: Ipv4Addr,
}

impl Gateway {
    /// The system's, on Linux.
    pub fn of_system() -> Option<Self> {
        // No disk and no network: the kernel answers, both here and below.
        let table = match fs::read_to_string("/proc/net/route") {
            Ok(table) => table,
            Err(error) => {
                tracing::debug!(%error, "the gateway is not known");
                return None;
            }
        };
        let ip = default_route(&table)?;
        let own = own_address(ip).ok()?;
        Some(Self { ip, own })
    }
}

/// The address from which `gateway` is talked to.
fn own_address(gateway: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((gateway, crab_nat::GATEWAY_PORT))?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(own) => Ok(own),
        IpAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

/// Flags of a route (`linux/route.h`).
const RTF_UP: u32 = 1;
const RTF_GATEWAY: u32 = 2;

/// The gateway of the best default route in a table as `/proc/net/route` has it: a line of fields for each, numbers in
/// hexadecimal and addresses in the byte order of the machine (`net/ipv4/fib_trie.c`). A default route that has no gateway, a tunnel's,
/// is not passed over.
fn default_route(table: &str) -> Option<Ipv4Addr> {
    let defaults = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[_, destination, gateway, flags, _, _, metric, mask, ..] = &fields[..] else {
            return None;
        };
        let hex = |text| u32::from_str_radix(text, 16).ok();
        let flags = hex(flags)?;
        let is_default = (hex(destination)?, hex(mask)?) == (0, 0) && flags & RTF_UP != 0;
        let gateway = (flags & RTF_GATEWAY != 0).then_some(hex(gateway)?);
        is_default.then_some((metric.parse::<u32>().ok()?, gateway))
    });
    let (_, gateway) = defaults.min_by_key(|(metric, _)| *metric)?;
    gateway.map(|gateway| Ipv4Addr::from(gateway.to_ne_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_best_default_route_has_the_gateway() {
        let wifi = "wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n";
        let cable = "eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n";
        let near = "eth0\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        let tunnel = "tun0\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0\n";
        let garbage = "eth0\t0000\nx\ty\tz\n\neth1\t00000000\tGGGG\t0003\t0\t0\t1\t00000000\n";
        let of = |lines: &[&str]| default_route(&[&[HEADER][..], lines].concat().concat());
        assert_eq!(of(&[near, wifi, cable]), Some([10, 0, 0, 1].into()));
        assert_eq!(of(&[wifi, garbage]), Some([192, 168, 1, 1].into()));
        assert_eq!(
            of(&[wifi, tunnel]),
            None,
            "packets do not leave by the gateway"
        );
        for nothing in [&[near][..], &[garbage], &[]] {
            assert_eq!(of(nothing), None, "{nothing:?}");
        }
        assert_eq!(default_route(""), None);
    }
}
