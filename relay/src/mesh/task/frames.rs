//! How frames go to other relays: the world around [`Legs`](crate::mesh::legs::Legs).

use std::net::{IpAddr, SocketAddr};

use quinn_udp::Transmit;
use remora_proto::{
    id::{MAX_HOST_PORT_BYTES, RelayId, may_be_relay},
    path::check,
};

use super::{Sought, Task, resolve};
use crate::{
    datapath::{
        QuicPacket,
        leg::{FarEnd, Leg},
    },
    mesh::identity::peer_id,
};

impl Task {
    /// Asks a relay where its frames come from, or whether they still do.
    pub(super) fn ask_for_leg(&mut self, relay: RelayId) {
        let before = self.legs.leg(relay);
        for (to, question) in self.legs.questions(relay) {
            self.send_check(to, &question);
        }
        if self.legs.leg(relay) != before {
            tracing::warn!(
                ?relay,
                "a relay is not heard by UDP any more: no session goes by way of it until it is"
            );
            self.publish();
        }
    }

    /// A relay has said where it takes frames.
    pub(super) fn learn_frames(&mut self, relay: RelayId, said: &str) {
        if !self.legs.asks(relay) || !self.legs.is_lost(relay) {
            return;
        }
        match place(said) {
            Some(Place::At(address)) => self.try_frames_at(relay, vec![address]),
            Some(Place::Named(name)) if self.sought.insert(relay) => {
                self.resolving.push(resolve(Sought::Frames(relay), name));
            }
            Some(Place::Named(_)) | None => {}
        }
    }

    pub(super) fn try_frames_at(&mut self, relay: RelayId, said: Vec<SocketAddr>) {
        let ips = self.remote_ips.get(&peer_id(relay));
        let seen: Vec<_> = ips.into_iter().flat_map(|ips| ips.values()).collect();
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in said {
            // Where its connections come from, too: nearer than by the load balancer or NAT that nodes reach it by.
            let at = |ip: &&IpAddr| SocketAddr::new(**ip, address.port());
            addresses.extend(seen.iter().map(at));
            if may_be_relay(address.ip(), seen.iter().any(|ip| ip.is_loopback())) {
                addresses.push(address);
            }
        }
        addresses.retain(|address| address.port() != 0);
        addresses.sort_unstable();
        addresses.dedup();
        if !self.members.contains(relay) {
            return;
        }
        self.legs.try_at(relay, addresses);
        self.ask_for_leg(relay);
    }

    pub(super) fn handle_check(&mut self, check: &QuicPacket) {
        let source = Leg {
            end: FarEnd::Relay,
            remote: check.source,
            local: check.local,
        };
        let heard = self.legs.handle(&check.bytes, source);
        if let Some(answer) = heard.answer {
            self.send_check(source, &answer);
        }
        if heard.is_new {
            self.publish();
        }
    }

    fn send_check(&self, to: Leg, check: &[u8; check::LEN]) {
        let transmit = Transmit {
            destination: to.remote,
            ecn: None,
            contents: check,
            segment_size: None,
            src_ip: to.local,
        };
        if let Err(error) = self.introduction.socket.try_send(&transmit) {
            tracing::debug!(%error, to = %to.remote, "a check was not sent");
        }
    }
}

/// Where somebody takes frames.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    At(SocketAddr),
    Named(String),
}

fn place(said: &str) -> Option<Place> {
    if let Ok(address) = said.parse() {
        return Some(Place::At(address));
    }
    let is_name = said.len() <= MAX_HOST_PORT_BYTES && said.contains(':');
    is_name.then(|| Place::Named(said.to_owned()))
}

/// Where nodes reach a relay that takes frames at what it `said`, unless that is for whoever asks to find out.
pub(super) fn advertised(said: &str) -> Option<String> {
    let is_open = |address: SocketAddr| address.ip().is_unspecified();
    match place(said)? {
        Place::At(address) if is_open(address) => None,
        Place::At(_) | Place::Named(_) => Some(said.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_address_or_a_name() {
        let at = "192.0.2.2:443".parse().expect("an address");
        assert_eq!(place("192.0.2.2:443"), Some(Place::At(at)));
        let name = "relay.example.org:443";
        assert_eq!(place(name), Some(Place::Named(name.into())));
        for nowhere in ["", "relay", &format!("{}:1", "x".repeat(300))] {
            assert_eq!(place(nowhere), None);
        }
    }
}
