//! The task that owns the swarm: connections and requests in and out, Kademlia's queries, Hellos every few seconds.

// What one relay may ask.
mod budget;
// How many strangers of one network are heard at once.
mod door;
// How frames go to them.
mod frames;
// Who the others are, and what they are told.
mod hello;
// What the swarm is made of.
mod network;
// What the rest of the relay wants to know.
mod queries;
// What other relays ask, and are asked.
mod requests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use libp2p::{
    PeerId, Swarm,
    kad::{self, QueryId},
    request_response::{OutboundRequestId, ResponseChannel},
    swarm::{self, DialError, SwarmEvent, dial_opts::DialOpts},
};
use remora_proto::{
    id::RelayId,
    random::Random,
    record::RecordKey,
    wire::message::mesh::{Request, Response, response::Body as Answer},
};
use tokio::{
    net,
    sync::{mpsc, oneshot},
    time,
};
use tokio_util::sync::CancellationToken;

pub(super) use self::network::socket_addr;
use self::{
    budget::Budget,
    network::{Behaviour, BehaviourEvent, listen, multiaddr, remote, swarm},
};
use super::{
    AskError, Introduction, Settings, Work,
    identity::{peer_id, relay_id},
    legs::Legs,
    members::Members,
    outlook::Watching,
    reach::Reach,
    secure::Secure,
};
use crate::{
    admin::metrics::{Metrics, RpcKind, Stranger},
    rendezvous::shelf::Shelf,
};

/// Between two Hellos: twice that without an answer and a relay is given up.
const HELLO_EVERY: Duration = Duration::from_secs(3);
/// Between two looks at the seeds' names: pods come and go.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);
/// A name that stands for more addresses is not looked at further.
const MAX_RESOLVED: usize = 256;
/// Strangers to be counted; more at once are as many as this.
const STRANGER_QUEUE: usize = 64;
/// Between two complaints about strangers without a name.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// A request on its way.
#[derive(Debug)]
enum Open {
    Hello {
        since: Instant,
    },
    Asked {
        kind: Option<RpcKind>,
        since: Instant,
        answer: oneshot::Sender<Result<Answer, AskError>>,
    },
}

/// A query on its way.
#[derive(Debug)]
enum Query {
    Closest {
        key: RecordKey,
        since: Instant,
        answer: oneshot::Sender<Vec<RelayId>>,
    },
    /// Where a relay is that is not in touch, to ask it.
    Where {
        relay: RelayId,
        request: Request,
        answer: oneshot::Sender<Result<Answer, AskError>>,
    },
}

/// Why a name is looked up.
#[derive(Clone, Copy, Debug)]
enum Sought {
    /// It is the seed of that number.
    Seed(usize),
    /// That relay takes frames there.
    Frames(RelayId),
}

/// What a name stands for.
#[derive(Debug)]
struct Resolved {
    sought: Sought,
    addresses: Vec<SocketAddr>,
}

/// The task.
pub struct Task {
    swarm: Swarm<Behaviour>,
    members: Members,
    work: Work,
    introduction: Introduction,
    me: RelayId,
    /// Of this process.
    run: u64,
    mesh_address: SocketAddr,
    seeds: Vec<String>,
    shelf: Arc<Shelf>,
    metrics: Arc<Metrics>,
    strangers: mpsc::Receiver<Stranger>,
    complained_at: Option<Instant>,
    open: BTreeMap<OutboundRequestId, Open>,
    queries: HashMap<QueryId, Query>,
    /// Answers of control, on their way to who asked.
    answering: FuturesUnordered<BoxFuture<'static, (ResponseChannel<Response>, Answer)>>,
    resolving: FuturesUnordered<BoxFuture<'static, Resolved>>,
    /// Relays whose name is just looked up: one look for each at a time.
    sought: BTreeSet<RelayId>,
    legs: Legs,
    /// Where connections lead to.
    remote_ips: HashMap<PeerId, BTreeMap<swarm::ConnectionId, IpAddr>>,
    /// What each relay may ask.
    budgets: HashMap<PeerId, Budget>,
    /// On which somebody was refused, and when they are closed: those who hear why close them before.
    unwelcome: BTreeMap<swarm::ConnectionId, Instant>,
    /// What kinds of address the fleet is at.
    reach: Reach,
    /// Dialed, and not yet known who answers.
    dialed: HashMap<swarm::ConnectionId, SocketAddr>,
    watching: Watching,
    hello_at: Instant,
    resolve_at: Instant,
    /// It does not listen any more.
    broken: Option<io::Error>,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task")
            .field("members", &self.members.len())
            .finish_non_exhaustive()
    }
}

impl Task {
    /// The task that does `work`; its port is bound now.
    ///
    /// # Errors
    /// When the system does not let the port be used.
    pub fn new(
        settings: Settings,
        introduction: Introduction,
        work: Work,
        shelf: Arc<Shelf>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let (stranger_sender, strangers) = mpsc::channel(STRANGER_QUEUE);
        let me = RelayId(introduction.key.public());
        let secure = Secure {
            key: introduction.key.clone(),
            fleet: settings.fleet,
            strangers: stranger_sender,
        };
        let reach = Reach::default();
        let mut swarm = swarm(me, secure, reach.clone());
        let mesh_address = listen(&mut swarm, settings.listen)?;
        let mut random = Random::system();
        // Not 0, which says nothing.
        let run = u64::from_be_bytes(random.bytes()) | 1;
        let legs = Legs::new(me, introduction.socket.local_addr()?, random);
        let now = Instant::now();
        Ok(Self {
            swarm,
            members: Members::default(),
            work,
            introduction,
            me,
            run,
            mesh_address,
            seeds: settings.seeds,
            shelf,
            metrics,
            strangers,
            complained_at: None,
            open: BTreeMap::new(),
            queries: HashMap::new(),
            answering: FuturesUnordered::new(),
            resolving: FuturesUnordered::new(),
            sought: BTreeSet::new(),
            legs,
            remote_ips: HashMap::new(),
            budgets: HashMap::new(),
            unwelcome: BTreeMap::new(),
            reach,
            dialed: HashMap::new(),
            watching: Watching::new(now),
            hello_at: now + HELLO_EVERY,
            resolve_at: now,
            broken: None,
        })
    }

    /// Where other relays connect to, port resolved.
    pub fn local_addr(&self) -> SocketAddr {
        self.mesh_address
    }

    /// Serves until `closing`.
    ///
    /// # Errors
    /// When it cannot be reached any more.
    pub async fn run(mut self, closing: CancellationToken) -> io::Result<()> {
        loop {
            if let Some(error) = self.broken.take() {
                return Err(error);
            }
            self.look_around(Instant::now());
            let wake_at = [
                Some(self.hello_at),
                Some(self.resolve_at),
                self.members.poll_timeout(),
            ];
            let wake_at = wake_at.into_iter().flatten().min();
            let wake_at = wake_at.unwrap_or(self.hello_at);
            // In no order: whoever keeps one of these busy does not keep the others waiting.
            tokio::select! {
                () = closing.cancelled() => return Ok(()),
                Some((channel, answer)) = self.answering.next(), if !self.answering.is_empty() => {
                    self.respond(channel, answer);
                }
                Some(resolved) = self.resolving.next(), if !self.resolving.is_empty() => {
                    self.handle_resolved(resolved);
                }
                Some(check) = self.work.checks.recv() => self.handle_check(&check),
                Some(stranger) = self.strangers.recv() => self.handle_stranger(stranger),
                event = self.swarm.select_next_some() => self.handle_event(event),
                command = self.work.commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => return Ok(()),
                },
                () = time::sleep_until(wake_at.into()) => {}
            }
        }
    }

    /// Does what is due: names looked up, addresses dialed, members greeted.
    fn look_around(&mut self, now: Instant) {
        if self.resolve_at <= now {
            self.resolve_at = now + RESOLVE_EVERY;
            for (number, seed) in self.seeds.iter().enumerate() {
                self.resolving
                    .push(resolve(Sought::Seed(number), seed.clone()));
            }
        }
        if self.hello_at <= now {
            self.hello_at = now + HELLO_EVERY;
            self.tell_outlook();
            let members: Vec<_> = self.members.relays().collect();
            for relay in members {
                self.greet(peer_id(relay));
                self.ask_for_leg(relay);
            }
            let unwelcome = self.unwelcome.iter();
            let overdue: Vec<_> = unwelcome
                .filter(|&(_, &until)| until <= now)
                .map(|(&connection, _)| connection)
                .collect();
            for connection in overdue {
                self.unwelcome.remove(&connection);
                self.swarm.close_connection(connection);
            }
        }
        while let Some(address) = self.members.poll_dial(now) {
            // A seed names it, or a relay has come from there.
            self.reach.allow(address.ip());
            let dial = DialOpts::unknown_peer_id()
                .address(multiaddr(address))
                .build();
            self.dialed.insert(dial.connection_id(), address);
            let id = dial.connection_id();
            if let Err(error) = self.swarm.dial(dial) {
                self.not_connected(id, &error, now);
            }
        }
    }

    fn handle_resolved(&mut self, resolved: Resolved) {
        let Resolved { sought, addresses } = resolved;
        match sought {
            Sought::Seed(number) => {
                self.watching.looked_up(number, !addresses.is_empty());
                self.members.seed(number, addresses, Instant::now());
                self.tell_outlook();
            }
            Sought::Frames(relay) => {
                self.sought.remove(&relay);
                self.try_frames_at(relay, addresses);
            }
        }
    }

    fn handle_stranger(&mut self, stranger: Stranger) {
        let now = Instant::now();
        self.metrics.mesh_refused(stranger);
        self.watching.refused(stranger);
        let is_new = self
            .complained_at
            .is_none_or(|at| now.saturating_duration_since(at) >= COMPLAIN_EVERY);
        if is_new {
            self.complained_at = Some(now);
            tracing::warn!(why = stranger.label(), "a relay was refused: {stranger}");
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "libp2p's events, most of which are nothing to us, and more may come"
    )]
    fn handle_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        let now = Instant::now();
        match event {
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                num_established,
                ..
            } => {
                let dialed = self.dialed.remove(&connection_id);
                if let Some((address, relay)) = dialed.zip(relay_id(&peer_id)) {
                    self.members.connected(address, relay, now);
                }
                if let Some(address) = socket_addr(remote(&endpoint)) {
                    let ips = self.remote_ips.entry(peer_id).or_default();
                    ips.insert(connection_id, address.ip());
                }
                if let Some(relay) = relay_id(&peer_id) {
                    self.members.opened(relay, connection_id);
                }
                if num_established.get() == 1 {
                    self.greet(peer_id);
                }
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                num_established,
                ..
            } => self.closed(peer_id, connection_id, num_established, now),
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => self.not_connected(connection_id, &error, now),
            SwarmEvent::IncomingConnectionError {
                send_back_addr,
                error,
                ..
            } => tracing::debug!(%error, from = %send_back_addr, "no connection of the mesh"),
            SwarmEvent::ListenerClosed { reason, .. } => {
                let why = reason.err();
                self.broken = why.or_else(|| Some(io::Error::other("the mesh port was closed")));
            }
            SwarmEvent::Behaviour(BehaviourEvent::Requests(event)) => {
                self.handle_request_event(event, now);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Kademlia(
                kad::Event::OutboundQueryProgressed {
                    id, result, step, ..
                },
            )) if step.last => self.handle_query(id, result, now),
            _ => {}
        }
    }

    fn not_connected(&mut self, id: swarm::ConnectionId, error: &DialError, now: Instant) {
        let Some(address) = self.dialed.remove(&id) else {
            return;
        };
        if matches!(error, DialError::LocalPeerId { .. }) {
            self.members.is_mine(address);
        } else {
            tracing::debug!(%error, %address, "not reached");
            self.members.failed(address, now);
        }
    }

    fn closed(&mut self, peer: PeerId, id: swarm::ConnectionId, others: u32, now: Instant) {
        self.unwelcome.remove(&id);
        if let Some(ips) = self.remote_ips.get_mut(&peer) {
            ips.remove(&id);
        }
        let relay = relay_id(&peer);
        if others == 0 {
            self.remote_ips.remove(&peer);
            self.budgets.remove(&peer);
            let kademlia = &mut self.swarm.behaviour_mut().kademlia;
            kademlia.remove_peer(&peer);
            if let Some(relay) = relay {
                self.legs.lose(relay);
            }
        }
        let Some(relay) = relay else { return };
        if let Some(member) = self.members.closed(relay, id, now) {
            tracing::info!(
                relay = relay.short(),
                name = member.name,
                "relay left the mesh"
            );
            self.publish();
        }
        if others > 0 {
            // By the other connection, perhaps nothing has been said.
            self.greet(peer);
        }
    }

    /// A relay is another process than the one that was here, be the connection to that one still open: it has left, and this one,
    /// which said so by `connection`, has come.
    fn replace(&mut self, relay: RelayId, connection: swarm::ConnectionId, now: Instant) {
        let Some(member) = self.members.begins_anew(relay, connection, now) else {
            return;
        };
        tracing::info!(
            relay = relay.short(),
            name = member.name,
            "relay has begun anew"
        );
        self.publish();
        let Some(ips) = self.remote_ips.get_mut(&peer_id(relay)) else {
            return;
        };
        // Nothing is asked where nobody answers.
        for (id, ip) in std::mem::take(ips) {
            if id == connection {
                ips.insert(id, ip);
            } else {
                self.swarm.close_connection(id);
            }
        }
    }

    /// We do not let it in. The connection is closed, but not before it can have heard why: what is said at a connection's end is lost
    /// with it.
    fn shun(&mut self, relay: RelayId, connection: swarm::ConnectionId, now: Instant) {
        self.unwelcome
            .entry(connection)
            .or_insert(now + HELLO_EVERY);
        self.part(relay, connection, now);
    }

    /// One of the two does not let the other in.
    fn part(&mut self, relay: RelayId, connection: swarm::ConnectionId, now: Instant) {
        if self.members.part(relay, connection, now) {
            let kademlia = &mut self.swarm.behaviour_mut().kademlia;
            kademlia.remove_peer(&peer_id(relay));
            self.publish();
        }
    }

    fn part_from(&mut self, peer: PeerId) {
        // Not connected any more: all the better.
        self.swarm.disconnect_peer_id(peer).ok();
    }

    /// Tells whoever looks after the relay how the fleet looks from here.
    fn tell_outlook(&mut self) {
        let now = Instant::now();
        let in_touch = self.members.relays().count();
        self.watching
            .count(in_touch, self.members.has_others(), now);
        let outlook = self.watching.outlook(&self.seeds, now);
        self.work.outlook.send_replace(outlook);
    }

    /// Tells the rest of the relay who is here.
    fn publish(&mut self) {
        self.tell_outlook();
        let neighbours = self.members.neighbours(|relay| self.legs.leg(relay));
        let heard = neighbours.heard();
        self.metrics.mesh(heard, neighbours.0.len() - heard);
        self.work.neighbours.send_replace(neighbours);
    }
}

/// What a name and port stand for; nothing when nobody knows.
fn resolve(sought: Sought, host_port: String) -> BoxFuture<'static, Resolved> {
    let resolved = async move {
        let addresses = match net::lookup_host(&host_port).await {
            Ok(addresses) => addresses.take(MAX_RESOLVED).collect(),
            Err(error) => {
                tracing::debug!(%error, host_port, "not found");
                Vec::new()
            }
        };
        Resolved { sought, addresses }
    };
    resolved.boxed()
}
