//! Hello: who a relay says it is, and whether it is let in.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use futures_util::FutureExt as _;
use libp2p::PeerId;
use remora_proto::{
    id::RelayId,
    wire::message::mesh::{Hello, Reason, Request, request::Body as Ask, response::Body as Answer},
};

use super::{Open, Task, lookup, multiaddr};
use crate::{
    admin::metrics::Stranger,
    control::request::unix_ms,
    mesh::{
        AskError, MINIMUM_PROTOCOL, PROTOCOL,
        identity::{peer_id, relay_id},
        members::Member,
    },
};

/// How far two clocks may be apart.
const MAX_CLOCK_DIFFERENCE_MS: u64 = 60_000;
/// Longest name of a realm or a relay.
const MAX_NAME_BYTES: usize = 64;
/// Longest `host:port`: a name of 253 bytes, as DNS has them.
const MAX_HOST_PORT_BYTES: usize = 260;

/// A Hello that was understood.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) relay: RelayId,
    pub(super) member: Member,
}

impl Task {
    pub(super) fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            minimum_protocol: MINIMUM_PROTOCOL,
            unix_ms: unix_ms(),
            realm: self.introduction.realm.clone(),
            name: self.introduction.name.clone(),
            mesh_address: self.mesh_address.to_string(),
            frame_address: self.introduction.frame_address.clone(),
        }
    }

    pub(super) fn greet(&mut self, peer: PeerId) {
        let request = Request {
            body: Some(Ask::Hello(self.hello())),
        };
        let requests = &mut self.swarm.behaviour_mut().requests;
        let id = requests.send_request(&peer, request);
        self.open.insert(id, Open::Hello);
    }

    pub(super) fn handle_greeting(
        &mut self,
        peer: PeerId,
        answered: Result<Answer, AskError>,
        now: Instant,
    ) {
        let Some(relay) = relay_id(&peer) else {
            return self.part_from(peer);
        };
        match answered {
            Ok(Answer::Hello(hello)) => {
                if self.hear(relay, &hello, now).is_err() {
                    self.part_from(peer);
                }
            }
            Err(_) => {
                if self.members.missed(relay) {
                    tracing::debug!(?relay, "no answer to Hello");
                    self.part_from(peer);
                }
            }
            Ok(Answer::Refused(refused)) => {
                self.was_refused(relay, refused.reason(), now);
                self.part_from(peer);
            }
            Ok(Answer::Done(_) | Answer::Found(_)) => self.part_from(peer),
        }
    }

    /// The other relay does not let us in, which is as much our operator's business as its own.
    fn was_refused(&mut self, relay: RelayId, reason: Reason, now: Instant) {
        let Some(stranger) = stranger(reason) else {
            return;
        };
        self.metrics.mesh_refused(stranger);
        if self.members.refuse(relay, None, now) {
            tracing::warn!(
                ?relay,
                why = stranger.label(),
                "refused by a relay: {stranger}"
            );
        }
    }

    /// Lets a relay in, or says why not.
    pub(super) fn hear(
        &mut self,
        relay: RelayId,
        hello: &Hello,
        now: Instant,
    ) -> Result<(), Reason> {
        let Some(observed) = self.remote_ips.get(&peer_id(relay)).copied() else {
            return Err(Reason::Stranger);
        };
        let address = mesh_address(hello, observed).ok_or(Reason::Malformed)?;
        if let Err(stranger) = self.judge(relay, hello, now) {
            self.metrics.mesh_refused(stranger);
            if self.members.refuse(relay, Some(address), now) {
                tracing::warn!(
                    ?relay, name = ?hello.name, why = stranger.label(), "a relay was refused: {stranger}"
                );
            }
            return Err(reason(stranger));
        }
        let heard = |frames| Heard {
            relay,
            member: Member {
                address,
                frames,
                name: hello.name.clone(),
            },
        };
        match frame_address(hello, observed).ok_or(Reason::Malformed)? {
            Place::At(frames) => self.admit(heard(frames), now),
            // Looked up when it came.
            Place::Named(_) if self.members.contains(relay) => self.members.heard(relay),
            Place::Named(name) => {
                // Until it is known.
                let heard = heard(SocketAddr::new(observed, 0));
                let resolved = async move { (lookup(&name).await, Some(heard)) };
                self.resolving.push(resolved.boxed());
            }
        }
        Ok(())
    }

    fn judge(&self, relay: RelayId, hello: &Hello, now: Instant) -> Result<(), Stranger> {
        fits(hello, &self.introduction.realm, unix_ms())?;
        self.members.check(relay, now)
    }

    pub(super) fn admit(&mut self, heard: Heard, now: Instant) {
        let Heard { relay, member } = heard;
        let peer = peer_id(relay);
        if !self.swarm.is_connected(&peer) {
            return;
        }
        let (address, name) = (member.address, member.name.clone());
        if self.members.admit(relay, member, now) {
            tracing::info!(?relay, name, "relay is in the mesh");
            let kademlia = &mut self.swarm.behaviour_mut().kademlia;
            kademlia.remove_peer(&peer);
            kademlia.add_address(&peer, multiaddr(address));
            self.publish();
        }
    }
}

/// Whether the two can work together, as far as Hello says.
fn fits(hello: &Hello, realm: &str, unix_ms: u64) -> Result<(), Stranger> {
    if hello.protocol < MINIMUM_PROTOCOL || hello.minimum_protocol > PROTOCOL {
        return Err(Stranger::Version);
    }
    if hello.realm != realm {
        return Err(Stranger::Realm);
    }
    if hello.unix_ms.abs_diff(unix_ms) > MAX_CLOCK_DIFFERENCE_MS {
        return Err(Stranger::Clock);
    }
    Ok(())
}

fn reason(stranger: Stranger) -> Reason {
    match stranger {
        Stranger::FleetKey => Reason::Stranger,
        Stranger::Version => Reason::VersionTooOld,
        Stranger::Realm => Reason::WrongRealm,
        Stranger::Clock => Reason::WrongClock,
        Stranger::Flapping => Reason::Busy,
        Stranger::Full => Reason::Full,
    }
}

fn stranger(reason: Reason) -> Option<Stranger> {
    match reason {
        Reason::VersionTooOld => Some(Stranger::Version),
        Reason::WrongRealm => Some(Stranger::Realm),
        Reason::WrongClock => Some(Stranger::Clock),
        Reason::Busy => Some(Stranger::Flapping),
        Reason::Full => Some(Stranger::Full),
        Reason::Unspecified
        | Reason::Malformed
        | Reason::Stranger
        | Reason::Draining
        | Reason::Taken
        | Reason::BadRecord
        | Reason::PeerGone => None,
    }
}

/// Where frames come from.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    At(SocketAddr),
    Named(String),
}

fn mesh_address(hello: &Hello, observed: IpAddr) -> Option<SocketAddr> {
    if hello.realm.len() > MAX_NAME_BYTES || hello.name.len() > MAX_NAME_BYTES {
        return None;
    }
    let address = hello.mesh_address.parse().ok()?;
    Some(seen(address, observed)).filter(|address| address.port() != 0)
}

fn frame_address(hello: &Hello, observed: IpAddr) -> Option<Place> {
    let text = &hello.frame_address;
    if let Ok(address) = text.parse() {
        let address = seen(address, observed);
        return (address.port() != 0).then_some(Place::At(address));
    }
    let is_name = text.len() <= MAX_HOST_PORT_BYTES && text.contains(':');
    is_name.then(|| Place::Named(text.clone()))
}

/// An address of only zeros is the one that was seen.
fn seen(address: SocketAddr, observed: IpAddr) -> SocketAddr {
    let ip = if address.ip().is_unspecified() {
        observed
    } else {
        address.ip()
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_was_said_or_what_was_seen() {
        let observed = IpAddr::from([192, 0, 2, 9]);
        let hello = |mesh: &str, frames: &str| Hello {
            mesh_address: mesh.into(),
            frame_address: frames.into(),
            ..Hello::default()
        };
        let at = |text: &str| text.parse().expect("an address");
        let said = hello("192.0.2.1:4001", "192.0.2.2:443");
        assert_eq!(mesh_address(&said, observed), Some(at("192.0.2.1:4001")));
        assert_eq!(
            frame_address(&said, observed),
            Some(Place::At(at("192.0.2.2:443")))
        );
        let seen = hello("[::]:4001", "0.0.0.0:443");
        assert_eq!(mesh_address(&seen, observed), Some(at("192.0.2.9:4001")));
        assert_eq!(
            frame_address(&seen, observed),
            Some(Place::At(at("192.0.2.9:443")))
        );
        let named = hello("", "relay.example.org:443");
        assert_eq!(mesh_address(&named, observed), None);
        let name = Place::Named("relay.example.org:443".into());
        assert_eq!(frame_address(&named, observed), Some(name));
        for nowhere in ["", "0.0.0.0:0", "relay", &format!("{}:1", "x".repeat(300))] {
            assert_eq!(frame_address(&hello("", nowhere), observed), None);
        }
    }

    #[test]
    fn what_keeps_two_relays_apart_is_named() {
        let hello = Hello {
            protocol: 1,
            minimum_protocol: 1,
            unix_ms: 1_000_000,
            realm: "default".into(),
            ..Hello::default()
        };
        for (realm, unix_ms, expected) in [
            ("default", 1_000_000, Ok(())),
            ("default", 1_060_000, Ok(())),
            ("default", 1_060_001, Err(Stranger::Clock)),
            ("default", 939_999, Err(Stranger::Clock)),
            ("other", 1_000_000, Err(Stranger::Realm)),
        ] {
            assert_eq!(fits(&hello, realm, unix_ms), expected);
        }
        let later = |protocol, minimum_protocol| Hello {
            protocol,
            minimum_protocol,
            ..hello.clone()
        };
        assert_eq!(fits(&later(2, 1), "default", 1_000_000), Ok(()));
        for apart in [later(2, 2), later(0, 0)] {
            assert_eq!(fits(&apart, "default", 1_000_000), Err(Stranger::Version));
        }
    }
}
