//! A session's path: gathers, drives the machine, moves packets.
//!
//! ```text
//!  interfaces, gateway, observers ─────▶ ┌──────────┐ ─▶ candidates ─▶ path stream ─▶ the other node
//!  the other node's candidates ────────▶ │ Paths    │ ─▶ checks ─▶ magic socket
//!  checks from the magic socket ───────▶ │          │ ─▶ SharedRoute ─▶ virtual socket
//!                                        └──────────┘ ─▶ moves ─▶ people
//! ```

use std::{
    iter, mem,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use remora_proto::{
    id::SessionId,
    path::{
        candidate::{self, Named, Policy},
        check::Keys,
        machine::{Moved, Paths},
        nat::Nat,
        way::{SocketChange, Way},
    },
    random::Random,
    wire::message::{InvalidMessage, encode, session::Candidates},
};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use super::{
    carrier::Carrier, changes::Changes, gather, portmap::PortMap, route::SharedRoute, seen::Seen,
    silence::Silence, socket::MagicSocket,
};
use crate::deadline::until;

/// How often one looks whether packets were sent, so that the machine knows that its path is in use.
const LOOK: Duration = Duration::from_millis(100);
/// A path on which the other node's checks arrive, and its frames do not, is left after this.
const UNHEARD: Duration = Duration::from_millis(1500);

/// A check, or an observer's answer to how it sees us.
#[derive(Debug)]
pub struct Arrived {
    /// The way that an answer goes; `None`: through the relay, in a frame.
    pub from: Option<Way>,
    /// What.
    pub bytes: Bytes,
}

/// What the task works with.
#[derive(Debug)]
pub struct Mover {
    /// The session.
    pub session: SessionId,
    /// The relay that carries it.
    pub carrier: Arc<Carrier>,
    /// Who says how they see us; the relay first.
    pub observers: Vec<SocketAddr>,
    /// Where packets leave that go without a relay.
    pub socket: Arc<MagicSocket>,
    /// What the socket has for us.
    pub arrived: mpsc::Receiver<Arrived>,
    /// How the relay saw us when we connected: to begin with, until it has been asked again.
    pub observed: Option<SocketAddr>,
    /// What the NAT does, if it is known.
    pub nat: Nat,
    /// Where the other node said in the handshake that it may be reached.
    pub named: Named,
    /// Written here.
    pub route: Arc<SharedRoute>,
    /// Whether the session's packets are answered.
    pub silence: Arc<Silence>,
    /// The gateway's port.
    pub port_map: PortMap,
    /// The relay is reached by a stream, and people know it.
    pub is_by_stream: bool,
}

/// Whom the task talks to.
#[derive(Debug)]
pub struct Links {
    /// The other node's candidates; an error is the last.
    pub named: mpsc::Receiver<Result<Candidates, InvalidMessage>>,
    /// Ours, as messages for it.
    pub told: mpsc::Sender<Bytes>,
    /// Moves, for people.
    pub moved: mpsc::Sender<Moved>,
    /// Whether this side wants packets to go through the relay for now.
    pub relayed: watch::Receiver<bool>,
    /// Whether the other side does.
    pub relay_wanted: watch::Sender<bool>,
    /// Somebody wants to know how long the way takes now.
    pub pings: mpsc::Receiver<()>,
    /// How long it took, there and back.
    pub pongs: mpsc::Sender<Duration>,
}

impl Mover {
    /// Until the session's task ends it.
    pub async fn run(mut self, keys: Keys, policy: Policy, mut links: Links) {
        let policy = Policy {
            forbidden: [&policy.forbidden[..], &self.observers].concat(),
            ..policy
        };
        let (may_move, allow_loopback) = (!policy.relay_only, policy.allow_loopback);
        self.port_map.want(self.socket.v4_port());
        let mut paths = Paths::new(keys, policy, Instant::now());
        let mut look = ticks(LOOK);
        let mut changes = Changes::new();
        let observers = if may_move {
            self.observers.clone()
        } else {
            Vec::new()
        };
        let mut seen = Seen::new(
            observers,
            self.observed,
            self.nat,
            Random::system(),
            Instant::now(),
        );
        paths.handle_remote(&self.named, Instant::now());
        let mut by_relay = self.carrier.leg().header.session;
        let (mut hosts, mut sent, mut is_open) = (gather::hosts(&self.socket.bases()), None, true);
        loop {
            let due = paths
                .poll_timeout()
                .into_iter()
                .chain([seen.poll_timeout()])
                .min();
            tokio::select! { biased;
                arrived = self.arrived.recv() => {
                    let Some(arrived) = arrived else { return };
                    let now = Instant::now();
                    if !paths.handle_datagram(&arrived.bytes, arrived.from, now)
                        && let Some((base, address)) = seen.handle(&arrived, now)
                    {
                        paths.handle_observed(base, address, now);
                    }
                }
                candidates = links.named.recv(), if is_open => match candidates {
                    Some(Ok(candidates)) => {
                        let candidates = candidate::decode(&candidates);
                        tracing::debug!(?candidates, "the other node may be reached");
                        paths.handle_remote(&candidates, Instant::now());
                    }
                    Some(Err(error)) => tracing::warn!(%error, "on the path stream"),
                    None => is_open = false,
                },
                () = until(due) => {}
                () = self.port_map.changed() => {}
                Ok(()) = links.relayed.changed() => {
                    let relayed = *links.relayed.borrow_and_update();
                    paths.handle_wish(relayed, Instant::now());
                }
                Some(()) = links.pings.recv() => paths.handle_ping(Instant::now()),
                _ = look.tick() => {
                    let last = self.silence.last_sent();
                    if last != sent {
                        sent = last;
                        paths.handle_sent(Instant::now());
                    }
                    if self.silence.has_lasted(UNHEARD, Instant::now()) {
                        paths.handle_unheard(Instant::now());
                    }
                }
                () = changes.next() => {
                    let found = gather::hosts(&self.socket.bases());
                    if found != hosts && !found.is_empty() {
                        // Another network, another NAT.
                        seen.restart(Instant::now());
                        self.route.forget();
                        self.silence.suspect();
                        self.port_map.want_anew(self.socket.v4_port());
                    }
                    hosts = found;
                }
            }
            let now = Instant::now();
            let session = self.carrier.leg().header.session;
            if mem::replace(&mut by_relay, session) != session {
                paths.handle_relay_changed(now);
            }
            if may_move {
                self.ask_the_relay_of_now(&mut seen);
            }
            seen.handle_timeout(now);
            let own = hosts.iter().map(|host| host.subnet).collect();
            let mapped = self.port_map.mapped();
            let candidates = gather::candidates(&hosts, mapped, seen.main(), allow_loopback);
            paths.handle_local(candidates, own, now);
            paths.handle_nat(seen.nat(), now);
            paths.handle_udp_blocked(self.carrier.leg().socket.is_by_stream());
            paths.handle_timeout(now);
            self.flush(&mut paths, &mut seen, &links, now);
        }
    }

    /// When another relay carries the session, the one before may not be there any more.
    fn ask_the_relay_of_now(&mut self, seen: &mut Seen) {
        let leg = self.carrier.leg();
        if leg.observers != self.observers && !leg.observers.is_empty() {
            self.observers.clone_from(&leg.observers);
            self.socket.observe(self.session, self.observers.clone());
            seen.ask_from_now_on(self.observers.clone());
        }
    }

    fn change(&self, change: SocketChange) {
        match change {
            SocketChange::Open(base) => {
                if let Err(error) = self.socket.open(base) {
                    tracing::debug!(%error, "no socket for a path");
                }
            }
            SocketChange::Close(base) => self.socket.close(base),
        }
    }

    /// Everything the machines have to say. Nothing here waits: what it waited for might be what goes over the path.
    fn flush(&mut self, paths: &mut Paths, seen: &mut Seen, links: &Links, now: Instant) {
        while let Some(base) = paths.poll_observe() {
            seen.ask(base);
        }
        while let Some(change) = seen.poll_socket().or_else(|| paths.poll_socket()) {
            self.change(change);
        }
        while let Some((base, to, question)) = seen.poll_transmit() {
            self.socket.send_to(&question, Way { base, to });
        }
        self.socket
            .trust(self.session, paths.trusted(now).collect());
        let leg = self.carrier.leg();
        let by_stream = leg.socket.is_by_stream();
        if self.route.get().direct != paths.route().direct {
            // Of another way it says nothing.
            self.silence.heard();
        }
        self.route
            .set(paths.route(), paths.why_relayed(now), by_stream);
        while let Some(transmit) = paths.poll_transmit() {
            let check = transmit.bytes();
            match transmit.to {
                Some(to) => self.socket.send_to(&check, to),
                None => leg.send(&check),
            }
        }
        if let Some(candidates) = paths.poll_candidates() {
            let message = encode(&candidate::encode(&candidates));
            if let Err(error) = links.told.try_send(message) {
                tracing::debug!(%error, "candidates were not told");
            }
        }
        let mut moves: Vec<_> = iter::from_fn(|| paths.poll_move()).collect();
        if mem::replace(&mut self.is_by_stream, by_stream) != by_stream
            && paths.route().direct.is_none()
            && moves.is_empty()
        {
            // To the machine it is the same way.
            moves.push(Moved::Relayed);
        }
        for step in moves {
            tracing::info!(session = %self.session, ?step, by_stream, "path");
            if let Err(error) = links.moved.try_send(step) {
                tracing::debug!(%error, "a move was not told");
            }
        }
        let wanted = paths.is_relay_wanted_by_peer();
        links
            .relay_wanted
            .send_if_modified(|known| mem::replace(known, wanted) != wanted);
        while let Some(pong) = paths.poll_pong() {
            // Of another way it says nothing.
            if pong.direct == paths.route().direct && links.pongs.try_send(pong.rtt).is_err() {
                tracing::debug!("nobody waits for a measurement");
            }
        }
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
