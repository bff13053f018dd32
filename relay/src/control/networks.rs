//! How many nodes each network has, pure: so that one network cannot take all the places (`SECURITY` §2.4).
//!
//! A parked node has no connection, and needs one to come back: so connections are counted at the door, whoever they may be of,
//! and nodes, connected or parked, when a new one says Hello.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// What an address is counted under: its /24, or its /56 for IPv6, the least that a subscriber is commonly given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(IpAddr);

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() >> 8 << 8)),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 72 << 72)),
        })
    }
}

/// What is to be done with a first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room.
    Free,
    /// There is room for whoever proves that it is there (RFC 9000 §8.1): half of the places cannot be taken by somebody
    /// who only writes this network's addresses on packets.
    Proven,
    /// There is none.
    None,
}

/// The nodes of each network. Its size is theirs.
#[derive(Debug)]
pub struct Networks {
    limit: usize,
    count_by_network: HashMap<Network, Count>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    connections: usize,
    nodes: usize,
}

impl Networks {
    /// At most `limit` nodes each.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            count_by_network: HashMap::new(),
        }
    }

    /// At most `limit` nodes each from now on; whoever is here stays.
    pub fn limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether `network` may have another connection.
    pub fn room(&self, network: Network) -> Room {
        let connections = self.count(network).connections;
        if connections >= self.limit {
            Room::None
        } else if connections >= self.limit.div_ceil(2) {
            Room::Proven
        } else {
            Room::Free
        }
    }

    /// Whether `network` has as many nodes as it may.
    pub fn is_full(&self, network: Network) -> bool {
        self.count(network).nodes >= self.limit
    }

    fn count(&self, network: Network) -> Count {
        let count = self.count_by_network.get(&network);
        count.copied().unwrap_or_default()
    }

    /// A connection of `network` has begun.
    pub fn enter(&mut self, network: Network) {
        self.count_by_network
            .entry(network)
            .or_default()
            .connections += 1;
    }

    /// A connection of `network` has ended.
    pub fn leave(&mut self, network: Network) {
        self.change(network, |count| count.connections -= 1);
    }

    /// A node of `network` is welcome.
    pub fn attach(&mut self, network: Network) {
        self.count_by_network.entry(network).or_default().nodes += 1;
    }

    /// A node that was is gone.
    pub fn detach(&mut self, network: Network) {
        self.change(network, |count| count.nodes -= 1);
    }

    fn change(&mut self, network: Network, change: impl FnOnce(&mut Count)) {
        if let Some(count) = self.count_by_network.get_mut(&network) {
            change(count);
            if *count == Count::default() {
                self.count_by_network.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str) -> Network {
        Network::from(address.parse::<IpAddr>().expect("an address"))
    }

    #[test]
    fn neighbours_count_as_one() {
        let same = [
            ("192.0.2.1", "192.0.2.254"),
            ("192.0.2.1", "::ffff:192.0.2.7"),
            ("2001:db8:0:4200::1", "2001:db8:0:42ff:ffff::"),
        ];
        for (one, other) in same {
            assert_eq!(network(one), network(other), "{one} {other}");
        }
        let different = [
            ("192.0.2.1", "192.0.3.1"),
            ("2001:db8:0:4200::1", "2001:db8:0:4300::1"),
            ("192.0.2.1", "2001:db8::"),
        ];
        for (one, other) in different {
            assert_ne!(network(one), network(other), "{one} {other}");
        }
    }

    #[test]
    fn half_of_the_places_are_for_the_proven_and_one_that_leaves_makes_room() {
        let (full, other) = (network("192.0.2.1"), network("198.51.100.1"));
        let mut networks = Networks::new(4);
        let mut rooms = Vec::new();
        for _ in 0..5 {
            rooms.push(networks.room(full));
            networks.enter(full);
        }
        assert_eq!(
            rooms,
            [
                Room::Free,
                Room::Free,
                Room::Proven,
                Room::Proven,
                Room::None
            ]
        );
        assert_eq!(networks.room(other), Room::Free);
        for _ in 0..2 {
            networks.leave(full);
        }
        assert_eq!(networks.room(full), Room::Proven);
        for _ in 0..3 {
            networks.leave(full);
        }
        assert_eq!(networks.room(full), Room::Free);
        assert!(networks.count_by_network.is_empty(), "nothing is kept");
    }

    #[test]
    fn nodes_are_counted_apart_from_connections() {
        let home = network("192.0.2.1");
        let mut networks = Networks::new(2);
        for _ in 0..2 {
            networks.enter(home);
            assert!(!networks.is_full(home), "who has proven nothing is no node");
            networks.attach(home);
            networks.leave(home);
        }
        assert!(networks.is_full(home));
        assert_eq!(networks.room(home), Room::Free, "to come back");
        networks.detach(home);
        assert!(!networks.is_full(home));
        networks.detach(home);
        assert!(networks.count_by_network.is_empty(), "nothing is kept");
    }

    #[test]
    fn a_limit_of_one_lets_one_in() {
        let mut networks = Networks::new(1);
        assert_eq!(networks.room(network("192.0.2.1")), Room::Free);
        networks.enter(network("192.0.2.1"));
        assert_eq!(networks.room(network("192.0.2.2")), Room::None);
    }
}
