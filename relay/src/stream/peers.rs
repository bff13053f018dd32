//! Who is behind which stream, and how many there may be. Pure, but for its lock.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::control::networks::Network;

/// Streams at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of all.
    pub all: usize,
    /// Of a network.
    pub network: usize,
}

/// Why there is no room for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There are as many as there may be.
    All,
    /// There are as many of its network.
    Network,
}

/// The streams of a relay.
#[derive(Debug)]
pub struct Peers {
    /// Once a stream, a connection, a request; never across an await.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    streams: usize,
    streams_by_network: HashMap<Network, usize>,
    /// The TCP peer, by its datagrams' source on this computer.
    peer_by_source: HashMap<SocketAddr, SocketAddr>,
}

/// A stream's place among them, until it is dropped.
#[derive(Debug)]
pub struct Place {
    peers: Arc<Peers>,
    peer: SocketAddr,
    source: Option<SocketAddr>,
}

impl Peers {
    /// Nobody yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            state: Mutex::new(State {
                limits,
                streams: 0,
                streams_by_network: HashMap::new(),
                peer_by_source: HashMap::new(),
            }),
        }
    }

    /// For those that come from now on; whoever is here stays.
    pub fn limit(&self, limits: Limits) {
        self.lock().limits = limits;
    }

    /// A place for a stream of `peer`'s.
    ///
    /// # Errors
    /// When there is none.
    pub fn enter(self: &Arc<Self>, peer: SocketAddr) -> Result<Place, Full> {
        let mut state = self.lock();
        let of_one = state.limits.network;
        if state.streams >= state.limits.all {
            return Err(Full::All);
        }
        let of_network = state
            .streams_by_network
            .entry(Network::from(peer.ip()))
            .or_default();
        if *of_network >= of_one {
            return Err(Full::Network);
        }
        *of_network += 1;
        state.streams += 1;
        Ok(Place {
            peers: Arc::clone(self),
            peer,
            source: None,
        })
    }

    /// Where the node is that sent a datagram from `source`: there, or at the other end of the stream that it came by.
    pub fn behind(&self, source: SocketAddr) -> SocketAddr {
        let source = canonical(source);
        let state = self.lock();
        state.peer_by_source.get(&source).copied().unwrap_or(source)
    }

    /// Whether a datagram from `source` came by a stream.
    pub fn is_stream(&self, source: SocketAddr) -> bool {
        self.lock().peer_by_source.contains_key(&canonical(source))
    }

    /// How many there are.
    pub fn streams(&self) -> usize {
        self.lock().streams
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// What comes by the stream is sent on from `source`.
    pub fn send_from(&mut self, source: SocketAddr) {
        let source = canonical(source);
        self.source = Some(source);
        let peer = canonical(self.peer);
        self.peers.lock().peer_by_source.insert(source, peer);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.peers.lock();
        state.streams -= 1;
        let network = Network::from(self.peer.ip());
        if let Some(streams) = state.streams_by_network.get_mut(&network) {
            *streams -= 1;
            if *streams == 0 {
                state.streams_by_network.remove(&network);
            }
        }
        if let Some(source) = self.source {
            state.peer_by_source.remove(&source);
        }
    }
}

/// IPv4 as IPv4, also on a socket that takes both.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn each_network_has_its_share_and_what_leaves_makes_room() {
        let peers = Arc::new(Peers::new(Limits { all: 3, network: 2 }));
        let places: Vec<_> = ["192.0.2.1:1", "[::ffff:192.0.2.2]:1"]
            .map(|peer| peers.enter(address(peer)).expect("room"))
            .into();
        let neighbour = || peers.enter(address("192.0.2.3:1")).map(drop);
        assert_eq!(neighbour(), Err(Full::Network));
        let other = peers.enter(address("198.51.100.1:1")).expect("room");
        assert_eq!(
            peers.enter(address("[2001:db8::1]:1")).map(drop),
            Err(Full::All)
        );
        drop(other);
        assert_eq!(neighbour(), Err(Full::Network));
        drop(places);
        assert_eq!(neighbour(), Ok(()));
        assert!(
            peers.lock().streams_by_network.is_empty(),
            "nothing is kept"
        );
    }

    #[test]
    fn a_node_is_where_its_stream_comes_from_while_there_is_one() {
        let peers = Arc::new(Peers::new(Limits { all: 3, network: 2 }));
        let mut place = peers.enter(address("192.0.2.1:7")).expect("room");
        place.send_from(address("127.0.0.1:40000"));
        let mapped = address("[::ffff:127.0.0.1]:40000");
        assert_eq!(peers.behind(mapped), address("192.0.2.1:7"));
        let others = address("127.0.0.1:40001");
        assert_eq!(peers.behind(others), others);
        let by_udp = address("[::ffff:127.0.0.1]:40001");
        assert!(peers.is_stream(mapped) && !peers.is_stream(by_udp));
        drop(place);
        assert_eq!(peers.behind(mapped), address("127.0.0.1:40000"));
        assert!(!peers.is_stream(mapped));
    }
}
