//! What may stand between a node and everybody else, by name; what it is, in the terms of the simulation.

use std::{fmt, str::FromStr};

use clap::ValueEnum;
use remora_proto::sim::{
    edge::Reach,
    internet::{
        ADF, APDM_BLOCK, APDM_RANDOM, APDM_SEQUENTIAL, Behaviour, EIF, FIREWALL, HOME, SHORT_LIVED,
    },
};

/// What stands there. EIM, APDM: endpoint-independent, address- and port-dependent mapping; EIF, ADF, APDF: endpoint-independent,
/// address-dependent, address- and port-dependent filtering (RFC 4787 §4.1, §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Edge {
    /// Nothing.
    Public,
    /// A firewall that lets in what answers; no translation.
    Firewall,
    /// A NAT that lets in everybody.
    EimEif,
    /// A NAT that lets in whoever's address was sent to.
    EimAdf,
    /// A NAT that lets in what answers: most homes.
    EimApdf,
    /// The same, and forgets a mapping that is idle for 30 s.
    #[value(name = "home-30s")]
    Home30s,
    /// A NAT with another mapping for each destination, each on the next port.
    ApdmSequential,
    /// The same, on any of 512 ports.
    ApdmBlock,
    /// The same, on any port.
    ApdmRandom,
    /// The same, which makes mappings for those who ask for them (NAT-PMP).
    Mapped,
    /// A home's NAT behind a carrier's.
    Cgn,
    /// IPv6 behind a firewall that lets in what answers; IPv4 as with apdm-random.
    V6Firewall,
    /// A home's NAT that lets no UDP out.
    UdpBlocked,
    /// A site that lets nothing out but what goes through its HTTP proxy.
    ProxyOnly,
    /// The same NAT that the other node is behind, EIM and APDF, without hairpinning.
    SameNat,
    /// The same, with hairpinning.
    SameNatHairpin,
}

/// Both nodes' edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// One's.
    pub a: Edge,
    /// And the other's.
    pub b: Edge,
}

/// What a gateway lets out at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outwards {
    /// Everything.
    Everything,
    /// No UDP.
    Tcp,
    /// Nothing: there is a proxy.
    Proxy,
}

impl Edge {
    /// What IPv4 packets go through, from the inside out.
    pub fn gateways(self) -> Vec<Behaviour> {
        match self {
            Self::Public => vec![],
            Self::Firewall => vec![FIREWALL],
            Self::EimEif => vec![EIF],
            Self::EimAdf => vec![ADF],
            Self::EimApdf | Self::UdpBlocked | Self::ProxyOnly | Self::SameNat => vec![HOME],
            Self::Home30s => vec![SHORT_LIVED],
            Self::ApdmSequential => vec![APDM_SEQUENTIAL],
            Self::ApdmBlock => vec![APDM_BLOCK],
            Self::ApdmRandom | Self::Mapped | Self::V6Firewall => vec![APDM_RANDOM],
            Self::Cgn => vec![HOME, HOME],
            Self::SameNatHairpin => vec![Behaviour {
                hairpin: true,
                ..HOME
            }],
        }
    }

    /// What the node has besides IPv4: its firewall for IPv6.
    pub fn v6(self) -> Option<Behaviour> {
        (self == Self::V6Firewall).then_some(FIREWALL)
    }

    /// What gets out.
    pub fn outwards(self) -> Outwards {
        if self == Self::UdpBlocked {
            Outwards::Tcp
        } else if self == Self::ProxyOnly {
            Outwards::Proxy
        } else {
            Outwards::Everything
        }
    }

    /// Whether the node can have a mapping for the asking.
    pub fn maps_ports(self) -> bool {
        self == Self::Mapped
    }

    /// Whether both nodes are behind it.
    pub fn is_shared(self) -> bool {
        matches!(self, Self::SameNat | Self::SameNatHairpin)
    }

    /// As it is typed.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl Pair {
    /// All of them, each once.
    pub fn all() -> Vec<Self> {
        let edges = Edge::value_variants().iter().copied();
        let (shared, edges): (Vec<_>, Vec<_>) = edges.partition(|edge| edge.is_shared());
        let apart = edges.iter().enumerate().flat_map(|(at, a)| {
            let others = edges[at..].iter();
            others.map(|b| Self { a: *a, b: *b })
        });
        let same = shared.iter().map(|edge| Self { a: *edge, b: *edge });
        apart.chain(same).collect()
    }

    /// Whether both are behind one gateway.
    pub fn shares_a_gateway(self) -> bool {
        self.a.is_shared()
    }

    /// Whether there is an IPv6 path.
    pub fn is_v6(self) -> bool {
        self.a.v6().is_some() && self.b.v6().is_some()
    }

    /// Whether UDP reaches both nodes at all.
    pub fn has_udp(self) -> bool {
        let edges = [self.a, self.b];
        edges
            .iter()
            .all(|edge| edge.outwards() == Outwards::Everything)
    }

    /// Whether checks or a plan make a path, by what stands between them alone: once a node that can have a mapping has one, to
    /// which anybody may send, and both use all addresses that they have.
    pub fn is_direct(self) -> bool {
        self.has_udp()
            && (self.shares_a_gateway()
                || self.is_v6()
                || self.a.maps_ports()
                || self.b.maps_ports()
                || Reach::between(&self.a.gateways(), &self.b.gateways()) != Reach::Relay)
    }
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || {
            let names = Edge::value_variants().iter().map(|edge| edge.name());
            names.collect::<Vec<_>>().join(", ")
        };
        let edge = |name: &str| {
            Edge::from_str(name, false).map_err(|_| format!("no `{name}`; there are {}", known()))
        };
        let (a, b) = text
            .split_once(':')
            .ok_or_else(|| format!("say A:B, each one of {}", known()))?;
        let pair = Self {
            a: edge(a)?,
            b: edge(b)?,
        };
        if (pair.a.is_shared() || pair.b.is_shared()) && pair.a != pair.b {
            return Err(
                "both are behind the same NAT, or neither is: same-nat:same-nat".to_owned(),
            );
        }
        Ok(pair)
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.a.name(), self.b.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_as_they_are_written() {
        let all = Pair::all();
        assert_eq!(all.len(), 14 * 15 / 2 + 2);
        for pair in all {
            assert_eq!(pair.to_string().parse(), Ok(pair));
        }
        for text in [
            "",
            "public",
            "public:",
            "public:moon",
            "same-nat:public",
            "public:same-nat",
            "same-nat:same-nat-hairpin",
        ] {
            assert!(text.parse::<Pair>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_pairs_that_nothing_brings_together_are_known() {
        let hard = [
            Edge::ApdmSequential,
            Edge::ApdmBlock,
            Edge::ApdmRandom,
            Edge::V6Firewall,
        ];
        for pair in Pair::all().into_iter().filter(|pair| pair.has_udp()) {
            let are_hard = hard.contains(&pair.a) && hard.contains(&pair.b);
            let are_foreseen = [pair.a, pair.b] == [Edge::ApdmSequential; 2];
            let is_direct = !are_hard || are_foreseen || pair.is_v6();
            assert_eq!(pair.is_direct(), is_direct, "{pair}");
        }
    }

    #[test]
    fn without_udp_nothing_is_direct() {
        let pairs: Vec<Pair> = ["public:udp-blocked", "proxy-only:mapped"]
            .map(|pair| pair.parse().expect("a pair"))
            .to_vec();
        assert!(!pairs.iter().any(|pair| pair.is_direct()));
    }
}
