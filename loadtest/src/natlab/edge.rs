//! What may stand between a node and everybody else, by name; what it is, in the terms of the simulation.

use std::{fmt, str::FromStr};

use clap::ValueEnum;
use remora_proto::sim::{
    edge::reaches,
    internet::{Behaviour, DependsOn, FIREWALL, HOME, Ports},
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
    /// A NAT with another mapping for each destination, on any port.
    ApdmRandom,
    /// A home's NAT behind a carrier's.
    Cgn,
    /// The same NAT that the other node is behind, EIM and APDF, without hairpinning.
    SameNat,
}

/// Both nodes' edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// One's.
    pub a: Edge,
    /// And the other's.
    pub b: Edge,
}

impl Edge {
    /// What packets go through, from the inside out.
    pub fn gateways(self) -> Vec<Behaviour> {
        match self {
            Self::Public => vec![],
            Self::Firewall => vec![FIREWALL],
            Self::EimEif => vec![Behaviour {
                filtering: DependsOn::Nothing,
                ..HOME
            }],
            Self::EimAdf => vec![Behaviour {
                filtering: DependsOn::Address,
                ..HOME
            }],
            Self::EimApdf | Self::SameNat => vec![HOME],
            Self::ApdmRandom => vec![Behaviour {
                mapping: DependsOn::AddressAndPort,
                ports: Ports::Random,
                ..HOME
            }],
            Self::Cgn => vec![HOME, HOME],
        }
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
        let edges: Vec<_> = edges.filter(|edge| *edge != Edge::SameNat).collect();
        let apart = edges.iter().enumerate().flat_map(|(at, a)| {
            let others = edges[at..].iter();
            others.map(|b| Self { a: *a, b: *b })
        });
        apart.chain([Self::SAME_NAT]).collect()
    }

    const SAME_NAT: Self = Self {
        a: Edge::SameNat,
        b: Edge::SameNat,
    };

    /// Whether both are behind one gateway.
    pub fn shares_a_gateway(self) -> bool {
        self == Self::SAME_NAT
    }

    /// Whether ordinary checks make a path, by what the gateways are alone.
    pub fn is_direct(self) -> bool {
        self.shares_a_gateway() || reaches(&self.a.gateways(), &self.b.gateways())
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
        if (pair.a == Edge::SameNat) != (pair.b == Edge::SameNat) {
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
        assert_eq!(all.len(), 7 * 8 / 2 + 1);
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
        ] {
            assert!(text.parse::<Pair>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_pairs_that_need_more_than_checks_are_known() {
        let relayed = Pair::all().into_iter().filter(|pair| !pair.is_direct());
        let relayed: Vec<_> = relayed.map(|pair| pair.to_string()).collect();
        let expected = [
            "firewall:apdm-random",
            "eim-apdf:apdm-random",
            "apdm-random:apdm-random",
            "apdm-random:cgn",
        ];
        assert_eq!(relayed, expected);
    }
}
