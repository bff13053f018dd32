//! The ends of a session, as the registry knows them and as frames are compared with them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

const V4: u8 = 4;
const V6: u8 = 6;
/// Beside the family: another relay's.
const RELAY: u8 = 0x40;
/// Where an address's family stands in the first word.
const FAMILY_SHIFT: u32 = 16;
/// Where our own address's family stands in the first word.
const LOCAL_SHIFT: u32 = 24;

/// Who a frame is sent on to, or comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FarEnd {
    /// A node.
    Node,
    /// Another relay, at which the node is.
    Relay,
}

/// One end of a session, as seen from the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Who is there.
    pub end: FarEnd,
    /// The node's address, as the socket names it: frames come from exactly there and go there.
    pub remote: SocketAddr,
    /// The relay's own address that the node talks to, where it has several: the node's NAT lets nothing
    /// else through.
    pub local: Option<IpAddr>,
}

/// A UDP address in three words, which are equal when addresses are.
///
/// | word | bytes, from the lowest | |
/// |---|---|---|
/// | 0 | 2, 1, 1, 4 | port; family, 4 or 6; 0 (see [`PackedLeg`]); scope of an IPv6 address |
/// | 1 | 8 | the upper half of an IPv6 address, or 0 |
/// | 2 | 8 | its lower half, or an IPv4 address |
#[derive(Clone, Copy, Debug, Eq)]
pub struct PackedAddress(pub(super) [u64; 3]);

/// A [`Leg`] in five words: the node's [`PackedAddress`], with a bit beside its family for another relay, our own address's family in
/// its fourth byte, or 0 for none, and both halves of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedLeg {
    pub(super) remote: [u64; 3],
    pub(super) local: [u64; 2],
}

impl PackedAddress {
    /// Nobody's.
    pub const NONE: Self = Self([0; 3]);

    pub(super) fn v4(ip: Ipv4Addr, port: u16) -> Self {
        let kind = u64::from(V4) << FAMILY_SHIFT | u64::from(port);
        Self([kind, 0, ip.to_bits().into()])
    }

    pub(super) fn v6(ip: Ipv6Addr, port: u16, scope: u32) -> Self {
        let [high, low] = halves(ip);
        let kind = u64::from(scope) << 32 | u64::from(V6) << FAMILY_SHIFT | u64::from(port);
        Self([kind, high, low])
    }
}

impl PartialEq for PackedAddress {
    #[inline]
    fn eq(&self, Self([a, b, c]): &Self) -> bool {
        let [d, e, f] = self.0;
        // Word by word, as they were written: two at a time would have to wait until they are in memory.
        (a ^ d) | (b ^ e) | (c ^ f) == 0
    }
}

impl From<SocketAddr> for PackedAddress {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => Self::v4(*v4.ip(), v4.port()),
            SocketAddr::V6(v6) => Self::v6(*v6.ip(), v6.port(), v6.scope_id()),
        }
    }
}

impl From<PackedAddress> for SocketAddr {
    #[inline]
    fn from(PackedAddress([kind, high, low]): PackedAddress) -> Self {
        let [port_low, port_high, family, _, scope @ ..] = kind.to_le_bytes();
        let port = u16::from_le_bytes([port_low, port_high]);
        match ip(family, [high, low]) {
            IpAddr::V4(ip) => Self::from((ip, port)),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, u32::from_le_bytes(scope)).into(),
        }
    }
}

impl PackedLeg {
    /// Nobody's.
    pub const NONE: Self = Self {
        remote: [0; 3],
        local: [0; 2],
    };

    /// Whether these words, the first of a packed leg, say that there are more.
    pub(super) fn has_local([kind, ..]: [u64; 3]) -> bool {
        kind.to_le_bytes()[3] != 0
    }

    /// The node's address.
    #[inline]
    pub fn remote(&self) -> PackedAddress {
        let [kind, high, low] = self.remote;
        const OTHERS: u64 = 0xff << LOCAL_SHIFT | (RELAY as u64) << FAMILY_SHIFT;
        PackedAddress([kind & !OTHERS, high, low])
    }

    /// Who is there.
    #[inline]
    pub fn end(&self) -> FarEnd {
        match self.remote[0].to_le_bytes()[2] & RELAY {
            0 => FarEnd::Node,
            _ => FarEnd::Relay,
        }
    }

    /// Our own, where that matters.
    #[inline]
    pub fn local(&self) -> Option<IpAddr> {
        let family = self.remote[0].to_le_bytes()[3];
        (family != 0).then(|| ip(family, self.local))
    }
}

impl From<Leg> for PackedLeg {
    fn from(leg: Leg) -> Self {
        let PackedAddress(mut remote) = leg.remote.into();
        let (family, local) = match leg.local {
            Some(IpAddr::V4(ip)) => (V4, [0, ip.to_bits().into()]),
            Some(IpAddr::V6(ip)) => (V6, halves(ip)),
            None => (0, [0; 2]),
        };
        let end = match leg.end {
            FarEnd::Node => 0,
            FarEnd::Relay => RELAY,
        };
        remote[0] |= u64::from(family) << LOCAL_SHIFT | u64::from(end) << FAMILY_SHIFT;
        Self { remote, local }
    }
}

impl From<PackedLeg> for Leg {
    fn from(leg: PackedLeg) -> Self {
        Self {
            end: leg.end(),
            remote: leg.remote().into(),
            local: leg.local(),
        }
    }
}

fn halves(ip: Ipv6Addr) -> [u64; 2] {
    let bits = ip.to_bits();
    [bits >> 64, bits & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(u64::MAX))
}

#[inline]
fn ip(family: u8, [high, low]: [u64; 2]) -> IpAddr {
    if family == V4 {
        let [.., a, b, c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d).into()
    } else {
        Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leg_comes_out_as_it_went_in() {
        let scoped = SocketAddrV6::new("fe80::1".parse().expect("an address"), 9, 0, 3);
        for remote in [
            SocketAddr::from(([192, 0, 2, 1], 7)),
            SocketAddr::from((Ipv4Addr::BROADCAST, 65_535)),
            "[2001:db8::1]:4433".parse().expect("an address"),
            "[::ffff:192.0.2.1]:1".parse().expect("an address"),
            scoped.into(),
        ] {
            for (local, end) in [
                (None, FarEnd::Node),
                (None, FarEnd::Relay),
                (Some(remote.ip()), FarEnd::Relay),
                (Some(Ipv6Addr::UNSPECIFIED.into()), FarEnd::Node),
            ] {
                let whole = Leg { end, remote, local };
                let packed = PackedLeg::from(whole);
                assert_eq!(Leg::from(packed), whole);
                assert_eq!(packed.remote(), remote.into());
                assert_eq!(PackedLeg::has_local(packed.remote), local.is_some());
            }
        }
    }

    #[test]
    fn packed_addresses_are_equal_when_addresses_are() {
        let addresses = [
            "192.0.2.1:1",
            "192.0.2.1:257",
            "192.0.2.2:1",
            "[::ffff:192.0.2.1]:1",
            "[::c000:201]:1",
            "[fe80::1]:1",
            "[fe80::1%1]:1",
            "[fe80:0:0:1::1]:1",
        ]
        .map(|text| text.parse::<SocketAddr>().expect("an address"));
        for one in addresses {
            for other in addresses {
                let equal = PackedAddress::from(one) == PackedAddress::from(other);
                assert_eq!(equal, one == other, "{one} {other}");
            }
        }
    }
}
