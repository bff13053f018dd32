//! Hello: who a relay says it is, and whether it is let in.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use bytes::Bytes;
use libp2p::{PeerId, swarm::ConnectionId};
use remora_proto::{
    id::RelayId,
    path::check::PART_LEN,
    wire::message::mesh::{Hello, Reason, Request, request::Body as Ask, response::Body as Answer},
};

use super::{Open, Task, frames::advertised, multiaddr};
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

impl Task {
    /// For that relay alone.
    pub(super) fn hello(&mut self, relay: RelayId) -> Hello {
        Hello {
            protocol: PROTOCOL,
            minimum_protocol: MINIMUM_PROTOCOL,
            unix_ms: unix_ms(),
            realm: self.introduction.realm.clone(),
            name: self.introduction.name.clone(),
            mesh_address: self.mesh_address.to_string(),
            frame_address: self.introduction.frame_address.clone(),
            frame_part: Bytes::copy_from_slice(&self.legs.part(relay)),
            run: self.run,
        }
    }

    pub(super) fn greet(&mut self, peer: PeerId) {
        let Some(relay) = relay_id(&peer) else {
            return self.part_from(peer);
        };
        let request = Request {
            body: Some(Ask::Hello(self.hello(relay))),
        };
        let since = Instant::now();
        let requests = &mut self.swarm.behaviour_mut().requests;
        let id = requests.send_request(&peer, request);
        self.open.insert(id, Open::Hello { since });
    }

    pub(super) fn handle_greeting(
        &mut self,
        (peer, connection): (PeerId, ConnectionId),
        answered: Result<Answer, AskError>,
        now: Instant,
    ) {
        let Some(relay) = relay_id(&peer) else {
            return self.part_from(peer);
        };
        match answered {
            Ok(Answer::Hello(hello)) => {
                self.members.answered(relay, connection);
                if self.hear(relay, connection, &hello, now).is_err() {
                    self.shun(relay, connection, now);
                }
            }
            Err(_) => {
                // The end of a connection says more.
                if !self.members.is_connected(relay, connection) {
                    return;
                }
                if !self.members.contains(relay) {
                    self.swarm.close_connection(connection);
                } else if self.members.missed(relay) {
                    tracing::debug!(?relay, "no answer to Hello");
                    self.part_from(peer);
                }
            }
            Ok(Answer::Refused(refused)) => {
                let reason = refused.reason();
                self.was_refused(relay, reason, now);
                if reason == Reason::WrongClock {
                    // How far apart the two are, its own Hello says, which may be under way.
                    self.shun(relay, connection, now);
                } else {
                    self.part(relay, connection, now);
                    self.swarm.close_connection(connection);
                }
            }
            Ok(Answer::Done(_) | Answer::Found(_) | Answer::PolicyPart(_) | Answer::Queue(_)) => {
                self.part_from(peer)
            }
        }
    }

    /// The other relay does not let us in, which is as much our operator's business as its own.
    fn was_refused(&mut self, relay: RelayId, reason: Reason, now: Instant) {
        let Some(stranger) = stranger(reason) else {
            return;
        };
        self.metrics.mesh_refused(stranger);
        self.watching.refused(stranger);
        self.tell_outlook();
        if self.members.refuse(relay, None, now) {
            tracing::warn!(
                ?relay,
                why = stranger.label(),
                "refused by a relay: {stranger}"
            );
        }
    }

    /// Lets a relay in that has said Hello by `connection`, once that lets us in, too; or says why not.
    pub(super) fn hear(
        &mut self,
        relay: RelayId,
        connection: ConnectionId,
        hello: &Hello,
        now: Instant,
    ) -> Result<(), Reason> {
        // Also of whom one of the two does not let in: it may be for this.
        self.watching.heard(relay, hello.unix_ms, unix_ms(), now);
        if !self.members.counts(relay, connection) {
            return Err(Reason::Stranger);
        }
        let seen = self.remote_ips.get(&peer_id(relay));
        // The oldest connection's: another one comes and goes.
        let seen = seen.and_then(|ips| ips.values().next()).copied();
        let address = mesh_address(hello, seen.ok_or(Reason::Stranger)?);
        let address = address.ok_or(Reason::Malformed)?;
        if let Err(stranger) = self.judge(relay, connection, hello, now) {
            self.metrics.mesh_refused(stranger);
            self.watching.refused(stranger);
            self.tell_outlook();
            if self.members.refuse(relay, Some(address), now) {
                tracing::warn!(
                    ?relay, name = ?hello.name, why = stranger.label(), "a relay was refused: {stranger}"
                );
            }
            return Err(reason(stranger));
        }
        let part = <[u8; PART_LEN]>::try_from(&hello.frame_part[..]);
        let part = part.map_err(|_| Reason::Malformed)?;
        let member = Member {
            address,
            name: hello.name.clone(),
            run: hello.run,
            advertised: advertised(&hello.frame_address),
        };
        self.let_in(relay, connection, member, now);
        let is_new = self.legs.hear(relay, part);
        if is_new {
            self.publish();
        }
        if is_new || self.legs.is_lost(relay) {
            self.learn_frames(relay, &hello.frame_address);
        }
        Ok(())
    }

    fn judge(
        &mut self,
        relay: RelayId,
        connection: ConnectionId,
        hello: &Hello,
        now: Instant,
    ) -> Result<(), Stranger> {
        fits(hello, &self.introduction.realm, unix_ms())?;
        if self.members.is_another(relay, hello.run) {
            self.replace(relay, connection, now);
        }
        self.members.check(relay, now)
    }

    fn let_in(&mut self, relay: RelayId, connection: ConnectionId, member: Member, now: Instant) {
        let peer = peer_id(relay);
        let (address, name) = (member.address, member.name.clone());
        self.reach.allow(address.ip());
        if self.members.hear(relay, connection, member, now) {
            tracing::info!(relay = relay.short(), name, "relay is in the mesh");
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

/// Where it takes connections: on the computer that this one comes from, or anybody could be sent anywhere.
fn mesh_address(hello: &Hello, seen: IpAddr) -> Option<SocketAddr> {
    if hello.realm.len() > MAX_NAME_BYTES || hello.name.len() > MAX_NAME_BYTES {
        return None;
    }
    let said: SocketAddr = hello.mesh_address.parse().ok()?;
    (said.port() != 0).then(|| SocketAddr::new(seen, said.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_met_where_it_comes_from_whatever_it_says() {
        let seen = IpAddr::from([192, 0, 2, 9]);
        let met = |mesh_address: &str| {
            let hello = Hello {
                mesh_address: mesh_address.into(),
                ..Hello::default()
            };
            super::mesh_address(&hello, seen)
        };
        for said in ["[::]:4001", "192.0.2.1:4001", "169.254.169.254:4001"] {
            assert_eq!(met(said), Some(SocketAddr::new(seen, 4001)));
        }
        for nowhere in ["", "relay:4001", "0.0.0.0:0"] {
            assert_eq!(met(nowhere), None);
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
