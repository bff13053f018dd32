//! The task that owns the swarm: connections and requests in and out, Kademlia's queries, Hellos every few seconds.

// What one relay may ask.
mod budget;
// How many strangers of one network are heard at once.
mod door;
// How frames go to them.
mod frames;
// Who the others are, and what they are told.
mod hello;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, Transport as _,
    connection_limits::{self, ConnectionLimits},
    core::{ConnectedPoint, upgrade::Version},
    kad::{self, KBucketKey, QueryId, QueryResult, store::MemoryStore},
    multiaddr::Protocol,
    request_response::{self, Message, OutboundRequestId, ProtocolSupport, ResponseChannel},
    swarm::{self, DialError, NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
    tcp, yamux,
};
use remora_proto::{
    id::RelayId,
    random::Random,
    record::RecordKey,
    wire::message::mesh::{
        Reason, Request, Response, request::Body as Ask, response::Body as Answer,
    },
};
use tokio::{
    net,
    sync::{mpsc, oneshot},
    time,
};
use tokio_util::sync::CancellationToken;

use self::{budget::Budget, door::Door};
use super::{
    AskError, Asked, Command, Introduction, Settings, Work,
    codec::{Codec, PROTOCOL_NAME},
    identity::{peer_id, relay_id},
    legs::Legs,
    members::Members,
    reach::{Reach, Reaching},
    secure::Secure,
};
use crate::{
    admin::metrics::{Metrics, Stranger},
    rendezvous::shelf::{REPLICAS, Shelf},
};

/// Kademlia's own requests.
const KADEMLIA_NAME: StreamProtocol = StreamProtocol::new("/remora/kad/1");
/// From the first byte to a connection that carries streams.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A request's answer; what it waits for is a few map operations away.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// A query of Kademlia: half of the two seconds in which a code is found.
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two Hellos: twice that without an answer and a relay is given up.
const HELLO_EVERY: Duration = Duration::from_secs(3);
/// Between two looks at the seeds' names: pods come and go.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);
/// Between two looks around, for relays that nobody has named.
const BOOTSTRAP_EVERY: Duration = Duration::from_secs(30);
/// A name that stands for more addresses is not looked at further.
const MAX_RESOLVED: usize = 256;
/// Requests of one relay at once; further ones wait in its connection.
const MAX_STREAMS: usize = 256;
/// Two relays that dial each other at once have two connections.
const MAX_CONNECTIONS_PER_RELAY: u32 = 4;
const MAX_CONNECTIONS: u32 = 1024;
/// Connections on their way out at once: half of the relays that may be in touch. Whoever finds no place is dialed later.
const MAX_DIALS: u32 = 256;
/// Handshakes of strangers at once.
const MAX_PENDING: u32 = 128;
/// Strangers to be counted; more at once are as many as this.
const STRANGER_QUEUE: usize = 64;
/// Between two complaints about strangers without a name.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

#[derive(NetworkBehaviour)]
struct Behaviour {
    door: Door,
    limits: connection_limits::Behaviour,
    kademlia: kad::Behaviour<MemoryStore>,
    requests: request_response::Behaviour<Codec>,
}

/// A request on its way.
#[derive(Debug)]
enum Open {
    Hello,
    Asked {
        kind: &'static str,
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
    /// Refused, and when they are left: those who hear why go by themselves before.
    unwelcome: BTreeMap<PeerId, Instant>,
    /// What kinds of address the fleet is at.
    reach: Reach,
    /// Dialed, and not yet known who answers.
    dialed: HashMap<swarm::ConnectionId, SocketAddr>,
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
            let members: Vec<_> = self.members.relays().collect();
            for relay in members {
                self.greet(peer_id(relay));
                self.ask_for_leg(relay);
            }
            let unwelcome = self.unwelcome.iter();
            let overdue: Vec<_> = unwelcome
                .filter(|&(_, &until)| until <= now)
                .map(|(&peer, _)| peer)
                .collect();
            for peer in overdue {
                self.part_from(peer);
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
            Sought::Seed(number) => self.members.seed(number, addresses, Instant::now()),
            Sought::Frames(relay) => {
                self.sought.remove(&relay);
                self.try_frames_at(relay, addresses);
            }
        }
    }

    fn handle_stranger(&mut self, stranger: Stranger) {
        let now = Instant::now();
        self.metrics.mesh_refused(stranger);
        let is_new = self
            .complained_at
            .is_none_or(|at| now.saturating_duration_since(at) >= COMPLAIN_EVERY);
        if is_new {
            self.complained_at = Some(now);
            tracing::warn!(why = stranger.label(), "a relay was refused: {stranger}");
        }
    }

    fn handle_command(&mut self, command: Command) {
        let since = Instant::now();
        match command {
            Command::Ask {
                relay,
                request,
                answer,
            } => {
                if self.swarm.is_connected(&peer_id(relay)) {
                    self.send(relay, request, answer, since);
                } else {
                    let key = peer_id(relay).to_bytes();
                    let query = self.swarm.behaviour_mut().kademlia.get_closest_peers(key);
                    let query_of = Query::Where {
                        relay,
                        request,
                        answer,
                    };
                    self.queries.insert(query, query_of);
                }
            }
            Command::Closest {
                key,
                is_exact: false,
                answer,
            } => {
                answer.send(self.closest_known(key)).ok();
            }
            Command::Closest {
                key,
                is_exact: true,
                answer,
            } => {
                let kademlia = &mut self.swarm.behaviour_mut().kademlia;
                let query = kademlia.get_n_closest_peers(key.0.to_vec(), REPLICAS);
                self.queries
                    .insert(query, Query::Closest { key, since, answer });
            }
        }
    }

    fn send(
        &mut self,
        relay: RelayId,
        request: Request,
        answer: oneshot::Sender<Result<Answer, AskError>>,
        since: Instant,
    ) {
        let kind = request.body.as_ref().map_or("unknown", super::kind);
        let requests = &mut self.swarm.behaviour_mut().requests;
        let id = requests.send_request(&peer_id(relay), request);
        let open = Open::Asked {
            kind,
            since,
            answer,
        };
        self.open.insert(id, open);
    }

    /// By the distance to `key`, nearest first, this relay among them.
    fn closest_known(&mut self, key: RecordKey) -> Vec<RelayId> {
        let target = KBucketKey::new(key.0.to_vec());
        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
        let others = kademlia.get_closest_local_peers(&target);
        let others: Vec<_> = others
            .map(|key| *key.preimage())
            .take(REPLICAS.get())
            .collect();
        self.nearest(key, others)
    }

    fn nearest(&self, key: RecordKey, others: Vec<PeerId>) -> Vec<RelayId> {
        let target = KBucketKey::new(key.0.to_vec());
        let mut all = others;
        all.push(peer_id(self.me));
        all.sort_by_cached_key(|&peer| KBucketKey::from(peer).distance(&target));
        all.dedup();
        all.truncate(REPLICAS.get());
        all.iter().filter_map(relay_id).collect()
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
                if num_established.get() == 1 {
                    self.greet(peer_id);
                }
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                num_established: 0,
                ..
            } => self.lose(peer_id, now),
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                ..
            } => {
                if let Some(ips) = self.remote_ips.get_mut(&peer_id) {
                    ips.remove(&connection_id);
                }
            }
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

    fn lose(&mut self, peer: PeerId, now: Instant) {
        self.remote_ips.remove(&peer);
        self.unwelcome.remove(&peer);
        self.budgets.remove(&peer);
        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
        kademlia.remove_peer(&peer);
        let Some(relay) = relay_id(&peer) else { return };
        self.legs.lose(relay);
        if let Some(member) = self.members.lose(relay, now) {
            tracing::info!(?relay, name = member.name, "relay left the mesh");
            self.publish();
        }
    }

    fn handle_query(&mut self, id: QueryId, result: QueryResult, now: Instant) {
        let Some(query) = self.queries.remove(&id) else {
            return;
        };
        let QueryResult::GetClosestPeers(closest) = result else {
            return;
        };
        let is_complete = closest.is_ok();
        let found = match closest {
            Ok(found) => found.peers,
            Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
        };
        match query {
            Query::Closest { key, since, answer } => {
                let seconds = now.saturating_duration_since(since).as_secs_f64();
                let result = if is_complete { "ok" } else { "timeout" };
                self.metrics.dht_query("closest", result, seconds);
                let others = found.into_iter().map(|found| found.peer_id).collect();
                answer.send(self.nearest(key, others)).ok();
            }
            Query::Where {
                relay,
                request,
                answer,
            } => {
                let peer = peer_id(relay);
                for found in found.into_iter().filter(|found| found.peer_id == peer) {
                    for address in found.addrs {
                        self.swarm.add_peer_address(peer, address);
                    }
                }
                self.send(relay, request, answer, now);
            }
        }
    }

    fn handle_request_event(
        &mut self,
        event: request_response::Event<Request, Response>,
        now: Instant,
    ) {
        match event {
            request_response::Event::Message {
                peer,
                connection_id,
                message:
                    Message::Request {
                        request, channel, ..
                    },
            } => self.handle_request((peer, connection_id), request, channel, now),
            request_response::Event::Message {
                peer,
                connection_id,
                message:
                    Message::Response {
                        request_id,
                        response,
                    },
            } => {
                let answer = response.body;
                let answer = answer.unwrap_or_else(|| super::refused(Reason::Malformed));
                self.handle_answer((peer, connection_id), request_id, Ok(answer), now);
            }
            request_response::Event::OutboundFailure {
                peer,
                connection_id,
                request_id,
                error,
            } => {
                tracing::debug!(%error, relay = ?relay_id(&peer), "a request of the mesh failed");
                let failed = Err(AskError::Unreachable);
                self.handle_answer((peer, connection_id), request_id, failed, now);
            }
            request_response::Event::InboundFailure { .. }
            | request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn handle_request(
        &mut self,
        by: (PeerId, swarm::ConnectionId),
        request: Request,
        channel: ResponseChannel<Response>,
        now: Instant,
    ) {
        let (peer, _) = by;
        let Some(from) = relay_id(&peer) else { return };
        let budget = self.budgets.entry(peer);
        let budget = budget.or_insert_with(|| Budget::new(now));
        if !budget.take(request.body.as_ref(), now) {
            return self.respond(channel, super::refused(Reason::Busy));
        }
        let answer = match request.body {
            None => super::refused(Reason::Malformed),
            Some(Ask::Hello(hello)) => match self.hear(from, by.1, &hello, now) {
                Ok(()) => Answer::Hello(self.hello(from)),
                Err(reason) => {
                    self.shun(peer, now);
                    super::refused(reason)
                }
            },
            Some(_) if !self.members.contains(from) => super::refused(Reason::Stranger),
            Some(Ask::Keep(keep)) => self.shelf.keep(from, keep),
            Some(Ask::Forget(forget)) => self.shelf.forget_for(from, &forget),
            Some(Ask::Find(find)) => self.shelf.find_for(&find),
            Some(request) => return self.pass_on(from, request, channel),
        };
        self.respond(channel, answer);
    }

    /// Control answers, in a moment.
    fn pass_on(&mut self, from: RelayId, request: Ask, channel: ResponseChannel<Response>) {
        let (answer, answered) = oneshot::channel();
        let asked = Asked {
            from,
            request,
            answer,
        };
        if self.work.asked.try_send(asked).is_err() {
            return self.respond(channel, super::refused(Reason::Busy));
        }
        let answered = answered.map(|answer| {
            let answer = answer.unwrap_or_else(|_| super::refused(Reason::Busy));
            (channel, answer)
        });
        self.answering.push(answered.boxed());
    }

    fn respond(&mut self, channel: ResponseChannel<Response>, answer: Answer) {
        let response = Response { body: Some(answer) };
        let requests = &mut self.swarm.behaviour_mut().requests;
        // Who asked is gone, or has waited long enough: it asks again if it wants to know.
        requests.send_response(channel, response).ok();
    }

    fn handle_answer(
        &mut self,
        by: (PeerId, swarm::ConnectionId),
        id: OutboundRequestId,
        answered: Result<Answer, AskError>,
        now: Instant,
    ) {
        match self.open.remove(&id) {
            Some(Open::Hello) => self.handle_greeting(by, answered, now),
            Some(Open::Asked {
                kind,
                since,
                answer,
            }) => {
                let seconds = now.saturating_duration_since(since).as_secs_f64();
                self.metrics.rpc(kind, super::result(&answered), seconds);
                // Nobody may want to know any more.
                answer.send(answered).ok();
            }
            None => {}
        }
    }

    /// A relay is another process than the one that was here, be the connection to that one still open: it has left, and this one,
    /// which said so by `connection`, has come.
    fn replace(&mut self, relay: RelayId, connection: swarm::ConnectionId, now: Instant) {
        let Some(member) = self.members.lose(relay, now) else {
            return;
        };
        tracing::info!(?relay, name = member.name, "relay has begun anew");
        self.publish();
        let Some(ips) = self.remote_ips.get_mut(&peer_id(relay)) else {
            return;
        };
        // Nothing that the old one has said is heard any more, and nothing is asked where nobody answers.
        for (id, ip) in std::mem::take(ips) {
            if id == connection {
                ips.insert(id, ip);
            } else {
                self.swarm.close_connection(id);
            }
        }
    }

    /// It is left, but not before it can have heard why: what is said at a connection's end is lost with it.
    fn shun(&mut self, peer: PeerId, now: Instant) {
        self.unwelcome.entry(peer).or_insert(now + HELLO_EVERY);
    }

    fn part_from(&mut self, peer: PeerId) {
        self.unwelcome.remove(&peer);
        // Not connected any more: all the better.
        self.swarm.disconnect_peer_id(peer).ok();
    }

    /// Tells the rest of the relay who is here.
    fn publish(&self) {
        let neighbours = self.members.neighbours(|relay| self.legs.leg(relay));
        let heard = neighbours.heard();
        self.metrics.mesh(heard, neighbours.0.len() - heard);
        self.work.neighbours.send_replace(neighbours);
    }
}

fn swarm(me: RelayId, secure: Secure, reach: Reach) -> Swarm<Behaviour> {
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

/// Who is where, and nothing else: it keeps no records, and takes in whom [`Members`] has.
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
fn listen(swarm: &mut Swarm<Behaviour>, at: SocketAddr) -> io::Result<SocketAddr> {
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

fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

pub(super) fn socket_addr(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match (parts.next(), parts.next()) {
        (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port))) => (IpAddr::V4(ip), port),
        (Some(Protocol::Ip6(ip)), Some(Protocol::Tcp(port))) => (ip.to_canonical(), port),
        _ => return None,
    };
    Some(SocketAddr::from(ip))
}

fn remote(endpoint: &ConnectedPoint) -> &Multiaddr {
    match endpoint {
        ConnectedPoint::Dialer { address, .. } => address,
        ConnectedPoint::Listener { send_back_addr, .. } => send_back_addr,
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
