//! A session's path: gathers, drives the machine, moves packets.
//!
//! ```text
//!  interfaces, the relay's reflection ─▶ ┌──────────┐ ─▶ candidates ─▶ path stream ─▶ the other node
//!  the other node's candidates ────────▶ │ Paths    │ ─▶ checks ─▶ magic socket
//!  checks from the magic socket ───────▶ │          │ ─▶ SharedRoute ─▶ virtual socket
//!                                        └──────────┘ ─▶ moves ─▶ people
//! ```

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use remora_proto::{
    id::{SessionId, Side},
    path::{
        candidate::{self, Candidate, Policy},
        check::Keys,
        machine::{Moved, Paths},
        way::Way,
    },
    random::Random,
    wire::{
        frame::Header,
        message::{InvalidMessage, encode, session::Candidates},
        reflect,
    },
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{changes::Changes, gather, route::SharedRoute, silence::Silence, socket::MagicSocket};
use crate::deadline::until;

/// How often one looks whether packets were sent, so that the machine knows that its path is in use.
const LOOK: Duration = Duration::from_millis(100);
/// A path on which the other node's checks arrive, and its frames do not, is left after this.
const UNHEARD: Duration = Duration::from_millis(1500);
/// How often the relay is asked how it sees us, until it has answered, and then.
const REFLECT: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(25)];

/// A check, or the relay's answer to how it sees us.
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
    /// Our side of it.
    pub side: Side,
    /// The relay.
    pub relay: SocketAddr,
    /// Where packets leave.
    pub socket: Arc<MagicSocket>,
    /// What the socket has for us.
    pub arrived: mpsc::Receiver<Arrived>,
    /// How the relay saw us when we connected: to begin with, until it has been asked again.
    pub observed: Option<SocketAddr>,
    /// Where the other node said in the handshake that it may be reached.
    pub named: Vec<Candidate>,
    /// Written here.
    pub route: Arc<SharedRoute>,
    /// Whether the session's packets are answered.
    pub silence: Arc<Silence>,
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
}

impl Mover {
    /// Until the session's task ends it.
    pub async fn run(mut self, keys: Keys, policy: Policy, mut links: Links) {
        let policy = Policy {
            forbidden: vec![self.relay],
            ..policy
        };
        let (may_move, allow_loopback) = (!policy.relay_only, policy.allow_loopback);
        let mut paths = Paths::new(keys, policy, Instant::now());
        let mut look = ticks(LOOK);
        let mut changes = Changes::new();
        let mut reflexive = Reflexive {
            seen: self.observed,
            ..Reflexive::default()
        };
        paths.handle_remote(&self.named, Instant::now());
        let (mut hosts, mut sent, mut is_open) = (gather::hosts(&self.socket.bases()), None, true);
        loop {
            let due = paths.poll_timeout();
            tokio::select! { biased;
                arrived = self.arrived.recv() => {
                    let Some(arrived) = arrived else { return };
                    if !paths.handle_datagram(&arrived.bytes, arrived.from, Instant::now()) {
                        reflexive.handle(&arrived, self.relay);
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
                    if found != hosts && !hosts.is_empty() {
                        // Another network, another NAT.
                        reflexive = Reflexive::default();
                        self.silence.suspect();
                    }
                    hosts = found;
                }
            }
            let now = Instant::now();
            if may_move && reflexive.is_due(now) {
                self.socket
                    .send_to(&reflexive.ask(now), Way::main(self.relay));
            }
            let own = hosts.iter().map(|host| host.subnet).collect();
            let candidates = gather::candidates(&hosts, reflexive.seen, allow_loopback);
            paths.handle_local(candidates, own, now);
            paths.handle_timeout(now);
            self.flush(&mut paths, &links, now);
        }
    }

    /// Everything the machine has to say. Nothing here waits: what it waited for might be what goes over the path.
    fn flush(&self, paths: &mut Paths, links: &Links, now: Instant) {
        self.socket
            .trust(self.session, paths.trusted(now).collect());
        let by_stream = self.socket.is_by_stream();
        self.route
            .set(paths.route(), paths.why_relayed(now), by_stream);
        while let Some(transmit) = paths.poll_transmit() {
            let check = transmit.bytes();
            match transmit.to {
                Some(to) => self.socket.send_to(&check, to),
                None => {
                    let (session, side) = (self.session, self.side);
                    let header = Header { side, session }.encode();
                    self.socket
                        .send_to(&[&header[..], &check].concat(), Way::main(self.relay));
                }
            }
        }
        if let Some(candidates) = paths.poll_candidates() {
            let message = encode(&candidate::encode(&candidates));
            if let Err(error) = links.told.try_send(message) {
                tracing::debug!(%error, "candidates were not told");
            }
        }
        while let Some(step) = paths.poll_move() {
            tracing::info!(session = %self.session, ?step, "path");
            if let Err(error) = links.moved.try_send(step) {
                tracing::debug!(%error, "a move was not told");
            }
        }
    }
}

/// How the relay sees us.
#[derive(Debug, Default)]
struct Reflexive {
    seen: Option<SocketAddr>,
    transaction: u64,
    next: Option<Instant>,
}

impl Reflexive {
    fn is_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| next <= now)
    }

    fn ask(&mut self, now: Instant) -> [u8; reflect::LEN] {
        let [until_known, then] = REFLECT;
        let interval = if self.seen.is_some() {
            then
        } else {
            until_known
        };
        self.next = Some(now + interval);
        self.transaction = u64::from_be_bytes(Random::system().bytes());
        reflect::request(self.transaction)
    }

    fn handle(&mut self, arrived: &Arrived, relay: SocketAddr) {
        if arrived.from == Some(Way::main(relay))
            && let Some((transaction, seen)) = reflect::decode_response(&arrived.bytes)
            && transaction == self.transaction
        {
            self.seen = Some(seen);
        }
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
