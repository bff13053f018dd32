//! How many connections of one network may be in their handshake: whoever only connects and says nothing takes these places for
//! five seconds each, and is not to take all of them.

use std::{
    collections::HashMap,
    convert::Infallible,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};

use super::socket_addr;
use crate::control::networks::Network;

/// A quarter of all: a fleet of so many behind one address meets at once.
const MAX_OF_NETWORK: usize = 32;

/// Who is at the door.
#[derive(Debug, Default)]
pub(super) struct Door {
    waiting: HashMap<ConnectionId, Network>,
}

/// Too many of its network are.
#[derive(Debug, thiserror::Error)]
#[error("too many connections of this network are in their handshake")]
struct Crowd;

impl Door {
    fn knock(&mut self, id: ConnectionId, network: Network) -> Result<(), Crowd> {
        let same = self.waiting.values().filter(|other| **other == network);
        if same.count() >= MAX_OF_NETWORK {
            return Err(Crowd);
        }
        self.waiting.insert(id, network);
        Ok(())
    }
}

impl NetworkBehaviour for Door {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        from: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let Some(from) = socket_addr(from) else {
            return Ok(());
        };
        self.knock(id, Network::from(from.ip()))
            .map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.waiting.remove(&id);
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ListenFailure(failure) = event {
            self.waiting.remove(&failure.connection_id);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_crowd_of_one_network_leaves_the_door_to_others() {
        let mut door = Door::default();
        let network = |last: u8, third: u8| Network::from(IpAddr::from([192, 0, third, last]));
        let mut knock = |id: usize, network| door.knock(ConnectionId::new_unchecked(id), network);
        for id in 0..MAX_OF_NETWORK {
            let last = u8::try_from(id).expect("few");
            knock(id, network(last, 2)).expect("room");
        }
        assert!(knock(1000, network(99, 2)).is_err());
        knock(1001, network(99, 3)).expect("another network");
    }
}
