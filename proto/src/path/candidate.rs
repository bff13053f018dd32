//! Where a node may be reached, and what may be probed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

use super::nat::{self, Nat};
use crate::wire::message::session as schema;

/// Most that one side tells the other.
pub const MAX_CANDIDATES: usize = 10;

/// How an address was learned (RFC 8445 §4), the likelier to be good the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An interface has it.
    Host,
    /// A gateway forwards it, because it was asked to.
    PortMapped,
    /// A relay sees packets come from it.
    ServerReflexive,
    /// The other side sees checks come from it.
    PeerReflexive,
}

/// An address, and how it was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// How.
    pub kind: Kind,
    /// Where.
    pub address: SocketAddr,
}

/// One side tells that it begins its part of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Another one each time.
    pub number: u32,
    /// That its NAT has just given; 0 if that does not matter.
    pub port: u16,
}

/// Why one side takes no direct path, whatever the other does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// It does not want one.
    RelayOnly,
    /// Not even its relay is reached by UDP.
    UdpBlocked,
}

/// What one side tells the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Where it may be reached.
    pub candidates: Vec<Candidate>,
    /// What stands before it.
    pub nat: Nat,
    /// What it does about that.
    pub attempt: Option<Attempt>,
    /// It wants packets to go through the relay for now, both ways.
    pub relayed: bool,
    /// What keeps it off all of them.
    pub hindrance: Option<Hindrance>,
}

/// Of who does not know what stands before them.
impl From<&[Candidate]> for Named {
    fn from(candidates: &[Candidate]) -> Self {
        Self {
            candidates: candidates.to_vec(),
            ..Self::default()
        }
    }
}

/// A network that an interface of this computer is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Any address in it.
    pub address: IpAddr,
    /// How many of its leading bits all have.
    pub prefix: u8,
}

impl Subnet {
    /// Whether `ip` is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let differing = match (self.address.to_canonical(), ip.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => u128::from(own.to_bits() ^ ip.to_bits()) << 96,
            (IpAddr::V6(own), IpAddr::V6(ip)) => own.to_bits() ^ ip.to_bits(),
            _ => return false,
        };
        differing.leading_zeros() >= self.prefix.into()
    }
}

/// What may be probed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Policy {
    /// Nothing: the relay's path is all there is.
    pub relay_only: bool,
    /// Addresses of this computer itself, for tests and demonstrations.
    pub allow_loopback: bool,
    /// Never these: the relay's.
    pub forbidden: Vec<SocketAddr>,
}

/// The lowest port that is not for services of the system; and the one below that people are let out to.
const FIRST_PORT: u16 = 1024;
const HTTPS_PORT: u16 = 443;

impl Policy {
    /// Whether a check may go there, whoever named it (`SECURITY` §2.2): to one host, that is not this one and not a relay,
    /// and not to somebody's service. A private one must be in a network that this computer is in.
    pub fn allows(&self, address: SocketAddr, own: &[Subnet]) -> bool {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let ip = address.ip();
        let is_host = match ip {
            ip if ip.is_loopback() => self.allow_loopback,
            ip if is_private(ip) => own.iter().any(|subnet| subnet.contains(ip)),
            IpAddr::V4(ip) => {
                let [first, ..] = ip.octets();
                first != 0 && first < 224 && !ip.is_link_local()
            }
            // Global unicast, and nothing that stands for an IPv4 address: 6to4, Teredo.
            IpAddr::V6(ip) => {
                let [first, second, ..] = ip.segments();
                first & 0xe000 == 0x2000 && first != 0x2002 && (first, second) != (0x2001, 0)
            }
        };
        let is_open = address.port() >= FIRST_PORT || address.port() == HTTPS_PORT;
        !self.relay_only && is_host && is_open && !self.forbidden.contains(&address)
    }
}

/// Whether an address means something within a site only: it tells who hears it about that, and strangers cannot use it.
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_private() || Ipv4Addr::from_bits(ip.to_bits() & 0xffc0_0000) == SHARED
        }
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// A carrier's own, behind its NAT (RFC 6598): 100.64.0.0/10.
const SHARED: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);

/// What strangers can use, which may be told to anybody whom one has a session with.
pub fn is_open(candidate: &Candidate) -> bool {
    candidate.kind != Kind::Host || !is_private(candidate.address.ip())
}

/// As it is told to the other side.
pub fn encode(named: &Named) -> schema::Candidates {
    let candidates = named.candidates.iter().take(MAX_CANDIDATES);
    schema::Candidates {
        candidates: candidates.map(encode_one).collect(),
        nat: Some(nat::encode(&named.nat)),
        attempt: named
            .attempt
            .map(|Attempt { number, port }| schema::Attempt {
                number,
                port: port.into(),
            }),
        relayed: named.relayed,
        hindrance: encode_hindrance(named.hindrance).into(),
    }
}

fn encode_hindrance(hindrance: Option<Hindrance>) -> schema::Hindrance {
    match hindrance {
        None => schema::Hindrance::Unspecified,
        Some(Hindrance::RelayOnly) => schema::Hindrance::RelayOnly,
        Some(Hindrance::UdpBlocked) => schema::Hindrance::UdpBlocked,
    }
}

fn encode_one(candidate: &Candidate) -> schema::Candidate {
    let ip = match candidate.address.ip().to_canonical() {
        IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
    };
    let kind = match candidate.kind {
        Kind::Host => schema::CandidateKind::Host,
        Kind::PortMapped => schema::CandidateKind::PortMapped,
        Kind::ServerReflexive => schema::CandidateKind::ServerReflexive,
        Kind::PeerReflexive => schema::CandidateKind::PeerReflexive,
    };
    schema::Candidate {
        ip,
        port: candidate.address.port().into(),
        kind: kind.into(),
    }
}

/// What the other side told; what makes no sense is left out, and so is what comes after the tenth.
pub fn decode(message: &schema::Candidates) -> Named {
    let candidates = message.candidates.iter().take(MAX_CANDIDATES);
    let attempt = message.attempt.as_ref().and_then(|attempt| {
        Some(Attempt {
            number: attempt.number,
            port: u16::try_from(attempt.port).ok()?,
        })
    });
    Named {
        candidates: candidates.filter_map(decode_one).collect(),
        nat: message.nat.as_ref().map_or_else(Nat::default, nat::decode),
        attempt,
        relayed: message.relayed,
        hindrance: match message.hindrance() {
            schema::Hindrance::Unspecified => None,
            schema::Hindrance::RelayOnly => Some(Hindrance::RelayOnly),
            schema::Hindrance::UdpBlocked => Some(Hindrance::UdpBlocked),
        },
    }
}

fn decode_one(candidate: &schema::Candidate) -> Option<Candidate> {
    let ip = match candidate.ip.len() {
        4 => IpAddr::V4(Ipv4Addr::from(*candidate.ip.first_chunk::<4>()?)),
        16 => IpAddr::V6(Ipv6Addr::from(*candidate.ip.first_chunk::<16>()?)),
        _ => return None,
    };
    let kind = match candidate.kind() {
        schema::CandidateKind::Unspecified => return None,
        schema::CandidateKind::Host => Kind::Host,
        schema::CandidateKind::PortMapped => Kind::PortMapped,
        schema::CandidateKind::ServerReflexive => Kind::ServerReflexive,
        schema::CandidateKind::PeerReflexive => Kind::PeerReflexive,
    };
    let port = u16::try_from(candidate.port).ok()?;
    let address = SocketAddr::new(ip.to_canonical(), port);
    Some(Candidate { kind, address })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::{
        path::nat::{Allocation, MAX_BLOCK, Mapping},
        wire::message::MAX_CANDIDATES_BYTES,
    };

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn subnet(text: &str) -> Subnet {
        let (address, prefix) = text.split_once('/').expect("a prefix");
        Subnet {
            address: address.parse().expect("an address"),
            prefix: prefix.parse().expect("a number"),
        }
    }

    #[test]
    fn a_subnet_has_what_begins_like_it() {
        for (of, inside, outside) in [
            ("10.0.0.77/24", "10.0.0.255", "10.0.1.0"),
            ("10.0.0.77/32", "10.0.0.77", "10.0.0.76"),
            ("10.0.0.77/0", "203.0.113.1", "fd00::1"),
            ("fd00::77/64", "fd00::1", "fd00:0:0:1::1"),
            ("::ffff:10.0.0.1/8", "10.9.9.9", "11.0.0.1"),
        ] {
            let subnet = subnet(of);
            assert!(subnet.contains(inside.parse().expect("an address")), "{of}");
            assert!(
                !subnet.contains(outside.parse().expect("an address")),
                "{of}"
            );
        }
    }

    #[test]
    fn only_single_hosts_elsewhere_may_be_probed() {
        let policy = Policy {
            forbidden: vec![address("198.51.100.1:4433")],
            ..Policy::default()
        };
        let own = ["10.0.0.77/24", "fd00::77/64"].map(subnet);
        for good in [
            "203.0.113.7:1024",
            "203.0.113.7:443",
            "10.0.0.1:9000",
            "[2001:db8::1]:5000",
            "[fd00::2]:5000",
        ] {
            assert!(policy.allows(address(good), &own), "{good}");
        }
        for elsewhere in ["10.0.1.1:9000", "192.168.1.1:9000", "[fd00:0:0:1::2]:5000"] {
            assert!(!policy.allows(address(elsewhere), &own), "{elsewhere}");
        }
        for bad in [
            "0.0.0.0:5000",
            "0.1.2.3:5000",
            "127.0.0.1:5000",
            "169.254.1.1:5000",
            "224.0.0.1:5000",
            "255.255.255.255:5000",
            "240.0.0.1:5000",
            "203.0.113.7:0",
            "[::]:5000",
            "[::1]:5000",
            "[fe80::1]:5000",
            "[ff02::1]:5000",
            "[::ffff:127.0.0.1]:5000",
            "198.51.100.1:4433",
            "[::ffff:198.51.100.1]:4433",
            "203.0.113.7:22",
            "203.0.113.7:53",
            "[::203.0.113.7]:5000",
            "[64:ff9b::203.0.113.7]:5000",
            "[2002:cb00:7107::1]:5000",
            "[2001:0:cb00:7107::1]:5000",
        ] {
            assert!(!policy.allows(address(bad), &own), "{bad}");
        }
        let nothing = Policy {
            relay_only: true,
            ..Policy::default()
        };
        assert!(!nothing.allows(address("203.0.113.7:5000"), &own));
        let oneself = Policy {
            allow_loopback: true,
            ..Policy::default()
        };
        assert!(oneself.allows(address("127.0.0.1:5000"), &own));
    }

    #[test]
    fn what_means_something_within_a_site_only_is_private() {
        for ip in [
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_private(ip.parse().expect("an address")), "{ip}");
        }
        for ip in [
            "192.0.2.1",
            "100.128.0.0",
            "100.63.255.255",
            "172.32.0.1",
            "2001:db8::1",
        ] {
            assert!(!is_private(ip.parse().expect("an address")), "{ip}");
        }
    }

    #[test]
    fn candidates_cross_as_they_are() {
        let all = [
            (Kind::Host, "10.0.0.1:9"),
            (Kind::PortMapped, "203.0.113.7:1"),
            (Kind::ServerReflexive, "[2001:db8::1]:65535"),
            (Kind::PeerReflexive, "203.0.113.7:2"),
        ]
        .map(|(kind, at)| Candidate {
            kind,
            address: address(at),
        });
        let nat = Nat {
            mapping: Mapping::Dependent(Allocation::Sequential { step: 2 }),
        };
        let attempt = Some(Attempt {
            number: u32::MAX,
            port: u16::MAX,
        });
        for hindrance in [
            None,
            Some(Hindrance::RelayOnly),
            Some(Hindrance::UdpBlocked),
        ] {
            let named = Named {
                nat,
                attempt,
                relayed: true,
                hindrance,
                ..Named::from(&all[..])
            };
            assert_eq!(decode(&encode(&named)), named);
        }
    }

    #[test]
    fn a_hindrance_of_times_to_come_is_none_that_can_be_said() {
        let mut told = encode(&Named::default());
        told.hindrance = i32::MAX;
        assert_eq!(decode(&told), Named::default());
    }

    #[test]
    fn the_most_that_is_told_fits_its_message() {
        let candidate = Candidate {
            kind: Kind::PortMapped,
            address: address("[2001:db8::1]:65535"),
        };
        let many = Named {
            candidates: vec![candidate; 20],
            nat: Nat {
                mapping: Mapping::Dependent(Allocation::Block {
                    first: 50_000,
                    size: MAX_BLOCK,
                }),
            },
            attempt: Some(Attempt {
                number: u32::MAX,
                port: u16::MAX,
            }),
            relayed: true,
            hindrance: Some(Hindrance::UdpBlocked),
        };
        assert_eq!(decode(&encode(&many)).candidates.len(), MAX_CANDIDATES);
        assert!(encode(&many).encoded_len() <= MAX_CANDIDATES_BYTES);
    }

    proptest! {
        #[test]
        fn what_makes_no_sense_is_left_out(
            parts in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..18), any::<u32>(), any::<i32>()), 0..20),
            attempt: Option<(u32, u32)>,
            relayed: bool,
            hindrance: i32,
        ) {
            let candidates = parts.into_iter().map(|(ip, port, kind)| schema::Candidate { ip: ip.into(), port, kind });
            let attempt = attempt.map(|(number, port)| schema::Attempt { number, port });
            let message = schema::Candidates { candidates: candidates.collect(), nat: None, attempt, relayed, hindrance };
            let named = decode(&message);
            prop_assert_eq!(decode(&encode(&named)), named);
        }
    }
}
