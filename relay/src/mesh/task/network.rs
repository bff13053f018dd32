//! What the swarm is made of: TCP, Noise, yamux; who may come in; Kademlia; requests.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, Transport as _,
    connection_limits::{self, ConnectionLimits},
    core::{ConnectedPoint, upgrade::Version},
    kad::{self, store::MemoryStore},
    multiaddr::Protocol,
    request_response::{self, ProtocolSupport},
    swarm::{self, NetworkBehaviour},
    tcp, yamux,
};
use remora_proto::id::RelayId;

use super::door::Door;
use crate::{
    mesh::{
        codec::{Codec, PROTOCOL_NAME},
        identity::peer_id,
        reach::{Reach, Reaching},
        secure::Secure,
    },
    rendezvous::shelf::REPLICAS,
};

/// Kademlia's own requests.
const KADEMLIA_NAME: StreamProtocol = StreamProtocol::new("/remora/kad/1");
/// From the first byte to a connection that carries streams.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A request's answer; what it waits for is a few map operations away.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// A query of Kademlia: half of the two seconds in which a code is found.
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two looks around, for relays that nobody has named.
const BOOTSTRAP_EVERY: Duration = Duration::from_secs(30);
/// Requests of one relay at once; further ones wait in its connection.
const MAX_STREAMS: usize = 256;
/// Two relays that dial each other at once have two connections.
const MAX_CONNECTIONS_PER_RELAY: u32 = 4;
const MAX_CONNECTIONS: u32 = 1024;
/// Connections on their way out at once: half of the relays that may be in touch. Whoever finds no place is dialed later.
const MAX_DIALS: u32 = 256;
/// Handshakes of strangers at once.
const MAX_PENDING: u32 = 128;

/// What it does with connections.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    door: Door,
    limits: connection_limits::Behaviour,
    pub(super) kademlia: kad::Behaviour<MemoryStore>,
    pub(super) requests: request_response::Behaviour<Codec>,
}

/// A swarm of the relay `me`, which listens nowhere yet.
pub(super) fn swarm(me: RelayId, secure: Secure, reach: Reach) -> Swarm<Behaviour> {
    let me = peer_id(me);
    let transport = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(secure)
        .multiplex(yamux::Config::default())
        .timeout(CONNECT_TIMEOUT)
        .boxed();
    let transport = Reaching::new(transport, reach).boxed();
    let behaviour = Behaviour {
        door: Door::default(),
        limits: connection_limits::Behaviour::new(
            ConnectionLimits::default()
                .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_RELAY))
                .with_max_established(Some(MAX_CONNECTIONS))
                .with_max_pending_incoming(Some(MAX_PENDING))
                .with_max_pending_outgoing(Some(MAX_DIALS)),
        ),
        kademlia: kademlia(me),
        requests: request_response::Behaviour::new(
            [(PROTOCOL_NAME, ProtocolSupport::Full)],
            request_response::Config::default()
                .with_request_timeout(REQUEST_TIMEOUT)
                .with_max_concurrent_streams(MAX_STREAMS),
        ),
    };
    let config = swarm::Config::with_tokio_executor()
        // They stay: Hellos find out whether somebody is still there.
        .with_idle_connection_timeout(Duration::MAX)
        // A request costs one round trip, not two.
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    Swarm::new(transport, behaviour, me, config)
}

/// Who is where, and nothing else: it keeps no records, and takes in whom `Members` has.
fn kademlia(me: PeerId) -> kad::Behaviour<MemoryStore> {
    let nothing = kad::store::MemoryStoreConfig {
        max_records: 0,
        max_value_bytes: 0,
        max_providers_per_key: 0,
        max_provided_keys: 0,
    };
    let mut config = kad::Config::new(KADEMLIA_NAME);
    config
        .set_query_timeout(QUERY_TIMEOUT)
        .set_substreams_timeout(QUERY_TIMEOUT)
        .set_replication_factor(REPLICAS)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_periodic_bootstrap_interval(Some(BOOTSTRAP_EVERY));
    let store = MemoryStore::with_config(me, nothing);
    let mut kademlia = kad::Behaviour::with_config(me, store, config);
    kademlia.set_mode(Some(kad::Mode::Server));
    kademlia
}

/// Binds, and says where.
pub(super) fn listen(swarm: &mut Swarm<Behaviour>, at: SocketAddr) -> io::Result<SocketAddr> {
    // Of libp2p one would hear too late that it does not work, or which port it is.
    let free = crate::stream::bind(at)?;
    let at = SocketAddr::new(at.ip(), free.local_addr()?.port());
    drop(free);
    swarm.listen_on(multiaddr(at)).map_err(io::Error::other)?;
    if at.ip().is_unspecified() && at.is_ipv6() {
        // To libp2p, that is IPv6 alone.
        let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, at.port()));
        swarm.listen_on(multiaddr(v4)).map_err(io::Error::other)?;
    }
    Ok(at)
}

pub(super) fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

/// Where it is, if that is TCP at an address.
pub(in crate::mesh) fn socket_addr(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match (parts.next(), parts.next()) {
        (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port))) => (IpAddr::V4(ip), port),
        (Some(Protocol::Ip6(ip)), Some(Protocol::Tcp(port))) => (ip.to_canonical(), port),
        _ => return None,
    };
    Some(SocketAddr::from(ip))
}

pub(super) fn remote(endpoint: &ConnectedPoint) -> &Multiaddr {
    match endpoint {
        ConnectedPoint::Dialer { address, .. } => address,
        ConnectedPoint::Listener { send_back_addr, .. } => send_back_addr,
    }
}
